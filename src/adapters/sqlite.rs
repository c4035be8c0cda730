//! `SQLite` files: opened with the settings that a live Conductor database needs.

use crate::error::{Context, Error, ErrorKind, Result};
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
        super::fs::create_private_folder(super::fs::folder_of(path))?;
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
        .map_err(|error| {
            let what = format!(
                "SQLite database {} cannot be put into WAL mode",
                path.display()
            );
            Error::new(kind_of(&error), what).because(error)
        })?;
    Ok(connection)
}

/// The kind that an `SQLite` error is of, in the terms of the exit-code table.
#[must_use]
pub fn kind_of(error: &rusqlite::Error) -> ErrorKind {
    use rusqlite::ErrorCode;
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => ErrorKind::Locked,
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => ErrorKind::BadData,
        Some(
            ErrorCode::ReadOnly
            | ErrorCode::PermissionDenied
            | ErrorCode::CannotOpen
            | ErrorCode::DiskFull,
        ) => ErrorKind::Missing,
        _ => ErrorKind::Failed,
    }
}

/// Makes of what `SQLite` says an error of the kind that it is, with what helps where the file is damaged.
pub fn because<M: Into<String>>(
    cannot: impl FnOnce() -> M,
) -> impl FnOnce(rusqlite::Error) -> Error {
    move |cause| {
        let kind = kind_of(&cause);
        let error = Error::new(kind, cannot()).because(cause);
        match kind {
            ErrorKind::BadData => error.hint(
                "The file is damaged. Restore a backup with `k1ops restore latest --no-safety`; \
                 the damaged file is kept for `k1ops undo`.",
            ),
            _ => error,
        }
    }
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

/// Where `SQLite` keeps the bytes that stand for its locks, and how many they are.
const LOCK_BYTES: (u64, u64) = (0x4000_0000, 512);

/// A process other than this one that has the database open. In WAL mode every connection holds a
/// shared lock for as long as it lives, so this finds idle ones too.
pub fn in_use_by(path: &Path) -> Result<Option<u32>> {
    use rustix::process::{Flock, FlockType, fcntl_getlk};
    let cannot = || format!("the locks of {} cannot be read", path.display());
    let file = match std::fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.context(cannot)?,
    };
    let mut wanted = Flock::from(FlockType::WriteLock);
    (wanted.start, wanted.length) = LOCK_BYTES;
    let held = fcntl_getlk(&file, &wanted).context(cannot)?;
    Ok(held
        .and_then(|lock| lock.pid)
        .and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok()))
}

/// The files that `SQLite` may keep beside a database, by what is appended to its name. They belong
/// to that database and to no other that takes its place.
pub const SIDECARS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// The name of a file beside the database at `path`.
#[must_use]
pub fn sidecar(path: &Path, suffix: &str) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
