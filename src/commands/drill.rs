//! `k1ops drill`.

use super::Context;
use crate::drill::{self, DrillOptions, DrillReport};
use crate::error::Result;
use crate::exit_code::ExitCode;
use crate::repository::LATEST;
use crate::ui::{self, Tone, Ui};
use std::time::Duration;

/// Show that an archive restores, on a scratch stack
///
/// Restores it into scratch files, a scratch database or scratch volumes, whichever it was taken of,
/// compares every row, starts a real Conductor on scratch ports, waits for honest health, and brings a
/// workflow to its end that was running when the backup was taken. Then everything is removed. The
/// stack is not touched, and the scratch server calls nobody.
///
/// A backup that does not bring back a stack that works exits 4. How it ended is kept for `doctor`.
#[derive(Debug, clap::Args)]
pub struct DrillArgs {
    /// A name in the repository, a path, or `latest`
    #[arg(default_value = LATEST)]
    archive: String,
    /// Leave the scratch folder until the next drill, with its server stopped, and say where it is
    #[arg(long)]
    keep: bool,
}

/// Does the drill.
pub(super) async fn run(args: &DrillArgs, context: &Context) -> Result<ExitCode> {
    let stack = context.stack()?;
    let options = DrillOptions {
        archive: args.archive.clone(),
        keep: args.keep,
    };
    let (events, interrupt) = (context.events(), &context.interrupt);
    let report = Box::pin(drill::run(&stack, &options, &events, interrupt)).await?;
    context
        .ui
        .result(&report, |ui, text| show(ui, &report, text))?;
    Ok(ExitCode::Done)
}

fn show(ui: &Ui, report: &DrillReport, text: &mut String) {
    let seconds = |s: f64| ui::duration(Duration::from_secs_f64(s));
    text.push_str(&format!(
        "{} {} restores\n  {} rows in {} tables are what was backed up\n",
        ui.paint(Tone::Good, "✓"),
        report.archive.display(),
        ui::count(report.rows),
        ui::count(report.tables),
    ));
    match &report.work {
        None => text.push_str("  no server belongs to what was backed up\n"),
        Some(work) => {
            let which = if work.was_started {
                "none was running; a new one came to its end"
            } else {
                "of those that were running, one came to its end"
            };
            text.push_str(&format!(
                "  {} workflows were running; {which}: {}\n",
                ui::count(work.running),
                work.completed
            ));
        }
    }
    text.push_str(&format!(
        "  time to recover {}: restore {}, start {}\n",
        seconds(report.rto_seconds),
        seconds(report.restore_seconds),
        seconds(report.start_seconds),
    ));
    if let Some(folder) = &report.folder {
        text.push_str(&format!("  kept in {}\n", folder.display()));
    }
}
