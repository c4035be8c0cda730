//! What runs leave in the K1 tables, and the note that tells of a run whose k1ops died.
//!
//! A note beside the run's files names the row that is open; it goes with the row's end.

use super::definition::Agent;
use super::queue::{Queue, Row};
use super::run::{Assignment, Outcome};
use crate::adapters::fs;
use crate::adapters::process::Identity;
use crate::error::{Context, Error, Result};
use crate::event::Events;
use crate::stack::Stack;
use crate::store::{AgentFinish, AgentStart, AgentStatus, NewGate, NewMetric, NewWorkflow};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// What asked for a workflow.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// Such as `PLAN` or `DIRECT`.
    pub source: String,
    /// Anything else worth keeping.
    pub metadata: Option<Value>,
}

impl Source {
    /// A plan asked for it.
    #[must_use]
    pub fn plan(name: &str) -> Self {
        Self {
            source: "PLAN".to_owned(),
            metadata: Some(serde_json::json!({ "plan": name })),
        }
    }

    /// The row of a workflow that it asked for: by one id here and in Conductor, where Conductor's
    /// is fit for it.
    fn workflow(&self, execution_id: &str) -> NewWorkflow {
        let mut row = NewWorkflow::new(execution_id);
        row.workflow_id = execution_id.parse().unwrap_or(row.workflow_id);
        row.source.clone_from(&self.source);
        row.custom_metadata.clone_from(&self.metadata);
        row
    }
}

/// Writes rows.
#[derive(Debug)]
pub struct Recorder {
    stack: Stack,
    queue: Queue,
}

/// A run that has begun and whose end is to be recorded.
#[derive(Debug, Clone)]
pub struct Begun {
    /// The folder of the run's files.
    pub folder: PathBuf,
    note: Note,
}

/// A run that was broken off: the k1ops that began it is no more.
#[derive(Debug)]
pub struct BrokenOff {
    /// The run.
    pub begun: Begun,
    /// Conductor's id of the task, if Conductor handed it out.
    pub conductor_task: Option<String>,
    /// The answer that was to be given for it, if it had come so far: then all rows are there.
    pub answer: Option<Value>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Note {
    owner: Option<Identity>,
    workflow: NewWorkflow,
    start: AgentStart,
    conductor_task: Option<String>,
    answer: Option<Value>,
    is_recorded: bool,
}

impl Recorder {
    /// A recorder into the stack's store, which is opened, so that what is wrong with it shows now.
    pub async fn open(stack: &Stack, events: &Events) -> Result<Self> {
        Ok(Self {
            stack: stack.clone(),
            queue: Queue::open(stack, events).await?,
        })
    }

    /// Makes a row for this workflow if there is none.
    pub async fn workflow(&self, execution_id: &str, source: &Source) -> Result<()> {
        let row = source.workflow(execution_id);
        self.queue.put(vec![Row::Workflow(row)]).await.map(drop)
    }

    /// Records that `agent` begins, with its workflow if that has no row yet, and names the folder for
    /// its files.
    pub async fn begin(
        &self,
        source: &Source,
        agent: &Agent,
        assignment: &Assignment,
        conductor_task: Option<&str>,
    ) -> Result<Begun> {
        let workflow = source.workflow(&assignment.workflow_id);
        let start = AgentStart::new(workflow.workflow_id, &assignment.task_id, &agent.name);
        let mut begun = Begun {
            folder: runs(&self.stack).join(start.execution_id.to_string()),
            note: Note {
                owner: Identity::of(std::process::id()),
                workflow: workflow.clone(),
                start: start.clone(),
                conductor_task: conductor_task.map(str::to_owned),
                answer: None,
                is_recorded: false,
            },
        };
        // The note first: a row that no note tells of would be RUNNING for ever.
        begun.note().await?;
        let rows = vec![Row::Begin(workflow, start)];
        // Somebody else may have recorded the workflow by another id.
        begun.note.start.workflow_id = self.queue.put(rows).await?;
        Ok(begun)
    }

