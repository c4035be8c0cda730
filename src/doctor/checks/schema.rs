//! The schemas in the database are those that the server and this k1ops were made for.

use super::target;
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient, Severity};
use crate::error::{Context, ErrorKind, Result};
use crate::store::{Place, Store, latest_version};
use std::sync::Arc;

pub(super) struct Schema;

impl Check for Schema {
    fn name(&self) -> &'static str {
        "schema"
    }

    fn group(&self) -> Group {
        Group::Database
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        Box::pin(async move { look(&patient).await })
    }
}

async fn look(patient: &Patient) -> Result<Examined> {
    let mut examined = Examined::default();
    conductors(patient, &mut examined).await?;
    k1_tables(patient, &mut examined).await?;
    if examined.well.is_empty() && examined.findings.is_empty() {
        return Ok(Examined::skipped("there is no database yet"));
    }
    Ok(examined)
}

/// A migration of Conductor's that failed keeps every later start from going on.
async fn conductors(patient: &Patient, examined: &mut Examined) -> Result<()> {
    let Some(session) = patient.session_if_any().await else {
        return Ok(());
    };
    let there = session
        .query_one(
            "SELECT to_regclass('flyway_schema_history') IS NOT NULL",
            &[],
        )
        .await
        .context(|| "the schema cannot be read")?;
    if !there.get::<_, bool>(0) {
        return Ok(());
    }
    let rows = session
        .query(
            "SELECT coalesce(version, ''), description, success FROM flyway_schema_history \
             ORDER BY installed_rank",
            &[],
        )
        .await
        .context(|| "Conductor's migrations cannot be read")?;
    let shown = patient.database()?.shown().to_owned();
    for row in rows.iter().filter(|row| !row.get::<_, bool>(2)) {
        let (version, description): (String, String) = (row.get(0), row.get(1));
        examined.find(
            Finding::problem(
                ErrorKind::BadData,
                format!("Conductor's migration {version} ({description}) has failed"),
            )
            .because("the server refuses to start until it is mended")
            .advise("Restore a backup from before it, or remove the failed row and start again.")
            .remedy("k1ops restore latest")
            .remedy(format!(
                "psql {} -c 'DELETE FROM flyway_schema_history WHERE NOT success' && k1ops start",
                target(&shown)
            )),
        );
    }
    if let Some(last) = rows.last() {
        examined.say(format!(
            "Conductor's schema is at {}",
            last.get::<_, String>(0)
        ));
    }
    Ok(())
}

async fn k1_tables(patient: &Patient, examined: &mut Examined) -> Result<()> {
    let place = match Place::of(&patient.stack) {
        Ok(Place::Sqlite(path)) if !path.exists() => return Ok(()),
        Ok(place) => place,
        // That the database cannot be reached is another check's finding.
        Err(_) => return Ok(()),
    };
    if matches!(place, Place::Postgres(_)) && patient.session_if_any().await.is_none() {
        return Ok(());
    }
    match Store::open_read_only(&place).await {
        Ok(_) => examined.say(format!("the K1 tables are at {}", latest_version())),
        Err(error) => {
            let said = error.to_string();
            let newer = said.contains("newer");
            let finding = Finding::of(&error);
            examined.find(if newer {
                finding
                    .because("a newer k1ops has written this store")
                    .remedy("k1ops --version")
            } else if error.kind() == ErrorKind::Missing {
                finding.as_severe_as(Severity::Note).remedy("k1ops start")
            } else {
                finding.remedy("k1ops restore latest")
            });
        }
    }
    Ok(())
}
