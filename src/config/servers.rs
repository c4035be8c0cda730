//! Servers that are not the stack's own, and are named by URL.

use super::{Config, Secret};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A `PostgreSQL` that is not the stack's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Database {
    /// `postgres://user@host:port/name`; empty: the tier's own store.
    pub url: Secret,
    /// A hot standby of that server, which backups read in its place; empty: none.
    pub standby: Secret,
    /// A file that holds the password (mode 0600), if a URL has none.
    pub password_file: PathBuf,
    /// Where `pg_dump` of the server's major version lives; empty: find it.
    pub pg_dump: PathBuf,
}

/// A Redis that is not the stack's own: the lock in it keeps servers of several hosts, which share
/// `database.url`, from deciding one workflow at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Redis {
    /// `redis://user@host:port`, or `rediss://` for TLS; empty: this host's server is the only one.
    pub url: Secret,
    /// A file that holds the password (mode 0600), if the URL has none.
    pub password_file: PathBuf,
}

impl Config {
    /// Those that are named, or could be, each with its key.
    #[must_use]
    pub fn servers_by_url(&self) -> [(&'static str, &Secret); 3] {
        [
            ("database.url", &self.database.url),
            ("database.standby", &self.database.standby),
            ("redis.url", &self.redis.url),
        ]
    }
}
