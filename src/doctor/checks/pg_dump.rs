//! A backup of the `PostgreSQL` finds the `pg_dump` that it needs.

use crate::adapters::postgres::dump::PgDump;
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient};
use crate::error::Result;
use std::sync::Arc;

pub(super) struct PgDumpFound;

impl Check for PgDumpFound {
    fn name(&self) -> &'static str {
        "pg_dump"
    }

    fn group(&self) -> Group {
        Group::Backups
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        Box::pin(async move { look(&patient).await })
    }
}

async fn look(patient: &Patient) -> Result<Examined> {
    if patient.stack.is_in_docker()? {
        return Ok(Examined::skipped(
            "tier 1's database has its own in its container",
        ));
    }
    let Some(session) = patient.session_if_any().await else {
        return Ok(Examined::skipped("there is no PostgreSQL to back up"));
    };
    let major = session.major_version().await?;
    Ok(
        match PgDump::find(major, &patient.stack.config.database.pg_dump).await {
            Ok(_) => Examined::well(format!("there is one of PostgreSQL {major}")),
            Err(error) => Finding::of(&error)
                .because(
                    "a backup takes the schema with the server's own pg_dump, of the same version",
                )
                .remedy(format!("sudo apt-get install postgresql-client-{major}"))
                .into(),
        },
    )
}
