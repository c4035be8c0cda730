//! `SQLite` files: opened with the settings that a live Conductor database needs.

use crate::error::{Context, Error, Result};
use rusqlite::{Connection, OpenFlags};
use std::path::Path;
use std::time::Duration;

/// How long to wait for another connection's lock.
const BUSY: Duration = Duration::from_secs(15);

/// Opens an existing database for reading only.
pub fn open_read_only(path: &Path) -> Result<Connection> {
    open(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

/// Opens an existing database.
pub fn open_existing(path: &Path) -> Result<Connection> {
    open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
}

/// Opens a database in WAL mode and creates it, mode 0600, if it is not there.
pub fn open_or_create(path: &Path) -> Result<Connection> {
    if !path.exists() {
        super::fs::create_private_folder(path.parent().unwrap_or(Path::new(".")))?;
        // SQLite gives its -wal and -shm files the mode of the database.
        match super::fs::create_private_file(path) {
            // Another process was quicker.
            Err(_) if path.exists() => {}
            created => drop(created?),
        }
    }
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection
        .pragma_update(None, "journal_mode", "WAL")
        .context(|| {
            format!(
                "SQLite database {} cannot be put into WAL mode",
                path.display()
            )
        })?;
    Ok(connection)
}

fn open(path: &Path, access: OpenFlags) -> Result<Connection> {
    if !path.exists() {
        return Err(
            Error::missing(format!("SQLite database {} does not exist", path.display()))
                .hint("Start the stack once, or restore a backup."),
        );
    }
    // Without SQLITE_OPEN_URI, a path that begins with `file:` is a path.
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let cannot = || format!("SQLite database {} cannot be opened", path.display());
    let connection = Connection::open_with_flags(path, flags).context(cannot)?;
    connection.busy_timeout(BUSY).context(cannot)?;
    connection
        .pragma_update(None, "foreign_keys", true)
        .context(cannot)?;
    Ok(connection)
}
