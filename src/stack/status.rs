//! How a stack is: what runs, whether it is well, and where its data is.

use super::docker::{self, DockerStatus};
use super::state::{Remembered, ServerState, StartMode, Store};
use super::{Stack, Tier, jar};
use crate::adapters::docker::Engine;
use crate::adapters::postgres::{Address, Session};
use crate::adapters::redis;
use crate::conductor::Client;
use crate::conductor::health::{self, Health};
use crate::config::Secret;
use crate::error::{Error, Result};
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a store may take to say its size.
const SIZING: Duration = Duration::from_secs(5);

/// How a stack is.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The stack's name.
    pub stack: String,
    /// The stack's own folder.
    pub folder: PathBuf,
    /// k1ops's version.
    pub k1ops_version: &'static str,
    /// What runs.
    pub server: ServerStatus,
    /// The containers of tier 1, if there are any on this host.
    pub docker: Option<DockerStatus>,
    /// Why the containers could not be looked at, although the stack ran on tier 1 last.
    pub docker_problem: Option<String>,
    /// Where the data is, also while nothing runs.
    pub store: StoreStatus,
    /// Another store of this stack that holds data of its own, which the running tier does not see.
    pub other_store: Option<StoreStatus>,
    /// The server's log.
    pub log: PathBuf,
    /// The last good backup. Backups are not known here: whoever shows the status fills it in.
    pub last_backup: Option<LastBackup>,
    /// What a restore that was broken off left to do, filled in likewise.
    pub unfinished_restore: Option<String>,
}

/// A backup that was completed.
#[derive(Debug, Clone, Serialize)]
pub struct LastBackup {
    /// The archive.
    pub path: PathBuf,
    /// When it was begun.
    pub taken_at: DateTime<Utc>,
    /// It holds the data directory of the server and no rows.
    pub physical: bool,
}

/// What runs.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum ServerStatus {
    /// Nothing, and that is as it was left.
    Stopped,
    /// Nothing, although it was not stopped: it died, or the host went down.
    Stale {
        /// The process ID it had.
        pid: u32,
        /// When it was started.
        started_at: DateTime<Utc>,
    },
    /// A server.
    Running(Box<RunningServer>),
}

/// A server that runs.
#[derive(Debug, Clone, Serialize)]
pub struct RunningServer {
    /// Its tier.
    pub tier: Tier,
    /// Its health.
    pub health: Health,
    /// Its process ID.
    pub pid: u32,
    /// Its address.
    pub url: String,
    /// Its port.
    pub port: u16,
    /// When it was started.
    pub started_at: DateTime<Utc>,
    /// Seconds since then.
    pub uptime_seconds: i64,
    /// Resident memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Conductor's version.
    pub conductor_version: String,
    /// Java's version.
    pub java_version: String,
    /// The `java` that runs it.
    pub java: PathBuf,
    /// The JAR it runs from.
    pub jar: PathBuf,
    /// How its code was loaded.
    pub mode: StartMode,
}

/// Where the data is.
#[derive(Debug, Clone, Serialize)]
pub struct StoreStatus {
    /// The store.
    #[serde(flatten)]
    pub store: Store,
    /// Its size in bytes, with what waits to be merged into it; `None` if it cannot be read.
    pub size_bytes: Option<u64>,
}

impl Status {
    /// Whether a server runs and is well.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        let tier_2 = matches!(&self.server, ServerStatus::Running(server) if server.health.is_up());
        tier_2 || self.docker.as_ref().is_some_and(DockerStatus::is_healthy)
    }
}

/// Looks how the stack is. Takes no lock and changes nothing.
pub async fn status(stack: &Stack) -> Result<Status> {
    let plain = &stack.without_docker_database();
    let (server, jar_store) = match ServerState::read(stack)? {
        Remembered::Nothing => (ServerStatus::Stopped, configured_store(plain)),
        Remembered::Stale(state) => (
            ServerStatus::Stale {
                pid: state.process.pid,
                started_at: state.started_at,
            },
            state.store,
        ),
        Remembered::Running(state) => {
            let running = running(&state).await?;
            (ServerStatus::Running(Box::new(running)), state.store)
        }
    };
    let (docker, docker_problem) = containers(stack).await?;
    let jar_store = StoreStatus {
        size_bytes: size_of(plain, &jar_store).await,
        store: jar_store,
    };
    let docker_store = docker_store(stack, docker.as_ref())?;
    let runs_in_docker = docker.as_ref().is_some_and(DockerStatus::is_running);
    let was_in_docker = stack.last_tier()? == Some(Tier::Docker);
    let tier_2_runs = matches!(server, ServerStatus::Running(_));
    let (store, other) = match docker_store {
        Some(docker) if !tier_2_runs && (runs_in_docker || was_in_docker) => {
            (docker, Some(jar_store).filter(|s| s.size_bytes.is_some()))
        }
        docker => (jar_store, docker),
    };
    Ok(Status {
        stack: stack.name.clone(),
        folder: stack.folder.clone(),
        k1ops_version: env!("CARGO_PKG_VERSION"),
        server,
        docker,
        docker_problem,
        store,
        other_store: other,
        log: stack.server_log(),
        last_backup: None,
        unfinished_restore: None,
    })
}

