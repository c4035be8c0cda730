//! The K1 tables in schema `public` of a `PostgreSQL` database.
//!
//! The tables' timestamps have no time zone; the session's is UTC, and every moment is passed in
//! UTC. Numbers go through their shortest decimal text, since the server's own cast from a float
//! keeps 15 digits only.

use super::migrations::{Applied, Migration, POSTGRES, Schema};
use super::model::{
    AgentFinish, AgentStart, AgentStatus, Counts, NewGate, NewMetric, NewWorkflow, SummaryFilter,
    WorkflowSummary, already_recorded, unknown_execution, unknown_workflow,
};
use crate::adapters::postgres::{Address, Session, server_message};
use crate::error::{Error, ErrorKind, Result};
use chrono::{DateTime, NaiveDateTime, Utc};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{GenericClient, Row};
use uuid::Uuid;

/// Held while a migration is applied, in every k1ops alike; the bytes are `k1ops` and a 1.
const ADVISORY_LOCK: i64 = 0x6b31_6f70_7301;

const CREATE_MIGRATIONS: &str = "CREATE TABLE IF NOT EXISTS public.k1_schema_migrations (
    version int PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamp NOT NULL DEFAULT timezone('utc', clock_timestamp())
)";

const SUMMARIES: &str = "SELECT workflow_id, conductor_execution_id::text,
    created_at::timestamp, source::text,
    total_tasks::bigint, completed_tasks::bigint, failed_tasks::bigint,
    total_quality_gates::bigint, passed_quality_gates::bigint, critical_failures::bigint,
    workflow_started::timestamp, workflow_completed::timestamp, duration_seconds::float8
FROM public.k1_workflow_summary
WHERE ($1::timestamp IS NULL OR created_at >= $1)
    AND ($2::text IS NULL OR source = $2)
    AND ($3::text IS NULL OR conductor_execution_id = $3 OR workflow_id = $4::uuid)
ORDER BY created_at DESC NULLS LAST, workflow_id
LIMIT $5::bigint";

const INSERT_WORKFLOW: &str = "INSERT INTO public.k1_workflow_metadata (workflow_id,
        conductor_execution_id, created_at, updated_at, user_id, source, tags, custom_metadata)
    VALUES ($1, $2, $3, $3, $4, $5, $6, $7)";

#[derive(Debug)]
pub(super) struct PostgresStore {
    pub(super) session: Session,
    pub(super) shown: String,
}

impl PostgresStore {
    /// Connects and applies what is pending; answers what was there before.
    pub(super) async fn open(address: &Address) -> Result<(Self, Schema)> {
        let (mut store, before) = Self::connect(address, "").await?;
        let mut schema = before.clone();
        while !schema.pending(POSTGRES, &store.shown)?.is_empty() {
            schema = store.migrate_once().await?;
        }
        Ok((store, before))
    }

    /// Connects so that nothing can be changed, and answers what is there.
    pub(super) async fn inspect(address: &Address) -> Result<(Self, Schema)> {
        Self::connect(address, "SET default_transaction_read_only = on;").await
    }

    async fn connect(address: &Address, settings: &str) -> Result<(Self, Schema)> {
        let shown = address.shown().to_owned();
        let session = Session::open(address).await?;
        session
            .batch_execute(&format!("SET TIME ZONE 'UTC'; {settings}"))
            .await
            .map_err(|e| explain(&shown, "be set up for a session", e))?;
        let schema = read_schema(&*session, &shown).await?;
        Ok((Self { session, shown }, schema))
    }

