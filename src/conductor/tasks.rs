//! The worker's side: taking tasks and answering for them.

use super::Client;
use crate::error::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::time::Duration;

/// Where answers go.
const TASKS: &str = "/api/tasks";

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
    /// It took too long, or its worker was not heard of.
    TimedOut,
    /// Not wanted any more.
    Canceled,
    /// Another state in which no worker is asked, such as skipped.
    #[serde(other)]
    Other,
}

impl TaskStatus {
    /// Whether a worker may still work on it.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Scheduled | Self::InProgress)
    }
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
    /// How often it was tried before.
    #[serde(default)]
    pub retry_count: u32,
    /// Whether a later try has taken its place.
    #[serde(default)]
    pub retried: bool,
    /// When it could first be polled, in milliseconds since 1970; 0: not yet.
    #[serde(default)]
    pub scheduled_time: i64,
    /// When a worker took it, likewise.
    #[serde(default)]
    pub start_time: i64,
    /// When it ended, likewise.
    #[serde(default)]
    pub end_time: i64,
    /// The worker that took it last.
    pub worker_id: Option<String>,
    /// Why it did not end well.
    pub reason_for_incompletion: Option<String>,
}

/// A worker's answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
    /// Why it was not done.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason_for_incompletion: Option<String>,
    /// With [`TaskStatus::InProgress`]: seconds after which the task is handed out again, unless
    /// there is word of it before. 0 hands it back.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub callback_after_seconds: Option<u64>,
}

/// What became of a worker's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The server has it.
    Yes,
    /// The server knows no such task, nor will it.
    Unknown,
}

impl Task {
    /// The answer that this task is done.
    #[must_use]
    pub fn completed(&self, worker: &str, output: Map<String, Value>) -> TaskResult {
        TaskResult {
            output_data: output,
            ..self.answer(worker, TaskStatus::Completed)
        }
    }

    /// The answer that this task was not done, and why. A final one is not tried again.
    #[must_use]
    pub fn failed(
        &self,
        worker: &str,
        output: Map<String, Value>,
        why: String,
        is_final: bool,
    ) -> TaskResult {
        let status = if is_final {
            TaskStatus::FailedWithTerminalError
        } else {
            TaskStatus::Failed
        };
        TaskResult {
            output_data: output,
            reason_for_incompletion: Some(why),
            ..self.answer(worker, status)
        }
    }

    /// The word that this task is worked on, and that the next word comes within `seconds`. With 0
    /// it is handed back.
    #[must_use]
    pub fn in_progress(&self, worker: &str, seconds: u64) -> TaskResult {
        TaskResult {
            callback_after_seconds: Some(seconds),
            ..self.answer(worker, TaskStatus::InProgress)
        }
    }

    fn answer(&self, worker: &str, status: TaskStatus) -> TaskResult {
        TaskResult {
            workflow_instance_id: self.workflow_instance_id.clone(),
            task_id: self.task_id.clone(),
            status,
            output_data: Map::new(),
            worker_id: worker.to_owned(),
            reason_for_incompletion: None,
            callback_after_seconds: None,
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

    /// The task with this id.
    pub async fn task(&self, id: &str) -> Result<Task> {
        self.get(&Self::path(&["tasks", id], &[])?).await
    }

    /// Answers for a task. The server takes and ignores what comes for a task that has ended.
    pub async fn update_task(&self, result: &TaskResult) -> Result<()> {
        self.post(TASKS, result).await?;
        Ok(())
    }

    /// The same, where the task may be one that the server does not know any more.
    pub async fn update_task_if_known(&self, result: &TaskResult) -> Result<Taken> {
        let taken = self.post_if_known(TASKS, result).await?;
        Ok(taken.map_or(Taken::Unknown, |_| Taken::Yes))
    }
}
