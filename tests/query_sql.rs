//! `k1ops query sql`: it reads and cannot write, in constant memory, and says what is wrong; and
//! stores that are locked.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may stop at the first surprise, their helpers too"
)]

mod support;

use k1ops::event::Events;
use k1ops::store::{NewWorkflow, Place, Store};
use predicates::prelude::*;
use std::io::Read;
use std::process::{Command, Stdio};
use support::{Sandbox, ScratchDatabase, scratch_database};

fn record(place: &Place) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async {
            let store = Store::open(place, &Events::silent()).await.unwrap();
            store.record_workflow(NewWorkflow::new("w")).await.unwrap();
        });
}

fn on_sqlite() -> Sandbox {
    let sandbox = Sandbox::new("");
    record(&Place::Sqlite(sandbox.k1_db()));
    sandbox
}

fn on_postgres() -> (Sandbox, ScratchDatabase) {
    let database = scratch_database();
    let sandbox = Sandbox::new(&format!("[database]\nurl = '{}'\n", database.url));
    record(&Place::Postgres(Box::new(database.address())));
    (sandbox, database)
}

/// What each statement exits with, and what is said.
fn expect(sandbox: &Sandbox, cases: &[(&str, i32, &str)]) {
    for (sql, code, says) in cases {
        sandbox
            .k1ops(&["query", "sql", sql, "--timeout", "20"])
            .assert()
            .code(*code)
            .stderr(predicate::str::contains(*says).and(predicate::str::contains("hint:")));
    }
    let count = "SELECT count(*) AS n FROM k1_workflow_metadata";
    sandbox
        .k1ops(&["query", "sql", count, "--csv"])
        .assert()
        .code(0)
        .stdout("n\n1\n");
}

const WRONG: [(&str, i32, &str); 5] = [
    ("SELEC 1", 2, "SELEC"),
    ("SELECT * FROM nosuch", 2, "nosuch"),
    ("SELECT nosuch FROM k1_workflow_metadata", 2, "nosuch"),
    ("SELECT 1; SELECT 2", 2, "ultiple"),
    ("DELETE FROM k1_workflow_metadata", 6, "read"),
];

#[test]
fn sqlite_refuses_to_write_and_says_what_is_wrong() {
    let sandbox = on_sqlite();
    expect(&sandbox, &WRONG);
    let file = sandbox.path().join("made.db");
    let attach = format!("ATTACH '{}' AS other", file.display());
    let vacuum = format!("VACUUM INTO '{}'", file.display());
    let cases = [
        "SELECT 1; DELETE FROM k1_workflow_metadata",
        "DELETE FROM k1_workflow_metadata RETURNING workflow_id",
        "CREATE TEMP TABLE t AS SELECT 1",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA query_only = off",
        "COMMIT",
        "BEGIN",
        &attach,
        &vacuum,
    ];
    let cases = cases.map(|sql| (sql, 6, "refused:"));
    expect(&sandbox, &cases);
    let extension = ("SELECT load_extension('x')", 2, "not authorized");
    expect(&sandbox, &[extension]);
    assert!(!file.exists());
}

#[test]
fn postgres_refuses_to_write_and_says_what_is_wrong() {
    let (sandbox, database) = on_postgres();
    database.run(
        "CREATE SEQUENCE s; SELECT lo_create(4711);
        CREATE FUNCTION writes() RETURNS int LANGUAGE sql VOLATILE AS
            'DELETE FROM k1_workflow_metadata; SELECT 1'",
    );
    expect(&sandbox, &WRONG);
    let two = ("SELECT 1; DELETE FROM k1_workflow_metadata", 2, "ultiple");
    expect(&sandbox, &[two]);
    let file = sandbox.path().join("made");
    let export = format!("SELECT lo_export(4711, '{}')", file.display());
    let program = format!("COPY (SELECT 1) TO PROGRAM 'touch {}'", file.display());
    let cases = [
        "DELETE FROM k1_workflow_metadata RETURNING workflow_id",
        "WITH gone AS (DELETE FROM k1_workflow_metadata RETURNING 1) SELECT * FROM gone",
        "EXPLAIN ANALYZE DELETE FROM k1_workflow_metadata",
        "SELECT writes()",
        "SELECT nextval('s')",
        "SELECT set_config('transaction_read_only', 'off', false)",
        "SELECT pg_reload_conf()",
        "DO $$ BEGIN DELETE FROM k1_workflow_metadata; END $$",
        "COMMIT",
        &export,
        &program,
    ];
    let cases = cases.map(|sql| (sql, 6, "refused:"));
    expect(&sandbox, &cases);
    assert!(!file.exists());
}

