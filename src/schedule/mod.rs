//! What happens by itself: a calendar, somebody who fires it (systemd, cron, or k1ops as a daemon),
//! and the run that is fired: back up, verify, prune.
//!
//! Every run leaves a record, so that `schedule status` goes by what happened and not by what is
//! installed. This module knows nothing of terminals.

mod alarm;
mod calendar;
mod crontab;
mod daemon;
mod fire;
mod install;
mod job;
mod record;
mod status;
mod units;

pub use alarm::{Freshness, check_freshness};
pub use calendar::Calendar;
pub use daemon::run as run_daemon;
pub use fire::{FireOptions, fire};
pub use install::{
    Change, How, InstallPlan, NotSystemd, RemovePlan, install, plan_install, plan_remove, remove,
};
pub use job::Job;
pub use record::{By, Fate, Run, Runs};
pub use status::{ScheduleStatus, status};

use crate::adapters::time_zone;
use crate::error::{Error, Result};
use crate::stack::Stack;
use chrono_tz::Tz;
use std::time::Duration;

/// When the stack's schedule fires, in which time zone.
pub fn calendar_of(stack: &Stack) -> Result<(Calendar, Tz)> {
    let calendar = Calendar::parse(&stack.config.schedule.at)?;
    Ok((calendar, time_zone::named(&stack.config.timezone)?))
}

/// By how much a run may be late on purpose, at most.
pub fn jitter_of(stack: &Stack) -> Result<Duration> {
    span(&stack.config.schedule.jitter)
}

/// Reads a span of time such as `10m`; nothing is no time.
pub fn span(text: &str) -> Result<Duration> {
    if text.trim().is_empty() {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text.trim()).map_err(|_| {
        Error::usage(format!("{text:?} is no span of time")).hint("Write it as in 90s, 10m or 1h.")
    })
}
