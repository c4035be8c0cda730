//! One file of a repository, and what can be said of it without reading all of it.

use super::Repository;
use super::name::{Name, Purpose};
use super::proof::content;
use super::sealing::Look;
use super::shelf::Item;
use crate::archive::{Archive, PARTIAL_SUFFIX, PhysicalSource, Source};
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Whether a file is a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum State {
    /// Its manifest is there and sound. `k1ops verify` reads the rest.
    Good,
    /// It is encrypted, and no key here opens it. Whoever has the key can say more.
    Sealed {
        /// Whose keys open it, if it says.
        recipients: Vec<String>,
    },
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
    /// Whether it can be restored, by whoever has its key.
    #[must_use]
    pub fn is_good(&self) -> bool {
        matches!(self, Self::Good | Self::Sealed { .. })
    }
}

/// What the database of an archive comes back as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Rows, or the pages of `SQLite`, which replace those of a stack.
    Logical,
    /// Only the data directory of its `PostgreSQL` server, which is restored into a folder.
    Physical,
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
    /// What its database comes back as; `None` if it is no backup.
    pub kind: Option<Kind>,
    /// Data directories in it, which a server's write-ahead log goes on from.
    #[serde(skip)]
    pub bases: Vec<PhysicalSource>,
    /// What stands for its content, by which copies are told from others of the same name.
    #[serde(skip)]
    pub(super) content: Option<String>,
    /// Whether it is a backup.
    #[serde(flatten)]
    pub state: State,
}

impl Entry {
    pub(super) fn read(repository: &Repository, item: Item) -> Self {
        let path = repository.place().join(&item.name);
        match repository.look_at(&path) {
            Ok(Look::Archive(archive)) => {
                let mut entry = Self::of(&archive);
                // As it is stored.
                entry.size = item.size;
                entry
            }
            Ok(Look::Sealed(seal)) => {
                let recipients = seal.recipients;
                let mut entry = Self::outside(path, item, State::Sealed { recipients });
                entry.content = Some(seal.content);
                entry
            }
            Err(error) => {
                let reason = error.to_string();
                let prefix = format!("archive {}: ", path.display());
                let reason = reason.strip_prefix(&prefix).unwrap_or(&reason).to_owned();
                Self::outside(path, item, State::Unreadable { reason })
            }
        }
    }

    /// Whether it is a good backup of a stack, and not what a restore put aside.
    #[must_use]
    pub fn is_backup_of(&self, stack: &str) -> bool {
        self.state.is_good()
            && self.purpose == Purpose::Backup
            && self.stack.as_deref() == Some(stack)
    }

    /// What is said of an archive that is already open.
    #[must_use]
    pub fn of(archive: &Archive) -> Self {
        let manifest = archive.manifest();
        let item = Item {
            name: file_name(archive.path()),
            size: archive.size(),
        };
        let mut entry = Self::outside(archive.path().to_path_buf(), item, State::Good);
        entry.stack = Some(manifest.header.stack.clone());
        entry.time = Some(manifest.header.started_at);
        entry.rows = Some(manifest.rows());
        entry.sources = manifest.sources.iter().map(describe).collect();
        entry.bases = manifest.physical().cloned().collect();
        entry.content = Some(content(archive));
        entry.kind = Some(if manifest.is_physical() {
            Kind::Physical
        } else {
            Kind::Logical
        });
        entry
    }

    pub(super) fn incomplete(place: &Path, item: Item, being_written: bool) -> Self {
        let state = State::Incomplete { being_written };
        Self::outside(place.join(&item.name), item, state)
    }

    /// What the name and the repository say.
    fn outside(path: PathBuf, item: Item, state: State) -> Self {
        let Item { name, size } = item;
        let parsed = Name::parse(name.strip_suffix(PARTIAL_SUFFIX).unwrap_or(&name));
        let purpose = parsed.as_ref().map_or(Purpose::Backup, |n| n.purpose);
        Self {
            stack: parsed.as_ref().map(|n| n.stack.clone()),
            time: parsed.map(|n| n.time),
            name,
            path,
            purpose,
            size,
            rows: None,
            sources: Vec::new(),
            kind: None,
            bases: Vec::new(),
            content: None,
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
        Source::Physical(physical) if physical.volume == PhysicalSource::SERVER => {
            "data directory".to_owned()
        }
        Source::Physical(physical) => format!("volume {}", physical.volume),
        Source::Volume(volume) => format!("volume {}", volume.volume),
        Source::Config(_) => "config".to_owned(),
    }
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map_or_else(String::new, |n| n.to_string_lossy().into_owned())
}
