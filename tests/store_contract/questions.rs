//! Questions: the same answers from both stores, right by what the server itself computes, by the
//! indexes that were made for them, and in stores of an earlier version too.

use crate::bed::{Bed, at, notes, runtime};
use chrono::{DateTime, TimeDelta, Utc};
use k1ops::error::ErrorKind;
use k1ops::event::Events;
use k1ops::store::query::{Ask, Cell, Question, columns, sortable};
use k1ops::store::{AgentFinish, AgentStart, AgentStatus, NewGate, NewMetric, NewWorkflow, Store};
use proptest::prelude::*;
use uuid::Uuid;

crate::contracts! {
    percentiles_and_trend_are_right,
    nothing_recorded_is_an_empty_answer,
    nulls_stay_apart_from_empty_text,
    a_store_of_the_version_before_gets_the_indexes,
    metrics_are_read_from_their_indexes,
    an_unknown_column_to_sort_by_is_wrong_usage,
}

const QUESTIONS: [Question; 6] = [
    Question::Summary,
    Question::Workflows,
    Question::Gates {
        passed: None,
        critical: false,
    },
    Question::Metrics,
    Question::Agents,
    Question::Tasks { logs: true },
];

async fn answer(store: &Store, ask: &Ask) -> Vec<Vec<Cell>> {
    let rows = store.ask(ask, None).await.unwrap();
    assert_eq!(rows.columns(), columns(ask.question));
    rows.collect().await.unwrap()
}

/// A question at a store that is opened for it alone.
async fn asked(bed: &Bed, ask: &Ask) -> Vec<Vec<Cell>> {
    let store = Store::open_read_only(&bed.place()).await.unwrap();
    answer(&store, ask).await
}

fn cell<'a>(question: Question, row: &'a [Cell], name: &str) -> &'a Cell {
    let position = columns(question).iter().position(|c| c.name == name);
    &row[position.unwrap()]
}

async fn metric(store: &Store, workflow: Uuid, task: Option<&str>, value: Option<f64>, n: i64) {
    let mut metric = NewMetric::new(workflow, "m", 0.0);
    metric.task_id = task.map(str::to_owned);
    metric.value = value;
    metric.unit = Some(format!("unit {n:03}"));
    metric.recorded_at = at("2026-01-01T00:00:00Z") + TimeDelta::seconds(n);
    store.record_metric(metric).await.unwrap();
}

async fn percentiles_and_trend_are_right(bed: Bed) {
    let store = bed.open().await;
    let workflow = store.record_workflow(NewWorkflow::new("w")).await.unwrap();
    // 0 to 100 in an order of its own: what is at a position is the position.
    for n in 0..=100_i64 {
        let value = f64::from(i32::try_from((n * 37) % 101).unwrap());
        metric(&store, workflow, Some("t"), Some(value), n).await;
    }
    metric(&store, workflow, Some("t"), None, 101).await;
    drop(store);
    let rows = asked(&bed, &Ask::new(Question::Metrics)).await;
    assert_eq!(rows.len(), 1);
    let of = |name| cell(Question::Metrics, &rows[0], name);
    assert_eq!(*of("rows"), Cell::Integer(102));
    assert_eq!(*of("count"), Cell::Integer(101));
    for (name, value) in [
        ("average", 50.0),
        ("p50", 50.0),
        ("p95", 95.0),
        ("min", 0.0),
        ("max", 100.0),
    ] {
        assert_eq!(*of(name), Cell::Number(value), "{name}");
    }
    assert_eq!(*of("metric_unit"), Cell::Text("unit 101".into()));
    let Cell::Trend(trend) = of("trend") else {
        panic!("{:?}", of("trend"))
    };
    assert_eq!(trend.len(), 16);
    // The first of 16 spans of 101 seconds holds the seconds 0 to 6.
    let first: i64 = (0..=6).map(|n| (n * 37) % 101).sum();
    let wanted = f64::from(i32::try_from(first).unwrap()) / 7.0;
    assert!((trend[0].unwrap() - wanted).abs() < 1e-9, "{trend:?}");
    if let Bed::Postgres(_) = bed {
        // What the server computes, from the same values shifted so that it must interpolate.
        bed.run("UPDATE k1_execution_metrics SET metric_value = metric_value * metric_value / 7");
        bed.run("DELETE FROM k1_execution_metrics WHERE metric_value > 1400");
        let rows = asked(&bed, &Ask::new(Question::Metrics)).await;
        for (name, share) in [("p50", "0.5"), ("p95", "0.95")] {
            let server = bed.column(&format!(
                "SELECT percentile_cont({share}) WITHIN GROUP (ORDER BY metric_value::float8)
                FROM k1_execution_metrics"
            ));
            let Cell::Number(ours) = cell(Question::Metrics, &rows[0], name) else {
                panic!("{name}")
            };
            let server: f64 = server[0].parse().unwrap();
            assert!((ours - server).abs() < 1e-9, "{name}: {ours} {server}");
        }
    }
}

