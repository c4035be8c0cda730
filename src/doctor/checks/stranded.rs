//! No workflow runs that the server has forgotten: one that is RUNNING but not in the decider queue
//! never moves again by itself.

use crate::adapters::postgres::{Session, server_message};
use crate::adapters::sqlite;
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient};
use crate::error::{Context, Error, ErrorKind, Result};
use std::path::Path;
use std::sync::Arc;

/// How many are named.
const NAMED: usize = 3;
/// Both databases keep the same tables; the state is in the workflow's JSON.
const TABLES: [&str; 3] = ["workflow", "workflow_pending", "queue_message"];
/// A queue that is read while the server works can lack a workflow for an instant only.
const DECIDER: &str = "_deciderQueue";

pub(super) struct Stranded;

impl Check for Stranded {
    fn name(&self) -> &'static str {
        "stranded"
    }

    fn group(&self) -> Group {
        Group::Conductor
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        Box::pin(async move { look(patient).await })
    }
}

async fn look(patient: Arc<Patient>) -> Result<Examined> {
    let found = if let Some(session) = patient.session_if_any().await {
        in_postgres(&session).await?
    } else if patient.stack.uses_database_url() {
        None
    } else {
        let path = patient.stack.conductor_db();
        tokio::task::spawn_blocking(move || in_sqlite(&path))
            .await
            .context(|| "the check broke off")??
    };
    let Some((running, stranded)) = found else {
        return Ok(Examined::skipped(
            "there is no database of Conductor's to look at",
        ));
    };
    if stranded.is_empty() {
        return Ok(Examined::well(format!(
            "{running} workflows run, none is stranded"
        )));
    }
    let count = stranded.len();
    let named = stranded.iter().take(NAMED).cloned().collect::<Vec<_>>();
    let title = format!("{count} of {running} running workflows are stranded");
    let finding = Finding::problem(ErrorKind::Failed, title)
        .seen(format!("for example {}", named.join(", ")))
        .because(
            "they are RUNNING but not in the decider queue, as after a restore of data that was \
             not saved at one moment; they never move again by themselves",
        );
    let Some(client) = patient.conductor().await else {
        return Ok(finding
            .advise("A start puts them back after a restore; ask the server itself otherwise.")
            .remedy("k1ops start")
            .into());
    };
    let finding = stranded.iter().take(NAMED).fold(finding, |finding, id| {
        finding.remedy(format!(
            "curl -sS -X POST {}/api/admin/sweep/requeue/{id}",
            client.base()
        ))
    });
    Ok(finding
        .advise("Put each back into the queue; the server answers true.ID where it did.")
        .into())
}

type Found = Option<(usize, Vec<String>)>;

async fn in_postgres(session: &Session) -> Result<Found> {
    let unread = |error: tokio_postgres::Error| {
        Error::failed(format!(
            "the queue cannot be read: {}",
            server_message(&error)
        ))
    };
    let there = session
        .query_one(
            "SELECT count(*) FROM unnest($1::text[]) AS t(name) WHERE to_regclass(t.name) IS NOT NULL",
            &[&TABLES.map(str::to_owned).to_vec()],
        )
        .await
        .map_err(unread)?;
    if there.get::<_, i64>(0) != 3 {
        return Ok(None);
    }
    let rows = session
        .query(
            "SELECT w.workflow_id, q.message_id IS NULL FROM workflow_pending p \
             JOIN workflow w ON w.workflow_id = p.workflow_id \
             LEFT JOIN queue_message q ON q.queue_name = $1 AND q.message_id = w.workflow_id \
             WHERE w.json_data::jsonb ->> 'status' = 'RUNNING'",
            &[&DECIDER],
        )
        .await
        .map_err(unread)?;
    Ok(Some(sorted(
        rows.iter().map(|row| (row.get(0), row.get(1))).collect(),
    )))
}

fn in_sqlite(path: &Path) -> Result<Found> {
    if !path.exists() {
        return Ok(None);
    }
    let unread = || format!("the queue in {} cannot be read", path.display());
    let connection = sqlite::open_read_only(path)?;
    let there: i64 = connection
        .query_row(
            "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN (?1, ?2, ?3)",
            TABLES,
            |row| row.get(0),
        )
        .context_kind(ErrorKind::BadData, unread)?;
    if there != 3 {
        return Ok(None);
    }
    let mut query = connection
        .prepare(
            "SELECT w.workflow_id, q.message_id IS NULL FROM workflow_pending p \
             JOIN workflow w ON w.workflow_id = p.workflow_id \
             LEFT JOIN queue_message q ON q.queue_name = ?1 AND q.message_id = w.workflow_id \
             WHERE json_extract(w.json_data, '$.status') = 'RUNNING'",
        )
        .context(unread)?;
    let rows = query
        .query_map([DECIDER], |row| Ok((row.get(0)?, row.get(1)?)))
        .context(unread)?
        .collect::<std::result::Result<Vec<(String, bool)>, _>>()
        .context(unread)?;
    Ok(Some(sorted(rows)))
}

/// How many run, and which of them are stranded.
fn sorted(rows: Vec<(String, bool)>) -> (usize, Vec<String>) {
    let running = rows.len();
    let stranded = rows.into_iter().filter(|(_, lost)| *lost);
    (running, stranded.map(|(id, _)| id).collect())
}
