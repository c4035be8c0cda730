//! `k1ops upgrade` of images of tier 1, on a real Docker engine: one that does not start is taken back,
//! also by the run after `kill -9`, and one that does stays.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise, in its helpers as well"
)]

mod bench;
mod patience;

use bench::{Bench, assert_code, assert_says, define_two_tasks, docker_out, http, testbed, text};
use k1ops::restore::crash::VARIABLE;
use patience::until;
use serde_json::Value;
use std::io::Write;
use std::process::{Command, Output, Stdio};

/// What names the images is the file, not the environment: an upgrade changes it.
fn run(bench: &Bench, crash_at: &str, arguments: &[&str]) -> Output {
    let mut command = bench.command(arguments);
    command
        .env_remove("K1OPS_DOCKER_POSTGRES_IMAGE")
        .env_remove("K1OPS_DOCKER_REDIS_IMAGE");
    if !crash_at.is_empty() {
        command.env(VARIABLE, crash_at);
    }
    command.output().unwrap()
}

/// An image that differs from a real one by `change`, and is removed with the bench.
fn image(bench: &Bench, from: &str, tag: &str, change: &str) -> String {
    let name = format!("{}-server:{tag}", bench.prefix);
    let mut build = Command::new("docker")
        .args(["build", "-q", "-t", &name, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let text = format!("FROM {}\n{change}\n", testbed(from));
    build
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    assert!(build.wait().unwrap().success(), "{name}");
    name
}

fn redis_runs(bench: &Bench) -> String {
    let format = ["inspect", "-f", "{{.State.Running}} {{.Config.Image}}"];
    let container = bench.container("redis");
    docker_out(&[&format[..], &[&container]].concat())
        .trim()
        .to_owned()
}

fn do_task(bench: &Bench, name: &str) {
    let path = format!("/api/tasks/poll/batch/{name}?count=1&timeout=1000&workerid=w");
    let mut polled = Value::Null;
    until("a task is handed out", || {
        polled = serde_json::from_str(&http("GET", &bench.url(&path), "")).unwrap();
        polled[0].is_object()
    });
    let result = serde_json::json!({"workflowInstanceId": polled[0]["workflowInstanceId"],
        "taskId": polled[0]["taskId"], "status": "COMPLETED", "outputData": {}, "workerId": "w"});
    http("POST", &bench.url("/api/tasks"), &result.to_string());
}

fn workflow(bench: &Bench, id: &str) -> Value {
    let text = http("GET", &bench.url(&format!("/api/workflow/{id}")), "");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn an_image_that_does_not_start_is_taken_back_and_one_that_does_stays() {
    let redis = testbed("REDIS_IMAGE");
    let bench = Bench::with(&format!(
        "[docker]\npostgres_image = '{}'\nredis_image = '{redis}'",
        testbed("POSTGRES_IMAGE"),
    ));
    assert_code(&run(&bench, "", &["start"]), 0);
    define_two_tasks(&bench, "upgraded");
    let id = http("POST", &bench.url("/api/workflow/upgraded"), "{}");
    do_task(&bench, "first");

    let other_major = image(&bench, "POSTGRES_IMAGE", "major", "ENV PG_MAJOR=16");
    let wanted = format!("postgres={other_major}");
    let refused = run(&bench, "", &["upgrade", "--yes", "--image", &wanted]);
    assert_code(&refused, 6);
    assert_says(&refused, "does not change the major version of PostgreSQL");
    assert_says(&refused, "k1ops restore ARCHIVE");

    let config = std::fs::read_to_string(bench.folder.path().join("k1ops.toml")).unwrap();
    let broken = image(
        &bench,
        "REDIS_IMAGE",
        "broken",
        "ENTRYPOINT [\"/bin/false\"]",
    );
    let wanted = format!("redis={broken}");
    let upgrade = ["upgrade", "--yes", "--no-drill", "--image", &wanted];
    let killed = run(&bench, "upgrade-back-noted", &upgrade);
    assert_eq!(killed.status.code(), None, "{}", text(&killed));
    let started = run(&bench, "", &["start"]);
    assert_code(&started, 0);
    assert_says(&started, "is taken back: the old version runs");
    assert_eq!(redis_runs(&bench), format!("true {redis}"));
    let now = std::fs::read_to_string(bench.folder.path().join("k1ops.toml")).unwrap();
    assert_eq!(now, config);
    assert_eq!(workflow(&bench, &id)["status"], "RUNNING");

    let newer = image(&bench, "REDIS_IMAGE", "newer", "LABEL newer=yes");
    let wanted = format!("redis={newer}");
    let done = run(
        &bench,
        "",
        &["upgrade", "--yes", "--no-drill", "--image", &wanted],
    );
    assert_code(&done, 0);
    assert_eq!(redis_runs(&bench), format!("true {newer}"));
    do_task(&bench, "second");
    until("the workflow has come to its end", || {
        workflow(&bench, &id)["status"] == "COMPLETED"
    });
}
