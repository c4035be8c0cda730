//! Where the tests' stores are, looked at by clients that know nothing of k1ops; and what the tests
//! ask again and again.

use crate::support::{ScratchDatabase, scratch_database};
use chrono::{DateTime, TimeDelta, Utc};
use k1ops::event::{Event, Events};
use k1ops::store::{
    AgentFinish, AgentStart, AgentStatus, Place, Store, SummaryFilter, WorkflowSummary,
};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use uuid::Uuid;

pub(crate) const TABLES: [&str; 4] = [
    "k1_workflow_metadata",
    "k1_execution_metrics",
    "k1_quality_gates",
    "k1_agent_executions",
];

/// What [`Bed::indexed`] says of a store that is up to date.
pub(crate) const INDEXED: [&str; 15] = [
    "k1_agent_executions.started_at",
    "k1_agent_executions.status",
    "k1_agent_executions.task_id",
    "k1_agent_executions.workflow_id",
    "k1_execution_metrics.metric_name",
    "k1_execution_metrics.metric_name",
    "k1_execution_metrics.metric_name",
    "k1_execution_metrics.recorded_at",
    "k1_execution_metrics.task_id",
    "k1_execution_metrics.workflow_id",
    "k1_quality_gates.critical",
    "k1_quality_gates.passed",
    "k1_quality_gates.workflow_id",
    "k1_workflow_metadata.created_at",
    "k1_workflow_metadata.source",
];

/// A place for a store that is not there yet.
pub(crate) enum Bed {
    Postgres(ScratchDatabase),
    Sqlite(TempDir),
}

impl Bed {
    pub(crate) fn postgres() -> Self {
        Self::Postgres(scratch_database())
    }

    pub(crate) fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().unwrap())
    }

    pub(crate) fn place(&self) -> Place {
        match self {
            Self::Postgres(database) => Place::Postgres(Box::new(database.address())),
            Self::Sqlite(folder) => Place::Sqlite(folder.path().join("data/k1.db")),
        }
    }

    pub(crate) async fn open(&self) -> Store {
        Store::open(&self.place(), &Events::silent()).await.unwrap()
    }

    /// The first column of a query, by a client that knows nothing of k1ops.
    pub(crate) fn column(&self, sql: &str) -> Vec<String> {
        match (self, self.place()) {
            (Self::Postgres(database), _) => database.column(sql),
            (_, Place::Sqlite(path)) => {
                let db = rusqlite::Connection::open(path).unwrap();
                let mut query = db.prepare(sql).unwrap();
                let text = |row: &rusqlite::Row<'_>| {
                    Ok(match row.get::<_, rusqlite::types::Value>(0)? {
                        rusqlite::types::Value::Null => "NULL".to_owned(),
                        rusqlite::types::Value::Integer(n) => n.to_string(),
                        rusqlite::types::Value::Real(n) => n.to_string(),
                        rusqlite::types::Value::Text(text) => text,
                        rusqlite::types::Value::Blob(_) => panic!("no column is a blob"),
                    })
                };
                let rows = query.query_map([], text).unwrap();
                rows.collect::<Result<_, _>>().unwrap()
            }
            _ => unreachable!("a bed and its place are of one kind"),
        }
    }

    /// Statements by a client that knows nothing of k1ops.
    pub(crate) fn run(&self, sql: &str) {
        match (self, self.place()) {
            (Self::Postgres(database), _) => database.run(sql),
            (_, Place::Sqlite(path)) => {
                let db = rusqlite::Connection::open(path).unwrap();
                db.execute_batch(sql).unwrap();
            }
            _ => unreachable!("a bed and its place are of one kind"),
        }
    }

    pub(crate) fn columns_of(&self, table: &str) -> Vec<String> {
        self.column(&match self {
            Self::Postgres(_) => format!(
                "SELECT column_name FROM information_schema.columns
                WHERE table_schema = 'public' AND table_name = '{table}' ORDER BY ordinal_position"
            ),
            Self::Sqlite(_) => format!("SELECT name FROM pragma_table_info('{table}')"),
        })
    }

    /// `table.column` of the first column of every index that is not there for a constraint.
    pub(crate) fn indexed(&self) -> Vec<String> {
        self.column(match self {
            Self::Postgres(_) => {
                "SELECT t.relname || '.' || a.attname FROM pg_index i
                JOIN pg_class t ON t.oid = i.indrelid
                JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = i.indkey[0]
                WHERE t.relname LIKE 'k1%' AND NOT i.indisunique
                ORDER BY (t.relname || '.' || a.attname) COLLATE \"C\""
            }
            Self::Sqlite(_) => {
                "SELECT l.name || '.' || c.name
                FROM sqlite_schema l, pragma_index_list(l.name) i, pragma_index_info(i.name) c
                WHERE l.type = 'table' AND i.origin = 'c' AND c.seqno = 0 ORDER BY 1"
            }
        })
    }
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// Events that remember their notes.
pub(crate) fn notes() -> (Events, Arc<Mutex<Vec<String>>>) {
    let notes = Arc::new(Mutex::new(Vec::new()));
    let sink = notes.clone();
    let events = Events::new(move |event| {
        if let Event::Note { message } = event {
            sink.lock().unwrap().push(message);
        }
    });
    (events, notes)
}

pub(crate) fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

pub(crate) async fn all(store: &Store) -> Vec<WorkflowSummary> {
    store
        .workflow_summaries(SummaryFilter::default())
        .await
        .unwrap()
}

pub(crate) fn ids(summaries: &[WorkflowSummary]) -> Vec<&str> {
    summaries
        .iter()
        .map(|s| s.conductor_execution_id.as_str())
        .collect()
}

/// One execution from `start`, lasting `micros`.
pub(crate) async fn execute(
    store: &Store,
    workflow: Uuid,
    status: AgentStatus,
    start: &str,
    micros: i64,
) {
    let mut begin = AgentStart::new(workflow, "task", "coder");
    begin.started_at = at(start);
    let id = store.start_agent_execution(begin.clone()).await.unwrap();
    let mut end = AgentFinish::new(status);
    end.completed_at = begin.started_at + TimeDelta::microseconds(micros);
    store.finish_agent_execution(id, end).await.unwrap();
}
