//! What is written into the K1 tables and read from them, and the checks that make both databases
//! take the same values.
//!
//! A check refuses what one of the two could not keep as it is (a NUL character, a number that is
//! not finite, a year without four digits); moments are cut to microseconds before they are stored.

use crate::error::{Error, Result};
use chrono::{DateTime, Datelike, SubsecRound, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// A workflow that is to be recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewWorkflow {
    /// The workflow's id.
    pub workflow_id: Uuid,
    /// Conductor's id of the execution; unique, at most 255 characters.
    pub conductor_execution_id: String,
    /// When it was created; also its first `updated_at`.
    pub created_at: DateTime<Utc>,
    /// Who asked for it.
    pub user_id: Option<String>,
    /// What asked for it.
    pub source: String,
    /// Free tags.
    pub tags: Option<Value>,
    /// Anything else worth keeping.
    pub custom_metadata: Option<Value>,
}

impl NewWorkflow {
    /// A workflow with a new id that was created now, from the source `MCP`.
    pub fn new(conductor_execution_id: impl Into<String>) -> Self {
        Self {
            workflow_id: Uuid::new_v4(),
            conductor_execution_id: conductor_execution_id.into(),
            created_at: Utc::now(),
            user_id: None,
            source: "MCP".to_owned(),
            tags: None,
            custom_metadata: None,
        }
    }

    pub(super) fn checked(mut self) -> Result<Self> {
        if self.conductor_execution_id.chars().count() > 255 {
            return Err(Error::bad_data(
                "conductor_execution_id is longer than 255 characters",
            ));
        }
        moment("created_at", &mut self.created_at)?;
        texts(&[
            ("conductor_execution_id", Some(&self.conductor_execution_id)),
            ("user_id", self.user_id.as_ref()),
            ("source", Some(&self.source)),
        ])?;
        json("tags", self.tags.as_ref())?;
        json("custom_metadata", self.custom_metadata.as_ref())?;
        Ok(self)
    }
}

/// A measured value that is to be recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct NewMetric {
    /// The row's id. To record the same id again changes nothing, so that a write whose answer was
    /// lost can be repeated.
    pub metric_id: Uuid,
    /// The workflow that it belongs to.
    pub workflow_id: Uuid,
    /// The task that it belongs to.
    pub task_id: Option<String>,
    /// What was measured.
    pub name: String,
    /// The value.
    pub value: Option<f64>,
    /// The value's unit.
    pub unit: Option<String>,
    /// When it was measured.
    pub recorded_at: DateTime<Utc>,
    /// Free tags.
    pub tags: Option<Value>,
}

impl NewMetric {
    /// A value that was measured now.
    pub fn new(workflow_id: Uuid, name: impl Into<String>, value: f64) -> Self {
        Self {
            metric_id: Uuid::new_v4(),
            workflow_id,
            task_id: None,
            name: name.into(),
            value: Some(value),
            unit: None,
            recorded_at: Utc::now(),
            tags: None,
        }
    }

    pub(super) fn checked(mut self) -> Result<Self> {
        moment("recorded_at", &mut self.recorded_at)?;
        number("metric_value", &mut self.value)?;
        texts(&[
            ("task_id", self.task_id.as_ref()),
            ("metric_name", Some(&self.name)),
            ("metric_unit", self.unit.as_ref()),
        ])?;
        json("tags", self.tags.as_ref())?;
        Ok(self)
    }
}

/// The outcome of a quality gate that is to be recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct NewGate {
    /// The row's id. To record the same id again changes nothing.
    pub gate_id: Uuid,
    /// The workflow that it belongs to.
    pub workflow_id: Uuid,
    /// The task that was judged.
    pub task_id: String,
    /// The gate.
    pub name: String,
    /// What was asked for.
    pub threshold: Option<f64>,
    /// What was found.
    pub actual: Option<f64>,
    /// Whether that is good enough.
    pub passed: bool,
    /// Whether not passing is critical.
    pub critical: bool,
    /// When it was judged.
    pub checked_at: DateTime<Utc>,
    /// Anything else worth keeping.
    pub details: Option<Value>,
}

