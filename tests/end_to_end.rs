//! The main job with the real binary and real servers: workflows run halfway, a backup is taken, the
//! server is killed and its data destroyed, the backup restored, and the workflows run to their end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may stop at the first surprise, their helpers too"
)]

mod support;

use k1ops::conductor::{
    Client, Requeued, Step, TaskDefinition, WorkflowDefinition, WorkflowStatus, requeue,
};
use k1ops::event::Events;
use k1ops::interrupt::Interrupt;
use k1ops::store::{NewWorkflow, Place, Store};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use support::{Sandbox, ScratchDatabase, scratch_database};

/// The chain's tasks in their order; each answers its input plus one.
const TASKS: [&str; 3] = ["e2e_first", "e2e_second", "e2e_third"];

/// As many as the project was asked to bring back.
const WORKFLOWS: u64 = 70;

/// More than one server at a time would only make each slower.
static ONE_SERVER: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// How long the server may take to hand out tasks. One that was stranded is looked at 30 seconds
/// after it was put back.
const PATIENCE: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread")]
async fn an_sqlite_stack_comes_back_from_nothing() {
    let _alone = ONE_SERVER.lock().await;
    let stack = TestStack::new("");
    let database = stack.sandbox.path().join(".conductor/data/conductor.db");
    let queue = Queue::Sqlite(database.clone());
    lose_and_restore(
        &stack,
        &Place::Sqlite(stack.sandbox.k1_db()),
        &queue,
        || {
            for end in ["", "-wal", "-shm"] {
                let _ = std::fs::remove_file(format!("{}{end}", database.display()));
            }
            assert!(!database.exists());
            std::fs::remove_file(stack.sandbox.k1_db()).expect("the K1 store was there");
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stack_on_postgresql_comes_back_from_nothing() {
    let _alone = ONE_SERVER.lock().await;
    let database = scratch_database();
    let stack = TestStack::new(&format!("[database]\nurl = \"{}\"\n", database.url));
    let place = Place::Postgres(Box::new(database.address()));
    lose_and_restore(&stack, &place, &Queue::Postgres(&database), || {
        support::on_server(&format!("DROP DATABASE {} WITH (FORCE)", database.name));
    })
    .await;
}

/// The whole story; `destroy` makes the data of the killed server go.
async fn lose_and_restore(
    stack: &TestStack,
    place: &Place,
    queue: &Queue<'_>,
    destroy: impl FnOnce(),
) {
    let client = stack.start();
    let ids = begin(&client).await;
    work(&client, 0, WORKFLOWS).await;
    work(&client, 1, WORKFLOWS / 2).await;
    record(place, &ids).await;
    let before = shape(&client, &ids).await;

    stack.json(&["backup"]);
    stack.kill_server();
    destroy();
    let restored = stack.json(&["restore", "latest", "--yes"]);
    assert!(restored.get("error").is_none(), "{restored}");
    let client = stack.start();

    assert_eq!(shape(&client, &ids).await, before);
    let summary = stack.json(&["query", "summary", "--limit", "1000"]);
    for id in &ids {
        assert!(summary.to_string().contains(id), "{id} is not in {summary}");
    }
    let stranded = queue.strand(&ids[..5]);
    assert_eq!(stranded, 5, "messages of the decider queue were there");
    let counts = requeue(&client, &Events::silent(), &Interrupt::default()).await;
    let expected = Requeued {
        running: WORKFLOWS,
        requeued: 5,
        untouched: WORKFLOWS - 5,
        failed: 0,
    };
    assert_eq!(counts.unwrap(), expected);
    work(&client, 1, WORKFLOWS - WORKFLOWS / 2).await;
    work(&client, 2, WORKFLOWS).await;
    require_completed(&client, &ids).await;
    stack.json(&["stop"]);
}

/// A stack of the JAR tier in a sandbox. Its server goes when this is dropped, however the test
/// ends.
struct TestStack {
    sandbox: Sandbox,
}

impl TestStack {
    fn new(config: &str) -> Self {
        let port = k1ops::adapters::port::any_free().unwrap();
        // Preparing faster starts would only compete with the test for the processor.
        let config = format!(
            "[server]\nfast_start = false\nhealth_timeout = 240\n[ports]\nconductor = {port}\n{config}"
        );
        Self {
            sandbox: Sandbox::new(&config),
        }
    }

    /// `k1ops ARGUMENTS --json`, which must end well.
    fn json(&self, arguments: &[&str]) -> Value {
        let mut arguments = arguments.to_vec();
        arguments.push("--json");
        let output = self.sandbox.k1ops(&arguments).output().expect("k1ops runs");
        assert!(
            output.status.success(),
            "k1ops {arguments:?} ended with {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).expect("one JSON object")
    }

    fn start(&self) -> Client {
        let report = self.json(&["start", "--tier", "jar"]);
        assert_eq!(report["outcome"], "started", "{report}");
        Client::new(report["server"]["url"].as_str().expect("a URL")).unwrap()
    }

    fn state(&self) -> PathBuf {
        self.sandbox.path().join(".conductor/run/server.json")
    }

    fn server(&self) -> Option<u64> {
        let text = std::fs::read(self.state()).ok()?;
        let state: Value = serde_json::from_slice(&text).ok()?;
        state["process"]["pid"].as_u64()
    }

    /// `kill -9`, and on at once: that the process takes a moment to end is for k1ops to know.
    fn kill_server(&self) {
        let pid = self.server().expect("a server that was started");
        let killed = Command::new("kill").args(["-9", &pid.to_string()]).status();
        assert!(killed.expect("kill runs").success());
    }
}

impl Drop for TestStack {
    fn drop(&mut self) {
        let _ = self.sandbox.k1ops(&["stop"]).output();
    }
}

/// Where the server keeps its queues.
enum Queue<'a> {
    Sqlite(PathBuf),
    Postgres(&'a ScratchDatabase),
}

impl Queue<'_> {
    /// Takes the workflows out of the decider queue and answers how many were in it.
    fn strand(&self, ids: &[String]) -> usize {
        let list = format!("'{}'", ids.join("','"));
        let delete = format!(
            "DELETE FROM queue_message WHERE queue_name = '_deciderQueue' AND message_id IN ({list})"
        );
        match self {
            Self::Sqlite(path) => {
                let database = rusqlite::Connection::open(path).unwrap();
                database.busy_timeout(Duration::from_secs(30)).unwrap();
                database.execute(&delete, []).unwrap()
            }
            Self::Postgres(database) => database
                .column(&format!("{delete} RETURNING message_id"))
                .len(),
        }
    }
}

/// Registers the chain and starts the workflows.
async fn begin(client: &Client) -> Vec<String> {
    let task = |name: &str| TaskDefinition {
        name: name.to_owned(),
        owner_email: "test@k1ops.invalid".to_owned(),
        retry_count: 0,
        retry_delay_seconds: 60,
        timeout_seconds: 0,
        response_timeout_seconds: 600,
    };
    client.register_tasks(&TASKS.map(task)).await.unwrap();
    let step = |name: &str, source: &str| Step::simple(name, name, object("n", json!(source)));
    let chain = WorkflowDefinition {
        name: "end to end".to_owned(),
        version: 1,
        schema_version: 2,
        owner_email: "test@k1ops.invalid".to_owned(),
        tasks: vec![
            step(TASKS[0], "${workflow.input.n}"),
            step(TASKS[1], "${e2e_first.output.n}"),
            step(TASKS[2], "${e2e_second.output.n}"),
        ],
        output_parameters: object("n", json!("${e2e_third.output.n}")),
    };
    client.register_workflows(&[chain]).await.unwrap();
    let mut ids = Vec::new();
    for n in 0..WORKFLOWS {
        let input = object("n", json!(n));
        let correlation = format!("e2e {n}");
        let id = client.start_workflow("end to end", 1, &correlation, &input);
        ids.push(id.await.unwrap());
    }
    ids
}

/// Records each workflow in the K1 tables.
async fn record(place: &Place, ids: &[String]) {
    let store = Store::open(place, &Events::silent()).await.unwrap();
    for id in ids {
        store.record_workflow(NewWorkflow::new(id)).await.unwrap();
    }
}

/// A worker that does `count` tasks at one place of the chain.
async fn work(client: &Client, place: usize, count: u64) {
    let deadline = Instant::now() + PATIENCE;
    let mut done = 0;
    while done < count {
        assert!(
            Instant::now() < deadline,
            "only {done} of {count} tasks {} came",
            TASKS[place]
        );
        let batch = usize::try_from(count - done).unwrap().min(10);
        let wait = Duration::from_millis(500);
        let tasks = client.poll_tasks(TASKS[place], "test", batch, wait).await;
        for task in tasks.unwrap() {
            let n = task.input_data["n"].as_u64().expect("a number");
            let result = task.completed("test", object("n", json!(n + 1)));
            client.update_task(&result).await.unwrap();
            done += 1;
        }
    }
}

/// How each workflow stands: its status, and each task's name, status and answer.
async fn shape(client: &Client, ids: &[String]) -> Vec<String> {
    let mut shapes = Vec::new();
    for id in ids {
        let workflow = client.workflow(id).await.unwrap();
        let tasks = workflow.tasks.iter().map(|task| {
            let output = Value::Object(task.output_data.clone());
            format!("{} {:?} {output}", task.reference_task_name, task.status)
        });
        let tasks: Vec<String> = tasks.collect();
        shapes.push(format!("{id} {:?} {tasks:?}", workflow.status));
    }
    shapes
}

async fn require_completed(client: &Client, ids: &[String]) {
    let deadline = Instant::now() + PATIENCE;
    for (n, id) in (0_u64..).zip(ids) {
        loop {
            let workflow = client.workflow(id).await.unwrap();
            if workflow.status.is_final() {
                assert_eq!(workflow.status, WorkflowStatus::Completed, "{id}");
                assert_eq!(workflow.output["n"], json!(n + 3), "{id}");
                break;
            }
            assert!(Instant::now() < deadline, "workflow {id} does not end");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    assert_eq!(client.running_workflows().await.unwrap().len(), 0);
}

fn object(key: &str, value: Value) -> Map<String, Value> {
    Map::from_iter([(key.to_owned(), value)])
}
