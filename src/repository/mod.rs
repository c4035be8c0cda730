//! Where archives are kept, on this host or in an object store: what is there, which is meant by a
//! name, and where the next one goes.
//!
//! Archives never change once they have their name, and an open file outlives its removal, so
//! readers take no lock: any number of them may read while one backup writes. Only what adds or
//! removes files holds the repository's lock. This module knows archives from outside; it does not
//! know what they are made of or what they are restored into.
//!
//! Every archive may have copies in further repositories, which are made and kept from here.
//!
//! A place is written as a path. That of an archive in an object store is its address, which only
//! [`Repository::open`] and its like know how to follow.

mod ahead;
mod copies;
mod copying;
mod digest;
mod elsewhere;
mod entry;
mod find;
mod folder;
mod log;
mod log_elsewhere;
mod name;
mod proof;
mod prune;
mod rekey;
mod rekey_log;
pub mod retention;
mod sealing;
mod shelf;

pub use ahead::{Backups, is_ahead};
pub use copies::{CopyPlace, CopyStatus, CopyStep, Located, locate};
pub use copying::{CopyReport, behind};
pub use entry::{Entry, Kind, State, describe};
pub use log::{LogCheck, LogVerdict};
pub use log_elsewhere::LogElsewhere;
pub use name::{Name, Purpose};
pub use proof::Proof;
pub use prune::{PruneOptions, PrunePlan};
pub use rekey::{Rekey, RekeyPlan, RekeyStep};

use crate::adapters::bandwidth::{Bandwidth, Limited};
use crate::adapters::bucket::{ObjectLock, Settings};
use crate::adapters::fs::{folder_of, free_space};
use crate::adapters::storage::{NewFile, Sink, open_file};
use crate::archive::{Archive, EXTENSION, PARTIAL_SUFFIX, SEALED_EXTENSION};
use crate::config::{self, LockMode};
use crate::error::{Error, Result};
use crate::stack::Stack;
use chrono::{DateTime, TimeDelta, Utc};
use digest::Digests;
use elsewhere::Elsewhere;
use folder::Folder;
use sealing::{Look, Sealed};
use shelf::{Shelf, Writing};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The word for the newest good archive of a stack.
pub const LATEST: &str = "latest";

/// Where archives are kept. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Repository {
    shelf: Arc<dyn Shelf>,
    sealing: Sealed,
    log_folder: PathBuf,
    /// It is a copy of another one, to which the write-ahead log belongs.
    is_copy: bool,
    bandwidth: Option<Bandwidth>,
    copies: Arc<[CopyPlace]>,
    digests: Digests,
}

/// The right to add archives to a repository and to remove files from it; ends when it is dropped
/// or the process dies.
#[derive(Debug)]
pub struct WriteAccess(Arc<dyn Writing>);

impl WriteAccess {
    /// Fails if the right was lost: of a repository elsewhere it has to be renewed, which a network
    /// may prevent.
    pub fn check(&self) -> Result<()> {
        self.0.check()
    }
}

