//! A stack on a newer version of its server, or of the images of tier 1: a backup, a drill of the new
//! version on it, the switch, and back by itself if the new version does not come up on the live data.
//!
//! How backups, drills and restores work is theirs to know; here is in which order they come, and what
//! is noted on the way. The terminal is not known here.

pub mod crash;
mod journal;
mod plan;
mod switch;
mod versions;

pub use journal::Phase;
pub use plan::{Plan, UpgradeOptions, plan};
pub use versions::{Changed, ImageOf, NewImage, Versions, Wanted};

use crate::adapters::fs::Lock;
use crate::backup::{self, BackupOptions};
use crate::drill::{self, DrillReport};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use crate::stack::{Stack, Tier, docker, jar};
use chrono::{DateTime, Utc};
use journal::Journal;
use serde::Serialize;
use std::path::PathBuf;
use switch::Ended;

/// What an upgrade did.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The stack.
    pub stack: String,
    /// What changed in the configuration file.
    pub changes: Vec<Changed>,
    /// The backup of before, taken while the old version ran.
    pub backup: PathBuf,
    /// What trying the new version on it has shown.
    pub drill: Option<DrillReport>,
    /// The server.
    pub url: String,
    /// Seconds from the stop of the old version to the health of the new one.
    pub down_seconds: f64,
}

/// Does what is planned. If the new version does not come up, the old one is back when this returns,
/// with everything that was done until it was stopped, and the error says why.
pub async fn execute(plan: Plan, events: &Events, interrupt: &Interrupt) -> Result<Report> {
    let _lock = lock(&plan.live).await?;
    get_ready(&plan, events, interrupt).await?;
    let options = BackupOptions {
        verify_fully: true,
        ..BackupOptions::default()
    };
    let backup = Box::pin(backup::run(&plan.live, &options, events, interrupt)).await?;
    let mut drill = None;
    if plan.drill {
        let copy = drill::rehearse(&plan.next, &backup.archive, events, interrupt);
        let drilling = Box::pin(copy).await;
        drill = Some(drilling.map_err(not_tried_well)?);
    }
    let (ended, down) = Box::pin(switch::switch(&plan, events, interrupt)).await?;
    match ended {
        Ended::Upgraded(running) => Ok(Report {
            stack: plan.stack,
            changes: plan.changes,
            backup: backup.archive,
            drill,
            url: running.url,
            down_seconds: down.as_secs_f64(),
        }),
        Ended::TakenBack(back) => Err(back.into_error()),
    }
}

async fn lock(stack: &Stack) -> Result<Lock> {
    Lock::exclusive_among_lookers(&stack.lock_file("upgrade"), "k1ops upgrade").await
}

/// Everything that has to be fetched or made is, while the old version goes on.
async fn get_ready(plan: &Plan, events: &Events, interrupt: &Interrupt) -> Result<()> {
    let next = plan.next.without_docker_database();
    if plan.tier == Tier::Docker {
        let ready = Box::pin(docker::prepare(&next, events, interrupt)).await?;
        let images = Box::pin(docker::get_images(&next, &ready, events, interrupt)).await;
        images.map_err(plan::of_major_version)
    } else {
        jar::prepare(&next, events, interrupt).await.map(drop)
    }
}

fn not_tried_well(error: Error) -> Error {
    if error.kind() == ErrorKind::Interrupted {
        return error;
    }
    Error::new(
        error.kind(),
        "the new version does not do on a copy of the data; the stack was not touched",
    )
    .because(error)
    .hint("The stack runs as before. `k1ops drill` tells whether the backup is at fault.")
}

/// What became of an upgrade that was broken off.
#[derive(Debug, Clone, Serialize)]
pub struct Recovered {
    /// The versions that the stack runs, or is to be started with, now.
    pub versions: Versions,
    /// Whether they are the new ones.
    pub upgraded: bool,
}

