//! The write-ahead log comes in, and is whole from the oldest physical backup on.

use super::{at_files, span};
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient};
use crate::error::{ErrorKind, Result};
use crate::interrupt::Interrupt;
use crate::repository::Repository;
use crate::wal::note::{self, Incoming};
use chrono::{TimeDelta, Utc};
use std::path::Path;
use std::sync::Arc;

/// A stream is a second behind; a server that archives by itself may take this long to fill a segment.
const YOUNG: TimeDelta = TimeDelta::minutes(10);

pub(super) struct Wal;

impl Check for Wal {
    fn name(&self) -> &'static str {
        "wal"
    }

    fn group(&self) -> Group {
        Group::Backups
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        at_files(patient, look)
    }
}

fn look(patient: &Patient) -> Result<Examined> {
    let stack = &patient.stack;
    let repository = Repository::of(stack)?;
    let Some(incoming) = note::incoming(repository.log_folder(), &stack.name)? else {
        return Ok(Examined::skipped("no write-ahead log is kept"));
    };
    let mut examined = Examined::default();
    late(&incoming, &mut examined);
    if let Some(log) = repository.log_elsewhere()? {
        unsent(&incoming, log.place(), &mut examined);
    }
    for log in repository.check_log(&stack.name, false, &Interrupt::default())? {
        let Some(gap) = log.gaps.first() else {
            continue;
        };
        examined.find(
            Finding::problem(ErrorKind::BadData, "the write-ahead log has a gap")
                .seen(gap.to_string())
                .seen(format!("{} gaps since {}", log.gaps.len(), log.since))
                .because("a segment was deleted, or the server recycled it before it was received")
                .advise("No moment behind the gap can be restored from a backup before it.")
                .remedy("k1ops backup --physical"),
        );
    }
    if examined.findings.is_empty() {
        let lag = incoming.rpo_seconds.unwrap_or_default();
        examined.say(format!("no gap, and {lag:.0} s behind the server"));
    }
    Ok(examined)
}

/// What is here and not there is lost with this host.
fn unsent(incoming: &Incoming, place: &Path, examined: &mut Examined) {
    let (here, there) = (incoming.rpo_seconds, incoming.host_rpo_seconds);
    let behind = match (here, there) {
        (None, _) => return,
        (Some(here), Some(there)) if there - here <= YOUNG.as_seconds_f64() => return,
        (Some(_), Some(there)) => format!("is {there:.0} s behind"),
        (Some(_), None) => "was never sent".to_owned(),
    };
    let title = format!("the write-ahead log in {} {behind}", place.display());
    examined.find(
        Finding::warning(title)
            .seen("it is on this host, and would be lost with it")
            .because("the store cannot be reached, or nobody sends it")
            .remedy("k1ops wal stream"),
    );
}

fn late(incoming: &Incoming, examined: &mut Examined) {
    let age = incoming.received_until.map(|at| Utc::now() - at);
    if age.is_some_and(|age| age <= YOUNG) {
        return;
    }
    let who = if incoming.streaming {
        "a process receives it, and does not get on; its own messages say why"
    } else {
        "no process receives it"
    };
    let title = match age {
        Some(age) => format!("the write-ahead log is {} behind the server", span(age)),
        None => "nothing of the write-ahead log was received yet".to_owned(),
    };
    let mut finding = Finding::warning(title).seen(who);
    if let Some(slot) = &incoming.slot {
        finding = finding.because(format!(
            "all work since would be lost with the server, which keeps its log for slot {slot} until its disk is full"
        ));
    }
    examined.find(finding.remedy("k1ops wal stream"));
}
