//! One file of a repository, and what can be said of it without reading all of it.

use super::name::{Name, Purpose};
use crate::archive::{Archive, PARTIAL_SUFFIX, Source};
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Whether a file is a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum State {
    /// Its manifest is there and sound. `k1ops verify` reads the rest.
    Good,
    /// It never got its name.
    Incomplete {
        /// A living backup is writing it; otherwise its backup died, and the next one removes it.
        being_written: bool,
    },
    /// It is damaged, foreign or of a newer format.
    Unreadable {
        /// What is wrong with it.
        reason: String,
    },
}

impl State {
    /// Whether it can be restored.
    #[must_use]
    pub fn is_good(&self) -> bool {
        *self == Self::Good
    }
}

/// A file of a repository.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// Its file name.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Whose data it holds, as far as that can be told.
    pub stack: Option<String>,
    /// When its backup began, as far as that can be told.
    pub time: Option<DateTime<Utc>>,
    /// Why it was made.
    pub purpose: Purpose,
    /// Its size in bytes.
    pub size: u64,
    /// Rows in it.
    pub rows: Option<u64>,
    /// What it holds, such as `postgres` or `sqlite conductor`.
    pub sources: Vec<String>,
    /// Whether it is a backup.
    #[serde(flatten)]
    pub state: State,
}

impl Entry {
    pub(super) fn read(path: PathBuf) -> Self {
        match Archive::open(&path) {
            Ok(archive) => Self::of(&archive),
            Err(error) => {
                let reason = error.to_string();
                let prefix = format!("archive {}: ", path.display());
                let reason = reason.strip_prefix(&prefix).unwrap_or(&reason).to_owned();
                Self::outside(path, State::Unreadable { reason })
            }
        }
    }

    /// What is said of an archive that is already open.
    #[must_use]
    pub fn of(archive: &Archive) -> Self {
        let manifest = archive.manifest();
        let mut entry = Self::outside(archive.path().to_path_buf(), State::Good);
        entry.stack = Some(manifest.header.stack.clone());
        entry.time = Some(manifest.header.started_at);
        entry.rows = Some(manifest.rows());
        entry.sources = manifest.sources.iter().map(describe).collect();
        entry
    }

    pub(super) fn incomplete(path: PathBuf, being_written: bool) -> Self {
        Self::outside(path, State::Incomplete { being_written })
    }

    /// What the name and the file system say.
    fn outside(path: PathBuf, state: State) -> Self {
        let name = file_name(&path);
        let parsed = Name::parse(name.strip_suffix(PARTIAL_SUFFIX).unwrap_or(&name));
        let purpose = parsed.as_ref().map_or(Purpose::Backup, |n| n.purpose);
        let size = std::fs::metadata(&path).map_or(0, |m| m.len());
        Self {
            stack: parsed.as_ref().map(|n| n.stack.clone()),
            time: parsed.map(|n| n.time),
            name,
            path,
            purpose,
            size,
            rows: None,
            sources: Vec::new(),
            state,
        }
    }
}

/// A source in a word or two.
#[must_use]
pub fn describe(source: &Source) -> String {
    match source {
        Source::Postgres(postgres) => format!("postgres {}", postgres.database),
        Source::Sqlite(sqlite) => format!("sqlite {}", sqlite.name),
        Source::Physical(physical) => format!("volume {}", physical.volume),
        Source::Volume(volume) => format!("volume {}", volume.volume),
        Source::Config(_) => "config".to_owned(),
    }
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map_or_else(String::new, |n| n.to_string_lossy().into_owned())
}
