//! Quality gates that are judged here: a measured value against a threshold.

use super::report::Measured;
use serde::{Deserialize, Serialize};

/// What a metric that a task measures is to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Threshold {
    /// The gate's name.
    pub name: String,
    /// The metric that is judged.
    pub metric: String,
    /// The least that passes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub min: Option<f64>,
    /// The most that passes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max: Option<f64>,
    /// Whether what depends on the task is stopped when it does not pass.
    #[serde(default)]
    pub critical: bool,
}

/// The outcome of a quality gate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// The gate.
    pub name: String,
    /// What was asked for.
    pub threshold: Option<f64>,
    /// What was found.
    pub actual: Option<f64>,
    /// Whether that is good enough.
    pub passed: bool,
    /// Whether not passing is critical.
    pub critical: bool,
    /// Anything else worth keeping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<serde_json::Value>,
}

impl Threshold {
    /// Judges the last value of the metric. What was not measured does not pass.
    #[must_use]
    pub fn judge(&self, measured: &[Measured]) -> Verdict {
        let last = measured.iter().rev().find(|m| m.name == self.metric);
        let actual = last.map(|m| m.value);
        let high = |value: f64| self.max.is_some_and(|max| value > max);
        let low = |value: f64| self.min.is_some_and(|min| value < min);
        let why = match actual {
            None => Some(format!("the agent did not report {}", self.metric)),
            Some(value) if high(value) => Some("above the maximum".to_owned()),
            Some(value) if low(value) => Some("below the minimum".to_owned()),
            Some(_) => None,
        };
        let broken = if actual.is_some_and(high) {
            self.max
        } else {
            self.min.or(self.max)
        };
        Verdict {
            name: self.name.clone(),
            threshold: broken,
            actual,
            passed: why.is_none(),
            critical: self.critical,
            details: why.map(|why| serde_json::json!({ "metric": self.metric, "why": why })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_is_judged_and_a_missing_one_does_not_pass() {
        let gate = Threshold {
            name: "g".into(),
            metric: "m".into(),
            min: Some(1.0),
            max: Some(2.0),
            critical: true,
        };
        let measured = |values: &[f64]| -> Vec<Measured> {
            values.iter().map(|&v| Measured::new("m", v)).collect()
        };
        for (values, passed, threshold) in [
            (&[1.0][..], true, 1.0),
            (&[9.0, 2.0], true, 1.0),
            (&[1.5, 2.5], false, 2.0),
            (&[0.5], false, 1.0),
            (&[], false, 1.0),
        ] {
            let verdict = gate.judge(&measured(values));
            assert_eq!(verdict.passed, passed, "{values:?}");
            assert_eq!(verdict.threshold, Some(threshold), "{values:?}");
            assert_eq!(verdict.actual, values.last().copied());
        }
    }
}
