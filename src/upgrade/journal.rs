//! What an upgrade is doing, written down before each step, so that the next run knows after any death
//! whether to go on or to go back.
//!
//! | phase | what is true | after a death |
//! |---|---|---|
//! | `stopping` | the server is being stopped and its data saved; nothing is changed | it is started again |
//! | `switching` | the data is saved; the new version is being started on it | that is tried again; if it fails, back |
//! | `back` | the new version failed: the old one and the saved data are being put back | the same again |
//! | `returned` | they are back; the old version is being started | it is started |
//! | `done` | the new version runs; what was saved is kept for `--undo` | nothing to do |

use super::versions::Versions;
use crate::adapters::fs;
use crate::error::{Context, Error, Result};
use crate::stack::{Stack, Tier};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The note's name.
const NOTE: &str = "upgrade.json";

/// How far it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The server is stopped and its data is saved.
    Stopping,
    /// The new version is started.
    Switching,
    /// The old version and its data are put back.
    Back,
    /// They are, and the old version is started.
    Returned,
    /// The new version runs.
    Done,
}

/// The configuration file, before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ConfigFile {
    pub path: PathBuf,
    /// Its text; none if there was no such file.
    pub was: Option<String>,
    /// Its text with the new versions in it.
    pub becomes: String,
}

/// The note of one upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    pub at: DateTime<Utc>,
    pub phase: Phase,
    pub tier: Tier,
    pub before: Versions,
    pub after: Versions,
    pub config: ConfigFile,
    /// What the server left when it was stopped.
    pub saved: Option<PathBuf>,
    /// Seconds that the new version may take to become healthy, if not as configured.
    pub health_timeout: Option<u64>,
    #[serde(skip)]
    pub folder: PathBuf,
}

fn place(stack: &Stack) -> PathBuf {
    stack.folder.join("upgrades")
}

fn remove(folder: &Path) -> Result<()> {
    // Without its note a folder is nothing that anybody would go by.
    fs::remove_if_there(&folder.join(NOTE))?;
    std::fs::remove_dir_all(folder).context(|| format!("{} cannot be removed", folder.display()))
}

impl Journal {
    /// A folder for one that begins now.
    pub(super) fn new_folder(stack: &Stack, at: DateTime<Utc>) -> Result<PathBuf> {
        let folder = place(stack).join(at.format("%Y%m%dT%H%M%S%3fZ").to_string());
        fs::create_private_folder(&folder)?;
        Ok(folder)
    }

    /// Writes the note durably.
    pub(super) fn write(&self) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).context(|| "the journal is not JSON")?;
        fs::write_atomically(&self.folder.join(NOTE), &text)
    }

    /// Notes the next phase.
    pub(super) fn enter(&mut self, phase: Phase) -> Result<()> {
        self.phase = phase;
        self.write()
    }

    /// Removes the note, and what was saved.
    pub(super) fn forget(self) -> Result<()> {
        remove(&self.folder)
    }

    /// Removes what upgrades before this one have kept, and folders of those that began nothing.
    pub(super) fn forget_others(&self, stack: &Stack) -> Result<()> {
        for entry in std::fs::read_dir(place(stack)).into_iter().flatten() {
            let folder = entry.context(|| "a folder cannot be read")?.path();
            if folder != self.folder {
                remove(&folder)?;
            }
        }
        Ok(())
    }

    /// All of them, the oldest first.
    fn all(stack: &Stack) -> Result<Vec<Self>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(place(stack)).into_iter().flatten() {
            let folder = entry.context(|| "a folder cannot be read")?.path();
            let note = folder.join(NOTE);
            let Some(text) = fs::read_if_there(&note)? else {
                continue;
            };
            let mut journal: Self = serde_json::from_slice(&text).map_err(|error| {
                Error::bad_data(format!("{} is not a journal", note.display()))
                    .because(error)
                    .hint("Use the k1ops that wrote it, or a newer one.")
            })?;
            journal.folder = folder;
            found.push(journal);
        }
        found.sort_by_key(|journal| journal.at);
        Ok(found)
    }

    /// The one that has not ended, if there is one.
    pub(super) fn unfinished(stack: &Stack) -> Result<Option<Self>> {
        let mut all = Self::all(stack)?;
        all.retain(|journal| journal.phase != Phase::Done);
        Ok(all.pop())
    }

    /// The last one that ended well.
    pub(super) fn last_done(stack: &Stack) -> Result<Option<Self>> {
        let mut all = Self::all(stack)?;
        all.retain(|journal| journal.phase == Phase::Done);
        Ok(all.pop())
    }
}