/// The containers, if there are any; and why that is not known, where it matters.
async fn containers(stack: &Stack) -> Result<(Option<DockerStatus>, Option<String>)> {
    let looked = match Engine::find().await {
        Ok(engine) => docker::status(stack, &engine, true).await,
        Err(error) => Err(error),
    };
    Ok(match looked {
        Ok(docker) if docker.services.is_empty() && !docker.has_data() => (None, None),
        Ok(docker) => (Some(docker), None),
        Err(error) if stack.last_tier()? == Some(Tier::Docker) => (None, Some(error.to_string())),
        Err(error) => {
            tracing::debug!(%error, "Docker is not looked at");
            (None, None)
        }
    })
}

/// The database of tier 1, if its volume is there. Its size is the volume's: it can be told while
/// nothing runs.
fn docker_store(stack: &Stack, docker: Option<&DockerStatus>) -> Result<Option<StoreStatus>> {
    let deployment = docker::Deployment::of(stack)?;
    let name = deployment.volume(docker::Service::Postgres);
    let volume = docker.and_then(|docker| docker.volumes.iter().find(|v| v.name == name));
    Ok(volume.map(|volume| StoreStatus {
        store: Store::Postgres {
            url: deployment.database_url(),
        },
        size_bytes: volume.size_bytes,
    }))
}

async fn running(state: &ServerState) -> Result<RunningServer> {
    let client = Client::new(state.url())?;
    Ok(RunningServer {
        tier: state.tier,
        health: health::check(&client, jar::ANSWER).await,
        pid: state.process.pid,
        url: state.url(),
        port: state.port,
        started_at: state.started_at,
        uptime_seconds: (Utc::now() - state.started_at).num_seconds(),
        memory_bytes: state.process.resident(),
        conductor_version: state.conductor_version.clone(),
        java_version: state.java_version.clone(),
        java: state.java.clone(),
        jar: state.jar.clone(),
        mode: state.mode,
    })
}

/// Where the stack would keep its data if it were started now.
fn configured_store(stack: &Stack) -> Store {
    if stack.uses_database_url() {
        Store::Postgres {
            url: stack.config.database.url.to_string(),
        }
    } else {
        Store::Sqlite {
            path: stack.conductor_db(),
        }
    }
}

async fn size_of(stack: &Stack, store: &Store) -> Option<u64> {
    match store {
        Store::Sqlite { path } => sqlite_size(path),
        Store::Postgres { .. } => tokio::time::timeout(SIZING, postgres_size(stack))
            .await
            .ok()?
            .inspect_err(|error| tracing::debug!(%error, "the store's size is not known"))
            .ok(),
    }
}

fn sqlite_size(path: &Path) -> Option<u64> {
    let size = |suffix: &str| {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        std::fs::metadata(file).ok().map(|meta| meta.len())
    };
    Some(size("")? + size("-wal").unwrap_or(0))
}

async fn postgres_size(stack: &Stack) -> Result<u64> {
    let session = Session::open(&stack.database_address()?).await?;
    let row = session
        .query_one("SELECT pg_database_size(current_database())", &[])
        .await
        .map_err(|error| Error::failed("the size is not told").because(error))?;
    Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
}

impl Stack {
    /// The address of the `PostgreSQL` that the configuration names, with its password.
    pub fn database_address(&self) -> Result<Address> {
        self.address_of(&self.config.database.url)
    }

    /// The address of its standby, if the configuration names one.
    pub fn standby_address(&self) -> Result<Option<Address>> {
        let url = &self.config.database.standby;
        if url.is_empty() {
            return Ok(None);
        }
        let (primary, standby) = (self.database_address()?, self.address_of(url)?);
        if primary.database() == standby.database() {
            return Ok(Some(standby));
        }
        Err(Error::usage(format!(
            "database.standby names database {:?}, and database.url {:?}",
            standby.database(),
            primary.database()
        ))
        .hint("A standby has the databases of its primary: let both name the same one."))
    }

    fn address_of(&self, url: &Secret) -> Result<Address> {
        let file = self.password_file(&self.config.database.password_file);
        if self.has_docker_database() {
            return docker::Deployment::of(self)?.reached(url, file.as_deref());
        }
        Address::parse(url, file.as_deref())
    }

    /// The Redis that the configuration names, with its password; none if it names none.
    pub fn redis_address(&self) -> Result<Option<redis::Address>> {
        let named = &self.config.redis;
        if named.url.is_empty() {
            return Ok(None);
        }
        let file = self.password_file(&named.password_file);
        redis::Address::parse(&named.url, file.as_deref()).map(Some)
    }

    /// Where a password file is that the configuration names, if it names one.
    fn password_file(&self, named: &Path) -> Option<PathBuf> {
        (!named.as_os_str().is_empty()).then(|| self.base.join(named))
    }
}
