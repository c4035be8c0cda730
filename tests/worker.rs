//! Workers on a real Conductor: what its contract asks, also when either of the two dies.
//!
//! Every agent that could be run twice at once leaves a folder while it runs, and says `DOUBLE` if
//! that is there already.

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
use std::time::{Duration, Instant};

/// Less than a task takes that nobody hands back: it comes again 45 seconds after its worker was heard of last, which
/// may be ten seconds ago.
const AT_ONCE: Duration = Duration::from_secs(30);

/// Seconds after which a try fails of which nothing was heard. The start of a server takes less, also on a
/// busy host.
const UNHEARD_OF: u32 = 900;

/// Defines the task type and a workflow of one task, and starts it.
fn one(ground: &Ground, kind: &str, retries: u32, input: &Value) -> String {
    let task = json!([{"name": kind, "ownerEmail": "a@b.ch", "retryCount": retries,
        "retryLogic": "FIXED", "retryDelaySeconds": 1, "timeoutSeconds": 0,
        "responseTimeoutSeconds": UNHEARD_OF}]);
    ground.api("POST", "/metadata/taskdefs", &task);
    let workflow = json!([{"name": kind, "version": 1, "schemaVersion": 2, "ownerEmail": "a@b.ch",
        "tasks": [{"name": kind, "taskReferenceName": "the-task", "type": "SIMPLE",
            "inputParameters": input}], "outputParameters": {"n": "${the-task.output.result.n}"}}]);
    ground.api("PUT", "/metadata/workflow", &workflow);
    let id = ground.api("POST", &format!("/workflow/{kind}"), &json!({}));
    id.as_str().unwrap().to_owned()
}

#[test]
fn a_worker_keeps_to_the_contract() {
    let server = Ground::with_server("");
    let port = server.port;
    std::thread::scope(|scope| {
        let long = scope.spawn(|| a_long_task_is_handed_out_once(port));
        answers_and_rows(port);
        a_failed_task_is_tried_again_and_a_hopeless_one_is_not(port);
        as_many_agents_at_once_as_asked_for(port);
        the_word_to_stop(port);
        a_killed_worker(port);
        an_answer_for_a_task_that_is_not_known_any_more(port);
        what_is_not_wanted_any_more_is_ended(port);
        long.join().unwrap();
    });
    a_killed_server(&server);
}

fn answers_and_rows(port: u16) {
    let ground = Ground::new(
        port,
        r#"[agents.adder]
tasks = ["add"]
shell = '''
n=$(sed 's/.*"n":\([0-9]*\).*/\1/' "$K1_INPUT")
echo "{\"n\": $((n + 1))}" > "$K1_RESULT"
echo '{"metric":"sum","value":'$((n + 1))'}' >> "$K1_REPORT"
'''
"#,
    );
    let note = json!({"plan": "sums", "gates": [{"name": "large", "metric": "sum", "min": 5.0}]});
    let id = one(&ground, "add", 3, &json!({"n": 41, "_k1": note}));
    let worker = ground.worker(&[]);
    let workflow = ground.ended(&id, "COMPLETED");
    assert_eq!(workflow["output"]["n"], 42);
    let task = &workflow["tasks"][0];
    assert_eq!(task["outputData"]["metrics"]["sum"], 42.0);
    // The rows are there before the server hears of the end.
    let all = "SELECT status || ' ' || exit_code || ' ' || task_id FROM k1_agent_executions";
    assert_eq!(ground.column(all), ["COMPLETED 0 the-task"]);
    assert_eq!(
        ground.column("SELECT conductor_execution_id FROM k1_workflow_metadata"),
        std::slice::from_ref(&id)
    );
    assert_eq!(ground.column("SELECT passed FROM k1_quality_gates"), ["1"]);
    // A second worker of the stack is refused while the first one works.
    let second = ground.run(&["worker"]);
    assert_code(&second, 5);
    worker.stop();
    // Nothing is left of a run but its result.
    let left = ground.column("SELECT result_file_path FROM k1_agent_executions");
    let folder = std::path::Path::new(&left[0]).parent().unwrap();
    assert!(folder.join("result.json").exists() && !folder.join("run.json").exists());
}