    /// Applies the next migration, if one is still pending once the lock is held, and answers what
    /// is there then.
    async fn migrate_once(&mut self) -> Result<Schema> {
        let shown = self.shown.clone();
        let cannot = |e| explain(&shown, "be brought up to date", e);
        let transaction = self.session.transaction().await.map_err(cannot)?;
        transaction
            .batch_execute(&format!(
                "SET LOCAL lock_timeout = '15s'; SELECT pg_advisory_xact_lock({ADVISORY_LOCK})"
            ))
            .await
            .map_err(cannot)?;
        let schema = read_schema(&transaction, &shown).await?;
        let Some(next) = schema.pending(POSTGRES, &shown)?.first() else {
            return Ok(schema);
        };
        apply(&transaction, next).await.map_err(|e| {
            let doing = format!("take migration {} ({})", next.version, next.name);
            explain(&shown, &doing, e)
        })?;
        let schema = read_schema(&transaction, &shown).await?;
        transaction.commit().await.map_err(cannot)?;
        tracing::info!(version = next.version, name = next.name, store = %shown, "migrated");
        Ok(schema)
    }

    pub(super) async fn record_workflow(&self, w: NewWorkflow) -> Result<Uuid> {
        self.insert_workflow(INSERT_WORKFLOW, &w).await?;
        Ok(w.workflow_id)
    }

    pub(super) async fn ensure_workflow(&self, w: NewWorkflow) -> Result<Uuid> {
        let sql = format!("{INSERT_WORKFLOW} ON CONFLICT DO NOTHING");
        // No error, which would end a transaction around this.
        if self.insert_workflow(&sql, &w).await? == 1 {
            return Ok(w.workflow_id);
        }
        let sql = "SELECT workflow_id FROM public.k1_workflow_metadata
            WHERE conductor_execution_id = $1";
        let execution = &w.conductor_execution_id;
        let row = self.session.query_one(sql, &[execution]).await;
        row.map(|row| row.get(0))
            .map_err(|e| explain(&self.shown, "say which workflow it has", e))
    }

    async fn insert_workflow(&self, sql: &str, w: &NewWorkflow) -> Result<u64> {
        let created_at = w.created_at.naive_utc();
        let execution = &w.conductor_execution_id;
        let values: &[&(dyn ToSql + Sync)] = &[
            &w.workflow_id,
            execution,
            &created_at,
            &w.user_id,
            &w.source,
            &w.tags,
            &w.custom_metadata,
        ];
        let expected = |code: &SqlState| {
            (*code == SqlState::UNIQUE_VIOLATION).then(|| already_recorded(execution))
        };
        self.write(sql, values, expected).await
    }

    /// Runs one word of transaction control.
    pub(super) async fn control(&self, word: &str) -> Result<()> {
        let done = self.session.batch_execute(word).await;
        done.map_err(|e| explain(&self.shown, "be written to", e))
    }

