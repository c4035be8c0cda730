//! `k1ops validate`.

mod files;
mod html;

use super::Context;
use crate::error::{Error, Result};
use crate::exit_code::ExitCode;
use crate::stack::Tier;
use crate::ui::{self, Table, Tone, Ui};
use crate::validate::{self, Comparison, Report, TestReport, ValidateOptions, compare};
use files::Written;
use serde::Serialize;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

/// Try whether a stack really works: seven tests with real servers and agents
///
/// Brings up a stack of its own in a scratch folder, on scratch ports, runs the guide's seven tests
/// on it, and takes it down again; no other stack is touched. A test that cannot run says why and
/// counts as not passed. Exits 1 if a test does not pass.
#[derive(Debug, clap::Args)]
pub struct ValidateArgs {
    /// The tier to validate; without it the one that the stack ran on last, else `jar`
    #[arg(long, value_name = "TIER")]
    tier: Option<Wanted>,
    /// Run only these tests
    #[arg(long, value_name = "TEST", value_delimiter = ',')]
    only: Vec<String>,
    /// Run this many agents at once
    #[arg(long, value_name = "COUNT", default_value = "4")]
    jobs: NonZeroUsize,
    /// Name what was better in this earlier report (JSON)
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Write the reports here instead of to test-results
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Leave the scratch folders and say where they are
    #[arg(long)]
    keep: bool,
    /// Create the scratch folders here instead of in the system's temporary folder
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

/// The tiers that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Wanted {
    /// Tier 1, then tier 2, then tier 3
    All,
    /// Tier 1
    Docker,
    /// Tier 2
    Jar,
    /// Tier 3
    Direct,
}

/// What `--json` shows.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    report: &'a Report,
    comparison: Option<Comparison>,
    files: Written,
}

/// Validates, writes the reports, and shows a summary.
pub(super) async fn run(args: ValidateArgs, context: &Context) -> Result<ExitCode> {
    let stack = context.stack()?;
    let earlier = args.compare.as_deref().map(files::read).transpose()?;
    let options = ValidateOptions {
        tiers: tiers(args.tier, stack.last_tier()?),
        only: args.only,
        jobs: args.jobs.get(),
        keep: args.keep,
        folder: args.folder,
    };
    let (events, interrupt) = (context.events(), &context.interrupt);
    let report = validate::run(&context.loaded, &options, &events, interrupt).await?;
    let comparison = earlier.map(|earlier| compare(&report, &earlier));
    let output = args.output.unwrap_or_else(|| "test-results".into());
    let files = files::write(&report, comparison.as_ref(), &stack, &output)?;
    let shown = Shown {
        report: &report,
        comparison,
        files,
    };
    context
        .ui
        .result(&shown, |ui, text| show(ui, &shown, text))?;
    Ok(if report.not_passed == 0 {
        ExitCode::Done
    } else {
        ExitCode::Failed
    })
}

fn tiers(wanted: Option<Wanted>, last: Option<Tier>) -> Vec<Tier> {
    match wanted {
        Some(Wanted::All) => vec![Tier::Docker, Tier::Jar, Tier::Direct],
        Some(Wanted::Docker) => vec![Tier::Docker],
        Some(Wanted::Jar) => vec![Tier::Jar],
        Some(Wanted::Direct) => vec![Tier::Direct],
        None => vec![last.unwrap_or(Tier::Jar)],
    }
}

fn show(ui: &Ui, shown: &Shown, text: &mut String) {
    let report = shown.report;
    for tier in &report.tiers {
        let name = format!("Tier {} ({})", tier.tier.number(), tier.tier.name());
        text.push_str(&format!("{}\n", ui.paint(Tone::Strong, &name)));
        let mut table = Table::new(&["", "test", "", "time"]).numbers(&[3]);
        for test in &tier.tests {
            table.row(row(ui, test));
        }
        text.push_str(&table.render());
        text.push('\n');
        for test in tier.tests.iter().filter(|test| !test.passed) {
            let why = ui::printable(test.why.as_deref().unwrap_or("no reason is given"));
            text.push_str(&format!("  {} {}: {why}\n", test.number, test.name));
        }
        if let Some(folder) = &tier.folder {
            text.push_str(&format!("  kept: {}\n", folder.display()));
        }
    }
    if let Some(comparison) = &shown.comparison {
        regressions(ui, comparison, text);
    }
    let all = report.passed + report.not_passed;
    let tone = if report.not_passed == 0 {
        Tone::Good
    } else {
        Tone::Bad
    };
    let rate = report.pass_rate * 100.0;
    let passed = format!("{} of {all} tests passed ({rate:.0} %)", report.passed);
    text.push_str(&format!("{}\n", ui.paint(tone, &passed)));
    text.push_str(&format!("  report: {}\n", shown.files.html.display()));
}

fn row(ui: &Ui, test: &TestReport) -> [String; 4] {
    let verdict = match (test.passed, test.could_run) {
        (true, _) => ui.paint(Tone::Good, "PASS"),
        (false, true) => ui.paint(Tone::Bad, "FAIL"),
        (false, false) => ui.paint(Tone::Warn, "CANNOT RUN"),
    };
    [
        verdict,
        format!("{} {}", test.number, test.name),
        test.title.clone(),
        ui::duration(Duration::from_secs_f64(test.seconds)),
    ]
}

fn regressions(ui: &Ui, comparison: &Comparison, text: &mut String) {
    if comparison.regressions.is_empty() {
        text.push_str("No regressions against the earlier report.\n");
    }
    for regression in &comparison.regressions {
        text.push_str(&format!(
            "{} {}/{}: {}\n",
            ui.paint(Tone::Bad, "regression:"),
            regression.tier.name(),
            regression.test,
            ui::printable(&regression.what)
        ));
    }
}

/// A file that is not a report.
fn not_a_report(path: &std::path::Path, error: serde_json::Error) -> Error {
    Error::usage(format!(
        "{} is not a report of k1ops validate",
        path.display()
    ))
    .hint("Name a file from .conductor/metrics, or test-results/validate.json.")
    .because(error)
}
