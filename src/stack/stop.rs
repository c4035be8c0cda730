//! Stops a stack: gracefully, then firmly.

use super::jar::{self, Ending};
use super::state::{Remembered, ServerState};
use super::{Stack, Tier, docker};
use crate::adapters::docker::Engine;
use crate::adapters::fs::Lock;
use crate::error::{ErrorKind, Result};
use crate::event::Events;
use serde::Serialize;
use std::time::{Duration, Instant};

/// How a stop ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum StopReport {
    /// The server was stopped.
    Stopped {
        /// Its process ID.
        pid: u32,
        /// Whether it ended by itself.
        ending: Ending,
        /// Seconds it took.
        seconds: f64,
    },
    /// The containers of tier 1 were stopped.
    ContainersStopped {
        /// Their names, in the order they were stopped.
        containers: Vec<String>,
        /// Seconds it took.
        seconds: f64,
    },
    /// None ran.
    NotRunning {
        /// One was remembered, but it had ended by itself or with the host.
        was_stale: bool,
    },
}

/// Stops the stack's server, if one runs. Only the very process that was started is signalled.
pub async fn stop(stack: &Stack, events: &Events) -> Result<StopReport> {
    let _lock = Lock::exclusive(&stack.lock_file("server"), "k1ops stop")?;
    stop_locked(stack, events).await
}

/// The same for a caller that holds the stack's server lock already, such as a restore.
pub async fn stop_locked(stack: &Stack, events: &Events) -> Result<StopReport> {
    match ServerState::read(stack)? {
        Remembered::Nothing => stop_containers(stack, events, false).await,
        Remembered::Stale(_) => {
            ServerState::forget(stack)?;
            stop_containers(stack, events, true).await
        }
        Remembered::Running(state) => stop_server(stack, &state, events).await,
    }
}

/// Whether the stack's server runs, on whichever tier.
pub async fn server_runs(stack: &Stack) -> Result<bool> {
    if let Remembered::Running(_) = ServerState::read(stack)? {
        return Ok(true);
    }
    if stack.last_tier()? != Some(Tier::Docker) {
        return Ok(false);
    }
    docker::server_runs(stack, &Engine::find().await?).await
}

/// Stops a database that was started for a while, unless somebody starts the stack or uses it now.
pub async fn take_back(stack: &Stack, lent: docker::Lent) -> Result<()> {
    // Who holds the lock starts or stops the stack, and its database with it.
    let lock = stack.lock_file("server");
    let _lock = match Lock::exclusive(&lock, "k1ops stopping the database again") {
        Err(error) if error.kind() == ErrorKind::Locked => return Ok(()),
        other => other?,
    };
    if server_runs(stack).await? {
        return Ok(());
    }
    lent.give_back().await
}

/// Stops the server alone, for a caller that holds the stack's server lock: what keeps the data in
/// tier 1 goes on, so that the data can be worked on.
pub async fn stop_server_locked(stack: &Stack, events: &Events) -> Result<()> {
    if let Remembered::Running(state) = ServerState::read(stack)? {
        stop_server(stack, &state, events).await?;
    } else if stack.last_tier()? == Some(Tier::Docker) {
        docker::stop_server(stack, &Engine::find().await?, events).await?;
    }
    Ok(())
}

/// Stops these services of tier 1, for a caller that holds the stack's server lock.
pub async fn stop_services_locked(
    stack: &Stack,
    services: &[docker::Service],
    events: &Events,
) -> Result<()> {
    docker::stop_services(stack, &Engine::find().await?, services, events)
        .await
        .map(drop)
}

/// Stops the containers of tier 1, if there are any. Without an engine there are none, unless the
/// stack ran on tier 1 last: then not being able to look is an error.
async fn stop_containers(stack: &Stack, events: &Events, was_stale: bool) -> Result<StopReport> {
    let begun = Instant::now();
    let engine = match Engine::find().await {
        Ok(engine) => engine,
        Err(error) if stack.last_tier()? == Some(Tier::Docker) => return Err(error),
        Err(_) => return Ok(StopReport::NotRunning { was_stale }),
    };
    let containers = docker::stop(stack, &engine, events).await?;
    Ok(if containers.is_empty() {
        StopReport::NotRunning { was_stale }
    } else {
        StopReport::ContainersStopped {
            containers,
            seconds: begun.elapsed().as_secs_f64(),
        }
    })
}

async fn stop_server(stack: &Stack, state: &ServerState, events: &Events) -> Result<StopReport> {
    let step = format!("stopping the server (PID {})", state.process.pid);
    events.started(&step);
    let begun = Instant::now();
    let timeout = Duration::from_secs(stack.config.server.stop_timeout);
    let ending = jar::end(&state.process, timeout).await?;
    ServerState::forget(stack)?;
    let seconds = begun.elapsed().as_secs_f64();
    events.finished(&step, format!("{seconds:.1} s"));
    if ending == Ending::Killed {
        events.warning_with_hint(
            format!(
                "the server did not stop within {} s and was killed",
                timeout.as_secs()
            ),
            "Nothing that was committed is lost; a larger server.stop_timeout gives it more time.",
        );
    }
    Ok(StopReport::Stopped {
        pid: state.process.pid,
        ending,
        seconds,
    })
}
