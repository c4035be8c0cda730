//! What the demo's workers leave in the K1 tables: for each task an agent execution, a metric and
//! the outcome of a quality gate.

use super::workload::{Done, TASKS};
use crate::error::{Error, Result};
use crate::event::{Events, Unit};
use crate::stack::Stack;
use crate::store::{
    AgentFinish, AgentStart, AgentStatus, NewGate, NewMetric, NewWorkflow, Store, SummaryFilter,
};
use serde::Serialize;
use std::collections::BTreeMap;
use uuid::Uuid;

/// What kind of agent does which task of the chain.
const AGENTS: [&str; 3] = ["planner", "builder", "checker"];

/// The K1 ids of workflows, by Conductor's ids.
pub(super) type Ids = BTreeMap<String, Uuid>;

/// What `k1_workflow_summary` says of all workflows together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Workflows.
    pub workflows: u64,
    /// Their tasks that ended well.
    pub completed_tasks: i64,
    /// Their tasks.
    pub total_tasks: i64,
    /// Their quality gates that were passed.
    pub passed_quality_gates: i64,
    /// Their quality gates.
    pub total_quality_gates: i64,
}

/// Records what workflows there are, and answers their ids.
pub(super) async fn workflows(
    stack: &Stack,
    executions: &[String],
    events: &Events,
) -> Result<Ids> {
    let store = Store::of(stack, events).await?;
    let mut ids = Ids::new();
    for execution in executions {
        let workflow = NewWorkflow {
            user_id: Some("demo".to_owned()),
            source: "DEMO".to_owned(),
            tags: Some(serde_json::json!(["demo"])),
            ..NewWorkflow::new(execution)
        };
        ids.insert(execution.clone(), store.record_workflow(workflow).await?);
    }
    Ok(ids)
}

/// Records what was done.
pub(super) async fn tasks(stack: &Stack, ids: &Ids, done: &[Done], events: &Events) -> Result<()> {
    let step = "recording what the workers did";
    events.started(step);
    let store = Store::of(stack, events).await?;
    let total = done.len() as u64;
    for (count, done) in (1..).zip(done) {
        let Some(&workflow) = ids.get(&done.workflow) else {
            return Err(Error::bad_data(format!(
                "a worker was given a task of {}, which the demo did not start",
                done.workflow
            )));
        };
        task(&store, workflow, done).await?;
        events.progress(step, count, Some(total), Unit::Items);
    }
    events.finished(step, format!("{total} tasks"));
    Ok(())
}

async fn task(store: &Store, workflow: Uuid, done: &Done) -> Result<()> {
    let name = TASKS[done.task];
    let execution = store
        .start_agent_execution(AgentStart::new(workflow, name, AGENTS[done.task]))
        .await?;
    let finish = AgentFinish {
        exit_code: Some(0),
        stdout_log: Some(format!("answered {}\n", done.value)),
        ..AgentFinish::new(AgentStatus::Completed)
    };
    store.finish_agent_execution(execution, finish).await?;
    #[allow(
        clippy::cast_precision_loss,
        reason = "the demo's numbers are far below 2^53"
    )]
    let value = done.value as f64;
    let metric = NewMetric {
        task_id: Some(name.to_owned()),
        ..NewMetric::new(workflow, "answer", value)
    };
    store.record_metric(metric).await?;
    let gate = NewGate {
        threshold: Some(1.0),
        actual: Some(value),
        critical: true,
        ..NewGate::new(workflow, name, "answer is positive", value >= 1.0)
    };
    store.record_gate(gate).await?;
    Ok(())
}

/// What the view says of the demo's workflows.
pub(super) async fn summary(stack: &Stack, events: &Events) -> Result<Summary> {
    let filter = SummaryFilter {
        source: Some("DEMO".to_owned()),
        ..SummaryFilter::default()
    };
    let rows = Store::of(stack, events)
        .await?
        .workflow_summaries(filter)
        .await?;
    let mut summary = Summary::default();
    for row in rows {
        summary.workflows += 1;
        summary.total_tasks += row.total_tasks;
        summary.completed_tasks += row.completed_tasks;
        summary.total_quality_gates += row.total_quality_gates;
        summary.passed_quality_gates += row.passed_quality_gates;
    }
    Ok(summary)
}
