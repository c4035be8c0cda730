//! When it was last shown that the backups restore.

use super::{at_files, span};
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient, Severity};
use crate::error::{Context, ErrorKind, Result};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use std::sync::Arc;

/// What a drill leaves in the stack's folder.
const RECORD: &str = "run/drill.json";
/// A drill that is older than this says little of the backups of today.
const LONG_AGO: TimeDelta = TimeDelta::days(35);

/// The part of the record that is read here.
#[derive(Debug, Deserialize)]
struct Record {
    at: DateTime<Utc>,
    passed: bool,
    #[serde(default)]
    archive: String,
}

pub(super) struct Drill;

impl Check for Drill {
    fn name(&self) -> &'static str {
        "drill"
    }

    fn group(&self) -> Group {
        Group::Backups
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        at_files(patient, look)
    }
}

fn look(patient: &Patient) -> Result<Examined> {
    let path = patient.stack.folder.join(RECORD);
    let Ok(text) = std::fs::read(&path) else {
        return Ok(Examined::skipped("no drill is recorded"));
    };
    let record: Record = serde_json::from_slice(&text).context_kind(ErrorKind::BadData, || {
        format!("{} is no record", path.display())
    })?;
    let age = Utc::now() - record.at;
    if record.passed && age <= LONG_AGO {
        return Ok(Examined::well(format!(
            "the last one passed {} ago",
            span(age)
        )));
    }
    let (severity, title) = if record.passed {
        let title = format!("the last drill was {} ago", span(age));
        (Severity::Warning, title)
    } else {
        let title = "the last drill has failed: the backup did not restore".to_owned();
        (Severity::Problem, title)
    };
    Ok(Finding::problem(ErrorKind::BadData, title)
        .as_severe_as(severity)
        .seen(format!(
            "{} at {}",
            record.archive,
            record.at.format("%Y-%m-%d %H:%M UTC")
        ))
        .because("only a restore shows that a backup is one")
        .remedy("k1ops verify latest")
        .into())
}
