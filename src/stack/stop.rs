//! Stops a stack: gracefully, then firmly.

use super::Stack;
use super::jar::{self, Ending};
use super::state::{Remembered, ServerState};
use crate::adapters::fs::Lock;
use crate::error::Result;
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
    let state = match ServerState::read(stack)? {
        Remembered::Nothing => return Ok(StopReport::NotRunning { was_stale: false }),
        Remembered::Stale(_) => {
            ServerState::forget(stack)?;
            return Ok(StopReport::NotRunning { was_stale: true });
        }
        Remembered::Running(state) => state,
    };
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
