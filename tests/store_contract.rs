//! One contract for both K1 stores: the same tests over a real PostgreSQL and over SQLite, and the
//! same generated data compared row by row.

mod support;

use chrono::{DateTime, TimeDelta, Utc};
use k1ops::error::ErrorKind;
use k1ops::event::{Event, Events};
use k1ops::store::{
    AgentFinish, AgentStart, AgentStatus, Counts, NewGate, NewMetric, NewWorkflow, Place, Store,
    SummaryFilter, WorkflowSummary, latest_version,
};
use proptest::prelude::*;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Barrier, Mutex};
use support::{ScratchDatabase, scratch_database};
use tempfile::TempDir;
use uuid::Uuid;

const TABLES: [&str; 4] = [
    "k1_workflow_metadata",
    "k1_execution_metrics",
    "k1_quality_gates",
    "k1_agent_executions",
];

/// A place for a store that is not there yet.
enum Bed {
    Postgres(ScratchDatabase),
    Sqlite(TempDir),
}

impl Bed {
    fn postgres() -> Self {
        Self::Postgres(scratch_database())
    }

    fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().unwrap())
    }

    fn place(&self) -> Place {
        match self {
            Self::Postgres(database) => Place::Postgres(Box::new(database.address())),
            Self::Sqlite(folder) => Place::Sqlite(folder.path().join("data/k1.db")),
        }
    }

    async fn open(&self) -> Store {
        Store::open(&self.place(), &Events::silent()).await.unwrap()
    }

    /// The first column of a query, by a client that knows nothing of k1ops.
    fn column(&self, sql: &str) -> Vec<String> {
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
    fn run(&self, sql: &str) {
        match (self, self.place()) {
            (Self::Postgres(database), _) => database.run(sql),
            (_, Place::Sqlite(path)) => {
                let db = rusqlite::Connection::open(path).unwrap();
                db.execute_batch(sql).unwrap();
            }
            _ => unreachable!("a bed and its place are of one kind"),
        }
    }

    fn columns_of(&self, table: &str) -> Vec<String> {
        self.column(&match self {
            Self::Postgres(_) => format!(
                "SELECT column_name FROM information_schema.columns
                WHERE table_schema = 'public' AND table_name = '{table}' ORDER BY ordinal_position"
            ),
            Self::Sqlite(_) => format!("SELECT name FROM pragma_table_info('{table}')"),
        })
    }

    /// `table.column` of every index that is not there for a constraint, sorted.
    fn indexed(&self) -> Vec<String> {
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
                WHERE l.type = 'table' AND i.origin = 'c' ORDER BY 1"
            }
        })
    }
}

/// Runs every contract over both kinds of store.
macro_rules! contracts {
    ($($contract:ident),+ $(,)?) => {
        mod postgres {
            $(#[test] fn $contract() {
                super::runtime().block_on(super::$contract(super::Bed::postgres()));
            })+
        }
        mod sqlite {
            $(#[test] fn $contract() {
                super::runtime().block_on(super::$contract(super::Bed::sqlite()));
            })+
        }
    };
}

