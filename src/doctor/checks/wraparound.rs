//! No database of the server is near the end of its transaction numbers.

use super::quoted;
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient, Severity};
use crate::error::{Context, ErrorKind, Result};
use std::sync::Arc;

/// Autovacuum freezes at 200 million; five times that means that something holds it up.
const WORRYING: i64 = 1_000_000_000;
/// The server stops taking writes at about 2.14 billion.
const NEAR_THE_END: i64 = 1_800_000_000;

pub(super) struct Wraparound;

impl Check for Wraparound {
    fn name(&self) -> &'static str {
        "wraparound"
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
    let row = session
        .query_one(
            "SELECT datname::text, age(datfrozenxid)::bigint FROM pg_database \
             ORDER BY age(datfrozenxid) DESC LIMIT 1",
            &[],
        )
        .await
        .context(|| "the age of the databases cannot be read")?;
    let (database, age): (String, i64) = (row.get(0), row.get(1));
    if age < WORRYING {
        return Ok(Examined::well(format!(
            "the oldest transaction is {} million old, of 2,147",
            age / 1_000_000
        )));
    }
    let severity = if age < NEAR_THE_END {
        Severity::Warning
    } else {
        Severity::Problem
    };
    let address = patient.database()?.with_database(&database);
    Ok(Finding::problem(
        ErrorKind::Failed,
        format!(
            "database {database} has {} million transactions left before it takes no more writes",
            (2_147_000_000 - age).max(0) / 1_000_000
        ),
    )
    .as_severe_as(severity)
    .seen(format!("age(datfrozenxid) is {age}"))
    .because("autovacuum does not freeze: it is off, or a slot or a long transaction holds it up")
    .remedy(format!(
        "vacuumdb -h {} -p {} -U {} --freeze {}",
        quoted(&address.host()),
        address.port(),
        quoted(address.user()),
        quoted(&database)
    ))
    .into())
}
