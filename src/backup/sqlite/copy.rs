//! A private copy of a database by the online backup API, for a library without a page table.

use crate::adapters::fs::create_private_file;
use crate::adapters::sqlite::{self, because};
use crate::error::{Context, Result};
use crate::interrupt::Interrupt;
use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Pages that are copied between two looks at the interrupt.
const STEP: i32 = 1024;

/// A copy that removes itself.
#[derive(Debug)]
pub(super) struct Copy {
    path: PathBuf,
    connection: Connection,
    _folder: tempfile::TempDir,
}

impl Copy {
    /// Copies the moment that `source`'s transaction sees into a private folder inside `scratch`.
    pub(super) fn of(source: &Connection, scratch: &Path, interrupt: &Interrupt) -> Result<Self> {
        let cannot = || "the database cannot be copied";
        let folder = tempfile::Builder::new()
            .prefix(".k1ops-copy-")
            .tempdir_in(scratch)
            .context(cannot)?;
        let path = folder.path().join("copy.db");
        create_private_file(&path)?;
        let mut connection = sqlite::open_existing(&path)?;
        {
            let backup = Backup::new(source, &mut connection).map_err(because(cannot))?;
            while backup.step(STEP).map_err(because(cannot))? != StepResult::Done {
                interrupt.check()?;
                std::thread::sleep(Duration::ZERO);
            }
        }
        Ok(Self {
            path,
            connection,
            _folder: folder,
        })
    }

    /// A connection to the copy.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The copy's file, which nothing writes any more.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::super::pages::Pages;
    use super::*;

    #[test]
    fn a_copy_gives_the_same_pages_as_the_page_table_and_removes_itself() {
        let folder = tempfile::tempdir().unwrap();
        let live = sqlite::open_or_create(&folder.path().join("live.db")).unwrap();
        live.execute_batch(
            "CREATE TABLE t(b);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
             INSERT INTO t SELECT randomblob(700) FROM n;
             BEGIN; SELECT count(*) FROM t;",
        )
        .unwrap();
        let interrupt = Interrupt::default();
        let all = |mut pages: Pages<'_>| {
            let mut bytes = Vec::new();
            while let Some(part) = pages.next_part(Vec::new(), 100_000, &interrupt).unwrap() {
                bytes.extend(part);
            }
            bytes
        };
        let copy = Copy::of(&live, folder.path(), &interrupt).unwrap();
        let copied = all(Pages::of_file(copy.connection(), copy.path()).unwrap());
        let streamed = all(Pages::of_transaction(&live).unwrap());
        // The library may note its own counters in the first page of a copy.
        assert_eq!(copied.len(), streamed.len());
        assert_eq!(copied[100..], streamed[100..]);
        drop(copy);
        let left = std::fs::read_dir(folder.path()).unwrap();
        let leftovers = left.filter(|e| {
            let name = e.as_ref().unwrap().file_name();
            name.to_string_lossy().contains("copy")
        });
        assert_eq!(leftovers.count(), 0);
    }
}
