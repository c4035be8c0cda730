//! What an agent reports of its work: JSON lines in the file that `K1_REPORT` names.
//!
//! `{"metric": "coverage", "value": 0.93, "unit": "ratio", "tags": {}}` or
//! `{"gate": "no open findings", "passed": true, "critical": true, "threshold": 0, "actual": 0}`.

use super::gate::Verdict;
use crate::error::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::Read;
use std::path::Path;

/// A report is for figures; more than this is a mistake.
const MOST_BYTES: u64 = 1 << 20;
/// Likewise.
const MOST_LINES: usize = 5000;

/// A measured value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// What was measured.
    pub name: String,
    /// The value.
    pub value: f64,
    /// Its unit.
    pub unit: Option<String>,
    /// Free tags.
    pub tags: Option<Value>,
}

impl Measured {
    /// A value without unit and tags.
    pub fn new(name: impl Into<String>, value: f64) -> Self {
        Self {
            name: name.into(),
            value,
            unit: None,
            tags: None,
        }
    }
}

/// Everything that an agent reported.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// What it measured.
    pub metrics: Vec<Measured>,
    /// The gates that it judged.
    pub gates: Vec<Verdict>,
    /// Why the report is not in order, if it is not.
    pub problem: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Row {
    Metric(MetricRow),
    Gate(GateRow),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetricRow {
    metric: String,
    value: f64,
    unit: Option<String>,
    tags: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GateRow {
    gate: String,
    passed: bool,
    #[serde(default)]
    critical: bool,
    threshold: Option<f64>,
    actual: Option<f64>,
    details: Option<Value>,
}

impl Report {
    /// Reads the file. Lines that are in order count even where another is not.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let mut text = String::new();
        let cannot = || format!("report {} cannot be read", path.display());
        let file = std::fs::File::open(path).context(cannot)?;
        let read = file.take(MOST_BYTES + 1).read_to_string(&mut text);
        let mut report = Self::default();
        match read {
            Ok(read) if read as u64 > MOST_BYTES => {
                report.problem = Some(format!("the report is larger than {MOST_BYTES} bytes"));
                return Ok(report);
            }
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                report.problem = Some("the report is not UTF-8 text".to_owned());
                return Ok(report);
            }
            other => other.map_err(|error| Error::failed(cannot()).because(error))?,
        };
        report.take_lines(&text);
        Ok(report)
    }

    fn take_lines(&mut self, text: &str) {
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim().is_empty() {
                continue;
            }
            if number > MOST_LINES {
                self.wrong(format!("the report has more than {MOST_LINES} lines"));
                return;
            }
            if let Err(why) = self.take(line) {
                let shown: String = line.chars().take(80).collect();
                self.wrong(format!("line {number} of the report {why}: {shown}"));
            }
        }
    }

    fn wrong(&mut self, problem: String) {
        self.problem.get_or_insert(problem);
    }

    fn take(&mut self, line: &str) -> std::result::Result<(), String> {
        // Escaped, it would be refused by one of the two stores.
        if line.contains("\\u0000") || line.contains('\0') {
            return Err("contains a NUL character".to_owned());
        }
        match serde_json::from_str(line) {
            Ok(Row::Metric(row)) => self.metrics.push(Measured {
                name: row.metric,
                value: row.value,
                unit: row.unit,
                tags: row.tags,
            }),
            Ok(Row::Gate(row)) => self.gates.push(Verdict {
                name: row.gate,
                threshold: row.threshold,
                actual: row.actual,
                passed: row.passed,
                critical: row.critical,
                details: row.details,
            }),
            Err(_) if serde_json::from_str::<Value>(line).is_err() => {
                return Err("is not JSON".to_owned());
            }
            Err(_) => {
                return Err(
                    "is neither a metric (metric, value) nor a gate (gate, passed)".to_owned(),
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_lines_count_and_the_first_bad_one_is_named() {
        let mut report = Report::default();
        report.take_lines(
            "{\"metric\":\"a\",\"value\":1}\n\n{\"gate\":\"g\",\"passed\":false}\noops\n{\"metric\":\"b\"}\n",
        );
        assert_eq!(report.metrics, [Measured::new("a", 1.0)]);
        assert_eq!(report.gates.len(), 1);
        let problem = report.problem.unwrap();
        assert!(
            problem.contains("line 4") && problem.contains("not JSON"),
            "{problem}"
        );
    }

    #[test]
    fn unknown_fields_wrong_types_and_floods_are_refused() {
        for line in [
            r#"{"metric":"a","value":"1"}"#,
            r#"{"metric":"a","value":1,"x":2}"#,
            r#"{"gate":"a"}"#,
            r#"{"metric":"a\u0000","value":1}"#,
            "[]",
        ] {
            let mut report = Report::default();
            report.take_lines(line);
            assert!(report.problem.is_some(), "{line}");
        }
        let mut report = Report::default();
        report.take_lines(&"{\"metric\":\"a\",\"value\":1}\n".repeat(MOST_LINES + 1));
        assert!(report.problem.unwrap().contains("more than"));
    }
}
