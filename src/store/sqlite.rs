//! The K1 tables in an `SQLite` file.
//!
//! UUIDs are lower-case text, made here; moments are ISO 8601 text in UTC with microseconds; JSON
//! is text; booleans are 0 and 1. The connection works on a blocking thread, one call at a time.

use super::migrations::{Applied, Migration, SQLITE, Schema};
use super::model::{
    AgentFinish, AgentStart, AgentStatus, Counts, NewGate, NewMetric, NewWorkflow, SummaryFilter,
    WorkflowSummary, already_recorded, unknown_execution, unknown_workflow,
};
use crate::adapters::sqlite as adapter;
use crate::error::{Context, Error, ErrorKind, Result};
use chrono::{DateTime, NaiveDateTime, Utc};
use rusqlite::types::Type;
use rusqlite::{Connection, Params, Row, TransactionBehavior, ffi, params};
use serde_json::Value;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use uuid::Uuid;

const MOMENT: &str = "%Y-%m-%dT%H:%M:%S%.6fZ";

const CREATE_MIGRATIONS: &str = "CREATE TABLE IF NOT EXISTS k1_schema_migrations (
    version INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    checksum TEXT NOT NULL,
    applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
) STRICT";

const SUMMARIES: &str = "SELECT workflow_id, conductor_execution_id, created_at, source,
    total_tasks, completed_tasks, failed_tasks,
    total_quality_gates, passed_quality_gates, critical_failures,
    workflow_started, workflow_completed, duration_seconds
FROM k1_workflow_summary
WHERE (?1 IS NULL OR created_at >= ?1)
    AND (?2 IS NULL OR source = ?2)
    AND (?3 IS NULL OR conductor_execution_id = ?3 OR workflow_id = ?4)
ORDER BY created_at DESC NULLS LAST, workflow_id
LIMIT ?5";

#[derive(Debug, Clone)]
pub(super) struct SqliteStore {
    pub(super) connection: Arc<Mutex<Connection>>,
    pub(super) shown: String,
}

impl SqliteStore {
    /// Opens or creates the file and applies what is pending; answers what was there before.
    pub(super) async fn open(path: &Path) -> Result<(Self, Schema)> {
        Self::connect(path, |path, shown| {
            let mut connection = adapter::open_or_create(path)?;
            let before = read_schema(&connection, shown)?;
            let mut schema = before.clone();
            while !schema.pending(SQLITE, shown)?.is_empty() {
                schema = migrate_once(&mut connection, shown)?;
            }
            Ok((connection, before))
        })
        .await
    }

    /// Opens an existing file so that nothing can be changed, and answers what is there.
    pub(super) async fn inspect(path: &Path) -> Result<(Self, Schema)> {
        Self::connect(path, |path, shown| {
            let connection = adapter::open_read_only(path)?;
            let schema = read_schema(&connection, shown)?;
            Ok((connection, schema))
        })
        .await
    }

    async fn connect(
        path: &Path,
        open: impl FnOnce(&Path, &str) -> Result<(Connection, Schema)> + Send + 'static,
    ) -> Result<(Self, Schema)> {
        let path = path.to_path_buf();
        blocking(move || {
            let shown = path.display().to_string();
            let (connection, schema) = open(&path, &shown)?;
            let connection = Arc::new(Mutex::new(connection));
            Ok((Self { connection, shown }, schema))
        })
        .await
    }

