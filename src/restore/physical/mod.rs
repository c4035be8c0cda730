//! A physical backup into an empty folder, as a data directory that the same major version of
//! `PostgreSQL` starts on; or as a stream for somebody else to unpack.
//!
//! The file without which no server starts, `global/pg_control`, gets its name last: a restore that
//! was killed cannot be mistaken for a complete one.

mod folder;
mod recovery;
mod settle;
mod stream;
mod tablespaces;

pub use recovery::Recovery;
pub use stream::tar_stream;

use crate::adapters::fs::free_space;
use crate::archive::{Archive, PhysicalSource};
use crate::error::{Context, Error, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use folder::Unpacking;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// How to restore.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Threads that work at the same time.
    pub jobs: usize,
    /// Where tablespaces go: their folder on the server, and the empty folder that each gets.
    pub tablespaces: BTreeMap<String, PathBuf>,
    /// What the server is to do when it starts; `None`: recover from the backup's own log.
    pub recovery: Option<Recovery>,
}

/// What was restored, and found equal to the server's manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// Files that were compared with the server's manifest.
    pub files: u64,
    /// Bytes of the tar streams.
    pub bytes: u64,
}

/// The physical backup of `volume` in the archive.
pub fn source<'a>(archive: &'a Archive, volume: &str) -> Result<&'a PhysicalSource> {
    let mut physical = archive.manifest().physical();
    physical
        .find(|source| source.volume == volume)
        .ok_or_else(|| archive.bad(format!("holds no physical backup of volume {volume}")))
}

/// Restores `source` into `place`, which must be empty or not exist yet. Every file is synced and
/// then compared with the server's manifest. On failure, what was made is removed again.
pub async fn restore(
    archive: &Archive,
    source: &PhysicalSource,
    place: &Path,
    options: &Options,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<Restored> {
    let targets = check(archive, source, place, options)?;
    let mut unpacking = Unpacking {
        archive: archive.clone(),
        source: source.clone(),
        targets,
        jobs: options.jobs,
        recovery: options.recovery.clone(),
        events: events.clone(),
        interrupt: interrupt.clone(),
        step: format!("restoring volume {}", source.volume),
        made: folder::Made::default(),
    };
    // On a thread that nobody drops: an interrupt is noticed there, and what was made is removed.
    tokio::task::spawn_blocking(move || {
        let result = unpacking.run();
        if result.is_err()
            && let Err(error) = unpacking.made.remove()
        {
            unpacking.events.warning_with_hint(
                format!("not all of the unfinished restore could be removed: {error}"),
                "Remove the folder by hand before you restore into it again.",
            );
        }
        result
    })
    .await
    .context(|| "a restoring thread died")?
}

/// Whether `source` can be restored into `place` as things are; answers the folder of each tar stream.
pub(super) fn check(
    archive: &Archive,
    source: &PhysicalSource,
    place: &Path,
    options: &Options,
) -> Result<HashMap<String, PathBuf>> {
    let targets = tablespaces::targets(archive, source, place, options)?;
    for target in targets.values() {
        check_place(target)?;
    }
    check_space(source, place)?;
    Ok(targets)
}

/// A place must be free: nothing of the user's is overwritten or mixed with what is restored.
fn check_place(place: &Path) -> Result<()> {
    let used = match std::fs::read_dir(place) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(error).context(|| format!("{} cannot be read", place.display())),
    };
    if used {
        return Err(
            Error::refused(format!("folder {} is not empty", place.display()))
                .hint("Restore into another folder, or move what is there away first."),
        );
    }
    Ok(())
}

fn check_space(source: &PhysicalSource, place: &Path) -> Result<()> {
    let (free, needed) = (free_space(place)?, source.size());
    if free < needed {
        return Err(Error::missing(format!(
            "{} has {free} bytes free, the restore needs {needed}",
            place.display()
        ))
        .hint("Free some space, or restore into a folder on a larger file system."));
    }
    Ok(())
}