impl NewGate {
    /// A gate, not critical, that was judged now.
    pub fn new(
        workflow_id: Uuid,
        task_id: impl Into<String>,
        name: impl Into<String>,
        passed: bool,
    ) -> Self {
        Self {
            gate_id: Uuid::new_v4(),
            workflow_id,
            task_id: task_id.into(),
            name: name.into(),
            threshold: None,
            actual: None,
            passed,
            critical: false,
            checked_at: Utc::now(),
            details: None,
        }
    }

    pub(super) fn checked(mut self) -> Result<Self> {
        moment("checked_at", &mut self.checked_at)?;
        number("gate_threshold", &mut self.threshold)?;
        number("actual_value", &mut self.actual)?;
        texts(&[
            ("task_id", Some(&self.task_id)),
            ("gate_name", Some(&self.name)),
        ])?;
        json("details", self.details.as_ref())?;
        Ok(self)
    }
}

/// An agent execution that begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStart {
    /// The row's id. To record the same id again changes nothing.
    pub execution_id: Uuid,
    /// The workflow that it belongs to.
    pub workflow_id: Uuid,
    /// The task that it works on.
    pub task_id: String,
    /// The kind of agent.
    pub agent_type: String,
    /// When it began.
    pub started_at: DateTime<Utc>,
}

impl AgentStart {
    /// An agent that begins now.
    pub fn new(
        workflow_id: Uuid,
        task_id: impl Into<String>,
        agent_type: impl Into<String>,
    ) -> Self {
        Self {
            execution_id: Uuid::new_v4(),
            workflow_id,
            task_id: task_id.into(),
            agent_type: agent_type.into(),
            started_at: Utc::now(),
        }
    }

    pub(super) fn checked(mut self) -> Result<Self> {
        moment("started_at", &mut self.started_at)?;
        texts(&[
            ("task_id", Some(&self.task_id)),
            ("agent_type", Some(&self.agent_type)),
        ])?;
        Ok(self)
    }
}

/// How an agent execution stands, in Conductor's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentStatus {
    /// It works.
    Running,
    /// It ended well.
    Completed,
    /// It ended badly.
    Failed,
    /// It took too long.
    TimedOut,
    /// It was stopped on purpose.
    Canceled,
}

impl AgentStatus {
    /// The word in the column `status`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::TimedOut => "TIMED_OUT",
            Self::Canceled => "CANCELED",
        }
    }
}

/// How an agent execution has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentFinish {
    /// When it ended.
    pub completed_at: DateTime<Utc>,
    /// How.
    pub status: AgentStatus,
    /// The process's exit code.
    pub exit_code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout_log: Option<String>,
    /// What it wrote to standard error.
    pub stderr_log: Option<String>,
    /// Where its result is.
    pub result_file_path: Option<String>,
    /// What it measured.
    pub metrics: Option<Value>,
}

impl AgentFinish {
    /// An agent that has ended now.
    #[must_use]
    pub fn new(status: AgentStatus) -> Self {
        Self {
            completed_at: Utc::now(),
            status,
            exit_code: None,
            stdout_log: None,
            stderr_log: None,
            result_file_path: None,
            metrics: None,
        }
    }

    pub(super) fn checked(mut self) -> Result<Self> {
        moment("completed_at", &mut self.completed_at)?;
        texts(&[
            ("stdout_log", self.stdout_log.as_ref()),
            ("stderr_log", self.stderr_log.as_ref()),
            ("result_file_path", self.result_file_path.as_ref()),
        ])?;
        json("metrics", self.metrics.as_ref())?;
        Ok(self)
    }
}

/// Which workflows are asked for. The default lets all through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SummaryFilter {
    /// At most so many, the newest.
    pub limit: Option<u32>,
    /// Created at this moment or later.
    pub since: Option<DateTime<Utc>>,
    /// From exactly this source.
    pub source: Option<String>,
    /// With this workflow id or Conductor execution id.
    pub workflow: Option<String>,
}

