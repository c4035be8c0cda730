//! Where the demo takes place: a folder, ports and names of its own, so that no other stack is
//! touched.

use crate::config::{Database, Loaded, Ports, Repository};
use crate::error::{Context, Result};
use crate::stack::Stack;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

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
        loaded.base = folder.path().to_path_buf();
        loaded.home_stack.clone_from(&name);
        loaded.config.docker.prefix.clone_from(&name);
        loaded.config.stack = name;
        loaded.config.ports = free_ports()?;
        loaded.config.database = Database::default();
        loaded.config.repository = Repository::default();
        Ok(Self {
            stack: Stack::open(&loaded)?,
            folder,
        })
    }

    /// Leaves the folder where it is.
    pub(super) fn keep(self) -> PathBuf {
        self.folder.keep()
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