/// Finishes an upgrade that was broken off, or takes it back. What starts the stack calls this first.
///
/// Fails with [`ErrorKind::Locked`] while an upgrade is at work.
pub async fn recover(
    stack: &Stack,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<Option<Recovered>> {
    if Journal::unfinished(stack)?.is_none() {
        return Ok(None);
    }
    let _lock = lock(stack).await?;
    // Whoever had the lock until now may have come to its end.
    let Some(journal) = Journal::unfinished(stack)? else {
        return Ok(None);
    };
    let ended = match journal.phase {
        Phase::Stopping => {
            events.note("an upgrade was broken off before it had changed anything");
            let versions = journal.before.clone();
            journal.forget()?;
            return Ok(Some(Recovered {
                versions,
                upgraded: false,
            }));
        }
        Phase::Switching => Box::pin(switch::forward(stack, journal, events, interrupt)).await?,
        Phase::Back | Phase::Returned | Phase::Done => {
            Ended::TakenBack(Box::pin(switch::back(stack, journal, events)).await?)
        }
    };
    Ok(Some(match ended {
        Ended::Upgraded(running) => {
            events.note("an upgrade was broken off; it is finished now");
            Recovered {
                versions: running.versions,
                upgraded: true,
            }
        }
        Ended::TakenBack(back) => {
            events.warning("an upgrade was broken off and is taken back: the old version runs");
            Recovered {
                versions: back.versions,
                upgraded: false,
            }
        }
    }))
}

/// What is the case and what to do, if an upgrade has not ended. Changes nothing.
pub fn unfinished(stack: &Stack) -> Result<Option<(String, String)>> {
    let Some(journal) = Journal::unfinished(stack)? else {
        return Ok(None);
    };
    // The lock is taken for a moment to look.
    if Lock::shared(&stack.lock_file("upgrade")).is_err() {
        return Ok(Some((
            "an upgrade is at work".to_owned(),
            "Wait until it has ended.".to_owned(),
        )));
    }
    let is = match journal.phase {
        Phase::Stopping => "before it had changed anything",
        Phase::Switching => "while the new version was started; what the old one left is saved",
        _ => "while it was taken back; what the old version left is saved",
    };
    Ok(Some((
        format!("an upgrade was broken off {is}"),
        "Run `k1ops start`: it finishes the upgrade or takes it back.".to_owned(),
    )))
}

/// Fails if an upgrade has not ended: what changes the data meanwhile would be lost with it.
pub fn refuse_unfinished(stack: &Stack) -> Result<()> {
    match unfinished(stack)? {
        None => Ok(()),
        Some((is, todo)) => Err(Error::locked(is).hint(todo)),
    }
}

/// What an undo would do.
#[derive(Debug, Serialize)]
pub struct UndoPlan {
    /// The stack.
    pub stack: String,
    /// When the upgrade was.
    pub at: DateTime<Utc>,
    /// What changes in the configuration file.
    pub changes: Vec<Changed>,
    /// The data that come back.
    pub saved: Option<PathBuf>,
    #[serde(skip)]
    live: Stack,
    #[serde(skip)]
    journal: Journal,
}

/// What an undo did.
#[derive(Debug, Serialize)]
pub struct UndoReport {
    /// The stack.
    pub stack: String,
    /// Where what was done since the upgrade is kept.
    pub kept: Vec<String>,
}

/// Plans taking the last upgrade back, with the data as they were before it.
pub fn plan_undo(stack: &Stack) -> Result<UndoPlan> {
    refuse_unfinished(stack)?;
    let Some(journal) = Journal::last_done(stack)? else {
        return Err(Error::missing(format!(
            "stack {} has no upgrade that could be taken back",
            stack.name
        ))
        .hint("Only the last one can be, and only once."));
    };
    if Versions::of(&stack.config) != journal.after {
        return Err(Error::refused(
            "the configuration names other versions than the upgrade brought",
        )
        .hint("Set the versions that you want in k1ops.toml."));
    }
    Ok(UndoPlan {
        stack: stack.name.clone(),
        at: journal.at,
        changes: journal.after.changes_to(&journal.before),
        saved: journal.saved.clone(),
        live: stack.clone(),
        journal,
    })
}

/// Takes the last upgrade back.
pub async fn undo(plan: UndoPlan, events: &Events, interrupt: &Interrupt) -> Result<UndoReport> {
    let _lock = lock(&plan.live).await?;
    let mut journal = plan.journal;
    Box::pin(switch::check_saved(&plan.live, &journal, events, interrupt)).await?;
    journal.enter(Phase::Back)?;
    let back = Box::pin(switch::back(&plan.live, journal, events)).await?;
    Ok(UndoReport {
        stack: plan.stack,
        kept: back.kept,
    })
}
