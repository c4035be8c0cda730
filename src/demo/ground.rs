//! Where the demo takes place: a folder, ports and names of its own, so that no other stack is
//! touched.

use crate::adapters::process::Signal;
use crate::config::{Database, Loaded, Ports, Repository};
use crate::error::{Context, Result};
use crate::stack::Stack;
use std::net::TcpListener;
use std::path::Path;
use tempfile::TempDir;

/// Seconds to wait for health, unless configured. A first try is no place to be strict: the host may
/// be slow, or busy with the build that came before.
const HEALTH_TIMEOUT: u64 = 240;

/// A scratch stack in a scratch folder, which is removed when this is dropped.
#[derive(Debug)]
pub(super) struct Ground {
    folder: TempDir,
    /// The stack; nothing of it exists yet.
    pub stack: Stack,
}

impl Ground {
    /// A new folder below `parent`, or below the system's temporary folder. Of the configuration
    /// only what says how to run a server is taken over, not where its data is.
    pub(super) fn new(loaded: &Loaded, parent: Option<&Path>) -> Result<Self> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_path_buf);
        std::fs::create_dir_all(&parent)
            .context(|| format!("folder {} cannot be created", parent.display()))?;
        let parent = parent
            .canonicalize()
            .context(|| format!("folder {} cannot be used", parent.display()))?;
        let folder = tempfile::Builder::new()
            .prefix("k1ops-demo-")
            .tempdir_in(&parent)
            .context(|| format!("no folder can be created in {}", parent.display()))?;
        let name = folder
            .path()
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().to_lowercase());
        let mut loaded = loaded.clone();
        let base = std::mem::replace(&mut loaded.base, folder.path().to_path_buf());
        "demo".clone_into(&mut loaded.home_stack);
        "demo".clone_into(&mut loaded.config.stack);
        // Containers and volumes are the host's, so their names tell demos apart.
        loaded.config.docker.prefix = name;
        loaded.config.ports = free_ports()?;
        let config = &mut loaded.config;
        config.repository = Repository::default();
        config.database = Database {
            pg_dump: config.database.pg_dump.clone(),
            ..Database::default()
        };
        if config.server.health_timeout == 0 {
            config.server.health_timeout = HEALTH_TIMEOUT;
        }
        for program in [
            &mut config.server.jar,
            &mut config.server.java,
            &mut config.database.pg_dump,
        ] {
            if !program.as_os_str().is_empty() {
                *program = base.join(&program);
            }
        }
        Ok(Self {
            stack: Stack::open(&loaded)?,
            folder,
        })
    }

    /// Leaves the folder where it is, also when this is dropped.
    pub(super) fn keep(&mut self) {
        self.folder.disable_cleanup(true);
    }
}

impl Drop for Ground {
    /// Only where the demo was abandoned, on a second Ctrl-C, does a server still run here; nothing
    /// would ever stop it.
    fn drop(&mut self) {
        if let Ok(Some(server)) = super::stage::server(&self.stack) {
            let _ = server.signal(Signal::KILL);
        }
    }
}

/// Ports that nobody listens on.
fn free_ports() -> Result<Ports> {
    let cannot = || "no free port can be found on 127.0.0.1";
    // All are held until all are known, so that they differ.
    let mut held = Vec::new();
    let mut ports = [0; 4];
    for port in &mut ports {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context(cannot)?;
        *port = listener.local_addr().context(cannot)?.port();
        held.push(listener);
    }
    let [conductor, postgres, redis, elasticsearch] = ports;
    Ok(Ports {
        conductor,
        postgres,
        redis,
        elasticsearch,
    })
}
