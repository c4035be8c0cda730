//! Puts back what the last restore or undo replaced, by the same swap; and deletes what is kept.

use super::claim::Claim;
use super::journal::{Action, Journal, Old, Phase, Replacement};
use super::recover::delete_kept;
use super::run::{Around, database_name, promote};
use super::server::StartedAgain;
use super::swap::address;
use crate::adapters::postgres::admin;
use crate::error::{Error, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use crate::stack::{Remembered, ServerState, Stack};
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::path::Path;

/// A part that an undo would replace.
#[derive(Debug, Clone, Serialize)]
pub struct UndonePart {
    /// Such as `sqlite conductor`.
    pub what: String,
    /// Where the data is that comes back; `None`: there was none, and there will be none again.
    pub comes_back_from: Option<String>,
    /// Where the present data goes.
    pub present_goes_to: String,
}

/// What an undo would do.
#[derive(Debug, Clone, Serialize)]
pub struct UndoPlan {
    /// The stack.
    pub stack: String,
    /// What is undone, such as `the restore of ARCHIVE (ID)`.
    pub undoes: String,
    /// When that was.
    pub done_at: DateTime<Utc>,
    /// What is replaced.
    pub parts: Vec<UndonePart>,
    /// The server runs: it is stopped for the swap and started again.
    pub restarts_server: bool,
    #[serde(skip)]
    journal: Journal,
}

/// What an undo did.
#[derive(Debug, Clone, Serialize)]
pub struct UndoReport {
    /// The stack.
    pub stack: String,
    /// What was undone.
    pub undid: String,
    /// Under what the next `k1ops undo` finds it.
    pub id: String,
    /// What was replaced.
    pub parts: Vec<UndonePart>,
    /// The server, if it was started again.
    pub server: Option<StartedAgain>,
    /// Workflows may be stranded; the next `k1ops start` puts them back.
    pub requeue_pending: bool,
}

/// Something that is kept.
#[derive(Debug, Clone, Serialize)]
pub struct Kept {
    /// What replaced it, such as `the restore of ARCHIVE (ID)`.
    pub by: String,
    /// Where it is.
    pub places: Vec<String>,
    /// Bytes in files; databases are not counted.
    pub bytes: u64,
    #[serde(skip)]
    journal: Journal,
}

/// Decides how to undo the last restore or undo.
pub async fn plan_undo(stack: &Stack) -> Result<UndoPlan> {
    let last = Journal::all(stack)?
        .into_iter()
        .rfind(|journal| journal.phase == Phase::Done)
        .ok_or_else(|| {
            Error::missing(format!("stack {} has nothing to undo", stack.name))
                .hint("Only the last restore can be undone, as long as what it replaced is kept.")
        })?;
    let action = Action::Undo {
        of: last.id.clone(),
    };
    let mut journal = Journal::new(stack, action);
    journal.apart = last.apart;
    for replacement in &last.replacements {
        require_kept(stack, replacement).await?;
        journal
            .replacements
            .push(reversed(replacement, &journal.id));
    }
    let parts = last.replacements.iter().zip(&journal.replacements);
    let parts = parts.map(|(old, new)| UndonePart {
        what: new.what().to_owned(),
        comes_back_from: (old.old() == Old::Kept).then(|| old.kept_at(stack)),
        present_goes_to: new.kept_at(stack),
    });
    Ok(UndoPlan {
        stack: stack.name.clone(),
        undoes: last.describe(),
        done_at: last.started_at,
        parts: parts.collect(),
        restarts_server: !journal.apart
            && matches!(ServerState::read(stack)?, Remembered::Running(_)),
        journal,
    })
}

/// Puts back what the plan says. Until the swap begins, whatever fails, everything is as before.
pub async fn execute_undo(
    stack: &Stack,
    _claim: &Claim,
    plan: UndoPlan,
    terminate_sessions: bool,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<UndoReport> {
    let mut journal = plan.journal;
    journal.write(stack)?;
    let around = Around {
        start: false,
        terminate_sessions,
    };
    let server = promote(stack, &mut journal, around, events, interrupt).await?;
    Ok(UndoReport {
        stack: plan.stack,
        undid: plan.undoes,
        parts: plan.parts,
        requeue_pending: server.is_none() && journal.requeue_pending,
        server,
        id: journal.id,
    })
}

/// Everything that is kept, oldest first.
pub fn kept(stack: &Stack) -> Result<Vec<Kept>> {
    let mut all = Vec::new();
    for journal in Journal::all(stack)? {
        if journal.phase != Phase::Done {
            continue;
        }
        let still_there = || {
            let replacements = journal.replacements.iter();
            replacements.filter(|r| r.old() == Old::Kept)
        };
        if still_there().next().is_none() {
            continue;
        }
        all.push(Kept {
            by: journal.describe(),
            places: still_there().map(|r| r.kept_at(stack)).collect(),
            bytes: still_there().map(|r| size(stack, r)).sum(),
            journal: journal.clone(),
        });
    }
    Ok(all)
}

/// Deletes kept data for good.
pub async fn discard(stack: &Stack, _claim: &Claim, kept: Vec<Kept>) -> Result<()> {
    for mut kept in kept {
        kept.journal.enter(Phase::Discarding, stack)?;
        delete_kept(stack, &mut kept.journal).await?;
    }
    Ok(())
}

fn size(stack: &Stack, replacement: &Replacement) -> u64 {
    match replacement {
        Replacement::File { kept, .. } => {
            std::fs::metadata(stack.folder.join(kept)).map_or(0, |m| m.len())
        }
        Replacement::Database { .. } => 0,
    }
}

/// What comes back must be there before anything is moved.
async fn require_kept(stack: &Stack, replacement: &Replacement) -> Result<()> {
    let there = match replacement {
        Replacement::File { kept, .. } => stack.folder.join(kept).exists(),
        Replacement::Database { server, kept, .. } => {
            admin::database_exists(&address(stack, server)?, kept).await?
        }
    };
    if there || replacement.old() != Old::Kept {
        return Ok(());
    }
    let place = replacement.kept_at(stack);
    Err(
        Error::bad_data(format!("{place} is gone, so the restore cannot be undone")).hint(
            "Somebody removed it by hand; restore the safety archive instead, see `k1ops list`.",
        ),
    )
}

/// The same in the other direction: what is kept becomes live, what is live is kept.
fn reversed(replacement: &Replacement, id: &str) -> Replacement {
    match replacement {
        Replacement::File {
            what,
            live,
            kept,
            old,
            ..
        } => {
            let folder = live.parent().unwrap_or(Path::new(""));
            let own = folder.join(format!("restore-{id}")).join("kept");
            Replacement::File {
                what: what.clone(),
                live: live.clone(),
                beside: (*old == Old::Kept).then(|| kept.clone()),
                kept: own.join(live.file_name().unwrap_or_default()),
                old: Old::InPlace,
            }
        }
        Replacement::Database {
            what,
            server,
            live,
            kept,
            old,
            ..
        } => Replacement::Database {
            what: what.clone(),
            server: server.clone(),
            live: live.clone(),
            beside: (*old == Old::Kept).then(|| kept.clone()),
            kept: database_name(live, "kept", id),
            old: Old::InPlace,
        },
    }
}