async fn nothing_recorded_is_an_empty_answer(bed: Bed) {
    bed.open().await;
    for question in QUESTIONS {
        assert!(asked(&bed, &Ask::new(question)).await.is_empty());
    }
}

async fn nulls_stay_apart_from_empty_text(bed: Bed) {
    let store = bed.open().await;
    let workflow = store.record_workflow(NewWorkflow::new("w")).await.unwrap();
    metric(&store, workflow, None, Some(1.0), 1).await;
    metric(&store, workflow, Some(""), Some(3.0), 2).await;
    metric(&store, workflow, Some("only nulls"), None, 3).await;
    bed.run("UPDATE k1_execution_metrics SET recorded_at = NULL WHERE task_id IS NULL");
    drop(store);
    let rows = asked(&bed, &Ask::new(Question::Metrics)).await;
    let of = |name| -> Vec<&Cell> {
        rows.iter()
            .map(|row| cell(Question::Metrics, row, name))
            .collect()
    };
    let text = |text: &str| Cell::Text(text.to_owned());
    assert_eq!(of("task_id"), [&text(""), &text("only nulls"), &Cell::Null]);
    assert_eq!(
        of("p95"),
        [&Cell::Number(3.0), &Cell::Null, &Cell::Number(1.0)]
    );
    assert_eq!(of("trend")[1..], [&Cell::Null, &Cell::Null]);
}

async fn a_store_of_the_version_before_gets_the_indexes(bed: Bed) {
    let store = bed.open().await;
    let workflow = store.record_workflow(NewWorkflow::new("w")).await.unwrap();
    metric(&store, workflow, Some("t"), Some(1.0), 1).await;
    drop(store);
    bed.run(
        "DROP INDEX k1_execution_metrics_by_time_idx;
        DROP INDEX k1_execution_metrics_by_value_idx;
        DELETE FROM k1_schema_migrations WHERE version = 4",
    );
    let (events, notes) = notes();
    let store = Store::open_for_reading(&bed.place(), &events)
        .await
        .unwrap();
    assert!(notes.lock().unwrap()[0].contains("from schema version 3 to 4"));
    assert_eq!(answer(&store, &Ask::new(Question::Metrics)).await.len(), 1);
    let count = "SELECT count(*) FROM k1_execution_metrics";
    assert_eq!(bed.column(count), ["1"]);
    let made = bed.column(match bed {
        Bed::Postgres(_) => {
            "SELECT indexname FROM pg_indexes WHERE indexname LIKE 'k1%_by_%_idx' ORDER BY 1"
        }
        Bed::Sqlite(_) => {
            "SELECT name FROM sqlite_schema WHERE name LIKE 'k1%_by_%_idx' ORDER BY 1"
        }
    });
    assert_eq!(
        made,
        [
            "k1_execution_metrics_by_time_idx",
            "k1_execution_metrics_by_value_idx"
        ]
    );
}