contracts! {
    a_new_store_has_the_columns_and_indexes_of_the_original,
    opening_again_changes_nothing_and_says_nothing,
    a_store_that_is_behind_is_brought_up_to_date_and_says_so,
    eight_opens_at_once_make_one_store,
    a_newer_store_is_refused_and_left_alone,
    a_migration_with_another_text_is_refused,
    a_place_without_a_store_is_missing_and_stays_so,
    reading_only_cannot_write,
    the_summary_does_not_multiply_executions_by_gates,
    a_workflow_without_anything_has_zeroes_and_no_times,
    a_running_agent_has_no_end,
    filters_and_order,
    deleting_a_workflow_takes_what_belongs_to_it,
    what_cannot_be_stored_alike_is_refused,
    what_belongs_to_nothing_is_refused,
    texts_and_nulls_survive,
    microseconds_and_numbers_survive,
    defaults_are_made_by_the_database_in_utc,
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// Events that remember their notes.
fn notes() -> (Events, Arc<Mutex<Vec<String>>>) {
    let notes = Arc::new(Mutex::new(Vec::new()));
    let sink = notes.clone();
    let events = Events::new(move |event| {
        if let Event::Note { message } = event {
            sink.lock().unwrap().push(message);
        }
    });
    (events, notes)
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

async fn all(store: &Store) -> Vec<WorkflowSummary> {
    store
        .workflow_summaries(SummaryFilter::default())
        .await
        .unwrap()
}

fn ids(summaries: &[WorkflowSummary]) -> Vec<&str> {
    summaries
        .iter()
        .map(|s| s.conductor_execution_id.as_str())
        .collect()
}

/// One execution from `start`, lasting `micros`.
async fn execute(store: &Store, workflow: Uuid, status: AgentStatus, start: &str, micros: i64) {
    let mut begin = AgentStart::new(workflow, "task", "coder");
    begin.started_at = at(start);
    let id = store.start_agent_execution(begin.clone()).await.unwrap();
    let mut end = AgentFinish::new(status);
    end.completed_at = begin.started_at + TimeDelta::microseconds(micros);
    store.finish_agent_execution(id, end).await.unwrap();
}

async fn a_new_store_has_the_columns_and_indexes_of_the_original(bed: Bed) {
    bed.open().await;
    let expected = [
        "workflow_id conductor_execution_id created_at updated_at user_id source tags \
        custom_metadata",
        "metric_id workflow_id task_id metric_name metric_value metric_unit recorded_at tags",
        "gate_id workflow_id task_id gate_name gate_threshold actual_value passed critical \
        checked_at details",
        "execution_id workflow_id task_id agent_type started_at completed_at status exit_code \
        stdout_log stderr_log result_file_path metrics",
    ];
    for (table, expected) in TABLES.iter().zip(expected) {
        assert_eq!(bed.columns_of(table).join(" "), expected, "{table}");
    }
    assert_eq!(
        bed.columns_of("k1_workflow_summary").join(" "),
        "workflow_id conductor_execution_id created_at source total_tasks completed_tasks \
        failed_tasks total_quality_gates passed_quality_gates critical_failures workflow_started \
        workflow_completed duration_seconds"
    );
    assert_eq!(
        bed.columns_of("k1_schema_migrations").join(" "),
        "version name checksum applied_at"
    );
    assert_eq!(bed.indexed(), INDEXED);
}

const INDEXED: [&str; 13] = [
    "k1_agent_executions.started_at",
    "k1_agent_executions.status",
    "k1_agent_executions.task_id",
    "k1_agent_executions.workflow_id",
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

const MIGRATIONS: &str = "SELECT version || name || checksum || applied_at \
    FROM k1_schema_migrations ORDER BY version";

async fn opening_again_changes_nothing_and_says_nothing(bed: Bed) {
    let (events, notes) = notes();
    let store = Store::open(&bed.place(), &events).await.unwrap();
    store.record_workflow(NewWorkflow::new("a")).await.unwrap();
    let before = bed.column(MIGRATIONS);
    for _ in 0..2 {
        Store::open(&bed.place(), &events).await.unwrap();
    }
    assert_eq!(bed.column(MIGRATIONS), before);
    assert_eq!(before.len(), usize::try_from(latest_version()).unwrap());
    assert_eq!(ids(&all(&store).await), ["a"]);
    assert_eq!(*notes.lock().unwrap(), Vec::<String>::new());
}

async fn a_store_that_is_behind_is_brought_up_to_date_and_says_so(bed: Bed) {
    let store = bed.open().await;
    store.record_workflow(NewWorkflow::new("a")).await.unwrap();
    drop(store);
    bed.run("DROP VIEW k1_workflow_summary; DELETE FROM k1_schema_migrations WHERE version > 1");

    let error = Store::open_read_only(&bed.place()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing);
    assert!(error.to_string().contains("schema version 1"), "{error}");

    let (events, notes) = notes();
    let store = Store::open_for_reading(&bed.place(), &events)
        .await
        .unwrap();
    assert_eq!(ids(&all(&store).await), ["a"]);
    assert_eq!(bed.indexed(), INDEXED, "no index is made twice");
    let notes = notes.lock().unwrap();
    assert_eq!(notes.len(), 1);
    assert!(notes[0].contains("from schema version 1 to 3"), "{notes:?}");
}

async fn eight_opens_at_once_make_one_store(bed: Bed) {
    let barrier = Arc::new(Barrier::new(8));
    let threads: Vec<_> = (0..8)
        .map(|n| {
            let (place, barrier) = (bed.place(), barrier.clone());
            // A runtime each, so that nothing is shared but the database, as among processes.
            std::thread::spawn(move || {
                runtime().block_on(async {
                    barrier.wait();
                    let store = Store::open(&place, &Events::silent()).await?;
                    store
                        .record_workflow(NewWorkflow::new(format!("w{n}")))
                        .await
                })
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap().unwrap();
    }
    let store = Store::open_read_only(&bed.place()).await.unwrap();
    assert_eq!(store.counts().await.unwrap().workflows, 8);
    assert_eq!(
        bed.column("SELECT version FROM k1_schema_migrations ORDER BY version"),
        ["1", "2", "3"]
    );
    assert_eq!(bed.indexed(), INDEXED);
}

async fn a_newer_store_is_refused_and_left_alone(bed: Bed) {
    bed.open().await;
    bed.run("INSERT INTO k1_schema_migrations (version, name, checksum) VALUES (99, 'x', 'y')");
    let before = bed.column(MIGRATIONS);
    let events = Events::silent();
    for error in [
        Store::open(&bed.place(), &events).await.unwrap_err(),
        Store::open_read_only(&bed.place()).await.unwrap_err(),
        Store::open_for_reading(&bed.place(), &events)
            .await
            .unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Missing);
        let text = error.to_string();
        assert!(text.contains("schema version 99"), "{text}");
        assert!(
            text.contains(&format!("version {}", latest_version())),
            "{text}"
        );
        assert!(error.hint_text().unwrap().contains("Upgrade k1ops"));
    }
    assert_eq!(bed.column(MIGRATIONS), before);
}

async fn a_migration_with_another_text_is_refused(bed: Bed) {
    bed.open().await;
    bed.run("UPDATE k1_schema_migrations SET checksum = 'other' WHERE version = 2");
    let error = Store::open(&bed.place(), &Events::silent())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadData);
    assert!(
        error.to_string().contains("migration 2 (indexes)"),
        "{error}"
    );
}

async fn a_place_without_a_store_is_missing_and_stays_so(bed: Bed) {
    let events = Events::silent();
    for error in [
        Store::open_read_only(&bed.place()).await.unwrap_err(),
        Store::open_for_reading(&bed.place(), &events)
            .await
            .unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
        assert!(error.hint_text().is_some());
    }
    match bed.place() {
        Place::Sqlite(path) => assert!(!path.exists()),
        Place::Postgres(_) => assert_eq!(
            bed.column("SELECT relname FROM pg_class WHERE relname LIKE 'k1%'"),
            Vec::<String>::new()
        ),
    }
}

async fn reading_only_cannot_write(bed: Bed) {
    bed.open().await;
    let store = Store::open_read_only(&bed.place()).await.unwrap();
    store
        .record_workflow(NewWorkflow::new("a"))
        .await
        .unwrap_err();
    assert_eq!(store.counts().await.unwrap(), Counts::default());
}

async fn the_summary_does_not_multiply_executions_by_gates(bed: Bed) {
    let store = bed.open().await;
    let id = store.record_workflow(NewWorkflow::new("a")).await.unwrap();
    for (status, start, micros) in [
        (AgentStatus::Completed, "2026-01-01T00:00:01Z", 500_000),
        (AgentStatus::Completed, "2026-01-01T00:00:00.25Z", 1),
        (AgentStatus::Failed, "2026-01-01T00:00:02Z", 1_250_001),
        (AgentStatus::TimedOut, "2026-01-01T00:00:02Z", 3),
        (AgentStatus::Canceled, "2026-01-01T00:00:02Z", 3),
    ] {
        execute(&store, id, status, start, micros).await;
    }
    for (passed, critical) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut gate = NewGate::new(id, "task", "coverage", passed);
        gate.critical = critical;
        store.record_gate(gate).await.unwrap();
    }
    store
        .record_metric(NewMetric::new(id, "tokens", 1.0))
        .await
        .unwrap();
    let [summary] = &all(&store).await[..] else {
        panic!("one workflow, one row")
    };
    assert_eq!(
        (
            summary.total_tasks,
            summary.completed_tasks,
            summary.failed_tasks
        ),
        (5, 2, 2)
    );
    assert_eq!(
        (
            summary.total_quality_gates,
            summary.passed_quality_gates,
            summary.critical_failures
        ),
        (4, 2, 1)
    );
    assert_eq!(
        summary.workflow_started,
        Some(at("2026-01-01T00:00:00.25Z"))
    );
    assert_eq!(
        summary.workflow_completed,
        Some(at("2026-01-01T00:00:03.250001Z"))
    );
    assert_eq!(summary.duration_seconds, Some(3.000_001));
    let counts = store.counts().await.unwrap();
    assert_eq!(
        counts,
        Counts {
            workflows: 1,
            metrics: 1,
            gates: 4,
            agent_executions: 5
        }
    );
}

async fn a_workflow_without_anything_has_zeroes_and_no_times(bed: Bed) {
    let store = bed.open().await;
    let mut workflow = NewWorkflow::new("a");
    workflow.created_at = at("2026-01-01T00:00:00.123456Z");
    store.record_workflow(workflow.clone()).await.unwrap();
    let expected = WorkflowSummary {
        workflow_id: workflow.workflow_id,
        conductor_execution_id: "a".into(),
        created_at: Some(workflow.created_at),
        source: Some("MCP".into()),
        total_tasks: 0,
        completed_tasks: 0,
        failed_tasks: 0,
        total_quality_gates: 0,
        passed_quality_gates: 0,
        critical_failures: 0,
        workflow_started: None,
        workflow_completed: None,
        duration_seconds: None,
    };
    assert_eq!(all(&store).await, [expected]);
}

async fn a_running_agent_has_no_end(bed: Bed) {
    let store = bed.open().await;
    let id = store.record_workflow(NewWorkflow::new("a")).await.unwrap();
    store
        .start_agent_execution(AgentStart::new(id, "t", "coder"))
        .await
        .unwrap();
    let summary = &all(&store).await[0];
    assert_eq!((summary.total_tasks, summary.completed_tasks), (1, 0));
    assert!(summary.workflow_started.is_some());
    assert_eq!(summary.workflow_completed, None);
    assert_eq!(summary.duration_seconds, None);
    assert_eq!(
        bed.column("SELECT status FROM k1_agent_executions"),
        ["RUNNING"]
    );
}

async fn filters_and_order(bed: Bed) {
    let store = bed.open().await;
    let mut made = Vec::new();
    for (name, day, source) in [("a", 1, "MCP"), ("b", 3, "CLI"), ("c", 2, "MCP")] {
        let mut workflow = NewWorkflow::new(name);
        workflow.created_at = at(&format!("2026-01-0{day}T00:00:00Z"));
        workflow.source = source.into();
        made.push(store.record_workflow(workflow).await.unwrap());
    }
    let ask = async |filter: SummaryFilter| {
        let found = store.workflow_summaries(filter).await.unwrap();
        ids(&found).concat()
    };
    let none = SummaryFilter::default;
    assert_eq!(ask(none()).await, "bca");
    let limit = Some(2);
    assert_eq!(ask(SummaryFilter { limit, ..none() }).await, "bc");
    for (since, expected) in [
        ("2026-01-02T00:00:00Z", "bc"),
        ("2026-01-02T00:00:00.000001Z", "b"),
    ] {
        let since = Some(at(since));
        assert_eq!(ask(SummaryFilter { since, ..none() }).await, expected);
    }
    let source = Some("MCP".to_owned());
    assert_eq!(ask(SummaryFilter { source, ..none() }).await, "ca");
    for (workflow, expected) in [
        ("c", "c"),
        (&*made[0].to_string(), "a"),
        (&*made[0].to_string().to_uppercase(), "a"),
        ("nosuch", ""),
        ("' OR true --", ""),
    ] {
        let workflow = Some(workflow.to_owned());
        assert_eq!(ask(SummaryFilter { workflow, ..none() }).await, expected);
    }
}

async fn deleting_a_workflow_takes_what_belongs_to_it(bed: Bed) {
    let store = bed.open().await;
    for name in ["a", "b"] {
        let id = store.record_workflow(NewWorkflow::new(name)).await.unwrap();
        let metric = NewMetric::new(id, "tokens", 1.0);
        store.record_metric(metric).await.unwrap();
        let gate = NewGate::new(id, "t", "g", true);
        store.record_gate(gate).await.unwrap();
        execute(
            &store,
            id,
            AgentStatus::Completed,
            "2026-01-01T00:00:00Z",
            1,
        )
        .await;
    }
    // rusqlite's bundled library has foreign keys on by default; say so for any other client.
    let pragma = match bed {
        Bed::Sqlite(_) => "PRAGMA foreign_keys = on; ",
        Bed::Postgres(_) => "",
    };
    bed.run(&format!(
        "{pragma}DELETE FROM k1_workflow_metadata WHERE conductor_execution_id = 'a'"
    ));
    let counts = store.counts().await.unwrap();
    assert_eq!(
        counts,
        Counts {
            workflows: 1,
            metrics: 1,
            gates: 1,
            agent_executions: 1
        }
    );
    assert_eq!(ids(&all(&store).await), ["b"]);
}

async fn what_cannot_be_stored_alike_is_refused(bed: Bed) {
    let store = bed.open().await;
    let id = store.record_workflow(NewWorkflow::new("a")).await.unwrap();

    let error = store
        .record_workflow(NewWorkflow::new("a"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("\"a\""), "{error}");

    let with = |change: fn(&mut NewWorkflow)| {
        let mut workflow = NewWorkflow::new("b");
        change(&mut workflow);
        workflow
    };
    for wrong in [
        with(|w| w.conductor_execution_id = "ü".repeat(256)),
        with(|w| w.user_id = Some("a\0b".into())),
        with(|w| w.tags = Some(serde_json::json!({"a": ["x\0"]}))),
        with(|w| w.custom_metadata = Some(serde_json::json!({"a\0": 1}))),
        with(|w| w.created_at = DateTime::<Utc>::MAX_UTC),
        with(|w| w.created_at = DateTime::<Utc>::MIN_UTC),
    ] {
        let error = store.record_workflow(wrong.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadData, "{wrong:?}");
    }
    for wrong in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let metric = NewMetric::new(id, "m", wrong);
        let error = store.record_metric(metric).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadData);
        let mut gate = NewGate::new(id, "t", "g", true);
        gate.actual = Some(wrong);
        assert_eq!(
            store.record_gate(gate).await.unwrap_err().kind(),
            ErrorKind::BadData
        );
    }
    let longest = NewWorkflow::new("ü".repeat(255));
    store.record_workflow(longest).await.unwrap();
    assert_eq!(store.counts().await.unwrap().workflows, 2);
}

async fn what_belongs_to_nothing_is_refused(bed: Bed) {
    let store = bed.open().await;
    let nobody = Uuid::new_v4();
    let errors = [
        store
            .record_metric(NewMetric::new(nobody, "m", 1.0))
            .await
            .unwrap_err(),
        store
            .record_gate(NewGate::new(nobody, "t", "g", true))
            .await
            .unwrap_err(),
        store
            .start_agent_execution(AgentStart::new(nobody, "t", "coder"))
            .await
            .unwrap_err(),
        store
            .finish_agent_execution(nobody, AgentFinish::new(AgentStatus::Completed))
            .await
            .unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Missing);
        assert!(error.to_string().contains(&nobody.to_string()), "{error}");
    }
    assert_eq!(store.counts().await.unwrap(), Counts::default());
}

async fn texts_and_nulls_survive(bed: Bed) {
    let store = bed.open().await;
    let text = "it's \"quoted\" \\ 100% ; -- Ünïcödé 漢字 🦀\n\ttab\r\u{1b}[31m";
    let mut workflow = NewWorkflow::new(text);
    workflow.source = text.into();
    workflow.user_id = Some(text.into());
    workflow.tags = Some(serde_json::json!({ text: text, "n": [1, null, true] }));
    let id = store.record_workflow(workflow).await.unwrap();
    let start = AgentStart::new(id, text, text);
    let execution = store.start_agent_execution(start).await.unwrap();
    let mut finish = AgentFinish::new(AgentStatus::Completed);
    finish.exit_code = Some(-1);
    finish.stdout_log = Some(text.into());
    finish.stderr_log = Some(String::new());
    store
        .finish_agent_execution(execution, finish)
        .await
        .unwrap();

    let summary = &all(&store).await[0];
    assert_eq!(summary.conductor_execution_id, text);
    assert_eq!(summary.source.as_deref(), Some(text));
    let tags = match bed {
        Bed::Postgres(_) => "SELECT tags::text FROM k1_workflow_metadata",
        Bed::Sqlite(_) => "SELECT tags FROM k1_workflow_metadata",
    };
    let tags: serde_json::Value = serde_json::from_str(&bed.column(tags)[0]).unwrap();
    assert_eq!(
        tags,
        serde_json::json!({ text: text, "n": [1, null, true] })
    );
    for (column, table, expected) in [
        ("user_id", "k1_workflow_metadata", text),
        ("custom_metadata", "k1_workflow_metadata", "NULL"),
        ("task_id", "k1_agent_executions", text),
        ("exit_code", "k1_agent_executions", "-1"),
        ("stdout_log", "k1_agent_executions", text),
        ("stderr_log", "k1_agent_executions", ""),
        ("result_file_path", "k1_agent_executions", "NULL"),
        ("metrics", "k1_agent_executions", "NULL"),
    ] {
        let found = bed.column(&format!("SELECT {column} FROM {table}"));
        assert_eq!(found, [expected], "{column}");
    }
}

async fn microseconds_and_numbers_survive(bed: Bed) {
    let store = bed.open().await;
    // Before 1970, across a leap day, and cut, not rounded, to the microsecond.
    let moments = [
        "1969-12-31T23:59:59.999999Z",
        "1969-12-31T23:59:59.999999999Z",
        "2024-02-29T23:59:59.000001Z",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999999Z",
    ];
    for moment in moments {
        let mut workflow = NewWorkflow::new(moment);
        workflow.created_at = at(moment);
        let id = store.record_workflow(workflow).await.unwrap();
        let start = "1969-12-31T23:59:59.999999Z";
        execute(
            &store,
            id,
            AgentStatus::Completed,
            start,
            63_072_000_000_002,
        )
        .await;
    }
    for summary in all(&store).await {
        let asked = at(&summary.conductor_execution_id);
        let expected = DateTime::from_timestamp_micros(asked.timestamp_micros()).unwrap();
        assert_eq!(summary.created_at, Some(expected));
        assert_eq!(summary.duration_seconds, Some(63_072_000.000_002));
    }
    let id = store.record_workflow(NewWorkflow::new("m")).await.unwrap();
    let numbers = [0.1, -0.0, 123_456_789.123_456_79, 1e300, 5e-324, 42.0];
    for (n, number) in numbers.iter().enumerate() {
        let metric = NewMetric::new(id, format!("{n}"), *number);
        store.record_metric(metric).await.unwrap();
    }
    let found: Vec<f64> = bed
        .column("SELECT metric_value FROM k1_execution_metrics ORDER BY metric_name")
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    assert_eq!(found, numbers);
    assert!(found[1].is_sign_positive());
}

async fn defaults_are_made_by_the_database_in_utc(bed: Bed) {
    if let Bed::Postgres(database) = &bed {
        database.run(&format!(
            "ALTER DATABASE {} SET timezone = 'Asia/Tokyo'",
            database.name
        ));
    }
    let store = bed.open().await;
    let id = match bed {
        Bed::Postgres(_) => "DEFAULT",
        Bed::Sqlite(_) => "'0a7b9c9e-3f57-4a52-9a3c-0d5f3f9e1b11'",
    };
    let before = Utc::now() - TimeDelta::seconds(1);
    bed.run(&format!(
        "INSERT INTO k1_workflow_metadata (workflow_id, conductor_execution_id) VALUES ({id}, 'a')"
    ));
    let after = Utc::now() + TimeDelta::seconds(1);
    let summary = &all(&store).await[0];
    assert_eq!(summary.source.as_deref(), Some("MCP"));
    let created = summary.created_at.unwrap();
    assert!(before < created && created < after, "{created}");
}

/// Every row of every K1 table of a PostgreSQL database.
fn rows(bed: &Bed) -> Vec<String> {
    TABLES
        .iter()
        .flat_map(|table| bed.column(&format!("SELECT t::text FROM {table} t ORDER BY 1")))
        .collect()
}

fn original() -> Bed {
    let database = scratch_database();
    database.run(include_str!("fixtures/original-init-db.sql"));
    Bed::Postgres(database)
}

#[test]
fn the_original_store_is_taken_over_without_loss() {
    let bed = original();
    // What others have built on the view, and may do with it, stays.
    bed.run(
        "CREATE VIEW built_on_it AS SELECT conductor_execution_id, total_tasks
            FROM k1_workflow_summary;
        GRANT SELECT ON k1_workflow_summary TO PUBLIC",
    );
    let total = "SELECT total_tasks FROM built_on_it WHERE conductor_execution_id = 'exec-1'";
    assert_eq!(bed.column(total), ["6"], "the original view multiplies");
    let (before, indexed) = (rows(&bed), bed.indexed());
    assert_eq!(before.len(), 8);

    let (events, notes) = notes();
    let summaries = runtime().block_on(async {
        let error = Store::open_read_only(&bed.place()).await.unwrap_err();
        assert!(error.to_string().contains("schema version 0"), "{error}");
        let store = Store::open_for_reading(&bed.place(), &events)
            .await
            .unwrap();
        all(&store).await
    });

    assert!(notes.lock().unwrap()[0].contains("took over"));
    assert_eq!(rows(&bed), before, "every row is as it was");
    assert_eq!(bed.indexed(), indexed, "no column is indexed twice");
    assert_eq!(bed.column(total), ["2"]);
    assert_eq!(
        bed.column("SELECT relacl::text FROM pg_class WHERE relname = 'k1_workflow_summary'")
            .concat()
            .matches("=r/")
            .count(),
        1
    );
    assert_eq!(ids(&summaries), ["INIT", "exec-1"]);
    let exec = &summaries[1];
    assert_eq!(exec.created_at, Some(at("2025-11-01T10:00:00.123456Z")));
    assert_eq!(
        (exec.total_tasks, exec.completed_tasks, exec.failed_tasks),
        (2, 1, 1)
    );
    assert_eq!(
        (exec.total_quality_gates, exec.passed_quality_gates),
        (3, 2)
    );
    assert_eq!(exec.critical_failures, 1);
    assert_eq!(exec.duration_seconds, Some(61.5));
}

#[test]
fn an_original_store_that_lacks_parts_gets_them() {
    let bed = original();
    bed.run(
        "DROP VIEW k1_workflow_summary;
        -- A view with fewer columns cannot be replaced in place.
        CREATE VIEW k1_workflow_summary AS SELECT source, workflow_id FROM k1_workflow_metadata;
        ALTER TABLE k1_workflow_metadata DROP COLUMN custom_metadata;
        ALTER TABLE k1_quality_gates DROP COLUMN critical, DROP COLUMN details;
        DROP INDEX idx_agents_status",
    );
    let gates = bed.column("SELECT gate_id FROM k1_quality_gates ORDER BY 1");
    let summaries = runtime().block_on(async { all(&bed.open().await).await });
    assert_eq!(ids(&summaries), ["INIT", "exec-1"]);
    assert_eq!(bed.indexed(), INDEXED);
    assert_eq!(
        bed.column("SELECT gate_id FROM k1_quality_gates ORDER BY 1"),
        gates
    );
    assert_eq!(
        bed.columns_of("k1_quality_gates")[8..].join(" "),
        "critical details"
    );
}

#[test]
fn a_takeover_that_cannot_be_done_leaves_everything_as_it_was() {
    let bed = original();
    bed.run("ALTER TABLE k1_quality_gates DROP COLUMN passed CASCADE");
    let before = rows(&bed);
    let error = runtime()
        .block_on(Store::open(&bed.place(), &Events::silent()))
        .unwrap_err();
    let causes = error.causes().concat();
    assert!(
        error.to_string().contains("migration 1 (tables)"),
        "{error}"
    );
    assert!(causes.contains("passed"), "{causes}");
    assert_eq!(rows(&bed), before);
    assert_eq!(
        bed.column("SELECT to_regclass('k1_schema_migrations')::text"),
        ["NULL"]
    );
}

#[test]
fn a_login_that_may_not_create_extensions_gets_ids_from_the_server() {
    let database = scratch_database();
    let role = format!("{}_plain", database.name);
    support::on_server(&format!(
        "DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN PASSWORD 'plain'"
    ));
    database.run(&format!("GRANT CREATE ON SCHEMA public TO {role}"));
    let server = support::address(&database.url);
    let url = format!(
        "postgres://{role}:plain@{}:{}/{}",
        server.host(),
        server.port(),
        database.name
    );
    let place = Place::Postgres(Box::new(support::address(&url)));
    let counts = runtime().block_on(async {
        let store = Store::open(&place, &Events::silent()).await.unwrap();
        database.run("INSERT INTO k1_workflow_metadata (conductor_execution_id) VALUES ('a')");
        store.counts().await.unwrap()
    });
    assert_eq!(counts.workflows, 1);
    database.run(&format!("DROP OWNED BY {role}"));
    support::on_server(&format!("DROP ROLE {role}"));
}

#[test]
fn a_new_store_makes_its_ids_with_the_extension_as_the_original_does() {
    let bed = Bed::postgres();
    runtime().block_on(bed.open());
    let defaults = bed.column(
        "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef
        WHERE pg_get_expr(adbin, adrelid) LIKE '%uuid%'",
    );
    assert_eq!(defaults, ["uuid_generate_v4()"; 4]);
}

#[test]
fn a_database_that_is_not_there_is_missing() {
    let database = scratch_database();
    let address = database.address().with_database("k1ops_test_nosuch");
    let place = Place::Postgres(Box::new(address));
    let error = runtime()
        .block_on(Store::open(&place, &Events::silent()))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing);
}

