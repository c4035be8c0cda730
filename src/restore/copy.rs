//! One volume of an archive into a new volume of another name, to look into or to try something on.
//! Nothing that is live is replaced.

use super::claim::Claim;
use super::journal::{Action, Journal, Old, Replacement};
use super::plan::{PlannedPart, RestoreOptions, plan};
use super::recover::abandon;
use super::volume::{Restoring, VolumeOf};
use crate::adapters::docker::Engine;
use crate::error::{Error, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use crate::stack::Stack;
use crate::stack::docker::Service;
use serde::Serialize;
use std::path::PathBuf;

/// What a copy would make.
#[derive(Debug, Serialize)]
pub struct CopyPlan {
    /// The archive.
    pub archive: PathBuf,
    /// Such as `volume conductor_postgres_data`.
    pub what: String,
    /// The new volume.
    pub volume: String,
    /// Bytes that are written into it.
    pub bytes: u64,
    #[serde(skip)]
    service: Service,
    #[serde(skip)]
    source: VolumeOf,
    #[serde(skip)]
    opened: crate::archive::Archive,
    #[serde(skip)]
    jobs: usize,
}

/// What a copy made.
#[derive(Debug, Serialize)]
pub struct CopyReport {
    /// Such as `volume conductor_postgres_data`.
    pub what: String,
    /// The new volume.
    pub volume: String,
    /// Entries in it, which were compared or which a server was run on.
    pub entries: u64,
}

/// Verifies the archive and decides what to copy.
///
/// Fails with [`crate::error::ErrorKind::Usage`] unless the options choose exactly one volume, and
/// with [`crate::error::ErrorKind::Refused`] if there is a volume of that name.
pub async fn plan_copy(
    stack: &Stack,
    options: &RestoreOptions,
    name: &str,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<CopyPlan> {
    let plan = plan(stack, options, events, interrupt).await?;
    let only = || {
        Error::usage("--as takes exactly one volume")
            .hint("Name it with --only volume:NAME; `k1ops list` shows what an archive holds.")
    };
    let (opened, jobs) = (plan.opened.clone(), plan.jobs);
    let mut parts = plan.parts.into_iter();
    let (
        Some(PlannedPart::Volume {
            what,
            service,
            bytes,
            source,
            ..
        }),
        None,
    ) = (parts.next(), parts.next())
    else {
        return Err(only());
    };
    if Engine::find().await?.volume(name).await?.is_some() {
        return Err(Error::refused(format!("volume {name} is there already"))
            .hint("Choose another name for --as; nothing is overwritten."));
    }
    Ok(CopyPlan {
        archive: plan.archive,
        what,
        volume: name.to_owned(),
        bytes,
        service,
        source: *source,
        opened,
        jobs,
    })
}

/// Executes `plan`. Whatever fails, the new volume is removed, if need be by the next run.
pub async fn copy(
    stack: &Stack,
    _claim: &Claim,
    plan: CopyPlan,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<CopyReport> {
    let action = Action::Restore {
        archive: plan.archive.clone(),
        safety: None,
    };
    let mut journal = Journal::new(stack, action);
    journal.replacements.push(Replacement::Volume {
        what: plan.what.clone(),
        service: plan.service,
        beside: plan.volume.clone(),
        kept: String::new(),
        old: Old::InPlace,
    });
    journal.write(stack)?;
    let restoring = Restoring::begin(stack, &plan.opened, plan.jobs, events, interrupt).await?;
    match restoring.restore_beside(&plan.source, &plan.volume).await {
        Ok(entries) => {
            journal.forget(stack)?;
            Ok(CopyReport {
                what: plan.what,
                volume: plan.volume,
                entries,
            })
        }
        Err(error) => {
            abandon(stack, &mut journal).await?;
            Err(error)
        }
    }
}
