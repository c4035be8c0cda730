//! What makes a server go on from a restored data directory to a moment: where its write-ahead log
//! comes from, and where to stop.

use super::folder::Unpacking;
use crate::adapters::fs::remove_if_there;
use crate::error::{Context, Result};
use crate::wal::Store;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The server reads it last, and writes it itself.
const SETTINGS: &str = "postgresql.auto.conf";

/// A recovery that the server is to do when it starts.
#[derive(Debug, Clone)]
pub struct Recovery {
    /// Settings besides `restore_command`, a line each.
    pub settings: String,
    /// The command that fetches the log from the repository.
    pub restore_command: String,
    /// The program that the command runs.
    pub program: PathBuf,
    /// The log.
    pub store: Store,
    /// What is needed of it.
    pub files: Vec<String>,
    /// Put the log into the data directory, so that nothing outside of it is needed.
    pub copy: bool,
}

impl Recovery {
    /// Lays everything down in `base`. The server's control file is not in place yet.
    pub(super) fn lay(&self, unpacking: &mut Unpacking, base: &Path) -> Result<()> {
        let mut copy = self.copy;
        if !copy && !self.is_readable_for_owner_of(base)? {
            unpacking.events.note(format!(
                "the owner of {} may not read {}: the write-ahead log is copied into it",
                base.display(),
                self.store.folder().display()
            ));
            copy = true;
        }
        let command = if copy {
            for name in &self.files {
                unpacking.interrupt.check()?;
                if let Some(contents) = self.store.fetch(name)? {
                    unpacking.put(&base.join("pg_wal").join(name), &contents)?;
                }
            }
            // There must be one; what it does not bring is looked for in pg_wal.
            "false".to_owned()
        } else {
            self.restore_command.clone()
        };
        let file = base.join(SETTINGS);
        let before = std::fs::read_to_string(&file).unwrap_or_default();
        let mut kept = String::new();
        for line in before.lines().filter(|line| !is_of_recovery(line)) {
            kept.push_str(line);
            kept.push('\n');
        }
        let command = command.replace('\'', "''");
        let settings = &self.settings;
        let text = format!("{kept}restore_command = '{command}'\n{settings}");
        unpacking.put(&file, text.as_bytes())?;
        remove_if_there(&base.join("standby.signal"))?;
        unpacking.put(&base.join("recovery.signal"), b"")
    }

    /// Whether the user that owns `base` can run the program and read the log.
    fn is_readable_for_owner_of(&self, base: &Path) -> Result<bool> {
        let owner = std::fs::metadata(base)
            .context(|| format!("{} cannot be looked at", base.display()))?;
        let folder = self.store.folder().join("cluster.json");
        Ok(owner.uid() == 0
            || owner.uid() == rustix::process::geteuid().as_raw()
            || (is_open_to(&self.program, &owner) && is_open_to(&folder, &owner)))
    }
}

/// Whether `user` may read a file and everything that leads to it.
fn is_open_to(file: &Path, user: &std::fs::Metadata) -> bool {
    file.ancestors().all(|place| {
        let Ok(found) = std::fs::metadata(place) else {
            return false;
        };
        let shift = if found.uid() == user.uid() {
            6
        } else if found.gid() == user.gid() {
            3
        } else {
            0
        };
        let needed = if found.is_dir() { 0o5 } else { 0o4 };
        let needed = if place == Path::new("/") { 0o1 } else { needed };
        (found.mode() >> shift) & needed == needed
    })
}

/// Settings of an earlier recovery would be in the way of this one.
fn is_of_recovery(line: &str) -> bool {
    let name = line.split('=').next().unwrap_or_default().trim();
    name.starts_with("recovery_target")
        || [
            "restore_command",
            "archive_mode",
            "primary_conninfo",
            "primary_slot_name",
        ]
        .contains(&name)
}
