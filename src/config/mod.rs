//! What the user set: `k1ops.toml`, `K1OPS_*` and flags, resolved into one typed value.
//!
//! Flags beat the environment, which beats the file, which beats the defaults. The typed structs
//! here are the only list of keys: defaults, environment names and "did you mean" all come from it.

mod layers;
mod redact;

pub use layers::{Explained, FILE_NAME, Loaded, Origin, Overrides, load};
pub use redact::{Secret, redact_url};

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Which way of running the stack is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TierChoice {
    /// The best the host has: docker, then jar, then direct.
    #[default]
    Auto,
    /// Tier 1: Compose with PostgreSQL, Redis and optionally Elasticsearch.
    Docker,
    /// Tier 2: the Conductor JAR on this host.
    Jar,
    /// Tier 3: agents run without Conductor.
    Direct,
}

/// Everything that can be configured, with its defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The stack's name.
    pub stack: String,
    /// Which tier to start.
    pub tier: TierChoice,
    /// Ports, all on 127.0.0.1.
    pub ports: Ports,
    /// The Conductor server.
    pub server: Server,
    /// Where Conductor and K1 keep their data, if not in the stack's own store.
    pub database: Database,
    /// The Docker tier.
    pub docker: Docker,
    /// Where archives are kept.
    pub repository: Repository,
    /// How backups are made.
    pub backup: Backup,
}

/// Host ports of the stack's services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ports {
    /// Conductor's API.
    pub conductor: u16,
    /// `PostgreSQL` (docker tier).
    pub postgres: u16,
    /// Redis (docker tier).
    pub redis: u16,
    /// Elasticsearch (docker tier, if enabled).
    pub elasticsearch: u16,
}

/// The Conductor server, in whichever tier it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Conductor's version.
    pub version: String,
    /// A boot JAR to use as it is; empty: find or fetch one.
    pub jar: PathBuf,
    /// The boot JAR's SHA-256 in hex; empty: the known one of `version`.
    pub jar_sha256: String,
    /// Base URLs that serve the JAR in Maven's layout, tried in order.
    pub mirrors: Vec<String>,
    /// A Java home or `java` binary to use; empty: find the newest that fits.
    pub java: PathBuf,
    /// The JVM's maximum heap, as for `-Xmx`.
    pub heap: String,
    /// Seconds to wait for honest health; 0: the tier's own default (docker 90, jar 60).
    pub health_timeout: u64,
    /// Seconds a server may take to stop before it is killed.
    pub stop_timeout: u64,
    /// Start faster from the second start on, by an extracted JAR and an AOT cache.
    pub fast_start: bool,
    /// Further Conductor properties, passed through.
    pub properties: std::collections::BTreeMap<String, String>,
}

/// A `PostgreSQL` that is not the stack's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Database {
    /// `postgres://user@host:port/name`; empty: the tier's own store.
    pub url: Secret,
    /// A file that holds the password (mode 0600), if the URL has none.
    pub password_file: PathBuf,
    /// Where `pg_dump` of the server's major version lives; empty: find it.
    pub pg_dump: PathBuf,
}

/// The Docker tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Docker {
    /// Prefix of container, volume and network names.
    pub prefix: String,
    /// `PostgreSQL`'s image.
    pub postgres_image: String,
    /// Redis's image.
    pub redis_image: String,
    /// Elasticsearch's image.
    pub elasticsearch_image: String,
    /// The Java runtime image that the server image is built from.
    pub java_image: String,
    /// Run Elasticsearch as well.
    pub elasticsearch: bool,
    /// The Compose command, such as `docker-compose`; empty: `docker compose`, else that one.
    pub compose: String,
}

/// Where archives are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Repository {
    /// A folder; empty: `backups` in the stack's folder.
    pub path: PathBuf,
}

/// How backups are made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Backup {
    /// Compression of the archive's members.
    pub compression: Compression,
    /// Compression level; 0: the algorithm's default here (zstd 3, gzip 6).
    pub level: i32,
    /// Connections and compression threads; 0: one for each CPU.
    pub jobs: usize,
}

/// Compression of the archive's members.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Zstandard.
    #[default]
    Zstd,
    /// gzip.
    Gzip,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            stack: "k1".to_owned(),
            tier: TierChoice::Auto,
            ports: Ports::default(),
            server: Server::default(),
            database: Database::default(),
            docker: Docker::default(),
            repository: Repository::default(),
            backup: Backup::default(),
        }
    }
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            conductor: 8080,
            postgres: 5432,
            redis: 6379,
            elasticsearch: 9200,
        }
    }
}

impl Default for Server {
    fn default() -> Self {
        Self {
            version: "3.32.1".to_owned(),
            jar: PathBuf::new(),
            jar_sha256: String::new(),
            mirrors: Vec::new(),
            java: PathBuf::new(),
            heap: "1g".to_owned(),
            health_timeout: 0,
            stop_timeout: 30,
            fast_start: true,
            properties: std::collections::BTreeMap::new(),
        }
    }
}

impl Default for Docker {
    fn default() -> Self {
        Self {
            prefix: "conductor".to_owned(),
            postgres_image: "postgres:15-alpine".to_owned(),
            redis_image: "redis:7-alpine".to_owned(),
            elasticsearch_image: "docker.elastic.co/elasticsearch/elasticsearch:7.17.15".to_owned(),
            java_image: "eclipse-temurin:21-jre".to_owned(),
            elasticsearch: false,
            compose: String::new(),
        }
    }
}

impl Default for Backup {
    fn default() -> Self {
        Self {
            compression: Compression::Zstd,
            level: 0,
            jobs: 0,
        }
    }
}
