//! What a restore or an undo is doing, written down before each step, so that the next run knows
//! after any death whether everything is as before or has to be completed.
//!
//! | phase | what is true | after a death |
//! |---|---|---|
//! | `restoring` | live data is untouched; new data may be half there | new data is removed: as before |
//! | `swapping` | new data is complete and checked; some of it may be live | the swap is completed |
//! | `swapped` | all new data is live | only the note is completed |
//! | `done` | the same, and the old data is kept | nothing to do |
//! | `undone`, `abandoned`, `discarded` | history | nothing to do |
//! | `discarding` | kept data is being deleted, as was asked for | the deletion is completed |

use crate::adapters::fs;
use crate::error::{Context, Error, Result};
use crate::stack::Stack;
use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// How far it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// New data is made beside the live data.
    Restoring,
    /// New data takes the place of the old.
    Swapping,
    /// It has taken it.
    Swapped,
    /// All is done; the old data is kept.
    Done,
    /// An undo has put the old data back.
    Undone,
    /// It was given up before anything was replaced.
    Abandoned,
    /// Kept data is being deleted.
    Discarding,
    /// Kept data was deleted.
    Discarded,
}

/// What is being done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "action")]
pub enum Action {
    /// A restore.
    Restore {
        /// From this archive.
        archive: PathBuf,
        /// What was there before went into this one.
        safety: Option<PathBuf>,
    },
    /// An undo.
    Undo {
        /// Of the restore or undo with this ID.
        of: String,
    },
}

/// What became of the data that was live before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Old {
    /// It has not been moved yet, as far as is noted.
    InPlace,
    /// It is kept.
    Kept,
    /// There was none.
    Nothing,
}

/// One thing that takes the place of another by rename.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Replacement {
    /// An `SQLite` database with the files that belong to it. Paths are relative to the stack's
    /// folder, so that it may be moved as a whole.
    File {
        /// Such as `sqlite conductor`.
        what: String,
        /// Where the stack looks for it.
        live: PathBuf,
        /// What takes its place; `None`: nothing does.
        beside: Option<PathBuf>,
        /// Where the old one goes.
        kept: PathBuf,
        /// What became of the old one.
        old: Old,
    },
    /// A database of a `PostgreSQL` server.
    Database {
        /// Such as `postgres conductor`.
        what: String,
        /// The server, `HOST:PORT`.
        server: String,
        /// The name that the stack uses.
        live: String,
        /// What takes its place; `None`: nothing does.
        beside: Option<String>,
        /// The name that the old one gets.
        kept: String,
        /// What became of the old one.
        old: Old,
    },
}

impl Replacement {
    /// What is replaced.
    #[must_use]
    pub fn what(&self) -> &str {
        match self {
            Self::File { what, .. } | Self::Database { what, .. } => what,
        }
    }

    /// What became of the old data.
    #[must_use]
    pub fn old(&self) -> Old {
        match self {
            Self::File { old, .. } | Self::Database { old, .. } => *old,
        }
    }

    pub(super) fn set_old(&mut self, now: Old) {
        match self {
            Self::File { old, .. } | Self::Database { old, .. } => *old = now,
        }
    }

    /// Where the old data is kept, for people.
    #[must_use]
    pub fn kept_at(&self, stack: &Stack) -> String {
        match self {
            Self::File { kept, .. } => stack.folder.join(kept).display().to_string(),
            Self::Database { server, kept, .. } => format!("database {kept} on {server}"),
        }
    }

    /// Whether Conductor's own data is in it, so that workflows may be stranded afterwards.
    #[must_use]
    pub fn holds_workflows(&self) -> bool {
        match self {
            Self::Database { .. } => true,
            Self::File { what, .. } => what.ends_with("conductor"),
        }
    }
}

/// The note of one restore or undo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// Its ID, which is also the name of its folder.
    pub id: String,
    /// What is being done.
    #[serde(flatten)]
    pub action: Action,
    /// How far it got.
    pub phase: Phase,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// The tool that does it.
    pub tool: String,
    /// What is replaced.
    pub replacements: Vec<Replacement>,
    /// The stack's server was stopped for it.
    pub server_stopped: bool,
    /// Workflows may be stranded, and nobody has looked since.
    pub requeue_pending: bool,
    /// What is made live is nothing that the stack uses: its server goes on running.
    #[serde(default)]
    pub apart: bool,
}

