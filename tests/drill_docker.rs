//! `k1ops drill` on tier 1, with a real Docker engine: what restores passes, even after a drill that
//! was killed in its middle, what does not is told, and nothing of the drill is left.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise, in its helpers as well"
)]

mod bench;

use bench::{Bench, assert_code, assert_says, define_two_tasks, http, lines_of};
use serde_json::Value;
use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// Everything on the engine that a drill might leave.
fn objects() -> BTreeSet<String> {
    let kinds = [
        (["ps", "-a"], "{{.Names}}"),
        (["volume", "ls"], "{{.Name}}"),
        (["network", "ls"], "{{.Name}}"),
    ];
    let listed = kinds.iter().flat_map(|(list, column)| {
        let format = ["--format".to_owned(), (*column).to_owned()];
        lines_of(list, &format)
    });
    listed.filter(|name| name.contains("drill")).collect()
}

/// One workflow of two tasks, of which the first is done.
fn half_done(bench: &Bench) -> String {
    define_two_tasks(bench, "drilled");
    let id = http("POST", &bench.url("/api/workflow/drilled"), "{}");
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(
            Instant::now() < deadline,
            "the first task is not handed out"
        );
        let poll = bench.url("/api/tasks/poll/batch/first?workerid=test&count=1&timeout=2000");
        let tasks = http("GET", &poll, "");
        let tasks: Vec<Value> = serde_json::from_str(&tasks).unwrap();
        let Some(task) = tasks.first() else { continue };
        let answer = serde_json::json!({"taskId": task["taskId"], "status": "COMPLETED",
            "workflowInstanceId": id, "outputData": {}});
        http("POST", &bench.url("/api/tasks"), &answer.to_string());
        return id;
    }
}

#[test]
fn a_whole_stack_is_drilled_and_nothing_is_left() {
    let bench = Bench::new();
    assert_code(&bench.run(&["start"]), 0);
    let id = half_done(&bench);
    let archive = bench.json(&["backup"], 0)["archive"].clone();
    let archive = archive.as_str().unwrap().to_owned();
    // What is drilled is the archive: the stack may be down.
    assert_code(&bench.run(&["stop"]), 0);
    let before = bench.left();

    // Killed in its middle, it leaves what the next one removes.
    let mut killed = bench.command(&["drill"]).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(240);
    while !objects().iter().any(|name| name.ends_with("-postgres")) {
        assert!(Instant::now() < deadline, "the drill starts no PostgreSQL");
        assert!(killed.try_wait().unwrap().is_none(), "the drill has ended");
        std::thread::sleep(Duration::from_millis(20));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    bench.until_compose_has_ended();
    assert!(!objects().is_empty());

    let report = bench.json(&["drill"], 0);
    assert_eq!(report["tier"], "docker");
    assert_eq!(report["work"]["completed"], Value::from(id));
    assert!(report["rto_seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(objects(), BTreeSet::new());
    assert_eq!(bench.left(), before);

    // A byte of its data is changed.
    let file = std::fs::File::options().write(true).open(&archive).unwrap();
    let middle = file.metadata().unwrap().len() / 2;
    file.write_at(b"\xff\x00", middle).unwrap();
    let failed = bench.run(&["drill"]);
    assert_code(&failed, 4);
    assert_says(&failed, "is damaged");
    assert_eq!(objects(), BTreeSet::new());
    assert_eq!(bench.left(), before);
}
