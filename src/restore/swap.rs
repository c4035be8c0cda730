//! Makes new data live by rename, and keeps the old. Every step can be repeated, and what was done
//! is told from what exists, so that a swap that died anywhere is completed by doing it again.

use super::crash;
use super::journal::{Journal, Old, Replacement};
use crate::adapters::docker::Engine;
use crate::adapters::fs::{create_private_folder, folder_of, rename_durably, sync_folder};
use crate::adapters::postgres::{Address, admin};
use crate::adapters::sqlite::{SIDECARS, sidecar};
use crate::error::{Error, ErrorKind, Result};
use crate::stack::Stack;
use crate::stack::docker::Deployment;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a database may stay busy with sessions that are just ending.
const BUSY: Duration = Duration::from_secs(10);

/// Swaps everything that the journal lists, or what is left of it.
pub(super) async fn swap(stack: &Stack, journal: &mut Journal) -> Result<()> {
    for index in 0..journal.replacements.len() {
        if journal.replacements[index].old() == Old::InPlace {
            require_new(stack, &journal.replacements[index]).await?;
            let old = move_old(stack, &journal.replacements[index]).await?;
            journal.replacements[index].set_old(old);
            journal.write(stack)?;
            crash::point("old-noted");
        }
        move_new(stack, &journal.replacements[index]).await?;
        crash::point("new-moved");
    }
    Ok(())
}

