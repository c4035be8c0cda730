//! `k1ops backup`, `restore` and `undo` of a stack on a real PostgreSQL by URL.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

mod support;

use k1ops::restore::crash::{STEPS, VARIABLE};
use std::path::PathBuf;
use std::process::Command;
use support::{Sandbox, ScratchDatabase, on_server, scratch_database};

/// A stack on a filled database. What restores make beside it is dropped with it.
struct Stack {
    sandbox: Sandbox,
    database: ScratchDatabase,
}

impl Stack {
    fn new() -> Self {
        let database = scratch_database();
        database.run(
            "CREATE TABLE task(id bigserial PRIMARY KEY, body text NOT NULL);
             CREATE SCHEMA external;
             CREATE TABLE external.payload(id int PRIMARY KEY, data bytea);
             INSERT INTO task(body) SELECT repeat('ab\t\\', i % 50) FROM generate_series(1, 3000) i;
             INSERT INTO external.payload SELECT i, decode(md5(i::text), 'hex') FROM generate_series(1, 40) i;",
        );
        let config = format!("tier = 'jar'\n[database]\nurl = '{}'\n", database.url);
        Self {
            sandbox: Sandbox::new(&config),
            database,
        }
    }

    fn run(&self, arguments: &[&str]) -> std::process::Output {
        self.sandbox.k1ops(arguments).output().unwrap()
    }