fn a_failed_task_is_tried_again_and_a_hopeless_one_is_not(port: u16) {
    let ground = Ground::new(
        port,
        r#"[agents.third]
shell = 'echo "$K1_ATTEMPT" >> tries; test "$K1_ATTEMPT" = 3'
retries = 2
[agents.never]
shell = 'echo no >&2; exit 9'
retries = 1
[agents.gate]
shell = '''echo '{"gate":"secure","passed":false,"critical":true}' >> "$K1_REPORT"'''
retries = 5
"#,
    );
    let third = one(&ground, "third", 5, &json!({}));
    let never = one(&ground, "never", 5, &json!({}));
    let gate = one(&ground, "gate", 5, &json!({}));
    let worker = ground.worker(&[]);
    ground.ended(&third, "COMPLETED");
    assert_eq!(ground.read("tries"), "1\n2\n3\n");
    let never = ground.ended(&never, "FAILED");
    assert_eq!(never["tasks"].as_array().unwrap().len(), 2);
    let why = never["reasonForIncompletion"].as_str().unwrap();
    assert!(why.contains("agent never exited with 9: no"), "{why}");
    let gate = ground.ended(&gate, "FAILED");
    assert_eq!(gate["tasks"].as_array().unwrap().len(), 1);
    worker.stop();
    let count = "SELECT agent_type || ' ' || COUNT(*) FROM k1_agent_executions
        WHERE status = 'FAILED' GROUP BY agent_type ORDER BY agent_type";
    assert_eq!(ground.column(count), ["gate 1", "never 2", "third 2"]);
}

fn as_many_agents_at_once_as_asked_for(port: u16) {
    let ground = Ground::new(
        port,
        "[agents.crowd]\ntasks = ['crowd-a', 'crowd-b', 'crowd-c']\n\
         shell = 'echo + >> crowd; sleep 0.7; echo - >> crowd'\n",
    );
    let ids: Vec<String> = (0..9)
        .map(|n| {
            one(
                &ground,
                ["crowd-a", "crowd-b", "crowd-c"][n % 3],
                3,
                &json!({}),
            )
        })
        .collect();
    let worker = ground.worker(&["--jobs", "2"]);
    for id in &ids {
        ground.ended(id, "COMPLETED");
    }
    worker.stop();
    let (mut now, mut most) = (0, 0);
    for line in ground.read("crowd").lines() {
        now += if line == "+" { 1 } else { -1 };
        most = most.max(now);
    }
    assert_eq!((now, most), (0, 2));
}

fn the_word_to_stop(port: u16) {
    let ground = Ground::new(
        port,
        "[agents.stopped]\nshell = 'echo begin >> log; while ! test -e go; do sleep 0.1; done; \
         echo end >> log'\n",
    );
    let id = one(&ground, "stopped", 0, &json!({}));
    // It may finish within the grace.
    let worker = ground.worker(&["--grace", "60"]);
    until("the agent runs", || ground.read("log") == "begin\n");
    worker.signal("-TERM");
    until("it was heard", || {
        ground.read("worker.log").contains("have 60 s to finish")
    });
    ground.write("go", "");
    worker.stop_heard();
    ground.ended(&id, "COMPLETED");
    // Without grace the task goes back, and the next worker does it at once.
    std::fs::remove_file(ground.path("go")).unwrap();
    let id = one(&ground, "stopped", 0, &json!({}));
    let worker = ground.worker(&["--grace", "0"]);
    until("the agent runs", || ground.read("log").lines().count() == 3);
    worker.stop();
    assert_eq!(ground.workflow(&id)["tasks"][0]["status"], "SCHEDULED");
    ground.write("go", "");
    let begun = Instant::now();
    let worker = ground.worker(&[]);
    let workflow = ground.ended(&id, "COMPLETED");
    assert!(begun.elapsed() < AT_ONCE);
    assert_eq!(workflow["tasks"].as_array().unwrap().len(), 1);
    worker.stop();
    let sql = "SELECT status FROM k1_agent_executions ORDER BY started_at";
    assert_eq!(ground.column(sql), ["COMPLETED", "CANCELED", "COMPLETED"]);
}

fn a_killed_worker(port: u16) {
    let ground = Ground::new(
        port,
        "[agents.orphan]\nshell = 'mkdir busy || echo DOUBLE >> log; echo $$ >> pids; \
         test -e go || sleep 300; rmdir busy; echo end >> log'\n",
    );
    let id = one(&ground, "orphan", 0, &json!({}));
    let worker = ground.worker(&[]);
    until("the agent runs", || ground.read("pids").ends_with('\n'));
    worker.kill();
    let pid = ground.read("pids");
    until("the agent has ended too", || !runs(pid.trim()));
    std::fs::remove_dir(ground.path("busy")).unwrap();
    ground.write("go", "");
    let begun = Instant::now();
    let worker = ground.worker(&[]);
    ground.ended(&id, "COMPLETED");
    assert!(begun.elapsed() < AT_ONCE, "handed back at once");
    worker.stop();
    assert_eq!(ground.read("log"), "end\n");
    let sql = "SELECT status FROM k1_agent_executions ORDER BY started_at";
    assert_eq!(ground.column(sql), ["CANCELED", "COMPLETED"]);
}

