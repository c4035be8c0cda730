//! The worker's side: taking tasks and answering for them.

use super::Client;
use crate::error::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::time::Duration;

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TaskStatus {
    /// No worker has taken it yet.
    Scheduled,
    /// A worker has it.
    InProgress,
    /// Done.
    Completed,
    /// Not done; it is tried again as often as its definition says.
    Failed,
    /// Not done, and trying again would not help.
    FailedWithTerminalError,
    /// A state in which no worker is asked: timed out, cancelled, skipped and the like.
    #[serde(other)]
    Other,
}

/// One task as the server shows it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Task {
    /// Its id.
    pub task_id: String,
    /// The type that workers poll for.
    pub task_type: String,
    /// Its name within the workflow.
    pub reference_task_name: String,
    /// The workflow it belongs to.
    pub workflow_instance_id: String,
    /// Where it stands.
    pub status: TaskStatus,
    /// What the worker is given.
    #[serde(default)]
    pub input_data: Map<String, Value>,
    /// What the worker answered.
    #[serde(default)]
    pub output_data: Map<String, Value>,
}

/// A worker's answer.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskResult {
    /// The workflow the task belongs to.
    pub workflow_instance_id: String,
    /// The task.
    pub task_id: String,
    /// How it went.
    pub status: TaskStatus,
    /// What came out.
    pub output_data: Map<String, Value>,
    /// Who did it.
    pub worker_id: String,
}

impl Task {
    /// The answer that this task is done.
    #[must_use]
    pub fn completed(&self, worker: &str, output: Map<String, Value>) -> TaskResult {
        TaskResult {
            workflow_instance_id: self.workflow_instance_id.clone(),
            task_id: self.task_id.clone(),
            status: TaskStatus::Completed,
            output_data: output,
            worker_id: worker.to_owned(),
        }
    }
}

impl Client {
    /// Takes up to `count` tasks of type `kind`, waiting up to `wait` for the first.
    pub async fn poll_tasks(
        &self,
        kind: &str,
        worker: &str,
        count: usize,
        wait: Duration,
    ) -> Result<Vec<Task>> {
        let (count, wait) = (count.to_string(), wait.as_millis().to_string());
        let query = [
            ("count", count.as_str()),
            ("timeout", &wait),
            ("workerid", worker),
        ];
        self.get(&Self::path(&["tasks", "poll", "batch", kind], &query)?)
            .await
    }

    /// Answers for a task.
    pub async fn update_task(&self, result: &TaskResult) -> Result<()> {
        self.post("/api/tasks", result).await?;
        Ok(())
    }
}
