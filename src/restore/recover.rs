//! After a run that died: either everything is as before, or everything is new.

use super::claim::Claim;
use super::journal::{Action, Journal, Old, Phase, Replacement};
use super::run::{lend, take_back};
use super::server::wait_for_others;
use super::swap::{address, new_is_gone, nothing_moved, swap};
use super::{crash, sqlite, volume};
use crate::adapters::fs::Lock;
use crate::adapters::postgres::admin;
use crate::error::{Error, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use crate::stack::Stack;
use crate::stack::docker::Lent;
use serde::Serialize;

/// What was made of a run that died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It had replaced nothing: what it had made was removed.
    AsBefore,
    /// It had begun to replace: the rest was replaced too.
    Completed,
    /// It was deleting kept data: the rest was deleted too.
    Discarded,
    /// It was deleting kept data, and the rest cannot be deleted now. The live data needs nothing of it.
    StillKept,
}

/// A run that died, put right.
#[derive(Debug, Clone, Serialize)]
pub struct Recovered {
    /// The run, such as `the restore of ARCHIVE (ID)`.
    pub what: String,
    /// What was made of it.
    pub outcome: Outcome,
}

/// A run that has not ended.
#[derive(Debug, Clone, Serialize)]
pub struct Unfinished {
    /// The run, such as `the restore of ARCHIVE (ID)`.
    pub what: String,
    /// How far it got.
    pub phase: Phase,
    /// It is still at work; otherwise it died.
    pub at_work: bool,
}

impl Unfinished {
    /// What is the case, and what to do about it.
    #[must_use]
    pub fn explain(&self) -> (String, String) {
        let what = &self.what;
        if self.at_work {
            return (
                format!("{what} is at work"),
                "Wait until it has ended.".to_owned(),
            );
        }
        let (is, todo) = match self.phase {
            Phase::Restoring => (
                "died before it replaced anything: the data is as before",
                "Run it again; the next k1ops start, backup or restore removes what it left behind.",
            ),
            Phase::Swapping => (
                "died while it replaced data: its new data is complete, and partly in place",
                "Run `k1ops start`, or any backup, restore or undo: it puts the rest in place first.",
            ),
            Phase::Discarding => (
                "has kept data that was being deleted",
                "Run `k1ops undo --discard` again, or any backup or restore.",
            ),
            _ => (
                "died after it had replaced everything: the new data is complete and in place",
                "Run `k1ops start`; `k1ops undo` puts the old data back.",
            ),
        };
        (format!("{what} {is}"), todo.to_owned())
    }
}

/// Whether a run has not ended, for telling of it. Changes nothing.
pub fn unfinished(stack: &Stack) -> Result<Option<Unfinished>> {
    let Some(journal) = Journal::unfinished(stack)? else {
        return Ok(None);
    };
    // The lock is taken for a moment to look, for which those who need it allow.
    let at_work = Lock::shared(&stack.lock_file("data")).is_err();
    Ok(Some(Unfinished {
        what: journal.describe(),
        phase: journal.phase,
        at_work,
    }))
}

/// Puts right what a run that died left behind, if there is something. What starts the stack or
/// reads its data calls this first.
///
/// Fails with [`crate::error::ErrorKind::Locked`] while a living run is at work.
pub async fn recover(stack: &Stack, events: &Events) -> Result<Option<Recovered>> {
    if Journal::unfinished(stack)?.is_none() && Journal::leftovers(stack).is_empty() {
        return Ok(None);
    }
    let (_claim, recovered) = Claim::take_and_recover(stack, "recovery", events).await?;
    Ok(recovered)
}

/// Finishes `journal`, whose run died. The caller holds the data lock.
pub(super) async fn finish(
    stack: &Stack,
    mut journal: Journal,
    events: &Events,
) -> Result<Recovered> {
    let what = journal.describe();
    if journal.phase == Phase::Discarding {
        let outcome = match discard_rest(stack, &mut journal, events).await {
            Ok(()) => {
                let happened = "had died while its kept data was deleted; the rest was deleted";
                tell(&journal, &what, happened, events);
                Outcome::Discarded
            }
            Err(error) => {
                tell_what_stays(&what, &error, events);
                Outcome::StillKept
            }
        };
        return Ok(Recovered { what, outcome });
    }
    let lent = lend_for(stack, &journal, events).await?;
    if journal.phase == Phase::Swapping
        && nothing_moved(stack, &journal).await?
        && new_is_gone(stack, &journal).await?
    {
        // There is nothing to complete, and nothing that was lost.
        journal.enter(Phase::Restoring, stack)?;
    }
    let outcome = match journal.phase {
        Phase::Restoring => {
            abandon(stack, &mut journal).await?;
            Outcome::AsBefore
        }
        Phase::Swapping => {
            let _server = super::server::stop(stack, &mut journal, events).await?;
            let interrupt = Interrupt::default();
            wait_for_others(stack, &journal, false, events, &interrupt).await?;
            complete(stack, &mut journal).await?;
            journal.enter(Phase::Done, stack)?;
            Outcome::Completed
        }
        _ => {
            conclude(stack, &mut journal)?;
            journal.enter(Phase::Done, stack)?;
            Outcome::Completed
        }
    };
    take_back(stack, lent).await?;
    let happened = if outcome == Outcome::AsBefore {
        "had died before it replaced anything; what it left was removed"
    } else {
        "had died while it replaced data; it was completed"
    };
    tell(&journal, &what, happened, events);
    Ok(Recovered { what, outcome })
}

