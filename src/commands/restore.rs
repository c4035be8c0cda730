//! `k1ops restore`.

use super::Context;
use crate::error::{Error, Result};
use crate::exit_code::ExitCode;
use crate::restore::{
    self, Claim, Part, PlannedPart, RestoreOptions, RestorePlan, RestoreReport, Safety, ServerPlan,
};
use crate::ui::{self, Tone, Ui};
use std::time::Duration;

/// Restore an archive, and keep what it replaces
///
/// Verifies the archive, saves the present data, restores beside it, compares every row, and only
/// then swaps. Killed at any point, the stack is either as before or is completed by the next run.
/// `k1ops undo` puts back what was replaced.
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "they are flags")]
pub struct RestoreArgs {
    /// A name in the repository, a path, or `latest`
    archive: String,
    /// Show what would be done and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Restore only this part: postgres, postgres:SCHEMA, postgres:SCHEMA.TABLE, sqlite, conductor
    /// or k1
    #[arg(long, value_name = "PART", value_delimiter = ',', value_parser = part)]
    only: Vec<Part>,
    /// Restore the PostgreSQL part into a new database of this name; the stack's own is not touched
    #[arg(long = "as", value_name = "DATABASE")]
    new_database: Option<String>,
    /// Do not back up the present data first; it is kept for undo even so
    #[arg(long)]
    no_safety: bool,
    /// Start the server afterwards even if it does not run now
    #[arg(long)]
    start: bool,
    /// End the sessions of others that are connected to the database
    #[arg(long)]
    terminate_sessions: bool,
    /// Use this many connections and threads
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
}

fn part(text: &str) -> Result<Part, String> {
    text.parse().map_err(|error: Error| error.to_string())
}

/// Plans, asks and restores.
pub(super) async fn run(args: &RestoreArgs, context: &Context) -> Result<ExitCode> {
    let stack = context.stack()?;
    let (ui, events, interrupt) = (&context.ui, context.events(), &context.interrupt);
    let options = RestoreOptions {
        archive: args.archive.clone(),
        only: args.only.clone(),
        new_database: args.new_database.clone(),
        no_safety: args.no_safety,
        start: args.start,
        terminate_sessions: args.terminate_sessions,
        jobs: args.jobs,
    };
    if args.dry_run {
        let plan = restore::plan(&stack, &options, &events, interrupt).await?;
        ui.result(&plan, |ui, text| text.push_str(&shown(ui, &plan)))?;
        return Ok(ExitCode::Done);
    }
    let claim = Claim::take(&stack, "k1ops restore", &events).await?;
    let plan = restore::plan(&stack, &options, &events, interrupt).await?;
    ui.say(shown(ui, &plan).trim_end());
    if plan.parts.iter().any(PlannedPart::replaces) {
        ui.confirm(&format!("Replace the data of stack {}?", stack.name))?;
    }
    let report = restore::execute(&stack, &claim, plan, &events, interrupt).await?;
    ui.result(&report, |ui, text| show_report(ui, &report, text))?;
    Ok(ExitCode::Done)
}

fn shown(ui: &Ui, plan: &RestorePlan) -> String {
    let mut text = format!(
        "restore of {}\n  taken {} from stack {}\n",
        plan.archive.display(),
        ui::time(plan.archive_time),
        plan.archive_stack
    );
    if plan.archive_stack != plan.stack {
        let warning = format!(
            "  note: the archive is of stack {}, this is stack {}\n",
            plan.archive_stack, plan.stack
        );
        text.push_str(&ui.paint(Tone::Warn, &warning));
    }
    for part in &plan.parts {
        let (place, rows) = match part {
            PlannedPart::Sqlite { live, rows, .. } => (live.display().to_string(), rows),
            PlannedPart::Postgres {
                server, live, rows, ..
            } => (format!("database {live} on {server}"), rows),
        };
        let verb = if part.replaces() {
            "replaces, and keeps,"
        } else {
            "creates"
        };
        if let PlannedPart::Postgres { only, .. } = part
            && !only.is_empty()
        {
            text.push_str(&format!("  only {}\n", only.join(", ")));
        }
        let (what, rows) = (part.what(), ui::count(*rows));
        text.push_str(&format!("  {what} ({rows} rows) {verb} {place}\n"));
    }
    for left in &plan.not_restored {
        text.push_str(&format!("  without {}: {}\n", left.what, left.why));
    }
    if plan.server == ServerPlan::Untouched {
        text.push_str("  nothing that the stack uses is touched\n");
        return text;
    }
    text.push_str(match plan.safety {
        Safety::Archive => "  the present data is backed up first\n",
        Safety::NothingThere => "  there is no present data to save\n",
        Safety::Declined => "  the present data is not backed up first, as you asked\n",
    });
    text.push_str(match plan.server {
        ServerPlan::StopAndStart => "  the server is stopped for the swap and started again\n",
        ServerPlan::Start => "  the server is started afterwards\n",
        ServerPlan::Untouched => "",
        ServerPlan::LeaveStopped => "  the server does not run and is not started\n",
    });
    if plan.terminate_sessions {
        text.push_str("  sessions of others that are connected to the database are ended\n");
    }
    if plan.needs_bytes > 0 {
        let (needs, free) = (ui::bytes(plan.needs_bytes), ui::bytes(plan.free_bytes));
        text.push_str(&format!("  {needs} are written, {free} are free\n"));
    }
    text
}

fn show_report(ui: &Ui, report: &RestoreReport, text: &mut String) {
    text.push_str(&format!(
        "{} {} in {}\n",
        ui.paint(Tone::Good, "restored"),
        report.archive.display(),
        ui::duration(Duration::from_secs_f64(report.seconds)),
    ));
    for part in &report.parts {
        let (tables, rows) = (ui::count(part.tables), ui::count(part.rows));
        text.push_str(&format!(
            "  {}: {tables} tables, {rows} rows, equal to the backup\n",
            part.what
        ));
        if let Some(kept) = &part.kept {
            text.push_str(&format!("    the old data is kept: {kept}\n"));
        }
    }
    if let Some(safety) = &report.safety_archive {
        text.push_str(&format!("  and in {}\n", safety.display()));
    }
    super::after_swap(ui, report.server.as_ref(), report.requeue_pending, text);
    text.push_str("take it back with: k1ops undo\n");
}
