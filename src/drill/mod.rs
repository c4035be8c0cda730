//! A drill: an archive is restored into a scratch stack, a real server is run on it, a workflow that
//! was running is brought to its end, and everything is removed again. It shows that a backup is
//! one, and measures how long a restore takes.
//!
//! The stack itself is not touched, and neither is the world: the scratch server runs no system
//! tasks, no events and no schedules, so that a workflow which calls somebody calls nobody.

mod ground;
mod record;
mod work;

pub use record::{Record, read};
pub use work::Work;

use crate::adapters::fs::Lock;
use crate::archive::Archive;
use crate::conductor::{Client, Requeued};
use crate::config::ProofKind;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use crate::repository::{Kind, LATEST, Repository};
use crate::restore::{self, RestoreOptions, RestoreReport, RestoredPart};
use crate::stack::{self, Prepare, Stack, StartOptions, Tier};
use chrono::Utc;
use ground::Ground;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// How a drill is done.
#[derive(Debug, Clone)]
pub struct DrillOptions {
    /// A name in the repository, a path, or `latest`.
    pub archive: String,
    /// Leave the scratch folder where it is.
    pub keep: bool,
}

/// What a drill has shown.
#[derive(Debug, Clone, Serialize)]
pub struct DrillReport {
    /// The archive.
    pub archive: PathBuf,
    /// The tier that it was restored on.
    pub tier: Tier,
    /// Tables, all of them compared row by row with what was backed up.
    pub tables: u64,
    /// Rows, all of them compared.
    pub rows: u64,
    /// What became of the workflows; none if there is no server in what was backed up.
    pub work: Option<Work>,
    /// Workflows that were stranded and put back.
    pub requeued: Option<Requeued>,
    /// Seconds from the beginning of the restore to honest health: the measured time to recover.
    pub rto_seconds: f64,
    /// Of these, seconds of the restore, with reading all of the archive.
    pub restore_seconds: f64,
    /// Of these, seconds of the server's start.
    pub start_seconds: f64,
    /// The scratch folder, if it was kept.
    pub folder: Option<PathBuf>,
}

/// Does a drill, and records how it ended: that it passed, or that the backup is none.
///
/// Fails with [`ErrorKind::BadData`] if the backup does not bring back a stack that works.
/// What is missing on this host says nothing of the backup, and is not recorded.
pub async fn run(
    stack: &Stack,
    options: &DrillOptions,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<DrillReport> {
    let _lock = Lock::exclusive(&stack.lock_file("drill"), "k1ops drill")?;
    ground::remove_abandoned(stack, events).await?;
    let repository = Repository::of(stack)?;
    let kind = Some(Kind::Logical);
    if options.archive == LATEST {
        repository.warn_of_ahead(&stack.name, events);
    }
    let path = repository.find_kind(&options.archive, &stack.name, kind)?;
    let began = Utc::now();
    let done = match repository.open(&path) {
        Ok(archive) => Box::pin(on_scratch(stack, &archive, options, events, interrupt)).await,
        Err(error) => Err(error),
    };
    let record = match &done {
        Ok(report) => Record::passed(began, report),
        Err(error) if error.kind() == ErrorKind::BadData => Record::failed(began, &path, error),
        Err(_) => return done,
    };
    record.write(stack)?;
    note(&repository, &path, &done)?;
    done
}

/// A drill of `archive` with what `stack` says is to run. Nothing is recorded of it: that a new version
/// does not come up says nothing of the backup.
pub async fn rehearse(
    stack: &Stack,
    archive: &Path,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<DrillReport> {
    let _lock = Lock::exclusive(&stack.lock_file("drill"), "k1ops upgrade")?;
    ground::remove_abandoned(stack, events).await?;
    let archive = Repository::of(stack)?.open(archive)?;
    let options = DrillOptions {
        archive: archive.path().display().to_string(),
        keep: false,
    };
    Box::pin(on_scratch(stack, &archive, &options, events, interrupt)).await
}

/// Whoever prunes may ask for drills.
fn note(repository: &Repository, path: &Path, done: &Result<DrillReport>) -> Result<()> {
    let Ok(archive) = repository.open(path) else {
        return Ok(());
    };
    match done {
        Ok(_) => repository.note_proof(&archive, ProofKind::Drill),
        Err(error) => repository.note_failure(&archive, &error.to_string()),
    }
}

/// Whatever happens, everything is removed.
async fn on_scratch(
    stack: &Stack,
    archive: &Archive,
    options: &DrillOptions,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<DrillReport> {
    let mut ground = Ground::prepare(stack, archive)?;
    let folder = options.keep.then(|| ground.keep());
    let played = Box::pin(play(&ground, archive, events, interrupt)).await;
    let cleared = Box::pin(ground.clear(events)).await;
    let mut report = played?;
    cleared?;
    report.folder = folder;
    Ok(report)
}

async fn play(
    ground: &Ground,
    archive: &Archive,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<DrillReport> {
    let (scratch, tier) = (&ground.stack, ground.tier);
    let begun = Instant::now();
    let restored = restore_into(scratch, archive, events, interrupt).await?;
    let restore_seconds = begun.elapsed().as_secs_f64();
    let (mut work, mut requeued) = (None, None);
    let mut rto_seconds = restore_seconds;
    if tier != Tier::Direct {
        let client = boot(scratch, events, interrupt).await?;
        requeued = restore::requeue_pending(scratch, events, interrupt).await?;
        rto_seconds = begun.elapsed().as_secs_f64();
        let working = Box::pin(work::complete_one(&client, events, interrupt)).await;
        work = Some(working.map_err(|error| {
            blame_data(
                error,
                "the server on the restored data does not do its work",
            )
        })?);
    }
    Ok(DrillReport {
        archive: archive.path().to_path_buf(),
        tier,
        tables: restored.parts.iter().map(|part| part.tables).sum(),
        rows: restored.parts.iter().map(|part| part.rows).sum(),
        work,
        requeued,
        rto_seconds,
        restore_seconds,
        start_seconds: rto_seconds - restore_seconds,
        folder: None,
    })
}

async fn restore_into(
    scratch: &Stack,
    archive: &Archive,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<RestoreReport> {
    let options = RestoreOptions {
        archive: archive.path().display().to_string(),
        no_safety: true,
        ..RestoreOptions::default()
    };
    let report = Box::pin(restore::run(scratch, &options, events, interrupt)).await?;
    // Volumes are compared entry by entry, or a server was run on them.
    let is_shown = |part: &RestoredPart| part.compared || part.entries > 0;
    if report.parts.iter().all(is_shown) {
        return Ok(report);
    }
    Err(Error::bad_data(
        "not every row of the restored data could be compared",
    ))
}

/// A server that does not come up on the restored data is what a drill is for.
async fn boot(scratch: &Stack, events: &Events, interrupt: &Interrupt) -> Result<Client> {
    let options = StartOptions {
        // A process in the background would outlive the drill.
        prepare: Prepare::No,
        ..StartOptions::default()
    };
    let started = Box::pin(stack::start(scratch, &options, events, interrupt)).await;
    let report =
        started.map_err(|error| blame_data(error, "no server comes up on the restored data"))?;
    if !report.is_well() {
        return Err(Error::bad_data(
            "the server is not healthy on the restored data",
        ));
    }
    scratch.conductor()
}

/// What fails on the restored data, and is not missing on this host, is the data's fault until
/// somebody knows better.
fn blame_data(error: Error, message: &str) -> Error {
    match error.kind() {
        ErrorKind::Failed => Error::bad_data(message).because(error),
        _ => error,
    }
}
