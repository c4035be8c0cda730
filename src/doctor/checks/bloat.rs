//! The tables that Conductor's queues churn hold rows, not the remains of rows.

use super::{name_in_sql, quoted, target};
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient};
use crate::error::{Context, Result};
use std::sync::Arc;

/// Tables that are written to with every task.
const CHURNED: [&str; 6] = [
    "queue_message",
    "task_in_progress",
    "task_scheduled",
    "workflow_pending",
    "locks",
    "poll_data",
];
/// Fewer dead rows than this slow nothing down.
const MANY: i64 = 10_000;

pub(super) struct Bloat;

impl Check for Bloat {
    fn name(&self) -> &'static str {
        "bloat"
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
    let tables = CHURNED.map(str::to_owned).to_vec();
    let rows = session
        .query(
            "SELECT relname::text, n_live_tup, n_dead_tup, \
             pg_size_pretty(pg_total_relation_size(relid)), \
             coalesce(to_char(greatest(last_vacuum, last_autovacuum), 'YYYY-MM-DD HH24:MI'), 'never') \
             FROM pg_stat_user_tables WHERE relname = ANY($1)",
            &[&tables],
        )
        .await
        .context(|| "the statistics of the tables cannot be read")?;
    let mut examined = Examined::default();
    let shown = patient.database()?.shown().to_owned();
    for row in &rows {
        let (table, live, dead): (String, i64, i64) = (row.get(0), row.get(1), row.get(2));
        if dead < MANY || dead < live * 2 {
            continue;
        }
        let (size, vacuumed): (String, String) = (row.get(3), row.get(4));
        examined.find(
            Finding::warning(format!(
                "table {table} is bloated: {dead} dead rows, {live} live"
            ))
            .seen(format!("{size} on disk; last vacuumed: {vacuumed}"))
            .because("every look into the queue reads past the dead rows")
            .remedy(format!(
                "psql {} -c {}",
                target(&shown),
                quoted(&format!("VACUUM (ANALYZE) {}", name_in_sql(&table)))
            )),
        );
    }
    if examined.findings.is_empty() {
        examined.say(if rows.is_empty() {
            "Conductor has made no tables yet"
        } else {
            "the queues' tables are not bloated"
        });
    }
    Ok(examined)
}
