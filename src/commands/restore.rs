//! `k1ops restore`.

mod into;

use super::Context;
use crate::error::{Error, Result};
use crate::exit_code::ExitCode;
use crate::repository::{Kind, LATEST, Repository};
use crate::restore::{
    self, Claim, CopyPlan, CopyReport, ForeignKind, ForeignPlan, Part, PlannedPart, RestoreOptions,
    RestorePlan, RestoreReport, Safety, ServerPlan,
};
use crate::stack::Stack;
use crate::ui::{self, Tone, Ui};
use crate::upgrade;
use std::path::Path;
use std::time::Duration;

/// Restore an archive, and keep what it replaces
///
/// Verifies the archive, saves the present data, restores beside it, compares every row, and only
/// then swaps. Killed at any point, the stack is either as before or is completed by the next run.
/// `k1ops undo` puts back what was replaced.
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "they are flags")]
pub struct RestoreArgs {
    /// A name in the repository, a path, or `latest`; also a plain or custom dump of `pg_dump`, or the tar of a volume
    #[arg(required_unless_present_any = ["folder", "to"])]
    archive: Option<String>,
    /// Take it from this copy of the repository
    #[arg(long, value_name = "NAME", conflicts_with = "to")]
    from_copy: Option<String>,
    /// Show what would be done and change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Restore only this part: postgres, postgres:SCHEMA, postgres:SCHEMA.TABLE, sqlite, conductor, k1,
    /// conductor:TABLE, k1:TABLE, volumes or volume:NAME
    #[arg(long, value_name = "PART", value_delimiter = ',', value_parser = part)]
    only: Vec<Part>,
    /// Restore what --only names into something new of this name, and replace nothing: a database for
    /// postgres, a file for sqlite, a volume for a volume
    #[arg(long = "as", value_name = "NAME", requires = "only")]
    copy_as: Option<String>,
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
    #[command(flatten)]
    into: into::IntoArgs,
}

fn part(text: &str) -> Result<Part, String> {
    text.parse().map_err(|error: Error| error.to_string())
}

