//! Test 5: the same four tasks in a row and at once, both measured.

use super::super::rig::Rig;
use super::super::{Finding, timeline};
use super::expect_completed;
use crate::error::Result;
use crate::plan::{Plan, WorkflowView};

const TASKS: [&str; 4] = ["task-4", "task-5", "task-6", "task-7"];
/// How long each task waits for others, in seconds, as agents mostly do.
const WAIT: f64 = 3.0;
/// So many times faster at once.
const LEAST: f64 = 3.0;

pub(super) async fn run(rig: &mut Rig) -> Result<Finding> {
    let mut finding = Finding::default();
    let in_a_row = rig.run_to_end(&row(&rig.plan), WAIT).await?;
    let at_once = rig
        .run_to_end(&free(&rig.plan, "k1-parallel"), WAIT)
        .await?;
    finding.tasks = timeline::bars(&in_a_row);
    finding.tasks.extend(timeline::bars(&at_once));
    expect_completed(&in_a_row, &mut finding);
    expect_completed(&at_once, &mut finding);
    let (Some(row), Some(once)) = (seconds(&in_a_row), seconds(&at_once)) else {
        finding
            .faults
            .push("the workflows have no times".to_owned());
        return Ok(finding);
    };
    let speedup = row / once.max(0.001);
    finding.figure("in_a_row_seconds", row);
    finding.figure("at_once_seconds", once);
    finding.figure("speedup", speedup);
    finding.expect(speedup >= LEAST, || {
        format!("at once {once:.1} s, in a row {row:.1} s: {speedup:.1} times faster, not {LEAST}")
    });
    Ok(finding)
}

/// The tasks without what they wait for elsewhere.
fn free(plan: &Plan, name: &str) -> Plan {
    let mut plan = plan.only(name, &TASKS);
    for task in &mut plan.tasks {
        task.depends_on.clear();
        task.input.insert("from".to_owned(), "".into());
    }
    plan
}

/// The same, each after the one before.
fn row(plan: &Plan) -> Plan {
    let mut plan = free(plan, "k1-sequence");
    for at in 1..plan.tasks.len() {
        let before = plan.tasks[at - 1].id.clone();
        plan.tasks[at].depends_on = vec![before];
    }
    plan
}

/// From the first begin to the last end of a task, by the server's clock.
fn seconds(view: &WorkflowView) -> Option<f64> {
    let first = view.tasks.iter().filter_map(|t| t.started_at).min()?;
    let last = view.tasks.iter().filter_map(|t| t.ended_at).max()?;
    Some((last - first).as_seconds_f64())
}