#[test]
fn an_sqlite_store_is_private_and_in_wal_mode() {
    let bed = Bed::sqlite();
    let store = runtime().block_on(bed.open());
    let Place::Sqlite(path) = bed.place() else {
        unreachable!("an SQLite bed")
    };
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(bed.column("PRAGMA journal_mode"), ["wal"]);
    drop(store);
}

#[test]
fn a_file_that_is_no_database_is_bad_data_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("k1.db");
    let garbage = b"not a database at all, but long enough to be looked at".repeat(40);
    std::fs::write(&path, &garbage).unwrap();
    let place = Place::Sqlite(path.clone());
    for error in [
        runtime()
            .block_on(Store::open(&place, &Events::silent()))
            .unwrap_err(),
        runtime()
            .block_on(Store::open_read_only(&place))
            .unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::BadData, "{error}");
    }
    assert_eq!(std::fs::read(&path).unwrap(), garbage);
}

#[test]
fn sqlite_refuses_what_other_programs_write_wrongly() {
    let bed = Bed::sqlite();
    runtime().block_on(bed.open());
    let Place::Sqlite(path) = bed.place() else {
        unreachable!("an SQLite bed")
    };
    let db = rusqlite::Connection::open(path).unwrap();
    let insert = "INSERT INTO k1_workflow_metadata (workflow_id, conductor_execution_id, ";
    let id = "'0a7b9c9e-3f57-4a52-9a3c-0d5f3f9e1b11', 'a', ";
    db.execute_batch(&format!(
        "{insert}created_at) VALUES ({id}'2026-01-01T00:00:00.000000Z')"
    ))
    .unwrap();
    for (column, wrong) in [
        ("created_at", "'2026-01-01 00:00:00'"),
        ("created_at", "'2026-01-01T00:00:00Z'"),
        ("tags", "'{not json'"),
        ("user_id", "x'00'"),
    ] {
        let other = id.replace("'0a7", "'1a7").replace("'a'", "'b'");
        let sql = format!("{insert}{column}) VALUES ({other}{wrong})");
        assert!(db.execute_batch(&sql).is_err(), "{sql}");
    }
}

