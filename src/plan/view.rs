//! How a workflow stands, the same whether a server or a local run tells it.

use super::local::{LocalRun, LocalStatus};
use crate::conductor::{Task, Workflow, WorkflowStatus};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// A workflow and its tasks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WorkflowView {
    /// Its id.
    pub workflow_id: String,
    /// The plan's or definition's name.
    pub name: String,
    /// Where it stands, in Conductor's words.
    pub status: String,
    /// When it was started.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// Why it did not end well.
    pub reason: Option<String>,
    /// Its tasks, in the order in which they could begin. Of one that was tried again, the last try.
    pub tasks: Vec<TaskView>,
}

/// One task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskView {
    /// Its name within the workflow.
    pub id: String,
    /// The type or the agent.
    pub agent: String,
    /// Where it stands, in Conductor's words.
    pub status: String,
    /// Which try this is.
    pub attempt: u32,
    /// When it could begin.
    pub scheduled_at: Option<DateTime<Utc>>,
    /// When a worker began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// Why it did not end well.
    pub reason: Option<String>,
}

impl WorkflowView {
    /// Nothing more will happen.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(self.status.as_str(), "RUNNING" | "PAUSED")
    }

    /// It ended because something in it failed.
    #[must_use]
    pub fn is_failed(&self) -> bool {
        self.status == WorkflowStatus::Failed.name()
    }

    /// All its tasks are done.
    #[must_use]
    pub fn is_completed(&self) -> bool {
        self.status == WorkflowStatus::Completed.name()
    }
}

impl TaskView {
    /// Its last try did not end well, by itself.
    #[must_use]
    pub fn is_failed(&self) -> bool {
        matches!(
            self.status.as_str(),
            "FAILED" | "FAILED_WITH_TERMINAL_ERROR" | "TIMED_OUT"
        )
    }

    /// Seconds from its begin to its end.
    #[must_use]
    pub fn seconds(&self) -> Option<f64> {
        Some((self.ended_at? - self.started_at?).as_seconds_f64())
    }
}

impl From<&Workflow> for WorkflowView {
    fn from(workflow: &Workflow) -> Self {
        let tasks = workflow.tasks.iter();
        // Forks and joins are the server's own.
        let done_by_workers = |task: &&Task| !matches!(&*task.task_type, "FORK" | "JOIN");
        Self {
            workflow_id: workflow.workflow_id.clone(),
            name: workflow.workflow_name.clone(),
            status: workflow.status.name().to_owned(),
            started_at: moment(workflow.start_time),
            ended_at: moment(workflow.end_time),
            reason: workflow.reason_for_incompletion.clone(),
            tasks: tasks
                .filter(done_by_workers)
                .filter(|task| !task.retried)
                .map(TaskView::from)
                .collect(),
        }
    }
}

impl From<&Task> for TaskView {
    fn from(task: &Task) -> Self {
        let status = serde_json::to_value(task.status).unwrap_or_default();
        Self {
            id: task.reference_task_name.clone(),
            agent: task.task_type.clone(),
            status: status.as_str().unwrap_or_default().to_owned(),
            attempt: task.retry_count + 1,
            scheduled_at: moment(task.scheduled_time),
            started_at: moment(task.start_time),
            ended_at: moment(task.end_time),
            reason: task.reason_for_incompletion.clone(),
        }
    }
}

impl From<&LocalRun> for WorkflowView {
    fn from(run: &LocalRun) -> Self {
        let begun = run.plan.in_order().into_iter().filter_map(|task| {
            let state = run.tasks.get(&task.id)?;
            Some(TaskView {
                id: task.id.clone(),
                agent: task.agent.clone(),
                status: state.status.name().to_owned(),
                attempt: state.attempt,
                scheduled_at: Some(state.started_at),
                started_at: Some(state.started_at),
                ended_at: state.ended_at,
                reason: state.reason.clone(),
            })
        });
        let died = run.status == LocalStatus::Running && !run.is_alive();
        Self {
            workflow_id: run.id.clone(),
            name: run.plan.name.clone(),
            status: if died {
                "TERMINATED".to_owned()
            } else {
                run.status.name().to_owned()
            },
            started_at: Some(run.started_at),
            ended_at: run.ended_at,
            reason: if died {
                Some("the k1ops that ran it is no more".to_owned())
            } else {
                run.reason.clone()
            },
            tasks: begun.collect(),
        }
    }
}

fn moment(millis: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(millis).filter(|_| millis > 0)
}
