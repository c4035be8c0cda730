//! There is a good backup, it is young, it is whole, and it is not suddenly small.

use super::{at_files, size_of, span, word};
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient, Severity};
use crate::error::{ErrorKind, Result};
use crate::repository::{Entry, Purpose, State};
use chrono::{TimeDelta, Utc};
use std::sync::Arc;

/// A day, and an hour for a backup that takes its time.
const YOUNG: TimeDelta = TimeDelta::hours(25);
/// Nobody takes backups here any more.
const FORGOTTEN: TimeDelta = TimeDelta::days(8);
/// How many earlier backups the newest one is held against.
const EARLIER: usize = 5;

pub(super) struct Backups;

impl Check for Backups {
    fn name(&self) -> &'static str {
        "backups"
    }

    fn group(&self) -> Group {
        Group::Backups
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        at_files(patient, look)
    }
}

fn look(patient: &Patient) -> Result<Examined> {
    let archives = patient.archives()?;
    let mut examined = Examined::default();
    let now = Utc::now();
    let (ahead, good): (Vec<&Entry>, Vec<&Entry>) = archives
        .iter()
        .filter(|entry| entry.state.is_good() && entry.purpose == Purpose::Backup)
        .partition(|entry| entry.is_ahead(now));
    from_the_future(&ahead, &mut examined);
    broken(archives, good.first().copied(), &mut examined);
    let Some(&newest) = good.first() else {
        if has_data(patient) {
            examined.find(
                Finding::warning("this stack has data and no good backup")
                    .seen(format!(
                        "looked in {}",
                        patient.stack.repository().display()
                    ))
                    .because("whatever happens to it now cannot be undone")
                    .remedy("k1ops backup"),
            );
        } else if examined.findings.is_empty() {
            return Ok(Examined::skipped("there is nothing to back up yet"));
        }
        return Ok(examined);
    };
    let age = newest
        .time
        .map_or(TimeDelta::zero(), |time| Utc::now() - time);
    if age > YOUNG {
        let severity = if age > FORGOTTEN {
            Severity::Problem
        } else {
            Severity::Warning
        };
        examined.find(
            Finding::problem(
                ErrorKind::Failed,
                format!("the last good backup is {} old", span(age)),
            )
            .as_severe_as(severity)
            .seen(newest.name.clone())
            .because("backups are not scheduled, or they fail; see Schedule and the backup's log")
            .remedy("k1ops backup"),
        );
    }
    let same_kind = |entry: &&Entry| entry.kind == newest.kind;
    let alike: Vec<&Entry> = good.iter().copied().filter(same_kind).collect();
    shrunk(&alike, &mut examined);
    if examined.findings.is_empty() {
        examined.say(format!(
            "{} good, the newest is {} old ({})",
            good.len(),
            span(age),
            size_of(newest.size)
        ));
    }
    Ok(examined)
}

/// What a clock that was wrong has left. It is passed over wherever the newest backup is asked for.
fn from_the_future(ahead: &[&Entry], examined: &mut Examined) {
    for entry in ahead {
        examined.find(
            Finding::warning(format!("archive {} is dated in the future", entry.name))
                .because("a clock was wrong when it was made, or this host's is wrong now")
                .advise("Look at the clock. It is neither `latest` nor pruned; it can be restored by its name.")
                .remedy("date -u"),
        );
    }
}

fn has_data(patient: &Patient) -> bool {
    let stack = &patient.stack;
    stack.uses_database_url() || stack.conductor_db().exists() || stack.k1_db().exists()
}

/// Files that are no backups. One that is newer than every good one matters most: what is taken
/// for the last backup cannot be restored.
fn broken(archives: &[Entry], newest_good: Option<&Entry>, examined: &mut Examined) {
    for entry in archives {
        match &entry.state {
            State::Good
            | State::Sealed { .. }
            | State::Incomplete {
                being_written: true,
            } => {}
            State::Incomplete { .. } => examined.find(
                Finding::note(format!("a backup died and left {}", entry.name))
                    .because("the next backup removes it")
                    .remedy("k1ops backup"),
            ),
            State::Unreadable { reason } => {
                let is_newest = newest_good.is_none_or(|good| entry.time > good.time);
                let severity = if is_newest {
                    Severity::Problem
                } else {
                    Severity::Warning
                };
                examined.find(
                    Finding::problem(
                        ErrorKind::BadData,
                        format!("archive {} cannot be restored", entry.name),
                    )
                    .as_severe_as(severity)
                    .seen(reason.clone())
                    .seen(size_of(entry.size))
                    .because("it was cut off, overwritten or damaged after it was written")
                    .advise("Take a new backup, and look at the disk that this one was on.")
                    .remedy(format!("k1ops verify {}", word(&entry.path)))
                    .remedy("k1ops backup"),
                );
            }
        }
    }
}

/// A backup that is suddenly much smaller is what a stack that lost its data leaves.
fn shrunk(good: &[&Entry], examined: &mut Examined) {
    let Some((newest, earlier)) = good.split_first() else {
        return;
    };
    let mut sizes: Vec<u64> = earlier
        .iter()
        .take(EARLIER)
        .map(|entry| entry.size)
        .collect();
    sizes.sort_unstable();
    let Some(&usual) = sizes.get(sizes.len() / 2) else {
        return;
    };
    if newest.size.saturating_mul(2) >= usual {
        return;
    }
    let rows = |entry: &Entry| entry.rows.map_or_else(|| "?".to_owned(), |n| n.to_string());
    examined.find(
        Finding::warning(format!(
            "the newest backup is {}, and those before it were {}",
            size_of(newest.size),
            size_of(usual)
        ))
        .seen(format!(
            "{}: {} rows; the one before: {} rows",
            newest.name,
            rows(newest),
            rows(earlier[0])
        ))
        .because("data was deleted or lost, or the backup was taken of the wrong store")
        .advise("Look whether the stack still has its data before older archives are removed.")
        .remedy("k1ops list")
        .remedy("k1ops query summary"),
    );
}
