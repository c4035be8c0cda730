//! A plan on a server.

use super::file::Plan;
use super::view::{TaskView, WorkflowView};
use crate::agent::{Agents, Recorder, Source};
use crate::conductor::Client;
use crate::error::{Error, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::timeout;
use uuid::Uuid;

/// How often a workflow is looked at.
const POLL: Duration = Duration::from_millis(300);

/// For how long a workflow that is tried again has to stay alive.
const SETTLED: Duration = Duration::from_secs(2);

/// How often a workflow is tried again that does not stay alive.
const RETRIES: u32 = 5;

/// Registers the plan's definitions, replacing those of the same version.
pub async fn register(client: &Client, plan: &Plan, agents: &Agents) -> Result<()> {
    client
        .register_tasks(&plan.task_definitions(agents)?)
        .await?;
    client
        .register_workflows(&[plan.workflow_definition(agents)?])
        .await
}

/// Starts the registered plan, records the workflow, and answers its id.
pub async fn start(
    client: &Client,
    plan: &Plan,
    input: &Map<String, Value>,
    recorder: &Recorder,
) -> Result<String> {
    let correlation = Uuid::new_v4().to_string();
    let id = client
        .start_workflow_once(&plan.name, plan.version, &correlation, input)
        .await?;
    recorder.workflow(&id, &Source::plan(&plan.name)).await?;
    Ok(id)
}

/// Does again what failed, and sees to it that the server stays with that.
///
/// A join that waits for what failed is woken by the same retry. If it looks before the server has
/// put the new try in the place of the old one, it fails for the old one, and the workflow with it.
pub async fn retry(client: &Client, id: &str, interrupt: &Interrupt) -> Result<()> {
    for _ in 0..RETRIES {
        interrupt.guard(client.retry_workflow(id)).await?;
        let staying = async { Ok(timeout(SETTLED, fails_for_the_past(client, id)).await) };
        match interrupt.guard(staying).await? {
            // Nothing ended it in all that time.
            Err(_) | Ok(Ok(false)) => return Ok(()),
            Ok(Ok(true)) => tracing::info!(id, "failed again for a try that is past"),
            Ok(Err(error)) => return Err(error),
        }
    }
    Err(Error::failed(format!(
        "workflow {id} fails again and again although no task of it does"
    ))
    .hint("Look at it with k1ops workflow show, and at the server's log with k1ops logs."))
}

/// Waits until a workflow has ended; whether it failed although none of its tasks stands as failed.
async fn fails_for_the_past(client: &Client, id: &str) -> Result<bool> {
    loop {
        let workflow = client.workflow(id).await?;
        let view = WorkflowView::from(&workflow);
        if view.is_final() {
            let was_tried_again = workflow.tasks.iter().any(|task| task.retried);
            let is_failed = view.tasks.iter().any(TaskView::is_failed);
            return Ok(view.is_failed() && was_tried_again && !is_failed);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Follows a workflow to its end and tells each change. A server that goes away is waited for.
pub async fn watch(
    client: &Client,
    id: &str,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<WorkflowView> {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let mut was_there = false;
    loop {
        let look = async { Ok(client.workflow(id).await) };
        match interrupt.guard(look).await? {
            Ok(workflow) => {
                was_there = true;
                let view = WorkflowView::from(&workflow);
                tell(&view, &mut known, events);
                if view.is_final() {
                    return Ok(view);
                }
            }
            // The first answer says whether there is such a workflow.
            Err(error) if !was_there => return Err(error),
            Err(error) => tracing::info!(%error, "the server is away"),
        }
        let pause = async {
            tokio::time::sleep(POLL).await;
            Ok(())
        };
        interrupt.guard(pause).await?;
    }
}

fn tell(view: &WorkflowView, known: &mut BTreeMap<String, String>, events: &Events) {
    for task in &view.tasks {
        let before = known.insert(task.id.clone(), task.status.clone());
        if before.as_ref() != Some(&task.status) && task.status != "SCHEDULED" {
            events.note(format!("{}: {}", task.id, task.status));
        }
    }
}
