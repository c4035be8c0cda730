//! When it was last shown that the backups restore.

use super::{at_files, span};
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient, Severity};
use crate::drill;
use crate::error::{ErrorKind, Result};
use chrono::{TimeDelta, Utc};
use std::sync::Arc;

/// A drill that is older than this says little of the backups of today.
const LONG_AGO: TimeDelta = TimeDelta::days(35);

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
    let Some(record) = drill::read(&patient.stack)? else {
        return Ok(Examined::skipped("no drill is recorded"));
    };
    let age = Utc::now() - record.at;
    if record.passed && age <= LONG_AGO {
        return Ok(Examined::well(format!(
            "the last one passed {} ago{}",
            span(age),
            recovered(record.rto_seconds)
        )));
    }
    let (severity, title) = if record.passed {
        let title = format!("the last drill was {} ago", span(age));
        (Severity::Warning, title)
    } else {
        let title = "the last drill has failed: the backup did not restore".to_owned();
        (Severity::Problem, title)
    };
    let mut finding = Finding::problem(ErrorKind::BadData, title).as_severe_as(severity);
    if let Some(reason) = record.reason {
        finding = finding.seen(reason);
    }
    Ok(finding
        .seen(format!(
            "{} at {}",
            record.archive,
            record.at.format("%Y-%m-%d %H:%M UTC")
        ))
        .because("only a restore shows that a backup is one")
        .remedy("k1ops drill")
        .into())
}

fn recovered(rto_seconds: Option<f64>) -> String {
    rto_seconds.map_or_else(String::new, |seconds| {
        format!(" and recovered the stack in {seconds:.0} s")
    })
}
