//! `k1ops restore --into`: a data directory beside everything that is live.

use super::Context;
use crate::error::Result;
use crate::exit_code::ExitCode;
use crate::restore::{
    self, AtTarget, FolderOptions, FolderPlan, FolderReport, RecoveryPlan, TimeOptions,
};
use crate::ui::{self, Tone, Ui};
use crate::wal::Reached;
use std::path::PathBuf;
use std::time::Duration;

/// Where a physical backup goes.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Physical backups of PostgreSQL")]
pub(super) struct IntoArgs {
    /// Make this folder a data directory that PostgreSQL starts on, and touch nothing of the stack
    #[arg(
        long = "into",
        value_name = "FOLDER",
        conflicts_with_all = ["only", "no_safety", "start", "terminate_sessions"]
    )]
    folder: Option<PathBuf>,
    /// Where a tablespace goes: its folder on the server, and an empty one
    #[arg(long, value_name = "OLD=NEW", requires = "folder", value_parser = tablespace)]
    tablespace: Vec<(String, PathBuf)>,
    /// Bring the data directory to this moment, such as "2026-11-23 19:00", by the write-ahead log
    ///
    /// In the configured time zone, unless one is behind it: UTC, +01:00, Europe/Berlin. Begins with the
    /// newest physical backup that ended before. Without --into, the data directory is made in
    /// `.conductor/point-in-time/`.
    #[arg(
        long,
        value_name = "TIME",
        conflicts_with_all = ["only", "no_safety", "start", "terminate_sessions"]
    )]
    to: Option<String>,
    /// Follow this timeline instead of the newest that the backup leads to
    #[arg(long, value_name = "N", requires = "to")]
    timeline: Option<u32>,
    /// What the server does at that moment
    #[arg(
        long,
        value_name = "ACTION",
        requires = "to",
        default_value = "promote"
    )]
    then: Then,
    /// Put the write-ahead log into the data directory, so that the server needs nothing outside of it
    #[arg(long, requires = "to")]
    copy_wal: bool,
}

/// What the server does once it has got to the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Then {
    /// Take writes, on a timeline of its own
    Promote,
    /// Take questions only, until `SELECT pg_wal_replay_resume()`
    Pause,
    /// Stop
    Shutdown,
}

impl IntoArgs {
    /// Whether the restore is one into a folder.
    pub(super) fn is_asked_for(&self) -> bool {
        self.folder.is_some() || self.to.is_some()
    }
}

fn tablespace(text: &str) -> Result<(String, PathBuf), String> {
    let (old, new) = text
        .split_once('=')
        .filter(|(old, new)| !old.is_empty() && !new.is_empty())
        .ok_or("it takes OLD=NEW")?;
    Ok((old.to_owned(), PathBuf::from(new)))
}

/// Plans, and lays the data directory down.
pub(super) async fn run(
    args: &IntoArgs,
    archive: &str,
    dry_run: bool,
    jobs: Option<usize>,
    context: &Context,
) -> Result<ExitCode> {
    let stack = context.stack()?;
    let ui = &context.ui;
    let options = FolderOptions {
        archive: archive.to_owned(),
        folder: args.folder.clone().unwrap_or_default(),
        tablespaces: args.tablespace.iter().cloned().collect(),
        jobs,
    };
    let plan = match &args.to {
        Some(to) => {
            let time = TimeOptions {
                to: to.clone(),
                timeline: args.timeline,
                at_target: match args.then {
                    Then::Promote => AtTarget::Promote,
                    Then::Pause => AtTarget::Pause,
                    Then::Shutdown => AtTarget::Shutdown,
                },
                copy_wal: args.copy_wal,
            };
            restore::plan_time(&stack, &options, &time, &context.interrupt).await?
        }
        None => restore::plan_folder(&stack, &options)?,
    };
    if dry_run {
        ui.result(&plan, |_, text| text.push_str(&shown(&plan)))?;
        return Ok(ExitCode::Done);
    }
    ui.say(shown(&plan).trim_end());
    let report = restore::execute_folder(&plan, &context.events(), &context.interrupt).await?;
    ui.result(&report, |ui, text| show_report(ui, &report, text))?;
    Ok(ExitCode::Done)
}

fn shown(plan: &FolderPlan) -> String {
    let mut text = format!(
        "restore of {}\n  a data directory of PostgreSQL {}, {}, into {}\n",
        plan.archive.display(),
        plan.server_version,
        ui::bytes(plan.needs_bytes),
        plan.folder.display(),
    );
    for (old, new) in &plan.tablespaces {
        text.push_str(&format!("  tablespace {old} into {}\n", new.display()));
    }
    if let Some(recovery) = &plan.recovery {
        text.push_str(&shown_recovery(recovery));
    }
    text.push_str("  nothing of the stack is touched\n");
    text
}

fn shown_recovery(recovery: &RecoveryPlan) -> String {
    let stop = match &recovery.stop {
        Reached::Time => "before the first transaction that ended later".to_owned(),
        Reached::Position(lsn) => {
            format!("behind {lsn}, the end of the log: nothing later had been written by then")
        }
        Reached::Base => "at the backup's own end: nothing was written since".to_owned(),
    };
    let log = match (&recovery.first, &recovery.last) {
        (Some(first), Some(last)) => format!("{} segments, {first} to {last}", recovery.segments),
        _ => "no segment".to_owned(),
    };
    let from = if recovery.copy_wal {
        ", copied into the data directory"
    } else {
        ", fetched from the repository by restore_command"
    };
    let then = match recovery.at_target {
        AtTarget::Promote => "takes writes on a timeline of its own",
        AtTarget::Pause => "takes questions only",
        AtTarget::Shutdown => "stops",
    };
    format!(
        "  to {}\n  the backup ended at {}\n  the write-ahead log of timeline {}: {log}{from}\n  \
         the server stops {stop}, and then {then}; archive_mode is off in it\n",
        recovery.shown,
        ui::time(recovery.base_ended),
        recovery.timeline,
    )
}

fn show_report(ui: &Ui, report: &FolderReport, text: &mut String) {
    text.push_str(&format!(
        "{} {} into {} in {}\n",
        ui.paint(Tone::Good, "restored"),
        report.archive.display(),
        report.folder.display(),
        ui::duration(Duration::from_secs_f64(report.seconds)),
    ));
    text.push_str(&format!(
        "  {} files, {}, equal to the server's manifest\n",
        ui::count(report.files),
        ui::bytes(report.bytes),
    ));
    text.push_str(&format!(
        "  start PostgreSQL {} on it as the user that owns it{}\n",
        report.server_version,
        match &report.recovery {
            Some(recovery) => format!("; it recovers to {}", recovery.shown),
            None => String::new(),
        }
    ));
}
