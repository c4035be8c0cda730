//! A schedule for hosts and containers that have neither cron nor systemd: waits for the next time
//! and starts each run as a process of its own, so that what a run needs goes when it ends.

use super::alarm::{check_freshness, killed, unable};
use super::fire::missed;
use super::{By, calendar_of, jitter_of};
use crate::adapters::fs::Lock;
use crate::adapters::process::{Identity, Signal};
use crate::error::{Context, Error, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use crate::stack::Stack;
use chrono::{DateTime, Utc};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::process::Command;

/// How long to sleep at most before looking at the clock again: it may be set, and a host may sleep.
const NAP: Duration = Duration::from_secs(15);
/// How often to look whether there is a good backup.
const WATCH: Duration = Duration::from_secs(300);

/// Waits and fires until it is interrupted; answers how many runs it started. `command` is what
/// fires a run.
///
/// Fails with [`crate::error::ErrorKind::Locked`] if another daemon is at work on the stack.
pub async fn run(
    stack: &Stack,
    command: &[String],
    events: &Events,
    interrupt: &Interrupt,
) -> Result<u64> {
    let lock = stack.lock_file("schedule-daemon");
    let _only_one = Lock::exclusive_among_lookers(&lock, "k1ops schedule run").await?;
    let (calendar, zone) = calendar_of(stack)?;
    let jitter = jitter_of(stack)?;
    let mut runs = 0;
    // Not at once: the first run may be about to begin.
    let mut looked = Instant::now();
    if let Some(due) = missed(stack, events)? {
        events.note(format!(
            "the run of {} was missed: it is done now",
            shown(due)
        ));
        one_run(command, stack, events, interrupt).await?;
        runs += 1;
    }
    loop {
        let now = Utc::now().with_timezone(&zone);
        let Some(next) = calendar.next_after(now) else {
            return Err(Error::usage(format!("{calendar} has no next time")));
        };
        events.note(format!(
            "the next run is at {}",
            next.format("%Y-%m-%d %H:%M %Z")
        ));
        let late = jitter.mul_f64(fastrand::f64());
        if !wait_until(next.to_utc() + late, stack, &mut looked, events, interrupt).await {
            return Ok(runs);
        }
        one_run(command, stack, events, interrupt).await?;
        runs += 1;
        if interrupt.is_raised() {
            return Ok(runs);
        }
    }
}

/// Whether the time came before the interrupt. Meanwhile it watches that there is a good backup.
async fn wait_until(
    time: DateTime<Utc>,
    stack: &Stack,
    looked: &mut Instant,
    events: &Events,
    interrupt: &Interrupt,
) -> bool {
    loop {
        if looked.elapsed() >= WATCH {
            *looked = Instant::now();
            if let Err(error) = check_freshness(stack, events).await {
                events.warning(error.to_string());
            }
        }
        let Ok(left) = (time - Utc::now()).to_std() else {
            return true;
        };
        tokio::select! {
            () = interrupt.raised() => return false,
            () = tokio::time::sleep(left.min(NAP)) => {}
        }
    }
}

/// A run that fails has recorded why and said so; the next one may be better. An interrupt is handed
/// on, and the run tidies up. One that a signal ended could say nothing.
async fn one_run(
    command: &[String],
    stack: &Stack,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<()> {
    let (program, arguments) = command.split_first().unzip();
    let mut child = Command::new(program.map_or("", |word| word))
        .args(arguments.unwrap_or_default())
        .args(["--by", By::Daemon.name()])
        .stdin(Stdio::null())
        .spawn()
        .context(|| "a scheduled run cannot be started")?;
    let identity = child.id().and_then(Identity::of);
    let status = tokio::select! {
        status = child.wait() => status,
        () = interrupt.raised() => {
            if let Some(identity) = identity {
                identity.signal(Signal::TERM)?;
            }
            child.wait().await
        }
    };
    let status = status.context(|| "a scheduled run cannot be waited for")?;
    if !status.success() {
        events.warning(format!("the scheduled run ended with {status}"));
    }
    if status.signal().is_some() && !interrupt.is_raised() {
        tell_of_signal(stack, status, events).await;
    }
    Ok(())
}

/// Tells that a run was killed, as by a kernel that had no memory left.
async fn tell_of_signal(stack: &Stack, status: ExitStatus, events: &Events) {
    let is_told = killed(stack, events).await.unwrap_or_else(|error| {
        events.warning(error.to_string());
        false
    });
    if !is_told {
        // It could not even record that it began.
        unable(stack, &format!("the run was killed: {status}"), events).await;
    }
}

fn shown(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%d %H:%M UTC").to_string()
}
