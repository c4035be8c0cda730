//! Workflows that were started: one by its id, or all that are in a state.

use super::{Client, Task};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// The most ids that one search is asked for. Servers refuse more than 5000.
const PAGE: u64 = 1000;

/// How long a server may be away while a workflow is started.
const AWAY: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 120 });
/// The pause before it is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// Where a workflow stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum WorkflowStatus {
    /// It has tasks to do.
    Running,
    /// It has tasks to do, but is held back.
    Paused,
    /// All its tasks are done.
    Completed,
    /// A task failed for good.
    Failed,
    /// It took too long.
    TimedOut,
    /// Somebody ended it.
    Terminated,
    /// A state that this version of k1ops does not know.
    #[serde(other)]
    Unknown,
}

impl WorkflowStatus {
    /// Nothing more will happen.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::Completed | Self::Failed | Self::TimedOut | Self::Terminated
        )
    }

    /// The server's word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Paused => "PAUSED",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::TimedOut => "TIMED_OUT",
            Self::Terminated => "TERMINATED",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// One workflow as the server shows it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workflow {
    /// Its id.
    pub workflow_id: String,
    /// The name of its definition.
    #[serde(default)]
    pub workflow_name: String,
    /// Where it stands.
    pub status: WorkflowStatus,
    /// When it was started, in milliseconds since 1970.
    #[serde(default)]
    pub start_time: i64,
    /// When it ended, likewise; 0: not yet.
    #[serde(default)]
    pub end_time: i64,
    /// Why it did not end well.
    pub reason_for_incompletion: Option<String>,
    /// The caller's own id for it.
    pub correlation_id: Option<String>,
    /// What it was started with.
    #[serde(default)]
    pub input: Map<String, Value>,
    /// What it answered.
    #[serde(default)]
    pub output: Map<String, Value>,
    /// Its tasks so far, if they were asked for.
    #[serde(default)]
    pub tasks: Vec<Task>,
}

/// A page of a search.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    total_hits: u64,
    results: Vec<FoundWorkflow>,
}

/// A workflow as a search finds it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FoundWorkflow {
    /// Its id.
    pub workflow_id: String,
    /// The name of its definition.
    pub workflow_type: String,
    /// Where it stands.
    pub status: WorkflowStatus,
    /// When it was started, as the server writes it.
    pub start_time: Option<String>,
    /// When it ended, likewise.
    pub end_time: Option<String>,
}

impl Client {
    /// Starts a workflow and answers its id.
    pub async fn start_workflow(
        &self,
        name: &str,
        version: u32,
        correlation_id: &str,
        input: &Map<String, Value>,
    ) -> Result<String> {
        let path = Self::start_path(name, version, correlation_id)?;
        let id = self.post(&path, input).await?.trim().to_owned();
        if id.is_empty() {
            return Err(Error::failed(format!(
                "Conductor at {} started {name} without an id",
                self.base()
            )));
        }
        Ok(id)
    }

    /// The same, once and no more, also if a server dies over it: a lost answer does not tell whether
    /// there is a workflow now, so it is looked for by its `correlation_id`, which must be its own.
    pub async fn start_workflow_once(
        &self,
        name: &str,
        version: u32,
        correlation_id: &str,
        input: &Map<String, Value>,
    ) -> Result<String> {
        let path = Self::start_path(name, version, correlation_id)?;
        let begun = Instant::now();
        loop {
            if let Some(id) = self.post_if_heard(&path, input).await? {
                return Ok(id.trim().to_owned());
            }
            let found = loop {
                tokio::time::sleep(AGAIN).await;
                match self.correlated(name, correlation_id).await {
                    Ok(found) => break found,
                    Err(error) if begun.elapsed() > AWAY => return Err(error),
                    Err(error) => tracing::info!(%error, "whether it was started is not known yet"),
                }
            };
            if let Some(id) = found {
                // It may have been made and not have got its place in the queue.
                super::requeue::put_back(self, &id).await?;
                self.decide_workflow(&id).await?;
                return Ok(id);
            }
            if begun.elapsed() > AWAY {
                return Err(Error::failed(format!(
                    "Conductor at {} does not take the workflow {name}, and has none of correlation id {correlation_id}",
                    self.base()
                ))
                .hint("`k1ops logs` says why; when it is well again, start the workflow again."));
            }
        }
    }

    fn start_path(name: &str, version: u32, correlation_id: &str) -> Result<String> {
        let version = version.to_string();
        let query = [
            ("version", version.as_str()),
            ("correlationId", correlation_id),
        ];
        Self::path(&["workflow", name], &query)
    }

    /// The workflow of this definition with this correlation id, if there is one.
    async fn correlated(&self, name: &str, correlation_id: &str) -> Result<Option<String>> {
        let query = [("includeClosed", "true"), ("includeTasks", "false")];
        let path = Self::path(&["workflow", name, "correlated", correlation_id], &query)?;
        let found: Vec<Workflow> = self.get(&path).await?;
        Ok(found.into_iter().next().map(|found| found.workflow_id))
    }