#[test]
fn an_answer_that_takes_too_long_is_given_up() {
    let endless = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 - 1 FROM c)
        SELECT max(n) FROM c";
    let (post, _database) = on_postgres();
    for sandbox in [on_sqlite(), post] {
        sandbox
            .k1ops(&["query", "sql", endless, "--timeout", "0.3"])
            .assert()
            .code(1)
            .stderr(
                predicate::str::contains("too long").and(predicate::str::contains("--timeout")),
            );
    }
}

#[test]
fn locked_stores_are_said_to_be_locked() {
    let sandbox = on_sqlite();
    let db = rusqlite::Connection::open(sandbox.k1_db()).unwrap();
    db.execute_batch("PRAGMA journal_mode = DELETE; BEGIN EXCLUSIVE")
        .unwrap();
    let asked = ["query", "gates", "--timeout", "1"];
    let says = || predicate::str::contains("locked:").and(predicate::str::contains("try again"));
    sandbox.k1ops(&asked).assert().code(5).stderr(says());
    drop(db);

    let (sandbox, database) = on_postgres();
    let (locked, wait) = std::sync::mpsc::channel();
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let address = database.address();
    let holder = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let session = k1ops::adapters::postgres::Session::open(&address)
                .await
                .unwrap();
            let lock = "BEGIN; LOCK TABLE k1_quality_gates IN ACCESS EXCLUSIVE MODE";
            session.batch_execute(lock).await.unwrap();
            locked.send(()).unwrap();
            let _ = ended.recv();
        });
    });
    wait.recv().unwrap();
    sandbox.k1ops(&asked).assert().code(5).stderr(says());
    drop(done);
    holder.join().unwrap();
}

#[test]
fn values_keep_their_types_and_digits() {
    let (sandbox, _database) = on_postgres();
    let sql = "SELECT 12345678901234567890.50::numeric AS n, NULL AS nothing, true AS b,
        '{\"a\": [1]}'::jsonb AS j, 'a' AS x, 'b' AS x, 'NaN'::float8 AS nan";
    let output = sandbox
        .k1ops(&["query", "sql", sql, "--format", "jsonl"])
        .assert()
        .code(0);
    let text = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    assert_eq!(
        text,
        "{\"n\": 12345678901234567890.50, \"nothing\": null, \"b\": true, \"j\": {\"a\": [1]}, \
        \"x\": \"a\", \"x_2\": \"b\", \"nan\": \"NaN\"}\n"
    );
}

/// As much memory as an answer of any length may take, in KiB.
const MOST_RESIDENT: u64 = 96 << 10;

fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_long_answer_streams_in_constant_memory() {
    let (post, _database) = on_postgres();
    let lite = on_sqlite();
    let long = "x".repeat(1000);
    for (sandbox, rows) in [
        (&post, "SELECT g AS n FROM generate_series(1, 300000) g"),
        (
            &lite,
            "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 300000)
            SELECT n FROM c",
        ),
    ] {
        for format in ["jsonl", "csv", "json", "table"] {
            let sql = format!("SELECT n, '{long}' AS text FROM ({rows}) AS r");
            let mut child = Command::new(env!("CARGO_BIN_EXE_k1ops"))
                .current_dir(sandbox.path())
                .args(["query", "sql", &sql, "--format", format, "--timeout", "0"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut out = child.stdout.take().unwrap();
            // A table shows the first 300 characters of a value.
            let wanted: u64 = if format == "table" {
                80 << 20
            } else {
                250 << 20
            };
            let read = std::io::copy(&mut (&mut out).take(wanted), &mut std::io::sink()).unwrap();
            // It stands still now: nobody reads what it writes.
            assert_eq!(read, wanted, "{format}");
            let peak = peak_kib(child.id());
            assert!(peak < MOST_RESIDENT, "{format}: {peak} KiB");
            // A reader that goes away ends it.
            drop(out);
            assert_eq!(child.wait().unwrap().code(), Some(0), "{format}");
        }
    }
}
