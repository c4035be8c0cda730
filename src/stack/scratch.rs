//! A stack for a while: a folder, ports and names of its own, so that no other stack is touched.

use super::{Remembered, ServerState, Stack, free_ports};
use crate::adapters::process::{Identity, Signal};
use crate::config::{Config, Database, Gateway, Repository, Switch};
use crate::error::{Context, Result};
use std::path::Path;
use tempfile::TempDir;

/// Seconds to wait for health, unless configured: the host may be slow, or busy with something else.
const HEALTH_TIMEOUT: u64 = 240;

/// A scratch stack in a scratch folder, which is removed when this is dropped.
#[derive(Debug)]
pub struct ScratchStack {
    folder: TempDir,
    /// The stack; nothing of it exists yet.
    pub stack: Stack,
}

impl ScratchStack {
    /// A stack called `name` in a new folder below `parent`. Of `config`, whose relative paths belong
    /// to `base`, only what says how to run a server is taken over, not where its data is.
    pub fn new(
        config: &Config,
        base: &Path,
        name: &str,
        parent: &Path,
        prefix: &str,
    ) -> Result<Self> {
        std::fs::create_dir_all(parent)
            .context(|| format!("folder {} cannot be created", parent.display()))?;
        let parent = parent
            .canonicalize()
            .context(|| format!("folder {} cannot be used", parent.display()))?;
        let folder = tempfile::Builder::new()
            .prefix(prefix)
            .tempdir_in(&parent)
            .context(|| format!("no folder can be created in {}", parent.display()))?;
        let mut config = config.clone();
        name.clone_into(&mut config.stack);
        // Containers and volumes are the host's, so their names tell scratch stacks apart.
        config.docker.prefix = folder
            .path()
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().to_lowercase());
        // One shows what is to be seen.
        config.docker.servers = 1;
        config.docker.monitoring.run = Switch::Off;
        config.ports = free_ports()?;
        config.repository = Repository::default();
        config.database = Database {
            pg_dump: config.database.pg_dump.clone(),
            ..Database::default()
        };
        // Nobody else reaches it, and a token would be for the other one.
        config.docker.gateway = Gateway::default();
        if config.server.health_timeout == 0 {
            config.server.health_timeout = HEALTH_TIMEOUT;
        }
        for file in [
            &mut config.server.jar,
            &mut config.server.java,
            &mut config.database.pg_dump,
            &mut config.docker.tls.authority,
            &mut config.docker.tls.certificate,
            &mut config.docker.tls.key,
        ] {
            if !file.as_os_str().is_empty() {
                *file = base.join(&file);
            }
        }
        Ok(Self {
            stack: Stack {
                name: name.to_owned(),
                config,
                base: folder.path().to_path_buf(),
                folder: folder.path().join(".conductor"),
            },
            folder,
        })
    }

    /// Leaves the folder where it is, also when this is dropped.
    pub fn keep(&mut self) {
        self.folder.disable_cleanup(true);
    }

    /// What the scratch stack in `folder` is, whose maker was killed, for clearing it away. `like` is a
    /// stack of the same configuration.
    #[must_use]
    pub fn abandoned(folder: &Path, like: &Stack) -> Stack {
        let mut config = like.config.clone();
        config.database = Database::default();
        folder
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().to_lowercase())
            .clone_into(&mut config.docker.prefix);
        Stack {
            name: like.name.clone(),
            config,
            base: folder.to_path_buf(),
            folder: folder.join(".conductor"),
        }
    }
}

/// The server that runs on a stack of the JAR tier now, if one does.
pub fn server_of(stack: &Stack) -> Result<Option<Identity>> {
    Ok(match ServerState::read(stack)? {
        Remembered::Running(state) => Some(state.process),
        Remembered::Stale(_) | Remembered::Nothing => None,
    })
}

impl Drop for ScratchStack {
    /// Only where it was abandoned, on a second Ctrl-C, does a server still run here; nothing would
    /// ever stop it.
    fn drop(&mut self) {
        if let Ok(Some(server)) = server_of(&self.stack) {
            let _ = server.signal(Signal::KILL);
        }
    }
}
