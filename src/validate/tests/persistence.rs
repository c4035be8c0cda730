//! Test 1: what a workflow has done is still there after a stop, and after a crash.

use super::super::rig::Rig;
use super::super::{Finding, timeline};
use super::chain::from_within;
use super::{expect_completed, made};
use crate::conductor::{Client, TaskStatus};
use crate::error::{Error, Result};
use crate::event::Events;
use crate::stack::Tier;
use crate::store::{Store, SummaryFilter};
use serde_json::Value;
use std::collections::BTreeMap;

/// What a workflow has done: its status, and each completed task with its result.
#[derive(Debug, PartialEq)]
struct State {
    status: String,
    done: BTreeMap<String, Value>,
}

pub(super) async fn run(rig: &mut Rig) -> Result<Finding> {
    if rig.tier == Tier::Direct {
        return Err(Error::missing(
            "tier 3 has no server whose restart could be survived",
        ));
    }
    let mut finding = Finding::default();
    let mut plan = rig
        .plan
        .only("k1-persistence", &["task-6", "task-7", "task-8"]);
    from_within(&mut plan);
    rig.ensure_worker()?;
    let id = rig.begin(&plan, 1.0).await?;
    let half =
        |view: &crate::plan::WorkflowView| view.tasks.iter().any(|task| task.status == "COMPLETED");
    rig.until(&id, "the first completed task", half).await?;
    rig.stop_worker().await?;
    let before = state(&rig.client()?, &id).await?;
    finding.figure("done_before", before.done.len());
    finding.expect(before.done.len() < 3 && before.status == "RUNNING", || {
        "the workflow was not half done when it was stopped".to_owned()
    });
    rig.stop().await?;
    rig.start().await?;
    same(rig, &id, &before, "stop and start", &mut finding).await;
    rig.kill().await?;
    rig.start().await?;
    same(rig, &id, &before, "kill -9 and start", &mut finding).await;
    if !finding.faults.is_empty() {
        return Ok(finding);
    }
    rig.ensure_worker()?;
    let view = rig.ended(&id).await?;
    finding.tasks = timeline::bars(&view);
    expect_completed(&view, &mut finding);
    once(rig, &id, &mut finding).await?;
    let end = state(&rig.client()?, &id).await?;
    let six = made("task-6", &[]);
    let seven = made("task-7", &[&six]);
    let expected = made("task-8", &[&seven]);
    finding.expect(
        end.done.get("task-8") == Some(&Value::from(expected)),
        || "the last task made something else than follows from the first".to_owned(),
    );
    Ok(finding)
}

async fn state(client: &Client, id: &str) -> Result<State> {
    let workflow = client.workflow(id).await?;
    let done = workflow.tasks.iter();
    let done = done.filter(|task| task.status == TaskStatus::Completed);
    Ok(State {
        status: workflow.status.name().to_owned(),
        done: done
            .filter_map(|task| {
                let result = task.output_data.get("result")?;
                Some((task.reference_task_name.clone(), result["digest"].clone()))
            })
            .collect(),
    })
}

async fn same(rig: &Rig, id: &str, before: &State, what: &str, finding: &mut Finding) {
    let after = async { state(&rig.client()?, id).await };
    match after.await {
        Ok(after) => finding.expect(after == *before, || {
            format!("after {what} the workflow is {after:?}, and was {before:?}")
        }),
        Err(error) => {
            let fault = format!("after {what} the workflow is gone: {error}");
            finding.faults.push(fault);
        }
    }
}

/// Each task was done exactly once.
async fn once(rig: &Rig, id: &str, finding: &mut Finding) -> Result<()> {
    let store = Store::open(&rig.place()?, &Events::silent()).await?;
    let filter = SummaryFilter {
        workflow: Some(id.to_owned()),
        ..SummaryFilter::default()
    };
    let rows = store.workflow_summaries(filter).await?;
    let completed = rows.first().map_or(0, |row| row.completed_tasks);
    finding.expect(completed == 3, || {
        format!("the K1 tables have {completed} completed tasks instead of 3")
    });
    Ok(())
}
