//! Test 3: one task, through a real agent, with what it must leave behind.

use super::super::rig::{PATIENCE, Rig};
use super::super::{Finding, timeline};
use super::{expect_completed, made};
use crate::error::Result;
use crate::event::Events;
use crate::store::{Store, SummaryFilter};
use serde_json::Value;
use std::time::Instant;

pub(super) async fn run(rig: &mut Rig) -> Result<Finding> {
    let mut finding = Finding::default();
    let plan = rig.plan.only("k1-single", &["task-1"]);
    let begun = Instant::now();
    let view = rig.run_to_end(&plan, 0.2).await?;
    let took = begun.elapsed();
    finding.figure("task_seconds", took.as_secs_f64());
    finding.tasks = timeline::bars(&view);
    expect_completed(&view, &mut finding);
    finding.expect(took < PATIENCE, || {
        format!(
            "it took {:.0} s, more than five minutes",
            took.as_secs_f64()
        )
    });
    recorded(rig, &view.workflow_id, &mut finding).await?;
    Ok(finding)
}

/// The rows of the workflow, and what the agent said that it made.
async fn recorded(rig: &Rig, id: &str, finding: &mut Finding) -> Result<()> {
    let store = Store::open(&rig.place()?, &Events::silent()).await?;
    let filter = SummaryFilter {
        workflow: Some(id.to_owned()),
        ..SummaryFilter::default()
    };
    let rows = store.workflow_summaries(filter).await?;
    let Some(row) = rows.first() else {
        let fault = format!("workflow {id} is not in the K1 tables");
        finding.faults.push(fault);
        return Ok(());
    };
    let is = (
        row.completed_tasks,
        row.total_tasks,
        row.passed_quality_gates,
    );
    finding.expect(is == (1, 1, 2), || {
        format!("the K1 tables have {is:?} instead of 1 of 1 tasks and 2 passed gates")
    });
    let tasks = rig.k1ops(&["query", "tasks", "--workflow", id]).await?;
    let text = tasks
        .done("query tasks")
        .as_ref()
        .map_or(String::new(), Value::to_string);
    finding.expect(text.contains("task-1"), || {
        "k1ops query tasks does not show the task".to_owned()
    });
    // Where there is a server, what it keeps of the answer is what the agent made.
    if let Ok(workflow) = rig.client()?.workflow(id).await {
        let task = workflow
            .tasks
            .iter()
            .find(|t| t.reference_task_name == "task-1");
        let digest = task.map(|t| {
            t.output_data
                .get("result")
                .map_or(Value::Null, |r| r["digest"].clone())
        });
        let expected = made("task-1", &[]);
        finding.expect(digest == Some(expected.into()), || {
            format!("the server has another result than the agent made: {digest:?}")
        });
    }
    Ok(())
}
