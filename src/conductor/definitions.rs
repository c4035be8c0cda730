//! What a server knows before anything runs: definitions of tasks and workflows. Registering one
//! that is there already replaces it.

use super::Client;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a worker may be asked to do.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskDefinition {
    /// The type that workers poll for.
    pub name: String,
    /// Who answers for it; servers may insist on one.
    pub owner_email: String,
    /// How often a failed task is tried again.
    pub retry_count: u32,
    /// Seconds between a failure and the next try.
    pub retry_delay_seconds: u64,
    /// Seconds until a task is given up; 0: never.
    pub timeout_seconds: u64,
    /// Seconds after which a polled task that nobody answered for is handed out again. The server
    /// refuses one that is not below a `timeout_seconds` other than 0, so it is always sent.
    pub response_timeout_seconds: u64,
}

/// One step of a workflow.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// The task definition's name.
    pub name: String,
    /// The name by which later steps refer to this one's output.
    pub task_reference_name: String,
    /// Who does it.
    #[serde(rename = "type")]
    kind: StepKind,
    /// What the worker is given; `${...}` refers to the workflow's input and earlier output.
    pub input_parameters: Map<String, Value>,
    /// Sequences of steps that are done at once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fork_tasks: Vec<Vec<Step>>,
    /// The steps that are waited for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub join_on: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    join_mode: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum StepKind {
    Simple,
    ForkJoin,
    Join,
}

impl Step {
    /// A step that a worker does.
    #[must_use]
    pub fn simple(name: &str, reference: &str, input: Map<String, Value>) -> Self {
        Self {
            name: name.to_owned(),
            input_parameters: input,
            ..Self::of_kind(StepKind::Simple, reference)
        }
    }

    /// Sequences that are done at once. The next step must be a join.
    #[must_use]
    pub fn fork(reference: &str, branches: Vec<Vec<Step>>) -> Self {
        Self {
            fork_tasks: branches,
            ..Self::of_kind(StepKind::ForkJoin, reference)
        }
    }

    /// Waits for steps, which may be in other branches of the fork that it is in.
    #[must_use]
    pub fn join(reference: &str, on: Vec<String>) -> Self {
        Self {
            join_on: on,
            // Otherwise the server looks less and less often, up to every 30 seconds.
            join_mode: Some("SYNC"),
            ..Self::of_kind(StepKind::Join, reference)
        }
    }

    fn of_kind(kind: StepKind, reference: &str) -> Self {
        Self {
            name: reference.to_owned(),
            task_reference_name: reference.to_owned(),
            kind,
            input_parameters: Map::new(),
            fork_tasks: Vec::new(),
            join_on: Vec::new(),
            join_mode: None,
        }
    }
}

/// Steps that are done one after the other.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkflowDefinition {
    /// The name that workflows are started by.
    pub name: String,
    /// The version; a server keeps all of them.
    pub version: u32,
    /// The format of definitions; servers take 2 only.
    pub schema_version: u32,
    /// Who answers for it; servers may insist on one.
    pub owner_email: String,
    /// The steps in their order.
    pub tasks: Vec<Step>,
    /// What the workflow answers with.
    pub output_parameters: Map<String, Value>,
}

/// What the server says of a list of definitions: it takes some and refuses others.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BulkAnswer {
    #[serde(default)]
    bulk_error_results: Map<String, Value>,
}

impl Client {
    /// Registers task definitions.
    pub async fn register_tasks(&self, tasks: &[TaskDefinition]) -> Result<()> {
        self.post("/api/metadata/taskdefs", &tasks).await?;
        Ok(())
    }

    /// Registers workflow definitions.
    pub async fn register_workflows(&self, workflows: &[WorkflowDefinition]) -> Result<()> {
        let path = "/api/metadata/workflow";
        let text = self.put(path, &workflows).await?;
        // Older servers answer with nothing, or with a bare list.
        let answer: BulkAnswer = serde_json::from_str(&text).unwrap_or(BulkAnswer {
            bulk_error_results: Map::new(),
        });
        match answer.bulk_error_results.into_iter().next() {
            None => Ok(()),
            Some((name, why)) => Err(Error::failed(format!(
                "Conductor at {} refused workflow definition {name}: {}",
                self.base(),
                why.as_str().map_or_else(|| why.to_string(), str::to_owned)
            ))),
        }
    }

    /// The names of all registered workflow definitions.
    pub async fn workflow_names(&self) -> Result<Vec<String>> {
        let names: Map<String, Value> = self
            .get("/api/metadata/workflow/names-and-versions")
            .await?;
        Ok(names.into_iter().map(|(name, _)| name).collect())
    }
}