/// The database, if something of it is replaced or kept.
async fn lend_for(stack: &Stack, journal: &Journal, events: &Events) -> Result<Option<Lent>> {
    let database = |r: &Replacement| matches!(r, Replacement::Database { .. });
    let needed = journal.replacements.iter().any(database);
    lend(stack, needed, events, &Interrupt::default()).await
}

async fn discard_rest(stack: &Stack, journal: &mut Journal, events: &Events) -> Result<()> {
    let lent = lend_for(stack, journal, events).await?;
    let deleted = delete_kept(stack, journal).await;
    take_back(stack, lent).await?;
    deleted
}

fn tell_what_stays(what: &str, error: &Error, events: &Events) {
    let hint = error.hint_text().unwrap_or("It is tried again each time.");
    events.warning_with_hint(
        format!("{what} has kept data that was to be deleted and cannot be: {error}"),
        hint,
    );
}

fn tell(journal: &Journal, what: &str, happened: &str, events: &Events) {
    let message = format!("{what} {happened}");
    if journal.server_stopped {
        events.emit(crate::event::Event::Warning {
            message,
            hint: Some("It had stopped the server: `k1ops start` starts it again.".to_owned()),
        });
    } else {
        events.warning(message);
    }
}

/// Removes what a run has made beside the live data, which is untouched.
pub(super) async fn abandon(stack: &Stack, journal: &mut Journal) -> Result<()> {
    // What an undo would put in place is the kept data itself.
    if matches!(journal.action, Action::Restore { .. }) {
        for replacement in &journal.replacements {
            match replacement {
                Replacement::File { beside, .. } => {
                    if let Some(beside) = beside {
                        sqlite::remove(&stack.folder.join(beside))?;
                    }
                }
                Replacement::Database { server, beside, .. } => {
                    if let Some(beside) = beside {
                        admin::drop_database(&address(stack, server)?, beside).await?;
                    }
                }
                Replacement::Volume {
                    service, beside, ..
                } => volume::give_up(stack, *service, beside).await?,
            }
            crash::point("abandoned-half");
        }
    }
    // Before the last note, since nobody comes back after it.
    remove_empty_folders(stack, journal);
    journal.enter(Phase::Abandoned, stack)
}

/// Swaps what is left to swap.
pub(super) async fn complete(stack: &Stack, journal: &mut Journal) -> Result<()> {
    swap(stack, journal).await?;
    journal.requeue_pending = journal
        .replacements
        .iter()
        .any(Replacement::holds_workflows);
    journal.enter(Phase::Swapped, stack)?;
    crash::point("swapped-noted");
    conclude(stack, journal)
}

/// What an undo has taken its data from is undone.
fn conclude(stack: &Stack, journal: &mut Journal) -> Result<()> {
    if let Action::Undo { of } = &journal.action {
        let mut undone = Journal::read(stack, of)?;
        undone.requeue_pending = false;
        undone.enter(Phase::Undone, stack)?;
        remove_empty_folders(stack, &undone);
    }
    remove_empty_folders(stack, journal);
    Ok(())
}

/// Deletes what is kept, for good.
pub(super) async fn delete_kept(stack: &Stack, journal: &mut Journal) -> Result<()> {
    for replacement in &journal.replacements {
        if replacement.old() != Old::Kept {
            continue;
        }
        match replacement {
            Replacement::File { kept, .. } => sqlite::remove(&stack.folder.join(kept))?,
            Replacement::Database { server, kept, .. } => {
                admin::drop_database(&address(stack, server)?, kept).await?;
            }
            Replacement::Volume { service, kept, .. } => {
                volume::remove(stack, *service, kept).await?;
            }
        }
    }
    remove_empty_folders(stack, journal);
    journal.enter(Phase::Discarded, stack)
}

/// Tidies up; what is not empty stays.
fn remove_empty_folders(stack: &Stack, journal: &Journal) {
    for replacement in &journal.replacements {
        let Replacement::File { beside, kept, .. } = replacement else {
            continue;
        };
        for file in beside.iter().chain([kept]) {
            let folders = file.ancestors().skip(1).take(2);
            for folder in folders {
                let folder = stack.folder.join(folder);
                // The stack's own data folder is never removed, empty or not.
                if Some(folder.as_path()) != stack.conductor_db().parent() {
                    let _ = std::fs::remove_dir(folder);
                }
            }
        }
    }
}
