//! The digests of big files, remembered until they change: hashing 458 MB at every start would
//! cost more than the start saves.

use super::cache::Cache;
use crate::adapters::fs;
use crate::error::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What changes whenever a file's content does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Bytes.
    pub size: u64,
    /// Seconds and nanoseconds of the last change of the content.
    pub modified: (i64, i64),
    /// Seconds and nanoseconds of the last change of anything; cannot be set back.
    pub changed: (i64, i64),
    /// The inode.
    pub inode: u64,
}

impl Stamp {
    /// The file's present stamp.
    pub fn of(path: &Path) -> Result<Self> {
        let meta =
            std::fs::metadata(path).context(|| format!("{} cannot be read", path.display()))?;
        Ok(Self {
            size: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            inode: meta.ino(),
        })
    }
}

/// How a file is digested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// SHA-256.
    Sha256,
    /// SHA-1, which some repositories know only. It tells of damage, not of malice.
    Sha1,
}

impl Algorithm {
    /// The name, as people write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "SHA-256",
            Self::Sha1 => "SHA-1",
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    stamp: Stamp,
    digests: BTreeMap<Algorithm, String>,
}

type Entries = BTreeMap<PathBuf, Entry>;

/// The file's digest in hex, from memory if the file is the one that was digested.
pub fn digest(cache: &Cache, path: &Path, algorithm: Algorithm) -> Result<String> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let stamp = Stamp::of(&path)?;
    let mut entries = read(cache);
    entries.retain(|path, _| path.exists());
    let entry = entries.entry(path.clone()).or_insert_with(|| Entry {
        stamp: stamp.clone(),
        digests: BTreeMap::new(),
    });
    if entry.stamp != stamp {
        entry.digests.clear();
        entry.stamp = stamp.clone();
    }
    if let Some(digest) = entry.digests.get(&algorithm) {
        return Ok(digest.clone());
    }
    let digest = match algorithm {
        Algorithm::Sha256 => hash::<Sha256>(&path)?,
        Algorithm::Sha1 => hash::<sha1::Sha1>(&path)?,
    };
    entry.digests.insert(algorithm, digest.clone());
    // A file that was written to meanwhile is digested again the next time.
    if Stamp::of(&path)? == stamp {
        remember(cache, &entries);
    }
    Ok(digest)
}

/// The digest of a file in hex.
fn hash<D: Digest>(path: &Path) -> Result<String> {
    let cannot = || format!("{} cannot be read", path.display());
    let mut file = std::fs::File::open(path).context(cannot)?;
    let mut digest = D::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).context(cannot)? {
            0 => return Ok(hex::encode(digest.finalize())),
            n => digest.update(&buffer[..n]),
        }
    }
}

/// What cannot be read was not remembered.
fn read(cache: &Cache) -> Entries {
    std::fs::read(cache.verified())
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default()
}

/// A memory that cannot be kept costs time, never correctness.
fn remember(cache: &Cache, entries: &Entries) {
    let written = serde_json::to_vec_pretty(entries)
        .context(|| "the verified files cannot be written as JSON")
        .and_then(|text| fs::write_atomically(&cache.verified(), &text));
    if let Err(error) = written {
        tracing::warn!(%error, "verified files are not remembered");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sha256(cache: &Cache, path: &Path) -> Result<String> {
        digest(cache, path, Algorithm::Sha256)
    }

    #[test]
    fn a_changed_file_is_hashed_again() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().join("cache"));
        let path = folder.path().join("x.jar");
        std::fs::write(&path, "one").unwrap();
        let one = sha256(&cache, &path).unwrap();
        assert_eq!(one, hex::encode(Sha256::digest("one")));
        // What is remembered is used: a false memory shows.
        let text = std::fs::read_to_string(cache.verified()).unwrap();
        std::fs::write(cache.verified(), text.replace(&one, "remembered")).unwrap();
        assert_eq!(sha256(&cache, &path).unwrap(), "remembered");
        // Same size, same modification time; only the change time tells.
        let before = std::fs::metadata(&path).unwrap().modified().unwrap();
        std::fs::write(&path, "two").unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(before).unwrap();
        assert_eq!(
            sha256(&cache, &path).unwrap(),
            hex::encode(Sha256::digest("two"))
        );
        std::fs::write(cache.verified(), "not json").unwrap();
        assert_ne!(sha256(&cache, &path).unwrap(), one);
    }
}