impl SummaryFilter {
    /// Whether every workflow passes, but for the limit.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.since.is_none() && self.source.is_none() && self.workflow.is_none()
    }

    /// The id that `workflow` is, if it is one.
    pub(super) fn workflow_id(&self) -> Option<Uuid> {
        self.workflow.as_deref().and_then(|w| w.parse().ok())
    }

    pub(super) fn checked(mut self) -> Result<Self> {
        if let Some(since) = &mut self.since {
            moment("since", since)?;
        }
        texts(&[
            ("source", self.source.as_ref()),
            ("workflow", self.workflow.as_ref()),
        ])?;
        Ok(self)
    }
}

/// A row of `k1_workflow_summary`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorkflowSummary {
    /// The workflow's id.
    pub workflow_id: Uuid,
    /// Conductor's id of the execution.
    pub conductor_execution_id: String,
    /// When it was created.
    pub created_at: Option<DateTime<Utc>>,
    /// What asked for it.
    pub source: Option<String>,
    /// Agent executions.
    pub total_tasks: i64,
    /// Agent executions that ended well.
    pub completed_tasks: i64,
    /// Agent executions that ended badly or took too long.
    pub failed_tasks: i64,
    /// Quality gates.
    pub total_quality_gates: i64,
    /// Quality gates that were passed.
    pub passed_quality_gates: i64,
    /// Critical quality gates that were not passed.
    pub critical_failures: i64,
    /// The first start of an agent.
    pub workflow_started: Option<DateTime<Utc>>,
    /// The last end of an agent.
    pub workflow_completed: Option<DateTime<Utc>>,
    /// Seconds from the first start to the last end, to the microsecond.
    pub duration_seconds: Option<f64>,
}

/// Rows of each table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Rows of `k1_workflow_metadata`.
    pub workflows: i64,
    /// Rows of `k1_execution_metrics`.
    pub metrics: i64,
    /// Rows of `k1_quality_gates`.
    pub gates: i64,
    /// Rows of `k1_agent_executions`.
    pub agent_executions: i64,
}

/// The workflow is recorded already.
pub(super) fn already_recorded(execution_id: &str) -> Error {
    Error::refused(format!(
        "workflow with Conductor execution id {execution_id:?} is recorded already"
    ))
}

/// The workflow that something belongs to is not recorded.
pub(super) fn unknown_workflow(id: Uuid) -> Error {
    Error::missing(format!("workflow {id} is not recorded"))
        .hint("Record the workflow before what belongs to it.")
}

/// The agent execution that is to be finished is not recorded.
pub(super) fn unknown_execution(id: Uuid) -> Error {
    Error::missing(format!("agent execution {id} is not recorded"))
        .hint("Record its start before its end.")
}

fn moment(column: &str, value: &mut DateTime<Utc>) -> Result<()> {
    if !(1..=9999).contains(&value.year()) {
        return Err(Error::bad_data(format!(
            "{column} {value} is not in the years 1 to 9999"
        )));
    }
    *value = value.trunc_subsecs(6);
    Ok(())
}

fn number(column: &str, value: &mut Option<f64>) -> Result<()> {
    match value {
        Some(n) if !n.is_finite() => Err(Error::bad_data(format!("{column} {n} is not a number"))),
        // A negative zero would come back from one database only.
        Some(n) => {
            *n += 0.0;
            Ok(())
        }
        None => Ok(()),
    }
}

fn texts(columns: &[(&str, Option<&String>)]) -> Result<()> {
    match columns
        .iter()
        .find(|(_, text)| text.is_some_and(|t| t.contains('\0')))
    {
        Some((column, _)) => Err(nul(column)),
        None => Ok(()),
    }
}

fn json(column: &str, value: Option<&Value>) -> Result<()> {
    fn has_nul(value: &Value) -> bool {
        match value {
            Value::String(text) => text.contains('\0'),
            Value::Array(items) => items.iter().any(has_nul),
            Value::Object(map) => map.iter().any(|(k, v)| k.contains('\0') || has_nul(v)),
            _ => false,
        }
    }
    if value.is_some_and(has_nul) {
        return Err(nul(column));
    }
    Ok(())
}

fn nul(column: &str) -> Error {
    Error::bad_data(format!("{column} contains a NUL character"))
        .hint("Remove it; PostgreSQL cannot store it.")
}