impl Journal {
    /// A new note, not written yet, under an ID of its own.
    #[must_use]
    pub fn new(stack: &Stack, action: Action) -> Self {
        let started_at = Utc::now();
        Self {
            id: next_id(stack, started_at),
            action,
            phase: Phase::Restoring,
            started_at,
            tool: concat!("k1ops ", env!("CARGO_PKG_VERSION")).to_owned(),
            replacements: Vec::new(),
            server_stopped: false,
            requeue_pending: false,
            apart: false,
        }
    }

    /// Writes the note durably.
    pub fn write(&self, stack: &Stack) -> Result<()> {
        let mut text =
            serde_json::to_vec_pretty(self).context(|| "the journal cannot be written as JSON")?;
        text.push(b'\n');
        let file = self.file(stack);
        let is_new = !file.exists();
        fs::write_atomically(&file, &text)?;
        if is_new {
            // The names of the folders above must survive a power cut as well.
            fs::sync_folder(&stack.restores())?;
            fs::sync_folder(&stack.folder)?;
        }
        Ok(())
    }

    /// Notes the next phase.
    pub fn enter(&mut self, phase: Phase, stack: &Stack) -> Result<()> {
        self.phase = phase;
        self.write(stack)
    }

    /// Where the note is.
    #[must_use]
    pub fn file(&self, stack: &Stack) -> PathBuf {
        stack.restores().join(&self.id).join(FILE)
    }

    /// In words: `the restore of ARCHIVE (ID)`.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.action {
            Action::Restore { archive, .. } => {
                let name = archive.file_name().unwrap_or(archive.as_os_str());
                format!("the restore of {} ({})", name.display(), self.id)
            }
            Action::Undo { of } => format!("the undo of {of} ({})", self.id),
        }
    }

    /// Reads the note with this ID.
    pub fn read(stack: &Stack, id: &str) -> Result<Self> {
        read(&stack.restores().join(id).join(FILE))
    }

    /// All notes, oldest first. IDs are times, and no two are alike.
    pub fn all(stack: &Stack) -> Result<Vec<Self>> {
        let folder = stack.restores();
        let cannot = || format!("{} cannot be read", folder.display());
        let entries = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.context(cannot)?,
        };
        let mut journals = Vec::new();
        for entry in entries {
            let file = entry.context(cannot)?.path().join(FILE);
            // A folder whose first note was never written belongs to a run that did nothing yet.
            if file.exists() {
                journals.push(read(&file)?);
            }
        }
        journals.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(journals)
    }

    /// Notes that were never finished being written: their run died over them.
    #[must_use]
    pub fn leftovers(stack: &Stack) -> Vec<PathBuf> {
        let folders = std::fs::read_dir(stack.restores()).into_iter().flatten();
        folders
            .filter_map(|folder| std::fs::read_dir(folder.ok()?.path()).ok())
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| fs::is_half_written(path))
            .collect()
    }

    /// The note that a run left unfinished, if there is one. There can be only one: every run
    /// finishes what it finds before it begins.
    pub fn unfinished(stack: &Stack) -> Result<Option<Self>> {
        let mut journals = Self::all(stack)?;
        journals.retain(|journal| {
            matches!(
                journal.phase,
                Phase::Restoring | Phase::Swapping | Phase::Swapped | Phase::Discarding
            )
        });
        Ok(journals.pop())
    }
}

const FILE: &str = "journal.json";

/// The time in an ID. Lower case, since it becomes part of database names.
const ID: &str = "%Y%m%dt%H%M%Sz";

/// An ID that sorts behind all others, even if the clock was set back.
fn next_id(stack: &Stack, now: DateTime<Utc>) -> String {
    let entries = std::fs::read_dir(stack.restores()).into_iter().flatten();
    let last = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| NaiveDateTime::parse_from_str(&name, ID).ok())
        .max();
    let next = last.map_or(now, |last| now.max(last.and_utc() + TimeDelta::seconds(1)));
    next.format(ID).to_string()
}

fn read(file: &Path) -> Result<Journal> {
    let text =
        std::fs::read(file).context(|| format!("journal {} cannot be read", file.display()))?;
    serde_json::from_slice(&text).map_err(|error| {
        Error::bad_data(format!("{} is not a journal", file.display()))
            .because(error)
            .hint("Use the k1ops that wrote it, or a newer one; it notes what a restore replaced.")
    })
}
