//! One volume of an archive into a new volume of another name, to look into or to try something on.
//! Nothing that is live is replaced.

use crate::adapters::docker::Engine;
use crate::error::{Error, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use crate::restore::journal::{Action, Journal, Old, Replacement};
use crate::restore::plan::{PlannedPart, RestoreOptions, plan};
use crate::restore::recover::abandon;
use crate::restore::volume::{Restoring, VolumeOf};
use crate::stack::Stack;
use crate::stack::docker::Service;
use serde::Serialize;
use std::path::PathBuf;

/// A new volume that would be made.
#[derive(Debug, Serialize)]
pub struct VolumeCopy {
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

/// A new volume that was made.
#[derive(Debug, Serialize)]
pub struct CopiedVolume {
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
pub(super) async fn plan_volume(
    stack: &Stack,
    options: &RestoreOptions,
    name: &str,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<VolumeCopy> {
    let plan = plan(stack, options, events, interrupt).await?;
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
        return Err(Error::usage("--as takes exactly one volume")
            .hint("Name it with --only volume:NAME; `k1ops list` shows what an archive holds."));
    };
    if Engine::find().await?.volume(name).await?.is_some() {
        return Err(Error::refused(format!("volume {name} is there already"))
            .hint("Choose another name for --as; nothing is overwritten."));
    }
    Ok(VolumeCopy {
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
pub(super) async fn copy_volume(
    stack: &Stack,
    plan: VolumeCopy,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<CopiedVolume> {
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
            Ok(CopiedVolume {
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
