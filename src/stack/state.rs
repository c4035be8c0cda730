//! What is remembered of the server that was started last, so that later runs find it again.
//!
//! The file is written before the server begins and removed after it has ended. A crash of the
//! host or a `kill -9` of the server leaves it behind: then it is *stale*, and is recognised so.

use super::{Stack, Tier};
use crate::adapters::fs;
use crate::adapters::process::Identity;
use crate::conductor::Client;
use crate::error::{Context, Error, Result};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How the server's code was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartMode {
    /// `java -jar` with the boot JAR as it is.
    Plain,
    /// The extracted JAR.
    Extracted,
    /// The extracted JAR and an archive of loaded classes (class data sharing).
    Cds,
    /// The extracted JAR and an ahead-of-time cache.
    Aot,
}

impl StartMode {
    /// In words.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Extracted => "extracted JAR",
            Self::Cds => "extracted JAR and class archive",
            Self::Aot => "extracted JAR and AOT cache",
        }
    }
}

/// Where a server keeps its data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Store {
    /// An `SQLite` file.
    Sqlite {
        /// The file.
        path: PathBuf,
    },
    /// A `PostgreSQL` database.
    Postgres {
        /// Its URL without the password.
        url: String,
    },
}

impl Store {
    /// Where it is.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::Sqlite { path } => path.display().to_string(),
            Self::Postgres { url } => url.clone(),
        }
    }
}

/// A server that was started on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerState {
    /// The tier it belongs to.
    pub tier: Tier,
    /// Its process.
    pub process: Identity,
    /// The port it listens on, on 127.0.0.1.
    pub port: u16,
    /// Conductor's version.
    pub conductor_version: String,
    /// The JAR it runs from.
    pub jar: PathBuf,
    /// Java's version.
    pub java_version: String,
    /// The `java` that runs it.
    pub java: PathBuf,
    /// How its code was loaded.
    pub mode: StartMode,
    /// When it was started.
    pub started_at: DateTime<Utc>,
    /// Where it keeps its data.
    pub store: Store,
}

/// What the state file says, checked against the processes of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remembered {
    /// No server was started, or it was stopped.
    Nothing,
    /// This server runs.
    Running(Box<ServerState>),
    /// This server ended without `k1ops stop`.
    Stale(Box<ServerState>),
}

impl ServerState {
    /// The server's address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Remembers this server.
    pub fn write(&self, stack: &Stack) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self)
            .context(|| "the server's state cannot be written as JSON")?;
        text.push(b'\n');
        fs::write_atomically(&stack.server_state(), &text)
    }

    /// Reads what is remembered and looks whether it still runs.
    pub fn read(stack: &Stack) -> Result<Remembered> {
        let path = stack.server_state();
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Remembered::Nothing),
            Err(e) => return Err(e).context(|| format!("{} cannot be read", path.display())),
        };
        let state: Box<Self> = serde_json::from_slice(&text).map_err(|e| {
            Error::bad_data(format!("{} is not a server state", path.display()))
                .because(e)
                .hint("Stop any server of this stack by hand, remove the file and start again.")
        })?;
        Ok(if state.process.is_alive_and_stays() {
            Remembered::Running(state)
        } else {
            Remembered::Stale(state)
        })
    }

    /// Forgets the server that was started last.
    pub fn forget(stack: &Stack) -> Result<()> {
        fs::remove_if_there(&stack.server_state())
    }
}

impl Stack {
    /// Where the stack's Conductor answers, or will answer when it is started.
    pub fn conductor_url(&self) -> Result<String> {
        if let Remembered::Running(state) = ServerState::read(self)? {
            return Ok(state.url());
        }
        if self.last_tier()? == Some(Tier::Docker) {
            return Ok(super::docker::Deployment::of(self)?.url());
        }
        Ok(format!("http://127.0.0.1:{}", self.config.ports.conductor))
    }

    /// A client for the stack's Conductor, with the token that a gateway before it asks for.
    pub fn conductor(&self) -> Result<Client> {
        self.conductor_at(&self.conductor_url()?)
    }

    /// The same at another address.
    pub fn conductor_at(&self, url: &str) -> Result<Client> {
        super::docker::Deployment::of(self)?.client_at(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn state(process: Identity) -> ServerState {
        ServerState {
            tier: Tier::Jar,
            process,
            port: 1,
            conductor_version: "3.32.1".into(),
            jar: "/j".into(),
            java_version: "25".into(),
            java: "/java".into(),
            mode: StartMode::Plain,
            started_at: Utc::now(),
            store: Store::Sqlite { path: "/d".into() },
        }
    }

    #[test]
    fn a_reused_pid_is_stale_and_garbage_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let stack = Stack {
            name: "k1".into(),
            config: Config::default(),
            base: folder.path().into(),
            folder: folder.path().join(".conductor"),
        };
        assert_eq!(ServerState::read(&stack).unwrap(), Remembered::Nothing);
        let me = Identity::of(std::process::id()).unwrap();
        state(me.clone()).write(&stack).unwrap();
        let running = ServerState::read(&stack).unwrap();
        assert!(matches!(running, Remembered::Running(_)), "{running:?}");
        let mut earlier = me;
        earlier.start_ticks -= 1;
        state(earlier).write(&stack).unwrap();
        let stale = ServerState::read(&stack).unwrap();
        assert!(matches!(stale, Remembered::Stale(_)), "{stale:?}");
        std::fs::write(stack.server_state(), "{").unwrap();
        assert!(ServerState::read(&stack).is_err());
        ServerState::forget(&stack).unwrap();
        assert_eq!(ServerState::read(&stack).unwrap(), Remembered::Nothing);
    }
}
