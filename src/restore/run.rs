//! A restore from its plan to data that is live and compared.

use super::claim::Claim;
use super::journal::{Action, Journal, Old, Phase, Replacement};
use super::plan::{PlannedPart, RestoreOptions, RestorePlan, Safety, ServerPlan, plan};
use super::recover::{abandon, complete};
use super::server::{StartedAgain, start_again, stop, wait_for_others};
use super::swap::{address, nothing_moved};
use super::volume::Restoring;
use super::{crash, postgres, sqlite};
use crate::backup::{self, BackupOptions, PlannedSource};
use crate::error::{Error, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use crate::repository::Purpose;
use crate::stack::docker::{Lent, lend_database};
use crate::stack::{self, Stack};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A part that was restored and found equal to the backup.
#[derive(Debug, Clone, Serialize)]
pub struct RestoredPart {
    /// Such as `sqlite conductor`.
    pub what: String,
    /// Tables.
    pub tables: u64,
    /// Rows, all of them compared.
    pub rows: u64,
    /// Of a volume: its entries, which were compared or which a server was run on.
    pub entries: u64,
    /// Every row was compared with the backup. Files of other tools say nothing to compare with.
    pub compared: bool,
    /// Where the data that it replaced is kept; `None`: there was none.
    pub kept: Option<String>,
}

/// What a restore did.
#[derive(Debug, Clone, Serialize)]
pub struct RestoreReport {
    /// The stack.
    pub stack: String,
    /// The archive.
    pub archive: PathBuf,
    /// Under what `k1ops undo` finds it.
    pub id: String,
    /// What was restored.
    pub parts: Vec<RestoredPart>,
    /// What was there before went into this archive.
    pub safety_archive: Option<PathBuf>,
    /// The server, if it was started afterwards.
    pub server: Option<StartedAgain>,
    /// Workflows may be stranded; the next `k1ops start` puts them back.
    pub requeue_pending: bool,
    /// Seconds it took.
    pub seconds: f64,
}

/// What happens around a swap.
#[derive(Debug, Clone, Copy)]
pub(super) struct Around {
    pub(super) start: bool,
    pub(super) terminate_sessions: bool,
}

/// Plans and restores without asking.
pub async fn run(
    stack: &Stack,
    options: &RestoreOptions,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<RestoreReport> {
    let claim = Claim::take(stack, "k1ops restore", events).await?;
    let plan = plan(stack, options, events, interrupt).await?;
    execute(stack, &claim, plan, events, interrupt).await
}

/// Executes `plan`.
///
/// Until the swap begins, whatever fails and whenever it is interrupted, everything is as before.
/// From then on it goes on to the end; if it dies, the next run completes it.
pub async fn execute(
    stack: &Stack,
    _claim: &Claim,
    plan: RestorePlan,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<RestoreReport> {
    let postgres = |part: &PlannedPart| matches!(part, PlannedPart::Postgres { .. });
    let needs_database = plan.parts.iter().any(postgres);
    let lent = lend(stack, needs_database, events, interrupt).await?;
    let report = Box::pin(execute_lent(stack, plan, events, interrupt)).await;
    take_back(stack, lent).await?;
    report
}

/// The database of tier 1, started for the work alone where the stack is stopped.
pub(super) async fn lend(
    stack: &Stack,
    needed: bool,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<Option<Lent>> {
    if !needed || !stack.is_in_docker()? {
        return Ok(None);
    }
    lend_database(stack, events, interrupt).await.map(Some)
}

/// Stops it again, unless the stack runs on it now.
pub(super) async fn take_back(stack: &Stack, lent: Option<Lent>) -> Result<()> {
    match lent {
        Some(lent) => stack::take_back(stack, lent).await,
        None => Ok(()),
    }
}

async fn execute_lent(
    stack: &Stack,
    plan: RestorePlan,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<RestoreReport> {
    let begun = Begun::now(
        stack,
        &plan.archive,
        plan.safety,
        &plan.parts,
        events,
        interrupt,
    )
    .await?;
    let restored = restore_beside(stack, &begun.journal, &plan, events, interrupt).await;
    let around = Around {
        start: plan.server == ServerPlan::Start,
        terminate_sessions: plan.terminate_sessions,
    };
    begun.end(stack, restored, around, events, interrupt).await
}

/// A restore that is noted, and has replaced nothing yet.
pub(super) struct Begun {
    at: Instant,
    archive: PathBuf,
    safety: Option<PathBuf>,
    pub(super) journal: Journal,
}

impl Begun {
    /// Saves what is to be replaced, and notes what is going to happen.
    pub(super) async fn now(
        stack: &Stack,
        archive: &Path,
        safety: Safety,
        parts: &[PlannedPart],
        events: &Events,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let at = Instant::now();
        let safety = match safety {
            Safety::Archive => Some(save_present(stack, parts, events, interrupt).await?),
            Safety::NothingThere | Safety::Declined => None,
        };
        let action = Action::Restore {
            archive: archive.to_owned(),
            safety: safety.clone(),
        };
        let mut journal = Journal::new(stack, action);
        for part in parts {
            let replacement = replacement(stack, &journal.id, part);
            journal.replacements.push(replacement);
        }
        journal.write(stack)?;
        crash::point("restoring-noted");
        Ok(Self {
            at,
            archive: archive.to_owned(),
            safety,
            journal,
        })
    }

    /// Makes what was restored live, or gives all of it up.
    pub(super) async fn end(
        mut self,
        stack: &Stack,
        restored: Result<Vec<RestoredPart>>,
        around: Around,
        events: &Events,
        interrupt: &Interrupt,
    ) -> Result<RestoreReport> {
        let journal = &mut self.journal;
        let parts = match restored {
            Ok(parts) => parts,
            Err(error) => {
                give_up(stack, journal, events).await;
                return Err(error);
            }
        };
        let server = promote(stack, journal, around, events, interrupt).await?;
        Ok(RestoreReport {
            stack: stack.name.clone(),
            archive: self.archive,
            parts: with_kept(stack, parts, journal),
            safety_archive: self.safety,
            requeue_pending: server.is_none() && journal.requeue_pending,
            server,
            seconds: self.at.elapsed().as_secs_f64(),
            id: self.journal.id,
        })
    }
}

/// Backs up what is about to be replaced.
async fn save_present(
    stack: &Stack,
    parts: &[PlannedPart],
    events: &Events,
    interrupt: &Interrupt,
) -> Result<PathBuf> {
    let saved = async {
        let mut plan = backup::plan(stack, &BackupOptions::default(), Purpose::Safety)?;
        plan.sources.retain(|source| is_replaced(source, parts));
        backup::take(stack, plan, events, interrupt).await
    };
    let report = saved.await.map_err(|error| {
        let why = "the present data cannot be backed up before the restore";
        Error::new(error.kind(), why)
            .because(error)
            .hint("Nothing was changed. --no-safety goes on without; the present data is kept for `k1ops undo` even so.")
    })?;
    Ok(report.archive)
}

/// What is not there cannot be saved, and what is not replaced need not be.
fn is_replaced(source: &PlannedSource, parts: &[PlannedPart]) -> bool {
    parts.iter().any(|part| match (source, part) {
        (PlannedSource::Config { .. }, _) => true,
        (PlannedSource::Postgres { .. }, PlannedPart::Postgres { replaces, .. }) => *replaces,
        (PlannedSource::Sqlite { path, .. }, PlannedPart::Sqlite { live, .. }) => path == live,
        (PlannedSource::Volume { volume, .. }, PlannedPart::Volume { live, replaces, .. }) => {
            *replaces && volume == live
        }
        _ => false,
    })
}

/// New and kept data lie in the folder of the live data: a rename never crosses file systems.
fn replacement(stack: &Stack, id: &str, part: &PlannedPart) -> Replacement {
    match part {
        PlannedPart::Sqlite { what, live, .. } => {
            let live = live.strip_prefix(&stack.folder).unwrap_or(live);
            let (folder, name) = (
                live.parent().unwrap_or(Path::new("")),
                live.file_name().unwrap_or_default(),
            );
            let own = folder.join(format!("restore-{id}"));
            Replacement::File {
                what: what.clone(),
                live: live.to_path_buf(),
                beside: Some(own.join("new").join(name)),
                kept: own.join("kept").join(name),
                old: Old::InPlace,
            }
        }
        PlannedPart::Postgres {
            what, server, live, ..
        } => Replacement::Database {
            what: what.clone(),
            server: server.clone(),
            live: live.clone(),
            beside: Some(database_name(live, "new", id)),
            kept: database_name(live, "kept", id),
            old: Old::InPlace,
        },
        PlannedPart::Volume {
            what,
            service,
            live,
            source,
            ..
        } => Replacement::Volume {
            what: what.clone(),
            service: *service,
            beside: format!("{}_{id}", source.name()),
            kept: live.clone(),
            old: Old::InPlace,
        },
    }
}

/// A name that says what it is; the server cuts names off at 63 bytes.
pub(super) fn database_name(live: &str, role: &str, id: &str) -> String {
    let end = format!("_k1ops_{role}_{id}");
    let mut length = live.len().min(63 - end.len());
    while !live.is_char_boundary(length) {
        length -= 1;
    }
    format!("{}{end}", &live[..length])
}

async fn restore_beside(
    stack: &Stack,
    journal: &Journal,
    plan: &RestorePlan,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<Vec<RestoredPart>> {
    let mut parts = Vec::new();
    for (part, replacement) in plan.parts.iter().zip(&journal.replacements) {
        let (tables, rows, entries) = match (part, replacement) {
            (
                PlannedPart::Sqlite { source, .. },
                Replacement::File {
                    beside: Some(beside),
                    ..
                },
            ) => {
                let place = stack.folder.join(beside);
                let restored =
                    sqlite::restore_beside(&plan.opened, source, &place, events, interrupt).await?;
                (restored.tables, restored.rows, 0)
            }
            (
                PlannedPart::Postgres { server, .. },
                Replacement::Database {
                    beside: Some(beside),
                    ..
                },
            ) => {
                let address = address(stack, server)?;
                let options = postgres::Options { jobs: plan.jobs };
                let restored = postgres::restore_beside(
                    &plan.opened,
                    &address,
                    beside,
                    &options,
                    events,
                    interrupt,
                )
                .await?;
                (restored.tables, restored.rows, 0)
            }
            (PlannedPart::Volume { source, .. }, Replacement::Volume { beside, .. }) => {
                let restoring =
                    Restoring::begin(stack, &plan.opened, plan.jobs, events, interrupt).await?;
                (0, 0, restoring.restore_beside(source, beside).await?)
            }
            _ => return Err(Error::failed(format!("{} has no place to go", part.what()))),
        };
        crash::point("restored-beside");
        parts.push(RestoredPart {
            what: part.what().to_owned(),
            tables,
            rows,
            entries,
            compared: true,
            kept: None,
        });
    }
    interrupt.check()?;
    crash::point("checked");
    Ok(parts)
}

fn with_kept(stack: &Stack, mut parts: Vec<RestoredPart>, journal: &Journal) -> Vec<RestoredPart> {
    for (part, replacement) in parts.iter_mut().zip(&journal.replacements) {
        part.kept = (replacement.old() == Old::Kept).then(|| replacement.kept_at(stack));
    }
    parts
}

/// Makes what the journal lists live: stop, look that nobody else is in the data, swap, start,
/// requeue.
pub(super) async fn promote(
    stack: &Stack,
    journal: &mut Journal,
    around: Around,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<Option<StartedAgain>> {
    if let Err(error) = exchange(stack, journal, around, events, interrupt).await {
        if journal.phase == Phase::Restoring {
            give_up(stack, journal, events).await;
            if journal.server_stopped
                && let Err(again) = start_again(stack, events).await
            {
                events.warning_with_hint(
                    format!("the server was stopped and does not start again: {again}"),
                    "Its data is as before; start it with `k1ops start`.",
                );
            }
        }
        return Err(error);
    }
    let mut started = Ok(None);
    if journal.server_stopped || around.start {
        started = start_again(stack, events).await.map(Some);
    }
    // Read again: putting workflows back is noted by whoever does it.
    *journal = Journal::read(stack, &journal.id)?;
    journal.enter(Phase::Done, stack)?;
    crash::point("done-noted");
    started.map_err(|error| {
        Error::new(
            error.kind(),
            "the data is in place and complete, but the server does not start on it",
        )
        .because(error)
        .hint("`k1ops logs` says why; `k1ops undo` puts the old data back.")
    })
}

async fn exchange(
    stack: &Stack,
    journal: &mut Journal,
    around: Around,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<()> {
    let server = stop(stack, journal, events).await?;
    let terminate = around.terminate_sessions;
    wait_for_others(stack, journal, terminate, events, interrupt).await?;
    interrupt.check()?;
    let step = "replacing the live data";
    events.started(step);
    journal.enter(Phase::Swapping, stack)?;
    crash::point("swapping-noted");
    if let Err(error) = complete(stack, journal).await {
        // A first move that fails has changed nothing: then all of it is given up.
        if nothing_moved(stack, journal).await.unwrap_or(false) {
            if let Err(cannot_note) = journal.enter(Phase::Restoring, stack) {
                // The note on disk still promises the swap: what it needs must not be removed.
                journal.phase = Phase::Swapping;
                return Err(cannot_note.because(error));
            }
            return Err(error);
        }
        return Err(Error::new(error.kind(), "the data is only partly replaced")
            .because(error)
            .hint("When the cause is removed, run any k1ops start, backup, restore or undo: it completes the swap first."));
    }
    events.finished(step, "");
    drop(server);
    Ok(())
}

/// Removes what was made. What cannot be removed now is removed by the next run.
async fn give_up(stack: &Stack, journal: &mut Journal, events: &Events) {
    if let Err(error) = abandon(stack, journal).await {
        events.warning_with_hint(
            format!("what was restored beside the live data is still there: {error}"),
            "The live data is as before; the next k1ops run removes the rest.",
        );
    }
}
