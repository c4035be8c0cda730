//! The stack's server around a swap: stopped, nobody else in the data, started again, and the
//! workflows that were stranded put back to work.

use super::crash;
use super::journal::{Journal, Phase, Replacement};
use super::swap::address;
use crate::adapters::fs::Lock;
use crate::adapters::postgres::admin;
use crate::adapters::sqlite::in_use_by;
use crate::conductor::{Requeued, requeue};
use crate::error::{Error, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use crate::stack::docker::Service;
use crate::stack::{
    Stack, StartOptions, server_runs, start, stop_server_locked, stop_services_locked,
};
use serde::Serialize;
use std::time::{Duration, Instant};

/// How long others may take to let go of the data.
const LETTING_GO: Duration = Duration::from_secs(5);

/// How often to look whether they have.
const POLL: Duration = Duration::from_millis(100);

/// A server that was started after a swap.
#[derive(Debug, Clone, Serialize)]
pub struct StartedAgain {
    /// Its address.
    pub url: String,
    /// Seconds until it was healthy.
    pub seconds: Option<f64>,
    /// What became of the workflows that run.
    pub requeued: Option<Requeued>,
}

/// Stops the stack's server if it runs, and keeps anybody from starting it while the answer is held.
pub(super) async fn stop(stack: &Stack, journal: &mut Journal, events: &Events) -> Result<Lock> {
    let lock = Lock::exclusive(&stack.lock_file("server"), "k1ops restore")?;
    if server_runs(stack).await? {
        journal.server_stopped = true;
        journal.write(stack)?;
        crash::point("stop-noted");
        stop_server_locked(stack, events).await?;
        crash::point("stopped");
    }
    let volumes: Vec<Service> = journal.replacements.iter().filter_map(service).collect();
    if !volumes.is_empty() {
        stop_services_locked(stack, &volumes, events).await?;
    }
    Ok(lock)
}

/// The service whose volume is replaced.
fn service(replacement: &Replacement) -> Option<Service> {
    match replacement {
        Replacement::Volume { service, .. } => Some(*service),
        Replacement::File { .. } | Replacement::Database { .. } => None,
    }
}

/// Fails with [`crate::error::ErrorKind::Missing`] if somebody else uses the data that is to be
/// replaced; with `terminate`, ends sessions first.
pub(super) async fn wait_for_others(
    stack: &Stack,
    journal: &Journal,
    terminate: bool,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<()> {
    let begun = Instant::now();
    for replacement in &journal.replacements {
        loop {
            interrupt.check()?;
            let Some(error) = others(stack, replacement, terminate, events).await? else {
                break;
            };
            if begun.elapsed() > LETTING_GO {
                return Err(error);
            }
            tokio::time::sleep(POLL).await;
        }
    }
    Ok(())
}

/// What to say of those who use the data, if there is anybody.
async fn others(
    stack: &Stack,
    replacement: &Replacement,
    terminate: bool,
    events: &Events,
) -> Result<Option<Error>> {
    match replacement {
        // Whatever used it was stopped, and what is stopped does not start by itself.
        Replacement::Volume { .. } => Ok(None),
        Replacement::File { live, .. } => {
            let live = stack.folder.join(live);
            Ok(in_use_by(&live)?.map(|pid| {
                Error::missing(format!("process {pid} has {} open", live.display()))
                    .hint("Stop it and try again; nothing was changed.")
            }))
        }
        Replacement::Database { server, live, .. } => {
            let address = address(stack, server)?;
            let sessions = admin::sessions(&address, live).await?;
            if sessions.is_empty() {
                return Ok(None);
            }
            if terminate {
                let ended = admin::terminate_sessions(&address, live).await?;
                events.note(format!("ended {ended} sessions of database {live}"));
            }
            let list: Vec<String> = sessions
                .iter()
                .map(|s| format!("{} of {} (PID {})", s.application, s.user, s.pid))
                .collect();
            Ok(Some(
                Error::missing(format!(
                    "database {live} is in use by {} sessions: {}",
                    sessions.len(),
                    list.join(", ")
                ))
                .hint("Stop what is connected, or add --terminate-sessions; nothing was changed."),
            ))
        }
    }
}

/// Starts the stack and waits for honest health.
pub(super) async fn start_again(stack: &Stack, events: &Events) -> Result<StartedAgain> {
    let options = StartOptions::default();
    // The data is live: there is no way back that an interrupt could take.
    let interrupt = Interrupt::default();
    let report = start(stack, &options, events, &interrupt).await?;
    let Some(server) = report.server.as_ref().filter(|_| report.is_well()) else {
        return Err(Error::failed("the server cannot be started on this host"));
    };
    let requeued = match requeue_pending(stack, events, &interrupt).await {
        Ok(requeued) => requeued,
        Err(error) => {
            events.warning_with_hint(
                format!("stranded workflows were not put back to work: {error}"),
                "The next `k1ops start` does it.",
            );
            None
        }
    };
    Ok(StartedAgain {
        url: server.url.clone(),
        seconds: report.seconds,
        requeued,
    })
}

/// Whether a restore or undo may have left workflows stranded that nobody has put back since.
pub fn pending_requeue(stack: &Stack) -> Result<bool> {
    Ok(Journal::all(stack)?.iter().any(is_pending))
}

/// Puts stranded workflows back to work if a restore or undo may have left some. Whoever has
/// started the stack, and waited until it is healthy, calls this.
pub async fn requeue_pending(
    stack: &Stack,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<Option<Requeued>> {
    let pending: Vec<Journal> = Journal::all(stack)?
        .into_iter()
        .filter(is_pending)
        .collect();
    if pending.is_empty() {
        return Ok(None);
    }
    let counts = requeue(&stack.conductor()?, events, interrupt).await?;
    for mut journal in pending {
        journal.requeue_pending = false;
        journal.write(stack)?;
    }
    Ok(Some(counts))
}

fn is_pending(journal: &Journal) -> bool {
    journal.requeue_pending
        && !matches!(
            journal.phase,
            Phase::Restoring | Phase::Swapping | Phase::Abandoned
        )
}
