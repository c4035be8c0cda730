//! `k1ops backup`.

use super::{Context, tell_monitoring};
use crate::backup::{self, BackupOptions, BackupPlan, BackupReport, PlannedSource};
use crate::config::Compression;
use crate::error::Result;
use crate::exit_code::ExitCode;
use crate::repository::{CopyReport, Purpose, Repository};
use crate::restore;
use crate::ui::{self, Tone};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// Back the stack up into one archive
///
/// The stack may go on working. Everything in the archive is of one moment for each database, and
/// nothing is listed as a backup before it is complete and its structure was read back. Then it is
/// copied to each of `[[repository.copies]]`, and with it what an earlier run could not copy; if one
/// cannot be reached, the backup is good and the exit code is 7.
#[derive(Debug, clap::Args)]
pub struct BackupArgs {
    /// Show what would be done and do nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Write this file instead of one in the repository
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Compress with this algorithm
    #[arg(long, value_name = "ALGORITHM")]
    compression: Option<Compression>,
    /// Compress at this level (zstd -7 to 22, gzip 1 to 9)
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    level: Option<i32>,
    /// Copy the whole data directory of the PostgreSQL server, not the rows of one database
    ///
    /// The role needs REPLICATION. Such an archive is restored with `k1ops restore ARCHIVE --into
    /// FOLDER`, and it is what a point in time is recovered from.
    #[arg(long)]
    physical: bool,
    /// Use this many connections and compressing threads [default: one for each idle CPU]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Read every byte back after writing, not only the structure
    #[arg(long)]
    verify: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Done<'a> {
    #[serde(flatten)]
    report: &'a BackupReport,
    #[serde(skip_serializing_if = "<[CopyReport]>::is_empty")]
    copies: &'a [CopyReport],
}

/// Plans, and takes the backup.
pub(super) async fn run(args: &BackupArgs, context: &Context) -> Result<ExitCode> {
    let stack = context.stack()?;
    let options = BackupOptions {
        output: args.output.clone(),
        compression: args.compression,
        level: args.level,
        jobs: args.jobs,
        verify_fully: args.verify,
        physical: args.physical,
    };
    let ui = &context.ui;
    if args.dry_run {
        let plan = backup::plan(&stack, &options, Purpose::Backup)?;
        ui.result(&plan, |_, text| show_plan(&plan, text))?;
        return Ok(ExitCode::Done);
    }
    restore::recover(&stack, &context.events()).await?;
    let report = backup::run(&stack, &options, &context.events(), &context.interrupt).await?;
    let copies = if args.output.is_none() {
        let repository = Repository::of(&stack)?;
        let (events, interrupt) = (context.events(), &context.interrupt);
        let work = repository.bring_copies_up(&stack.name, &events, interrupt);
        Box::pin(work).await
    } else {
        Vec::new()
    };
    tell_monitoring(&stack, context).await;
    let done = Done {
        report: &report,
        copies: &copies,
    };
    ui.result(&done, |ui, text| {
        show_report(ui, &report, args.physical, text);
        super::show_copies(ui, &copies, text);
    })?;
    Ok(super::code_of_copies(&copies))
}

fn show_plan(plan: &BackupPlan, text: &mut String) {
    text.push_str(&format!("would write {}\n", plan.archive.display()));
    for source in &plan.sources {
        text.push_str("  with ");
        text.push_str(&match source {
            PlannedSource::Postgres { database } => format!("PostgreSQL database {database}"),
            PlannedSource::Physical { server } => {
                format!("the whole data directory of PostgreSQL server {server}")
            }
            PlannedSource::Sqlite { name, path, bytes } => {
                let size = ui::bytes(*bytes);
                format!("SQLite database {name}, {size}, {}", path.display())
            }
            PlannedSource::Volume { volume, service } => {
                format!("volume {volume} of {}", service.key())
            }
            PlannedSource::Config { .. } => "the configuration without secrets".to_owned(),
        });
        text.push('\n');
    }
    if let Some(standby) = &plan.standby {
        text.push_str(&format!(
            "  read from its standby {standby}, if that is fit\n"
        ));
    }
    for left in &plan.left_out {
        text.push_str(&format!("  without {}: {}\n", left.what, left.why));
    }
}

fn show_report(ui: &ui::Ui, report: &BackupReport, physical: bool, text: &mut String) {
    let took = Duration::from_secs_f64(report.seconds);
    text.push_str(&format!(
        "{} {}\n",
        ui.paint(Tone::Good, "backed up to"),
        report.archive.display()
    ));
    text.push_str(&format!(
        "  {} rows, {} in {} of archive, {} ({})\n",
        ui::count(report.rows),
        ui::bytes(report.raw_bytes),
        ui::bytes(report.size),
        ui::duration(took),
        ui::rate(report.raw_bytes, took),
    ));
    for source in &report.sources {
        if source.bytes > 0 {
            text.push_str(&format!("  {}: {}\n", source.what, ui::bytes(source.bytes)));
        }
        if source.tables > 0 {
            let (tables, rows) = (ui::count(source.tables), ui::count(source.rows));
            text.push_str(&format!(
                "  {}: {tables} tables, {rows} rows\n",
                source.what
            ));
        }
        if let Some(facts) = &source.standby {
            let said = backup::standby::said(facts);
            text.push_str(&format!("  read from a standby: {said}\n"));
        }
    }
    for left in &report.left_out {
        let line = format!("  without {}: {}", left.what, left.why);
        text.push_str(&ui.paint(Tone::Dim, &line));
        text.push('\n');
    }
    text.push_str(&format!(
        "restore it with: k1ops restore {}{}\n",
        report.restore_with,
        if physical { " --into FOLDER" } else { "" }
    ));
}