impl Repository {
    /// The repository in `folder`, which need not exist yet.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        let folder = folder.into();
        Self {
            shelf: Arc::new(Folder::new(folder.clone())),
            sealing: Sealed::default(),
            log_folder: folder,
            is_copy: false,
            bandwidth: None,
            copies: Arc::default(),
            digests: Digests::default(),
        }
    }

    /// The repository that a stack's configuration names, and the copies of it.
    pub fn of(stack: &Stack) -> Result<Self> {
        let sealing = Sealed::of(stack)?;
        let copies = CopyPlace::all(stack, &sealing)?;
        Ok(Self {
            copies: copies.into(),
            ..Self::alone(stack, sealing)?
        })
    }

    /// The same without copies.
    fn alone(stack: &Stack, sealing: Sealed) -> Result<Self> {
        Ok(Self {
            shelf: shelf_of(stack)?,
            sealing,
            log_folder: stack.log_folder(),
            is_copy: false,
            bandwidth: Bandwidth::parse(&stack.config.repository.bandwidth)?,
            copies: Arc::default(),
            digests: Digests::default(),
        })
    }

    /// Where it is: a folder, or an address that is written like one.
    #[must_use]
    pub fn place(&self) -> &Path {
        self.shelf.place()
    }

    /// The folder of this host that the write-ahead log is kept in, wherever the archives are.
    #[must_use]
    pub fn log_folder(&self) -> &Path {
        &self.log_folder
    }

    /// Becomes the only writer, or fails with [`crate::error::ErrorKind::Locked`] and names the
    /// other one.
    pub async fn write_access(&self, purpose: &str) -> Result<WriteAccess> {
        self.shelf.write_access(purpose).await.map(WriteAccess)
    }

    /// A free place for an archive of `stack` that is begun at `started_at`. If the second is taken
    /// already, the next free one is.
    pub fn new_place(
        &self,
        stack: &str,
        started_at: DateTime<Utc>,
        purpose: Purpose,
    ) -> Result<PathBuf> {
        let mut name = Name {
            stack: stack.to_owned(),
            time: started_at,
            purpose,
        };
        loop {
            if !self.is_taken(&name.file_name())? {
                return Ok(self.place().join(self.sealing.file_name(&name)));
            }
            name.time += TimeDelta::seconds(1);
        }
    }

    /// Whether there is an archive of this name, encrypted or not, or one that is not finished.
    fn is_taken(&self, plain: &str) -> Result<bool> {
        for end in ["", ".age"] {
            let name = format!("{plain}{end}");
            if self.shelf.has(&name)? || self.shelf.has(&format!("{name}{PARTIAL_SUFFIX}"))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Begins the archive at a place that [`Repository::new_place`] answered, or a file elsewhere on
    /// this host; encrypted, if archives are to be.
    pub fn begin(&self, place: &Path) -> Result<Box<dyn Sink>> {
        let sink: Box<dyn Sink> = match self.name_of(place) {
            Some(name) => self.begin_stored(&name, false)?,
            None => Box::new(NewFile::create(place, partial_of(place))?),
        };
        self.sealing.begin(place, sink)
    }

    /// Begins an archive whose bytes come as they are to be stored.
    fn begin_stored(&self, name: &str, replaces: bool) -> Result<Box<dyn Sink>> {
        let sink = self.shelf.begin(name, replaces)?;
        let sink: Box<dyn Sink> = match self.bandwidth {
            Some(bandwidth) => Box::new(Limited::new(sink, bandwidth)),
            None => sink,
        };
        // Hashing everything is worth its time where copies are held against it.
        Ok(if self.copies.is_empty() {
            sink
        } else {
            self.digests.watch(name, sink)
        })
    }

    /// Bytes that are free for an archive at `place`, where that can be known.
    pub fn free_space(&self, place: &Path) -> Result<Option<u64>> {
        if self.name_of(place).is_some() {
            return self.shelf.free_space();
        }
        free_space(folder_of(place)).map(Some)
    }

    /// Whether archives are encrypted from now on.
    #[must_use]
    pub fn seals(&self) -> bool {
        self.sealing.seals()
    }

    /// Whether archives are kept in a store, and not in a folder of this host.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        self.place() != self.log_folder()
    }

    /// Opens an archive: one of this repository, or a file.
    ///
    /// Fails with [`crate::error::ErrorKind::Missing`] if it is encrypted and no key here fits, and
    /// says whose key it needs.
    pub fn open(&self, path: &Path) -> Result<Archive> {
        match self.look_at(path)? {
            Look::Archive(archive) => Ok(archive),
            Look::Sealed(seal) => Err(Error::missing(format!(
                "archive {} is encrypted, and none of the keys here opens it",
                path.display()
            ))
            .hint(seal.hint())),
        }
    }

    fn look_at(&self, path: &Path) -> Result<Look> {
        let (bytes, size) = match (self.name_of(path), self.copy_of(path)) {
            (Some(name), _) => self.shelf.open(&name)?,
            (None, Some(copy)) => return copy.open()?.look_at(path),
            (None, None) => open_file(path)?,
        };
        self.sealing.open(path, bytes, size)
    }

    /// Removes the archive at `path`, if it is there.
    pub fn remove(&self, path: &Path) -> Result<()> {
        match self.name_of(path) {
            Some(name) => self.shelf.remove(&name),
            None => crate::adapters::fs::remove_if_there(path),
        }
    }

    /// Whether an archive of this name is there.
    pub fn has(&self, name: &str) -> Result<bool> {
        self.shelf.has(name)
    }

    /// Removes what backups that died left behind, and answers what that was. Nobody else writes,
    /// since the caller holds the lock.
    pub fn remove_leftovers(&self, _access: &WriteAccess) -> Result<Vec<PathBuf>> {
        let removed = self.shelf.remove_leftovers()?;
        Ok(removed
            .into_iter()
            .map(|name| self.place().join(name))
            .collect())
    }

    /// Everything that looks like an archive, newest first.
    pub fn list(&self) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut writer = None;
        for item in self.shelf.items()? {
            if item.name.ends_with(PARTIAL_SUFFIX) {
                let living = *writer.get_or_insert_with(|| self.shelf.has_writer());
                entries.push(Entry::incomplete(self.place(), item, living));
            } else {
                entries.push(Entry::read(self, item));
            }
        }
        entries.sort_by(|a, b| (b.time, &b.name).cmp(&(a.time, &a.name)));
        Ok(entries)
    }

    /// The name of what is directly in this repository.
    fn name_of(&self, path: &Path) -> Option<String> {
        name_in(self.place(), path)
    }
}

/// What `[repository]` of the stack's configuration names.
fn shelf_of(stack: &Stack) -> Result<Arc<dyn Shelf>> {
    let configured = &stack.config.repository;
    if configured.url.is_empty() {
        if !configured.locked_for.is_empty() {
            return Err(Error::usage("a folder cannot lock what is in it").hint(
                "repository.locked_for is for S3 and what speaks its language: take it away.",
            ));
        }
        return Ok(Arc::new(Folder::new(stack.repository())));
    }
    if !configured.path.as_os_str().is_empty() {
        return Err(
            Error::usage("repository.path and repository.url are both set")
                .hint("Keep the one that archives are to go to."),
        );
    }
    let file = &configured.credentials;
    let settings = Settings {
        url: configured.url.expose().to_owned(),
        endpoint: configured.endpoint.clone(),
        region: configured.region.clone(),
        credentials: (!file.as_os_str().is_empty()).then(|| stack.base.join(file)),
        lock: object_lock(configured)?,
    };
    Ok(Arc::new(Elsewhere::open(&settings)?))
}

