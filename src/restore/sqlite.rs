//! An `SQLite` source of an archive into a new file, checked row by row against the manifest.
//! Making it the live one is not this module's business.

use crate::adapters::fs::{create_private_file, create_private_folder, folder_of, remove_if_there};
use crate::adapters::sqlite::{self, SIDECARS, sidecar};
use crate::archive::{Archive, SqliteSource};
use crate::backup::sqlite::digest_tables;
use crate::error::{Context, Error, Result};
use crate::event::{Events, Unit};
use crate::interrupt::Interrupt;
use rusqlite::Connection;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What was restored, and found equal to the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// Tables.
    pub tables: u64,
    /// Rows.
    pub rows: u64,
}

/// Restores `source` into a new file at `place`. On failure the file is removed.
pub async fn restore_beside(
    archive: &Archive,
    source: &SqliteSource,
    place: &Path,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<Restored> {
    let work = Work {
        archive: archive.clone(),
        source: source.clone(),
        place: place.to_path_buf(),
        step: format!("restoring SQLite database {}", source.name),
        events: events.clone(),
        interrupt: interrupt.clone(),
    };
    tokio::task::spawn_blocking(move || work.run())
        .await
        .context(|| "the thread that restores SQLite died")?
}

/// Removes a database file and what belongs to it.
pub fn remove(place: &Path) -> Result<()> {
    for suffix in SIDECARS {
        remove_if_there(&sidecar(place, suffix))?;
    }
    remove_if_there(place)
}

struct Work {
    archive: Archive,
    source: SqliteSource,
    place: PathBuf,
    step: String,
    events: Events,
    interrupt: Interrupt,
}

impl Work {
    fn run(self) -> Result<Restored> {
        self.events.started(&self.step);
        let result = self.write().and_then(|()| self.check());
        match &result {
            Ok(restored) => self.events.finished(
                &self.step,
                format!(
                    "{} tables, {} rows, equal to the backup",
                    restored.tables, restored.rows
                ),
            ),
            Err(_) => remove(&self.place)?,
        }
        result
    }

    fn write(&self) -> Result<()> {
        create_private_folder(folder_of(&self.place))?;
        let cannot = || format!("{} cannot be written", self.place.display());
        let mut file = create_private_file(&self.place)?;
        let total = Some(self.source.page_size * self.source.pages);
        let mut done = 0_u64;
        self.archive
            .each_piece(&self.source.folder, &self.interrupt, |piece| {
                done += piece.len() as u64;
                self.events.progress(&self.step, done, total, Unit::Bytes);
                file.write_all(piece).context(cannot)
            })?;
        file.sync_all().context(cannot)
    }

    /// `SQLite` itself must find the file sound, and its rows must be those of the manifest.
    fn check(&self) -> Result<Restored> {
        let mut connection = sqlite::open_existing(&self.place)?;
        self.check_integrity(&mut connection)?;
        let found = digest_tables(&connection, &self.interrupt)?;
        drop(connection);
        for suffix in SIDECARS {
            remove_if_there(&sidecar(&self.place, suffix))?;
        }
        if found == self.source.tables {
            return Ok(Restored {
                tables: found.len() as u64,
                rows: found.iter().map(|t| t.digest.rows).sum(),
            });
        }
        let wrong: Vec<&str> = self
            .source
            .tables
            .iter()
            .filter(|table| !found.contains(table))
            .map(|table| table.name.as_str())
            .collect();
        Err(self.bad(format!(
            "tables differ from what was backed up: {}",
            wrong.join(", ")
        )))
    }

    fn check_integrity(&self, connection: &mut Connection) -> Result<()> {
        let interrupt = self.interrupt.clone();
        // The check of a large database takes a while; the handler ends it when it is not wanted.
        connection
            .progress_handler(100_000, Some(move || interrupt.is_raised()))
            .context(|| "SQLite takes no progress handler")?;
        let said: Result<String, _> =
            connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0));
        self.interrupt.check()?;
        connection
            .progress_handler(0, None::<fn() -> bool>)
            .context(|| "SQLite keeps its progress handler")?;
        match said {
            Ok(said) if said == "ok" => Ok(()),
            Ok(said) => Err(self.bad(said)),
            Err(error) => Err(self.bad("it cannot be read").because(error)),
        }
    }

    fn bad(&self, what: impl std::fmt::Display) -> Error {
        Error::bad_data(format!(
            "SQLite database {} as restored from {}: {what}",
            self.source.name,
            self.archive.path().display()
        ))
        .hint("Nothing was changed. Use another archive; `k1ops list` shows which there are.")
    }
}