/// Plans, asks and restores.
pub(super) async fn run(args: &RestoreArgs, context: &Context) -> Result<ExitCode> {
    let stack = context.stack()?;
    let (ui, events, interrupt) = (&context.ui, context.events(), &context.interrupt);
    let archive = &archive(args, &stack)?;
    if archive == LATEST {
        Repository::of(&stack)?.warn_of_ahead(&stack.name, &events);
    }
    if args.into.is_asked_for() {
        return into::run(&args.into, archive, args.dry_run, args.jobs, context).await;
    }
    if !args.dry_run && args.copy_as.is_none() {
        upgrade::refuse_unfinished(&stack)?;
    }
    let options = RestoreOptions {
        archive: archive.clone(),
        only: args.only.clone(),
        no_safety: args.no_safety,
        start: args.start,
        terminate_sessions: args.terminate_sessions,
        jobs: args.jobs,
    };
    let path = Path::new(archive);
    if let Some(kind) = restore::foreign_kind(path)? {
        return Box::pin(foreign(args, &stack, &options, kind, context)).await;
    }
    let stack = if restore::belongs_in_docker(&stack, archive).await? {
        restore::in_docker(&stack, !args.dry_run)?
    } else {
        stack
    };
    if let Some(name) = &args.copy_as {
        return copy(args, &stack, &options, name, context).await;
    }
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

/// The archive as it was named, or the address of the one in a copy.
fn archive(args: &RestoreArgs, stack: &Stack) -> Result<String> {
    let wanted = args.archive.as_deref().unwrap_or(LATEST);
    let Some(copy) = &args.from_copy else {
        return Ok(wanted.to_owned());
    };
    let kind = if args.into.is_asked_for() {
        Kind::Physical
    } else {
        Kind::Logical
    };
    let repository = Repository::of(stack)?;
    let path = repository.find_in_copy(copy, wanted, &stack.name, Some(kind))?;
    Ok(path.to_string_lossy().into_owned())
}

/// Restores a file that another tool wrote.
async fn foreign(
    args: &RestoreArgs,
    stack: &Stack,
    options: &RestoreOptions,
    kind: ForeignKind,
    context: &Context,
) -> Result<ExitCode> {
    let (ui, events, interrupt) = (&context.ui, context.events(), &context.interrupt);
    let path = Path::new(&options.archive);
    if args.copy_as.is_some() {
        return Err(Error::usage("--as takes an archive of k1ops"));
    }
    if args.dry_run {
        let plan = restore::plan_foreign(stack, path, kind, options, interrupt).await?;
        ui.result(&plan, |_, text| text.push_str(&shown_foreign(&plan)))?;
        return Ok(ExitCode::Done);
    }
    let claim = Claim::take(stack, "k1ops restore", &events).await?;
    let plan = restore::plan_foreign(stack, path, kind, options, interrupt).await?;
    ui.say(shown_foreign(&plan).trim_end());
    if plan.part.replaces() {
        ui.confirm(&format!("Replace the data of stack {}?", stack.name))?;
    }
    let report = restore::execute_foreign(stack, &claim, plan, &events, interrupt).await?;
    ui.result(&report, |ui, text| show_report(ui, &report, text))?;
    Ok(ExitCode::Done)
}

fn shown_foreign(plan: &ForeignPlan) -> String {
    let what = match plan.kind {
        ForeignKind::Script => "a plain script of pg_dump",
        ForeignKind::CustomDump => "a dump in pg_dump's custom format",
        ForeignKind::VolumeTar => "the tar of a volume",
    };
    let mut text = format!("restore of {}, {what}\n", plan.file.display());
    text.push_str(&shown_part(&plan.part));
    text.push_str(shown_safety(plan.safety));
    text.push_str(shown_server(plan.server));
    text
}

/// Restores a part beside everything that is live.
async fn copy(
    args: &RestoreArgs,
    stack: &Stack,
    options: &RestoreOptions,
    name: &str,
    context: &Context,
) -> Result<ExitCode> {
    let (ui, events, interrupt) = (&context.ui, context.events(), &context.interrupt);
    if args.dry_run {
        let plan = restore::plan_copy(stack, options, name, &events, interrupt).await?;
        ui.result(&plan, |_, text| text.push_str(&shown_copy(&plan)))?;
        return Ok(ExitCode::Done);
    }
    let claim = Claim::take(stack, "k1ops restore", &events).await?;
    let plan = restore::plan_copy(stack, options, name, &events, interrupt).await?;
    let report = restore::copy(stack, &claim, plan, &events, interrupt).await?;
    ui.result(&report, |ui, text| {
        let made = ui.paint(Tone::Good, "made");
        text.push_str(&format!("{made} {}\n", shown_copied(&report)));
    })?;
    Ok(ExitCode::Done)
}

fn shown_copy(plan: &CopyPlan) -> String {
    let (rows, what) = match plan {
        CopyPlan::Volume(plan) => {
            let (what, size) = (&plan.what, ui::bytes(plan.bytes));
            return format!("would make volume {} of {what} ({size})\n", plan.volume);
        }
        CopyPlan::Database(plan) => {
            let of = limited("postgres", &plan.only);
            let (new, server) = (&plan.database, &plan.server);
            (plan.rows, format!("database {new} on {server} of {of}"))
        }
        CopyPlan::File(plan) => {
            let of = limited(&plan.what, &plan.only);
            (plan.rows, format!("{} of {of}", plan.file.display()))
        }
    };
    format!(
        "would make {what} ({} rows)\n  nothing that is live is touched\n",
        ui::count(rows)
    )
}

fn limited(what: &str, only: &[String]) -> String {
    match only {
        [] => what.to_owned(),
        only => format!("{what}, only {}", only.join(", ")),
    }
}

fn shown_copied(report: &CopyReport) -> String {
    match report {
        CopyReport::Volume(volume) => {
            let (name, what) = (&volume.volume, &volume.what);
            let entries = ui::count(volume.entries);
            format!("volume {name} of {what}: {entries} entries, tried")
        }
        CopyReport::Database(made) => {
            let (tables, rows) = (ui::count(made.tables), ui::count(made.rows));
            let of = limited("postgres", &made.only);
            let (new, server) = (&made.database, &made.server);
            format!(
                "database {new} on {server} of {of}: {tables} tables, {rows} rows, equal to the backup\n\
                 copy out of it what you need, and drop it when you have done so"
            )
        }
        CopyReport::File(made) => {
            let (of, rows) = (limited(&made.what, &made.only), ui::count(made.rows));
            let file = made.file.display();
            format!("{file} of {of}: {rows} rows, equal to the backup")
        }
    }
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
        text.push_str(&shown_part(part));
    }
    for left in &plan.not_restored {
        text.push_str(&format!("  without {}: {}\n", left.what, left.why));
    }
    text.push_str(shown_safety(plan.safety));
    text.push_str(shown_server(plan.server));
    if plan.terminate_sessions {
        text.push_str("  sessions of others that are connected to the database are ended\n");
    }
    if plan.needs_bytes > 0 {
        let (needs, free) = (ui::bytes(plan.needs_bytes), ui::bytes(plan.free_bytes));
        text.push_str(&format!("  {needs} are written, {free} are free\n"));
    }
    text
}

fn shown_part(part: &PlannedPart) -> String {
    // How many rows a dump of another tool has is not known before it was run.
    let rows_of = |rows: u64| match rows {
        0 => String::new(),
        rows => format!(" ({} rows)", ui::count(rows)),
    };
    let (place, size) = match part {
        PlannedPart::Sqlite { live, rows, .. } => (live.display().to_string(), rows_of(*rows)),
        PlannedPart::Postgres {
            server, live, rows, ..
        } => (format!("database {live} on {server}"), rows_of(*rows)),
        PlannedPart::Volume { live, bytes, .. } => (
            format!("volume {live}"),
            format!(" ({})", ui::bytes(*bytes)),
        ),
    };
    let verb = if part.replaces() {
        "replaces, and keeps,"
    } else {
        "creates"
    };
    format!("  {}{size} {verb} {place}\n", part.what())
}

fn shown_safety(safety: Safety) -> &'static str {
    match safety {
        Safety::Archive => "  the present data is backed up first\n",
        Safety::NothingThere => "  there is no present data to save\n",
        Safety::Declined => "  the present data is not backed up first, as you asked\n",
    }
}

fn shown_server(server: ServerPlan) -> &'static str {
    match server {
        ServerPlan::StopAndStart => "  the server is stopped for the swap and started again\n",
        ServerPlan::Start => "  the server is started afterwards\n",
        ServerPlan::LeaveStopped => "  the server does not run and is not started\n",
    }
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
        let size = if part.entries > 0 {
            format!("{} entries, tried", ui::count(part.entries))
        } else {
            let compared = if part.compared {
                ", equal to the backup"
            } else {
                ""
            };
            format!("{tables} tables, {rows} rows{compared}")
        };
        text.push_str(&format!("  {}: {size}\n", part.what));
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
