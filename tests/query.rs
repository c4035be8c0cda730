//! `k1ops query` as a user runs it, over PostgreSQL and SQLite.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may stop at the first surprise, their helpers too"
)]

mod support;

use chrono::{DateTime, TimeDelta, Utc};
use k1ops::event::Events;
use k1ops::store::{
    AgentFinish, AgentStart, AgentStatus, NewGate, NewWorkflow, Place, Store, latest_version,
};
use predicates::prelude::*;
use support::{Sandbox, ScratchDatabase, address, scratch_database};
use uuid::Uuid;

/// A sandbox whose stack keeps its K1 tables in an SQLite file.
fn on_sqlite() -> (Sandbox, Place) {
    let sandbox = Sandbox::new("");
    let place = Place::Sqlite(sandbox.k1_db());
    (sandbox, place)
}

/// A sandbox whose stack keeps its K1 tables in PostgreSQL.
fn on_postgres() -> (Sandbox, Place, ScratchDatabase) {
    let database = scratch_database();
    let sandbox = Sandbox::new(&format!("[database]\nurl = '{}'\n", database.url));
    let place = Place::Postgres(Box::new(database.address()));
    (sandbox, place, database)
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

async fn open(place: &Place) -> Store {
    Store::open(place, &Events::silent()).await.unwrap()
}

/// Two workflows with moments that do not depend on the clock.
fn fill(place: &Place) {
    block_on(async {
        let store = open(place).await;
        let time: DateTime<Utc> = "2026-01-02T03:04:05.678901Z".parse().unwrap();
        for (n, source) in [(1, "MCP"), (2, "CLI")] {
            let mut workflow = NewWorkflow::new(format!("exec-{n}, \"quoted\""));
            workflow.workflow_id = Uuid::from_u128(n);
            workflow.source = source.into();
            workflow.created_at = time + TimeDelta::days(i64::try_from(n).unwrap());
            store.record_workflow(workflow).await.unwrap();
        }
        let id = Uuid::from_u128(1);
        for (status, seconds) in [(AgentStatus::Completed, 10), (AgentStatus::Failed, 185)] {
            let mut start = AgentStart::new(id, "task", "coder");
            start.started_at = time;
            let execution = store.start_agent_execution(start).await.unwrap();
            let mut finish = AgentFinish::new(status);
            finish.completed_at = time + TimeDelta::seconds(seconds) + TimeDelta::microseconds(1);
            store
                .finish_agent_execution(execution, finish)
                .await
                .unwrap();
        }
        for passed in [true, false] {
            let mut gate = NewGate::new(id, "task", "coverage", passed);
            gate.critical = true;
            store.record_gate(gate).await.unwrap();
        }
    });
}

fn stdout(sandbox: &Sandbox, arguments: &[&str]) -> String {
    let output = sandbox
        .k1ops(arguments)
        .assert()
        .code(0)
        .get_output()
        .clone();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn both_stores_give_the_same_table_json_and_csv() {
    let (lite, lite_place) = on_sqlite();
    let (post, post_place, _database) = on_postgres();
    fill(&lite_place);
    fill(&post_place);
    for arguments in [
        &["query", "summary"][..],
        &["query", "summary", "--csv"],
        &["query", "summary", "--format", "csv", "--source", "MCP"],
        &["query", "summary", "--limit", "1"],
        &["query", "summary", "--since", "2026-01-04", "--csv"],
        &["query", "summary", "--workflow", "exec-1, \"quoted\""],
    ] {
        assert_eq!(stdout(&lite, arguments), stdout(&post, arguments));
    }
    let json = |sandbox: &Sandbox, arguments: &[&str]| {
        let text = stdout(sandbox, arguments);
        let mut answer: serde_json::Value = serde_json::from_str(&text).unwrap();
        let store = answer.as_object_mut().unwrap().remove("store").unwrap();
        (store.as_str().unwrap().to_owned(), answer)
    };
    let (store, of_lite) = json(&lite, &["query", "summary", "--json"]);
    assert!(store.ends_with("data/k1.db"), "{store}");
    let (store, of_post) = json(&post, &["--json", "query", "summary"]);
    assert!(store.contains("***"), "the password is not shown: {store}");
    assert_eq!(of_lite, of_post);
    assert_eq!(
        of_lite,
        json(&lite, &["query", "summary", "--format", "json"]).1
    );

    insta::assert_snapshot!("table", stdout(&lite, &["query", "summary"]));
    insta::assert_snapshot!("csv", stdout(&lite, &["query", "summary", "--csv"]));
    insta::assert_snapshot!("json", serde_json::to_string_pretty(&of_lite).unwrap());
}

#[test]
fn what_the_limit_leaves_out_is_said() {
    let (sandbox, place) = on_sqlite();
    fill(&place);
    sandbox
        .k1ops(&["query", "summary", "--limit", "1"])
        .assert()
        .code(0)
        .stderr("Only the newest 1 are shown; --limit 0 shows all.\n")
        .stdout(predicate::str::contains("exec-2").and(predicate::str::contains("exec-1").not()));
    let text = stdout(&sandbox, &["query", "summary", "--limit", "1", "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["truncated"], true);
    for all in ["0", "2"] {
        sandbox
            .k1ops(&["query", "summary", "--limit", all])
            .assert()
            .code(0)
            .stderr("")
            .stdout(predicate::str::contains("exec-1"));
    }
}

#[test]
fn a_table_shows_fifty_and_csv_all() {
    let (sandbox, place) = on_sqlite();
    block_on(async {
        let store = open(&place).await;
        for n in 0..51 {
            let workflow = NewWorkflow::new(format!("w{n}"));
            store.record_workflow(workflow).await.unwrap();
        }
    });
    // With their line of headings.
    assert_eq!(stdout(&sandbox, &["query", "summary"]).lines().count(), 51);
    let csv = stdout(&sandbox, &["query", "summary", "--csv"]);
    assert_eq!(csv.lines().count(), 52);
}

#[test]
fn an_empty_store_and_an_empty_answer_say_so() {
    let (sandbox, place) = on_sqlite();
    block_on(open(&place));
    let table = stdout(&sandbox, &["query", "summary"]);
    assert!(
        table.starts_with("No workflows are recorded in /"),
        "{table}"
    );
    let table = stdout(&sandbox, &["query", "summary", "--since", "7d"]);
    assert!(table.starts_with("No workflows that match are"), "{table}");
    let csv = stdout(&sandbox, &["query", "summary", "--csv"]);
    assert_eq!(csv.lines().count(), 1, "the headings only");
    let json = stdout(&sandbox, &["query", "summary", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["workflows"], serde_json::json!([]));
}

#[test]
fn a_store_that_is_not_there_is_missing_and_is_not_made() {
    let (sandbox, _) = on_sqlite();
    sandbox
        .k1ops(&["query", "summary"])
        .assert()
        .code(3)
        .stdout("")
        .stderr(
            predicate::str::contains("k1.db does not exist").and(predicate::str::contains("hint:")),
        );
    assert!(!sandbox.path().join(".conductor").exists());

    let (sandbox, _, database) = on_postgres();
    sandbox
        .k1ops(&["query", "summary"])
        .assert()
        .code(3)
        .stderr(predicate::str::contains("has no K1 tables"));
    let tables = database.column("SELECT relname FROM pg_class WHERE relname LIKE 'k1%'");
    assert_eq!(tables, Vec::<String>::new());
}

#[test]
fn a_server_that_is_down_or_refuses_is_named_without_the_password() {
    let port = k1ops::adapters::port::any_free().unwrap();
    let server = address(&support::postgres_url());
    let live = server.port();
    for (url, code, says) in [
        (
            format!("postgres://u:hush@127.0.0.1:{port}/d"),
            3,
            "does not answer",
        ),
        (
            format!("postgres://nosuch:hush@127.0.0.1:{live}/d"),
            2,
            "refused the login",
        ),
        ("mysql://u:hush@127.0.0.1/d".to_owned(), 2, "postgres://"),
    ] {
        let sandbox = Sandbox::new(&format!("database.url = '{url}'"));
        let assert = sandbox
            .k1ops(&["query", "summary", "--json"])
            .assert()
            .code(code)
            .stderr(predicate::str::contains(says).and(predicate::str::contains("hush").not()));
        let json: serde_json::Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
        assert_eq!(json["error"]["exit_code"], code);
    }
}

#[test]
fn newer_and_damaged_stores_are_refused() {
    let (sandbox, place) = on_sqlite();
    block_on(open(&place));
    let db = rusqlite::Connection::open(sandbox.k1_db()).unwrap();
    db.execute_batch(
        "INSERT INTO k1_schema_migrations (version, name, checksum) VALUES (1000, 'x', 'y')",
    )
    .unwrap();
    drop(db);
    sandbox
        .k1ops(&["query", "summary"])
        .assert()
        .code(3)
        .stderr(
            predicate::str::contains("version 1000")
                .and(predicate::str::contains(format!(
                    "version {}",
                    latest_version()
                )))
                .and(predicate::str::contains("Upgrade k1ops")),
        );

    std::fs::write(sandbox.k1_db(), vec![b'x'; 8192]).unwrap();
    sandbox
        .k1ops(&["query", "summary"])
        .assert()
        .code(4)
        .stderr(predicate::str::contains(
            "damaged or not an SQLite database",
        ));
}

#[test]
fn the_original_store_is_answered_from_once_it_is_taken_over() {
    let (sandbox, _, database) = on_postgres();
    database.run(include_str!("fixtures/original-init-db.sql"));
    sandbox
        .k1ops(&["query", "summary", "--workflow", "exec-1"])
        .assert()
        .code(0)
        .stderr(predicate::str::starts_with(
            "took over the K1 tables in postgres",
        ))
        .stdout(predicate::str::contains("1/2").and(predicate::str::contains("2/3")));
    sandbox
        .k1ops(&["query", "summary"])
        .assert()
        .code(0)
        .stderr("")
        .stdout(predicate::str::contains("INIT"));
}

#[test]
fn wrong_usage_is_said() {
    let (sandbox, _) = on_sqlite();
    for (arguments, says) in [
        (&["query"][..], "Usage"),
        (
            &["query", "summary", "--since", "yesterday"],
            "how long ago",
        ),
        (&["query", "summary", "--limit", "x"], "--limit"),
        (
            &["query", "summary", "--csv", "--format", "json"],
            "--format",
        ),
        (&["query", "summary", "--csv", "--json"], "--json"),
        (
            &["query", "summary", "--json", "--format", "table"],
            "--json",
        ),
    ] {
        sandbox
            .k1ops(arguments)
            .assert()
            .code(2)
            .stderr(predicate::str::contains(says));
    }
}