/// As after a restore to a moment before its workflow.
fn an_answer_for_a_task_that_is_not_known_any_more(port: u16) {
    let ground = Ground::new(
        port,
        "[agents.lost]\nshell = 'echo $$ >> pids; sleep 300'\n[agents.next]\ncommand = ['true']\n",
    );
    let lost = one(&ground, "lost", 0, &json!({}));
    // A poll of the killed one that is still open is not for what the next one is to do.
    let worker = ground.worker(&["--types", "lost"]);
    until("the agent runs", || ground.read("pids").ends_with('\n'));
    worker.kill();
    ground.api("DELETE", &format!("/workflow/{lost}"), &Value::Null);
    let runs = std::fs::read_dir(ground.path(".conductor/agents")).unwrap();
    let mut notes = runs.map(|run| run.unwrap().path().join("run.json"));
    let file = notes.find(|file| file.exists()).unwrap();
    let mut note: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let unknown = "3f8a2a54-0f6e-4c12-9d9f-6f2f1f3b7a10";
    note["answer"] = json!({"workflowInstanceId": unknown, "taskId": unknown, "status": "COMPLETED",
        "outputData": {}, "workerId": "gone"});
    note["conductor_task"] = json!(unknown);
    std::fs::write(&file, note.to_string()).unwrap();

    let id = one(&ground, "next", 0, &json!({}));
    let worker = ground.worker(&[]);
    let begun = Instant::now();
    until("the task is done, or the answer waits for ever", || {
        let waits = ground.read("worker.log").contains("waits for the server");
        (waits && begun.elapsed() > AT_ONCE) || ground.workflow(&id)["status"] == "COMPLETED"
    });
    let said = ground.read("worker.log");
    assert_eq!(ground.workflow(&id)["status"], "COMPLETED", "{said}");
    worker.stop();
    let said = ground.read("worker.log");
    let warned = format!("does not know task {unknown}");
    assert!(said.contains(&warned), "{said}");
    assert!(!file.exists());
}

fn what_is_not_wanted_any_more_is_ended(port: u16) {
    let ground = Ground::new(
        port,
        "[agents.unwanted]\nshell = 'echo $$ > pid; exec sleep 300'\n",
    );
    let id = one(&ground, "unwanted", 0, &json!({}));
    let worker = ground.worker(&[]);
    until("the agent runs", || ground.read("pid").ends_with('\n'));
    ground.api("DELETE", &format!("/workflow/{id}"), &Value::Null);
    let pid = ground.read("pid");
    until("the agent is ended", || !runs(pid.trim()));
    until("that is recorded", || {
        ground.column("SELECT status FROM k1_agent_executions") == ["CANCELED"]
    });
    worker.stop();
}

/// Longer than a task of which nothing is heard stays with its worker.
fn a_long_task_is_handed_out_once(port: u16) {
    let ground = Ground::new(
        port,
        "[agents.long]\nshell = 'mkdir busy || echo DOUBLE >> log; sleep 65; rmdir busy; \
         echo end >> log'\n",
    );
    let id = one(&ground, "long", 0, &json!({}));
    let worker = ground.worker(&[]);
    let workflow = ground.ended(&id, "COMPLETED");
    worker.stop();
    assert_eq!(ground.read("log"), "end\n");
    assert_eq!(workflow["tasks"].as_array().unwrap().len(), 1);
}

fn a_killed_server(server: &Ground) {
    let ground = Ground::new(
        server.port,
        "[agents.survivor]\nshell = 'mkdir busy-$K1_WORKFLOW_ID || echo DOUBLE >> log; \
         while ! test -e go; do sleep 0.1; done; rmdir busy-$K1_WORKFLOW_ID; echo end >> log'\n",
    );
    let ids: Vec<String> = (0..6)
        .map(|_| one(&ground, "survivor", 3, &json!({})))
        .collect();
    let worker = ground.worker(&["--jobs", "3"]);
    let busy = || {
        let files = std::fs::read_dir(ground.folder.path()).unwrap().flatten();
        files
            .filter(|f| f.file_name().to_string_lossy().starts_with("busy-"))
            .count()
    };
    until("three agents run", || busy() == 3);
    signal(server.server_pid(), "-KILL");
    // Three answers come while nobody is there to take them.
    ground.write("go", "");
    until("the agents have ended", || {
        ground.read("log").lines().count() == 3
    });
    server.start();
    for id in &ids {
        let workflow = ground.ended(id, "COMPLETED");
        assert_eq!(workflow["tasks"].as_array().unwrap().len(), 1);
    }
    worker.stop();
    assert_eq!(ground.read("log"), "end\n".repeat(6));
    let sql = "SELECT status FROM k1_agent_executions";
    assert_eq!(ground.column(sql), vec!["COMPLETED"; 6]);
}

#[test]
fn a_worker_without_agents_or_for_unknown_types_says_so() {
    let ground = Ground::new(1, "");
    assert_code(&ground.run(&["worker"]), 2);
    let ground = Ground::new(1, "[agents.a]\ncommand = ['true']\n");
    let output = ground.run(&["worker", "--types", "b"]);
    assert_code(&output, 2);
    assert!(text(&output).contains("no agent does tasks of type b"));
    assert!(!ground.path(".conductor/data").exists());
}
