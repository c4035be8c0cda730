//! No replication slot is left behind that makes the server keep its log for nobody.

use super::{quoted, size_of, target};
use crate::adapters::postgres::quote_literal;
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient, Severity};
use crate::error::{Context, ErrorKind, Result};
use crate::wal::slot_name;
use std::sync::Arc;

/// A slot that holds more than this fills disks.
const MUCH: i64 = 10 << 30;

pub(super) struct Replication;

impl Check for Replication {
    fn name(&self) -> &'static str {
        "replication"
    }

    fn group(&self) -> Group {
        Group::Database
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        Box::pin(async move { look(&patient).await })
    }
}

async fn look(patient: &Patient) -> Result<Examined> {
    let Some(session) = patient.session_if_any().await else {
        return Ok(Examined::skipped("there is no PostgreSQL to ask"));
    };
    let rows = session
        .query(
            "SELECT slot_name::text, slot_type::text, CASE WHEN pg_is_in_recovery() THEN 0 ELSE \
             coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0) END::bigint \
             FROM pg_replication_slots WHERE NOT active AND NOT temporary",
            &[],
        )
        .await
        .context(|| "the replication slots cannot be read")?;
    if rows.is_empty() {
        return Ok(Examined::well("no unused replication slot"));
    }
    let mut examined = Examined::default();
    let shown = patient.database()?.shown().to_owned();
    for row in rows {
        let (slot, kind, held): (String, String, i64) = (row.get(0), row.get(1), row.get(2));
        let severity = if held > MUCH {
            Severity::Problem
        } else {
            Severity::Warning
        };
        let finding = Finding::problem(
            ErrorKind::Failed,
            format!("replication slot {slot} is not used by anybody"),
        )
        .as_severe_as(severity)
        .seen(format!(
            "a {kind} slot; {} of log are kept for it",
            size_of(u64::try_from(held).unwrap_or(0))
        ))
        .because("the server keeps its log for it until the disk is full");
        if slot == slot_name(&patient.stack.name) {
            let advice = "Receive the log again, or say that it is not to be received any more.";
            let finding = finding.advise(advice).remedy("k1ops wal stream");
            examined.find(finding.remedy("k1ops wal drop-slot"));
            continue;
        }
        let drop = format!("SELECT pg_drop_replication_slot({})", quote_literal(&slot));
        examined.find(
            finding
                .advise("Drop it, unless a replica that is switched off will come back for it.")
                .remedy(format!("psql {} -c {}", target(&shown), quoted(&drop))),
        );
    }
    Ok(examined)
}