    pub(super) async fn record_workflow(&self, w: NewWorkflow) -> Result<Uuid> {
        self.run(move |db, shown| {
            let sql = "INSERT INTO k1_workflow_metadata (workflow_id, conductor_execution_id,
                    created_at, updated_at, user_id, source, tags, custom_metadata)
                VALUES (?1, ?2, ?3, ?3, ?4, ?5, ?6, ?7)";
            let execution = &w.conductor_execution_id;
            let values = params![
                w.workflow_id.to_string(),
                execution,
                text(w.created_at),
                w.user_id,
                w.source,
                json(w.tags.as_ref()),
                json(w.custom_metadata.as_ref())
            ];
            write(db, shown, sql, values, |code| {
                (code == ffi::SQLITE_CONSTRAINT_UNIQUE).then(|| already_recorded(execution))
            })?;
            Ok(w.workflow_id)
        })
        .await
    }

    pub(super) async fn ensure_workflow(&self, w: NewWorkflow) -> Result<Uuid> {
        let execution = w.conductor_execution_id.clone();
        match self.record_workflow(w).await {
            Err(error) if error.kind() == ErrorKind::Refused => {}
            recorded => return recorded,
        }
        self.run(move |db, shown| {
            let sql = "SELECT workflow_id FROM k1_workflow_metadata
                WHERE conductor_execution_id = ?1";
            let id: String = db
                .query_row(sql, [&execution], |row| row.get(0))
                .context(|| format!("workflow {execution} cannot be read from {shown}"))?;
            id.parse()
                .context(|| format!("{id:?} in {shown} is not a workflow id"))
        })
        .await
    }

    /// Runs one word of transaction control.
    pub(super) async fn control(&self, word: &'static str) -> Result<()> {
        self.run(move |db, shown| {
            let done = db.execute_batch(word);
            done.map_err(|e| explain(shown, "be written to", e))
        })
        .await
    }

    pub(super) async fn record_metric(&self, m: NewMetric) -> Result<Uuid> {
        self.run(move |db, shown| {
            let sql = "INSERT INTO k1_execution_metrics (metric_id, workflow_id, task_id,
                    metric_name, metric_value, metric_unit, recorded_at, tags)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
                ON CONFLICT (metric_id) DO NOTHING";
            let values = params![
                m.metric_id.to_string(),
                m.workflow_id.to_string(),
                m.task_id,
                m.name,
                m.value,
                m.unit,
                text(m.recorded_at),
                json(m.tags.as_ref())
            ];
            write_for(db, shown, m.workflow_id, sql, values)?;
            Ok(m.metric_id)
        })
        .await
    }

    pub(super) async fn record_gate(&self, g: NewGate) -> Result<Uuid> {
        self.run(move |db, shown| {
            let sql = "INSERT INTO k1_quality_gates (gate_id, workflow_id, task_id, gate_name,
                    gate_threshold, actual_value, passed, critical, checked_at, details)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
                ON CONFLICT (gate_id) DO NOTHING";
            let values = params![
                g.gate_id.to_string(),
                g.workflow_id.to_string(),
                g.task_id,
                g.name,
                g.threshold,
                g.actual,
                g.passed,
                g.critical,
                text(g.checked_at),
                json(g.details.as_ref())
            ];
            write_for(db, shown, g.workflow_id, sql, values)?;
            Ok(g.gate_id)
        })
        .await
    }

    pub(super) async fn start_agent_execution(&self, a: AgentStart) -> Result<Uuid> {
        self.run(move |db, shown| {
            let sql = "INSERT INTO k1_agent_executions (execution_id, workflow_id, task_id,
                    agent_type, started_at, status)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                ON CONFLICT (execution_id) DO NOTHING";
            let values = params![
                a.execution_id.to_string(),
                a.workflow_id.to_string(),
                a.task_id,
                a.agent_type,
                text(a.started_at),
                AgentStatus::Running.name()
            ];
            write_for(db, shown, a.workflow_id, sql, values)?;
            Ok(a.execution_id)
        })
        .await
    }

    pub(super) async fn finish_agent_execution(&self, id: Uuid, f: AgentFinish) -> Result<()> {
        self.run(move |db, shown| {
            let sql = "UPDATE k1_agent_executions SET completed_at = ?2, status = ?3,
                    exit_code = ?4, stdout_log = ?5, stderr_log = ?6, result_file_path = ?7,
                    metrics = ?8
                WHERE execution_id = ?1";
            let values = params![
                id.to_string(),
                text(f.completed_at),
                f.status.name(),
                f.exit_code,
                f.stdout_log,
                f.stderr_log,
                f.result_file_path,
                json(f.metrics.as_ref())
            ];
            match write(db, shown, sql, values, |_| None)? {
                0 => Err(unknown_execution(id)),
                _ => Ok(()),
            }
        })
        .await
    }

    pub(super) async fn workflow_summaries(
        &self,
        filter: SummaryFilter,
    ) -> Result<Vec<WorkflowSummary>> {
        self.run(move |db, shown| {
            let cannot = |e| explain(shown, "be asked for workflows", e);
            let mut query = db.prepare_cached(SUMMARIES).map_err(cannot)?;
            let values = params![
                filter.since.map(text),
                filter.source,
                filter.workflow,
                filter.workflow_id().map(|id| id.to_string()),
                // A negative limit is none.
                filter.limit.map_or(-1, i64::from)
            ];
            let rows = query.query_map(values, summary).map_err(cannot)?;
            rows.collect::<Result<_, _>>().map_err(cannot)
        })
        .await
    }

    pub(super) async fn counts(&self) -> Result<Counts> {
        self.run(|db, shown| {
            let sql = "SELECT (SELECT count(*) FROM k1_workflow_metadata),
                (SELECT count(*) FROM k1_execution_metrics),
                (SELECT count(*) FROM k1_quality_gates),
                (SELECT count(*) FROM k1_agent_executions)";
            db.query_row(sql, [], |row| {
                Ok(Counts {
                    workflows: row.get(0)?,
                    metrics: row.get(1)?,
                    gates: row.get(2)?,
                    agent_executions: row.get(3)?,
                })
            })
            .map_err(|e| explain(shown, "be counted", e))
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection, &str) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = self.clone();
        blocking(move || {
            // A panic elsewhere leaves no half-done work: every call here is one transaction.
            let connection = store
                .connection
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            work(&connection, &store.shown)
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .context(|| "work on an SQLite database broke off")?
}

/// Applies the next migration, if one is still pending once the lock is held, and answers what is
/// there then.
fn migrate_once(connection: &mut Connection, shown: &str) -> Result<Schema> {
    let cannot = |e| explain(shown, "be brought up to date", e);
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(cannot)?;
    let schema = read_schema(&transaction, shown)?;
    let Some(next) = schema.pending(SQLITE, shown)?.first() else {
        return Ok(schema);
    };
    apply(&transaction, next).map_err(|e| {
        let doing = format!("take migration {} ({})", next.version, next.name);
        explain(shown, &doing, e)
    })?;
    let schema = read_schema(&transaction, shown)?;
    transaction.commit().map_err(cannot)?;
    tracing::info!(version = next.version, name = next.name, store = %shown, "migrated");
    Ok(schema)
}

fn apply(connection: &Connection, migration: &Migration) -> rusqlite::Result<()> {
    connection.execute_batch(CREATE_MIGRATIONS)?;
    connection.execute_batch(migration.sql)?;
    connection.execute(
        "INSERT INTO k1_schema_migrations (version, name, checksum) VALUES (?1, ?2, ?3)",
        params![migration.version, migration.name, migration.checksum()],
    )?;
    Ok(())
}

/// Makes the tables in a new file, and nothing else yet: rows that are loaded before there are
/// indexes are loaded faster. Opening the store later does the rest.
pub(super) fn create_tables(connection: &Connection, shown: &str) -> Result<()> {
    let first = SQLITE.first().into_iter();
    for migration in first {
        apply(connection, migration).map_err(|e| explain(shown, "be made", e))?;
    }
    Ok(())
}

fn read_schema(connection: &Connection, shown: &str) -> Result<Schema> {
    let cannot = |e| explain(shown, "be inspected", e);
    // Not table_exists(): it answers from the connection's cached schema, which may be older than
    // what the process that held the lock before us has committed.
    let there = |table| {
        let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = ?1)";
        let row = connection.query_row(sql, [table], |row| row.get::<_, bool>(0));
        row.map_err(cannot)
    };
    if !there("k1_schema_migrations")? {
        return Ok(if there("k1_workflow_metadata")? {
            Schema::Original
        } else {
            Schema::Absent
        });
    }
    let mut query = connection
        .prepare("SELECT version, name, checksum FROM k1_schema_migrations ORDER BY version")
        .map_err(cannot)?;
    let rows = query
        .query_map([], |row| {
            Ok(Applied {
                version: row.get(0)?,
                name: row.get(1)?,
                checksum: row.get(2)?,
            })
        })
        .map_err(cannot)?;
    rows.collect::<Result<_, _>>()
        .map(Schema::Ours)
        .map_err(cannot)
}

/// Writes something that belongs to `workflow`.
fn write_for(
    db: &Connection,
    shown: &str,
    workflow: Uuid,
    sql: &str,
    values: impl Params,
) -> Result<usize> {
    write(db, shown, sql, values, |code| {
        (code == ffi::SQLITE_CONSTRAINT_FOREIGNKEY).then(|| unknown_workflow(workflow))
    })
}

/// Writes; `expected` knows the errors that the caller can explain better than `SQLite`.
fn write(
    db: &Connection,
    shown: &str,
    sql: &str,
    values: impl Params,
    expected: impl FnOnce(i32) -> Option<Error>,
) -> Result<usize> {
    db.prepare_cached(sql)
        .and_then(|mut statement| statement.execute(values))
        .map_err(|error| {
            error
                .sqlite_error()
                .and_then(|e| expected(e.extended_code))
                .unwrap_or_else(|| explain(shown, "be written to", error))
        })
}

fn summary(row: &Row<'_>) -> rusqlite::Result<WorkflowSummary> {
    Ok(WorkflowSummary {
        workflow_id: parsed(row, 0, |text| text.parse().ok())?.ok_or_else(|| unreadable(0))?,
        conductor_execution_id: row.get(1)?,
        created_at: parsed(row, 2, moment)?,
        source: row.get(3)?,
        total_tasks: row.get(4)?,
        completed_tasks: row.get(5)?,
        failed_tasks: row.get(6)?,
        total_quality_gates: row.get(7)?,
        passed_quality_gates: row.get(8)?,
        critical_failures: row.get(9)?,
        workflow_started: parsed(row, 10, moment)?,
        workflow_completed: parsed(row, 11, moment)?,
        duration_seconds: row.get(12)?,
    })
}

fn parsed<T>(
    row: &Row<'_>,
    column: usize,
    parse: impl FnOnce(&str) -> Option<T>,
) -> rusqlite::Result<Option<T>> {
    row.get::<_, Option<String>>(column)?
        .map(|text| parse(&text).ok_or_else(|| unreadable(column)))
        .transpose()
}

fn unreadable(column: usize) -> rusqlite::Error {
    let what = "not written as the K1 tables write it";
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, what.into())
}

fn text(moment: DateTime<Utc>) -> String {
    moment.format(MOMENT).to_string()
}

pub(super) fn moment(text: &str) -> Option<DateTime<Utc>> {
    let naive = NaiveDateTime::parse_from_str(text, MOMENT).ok()?;
    Some(naive.and_utc())
}

fn json(value: Option<&Value>) -> Option<String> {
    value.map(ToString::to_string)
}

/// The store at `shown` cannot `do_what`, and why.
pub(super) fn explain(shown: &str, do_what: &str, error: rusqlite::Error) -> Error {
    let kind = adapter::kind_of(&error);
    let explained = Error::new(kind, format!("K1 store {shown} cannot {do_what}")).because(error);
    match kind {
        ErrorKind::Locked => {
            explained.hint("Another program holds the file; try again when that has ended.")
        }
        ErrorKind::BadData => {
            explained.hint("The file is damaged or not an SQLite database; restore a backup.")
        }
        ErrorKind::Missing => {
            explained.hint("Check who owns the file and its folder, and the space on the disk.")
        }
        _ => explained,
    }
}
