//! Backups are scheduled, and the schedule really runs.

use super::{quoted, span};
use crate::adapters::crontab::{self, Scheduled};
use crate::adapters::systemd::EndsAtLogout;
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient};
use crate::error::{ErrorKind, Result};
use crate::repository::Purpose;
use chrono::{DateTime, TimeDelta, Utc};
use std::path::Path;
use std::sync::Arc;

/// How long a backup may take before it is missed.
const GRACE: TimeDelta = TimeDelta::hours(1);
/// Where cron looks for programs.
const CRON_PATH: [&str; 2] = ["/usr/bin", "/bin"];

pub(super) struct Schedule;

impl Check for Schedule {
    fn name(&self) -> &'static str {
        "schedule"
    }

    fn group(&self) -> Group {
        Group::Backups
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        Box::pin(async move { look(&patient).await })
    }
}

async fn look(patient: &Patient) -> Result<Examined> {
    let mut entries = crontab::mentioning("k1ops").await;
    entries.retain(|entry| runs_backups(&entry.command) && is_about(patient, entry));
    if entries.is_empty() {
        if patient.archives()?.is_empty() {
            return Ok(Examined::skipped("no backups are taken yet"));
        }
        return Ok(Finding::note("backups are not scheduled")
            .seen("no crontab and no timer that this user may read mentions k1ops backup")
            .because("backups that somebody has to think of are forgotten")
            .remedy("k1ops schedule install")
            .into());
    }
    let mut examined = Examined::default();
    for entry in &entries {
        let before = examined.findings.len();
        unable(entry, &mut examined);
        missed(patient, entry, &mut examined)?;
        if examined.findings.len() == before {
            examined.say(format!("{} in {}", entry.when, entry.place));
        }
    }
    Ok(examined)
}

/// Whether a command is a backup, or a run of what `k1ops schedule install` installs. Its second
/// line catches up after a boot and has no time of its own.
fn runs_backups(command: &str) -> bool {
    let installed = command.contains("schedule fire") && !command.contains("--missed");
    command.contains("backup") || installed
}

/// Whether an entry is about this stack: it names the stack's folder, or no folder at all.
fn is_about(patient: &Patient, entry: &Scheduled) -> bool {
    let base = &patient.stack.base;
    let real = base.canonicalize().unwrap_or_else(|_| base.clone());
    let names = |folder: &Path| entry.command.contains(&folder.display().to_string());
    let names_none = !entry.command.contains("cd ") && !entry.command.contains("--config");
    names(base) || names(&real) || names_none
}

/// What keeps an entry from running at all.
fn unable(entry: &Scheduled, examined: &mut Examined) {
    let problem = |title: String| Finding::problem(ErrorKind::Missing, title);
    let seen = format!("{}: {} {}", entry.place, entry.when, entry.command);
    if let Some(program) = entry.program("k1ops") {
        let on_path = || {
            CRON_PATH
                .iter()
                .any(|folder| Path::new(folder).join("k1ops").exists())
        };
        if program.is_absolute() && !program.exists() {
            examined.find(
                problem(format!(
                    "the schedule calls {}, which is not there",
                    program.display()
                ))
                .seen(seen.clone())
                .because("k1ops was moved or removed since the schedule was made")
                .remedy(format!(
                    "crontab -l | sed 's#{}#{}#' | crontab -",
                    program.display(),
                    program_now()
                )),
            );
        } else if !program.is_absolute() && !entry.by_systemd && !on_path() {
            examined.find(
                problem("the schedule calls `k1ops`, which cron does not find".to_owned())
                    .seen(seen.clone())
                    .because("cron looks in /usr/bin and /bin only, whatever PATH you have")
                    .remedy(format!("sudo ln -s {} /usr/bin/k1ops", program_now())),
            );
        }
    }
    if entry.by_systemd && !entry.enabled {
        let name = Path::new(&entry.place).file_name().unwrap_or_default();
        let user = if is_of_user(entry) { " --user" } else { "" };
        let name = name.to_string_lossy();
        examined.find(
            problem(format!("the timer {name} is installed and not switched on"))
                .seen(seen)
                .because("a timer that is not enabled never fires")
                .remedy(format!("systemctl{user} enable --now {}", quoted(&name))),
        );
    } else if entry.by_systemd && !crontab::systemd_runs() {
        examined.find(
            problem("the schedule is a systemd timer, and systemd does not run".to_owned())
                .seen(seen)
                .because("nobody on this host fires timers")
                .remedy("ps -p 1 -o comm="),
        );
    } else if is_of_user(entry)
        && let Some(ends) = EndsAtLogout::of_this_user()
    {
        examined.find(
            problem(format!(
                "{}, and the schedule is one of them",
                ends.reason()
            ))
            .seen(seen)
            .because("systemd ends what is a user's with their last session, unless they linger")
            .remedy(ends.remedy()),
        );
    } else if !entry.by_systemd && !crontab::cron_runs() {
        examined.find(
            problem("the schedule is in a crontab, and no cron runs".to_owned())
                .seen(seen)
                .because("the crontab is there, but nobody reads it")
                .remedy("sudo systemctl enable --now cron"),
        );
    }
}

/// Whether an entry is a timer of a user's own systemd.
fn is_of_user(entry: &Scheduled) -> bool {
    entry.by_systemd && entry.place.contains("/.config/")
}

fn program_now() -> String {
    crate::adapters::process::own_program()
        .display()
        .to_string()
}

/// It should have run, and left no backup.
fn missed(patient: &Patient, entry: &Scheduled, examined: &mut Examined) -> Result<()> {
    let now = Utc::now();
    let Some((due, apart)) = last_settled(entry, now) else {
        return Ok(());
    };
    let newest = patient
        .archives()?
        .iter()
        .filter(|archive| archive.state.is_good() && archive.purpose == Purpose::Backup)
        .filter(|archive| !archive.is_ahead(now))
        .find_map(|archive| archive.time);
    // Somebody may have backed up by hand a moment before.
    if newest.is_some_and(|newest| newest >= due - apart / 10) {
        return Ok(());
    }
    let last = newest.map_or_else(
        || "there is no good backup at all".to_owned(),
        |newest| format!("the last good backup is {} old", span(now - newest)),
    );
    examined.find(
        Finding::problem(
            ErrorKind::Failed,
            format!(
                "the scheduled backup of {} did not happen",
                due.format("%Y-%m-%d %H:%M UTC")
            ),
        )
        .seen(format!("{}: {}", entry.place, entry.when))
        .seen(last)
        .because("the schedule does not fire, or what it runs fails")
        .advise("Run what the schedule runs, and read what it says.")
        .remedy(entry.command.clone()),
    );
    Ok(())
}

/// The last run that is long enough ago to have ended.
fn last_settled(entry: &Scheduled, now: DateTime<Utc>) -> Option<(DateTime<Utc>, TimeDelta)> {
    let (due, apart) = entry.last_due(now)?;
    if due + GRACE.min(apart) <= now {
        return Some((due, apart));
    }
    entry.last_due(due)
}