    #[track_caller]
    fn done(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn sum(&self) -> Vec<String> {
        sum(&self.database)
    }

    /// Databases of this stack besides the live one.
    fn others(&self) -> Vec<String> {
        self.database.column(&format!(
            "SELECT datname FROM pg_database WHERE datname LIKE '{}\\_k1ops\\_%' ORDER BY 1",
            self.database.name
        ))
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // The live one is gone if a test failed in the middle of a swap.
        let pattern = self.database.name.clone();
        let all = ScratchDatabase {
            name: format!("{pattern}_unused"),
            url: support::postgres_url(),
        };
        let names = all.column(&format!(
            "SELECT datname FROM pg_database WHERE datname LIKE '{pattern}\\_k1ops\\_%'"
        ));
        for name in names {
            on_server(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"));
        }
    }
}

/// Every row of every table, in a few words.
fn sum(database: &ScratchDatabase) -> Vec<String> {
    database.column(
        "SELECT count(*) || ' ' || md5(string_agg(t::text, ',' ORDER BY id)) FROM task t
         UNION ALL
         SELECT count(*) || ' ' || md5(string_agg(p::text, ',' ORDER BY id)) FROM external.payload p
         UNION ALL SELECT last_value::text FROM task_id_seq",
    )
}

#[test]
fn a_lost_database_comes_back_and_a_changed_one_can_be_undone() {
    let stack = Stack::new();
    let backed_up = stack.sum();
    let report = stack.done(&["backup", "--json"]);
    assert_eq!(report["rows"], 3040);
    stack
        .database
        .run("DELETE FROM task WHERE id % 3 = 0; INSERT INTO task(body) VALUES ('new')");
    let changed = stack.sum();
    let report = stack.done(&["restore", "latest", "--yes", "--json"]);
    assert!(report["safety_archive"].is_string());
    assert_eq!(stack.sum(), backed_up);
    assert_eq!(stack.others().len(), 1, "the old one is kept");
    stack.done(&["undo", "--yes"]);
    assert_eq!(stack.sum(), changed);
    stack.done(&["undo", "--yes"]);
    assert_eq!(stack.sum(), backed_up);
    stack.done(&["undo", "--discard", "--yes"]);
    assert_eq!(stack.others(), Vec::<String>::new());
    on_server(&format!(
        "DROP DATABASE {} WITH (FORCE)",
        stack.database.name
    ));
    stack.done(&["restore", "latest"]);
    assert_eq!(stack.sum(), backed_up);
}

#[test]
fn sessions_of_others_are_named_and_ended_only_when_asked_for() {
    let stack = Stack::new();
    stack.done(&["backup", "--json"]);
    stack.database.run("DELETE FROM task");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let address = stack.database.address();
    let session = runtime
        .block_on(k1ops::adapters::postgres::Session::open(&address))
        .unwrap();
    let output = stack.run(&["restore", "latest", "--yes", "--no-safety"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("is in use by 1 sessions"), "{said}");
    assert!(said.contains("--terminate-sessions"), "{said}");
    assert_eq!(stack.others(), Vec::<String>::new(), "as before");
    assert!(stack.sum()[0].starts_with("0 ") || stack.sum()[0] == "NULL");
    let force = ["--yes", "--no-safety", "--terminate-sessions"];
    stack.done(&[["restore", "latest"].as_slice(), &force].concat());
    assert!(stack.sum()[0].starts_with("3000 "));
    drop(session);
}

#[test]
fn a_restore_that_dies_anywhere_is_as_before_or_completed_by_the_next_run() {
    let stack = Stack::new();
    let new = stack.sum();
    stack.done(&["backup", "--json"]);
    let mut deaths = 0;
    for step in STEPS {
        stack.database.run("DELETE FROM task WHERE id % 2 = 0");
        let old = stack.sum();
        let output = stack
            .sandbox
            .k1ops(&["restore", "latest", "--yes", "--no-safety"])
            .env(VARIABLE, step)
            .output()
            .unwrap();
        if output.status.code().is_some() {
            assert!(output.status.success(), "{step}: {output:?}");
        } else {
            deaths += 1;
            // Asking what could be discarded is a run like any other.
            stack.done(&["undo", "--discard", "--yes"]);
            let as_before = ["restoring-noted", "restored-beside", "checked"].contains(&step);
            assert_eq!(
                stack.sum(),
                if as_before { old } else { new.clone() },
                "{step}"
            );
        }
        stack.done(&["undo", "--discard", "--yes"]);
        assert_eq!(stack.others(), Vec::<String>::new(), "{step}");
        stack.done(&["restore", "latest", "--yes", "--no-safety"]);
        assert_eq!(stack.sum(), new, "{step}");
        stack.done(&["undo", "--discard", "--yes"]);
    }
    assert_eq!(deaths, 9);
}

#[test]
fn restore_txt_gives_the_same_database_with_tar_zstd_and_psql_alone() {
    let stack = Stack::new();
    let report = stack.done(&["backup", "--json"]);
    let folder = tempfile::tempdir().unwrap();
    let status = Command::new("tar")
        .arg("xf")
        .arg(PathBuf::from(report["archive"].as_str().unwrap()))
        .current_dir(folder.path())
        .status()
        .unwrap();
    assert!(status.success());
    let text = std::fs::read_to_string(folder.path().join("RESTORE.txt")).unwrap();
    let script: String = text
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .flat_map(|line| [line, "\n"])
        .collect();
    // Dropped with the stack, as its name says.
    let target = format!("{}_k1ops_by_hand", stack.database.name);
    let output = Command::new("sh")
        .args(["-c", &script])
        .envs(stack.database.address().libpq_environment())
        .env("TARGET", &target)
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{script}\n{output:?}");
    let url = stack.database.url.replace(&stack.database.name, &target);
    let by_hand = ScratchDatabase { name: target, url };
    assert_eq!(sum(&by_hand), stack.sum());
}

#[test]
fn an_archive_of_a_server_is_no_archive_of_files() {
    let stack = Stack::new();
    let report = stack.done(&["backup", "--json"]);
    let other = Sandbox::new("tier = 'jar'\n");
    let archive = report["archive"].as_str().unwrap();
    let output = other
        .k1ops(&["restore", archive, "--yes"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("holds a PostgreSQL database"), "{said}");
    assert!(!other.path().join(".conductor/data").exists());
}