    /// The workflow with this id, and its tasks.
    pub async fn workflow(&self, id: &str) -> Result<Workflow> {
        self.get(&Self::path(&["workflow", id], &[("includeTasks", "true")])?)
            .await
    }

    /// How many workflows the search index has in `status`.
    pub async fn count_workflows(&self, status: WorkflowStatus) -> Result<u64> {
        Ok(self.find(status, 0, 1).await?.total_hits)
    }

    /// The ids of all workflows that the search index has in `status`.
    pub async fn workflows_in(&self, status: WorkflowStatus) -> Result<BTreeSet<String>> {
        let total = self.count_workflows(status).await?;
        let mut ids = BTreeSet::new();
        // The last page first: when workflows end meanwhile, those behind them move to lower
        // positions, which are still to be read. In the other direction they would be missed.
        for page in (0..total.div_ceil(PAGE)).rev() {
            let found = self.find(status, page * PAGE, PAGE).await?;
            ids.extend(found.results.into_iter().map(|w| w.workflow_id));
        }
        Ok(ids)
    }

    /// The ids of all workflows that run and are not paused.
    ///
    /// The search index is asked, and for each known definition also the list of pending workflows
    /// that the server decides by: an index of its own (Elasticsearch) may be lost or behind.
    pub async fn running_workflows(&self) -> Result<BTreeSet<String>> {
        let mut ids = self.workflows_in(WorkflowStatus::Running).await?;
        for name in self.workflow_names().await? {
            let pending: Vec<String> = self
                .get(&Self::path(&["workflow", "running", &name], &[])?)
                .await?;
            ids.extend(pending);
        }
        for paused in self.workflows_in(WorkflowStatus::Paused).await? {
            ids.remove(&paused);
        }
        Ok(ids)
    }

    /// Holds a workflow back: no further task is scheduled.
    pub async fn pause_workflow(&self, id: &str) -> Result<()> {
        let path = Self::path(&["workflow", id, "pause"], &[])?;
        self.put(&path, &Map::new()).await?;
        Ok(())
    }

    /// Lets a paused workflow go on.
    pub async fn resume_workflow(&self, id: &str) -> Result<()> {
        let path = Self::path(&["workflow", id, "resume"], &[])?;
        self.put(&path, &Map::new()).await?;
        Ok(())
    }

    /// The newest workflows, at most `count`, of one definition or of all.
    pub async fn newest_workflows(
        &self,
        name: Option<&str>,
        count: u64,
    ) -> Result<Vec<FoundWorkflow>> {
        let wanted = name.map_or_else(String::new, |name| format!("workflowType IN ({name})"));
        let count = count.to_string();
        let query = [
            ("start", "0"),
            ("size", &count),
            ("sort", "startTime:DESC"),
            ("freeText", "*"),
            ("query", &wanted),
        ];
        let found: Found = self
            .get(&Self::path(&["workflow", "search"], &query)?)
            .await?;
        Ok(found.results)
    }

    /// Does again what failed in a workflow that ended.
    pub async fn retry_workflow(&self, id: &str) -> Result<()> {
        let path = Self::path(&["workflow", id, "retry"], &[])?;
        self.post(&path, &Map::new()).await?;
        Ok(())
    }

    /// Has the server look now what a workflow can go on with.
    pub async fn decide_workflow(&self, id: &str) -> Result<()> {
        let path = Self::path(&["workflow", "decide", id], &[])?;
        self.put(&path, &Map::new()).await?;
        Ok(())
    }

    /// Ends a workflow for good.
    pub async fn terminate_workflow(&self, id: &str, reason: &str) -> Result<()> {
        self.delete(&Self::path(&["workflow", id], &[("reason", reason)])?)
            .await?;
        Ok(())
    }

    async fn find(&self, status: WorkflowStatus, start: u64, size: u64) -> Result<Found> {
        let (start, size) = (start.to_string(), size.to_string());
        let wanted = format!("status IN ({})", status.name());
        let query = [
            ("start", start.as_str()),
            ("size", &size),
            ("sort", "startTime:ASC"),
            ("freeText", "*"),
            ("query", &wanted),
        ];
        self.get(&Self::path(&["workflow", "search"], &query)?)
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::lying_server::{Answer, LyingServer};

    /// As behind a balancer that answers for its server: it never takes it, and never has it.
    #[tokio::test]
    async fn a_workflow_that_is_never_taken_is_not_tried_for_ever() {
        let answers = vec![[Answer::Status(503), Answer::Whole]; 20].concat();
        let server = LyingServer::start(b"[]".to_vec(), answers).await;
        let client = Client::new(server.url("")).unwrap();
        let input = Map::new();
        let started = client.start_workflow_once("probe", 1, "mine", &input);
        let error = started.await.expect_err("it was started").to_string();
        assert!(error.contains("probe"), "{error}");
        assert!(server.ranges().len() >= 4, "{error}");
    }
}