    /// Records how the run ended, with its metrics and gates, and notes the `answer` that is to be
    /// given for it, so that it is given even if this k1ops dies then.
    pub async fn finish(
        &self,
        begun: &mut Begun,
        outcome: &Outcome,
        answer: Option<Value>,
    ) -> Result<()> {
        let AgentStart {
            workflow_id: workflow,
            task_id,
            ..
        } = &begun.note.start;
        let mut rows = Vec::new();
        for metric in &outcome.report.metrics {
            let row = NewMetric {
                task_id: Some(task_id.clone()),
                unit: metric.unit.clone(),
                tags: metric.tags.clone(),
                ..NewMetric::new(*workflow, &metric.name, metric.value)
            };
            rows.push(Row::Metric(row));
        }
        for gate in &outcome.report.gates {
            let row = NewGate {
                threshold: gate.threshold,
                actual: gate.actual,
                critical: gate.critical,
                details: gate.details.clone(),
                ..NewGate::new(*workflow, task_id, &gate.name, gate.passed)
            };
            rows.push(Row::Gate(row));
        }
        let metrics = outcome.report.metrics.iter();
        let metrics: Map<String, Value> = metrics
            .map(|metric| (metric.name.clone(), metric.value.into()))
            .collect();
        let mut stderr = outcome.stderr.clone();
        if let Some(failure) = &outcome.failure {
            stderr.push_str(&format!("\n[k1ops: {failure}]\n"));
        }
        let finish = AgentFinish {
            completed_at: outcome.completed_at,
            exit_code: outcome.exit_code,
            stdout_log: Some(outcome.stdout.clone()),
            stderr_log: Some(stderr),
            result_file_path: outcome
                .result_file
                .as_ref()
                .map(|file| file.display().to_string()),
            metrics: Some(metrics.into()),
            ..AgentFinish::new(outcome.status)
        };
        rows.push(Row::Finish(begun.execution(), finish));
        self.queue.put(rows).await?;
        begun.note.is_recorded = true;
        begun.note.answer = answer;
        begun.note().await
    }

    /// Nothing more is to be done for the run. Its files stay if it has a result.
    pub fn forget(begun: &Begun) -> Result<()> {
        fs::remove_if_there(&begun.file())?;
        if !begun.folder.join("result.json").exists() {
            std::fs::remove_dir_all(&begun.folder)
                .context(|| format!("{} cannot be removed", begun.folder.display()))?;
        }
        Ok(())
    }

    /// Records that a run was broken off.
    pub async fn break_off(&self, begun: &mut Begun, why: &str) -> Result<()> {
        if begun.note.is_recorded {
            return Ok(());
        }
        let finish = AgentFinish {
            stderr_log: Some(format!("[k1ops: {why}]\n")),
            ..AgentFinish::new(AgentStatus::Canceled)
        };
        // It may have been broken off before its row was there.
        let rows = vec![
            Row::Begin(begun.note.workflow.clone(), begun.note.start.clone()),
            Row::Finish(begun.execution(), finish),
        ];
        self.queue.put(rows).await?;
        begun.note.is_recorded = true;
        begun.note().await
    }
}

impl Begun {
    /// The execution's id in the K1 tables.
    #[must_use]
    pub fn execution(&self) -> Uuid {
        self.note.start.execution_id
    }

    fn file(&self) -> PathBuf {
        self.folder.join("run.json")
    }

    /// The disk is waited for beside the other work.
    async fn note(&self) -> Result<()> {
        let text = serde_json::to_vec(&self.note).context(|| "the run's note is not JSON")?;
        let file = self.file();
        tokio::task::spawn_blocking(move || fs::write_atomically(&file, &text))
            .await
            .context(|| "the run's note was not written")?
    }
}

/// The runs whose k1ops is no more.
pub fn broken_off(stack: &Stack) -> Result<Vec<BrokenOff>> {
    let folder = runs(stack);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(error).context(|| format!("{} cannot be read", folder.display()));
        }
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        if let Some(note) = read_note(&entry.path().join("run.json"))? {
            if note.owner.as_ref().is_some_and(Identity::is_alive) {
                continue;
            }
            found.push(BrokenOff {
                conductor_task: note.conductor_task.clone(),
                answer: note.answer.clone(),
                begun: Begun {
                    folder: entry.path(),
                    note,
                },
            });
        }
    }
    Ok(found)
}

fn read_note(path: &Path) -> Result<Option<Note>> {
    match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| {
            Error::bad_data(format!("{} is not the note of a run", path.display()))
                .hint("Remove the file; the run that it told of is lost.")
                .because(error)
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context(|| format!("{} cannot be read", path.display())),
    }
}

/// Where the files of runs are.
fn runs(stack: &Stack) -> PathBuf {
    stack.folder.join("agents")
}