async fn metrics_are_read_from_their_indexes(bed: Bed) {
    bed.open().await;
    let workflow = "00000000-0000-4000-8000-000000000001";
    bed.run(&format!(
        "INSERT INTO k1_workflow_metadata (workflow_id, conductor_execution_id)
        VALUES ('{workflow}', 'w')"
    ));
    let rows = match bed {
        Bed::Postgres(_) => {
            "SELECT gen_random_uuid(), $w$, 't' || n % 7, 'm' || n % 5, n % 1000,
                timestamp '2026-01-01' + n * interval '1 second' FROM generate_series(1, 40000) n"
        }
        Bed::Sqlite(_) => {
            "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 40000)
            SELECT printf('00000000-0000-4000-8000-%012d', n), $w$, 't' || n % 7, 'm' || n % 5,
                n % 1000, strftime('%Y-%m-%dT%H:%M:%S.000000Z', 1767225600 + n, 'unixepoch') FROM s"
        }
    };
    let rows = rows
        .replace("$w$", &format!("'{workflow}'"))
        .replace("gen_random_uuid(), '", "gen_random_uuid(), uuid '");
    bed.run(&format!(
        "INSERT INTO k1_execution_metrics
            (metric_id, workflow_id, task_id, metric_name, metric_value, recorded_at) {rows}"
    ));
    bed.run(match bed {
        Bed::Postgres(_) => "VACUUM ANALYZE k1_execution_metrics",
        Bed::Sqlite(_) => "SELECT 1",
    });
    let store = Store::open_read_only(&bed.place()).await.unwrap();
    let plans = store.plans(&Ask::new(Question::Metrics)).await.unwrap();
    let [groups, percentile, trend] = &plans[..] else {
        panic!("{plans:?}")
    };
    let (groups, percentile, trend) = (groups.concat(), percentile.concat(), trend.concat());
    let covered = match bed {
        Bed::Postgres(_) => "Index Only Scan using ",
        Bed::Sqlite(_) => "USING COVERING INDEX ",
    };
    let by_value = format!("{covered}k1_execution_metrics_by_value_idx");
    let by_time = format!("{covered}k1_execution_metrics_by_time_idx");
    assert!(percentile.contains(&by_value), "{percentile}");
    // The index is in order: nothing is sorted.
    assert!(!percentile.contains("Sort"), "{percentile}");
    assert!(!percentile.contains("TEMP B-TREE"), "{percentile}");
    assert_eq!(trend.matches(&by_time).count(), 16, "{trend}");
    // The groups are read in one pass, wherever the server finds that cheapest.
    if let Bed::Sqlite(_) = bed {
        assert!(
            groups.contains("USING COVERING INDEX k1_execution_metrics_by_"),
            "{groups}"
        );
        assert!(!groups.contains("TEMP B-TREE FOR GROUP BY"), "{groups}");
    }
}

async fn an_unknown_column_to_sort_by_is_wrong_usage(bed: Bed) {
    bed.open().await;
    let store = Store::open_read_only(&bed.place()).await.unwrap();
    let mut ask = Ask::new(Question::Summary);
    ask.sort = Some("1; DROP TABLE k1_quality_gates".into());
    let error = store.ask(&ask, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.hint_text().unwrap().contains("duration_seconds"));
}

/// Its task, when it began, and how it ended if it did.
type Run = (String, i64, Option<(i64, AgentStatus)>);

/// What is recorded for one workflow: metrics, gates and executions, by few enough names that they
/// meet.
#[derive(Debug, Clone)]
struct Recorded {
    source: String,
    metrics: Vec<(Option<String>, String, Option<f64>, i64)>,
    gates: Vec<(String, Option<f64>, bool, bool)>,
    runs: Vec<Run>,
}

fn recorded() -> impl Strategy<Value = Recorded> {
    let name = || prop_oneof![Just("a".to_owned()), Just("B".to_owned()), "[^\\x00]{0,3}"];
    let micros = || prop_oneof![Just(0_i64), 0..4_102_444_800_000_000_i64];
    let value = || proptest::option::of(prop_oneof![-1e3..1e3_f64, Just(0.1), Just(-7.0)]);
    let status = prop_oneof![
        Just(AgentStatus::Completed),
        Just(AgentStatus::Failed),
        Just(AgentStatus::Canceled),
    ];
    let metric = (proptest::option::of(name()), name(), value(), micros());
    let gate = (name(), value(), any::<bool>(), any::<bool>());
    let run = (name(), micros(), proptest::option::of((micros(), status)));
    (
        prop_oneof![Just("MCP".to_owned()), name()],
        proptest::collection::vec(metric, 0..12),
        proptest::collection::vec(gate, 0..4),
        proptest::collection::vec(run, 0..4),
    )
        .prop_map(|(source, metrics, gates, runs)| Recorded {
            source,
            metrics,
            gates,
            runs,
        })
}

fn moment(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap()
}

