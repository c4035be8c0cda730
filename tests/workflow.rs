//! Plans: the example of 22 tasks on a real Conductor that is killed halfway, and without one.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise, in its helpers as well"
)]

mod jar;
mod patience;

use jar::{Ground, assert_code, runs, signal, text};
use patience::until;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/orchestration");

/// The example's folder, copied, with more settings. Without a port there is no server.
fn example(port: Option<u16>, more: &str) -> Ground {
    let agents = std::fs::read_to_string(format!("{EXAMPLE}/k1ops.toml")).unwrap();
    let ground = Ground::new(port.unwrap_or(1), &format!("{more}\n{agents}"));
    lay_out(&ground);
    ground
}

fn lay_out(ground: &Ground) {
    std::fs::create_dir(ground.path("agents")).unwrap();
    for file in ["plan.toml", "agents/agent.sh"] {
        std::fs::copy(Path::new(EXAMPLE).join(file), ground.path(file)).unwrap();
    }
}

/// What each task of the plan waits for.
fn dependencies(ground: &Ground) -> BTreeMap<String, Vec<String>> {
    let graph = ground.json(&["workflow", "graph", "plan.toml"], 0);
    let list = |value: &Value| {
        let items = value.as_array().unwrap().iter();
        items.map(|v| v.as_str().unwrap().to_owned()).collect()
    };
    let tasks = graph["tasks"].as_array().unwrap().iter();
    tasks
        .map(|t| (t["id"].as_str().unwrap().to_owned(), list(&t["depends_on"])))
        .collect()
}

/// Every task begins when all that it waits for has ended, by the times that `show` tells.
fn assert_order(ground: &Ground, view: &Value) {
    let tasks = view["tasks"].as_array().unwrap();
    let time = |id: &str, what: &str| {
        let task = tasks.iter().find(|task| task["id"] == id).unwrap();
        let text = task[what].as_str().unwrap_or_else(|| panic!("{id} {what}"));
        text.parse::<chrono::DateTime<chrono::Utc>>().unwrap()
    };
    let all = dependencies(ground);
    assert_eq!((tasks.len(), all.len()), (22, 22));
    for (id, waits) in &all {
        for on in waits {
            assert!(
                time(on, "ended_at") <= time(id, "scheduled_at"),
                "{on} {id}"
            );
        }
    }
}

/// Rows for each of the 22 tasks, each done once, with its gates.
fn assert_recorded(ground: &Ground, id: &str) {
    let done = "SELECT task_id FROM k1_agent_executions WHERE status = 'COMPLETED'
        ORDER BY CAST(SUBSTR(task_id, 6) AS INTEGER)";
    let expected: Vec<String> = (1..=22).map(|n| format!("task-{n}")).collect();
    assert_eq!(ground.column(done), expected);
    let left = "SELECT COUNT(*) FROM k1_agent_executions WHERE status <> 'COMPLETED'
        OR completed_at IS NULL OR exit_code <> 0 OR stdout_log NOT LIKE task_id || ' made %'";
    assert_eq!(ground.column(left), ["0"]);
    let gates = "SELECT COUNT(*) || ' ' || SUM(passed) || ' ' || SUM(critical)
        FROM k1_quality_gates";
    // Two audits with two gates each, seven testers with one.
    assert_eq!(ground.column(gates), ["11 11 9"]);
    let metrics = "SELECT COUNT(DISTINCT task_id) FROM k1_execution_metrics";
    assert_eq!(ground.column(metrics), ["22"]);
    let workflow = "SELECT conductor_execution_id || ' ' || source FROM k1_workflow_metadata";
    assert_eq!(ground.column(workflow), [format!("{id} PLAN")]);
}

/// What the last task made: it depends on what every other one made, in the right order.
fn made(ground: &Ground) -> String {
    ground
        .column("SELECT stdout_log FROM k1_agent_executions WHERE task_id = 'task-22'")
        .remove(0)
}

