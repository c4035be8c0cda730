//! A folder of archives: what is in it, which is meant by a name, and where the next one goes.
//!
//! Archives never change once they have their name, and an open file outlives its removal, so
//! readers take no lock: any number of them may read while one backup writes. Only what adds or
//! removes files holds the folder's lock. This module knows archives from outside; it does not know
//! what they are made of or what they are restored into.

mod entry;
mod name;

pub use entry::{Entry, State, describe};
pub use name::{Name, Purpose};

use crate::adapters::fs::{self, Lock};
use crate::archive::{EXTENSION, PARTIAL_SUFFIX};
use crate::error::{Context, Error, ErrorKind, Result};
use chrono::{DateTime, TimeDelta, Utc};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The word for the newest good archive of a stack.
pub const LATEST: &str = "latest";

/// How long a backup waits for somebody who only looks whether the lock is held.
const LOOKING: Duration = Duration::from_secs(1);

/// A folder of archives.
#[derive(Debug, Clone)]
pub struct Repository {
    folder: PathBuf,
}

/// The right to add archives to a repository and to remove files from it; ends when it is dropped
/// or the process dies.
#[derive(Debug)]
pub struct WriteAccess {
    #[allow(dead_code, reason = "it is held, not read")]
    lock: Lock,
}

impl Repository {
    /// The repository in `folder`, which need not exist yet.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Becomes the only writer, or fails with [`ErrorKind::Locked`] and names the other one.
    pub async fn write_access(&self, purpose: &str) -> Result<WriteAccess> {
        let begun = Instant::now();
        loop {
            match Lock::exclusive(&self.lock_file(), purpose) {
                Err(error) if error.kind() == ErrorKind::Locked && begun.elapsed() < LOOKING => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                other => return other.map(|lock| WriteAccess { lock }),
            }
        }
    }

    /// A free place for an archive of `stack` that is begun at `started_at`. If the second is taken
    /// already, the next free one is.
    #[must_use]
    pub fn new_place(&self, stack: &str, started_at: DateTime<Utc>, purpose: Purpose) -> PathBuf {
        let mut name = Name {
            stack: stack.to_owned(),
            time: started_at,
            purpose,
        };
        loop {
            let place = self.folder.join(name.file_name());
            if !place.exists() && !partial_of(&place).exists() {
                return place;
            }
            name.time += TimeDelta::seconds(1);
        }
    }

    /// Removes what backups that died left behind, and answers which files that were. Nobody else
    /// writes, since the caller holds the lock.
    pub fn remove_leftovers(&self, _access: &WriteAccess) -> Result<Vec<PathBuf>> {
        let mut removed = Vec::new();
        for path in self.files()? {
            if is_partial(&path) {
                fs::remove_if_there(&path)?;
                removed.push(path);
            }
        }
        Ok(removed)
    }

    /// Everything that looks like an archive, newest first.
    pub fn list(&self) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut writer = None;
        for path in self.files()? {
            if is_partial(&path) {
                let living = *writer.get_or_insert_with(|| self.has_writer());
                entries.push(Entry::incomplete(path, living));
            } else {
                entries.push(Entry::read(path));
            }
        }
        entries.sort_by(|a, b| (b.time, &b.name).cmp(&(a.time, &a.name)));
        Ok(entries)
    }

    /// The archive that `wanted` means: `latest`, a name in the repository (with or without its
    /// extension), or a path. `latest` is the newest good archive of `stack` that somebody asked
    /// for: never the safety archive of a restore, which may hold the very damage that was undone.
    pub fn find(&self, wanted: &str, stack: &str) -> Result<PathBuf> {
        if wanted == LATEST {
            return self.latest(stack);
        }
        if !wanted.contains('/') {
            for name in [wanted.to_owned(), format!("{wanted}.{EXTENSION}")] {
                let path = self.folder.join(name);
                if path.is_file() {
                    return Ok(path);
                }
            }
        }
        let path = PathBuf::from(wanted);
        if path.is_file() {
            return Ok(path);
        }
        Err(Error::missing(format!("there is no archive {wanted:?}")).hint(self.suggestion(wanted)))
    }

    fn latest(&self, stack: &str) -> Result<PathBuf> {
        let newest = self.list()?.into_iter().find(|entry| {
            entry.state.is_good()
                && entry.stack.as_deref() == Some(stack)
                && entry.purpose == Purpose::Backup
        });
        newest.map(|entry| entry.path).ok_or_else(|| {
            let folder = self.folder.display();
            Error::missing(format!(
                "there is no good archive of stack {stack} in {folder}"
            ))
            .hint("Make one with `k1ops backup`; `k1ops list` shows what is there.")
        })
    }

    fn suggestion(&self, wanted: &str) -> String {
        let entries = self.list().unwrap_or_default();
        let nearest = entries.iter().max_by(|a, b| {
            let like = |entry: &Entry| strsim::jaro_winkler(&entry.name, wanted);
            like(a).total_cmp(&like(b))
        });
        match nearest {
            Some(entry) => format!(
                "The nearest name in {} is {}; `k1ops list` shows all.",
                self.folder.display(),
                entry.name
            ),
            None => format!(
                "{} holds no archive yet; make one with `k1ops backup`.",
                self.folder.display()
            ),
        }
    }

    /// Whether a backup is writing. It takes the lock for a moment to find out, for which
    /// [`Repository::write_access`] allows.
    fn has_writer(&self) -> bool {
        Lock::shared(&self.lock_file()).is_err()
    }

    fn lock_file(&self) -> PathBuf {
        self.folder.join(".lock")
    }

    /// Files whose name ends as an archive's does.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let cannot = || format!("repository {} cannot be read", self.folder.display());
        let entries = match std::fs::read_dir(&self.folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.context(cannot)?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry.context(cannot)?.path();
            let archive = path.extension().is_some_and(|e| e == EXTENSION);
            if path.is_file() && (archive || is_partial(&path)) {
                files.push(path);
            }
        }
        Ok(files)
    }
}

/// The name that the archive at `place` has while it is written.
#[must_use]
pub fn partial_of(place: &Path) -> PathBuf {
    let mut partial = place.as_os_str().to_owned();
    partial.push(PARTIAL_SUFFIX);
    partial.into()
}

fn is_partial(path: &Path) -> bool {
    path.to_string_lossy()
        .ends_with(&format!(".{EXTENSION}{PARTIAL_SUFFIX}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository() -> (tempfile::TempDir, Repository) {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::new(folder.path().join("backups"));
        std::fs::create_dir(repository.folder()).unwrap();
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
        let first = repository.new_place("k1", at, Purpose::Backup);
        std::fs::write(&first, "x").unwrap();
        let second = repository.new_place("k1", at, Purpose::Backup);
        std::fs::write(partial_of(&second), "x").unwrap();
        let third = repository.new_place("k1", at, Purpose::Backup);
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
            .folder()
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
            repository.folder().join("k1-k1-20261123T190000Z.tar"),
            "junk",
        )
        .unwrap();
        std::fs::write(repository.folder().join("notes.txt"), "x").unwrap();
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