    pub(super) async fn record_metric(&self, m: NewMetric) -> Result<Uuid> {
        let sql = "INSERT INTO public.k1_execution_metrics (metric_id, workflow_id, task_id,
                metric_name, metric_value, metric_unit, recorded_at, tags)
            VALUES ($1, $2, $3, $4, $5::text::numeric, $6, $7, $8)
            ON CONFLICT (metric_id) DO NOTHING";
        let value = m.value.map(|v| v.to_string());
        let recorded_at = m.recorded_at.naive_utc();
        let values: &[&(dyn ToSql + Sync)] = &[
            &m.metric_id,
            &m.workflow_id,
            &m.task_id,
            &m.name,
            &value,
            &m.unit,
            &recorded_at,
            &m.tags,
        ];
        self.write_for(m.workflow_id, sql, values).await?;
        Ok(m.metric_id)
    }

    pub(super) async fn record_gate(&self, g: NewGate) -> Result<Uuid> {
        let sql = "INSERT INTO public.k1_quality_gates (gate_id, workflow_id, task_id, gate_name,
                gate_threshold, actual_value, passed, critical, checked_at, details)
            VALUES ($1, $2, $3, $4, $5::text::numeric, $6::text::numeric, $7, $8, $9, $10)
            ON CONFLICT (gate_id) DO NOTHING";
        let threshold = g.threshold.map(|v| v.to_string());
        let actual = g.actual.map(|v| v.to_string());
        let checked_at = g.checked_at.naive_utc();
        let values: &[&(dyn ToSql + Sync)] = &[
            &g.gate_id,
            &g.workflow_id,
            &g.task_id,
            &g.name,
            &threshold,
            &actual,
            &g.passed,
            &g.critical,
            &checked_at,
            &g.details,
        ];
        self.write_for(g.workflow_id, sql, values).await?;
        Ok(g.gate_id)
    }

    pub(super) async fn start_agent_execution(&self, a: AgentStart) -> Result<Uuid> {
        let sql = "INSERT INTO public.k1_agent_executions (execution_id, workflow_id, task_id,
                agent_type, started_at, status)
            VALUES ($1, $2, $3, $4, $5, $6)
            ON CONFLICT (execution_id) DO NOTHING";
        let started_at = a.started_at.naive_utc();
        let status = AgentStatus::Running.name();
        let values: &[&(dyn ToSql + Sync)] = &[
            &a.execution_id,
            &a.workflow_id,
            &a.task_id,
            &a.agent_type,
            &started_at,
            &status,
        ];
        self.write_for(a.workflow_id, sql, values).await?;
        Ok(a.execution_id)
    }

    pub(super) async fn finish_agent_execution(&self, id: Uuid, f: AgentFinish) -> Result<()> {
        let sql = "UPDATE public.k1_agent_executions SET completed_at = $2, status = $3,
                exit_code = $4, stdout_log = $5, stderr_log = $6, result_file_path = $7,
                metrics = $8
            WHERE execution_id = $1";
        let completed_at = f.completed_at.naive_utc();
        let status = f.status.name();
        let values: &[&(dyn ToSql + Sync)] = &[
            &id,
            &completed_at,
            &status,
            &f.exit_code,
            &f.stdout_log,
            &f.stderr_log,
            &f.result_file_path,
            &f.metrics,
        ];
        match self.write(sql, values, |_| None).await? {
            0 => Err(unknown_execution(id)),
            _ => Ok(()),
        }
    }

    pub(super) async fn workflow_summaries(
        &self,
        filter: SummaryFilter,
    ) -> Result<Vec<WorkflowSummary>> {
        let since = filter.since.map(|s| s.naive_utc());
        let id = filter.workflow_id();
        let limit = filter.limit.map(i64::from);
        let values: &[&(dyn ToSql + Sync)] =
            &[&since, &filter.source, &filter.workflow, &id, &limit];
        let cannot = |e| explain(&self.shown, "be asked for workflows", e);
        let rows = self
            .session
            .query(SUMMARIES, values)
            .await
            .map_err(cannot)?;
        rows.iter()
            .map(summary)
            .collect::<Result<_, _>>()
            .map_err(cannot)
    }

    pub(super) async fn counts(&self) -> Result<Counts> {
        let sql = "SELECT (SELECT count(*) FROM public.k1_workflow_metadata),
            (SELECT count(*) FROM public.k1_execution_metrics),
            (SELECT count(*) FROM public.k1_quality_gates),
            (SELECT count(*) FROM public.k1_agent_executions)";
        let cannot = |e| explain(&self.shown, "be counted", e);
        let row = self.session.query_one(sql, &[]).await.map_err(cannot)?;
        let n = |column| row.try_get(column).map_err(cannot);
        Ok(Counts {
            workflows: n(0)?,
            metrics: n(1)?,
            gates: n(2)?,
            agent_executions: n(3)?,
        })
    }

    /// Writes something that belongs to `workflow`.
    async fn write_for(
        &self,
        workflow: Uuid,
        sql: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<u64> {
        self.write(sql, values, |code| {
            (*code == SqlState::FOREIGN_KEY_VIOLATION).then(|| unknown_workflow(workflow))
        })
        .await
    }

    /// Writes; `expected` knows the errors that the caller can explain better than the server.
    async fn write(
        &self,
        sql: &str,
        values: &[&(dyn ToSql + Sync)],
        expected: impl FnOnce(&SqlState) -> Option<Error>,
    ) -> Result<u64> {
        self.session.execute(sql, values).await.map_err(|error| {
            error
                .code()
                .and_then(expected)
                .unwrap_or_else(|| explain(&self.shown, "be written to", error))
        })
    }
}