/// What a test records for one workflow.
#[derive(Debug, Clone)]
struct Generated {
    created: i64,
    source: String,
    executions: Vec<(i64, Option<(i64, AgentStatus)>)>,
    gates: Vec<(bool, bool)>,
}

/// Microseconds since 1970, from 1900 to 2100.
fn micros() -> impl Strategy<Value = i64> {
    -2_208_988_800_000_000..4_102_444_800_000_000_i64
}

fn generated() -> impl Strategy<Value = Generated> {
    let status = prop_oneof![
        Just(AgentStatus::Completed),
        Just(AgentStatus::Failed),
        Just(AgentStatus::TimedOut),
        Just(AgentStatus::Canceled),
        Just(AgentStatus::Running),
    ];
    let execution = (micros(), proptest::option::of((micros(), status)));
    (
        // Few enough moments that some workflows share one.
        prop_oneof![micros(), Just(0), Just(1)],
        prop_oneof![Just("MCP".to_owned()), "[^\\x00]{0,12}"],
        proptest::collection::vec(execution, 0..5),
        proptest::collection::vec(any::<(bool, bool)>(), 0..5),
    )
        .prop_map(|(created, source, executions, gates)| Generated {
            created,
            source,
            executions,
            gates,
        })
}

async fn record(store: &Store, n: usize, data: &Generated) {
    let time = |micros| DateTime::from_timestamp_micros(micros).unwrap();
    let mut workflow = NewWorkflow::new(format!("w{n}"));
    // The same ids in both, in an order that is not that of the creation.
    workflow.workflow_id = Uuid::from_u128(0x1234_5678_9abc_def1_u128.rotate_left(7 * n as u32));
    workflow.created_at = time(data.created);
    workflow.source.clone_from(&data.source);
    let id = store.record_workflow(workflow).await.unwrap();
    for (start, end) in &data.executions {
        let mut begin = AgentStart::new(id, "t", "coder");
        begin.started_at = time(*start);
        let execution = store.start_agent_execution(begin).await.unwrap();
        if let Some((at, status)) = end {
            let mut finish = AgentFinish::new(*status);
            finish.completed_at = time(*at);
            store
                .finish_agent_execution(execution, finish)
                .await
                .unwrap();
        }
    }
    for (passed, critical) in &data.gates {
        let mut gate = NewGate::new(id, "t", "g", *passed);
        gate.critical = *critical;
        store.record_gate(gate).await.unwrap();
    }
}

