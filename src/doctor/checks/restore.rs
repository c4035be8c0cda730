//! No restore or undo was broken off.

use super::at_files;
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient, Severity};
use crate::error::{ErrorKind, Result};
use crate::restore::unfinished;
use std::sync::Arc;

pub(super) struct Restore;

impl Check for Restore {
    fn name(&self) -> &'static str {
        "restore"
    }

    fn group(&self) -> Group {
        Group::Backups
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        at_files(patient, look)
    }
}

fn look(patient: &Patient) -> Result<Examined> {
    let Some(unfinished) = unfinished(&patient.stack)? else {
        return Ok(Examined::well("none was broken off"));
    };
    let (is, todo) = unfinished.explain();
    let severity = if unfinished.at_work {
        Severity::Note
    } else {
        Severity::Problem
    };
    Ok(Finding::problem(ErrorKind::Failed, is)
        .as_severe_as(severity)
        .because("it was killed, or the host went down in the middle")
        .advise(todo)
        .remedy("k1ops start")
        .into())
}