async fn read_schema(client: &impl GenericClient, shown: &str) -> Result<Schema> {
    let cannot = |e| explain(shown, "be inspected", e);
    // Not to_regclass(): within a transaction it may answer from a cache that is older than what
    // the process that held the lock before us has committed.
    let sql = "SELECT c.relname::text FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'public' AND c.relname IN ('k1_schema_migrations', 'k1_workflow_metadata')";
    let mut tables: Vec<String> = Vec::new();
    for row in client.query(sql, &[]).await.map_err(cannot)? {
        tables.push(row.try_get(0).map_err(cannot)?);
    }
    if !tables.iter().any(|t| t == "k1_schema_migrations") {
        return Ok(if tables.is_empty() {
            Schema::Absent
        } else {
            Schema::Original
        });
    }
    let rows = client
        .query(
            "SELECT version, name, checksum FROM public.k1_schema_migrations ORDER BY version",
            &[],
        )
        .await
        .map_err(cannot)?;
    let applied = |row: &Row| {
        Ok(Applied {
            version: row.try_get(0)?,
            name: row.try_get(1)?,
            checksum: row.try_get(2)?,
        })
    };
    rows.iter()
        .map(applied)
        .collect::<Result<_, _>>()
        .map(Schema::Ours)
        .map_err(cannot)
}

async fn apply(
    transaction: &tokio_postgres::Transaction<'_>,
    migration: &Migration,
) -> Result<(), tokio_postgres::Error> {
    transaction.batch_execute(CREATE_MIGRATIONS).await?;
    transaction.batch_execute(migration.sql).await?;
    transaction
        .execute(
            "INSERT INTO public.k1_schema_migrations (version, name, checksum)
            VALUES ($1, $2, $3)",
            &[&migration.version, &migration.name, &migration.checksum()],
        )
        .await?;
    Ok(())
}

fn summary(row: &Row) -> Result<WorkflowSummary, tokio_postgres::Error> {
    let moment = |column: usize| -> Result<Option<DateTime<Utc>>, tokio_postgres::Error> {
        let value: Option<NaiveDateTime> = row.try_get(column)?;
        Ok(value.map(|v| v.and_utc()))
    };
    Ok(WorkflowSummary {
        workflow_id: row.try_get(0)?,
        conductor_execution_id: row.try_get(1)?,
        created_at: moment(2)?,
        source: row.try_get(3)?,
        total_tasks: row.try_get(4)?,
        completed_tasks: row.try_get(5)?,
        failed_tasks: row.try_get(6)?,
        total_quality_gates: row.try_get(7)?,
        passed_quality_gates: row.try_get(8)?,
        critical_failures: row.try_get(9)?,
        workflow_started: moment(10)?,
        workflow_completed: moment(11)?,
        duration_seconds: row.try_get(12)?,
    })
}

/// The store at `shown` cannot `do_what`, and why.
pub(super) fn explain(shown: &str, do_what: &str, error: tokio_postgres::Error) -> Error {
    let what = format!("K1 store {shown} cannot {do_what}");
    let Some(code) = error.code() else {
        let kind = if error.is_closed() {
            ErrorKind::Missing
        } else {
            ErrorKind::Failed
        };
        return Error::new(kind, what).because(error);
    };
    let said = server_message(&error);
    if *code == SqlState::LOCK_NOT_AVAILABLE {
        return Error::locked(what)
            .because(said)
            .hint("Another session holds its tables; try again when that has ended.");
    }
    if *code == SqlState::INSUFFICIENT_PRIVILEGE {
        return Error::missing(what).because(said).hint(
            "Let the owner of the K1 tables run this command once, or grant this login the right.",
        );
    }
    if *code == SqlState::UNDEFINED_TABLE || *code == SqlState::UNDEFINED_COLUMN {
        return Error::bad_data(what)
            .because(said)
            .hint("Someone changed the K1 tables; restore a backup, or put back what is missing.");
    }
    Error::failed(what).because(said)
}
