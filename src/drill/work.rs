//! A throw-away worker on the scratch server: whatever a workflow waits for is answered, until one
//! that was running when the backup was taken has come to its end.

use crate::conductor::{
    Client, Step, Task, TaskDefinition, TaskStatus, Workflow, WorkflowDefinition, WorkflowStatus,
};
use crate::error::{Error, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use serde::Serialize;
use serde_json::Map;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Who answers.
const WORKER: &str = "k1ops-drill";
/// What is started where nothing was running.
const OWN: &str = "k1ops_drill";
/// How many of the running workflows are worked on.
const TRIED: usize = 10;
/// How long they may take. What was put back into the decider queue is looked at after 30 seconds.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long to wait before looking again.
const LOOK: Duration = Duration::from_millis(250);
/// Tasks that the server itself does, or that stand for other tasks. Its own workers are switched
/// off, so that those that would reach out are answered here instead.
const OF_SERVER: [&str; 13] = [
    "DECISION",
    "DO_WHILE",
    "DYNAMIC",
    "EXCLUSIVE_JOIN",
    "FORK",
    "FORK_JOIN",
    "FORK_JOIN_DYNAMIC",
    "INLINE",
    "LAMBDA",
    "SET_VARIABLE",
    "SWITCH",
    "TERMINATE",
    "NOOP",
];
/// Tasks that no worker polls for, and that somebody may answer.
const ANSWERED: [&str; 10] = [
    "EVENT",
    "HTTP",
    "HUMAN",
    "JOIN",
    "JSON_JQ_TRANSFORM",
    "KAFKA_PUBLISH",
    "START_WORKFLOW",
    "SUB_WORKFLOW",
    "WAIT",
    "WAIT_FOR_WEBHOOK",
];

/// What the worker did.
#[derive(Debug, Clone, Serialize)]
pub struct Work {
    /// Workflows that were running when the backup was taken.
    pub running: u64,
    /// The workflow that came to its end.
    pub completed: String,
    /// None was running, so that one was started for it.
    pub was_started: bool,
    /// Tasks that were answered.
    pub tasks: u64,
    /// Seconds it took.
    pub seconds: f64,
}

/// Brings one running workflow to its end.
///
/// Fails with [`crate::error::ErrorKind::BadData`] if none gets there.
pub(super) async fn complete_one(
    client: &Client,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<Work> {
    let begun = Instant::now();
    let step = "completing a workflow";
    events.started(step);
    let running = interrupt.guard(client.running_workflows()).await?;
    let was_started = running.is_empty();
    let candidates = if was_started {
        BTreeSet::from([start_own(client).await?])
    } else {
        running.iter().take(TRIED).cloned().collect()
    };
    let mut worker = Worker {
        client,
        candidates,
        tasks: 0,
        last_seen: String::new(),
    };
    let completed = interrupt.guard(worker.work()).await?;
    events.finished(step, format!("{completed}, {} tasks", worker.tasks));
    Ok(Work {
        running: running.len() as u64,
        completed,
        was_started,
        tasks: worker.tasks,
        seconds: begun.elapsed().as_secs_f64(),
    })
}

async fn start_own(client: &Client) -> Result<String> {
    let owner_email = "drill@k1ops.invalid".to_owned();
    let task = TaskDefinition {
        name: OWN.to_owned(),
        owner_email: owner_email.clone(),
        retry_count: 0,
        retry_delay_seconds: 0,
        timeout_seconds: 0,
        response_timeout_seconds: 60,
    };
    client.register_tasks(&[task]).await?;
    let workflow = WorkflowDefinition {
        name: OWN.to_owned(),
        version: 1,
        schema_version: 2,
        owner_email,
        tasks: vec![Step::simple(OWN, OWN, Map::new())],
        output_parameters: Map::new(),
    };
    client.register_workflows(&[workflow]).await?;
    client.start_workflow(OWN, 1, OWN, &Map::new()).await
}

struct Worker<'a> {
    client: &'a Client,
    candidates: BTreeSet<String>,
    tasks: u64,
    last_seen: String,
}

impl Worker<'_> {
    async fn work(&mut self) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        while !self.candidates.is_empty() && Instant::now() < deadline {
            for id in self.candidates.clone() {
                let workflow = self.client.workflow(&id).await?;
                if workflow.status == WorkflowStatus::Completed {
                    return Ok(id);
                }
                if workflow.status.is_final() {
                    self.last_seen = format!("{id} ended as {:?}", workflow.status);
                    self.candidates.remove(&id);
                } else {
                    self.advance(&workflow).await?;
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        Err(Error::bad_data(format!(
            "no workflow that was running comes to its end: {}",
            self.last_seen
        ))
        .hint("Do the drill again with --keep, and see the server's log in the folder it names."))
    }

    /// Answers what a workflow waits for: through the queue where a worker would take it from
    /// there, since that is what must work, and directly otherwise.
    async fn advance(&mut self, workflow: &Workflow) -> Result<()> {
        let open: Vec<&Task> = workflow.tasks.iter().filter(|task| is_open(task)).collect();
        let only_joins = open.iter().all(|task| task.task_type == "JOIN");
        let seen: Vec<&str> = open.iter().map(|t| t.task_type.as_str()).collect();
        self.last_seen = format!("{} waits for [{}]", workflow.workflow_id, seen.join(", "));
        for task in open {
            let kind = task.task_type.as_str();
            let joins = kind == "JOIN";
            let taken = task.status == TaskStatus::InProgress;
            if OF_SERVER.contains(&kind) || (joins && !only_joins) {
                continue;
            }
            if taken || ANSWERED.contains(&kind) {
                self.answer(task).await?;
            } else {
                let wait = Duration::from_millis(100);
                for polled in self.client.poll_tasks(kind, WORKER, 10, wait).await? {
                    self.answer(&polled).await?;
                }
            }
        }
        Ok(())
    }

    async fn answer(&mut self, task: &Task) -> Result<()> {
        let result = task.completed(WORKER, Map::new());
        self.client.update_task(&result).await?;
        self.tasks += 1;
        Ok(())
    }
}

fn is_open(task: &Task) -> bool {
    matches!(task.status, TaskStatus::Scheduled | TaskStatus::InProgress)
}
