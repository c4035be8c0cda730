//! Does a stack really work? Seven tests, each of which does something real on a stack of its own and
//! fails when something is broken. A test that cannot run says why and counts as not passed.
//!
//! Everything is done with the very program that users run, in a scratch folder, on scratch ports.
//! This module does not know how its reports are shown.

mod compare;
mod junit;
mod rig;
mod sample;
mod tests;
mod timeline;

pub use compare::{Comparison, Regression, compare};
pub use junit::junit;
pub use sample::Sample;
pub use timeline::Bar;

use crate::adapters::host;
use crate::config::Loaded;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use crate::stack::Tier;
use chrono::{DateTime, Utc};
use rig::Rig;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::time::Instant;
use tests::Test;

/// How to validate.
#[derive(Debug, Clone)]
pub struct ValidateOptions {
    /// The tiers, one after the other.
    pub tiers: Vec<Tier>,
    /// Only tests of these names; empty: all.
    pub only: Vec<String>,
    /// Agents at once.
    pub jobs: usize,
    /// Leave the scratch folders.
    pub keep: bool,
    /// Where the scratch folders are made; the system's temporary folder if not named.
    pub folder: Option<PathBuf>,
}

/// Everything that was found out, and on what.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// When it was begun.
    pub started_at: DateTime<Utc>,
    /// How long it took.
    pub seconds: f64,
    /// Where.
    pub environment: Environment,
    /// Tests that passed.
    pub passed: usize,
    /// Tests that did not, or could not run.
    pub not_passed: usize,
    /// Passed of all, from 0 to 1.
    pub pass_rate: f64,
    /// The tiers in their order.
    pub tiers: Vec<TierReport>,
}

/// Where it was found out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Environment {
    /// k1ops's version.
    pub k1ops_version: String,
    /// Conductor's version, as configured.
    pub conductor_version: String,
    /// The kernel and its version.
    pub system: String,
    /// CPUs.
    pub cpus: usize,
    /// Agents at once.
    pub jobs: usize,
}

/// The tests on one tier.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TierReport {
    /// The tier.
    pub tier: Tier,
    /// Its tests.
    pub tests: Vec<TestReport>,
    /// What its stack used, over time.
    pub samples: Vec<Sample>,
    /// Its scratch folder, if that was kept.
    pub folder: Option<PathBuf>,
}

/// One test.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TestReport {
    /// Its number in the guide.
    pub number: u8,
    /// Its name.
    pub name: String,
    /// What it shows.
    pub title: String,
    /// Whether it was shown.
    pub passed: bool,
    /// Whether it could be tried at all.
    pub could_run: bool,
    /// Why it did not pass.
    pub why: Option<String>,
    /// When it was begun.
    pub started_at: DateTime<Utc>,
    /// How long it took.
    pub seconds: f64,
    /// What was measured.
    pub figures: Map<String, Value>,
    /// The tasks that were done for it.
    pub tasks: Vec<Bar>,
}

/// What a test found out.
#[derive(Debug, Default)]
struct Finding {
    figures: Map<String, Value>,
    tasks: Vec<Bar>,
    /// What is not as it must be.
    faults: Vec<String>,
}

impl Finding {
    fn figure(&mut self, name: &str, value: impl Into<Value>) {
        self.figures.insert(name.to_owned(), value.into());
    }

    /// Notes a fault unless `holds`.
    fn expect(&mut self, holds: bool, fault: impl FnOnce() -> String) {
        if !holds {
            self.faults.push(fault());
        }
    }
}

/// The names of the tests, in their order.
#[must_use]
pub fn test_names() -> Vec<&'static str> {
    Test::ALL.iter().map(|test| test.name()).collect()
}

