//! `k1ops demo`.

use super::Context;
use crate::config::TierChoice;
use crate::demo::{self, DemoOptions, DemoReport};
use crate::error::Result;
use crate::exit_code::ExitCode;
use crate::ui::{self, Table, Tone, Ui};
use std::path::PathBuf;
use std::time::Duration;

/// Show the main job in a scratch folder
///
/// Starts a stack of its own, runs workflows halfway, backs up, kills the server, deletes the data,
/// restores, compares every row, and lets the workflows run to their end. No other stack is
/// touched, and nothing is left behind.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Run on this tier instead of the best that the host has
    #[arg(long, value_name = "TIER")]
    pub(super) tier: Option<TierChoice>,
    /// Leave the scratch folder and say where it is
    #[arg(long)]
    keep: bool,
    /// Create the scratch folder here instead of in the system's temporary folder
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Run this many workflows
    #[arg(long, value_name = "COUNT", default_value_t = 70,
        value_parser = clap::value_parser!(u64).range(2..=100_000))]
    workflows: u64,
}

/// Plays the demo and prints what it showed.
pub(super) async fn run(args: DemoArgs, context: &Context) -> Result<ExitCode> {
    let options = DemoOptions {
        keep: args.keep,
        folder: args.folder,
        workflows: args.workflows,
    };
    let report = demo::run(
        &context.loaded,
        &options,
        &context.events(),
        &context.interrupt,
    )
    .await?;
    context
        .ui
        .result(&report, |ui, text| show(ui, &report, text))?;
    Ok(ExitCode::Done)
}

fn show(ui: &Ui, report: &DemoReport, text: &mut String) {
    let mut table = Table::new(&["step", "time"]).numbers(&[1]);
    for step in &report.steps {
        table.row([step.step.to_owned(), ui::duration(step.duration())]);
    }
    let total = Duration::from_secs_f64(report.seconds);
    table.row(["in all".to_owned(), ui::duration(total)]);
    text.push_str(&table.render());
    text.push('\n');
    let tier = report.tier;
    text.push_str(&format!("tier {} ({})\n", tier.number(), tier.name()));
    let archive = ui::bytes(report.archive_bytes);
    text.push_str(&format!("archive of {archive}\n"));
    if let Some(requeued) = report.requeued {
        text.push_str(&format!(
            "{} workflows ran on after the restore, {} of them requeued\n",
            requeued.running, requeued.requeued
        ));
    }
    let summary = report.summary;
    text.push_str(&format!(
        "{} workflows completed: {} of {} tasks, {} of {} quality gates passed\n",
        summary.workflows,
        summary.completed_tasks,
        summary.total_tasks,
        summary.passed_quality_gates,
        summary.total_quality_gates
    ));
    if !report.left_out.is_empty() {
        let left_out = report.left_out.join(", ");
        text.push_str(&format!(
            "not compared, as the server wrote to it: {left_out}\n"
        ));
    }
    if let Some(folder) = &report.folder {
        text.push_str(&format!("kept: {}\n", folder.display()));
    }
    let compared = report.compared.to_string();
    text.push_str(&format!("{}\n", ui.paint(Tone::Good, &compared)));
}