async fn record(store: &Store, n: u128, data: &Recorded) {
    let mut workflow = NewWorkflow::new(format!("w{n}"));
    workflow.workflow_id = Uuid::from_u128(n + 1);
    workflow.created_at = moment(i64::try_from(n % 2).unwrap());
    workflow.source.clone_from(&data.source);
    workflow.tags = Some(serde_json::json!({"b": [1, 2.5], "a": "ü|"}));
    let id = store.record_workflow(workflow).await.unwrap();
    for (task, name, value, micros) in &data.metrics {
        let mut metric = NewMetric::new(id, name.clone(), 0.0);
        metric.task_id.clone_from(task);
        metric.value = *value;
        metric.unit = Some("ms".into());
        metric.recorded_at = moment(*micros);
        store.record_metric(metric).await.unwrap();
    }
    for (name, actual, passed, critical) in &data.gates {
        let mut gate = NewGate::new(id, name.clone(), name.clone(), *passed);
        gate.actual = *actual;
        gate.critical = *critical;
        gate.checked_at = moment(5);
        store.record_gate(gate).await.unwrap();
    }
    for (task, start, end) in &data.runs {
        let mut begin = AgentStart::new(id, task.clone(), "coder");
        begin.started_at = moment(*start);
        let run = store.start_agent_execution(begin).await.unwrap();
        if let Some((at, status)) = end {
            let mut finish = AgentFinish::new(*status);
            finish.completed_at = moment(*at);
            finish.stdout_log = Some(format!("out of {task}"));
            store.finish_agent_execution(run, finish).await.unwrap();
        }
    }
}

/// Rows without the ids that each store makes for itself, in an order that does not depend on them.
fn without_ids(question: Question, rows: Vec<Vec<Cell>>) -> Vec<String> {
    let own = ["gate_id", "execution_id"];
    let keep: Vec<bool> = columns(question)
        .iter()
        .map(|column| !own.contains(&&*column.name))
        .collect();
    let ordered = keep.iter().all(|keep| *keep);
    let mut shown: Vec<String> = rows
        .into_iter()
        .map(|row| {
            let kept = row.into_iter().zip(&keep).filter(|(_, keep)| **keep);
            format!("{:?}", kept.map(|(cell, _)| cell).collect::<Vec<_>>())
        })
        .collect();
    if !ordered {
        shown.sort();
    }
    shown
}

#[test]
fn both_stores_answer_every_question_the_same() {
    let (runtime, beds) = (runtime(), [Bed::postgres(), Bed::sqlite()]);
    let stores = beds.each_ref().map(|bed| runtime.block_on(bed.open()));
    let config = ProptestConfig {
        cases: 12,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(
        data in proptest::collection::vec(recorded(), 1..5),
        since in proptest::option::of(0..4_102_444_800_000_000_i64),
        task in proptest::option::of(Just("a".to_owned())),
        source in proptest::option::of(Just("MCP".to_owned())),
        workflow in proptest::option::of(Just("w0".to_owned())),
        sort in 0..20_usize,
        reverse in any::<bool>(),
    )| {
        let mut answers = Vec::new();
        for (bed, store) in beds.iter().zip(&stores) {
            bed.run("DELETE FROM k1_workflow_metadata");
            answers.push(runtime.block_on(async {
                for (n, workflow) in (0..).zip(&data) {
                    record(store, n, workflow).await;
                }
                let mut shown = Vec::new();
                for question in QUESTIONS {
                    let mut ask = Ask::new(question);
                    shown.push(without_ids(question, asked(bed, &ask).await));
                    ask.since = since.map(moment);
                    ask.task.clone_from(&task);
                    ask.source.clone_from(&source);
                    ask.workflow.clone_from(&workflow);
                    let by = sortable(question);
                    ask.sort = Some(by[sort % by.len()].clone());
                    ask.reverse = reverse;
                    shown.push(without_ids(question, asked(bed, &ask).await));
                }
                shown
            }));
        }
        prop_assert_eq!(&answers[0], &answers[1]);
        prop_assert_eq!(answers[0][0].len(), data.len());
    });
    // The store that was written to is usable still.
    let events = Events::silent();
    runtime
        .block_on(Store::open(&beds[0].place(), &events))
        .unwrap();
}
