//! Test 4: 6, 7, 8, each after the one before, by the times that the server wrote down.

use super::super::rig::Rig;
use super::super::{Finding, timeline};
use super::{expect_completed, made};
use crate::error::Result;
use crate::stack::Tier;

const CHAIN: [&str; 3] = ["task-6", "task-7", "task-8"];

pub(super) async fn run(rig: &mut Rig) -> Result<Finding> {
    let mut finding = Finding::default();
    let mut plan = rig.plan.only("k1-chain", &CHAIN);
    from_within(&mut plan);
    let view = rig.run_to_end(&plan, 0.5).await?;
    finding.tasks = timeline::bars(&view);
    expect_completed(&view, &mut finding);
    for pair in CHAIN.windows(2) {
        let find = |id: &str| view.tasks.iter().find(|task| task.id == id);
        let (Some(before), Some(after)) = (find(pair[0]), find(pair[1])) else {
            finding
                .faults
                .push(format!("{} or {} was not done", pair[0], pair[1]));
            continue;
        };
        let is_after = before.ended_at.is_some() && after.scheduled_at >= before.ended_at;
        finding.expect(is_after, || {
            format!(
                "{} could begin at {:?}, before {} ended at {:?}",
                after.id, after.scheduled_at, before.id, before.ended_at
            )
        });
    }
    if rig.tier != Tier::Direct {
        results(rig, &view.workflow_id, &mut finding).await?;
    }
    Ok(finding)
}

/// Takes away what a task is given from tasks that are left out.
pub(super) fn from_within(plan: &mut crate::plan::Plan) {
    for task in &mut plan.tasks {
        let from: Vec<String> = task
            .depends_on
            .iter()
            .map(|on| format!("${{{on}.output.result.digest}}"))
            .collect();
        task.input.insert("from".to_owned(), from.join(" ").into());
    }
}

/// Each task was given what the one before had made.
async fn results(rig: &Rig, id: &str, finding: &mut Finding) -> Result<()> {
    let workflow = rig.client()?.workflow(id).await?;
    let mut before = String::new();
    for id in CHAIN {
        let from = [before.as_str()];
        let expected = made(id, if before.is_empty() { &[] } else { &from });
        let task = workflow.tasks.iter().find(|t| t.reference_task_name == id);
        let result = task.and_then(|task| task.output_data.get("result"));
        let digest = result.and_then(|result| result["digest"].as_str());
        finding.expect(digest == Some(&expected), || {
            format!("{id} made something else than follows from what was before it")
        });
        before = expected;
    }
    Ok(())
}