/// Runs the tests on each tier.
pub async fn run(
    loaded: &Loaded,
    options: &ValidateOptions,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<Report> {
    let chosen = chosen(&options.only)?;
    let (started_at, begun) = (Utc::now(), Instant::now());
    let mut tiers = Vec::new();
    for &tier in &options.tiers {
        let rig = Rig::new(loaded, tier, options)?;
        tiers.push(on_tier(rig, &chosen, options, events, interrupt).await?);
    }
    let tests = || tiers.iter().flat_map(|tier| &tier.tests);
    let passed = tests().filter(|test| test.passed).count();
    let all = tests().count();
    let system = rustix::system::uname();
    Ok(Report {
        started_at,
        seconds: begun.elapsed().as_secs_f64(),
        environment: Environment {
            k1ops_version: env!("CARGO_PKG_VERSION").to_owned(),
            conductor_version: loaded.config.server.version.clone(),
            system: format!(
                "{} {}",
                system.sysname().to_string_lossy(),
                system.release().to_string_lossy()
            ),
            cpus: host::processors(),
            jobs: options.jobs,
        },
        passed,
        not_passed: all - passed,
        pass_rate: ratio(passed, all),
        tiers,
    })
}

fn chosen(only: &[String]) -> Result<Vec<Test>> {
    let mut chosen = Vec::new();
    for name in only {
        let test = Test::ALL.iter().find(|test| test.name() == name);
        chosen.push(*test.ok_or_else(|| {
            Error::usage(format!("there is no test {name}"))
                .hint(format!("The tests are {}.", test_names().join(", ")))
        })?);
    }
    Ok(if chosen.is_empty() {
        Test::ALL.to_vec()
    } else {
        chosen
    })
}

/// Brings the tier up, runs the tests, and takes everything down again, whatever happens.
async fn on_tier(
    mut rig: Rig,
    chosen: &[Test],
    options: &ValidateOptions,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<TierReport> {
    let tier = rig.tier;
    events.note(format!(
        "validating tier {} ({}) in {}",
        tier.number(),
        tier.name(),
        rig.folder.display()
    ));
    // The fallback has stacks of its own.
    let up = match chosen {
        [Test::Fallback] => Ok(()),
        _ => interrupt.guard(rig.bring_up()).await,
    };
    let mut reports = Vec::new();
    let mut result = Ok(());
    for test in chosen {
        let report = match &up {
            Err(error) if error.kind() == ErrorKind::Interrupted => break,
            // The fallback has stacks of its own.
            Err(error) if *test != Test::Fallback => cannot_run(*test, error),
            _ => {
                let step = format!("test {}: {}", test.number(), test.name());
                events.started(&step);
                let report = one(*test, &mut rig, interrupt).await;
                match &report.why {
                    None => events.finished(&step, "passed"),
                    Some(why) => events.warning(format!("{step}: {why}")),
                }
                report
            }
        };
        reports.push(report);
        if let Err(interrupted) = interrupt.check() {
            result = Err(interrupted);
            break;
        }
    }
    let samples = rig.take_down().await;
    result?;
    if let Err(error) = up
        && error.kind() == ErrorKind::Interrupted
    {
        return Err(error);
    }
    Ok(TierReport {
        tier,
        tests: reports,
        samples,
        folder: options.keep.then(|| rig.folder.clone()),
    })
}

fn cannot_run(test: Test, error: &Error) -> TestReport {
    let mut report = blank(test);
    let mut why = format!("cannot run: the stack does not come up: {error}");
    for cause in error.causes() {
        why.push_str(&format!(": {cause}"));
    }
    report.why = Some(why);
    report.could_run = false;
    report
}

async fn one(test: Test, rig: &mut Rig, interrupt: &Interrupt) -> TestReport {
    let mut report = blank(test);
    let begun = Instant::now();
    let found = interrupt.guard(Box::pin(test.run(rig))).await;
    report.seconds = begun.elapsed().as_secs_f64();
    match found {
        Ok(finding) => {
            report.passed = finding.faults.is_empty();
            report.why = Some(finding.faults.join("; ")).filter(|why| !why.is_empty());
            report.figures = finding.figures;
            report.tasks = finding.tasks;
        }
        Err(error) => {
            let causes = error.causes().into_iter();
            let said: Vec<String> = std::iter::once(error.to_string()).chain(causes).collect();
            report.could_run = error.kind() != ErrorKind::Missing;
            let how = if report.could_run { "" } else { "cannot run: " };
            report.why = Some(format!("{how}{}", said.join(": ")));
        }
    }
    report
}

fn blank(test: Test) -> TestReport {
    TestReport {
        number: test.number(),
        name: test.name().to_owned(),
        title: test.title().to_owned(),
        passed: false,
        could_run: true,
        why: None,
        started_at: Utc::now(),
        seconds: 0.0,
        figures: Map::new(),
        tasks: Vec::new(),
    }
}

#[allow(clippy::cast_precision_loss, reason = "a handful of tests")]
fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}
