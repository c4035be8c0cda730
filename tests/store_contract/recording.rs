//! Recording and asking.

use crate::bed::{Bed, all, at, execute, ids};
use chrono::{DateTime, TimeDelta, Utc};
use k1ops::error::ErrorKind;
use k1ops::store::{
    AgentFinish, AgentStart, AgentStatus, Counts, NewGate, NewMetric, NewWorkflow, SummaryFilter,
    WorkflowSummary,
};
use uuid::Uuid;

crate::contracts! {
    the_summary_does_not_multiply_executions_by_gates,
    a_workflow_without_anything_has_zeroes_and_no_times,
    a_running_agent_has_no_end,
    filters_and_order,
    deleting_a_workflow_takes_what_belongs_to_it,
    what_cannot_be_stored_alike_is_refused,
    what_belongs_to_nothing_is_refused,
    a_workflow_is_ensured_once,
    texts_and_nulls_survive,
    microseconds_and_numbers_survive,
    defaults_are_made_by_the_database_in_utc,
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

async fn a_workflow_is_ensured_once(bed: Bed) {
    let store = bed.open().await;
    let first = store.ensure_workflow(NewWorkflow::new("a")).await.unwrap();
    let again = store.ensure_workflow(NewWorkflow::new("a")).await.unwrap();
    let other = store.ensure_workflow(NewWorkflow::new("b")).await.unwrap();
    assert_eq!(first, again);
    assert_ne!(first, other);
    assert_eq!(store.counts().await.unwrap().workflows, 2);
}