/// For how long new archives are locked.
fn object_lock(configured: &config::Repository) -> Result<Option<ObjectLock>> {
    let text = configured.locked_for.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let span = humantime::parse_duration(text).ok();
    let span = span.and_then(|span| TimeDelta::from_std(span).ok());
    let span = span
        .filter(|span| *span > TimeDelta::zero())
        .ok_or_else(|| {
            Error::usage(format!(
                "repository.locked_for is {text:?}, which is no span of time"
            ))
            .hint("Write it as in `30 days`.")
        })?;
    Ok(Some(ObjectLock {
        span,
        compliance: configured.lock_mode == LockMode::Compliance,
    }))
}

/// The name of what is directly in `place`, if it is there. A folder may be written in several ways.
fn name_in(place: &Path, path: &Path) -> Option<String> {
    let (folder, name) = (path.parent()?, path.file_name()?);
    is_same_place(folder, place).then(|| name.to_string_lossy().into_owned())
}

fn is_same_place(one: &Path, other: &Path) -> bool {
    let real = |folder: &Path| folder.canonicalize().ok();
    one == other || real(one).is_some_and(|one| Some(one) == real(other))
}

/// Whether a name is that of a finished archive.
fn is_archive(name: &str) -> bool {
    [EXTENSION, SEALED_EXTENSION].iter().any(|end| {
        let stem = name.strip_suffix(end).unwrap_or_default();
        stem.ends_with('.')
    })
}

/// The name that the archive at `place` has while it is written.
#[must_use]
pub fn partial_of(place: &Path) -> PathBuf {
    let mut partial = place.as_os_str().to_owned();
    partial.push(PARTIAL_SUFFIX);
    partial.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn repository() -> (tempfile::TempDir, Repository) {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::new(folder.path().join("backups"));
        std::fs::create_dir(repository.place()).unwrap();
        (folder, repository)
    }

    #[test]
    fn a_folder_that_is_not_there_holds_no_archive() {
        let repository = Repository::new("/nonexistent/backups");
        assert!(repository.list().unwrap().is_empty());
        let error = repository.find(LATEST, "k1").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Missing);
    }

    #[test]
    fn a_taken_second_gives_the_next_free_one() {
        let (_folder, repository) = repository();
        let at = DateTime::from_timestamp(1_790_000_000, 0).unwrap();
        let first = repository.new_place("k1", at, Purpose::Backup).unwrap();
        std::fs::write(&first, "x").unwrap();
        let second = repository.new_place("k1", at, Purpose::Backup).unwrap();
        std::fs::write(partial_of(&second), "x").unwrap();
        let third = repository.new_place("k1", at, Purpose::Backup).unwrap();
        assert!(
            first
                .to_string_lossy()
                .ends_with("k1-k1-20260921T141320Z.tar")
        );
        assert!(
            third
                .to_string_lossy()
                .ends_with("k1-k1-20260921T141322Z.tar")
        );
    }

    #[tokio::test]
    async fn leftovers_are_told_from_a_living_backup() {
        let (_folder, repository) = repository();
        let partial = repository
            .place()
            .join("k1-k1-20261123T190000Z.tar.partial");
        std::fs::write(&partial, "half").unwrap();
        let living = |repository: &Repository| match repository.list().unwrap()[0].state {
            State::Incomplete { being_written } => being_written,
            ref other => panic!("{other:?}"),
        };
        assert!(!living(&repository));
        let access = repository.write_access("backup").await.unwrap();
        assert!(living(&repository));
        let error = repository.write_access("backup").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked);
        assert_eq!(repository.remove_leftovers(&access).unwrap(), [partial]);
        assert!(repository.list().unwrap().is_empty());
    }

    #[test]
    fn foreign_files_are_listed_as_unreadable_and_names_are_suggested() {
        let (_folder, repository) = repository();
        std::fs::write(
            repository.place().join("k1-k1-20261123T190000Z.tar"),
            "junk",
        )
        .unwrap();
        std::fs::write(repository.place().join("notes.txt"), "x").unwrap();
        let entries = repository.list().unwrap();
        assert_eq!(entries.len(), 1);
        assert!(
            matches!(&entries[0].state, State::Unreadable { reason } if reason.contains("too short"))
        );
        let error = repository.find("k1-k1-20261123T190001Z", "k1").unwrap_err();
        assert!(
            error
                .hint_text()
                .unwrap()
                .contains("k1-k1-20261123T190000Z.tar")
        );
        assert!(repository.find("k1-k1-20261123T190000Z", "k1").is_ok());
    }
}
