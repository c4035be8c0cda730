//! How the schedule stands: what is installed, what came of it, and whether it really fires.

use super::install::{Installed, installed};
use super::record::{By, Fate, Run, Runs};
use super::{Job, calendar_of, jitter_of};
use crate::adapters::crontab;
use crate::adapters::fs::Lock;
use crate::adapters::systemd::{EndsAtLogout, ends_at_logout};
use crate::error::Result;
use crate::stack::Stack;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

/// How late a run may be for reasons of the host, beside its delay on purpose.
const GRACE: TimeDelta = TimeDelta::minutes(2);

/// How a schedule stands.
#[derive(Debug, Clone, Serialize)]
pub struct ScheduleStatus {
    /// The stack.
    pub stack: String,
    /// Who fires it, by what is installed or runs; none if nobody does.
    pub fired_by: Option<By>,
    /// Whether that one is at work, also when nobody is logged in: cron or systemd runs.
    pub is_served: bool,
    /// Where it is not: why, and what to do, as far as more is known than that it does not run.
    pub not_served: Option<String>,
    /// When, as it is configured.
    pub at: String,
    /// In which time zone.
    pub time_zone: String,
    /// The next time.
    pub next: Option<DateTime<Utc>>,
    /// The last time at which a run should have been under way.
    pub last_due: Option<DateTime<Utc>>,
    /// Whether a run was begun at that time or since; none if nothing was due since it was installed.
    pub fired: Option<bool>,
    /// The last run that was begun.
    pub last: Option<Run>,
    /// What became of it.
    pub result: Option<Fate>,
    /// The last run that was all good.
    pub last_good: Option<DateTime<Utc>>,
}

impl ScheduleStatus {
    /// It fires, and the last run was good.
    #[must_use]
    pub fn is_well(&self) -> bool {
        let fails = matches!(self.result, Some(Fate::Failed | Fate::Died));
        self.fired_by.is_some() && self.is_served && self.fired != Some(false) && !fails
    }
}

/// Looks.
pub async fn status(stack: &Stack, job: &Job) -> Result<ScheduleStatus> {
    let (calendar, zone) = calendar_of(stack)?;
    let daemon = Lock::shared(&stack.lock_file("schedule-daemon")).is_err();
    let fired_by = if daemon {
        Some(By::Daemon)
    } else {
        installed(job).await?
    };
    let ends = match fired_by {
        Some(By::Systemd) => ends_at_logout(),
        _ => None,
    };
    let is_served = match fired_by {
        Some(By::Cron) => crontab::cron_runs(),
        Some(By::Systemd) => crontab::systemd_runs() && ends.is_none(),
        Some(By::Daemon) => true,
        Some(By::Hand) | None => false,
    };
    let now = Utc::now();
    let late = TimeDelta::from_std(jitter_of(stack)?).unwrap_or_default() + GRACE;
    let settled = (now - late).with_timezone(&zone);
    let last_due = calendar.last_until(settled).map(|due| due.to_utc());
    let runs = Runs::read(stack)?;
    let since = Installed::read(stack).map(|installed| installed.at);
    // Before the first run of a daemon nothing says when it should have fired.
    let begins = since.or_else(|| runs.runs.first().map(|run| run.started_at));
    let last_due = last_due.filter(|due| begins.is_some_and(|begins| begins < *due));
    let last = runs.last().cloned();
    Ok(ScheduleStatus {
        stack: stack.name.clone(),
        fired_by,
        is_served,
        not_served: ends.as_ref().map(how_to_go_on),
        at: calendar.to_string(),
        time_zone: zone.name().to_owned(),
        next: calendar
            .next_after(now.with_timezone(&zone))
            .map(|next| next.to_utc()),
        fired: last_due.map(|due| {
            let last = runs.last_until(now);
            last.is_some_and(|run| run.started_at >= due)
        }),
        last_due,
        result: last.as_ref().map(Run::fate),
        last_good: runs.last_good().map(|run| run.started_at),
        last,
    })
}

fn how_to_go_on(ends: &EndsAtLogout) -> String {
    format!("{}; run `{}`", ends.reason(), ends.remedy())
}
