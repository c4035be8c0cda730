//! A report beside an earlier one: what was better then.

use super::{Report, TestReport};
use crate::stack::Tier;
use serde::Serialize;
use serde_json::Value;

/// So much worse is more than the weather of a busy host.
const TOLERANCE: f64 = 1.25;
/// Less than so many seconds is never a regression.
const LEAST_SECONDS: f64 = 2.0;

/// A report beside an earlier one.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// When the earlier one was begun.
    pub earlier: String,
    /// What was better then.
    pub regressions: Vec<Regression>,
    /// Tests that passed now and not then, as `tier/test`.
    pub mended: Vec<String>,
}

/// Something that was better before.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Regression {
    /// The tier.
    pub tier: Tier,
    /// The test.
    pub test: String,
    /// What is worse, in words.
    pub what: String,
}

/// Compares test by test. A test that only one of the two has is left out.
#[must_use]
pub fn compare(now: &Report, earlier: &Report) -> Comparison {
    let mut regressions = Vec::new();
    let mut mended = Vec::new();
    for tier in &now.tiers {
        let before = earlier.tiers.iter().find(|before| before.tier == tier.tier);
        for test in &tier.tests {
            let before = before.and_then(|b| b.tests.iter().find(|b| b.name == test.name));
            let Some(before) = before else { continue };
            if test.passed && !before.passed {
                mended.push(format!("{}/{}", tier.tier.name(), test.name));
            }
            regressions.extend(worse(test, before).into_iter().map(|what| Regression {
                tier: tier.tier,
                test: test.name.clone(),
                what,
            }));
        }
    }
    Comparison {
        earlier: earlier.started_at.to_rfc3339(),
        regressions,
        mended,
    }
}

fn worse(now: &TestReport, before: &TestReport) -> Vec<String> {
    let mut found = Vec::new();
    if before.passed && !now.passed {
        let why = now.why.as_deref().unwrap_or_default();
        found.push(format!("passed then, and not now: {why}"));
    }
    if !now.passed || !before.passed {
        return found;
    }
    let (is, was) = (now.seconds, before.seconds);
    if is > was * TOLERANCE && is - was > LEAST_SECONDS {
        found.push(format!("took {was:.1} s then, and {is:.1} s now"));
    }
    for (name, value) in &now.figures {
        let figures = (
            value.as_f64(),
            before.figures.get(name).and_then(Value::as_f64),
        );
        let (Some(is), Some(was)) = figures else {
            continue;
        };
        // Of a speed-up more is better, of memory and CPU less is.
        let is_worse = match name.as_str() {
            "speedup" => is * TOLERANCE < was,
            "peak_memory_bytes" | "average_cpu" => is > was * TOLERANCE,
            _ => false,
        };
        if is_worse {
            found.push(format!("{name} was {was:.2} then, and is {is:.2} now"));
        }
    }
    found
}
