//! A folder of this host.

use super::is_archive;
use super::proof::PROOFS;
use super::shelf::{Granted, Guard, Item, Shelf, Writing};
use crate::adapters::fs::{self, Lock};
use crate::adapters::storage::{self, NewFile, ReadAt, Sink};
use crate::archive::PARTIAL_SUFFIX;
use crate::error::{Context, Error, ErrorKind, Result};
use chrono::{DateTime, Utc};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long to wait for another process that writes a note.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// It takes a moment only, and not the repository's lock: an archive may be read while a backup
    /// is written.
    fn lock_proofs(&self) -> Result<Lock> {
        let begun = Instant::now();
        loop {
            let file = self.0.join(PROOFS).join(".lock");
            match Lock::exclusive(&file, "noting what was found out") {
                Err(error) if error.kind() == ErrorKind::Locked && begun.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                other => return other,
            }
        }
    }

    /// Notes that were never finished being written: their run died over them.
    fn remove_unfinished_notes(&self) -> Result<()> {
        let proofs = self.0.join(PROOFS);
        if proofs.is_dir() {
            let _lock = self.lock_proofs()?;
            fs::remove_half_written(&proofs, Duration::ZERO)?;
        }
        fs::remove_half_written(&self.0, Duration::ZERO)
    }

    fn lock_file(&self) -> PathBuf {
        self.0.join(".lock")
    }
}

impl Writing for Lock {
    /// It lasts as long as it is held.
    fn check(&self) -> Result<()> {
        Ok(())
    }
}

impl Shelf for Folder {
    fn place(&self) -> &Path {
        &self.0
    }

    fn items(&self) -> Result<Vec<Item>> {
        let cannot = || format!("repository {} cannot be read", self.0.display());
        let entries = match std::fs::read_dir(&self.0) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.context(cannot)?,
        };
        let mut items = Vec::new();
        for entry in entries {
            let path = entry.context(cannot)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_file() && is_archive(name.strip_suffix(PARTIAL_SUFFIX).unwrap_or(&name)) {
                items.push(Item {
                    name: name.into_owned(),
                    size: std::fs::metadata(&path).map_or(0, |found| found.len()),
                });
            }
        }
        Ok(items)
    }

    fn has(&self, name: &str) -> Result<bool> {
        Ok(self.0.join(name).is_file())
    }

    fn open(&self, name: &str) -> Result<(Arc<dyn ReadAt>, u64)> {
        storage::open_file(&self.0.join(name))
    }

    fn begin(&self, name: &str, replaces: bool) -> Result<Box<dyn Sink>> {
        let place = self.0.join(name);
        if !replaces && place.exists() {
            return Err(Error::refused(format!(
                "{} exists already",
                place.display()
            )));
        }
        let file = NewFile::create(&place, super::partial_of(&place))?;
        Ok(Box::new(if replaces { file.replacing() } else { file }))
    }

    fn free_space(&self) -> Result<Option<u64>> {
        fs::free_space(&self.0).map(Some)
    }

    /// Whoever may write here may delete.
    fn locked_until(&self, _name: &str) -> Result<Option<DateTime<Utc>>> {
        Ok(None)
    }

    fn remove(&self, name: &str) -> Result<()> {
        fs::remove_if_there(&self.0.join(name))
    }

    fn settle(&self) -> Result<()> {
        fs::sync_folder(&self.0)
    }

    fn files(&self, folder: &str) -> Result<Vec<String>> {
        fs::names_in(&self.0.join(folder))
    }

    fn note(&self, name: &str) -> Result<Option<Vec<u8>>> {
        fs::read_if_there(&self.0.join(name))
    }

    fn write_note(&self, name: &str, content: &[u8]) -> Result<()> {
        fs::write_atomically(&self.0.join(name), content)
    }

    fn remove_note(&self, name: &str) -> Result<()> {
        fs::remove_if_there(&self.0.join(name))
    }

    fn lock_notes(&self) -> Result<Guard> {
        Ok(Box::new(self.lock_proofs()?))
    }

    fn write_access<'a>(&'a self, purpose: &'a str) -> Granted<'a> {
        Box::pin(async move {
            let lock = Lock::exclusive_among_lookers(&self.lock_file(), purpose).await?;
            Ok(Arc::new(lock) as Arc<dyn Writing>)
        })
    }

    /// It takes the lock for a moment to find out, for which a writer allows.
    fn has_writer(&self) -> bool {
        Lock::shared(&self.lock_file()).is_err()
    }

    fn remove_leftovers(&self) -> Result<Vec<String>> {
        self.remove_unfinished_notes()?;
        let mut removed = Vec::new();
        for item in self.items()? {
            if item.name.ends_with(PARTIAL_SUFFIX) {
                self.remove(&item.name)?;
                removed.push(item.name);
            }
        }
        Ok(removed)
    }
}
