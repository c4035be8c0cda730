//! A stack: one K1 Conductor installation, and where everything that belongs to it lives.
//!
//! This module knows paths and which store holds the data; the modules below it start, stop and
//! look after what runs. Backing up and restoring is not known here.

mod direct;
pub mod docker;
pub mod jar;
mod ports;
mod scratch;
mod start;
pub mod state;
mod status;
mod stop;
pub mod tier;

pub use ports::free_ports;
pub use scratch::{ScratchStack, server_of};
pub use start::{Outcome, Prepare, StartOptions, StartReport, StartedServer, start};
pub use state::{Remembered, ServerState};
pub use status::{LastBackup, RunningServer, ServerStatus, Status, StoreStatus, status};
pub use stop::{
    StopReport, server_runs, stop, stop_locked, stop_server_locked, stop_services_locked, take_back,
};

use crate::config::{Config, Loaded, Repository};
use crate::error::Result;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The way a stack runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Tier 1: Compose with `PostgreSQL`, Redis and optionally Elasticsearch.
    Docker,
    /// Tier 2: the Conductor JAR on this host.
    Jar,
    /// Tier 3: agents run without Conductor.
    Direct,
}

impl Tier {
    /// The tier's name, as `--tier` takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Jar => "jar",
            Self::Direct => "direct",
        }
    }

    /// The tier's number in the guide.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Docker => 1,
            Self::Jar => 2,
            Self::Direct => 3,
        }
    }
}

/// One stack's configuration and paths.
#[derive(Debug, Clone)]
pub struct Stack {
    /// The stack's name.
    pub name: String,
    /// Its configuration.
    pub config: Config,
    /// The folder that relative paths of the configuration belong to.
    pub base: PathBuf,
    /// The stack's own folder: `.conductor`, or `.conductor/stacks/NAME` for a further stack.
    pub folder: PathBuf,
}

impl Stack {
    /// The stack that a configuration describes, with the `PostgreSQL` of tier 1 as its database if
    /// it ran on that tier last. Creates nothing.
    pub fn open(loaded: &Loaded) -> Result<Self> {
        let name = loaded.config.stack.clone();
        let root = loaded.base.join(".conductor");
        let folder = if name == loaded.home_stack {
            root
        } else {
            root.join("stacks").join(&name)
        };
        let mut stack = Self {
            name,
            config: loaded.config.clone(),
            base: loaded.base.clone(),
            folder,
        };
        if !stack.uses_database_url() && stack.last_tier()? == Some(Tier::Docker) {
            stack = stack.in_docker()?;
        }
        Ok(stack)
    }

    /// The same stack with the `PostgreSQL` of tier 1 as its database.
    pub fn in_docker(&self) -> Result<Self> {
        let mut stack = self.clone();
        stack.config.database = docker::Deployment::of(self)?.database_config();
        Ok(stack)
    }

    /// The same stack with its archives in another repository.
    #[must_use]
    pub fn with_repository(&self, repository: Repository) -> Self {
        let mut stack = self.clone();
        stack.config.repository = repository;
        stack
    }

    /// Conductor's own `SQLite` database (tier 2).
    #[must_use]
    pub fn conductor_db(&self) -> PathBuf {
        self.folder.join("data").join("conductor.db")
    }

    /// The `SQLite` database of the K1 tables (tiers 2 and 3).
    #[must_use]
    pub fn k1_db(&self) -> PathBuf {
        self.folder.join("data").join("k1.db")
    }

    /// The server's log.
    #[must_use]
    pub fn server_log(&self) -> PathBuf {
        self.folder.join("logs").join("conductor-server.log")
    }

    /// What is known of the server that was started last (tier 2).
    #[must_use]
    pub fn server_state(&self) -> PathBuf {
        self.folder.join("run").join("server.json")
    }

    /// Locks, by what they protect.
    #[must_use]
    pub fn lock_file(&self, what: &str) -> PathBuf {
        self.folder.join("run").join(format!("{what}.lock"))
    }

    /// Where restores note what they are doing, and where the old data is kept for `undo`.
    #[must_use]
    pub fn restores(&self) -> PathBuf {
        self.folder.join("restores")
    }

    /// Where archives are kept: a folder, or the address of one in an object store.
    #[must_use]
    pub fn repository(&self) -> PathBuf {
        let url = &self.config.repository.url;
        if !url.is_empty() {
            return PathBuf::from(url.to_string().trim_end_matches('/'));
        }
        let path = &self.config.repository.path;
        if path.as_os_str().is_empty() {
            self.folder.join("backups")
        } else {
            self.base.join(path)
        }
    }

    /// The folder of this host that the write-ahead log is received into, wherever archives are kept.
    #[must_use]
    pub fn log_folder(&self) -> PathBuf {
        let own = || self.folder.join("backups");
        self.repository_folder().unwrap_or_else(own)
    }

    /// The folder that archives are kept in, if they are kept on this host.
    #[must_use]
    pub fn repository_folder(&self) -> Option<PathBuf> {
        self.config
            .repository
            .url
            .is_empty()
            .then(|| self.repository())
    }

    /// The data lives in the volumes of tier 1.
    pub fn is_in_docker(&self) -> Result<bool> {
        let own = docker::Secrets::postgres_file(&self.docker_folder());
        Ok(self.config.database.password_file == own)
    }

    /// The data lives in a `PostgreSQL` that the configuration names by URL, or in that of tier 1.
    #[must_use]
    pub fn uses_database_url(&self) -> bool {
        !self.config.database.url.is_empty()
    }
}
