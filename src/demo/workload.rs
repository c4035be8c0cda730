//! What the demo's stack does: chains of three tasks, and the workers that do them.

use crate::conductor::{
    Client, Step, TaskDefinition, Workflow, WorkflowDefinition, WorkflowStatus,
};
use crate::error::{Error, Result};
use crate::event::{Events, Unit};
use serde_json::{Map, Value, json};
use std::ops::Range;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// The workflow's name.
const NAME: &str = "k1ops_demo";

/// The three tasks of the chain, in their order.
pub(super) const TASKS: [&str; 3] = ["k1ops_demo_plan", "k1ops_demo_build", "k1ops_demo_check"];

/// Tasks that a worker takes at once.
const BATCH: usize = 10;

/// How long the workers wait for tasks to come. A workflow that was put back into the decider queue
/// is looked at after 30 seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// A task that was done.
#[derive(Debug, Clone)]
pub(super) struct Done {
    /// The workflow it belongs to.
    pub workflow: String,
    /// Its place in [`TASKS`].
    pub task: usize,
    /// What the worker answered.
    pub value: u64,
}

/// Registers the chain: each task is given the number that the one before it answered.
pub(super) async fn register(client: &Client) -> Result<()> {
    let tasks = TASKS.map(|name| TaskDefinition {
        name: name.to_owned(),
        owner_email: "demo@k1ops.invalid".to_owned(),
        retry_count: 3,
        retry_delay_seconds: 60,
        timeout_seconds: 0,
        response_timeout_seconds: 60,
    });
    client.register_tasks(&tasks).await?;
    let step = |position: usize, source: String| {
        let name = TASKS[position];
        Step::simple(name, name, object(&[("n", json!(source))]))
    };
    let output = |position: usize| format!("${{{}.output.n}}", TASKS[position]);
    let chain = WorkflowDefinition {
        name: NAME.to_owned(),
        version: 1,
        schema_version: 2,
        owner_email: "demo@k1ops.invalid".to_owned(),
        tasks: vec![
            step(0, "${workflow.input.n}".to_owned()),
            step(1, output(0)),
            step(2, output(1)),
        ],
        output_parameters: object(&[("n", json!(output(2)))]),
    };
    client.register_workflows(&[chain]).await
}

/// Starts `count` workflows, each with its number, and answers their ids in that order.
pub(super) async fn start(client: &Client, count: u64, events: &Events) -> Result<Vec<String>> {
    let step = "starting workflows";
    events.started(step);
    let mut ids = Vec::new();
    for n in 0..count {
        let input = object(&[("n", json!(n))]);
        let correlation = format!("demo-{n}");
        ids.push(client.start_workflow(NAME, 1, &correlation, &input).await?);
        events.progress(step, n + 1, Some(count), Unit::Items);
    }
    events.finished(step, format!("{count} workflows of {} tasks", TASKS.len()));
    Ok(ids)
}

/// A worker for the task at `task` of the chain: does `count` of them and answers what it did.
pub(super) async fn work(
    client: &Client,
    task: usize,
    count: usize,
    events: &Events,
) -> Result<Vec<Done>> {
    let step = format!("working on {}", TASKS[task]);
    events.started(&step);
    let deadline = Instant::now() + PATIENCE;
    let mut done = Vec::new();
    while done.len() < count {
        if Instant::now() > deadline {
            return Err(Error::failed(format!(
                "only {} of {count} tasks {} came within {} seconds",
                done.len(),
                TASKS[task],
                PATIENCE.as_secs()
            ))
            .hint("See the server's log; with --keep it stays."));
        }
        let wanted = BATCH.min(count - done.len());
        let wait = Duration::from_millis(500);
        let worker = "k1ops-demo";
        for taken in client.poll_tasks(TASKS[task], worker, wanted, wait).await? {
            let value = answer(taken.input_data.get("n"))?;
            let result = taken.completed(worker, object(&[("n", json!(value))]));
            client.update_task(&result).await?;
            done.push(Done {
                workflow: taken.workflow_instance_id,
                task,
                value,
            });
        }
        let (made, total) = (done.len() as u64, Some(count as u64));
        events.progress(&step, made, total, Unit::Items);
    }
    events.finished(&step, format!("{count} tasks"));
    Ok(done)
}

/// Ids of workflows where there is no server to give any.
pub(super) fn made_up(count: u64) -> Vec<String> {
    (0..count).map(|_| Uuid::new_v4().to_string()).collect()
}

/// The same work where there is no server to hand it out.
pub(super) fn alone(executions: &[String], task: usize, which: Range<usize>) -> Vec<Done> {
    let chosen = (0..).zip(executions).skip(which.start).take(which.len());
    chosen
        .map(|(n, execution)| Done {
            workflow: execution.clone(),
            task,
            value: (0..=task).fold(n, |n, _| worked(n)),
        })
        .collect()
}

/// Waits until all of `ids` are completed, with the answer that their numbers lead to.
pub(super) async fn require_completed(client: &Client, ids: &[String]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    for (n, id) in (0..).zip(ids) {
        loop {
            let workflow = client.workflow(id).await?;
            if workflow.status.is_final() {
                check(&workflow, n)?;
                break;
            }
            if Instant::now() > deadline {
                return Err(Error::failed(format!("workflow {id} does not end"))
                    .hint("See the server's log; with --keep it stays."));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

/// The answer of a whole chain tells whether what earlier tasks answered came back as it was.
fn check(workflow: &Workflow, n: u64) -> Result<()> {
    let id = &workflow.workflow_id;
    if workflow.status != WorkflowStatus::Completed {
        return Err(Error::bad_data(format!(
            "workflow {id} ended as {:?}",
            workflow.status
        )));
    }
    let expected = (0..TASKS.len()).fold(n, |n, _| worked(n));
    let answered = workflow.output.get("n").and_then(Value::as_u64);
    if answered == Some(expected) {
        return Ok(());
    }
    Err(Error::bad_data(format!(
        "workflow {id} answered {answered:?} instead of {expected}"
    )))
}

/// What a worker makes of its input.
fn answer(input: Option<&Value>) -> Result<u64> {
    input
        .and_then(Value::as_u64)
        .map(worked)
        .ok_or_else(|| Error::bad_data(format!("a task came with the input {input:?}")))
}

/// The work itself. Not an addition, so that a lost or repeated task shows in the answer.
fn worked(n: u64) -> u64 {
    3 * n + 1
}

fn object(entries: &[(&str, Value)]) -> Map<String, Value> {
    entries
        .iter()
        .map(|(key, value)| ((*key).to_owned(), value.clone()))
        .collect()
}
