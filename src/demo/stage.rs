//! The demo's handles on the rest of the domain: the same parts that the commands use, and the one
//! thing that no command does, which is to destroy a stack.

use super::compare::Picture;
use crate::adapters::process::{Identity, Signal};
use crate::backup::{self, BackupOptions, BackupReport};
use crate::conductor::Requeued;
use crate::config::TierChoice;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use crate::restore::{self, RestoreOptions};
use crate::stack::{self, Prepare, Stack, StartOptions, Tier, server_of};
use std::path::Path;
use std::time::Duration;

/// How long a killed process may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// The tiers that the demo tries for `wanted`, best first. What a Docker stack holds cannot be
/// compared by [`picture`] or destroyed by [`lose`], so that tier is not among them.
pub(super) fn tiers(wanted: TierChoice) -> Result<&'static [TierChoice]> {
    match wanted {
        TierChoice::Auto => Ok(&[TierChoice::Jar, TierChoice::Direct]),
        TierChoice::Jar => Ok(&[TierChoice::Jar]),
        TierChoice::Direct => Ok(&[TierChoice::Direct]),
        TierChoice::Docker => Err(Error::usage("the demo does not run on the docker tier")
            .hint("Leave --tier away for the best that the demo runs on.")),
    }
}

/// Starts the stack on the first of `tiers` that the host can run, and says which that is.
pub(super) async fn start(
    stack: &Stack,
    tiers: &[TierChoice],
    events: &Events,
    interrupt: &Interrupt,
) -> Result<Tier> {
    let options = StartOptions {
        // A process in the background would outlive the demo.
        prepare: Prepare::No,
        ..StartOptions::default()
    };
    let mut stack = stack.clone();
    let mut reason = None;
    for &tier in tiers {
        stack.config.tier = tier;
        match Box::pin(stack::start(&stack, &options, events, interrupt)).await {
            Ok(report) => return Ok(report.tier),
            Err(error) if error.kind() == ErrorKind::Missing => {
                events.note(format!("tier {} is passed over: {error}", name(tier)));
                reason = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(reason.unwrap_or_else(|| Error::missing("no tier can run on this host")))
}

fn name(tier: TierChoice) -> &'static str {
    match tier {
        TierChoice::Auto => "auto",
        TierChoice::Docker => "docker",
        TierChoice::Jar => "jar",
        TierChoice::Direct => "direct",
    }
}

/// Stops the stack.
pub(super) async fn stop(stack: &Stack, events: &Events) -> Result<()> {
    stack::stop(stack, events).await?;
    Ok(())
}

/// What all tables of the stack hold now.
pub(super) fn picture(stack: &Stack, tier: Tier) -> Result<Picture> {
    let mut picture = Picture::default();
    picture.add_sqlite("k1", &stack.k1_db())?;
    if tier == Tier::Jar {
        picture.add_sqlite("conductor", &stack.conductor_db())?;
    }
    Ok(picture)
}

/// Backs up the stack as it runs.
pub(super) async fn back_up(
    stack: &Stack,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<BackupReport> {
    Box::pin(backup::run(
        stack,
        &BackupOptions::default(),
        events,
        interrupt,
    ))
    .await
}

/// Restores the stack from `archive`.
pub(super) async fn restore(
    stack: &Stack,
    archive: &Path,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<()> {
    let options = RestoreOptions {
        archive: archive.display().to_string(),
        ..RestoreOptions::default()
    };
    Box::pin(restore::run(stack, &options, events, interrupt)).await?;
    Ok(())
}

/// Puts back to work what the restore left stranded, as `k1ops start` does.
pub(super) async fn requeue(
    stack: &Stack,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<Requeued> {
    let counts = restore::requeue_pending(stack, events, interrupt).await?;
    counts.ok_or_else(|| Error::failed("the restore left no note that workflows may be stranded"))
}

/// Kills the server as a crash would, and deletes all data.
pub(super) async fn lose(stack: &Stack, events: &Events) -> Result<()> {
    if let Some(server) = server_of(stack)? {
        kill(&server).await?;
        events.note(format!("killed the server (PID {})", server.pid));
    }
    let data = stack.folder.join("data");
    std::fs::remove_dir_all(&data).context(|| format!("{} cannot be deleted", data.display()))?;
    events.note(format!("deleted {}", data.display()));
    Ok(())
}

async fn kill(server: &Identity) -> Result<()> {
    server.signal(Signal::KILL)?;
    if server.ended_within(GONE_WITHIN).await {
        return Ok(());
    }
    Err(Error::failed(format!(
        "the killed server (PID {}) does not end",
        server.pid
    )))
}