/// Whether nothing has been moved yet, so that the whole may still be given up.
pub(super) async fn nothing_moved(stack: &Stack, journal: &Journal) -> Result<bool> {
    for replacement in &journal.replacements {
        let kept_is_there = match replacement {
            Replacement::File { kept, .. } => stack.folder.join(kept).exists(),
            Replacement::Database { server, kept, .. } => {
                admin::database_exists(&address(stack, server)?, kept).await?
            }
            Replacement::Volume {
                service, beside, ..
            } => Deployment::of(stack)?.volume(*service) == *beside,
        };
        if kept_is_there || replacement.old() != Old::InPlace {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether some of what is to become live is not there.
pub(super) async fn new_is_gone(stack: &Stack, journal: &Journal) -> Result<bool> {
    for replacement in &journal.replacements {
        if missing_new(stack, replacement).await?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Live data only leaves its place for something that is there.
async fn require_new(stack: &Stack, replacement: &Replacement) -> Result<()> {
    match missing_new(stack, replacement).await? {
        Some(what) => Err(gone(&what)),
        None => Ok(()),
    }
}

/// What is to become live and is not there.
async fn missing_new(stack: &Stack, replacement: &Replacement) -> Result<Option<String>> {
    Ok(match replacement {
        Replacement::File {
            beside: Some(beside),
            ..
        } => {
            let place = stack.folder.join(beside);
            (!place.exists()).then(|| place.display().to_string())
        }
        Replacement::Database {
            server,
            beside: Some(beside),
            ..
        } => {
            let there = admin::database_exists(&address(stack, server)?, beside).await?;
            (!there).then(|| beside.clone())
        }
        _ => None,
    })
}

async fn move_old(stack: &Stack, replacement: &Replacement) -> Result<Old> {
    match replacement {
        Replacement::File { live, kept, .. } => {
            move_old_file(&stack.folder.join(live), &stack.folder.join(kept))
        }
        Replacement::Database {
            server, live, kept, ..
        } => move_old_database(&address(stack, server)?, live, kept).await,
        // It stays under its own name; nothing uses it any more once the new one is named.
        Replacement::Volume { kept, .. } => {
            let there = Engine::find().await?.volume(kept).await?.is_some();
            Ok(if there { Old::Kept } else { Old::Nothing })
        }
    }
}

async fn move_new(stack: &Stack, replacement: &Replacement) -> Result<()> {
    match replacement {
        Replacement::File {
            live, beside, kept, ..
        } => {
            let Some(beside) = beside else {
                return Ok(());
            };
            let (live, beside) = (stack.folder.join(live), stack.folder.join(beside));
            move_new_file(&beside, &live, &stack.folder.join(kept))
        }
        Replacement::Database {
            server,
            live,
            beside,
            ..
        } => match beside {
            Some(beside) => move_new_database(&address(stack, server)?, beside, live).await,
            None => Ok(()),
        },
        Replacement::Volume {
            service, beside, ..
        } => Deployment::set_volume(stack, *service, beside),
    }
}

/// The database first, then what belongs to it: without its database nobody opens a log, while a
/// database without its log would look whole and lack its newest rows.
fn move_old_file(live: &Path, kept: &Path) -> Result<Old> {
    create_folder_durably(folder_of(kept))?;
    if live.exists() && kept.exists() {
        // Somebody made a new database after the old one had been moved away.
        return set_aside(live, kept).map(|()| Old::Kept);
    }
    move_if_there(live, kept)?;
    crash::point("old-moved");
    for suffix in SIDECARS {
        move_if_there(&sidecar(live, suffix), &sidecar(kept, suffix))?;
    }
    crash::point("sidecars-moved");
    Ok(if kept.exists() {
        Old::Kept
    } else {
        Old::Nothing
    })
}

/// What belongs to the database first: the move of the database itself is what makes it live.
fn move_new_file(beside: &Path, live: &Path, kept: &Path) -> Result<()> {
    if !beside.exists() {
        if live.exists() {
            return Ok(());
        }
        return Err(gone(&beside.display().to_string()));
    }
    if live.exists() {
        set_aside(live, kept)?;
    }
    create_folder_durably(folder_of(live))?;
    for suffix in SIDECARS {
        move_if_there(&sidecar(beside, suffix), &sidecar(live, suffix))?;
    }
    rename_durably(beside, live)
}

/// What is renamed into a folder is only as safe as the folder's own name.
fn create_folder_durably(folder: &Path) -> Result<()> {
    create_private_folder(folder)?;
    for above in folder.ancestors().skip(1).take(2) {
        if above.is_dir() {
            sync_folder(above)?;
        }
    }
    Ok(())
}

/// Moves a database that nobody expected out of the way, under a name that is free.
fn set_aside(live: &Path, kept: &Path) -> Result<()> {
    let mut number = 2;
    let free = loop {
        let candidate = sidecar(kept, &format!(".{number}"));
        if !candidate.exists() {
            break candidate;
        }
        number += 1;
    };
    tracing::warn!(from = %live.display(), to = %free.display(), "an unexpected database is set aside");
    for suffix in SIDECARS {
        move_if_there(&sidecar(live, suffix), &sidecar(&free, suffix))?;
    }
    move_if_there(live, &free)
}

fn move_if_there(from: &Path, to: &Path) -> Result<()> {
    if from.exists() {
        rename_durably(from, to)?;
    }
    Ok(())
}

async fn move_old_database(address: &Address, live: &str, kept: &str) -> Result<Old> {
    let live_is_there = admin::database_exists(address, live).await?;
    let kept_is_there = admin::database_exists(address, kept).await?;
    if live_is_there && kept_is_there {
        return Err(in_the_way(live, kept));
    }
    if live_is_there {
        rename(address, live, kept).await?;
        crash::point("old-moved");
    }
    Ok(if live_is_there || kept_is_there {
        Old::Kept
    } else {
        Old::Nothing
    })
}

async fn move_new_database(address: &Address, beside: &str, live: &str) -> Result<()> {
    let beside_is_there = admin::database_exists(address, beside).await?;
    let live_is_there = admin::database_exists(address, live).await?;
    match (beside_is_there, live_is_there) {
        (false, true) => Ok(()),
        (false, false) => Err(gone(beside)),
        (true, true) => Err(in_the_way(live, beside)),
        (true, false) => rename(address, beside, live).await,
    }
}

/// Sessions of a server that was stopped end a moment after it.
async fn rename(address: &Address, from: &str, to: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        match admin::rename_database(address, from, to).await {
            Err(error) if error.kind() == ErrorKind::Missing && begun.elapsed() < BUSY => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            other => return other,
        }
    }
}

/// The configured server, which must be the one that the journal is about.
pub(super) fn address(stack: &Stack, server: &str) -> Result<Address> {
    let wrong = || {
        Error::usage(format!(
            "a database on {server} is being replaced, but the configuration names another server"
        ))
        .hint(format!(
            "Set database.url to the server {server} and try again."
        ))
    };
    if !stack.uses_database_url() {
        return Err(wrong());
    }
    let address = stack.database_address()?;
    if server_of(&address) == server {
        Ok(address)
    } else {
        Err(wrong())
    }
}

/// A server in words that stay the same: `HOST:PORT`.
pub(super) fn server_of(address: &Address) -> String {
    format!("{}:{}", address.host(), address.port())
}

fn in_the_way(live: &str, other: &str) -> Error {
    Error::refused(format!(
        "database {live:?} was made by somebody else while {other:?} is to be moved"
    ))
    .hint(format!(
        "Rename or drop database {live:?} by hand, then run the command again: it completes the swap."
    ))
}

fn gone(what: &str) -> Error {
    Error::bad_data(format!(
        "{what} is gone, and so is the data it was to replace"
    ))
    .hint("Somebody removed it by hand; restore an archive with `k1ops restore`.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        std::fs::write(path, text).unwrap();
    }

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_log_goes_with_its_database_both_ways() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (live, new, kept) = (at("live"), at("new"), at("kept/live"));
        write(&live, "old");
        write(&sidecar(&live, "-wal"), "old log");
        write(&new, "new");
        write(&sidecar(&new, "-wal"), "new log");
        assert_eq!(move_old_file(&live, &kept).unwrap(), Old::Kept);
        move_new_file(&new, &live, &kept).unwrap();
        move_new_file(&new, &live, &kept).unwrap();
        assert_eq!(read(&live), "new");
        assert_eq!(read(&sidecar(&live, "-wal")), "new log");
        assert_eq!(read(&kept), "old");
        assert_eq!(read(&sidecar(&kept, "-wal")), "old log");
    }

    #[test]
    fn a_stale_log_without_a_database_never_meets_the_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        write(&at("live-wal"), "stale");
        write(&at("new"), "new");
        assert_eq!(
            move_old_file(&at("live"), &at("kept")).unwrap(),
            Old::Nothing
        );
        move_new_file(&at("new"), &at("live"), &at("kept")).unwrap();
        assert!(!at("live-wal").exists());
        assert_eq!(read(&at("kept-wal")), "stale");
    }

    #[test]
    fn a_database_that_was_made_meanwhile_is_set_aside_not_lost() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        write(&at("kept"), "old");
        write(&at("live"), "intruder");
        write(&at("new"), "new");
        assert_eq!(move_old_file(&at("live"), &at("kept")).unwrap(), Old::Kept);
        write(&at("live"), "second intruder");
        move_new_file(&at("new"), &at("live"), &at("kept")).unwrap();
        assert_eq!(read(&at("live")), "new");
        assert_eq!(read(&at("kept")), "old");
        assert_eq!(read(&at("kept.2")), "intruder");
        assert_eq!(read(&at("kept.3")), "second intruder");
    }

    #[test]
    fn new_data_that_is_gone_is_an_error_not_an_empty_stack() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let error = move_new_file(&at("new"), &at("live"), &at("kept")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadData);
    }
}
