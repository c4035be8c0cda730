//! The user's cache: boot JARs, what was verified of them, and what makes starts fast. Everything
//! in it can be made again; nothing in it belongs to one stack.

use crate::adapters::fs;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// The cache's folder.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// `K1OPS_CACHE`, or `k1ops` in the user's cache folder.
    pub fn open() -> Result<Self> {
        let set = |name: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let root = set("K1OPS_CACHE")
            .or_else(|| set("XDG_CACHE_HOME").map(|folder| folder.join("k1ops")))
            .or_else(|| set("HOME").map(|home| home.join(".cache/k1ops")))
            .ok_or_else(|| {
                Error::missing("no folder for the cache is known")
                    .hint("Set K1OPS_CACHE to a folder, or HOME.")
            })?;
        // A JVM that runs elsewhere must be given whole paths.
        let root = std::path::absolute(&root).unwrap_or(root);
        Ok(Self::at(root))
    }

    /// A cache in this folder.
    #[must_use]
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where fetched boot JARs are.
    pub fn jars(&self) -> Result<PathBuf> {
        let folder = self.root.join("jars");
        fs::create_private_folder(&folder)?;
        Ok(folder)
    }

    /// The fetched boot JAR of a Conductor version.
    #[must_use]
    pub fn jar(&self, version: &str) -> PathBuf {
        self.root
            .join("jars")
            .join(format!("conductor-server-{version}-boot.jar"))
    }

    /// What was verified of JARs, wherever they are.
    #[must_use]
    pub fn verified(&self) -> PathBuf {
        self.root.join("verified.json")
    }

    /// Where what makes starts fast is kept.
    #[must_use]
    pub fn fast_start(&self) -> PathBuf {
        self.root.join("fast-start")
    }
}