#[test]
fn both_stores_answer_the_same_for_the_same_data() {
    let (runtime, beds) = (runtime(), [Bed::postgres(), Bed::sqlite()]);
    let stores = beds.each_ref().map(|bed| runtime.block_on(bed.open()));
    let config = ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(
        data in proptest::collection::vec(generated(), 1..8),
        limit in proptest::option::of(0..9_u32),
        since in proptest::option::of(micros()),
        source in proptest::option::of(Just("MCP".to_owned())),
    )| {
        let filter = SummaryFilter {
            limit,
            since: since.map(|m| DateTime::from_timestamp_micros(m).unwrap()),
            source,
            workflow: None,
        };
        let mut answers = Vec::new();
        for (bed, store) in beds.iter().zip(&stores) {
            bed.run("DELETE FROM k1_workflow_metadata");
            answers.push(runtime.block_on(async {
                for (n, workflow) in data.iter().enumerate() {
                    record(store, n, workflow).await;
                }
                let everything = all(store).await;
                let filtered = store.workflow_summaries(filter.clone()).await.unwrap();
                (everything, filtered, store.counts().await.unwrap())
            }));
        }
        prop_assert_eq!(answers[0].0.len(), data.len());
        prop_assert_eq!(&answers[0], &answers[1]);
    });
}
