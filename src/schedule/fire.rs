//! One run of the schedule: back up, read the backup back as a whole, copy it, prune, and now and then
//! a drill.

use super::record::{By, Run, Runs};
use super::{Calendar, alarm, calendar_of};
use crate::adapters::fs::{self, Lock};
use crate::adapters::{log_file, time_zone};
use crate::archive::{Depth, verify};
use crate::backup::{self, BackupOptions, BackupReport};
use crate::config::ProofKind;
use crate::drill::{self, DrillOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use crate::repository::{self, Backups, CopyReport, LATEST, PruneOptions, Repository, is_ahead};
use crate::restore;
use crate::stack::Stack;
use chrono::{DateTime, Utc};
use std::time::{Duration, Instant};

/// How long a run waits for somebody else's backup or restore to end.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// How often it looks whether that has ended.
const LOOK: Duration = Duration::from_secs(2);
/// A file that was half written so long ago is nobody's any more.
const FORGOTTEN: Duration = Duration::from_secs(3600);
/// A log that is larger is begun anew.
const LARGE_LOG: u64 = 1 << 20;
/// Old logs that are kept.
const OLD_LOGS: u32 = 3;

/// How a run is fired.
#[derive(Debug, Clone)]
pub struct FireOptions {
    /// By whom.
    pub by: By,
    /// By how much it may be late on purpose.
    pub jitter: Duration,
    /// Run only if a run was missed.
    pub only_missed: bool,
}

/// Runs once. `None`: only what was missed was asked for, and nothing was.
///
/// Fails with [`ErrorKind::Locked`] if a run is at work already. Whatever else fails is recorded as
/// well.
pub async fn fire(
    stack: &Stack,
    options: &FireOptions,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<Option<Run>> {
    let lock = match Lock::exclusive(&stack.lock_file("schedule"), "a scheduled run") {
        // A full disk, perhaps: not even this can be recorded, so that somebody has to be told.
        Err(error) if error.kind() != ErrorKind::Locked => {
            alarm::unable(stack, &one_line(&error), events).await;
            return Err(error);
        }
        other => other?,
    };
    if options.only_missed && missed(stack, events)?.is_none() {
        return Ok(None);
    }
    let late = options.jitter.mul_f64(fastrand::f64());
    interrupt
        .guard(async {
            tokio::time::sleep(late).await;
            Ok(())
        })
        .await?;
    rotate_log(stack, events);
    // What an earlier run was writing when it was killed; others write there too, right now.
    if let Err(error) = fs::remove_half_written(&stack.folder.join("run"), FORGOTTEN) {
        events.warning(error.to_string());
    }
    let mut run = Run::begin(options.by)
        .ok_or_else(|| Error::failed("this process cannot be told from others"))?;
    // A disk on which the record does not fit is one more reason to try and to say what comes of it.
    let before = Runs::read(stack).ok();
    let before = before.and_then(|runs| runs.last().map(Run::fate));
    // Before this run takes its place as the last one.
    if let Err(error) = alarm::killed(stack, events).await {
        events.warning(error.to_string());
    }
    let noted = Runs::remember(stack, &run, &lock);
    alarm::begun(stack, events).await;
    let done = work(stack, &mut run, events, interrupt).await.and(noted);
    run.ended_at = Some(Utc::now());
    run.error = done.as_ref().err().map(one_line);
    run.not_told = alarm::ended(stack, &run, before, events).await;
    let noted = Runs::remember(stack, &run, &lock);
    done.and(noted).map(|()| Some(run))
}

/// The last time at which a run was due, if none was begun since, and no backup taken by hand. What is
/// dated in the future by a clock that was wrong hides nothing.
pub(super) fn missed(stack: &Stack, events: &Events) -> Result<Option<DateTime<Utc>>> {
    let (calendar, zone) = calendar_of(stack)?;
    let now = Utc::now();
    let Some(due) = calendar.last_until(now.with_timezone(&zone)) else {
        return Ok(None);
    };
    let due = due.to_utc();
    let run = Runs::read(stack)?.last_until(now).map(|run| run.started_at);
    let backups = backups(stack)?;
    backups.warn_of_ahead(events);
    let backup = backups.newest();
    // Where nothing was ever backed up, the schedule has just begun.
    Ok(run.max(backup).filter(|last| *last < due).map(|_| due))
}

/// The good backups of the stack.
pub(super) fn backups(stack: &Stack) -> Result<Backups> {
    Repository::of(stack)?.backups_of(&stack.name)
}

async fn work(stack: &Stack, run: &mut Run, events: &Events, interrupt: &Interrupt) -> Result<()> {
    restore::recover(stack, events).await?;
    require_repository(stack)?;
    let report = back_up(stack, events, interrupt).await?;
    let name = report.archive.file_name().unwrap_or_default();
    run.archive = Some(name.to_string_lossy().into_owned());
    // A backup that is encrypted has been read back as a whole by the run that could.
    if stack.config.schedule.verify && report.verified.depth != Depth::Full {
        prove(stack, &report, events, interrupt).await?;
    }
    let mut behind = copy(stack, events, interrupt).await?;
    // First, since a drill may be what has to be passed before anything is deleted.
    if drill_is_due(stack)? {
        run.drilled = drill(stack, events, interrupt).await?;
    }
    if stack.config.schedule.prune {
        run.pruned = prune(stack, &mut behind, events, interrupt).await?;
    }
    run.behind = behind;
    let names = run.behind.iter().map(String::as_str);
    repository::behind(names).map_or(Ok(()), Err)
}

/// Brings the copies up to date, and answers which are not. The backup is good all the same, so that
/// what is left to do is done before anybody is alarmed.
async fn copy(stack: &Stack, events: &Events, interrupt: &Interrupt) -> Result<Vec<String>> {
    let repository = Repository::of(stack)?;
    let work = repository.bring_copies_up(&stack.name, events, interrupt);
    let reports = Box::pin(work).await;
    interrupt.check()?;
    let behind = reports.into_iter().filter(CopyReport::is_behind);
    Ok(behind.map(|report| report.name).collect())
}

/// Where a disk is not mounted, its folder is there and empty, and backups would pile up on another
/// disk unseen. A repository that has lost every archive is not written to by itself.
fn require_repository(stack: &Stack) -> Result<()> {
    let runs = Runs::read(stack)?;
    let Some(made) = runs.last_good().and_then(|run| run.archive.as_ref()) else {
        return Ok(());
    };
    let repository = Repository::of(stack)?;
    let there = backups(stack)?;
    if repository.has(made)? || !there.good.is_empty() || !there.ahead.is_empty() {
        return Ok(());
    }
    Err(Error::missing(format!(
        "{} holds no backup any more, and {made} was made there: is its disk mounted?",
        repository.place().display()
    ))
    .hint("Mount it. If the backups were moved on purpose, begin anew with `k1ops backup`."))
}

/// Backs up, once whoever is at work on the data or in the repository has ended.
async fn back_up(stack: &Stack, events: &Events, interrupt: &Interrupt) -> Result<BackupReport> {
    let begun = Instant::now();
    let options = BackupOptions::default();
    loop {
        match Box::pin(backup::run(stack, &options, events, interrupt)).await {
            Err(error) if error.kind() == ErrorKind::Locked && begun.elapsed() < PATIENCE => {
                events.note(format!("waiting: {error}"));
                let wait = async {
                    tokio::time::sleep(LOOK).await;
                    Ok(())
                };
                interrupt.guard(wait).await?;
            }
            other => return other,
        }
    }
}

async fn prove(
    stack: &Stack,
    report: &BackupReport,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<()> {
    let repository = Repository::of(stack)?;
    let archive = repository.open(&report.archive)?;
    let jobs = backup::jobs(stack.config.backup.jobs);
    match verify(&archive, Depth::Full, jobs, events, interrupt).await {
        Ok(_) => repository.note_proof(&archive, ProofKind::Verify),
        Err(error) => {
            if error.kind() == ErrorKind::BadData {
                repository.note_failure(&archive, &error.to_string())?;
            }
            Err(error)
        }
    }
}

/// Whether a drill was due since the last one.
fn drill_is_due(stack: &Stack) -> Result<bool> {
    let at = stack.config.schedule.drill.trim();
    if at.is_empty() || at == "never" {
        return Ok(false);
    }
    let zone = time_zone::named(&stack.config.timezone)?;
    let now = Utc::now();
    let due = Calendar::parse(at)?.last_until(now.with_timezone(&zone));
    // A record that cannot be read is none, and neither is one that a wrong clock dated.
    let last = drill::read(stack).ok().flatten().map(|record| record.at);
    let last = last.filter(|last| !is_ahead(*last, now));
    Ok(due.is_some_and(|due| last.is_none_or(|last| last < due)))
}

/// Drills the newest archive. Where this host cannot do that at all, the backup is good all the
/// same; `k1ops doctor` tells how long ago the last drill was.
async fn drill(stack: &Stack, events: &Events, interrupt: &Interrupt) -> Result<bool> {
    let options = DrillOptions {
        archive: LATEST.to_owned(),
        keep: false,
    };
    match Box::pin(drill::run(stack, &options, events, interrupt)).await {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::Missing | ErrorKind::Usage) => {
            events.warning(format!("no drill was done: {error}"));
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Prunes, and each copy by the same rules. One that cannot be is added to those that are behind.
async fn prune(
    stack: &Stack,
    behind: &mut Vec<String>,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<usize> {
    let repository = Repository::of(stack)?;
    let options = PruneOptions::of(stack);
    let plan = repository.prune(&options, events, interrupt).await?;
    for copy in repository.copies() {
        let name = copy.name();
        // Whatever keeps it from being written to keeps it from being pruned.
        if behind.iter().any(|other| other == name) {
            continue;
        }
        let pruned = async { copy.open()?.prune(&options, events, interrupt).await };
        if let Err(error) = pruned.await {
            interrupt.check()?;
            events.warning(format!("the copy {name} is not pruned: {error}"));
            behind.push(name.to_owned());
        }
    }
    Ok(plan.goes().count())
}

/// The log that a crontab's line appends to.
fn rotate_log(stack: &Stack, events: &Events) {
    let log = stack.folder.join("logs").join("schedule.log");
    let large = std::fs::metadata(&log).is_ok_and(|found| found.len() > LARGE_LOG);
    if large && let Err(error) = log_file::rotate(&log, OLD_LOGS) {
        events.warning(error.to_string());
    }
}

fn one_line(error: &Error) -> String {
    let mut parts = vec![error.to_string()];
    parts.extend(error.causes());
    parts.join(": ").replace('\n', " ")
}