#[test]
fn twenty_two_tasks_on_a_server_that_is_killed_halfway() {
    let agents = std::fs::read_to_string(format!("{EXAMPLE}/k1ops.toml")).unwrap();
    let ground = Ground::with_server(&agents);
    lay_out(&ground);
    ground.write("input.json", r#"{"wait": 0.3}"#);
    let run = ["workflow", "run", "plan.toml", "--input", "input.json"];
    let started = ground.json(&run, 0);
    let id = started["workflow_id"].as_str().unwrap().to_owned();
    let worker = ground.worker(&["--jobs", "4"]);
    let mut watch = ground.command(&["workflow", "watch", &id, "--json"]);
    let watch = watch.spawn().unwrap();
    let done = "SELECT COUNT(*) FROM k1_agent_executions WHERE status = 'COMPLETED'";
    until("some tasks are done", || {
        ground.path(".conductor/data/k1.db").exists()
            && ground.column(done)[0].parse::<u32>().unwrap() >= 7
    });
    signal(ground.server_pid(), "-KILL");
    ground.start();
    // Whoever watched goes on watching.
    let watched = watch.wait_with_output().unwrap();
    assert_code(&watched, 0);
    let watched: Value = serde_json::from_slice(&watched.stdout).unwrap();
    assert_eq!(watched["status"], "COMPLETED");
    let shown = ground.json(&["workflow", "show", &id], 0);
    assert_order(&ground, &shown);
    assert_recorded(&ground, &id);
    let on_server = made(&ground);

    a_gate_stops_what_depends_on_it(&ground);
    a_workflow_is_ended(&ground);
    worker.stop();

    // The same plan without a server makes the same.
    let local = example(None, "");
    let view = local.json(&["workflow", "run", "plan.toml", "--tier", "direct"], 0);
    assert_order(&local, &view);
    assert_recorded(&local, view["workflow_id"].as_str().unwrap());
    assert_eq!(made(&local), on_server);
}

fn a_gate_stops_what_depends_on_it(ground: &Ground) {
    let key = "-----BEGIN PRIVATE KEY-----\n";
    ground.write("leaked.pem", key);
    let view = ground.json(&["workflow", "run", "plan.toml", "--wait"], 1);
    assert_eq!(view["status"], "FAILED");
    let reason = view["reason"].as_str().unwrap();
    assert!(reason.contains("critical gate \"no secrets\""), "{reason}");
    assert_eq!(view["tasks"].as_array().unwrap().len(), 1);
    let id = view["workflow_id"].as_str().unwrap();
    let gate = format!(
        "SELECT passed || ' ' || actual_value FROM k1_quality_gates g JOIN k1_workflow_metadata w
         USING (workflow_id) WHERE conductor_execution_id = '{id}' AND gate_name = 'no secrets'"
    );
    assert!(
        ground.column(&gate)[0].starts_with("0 1"),
        "{:?}",
        ground.column(&gate)
    );
    // Mended, it goes on from there.
    std::fs::remove_file(ground.path("leaked.pem")).unwrap();
    ground.json(&["workflow", "retry", id], 0);
    let view = ground.json(&["workflow", "watch", id], 0);
    assert_eq!(view["status"], "COMPLETED");
    assert_order(ground, &view);
    // On a busy host the server may end the second for the first one's failure; then there is a third.
    let attempt = view["tasks"][0]["attempt"].as_u64().unwrap();
    assert!((2..=3).contains(&attempt), "{attempt}");
}

fn a_workflow_is_ended(ground: &Ground) {
    ground.write("input.json", r#"{"wait": 100}"#);
    let run = ["workflow", "run", "plan.toml", "--input", "input.json"];
    let id = ground.json(&run, 0)["workflow_id"]
        .as_str()
        .unwrap()
        .to_owned();
    until("its first task runs", || {
        let tasks = ground.workflow(&id)["tasks"].clone();
        let mut tasks = tasks.as_array().unwrap().iter();
        tasks.any(|t| t["referenceTaskName"] == "task-1" && t["status"] == "IN_PROGRESS")
    });
    assert_code(&ground.run(&["workflow", "terminate", &id]), 6);
    ground.json(&["workflow", "terminate", &id, "--yes"], 0);
    assert_eq!(
        ground.json(&["workflow", "show", &id], 0)["status"],
        "TERMINATED"
    );
    let again = ground.run(&["workflow", "terminate", &id, "--yes"]);
    assert_code(&again, 6);
    let listed = ground.json(&["workflow", "list"], 0);
    assert_eq!(listed[0]["workflow_id"], json!(id));
    assert_eq!(listed.as_array().unwrap().len(), 3);
    until("its agent is ended", || {
        let running = "SELECT COUNT(*) FROM k1_agent_executions WHERE status = 'RUNNING'";
        ground.column(running) == ["0"]
    });
}

#[test]
fn a_local_run_stops_at_a_failure_and_goes_on_where_it_stopped() {
    let ground = example(None, "");
    let run = ["workflow", "run", "plan.toml", "--tier", "direct"];
    ground.write("leaked.pem", "-----BEGIN RSA PRIVATE KEY-----\n");
    let view = ground.json(&run, 1);
    assert_eq!(view["status"], "FAILED");
    assert_eq!(view["tasks"].as_array().unwrap().len(), 1);
    std::fs::remove_file(ground.path("leaked.pem")).unwrap();
    let id = view["workflow_id"].as_str().unwrap();
    let view = ground.json(&["workflow", "retry", id], 0);
    assert_order(&ground, &view);
    assert_code(&ground.run(&["workflow", "retry", id]), 6);

    // Killed in its middle, it goes on likewise; what was done is not done again.
    ground.write("input.json", r#"{"wait": 0.5}"#);
    let input = ["--input", "input.json"];
    let child = ground.command(&[&run[..], &input].concat()).spawn();
    let mut child = child.unwrap();
    let file = || {
        let files = std::fs::read_dir(ground.path(".conductor/workflows")).unwrap();
        // A file that is half written has no such name yet.
        let other = |path: &std::path::PathBuf| {
            let name = path.to_string_lossy();
            name.ends_with(".json") && !name.contains(id)
        };
        files.flatten().map(|file| file.path()).find(other)
    };
    let completed = || {
        let text = file().and_then(|file| std::fs::read_to_string(file).ok());
        text.unwrap_or_default().matches("\"COMPLETED\"").count()
    };
    until("some tasks are done", || completed() >= 4);
    child.kill().unwrap();
    child.wait().unwrap();
    let killed = file()
        .unwrap()
        .file_stem()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    let shown = ground.json(&["workflow", "show", &killed], 0);
    assert_eq!(shown["status"], "TERMINATED");
    let tasks = shown["tasks"].as_array().unwrap().iter();
    let done_before: Vec<String> = tasks
        .filter(|task| task["status"] == "COMPLETED")
        .map(|task| task["id"].as_str().unwrap().to_owned())
        .collect();
    assert!(done_before.len() >= 4);
    // As if it had died after the note of a run and before the run's row.
    let delete = "DELETE FROM k1_agent_executions WHERE execution_id =
        (SELECT MIN(execution_id) FROM k1_agent_executions WHERE status = 'RUNNING')";
    ground.k1().execute(delete, []).unwrap();
    ground.json(&["workflow", "retry", &killed], 0);
    let counts = format!(
        "SELECT status || ' ' || COUNT(DISTINCT task_id) FROM k1_agent_executions e
         JOIN k1_workflow_metadata w USING (workflow_id)
         WHERE conductor_execution_id = '{killed}' GROUP BY status ORDER BY status"
    );
    let counts = ground.column(&counts);
    assert_eq!(counts.last().unwrap(), "COMPLETED 22");
    assert!(counts.iter().all(|c| !c.contains("RUNNING")), "{counts:?}");
    for task in &done_before {
        let times = format!(
            "SELECT COUNT(*) FROM k1_agent_executions e JOIN k1_workflow_metadata w
             USING (workflow_id) WHERE conductor_execution_id = '{killed}' AND task_id = '{task}'"
        );
        assert_eq!(ground.column(&times), ["1"], "{task}");
    }
}

#[test]
fn a_local_run_is_ended_from_elsewhere() {
    let ground = example(None, "");
    ground.write("input.json", r#"{"wait": 100}"#);
    let run = [
        "workflow",
        "run",
        "plan.toml",
        "--tier",
        "direct",
        "--input",
        "input.json",
    ];
    let child = ground.command(&run).spawn().unwrap();
    let folder = ground.path(".conductor/workflows");
    let mut id = String::new();
    until("it runs", || {
        let files = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        // A file that is half written has no such name yet.
        let mut files = files.map(|file| file.path());
        let file = files.find(|path| path.extension().is_some_and(|end| end == "json"));
        let Some(file) = file else { return false };
        file.file_stem()
            .unwrap()
            .to_str()
            .unwrap()
            .clone_into(&mut id);
        std::fs::read_to_string(file).is_ok_and(|text| text.contains("task-1\":{"))
    });
    ground.json(&["workflow", "terminate", &id, "--yes"], 0);
    let pid = child.id().to_string();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    assert!(!runs(&pid));
    assert_eq!(
        ground.json(&["workflow", "show", &id], 0)["status"],
        "TERMINATED"
    );
}

#[test]
fn a_wrong_plan_changes_nothing() {
    let ground = example(None, "");
    let task = "[[tasks]]\nid = 'x'\nagent = 'builder'\n";
    for (plan, said) in [
        ("name = 'p'\ntasks = []".to_owned(), "0 tasks"),
        (
            format!("name = 'p'\n{task}depends_on = ['x']"),
            "depends on itself",
        ),
        (
            format!("name = 'p'\n{task}[[tasks]]\nid = 'y'\nagent = 'nobody'"),
            "agent nobody is not defined",
        ),
        (
            format!("name = 'p'\nnmae = 'q'\n{task}"),
            "unknown field `nmae`",
        ),
    ] {
        ground.write("wrong.toml", &plan);
        for tier in ["direct", "jar"] {
            let output = ground.run(&["workflow", "run", "wrong.toml", "--tier", tier]);
            assert_code(&output, 2);
            assert!(text(&output).contains(said), "{said}: {}", text(&output));
        }
    }
    // Nothing listens on port 1.
    let output = ground.run(&["workflow", "run", "plan.toml"]);
    assert_code(&output, 1);
    assert!(text(&output).contains("--tier direct"), "{}", text(&output));
    ground.json(&["workflow", "run", "plan.toml", "--dry-run"], 0);
    assert!(!ground.path(".conductor/workflows").exists());
}
