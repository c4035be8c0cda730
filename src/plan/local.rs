//! Tier 3: a plan is run here, by this process, in the order and with the records that it has on a
//! server. What it has done is kept in a file, so that a run that was broken off can go on.

use super::expression;
use super::file::{Plan, PlanTask};
use crate::adapters::fs;
use crate::adapters::process::{Identity, Signal};
use crate::agent::{
    Agent, Agents, Assignment, Outcome, Recorder, Runner, Source, Stream, broken_off,
};
use crate::error::{Context, Error, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use crate::stack::Stack;
use crate::store::AgentStatus;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use uuid::Uuid;

/// How a local run runs.
#[derive(Debug, Clone, Copy)]
pub struct LocalOptions {
    /// Agents at once.
    pub jobs: usize,
}

/// A run of a plan without a server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LocalRun {
    /// Its id.
    pub id: String,
    /// The plan as it was when the run began.
    pub plan: Plan,
    /// What it was started with.
    pub input: Map<String, Value>,
    /// Where it stands.
    pub status: LocalStatus,
    /// When it was started.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// Why it did not end well.
    pub reason: Option<String>,
    owner: Option<Identity>,
    /// The tasks that have begun.
    pub tasks: BTreeMap<String, LocalTask>,
}

/// A task that has begun.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LocalTask {
    /// Where it stands.
    pub status: LocalStatus,
    /// The last try.
    pub attempt: u32,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// Why it did not end well.
    pub reason: Option<String>,
    output: Map<String, Value>,
}

/// Where a run or a task of it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum LocalStatus {
    /// It is at work.
    Running,
    /// It ended well.
    Completed,
    /// It did not.
    Failed,
    /// It was ended because of another task.
    Canceled,
    /// Somebody ended it.
    Terminated,
}

impl LocalStatus {
    /// Conductor's word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Canceled => "CANCELED",
            Self::Terminated => "TERMINATED",
        }
    }
}

impl LocalRun {
    /// A new run.
    #[must_use]
    pub fn new(plan: Plan, input: Map<String, Value>) -> Self {
        Self {
            id: Uuid::new_v4().to_string(),
            plan,
            input,
            status: LocalStatus::Running,
            started_at: Utc::now(),
            ended_at: None,
            reason: None,
            owner: None,
            tasks: BTreeMap::new(),
        }
    }

    /// The run with this id, if there is one.
    pub fn find(stack: &Stack, id: &str) -> Result<Option<Self>> {
        // An id that is not ours may be anything, a path too.
        if id.parse::<Uuid>().is_err() {
            return Ok(None);
        }
        read(&file(stack, id))
    }

    /// All runs, the newest first.
    pub fn all(stack: &Stack) -> Result<Vec<Self>> {
        let folder = folder(stack);
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(error).context(|| format!("{} cannot be read", folder.display()));
            }
        };
        let mut runs = Vec::new();
        for entry in entries.flatten() {
            if !fs::is_half_written(&entry.path()) {
                runs.extend(read(&entry.path())?);
            }
        }
        runs.sort_by_key(|run: &Self| std::cmp::Reverse(run.started_at));
        Ok(runs)
    }

    /// Whether the process that runs it is there.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.owner.as_ref().is_some_and(Identity::is_alive)
    }

    /// Ends the run: the process that runs it stops its agents and says so in the file. A run that
    /// nobody runs any more is marked as ended here.
    pub fn terminate(mut self, stack: &Stack) -> Result<()> {
        if self.status != LocalStatus::Running {
            return Err(Error::refused(format!(
                "workflow {} has ended already: {}",
                self.id,
                self.status.name()
            )));
        }
        if let Some(owner) = &self.owner
            && owner.signal(Signal::TERM)?
        {
            return Ok(());
        }
        self.end(LocalStatus::Terminated, Some("terminated".to_owned()));
        self.save(stack)
    }

    /// Makes a run that did not end well ready to go on: what was done stays done.
    pub fn prepare_retry(&mut self) -> Result<()> {
        if self.status == LocalStatus::Completed || self.is_alive() {
            let how = if self.is_alive() {
                "is running"
            } else {
                "has ended well"
            };
            return Err(Error::refused(format!("workflow {} {how}", self.id))
                .hint("Only what failed or was broken off can be tried again."));
        }
        self.tasks
            .retain(|_, task| task.status == LocalStatus::Completed);
        self.status = LocalStatus::Running;
        self.ended_at = None;
        self.reason = None;
        Ok(())
    }

    fn end(&mut self, status: LocalStatus, reason: Option<String>) {
        self.status = status;
        self.reason = reason;
        self.ended_at = Some(Utc::now());
    }

    fn save(&self, stack: &Stack) -> Result<()> {
        let text = serde_json::to_vec(self).context(|| "the run is not JSON")?;
        fs::write_atomically(&file(stack, &self.id), &text)
    }

    /// The first task that can begin.
    fn next(&self) -> Option<&PlanTask> {
        let is_done = |id: &String| {
            let task = self.tasks.get(id);
            task.is_some_and(|task| task.status == LocalStatus::Completed)
        };
        let mut tasks = self.plan.tasks.iter();
        tasks.find(|task| !self.tasks.contains_key(&task.id) && task.depends_on.iter().all(is_done))
    }

    fn assignment(&self, task: &PlanTask) -> Assignment {
        let mut known = Map::new();
        known.insert("workflow".into(), json!({ "input": self.input }));
        for (id, done) in &self.tasks {
            known.insert(id.clone(), json!({ "output": done.output }));
        }
        let input = task.input.iter();
        Assignment {
            workflow_id: self.id.clone(),
            task_id: task.id.clone(),
            attempt: 1,
            input: input
                .map(|(key, value)| (key.clone(), expression::resolve(value, &known)))
                .collect(),
            gates: task.gates.clone(),
        }
    }

    /// Takes over how a task ended; whether it ended well.
    fn take(&mut self, id: &str, attempt: u32, outcome: &Outcome) -> bool {
        let Some(task) = self.tasks.get_mut(id) else {
            return false;
        };
        task.attempt = attempt;
        task.ended_at = Some(outcome.completed_at);
        task.reason.clone_from(&outcome.failure);
        task.output = outcome.output();
        task.status = match outcome.status {
            AgentStatus::Completed => LocalStatus::Completed,
            AgentStatus::Canceled => LocalStatus::Canceled,
            _ => LocalStatus::Failed,
        };
        outcome.is_well()
    }
}

/// Runs what is left to do of `run`, and answers it as it ended.
pub async fn run_locally(
    stack: &Stack,
    mut run: LocalRun,
    agents: &Agents,
    options: LocalOptions,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<LocalRun> {
    run.plan.check(agents)?;
    let recorder = Arc::new(Recorder::open(stack, events).await?);
    close_broken_off(stack, &recorder).await?;
    let runner = Arc::new(Runner::default());
    let source = Source::plan(&run.plan.name);
    recorder.workflow(&run.id, &source).await?;
    run.owner = Identity::of(std::process::id());
    run.save(stack)?;
    events.note(format!("workflow {}", run.id));
    let cancel = Interrupt::default();
    let mut failure = None;
    let mut jobs = JoinSet::new();
    loop {
        while !cancel.is_raised()
            && jobs.len() < options.jobs
            && let Some(task) = run.next().cloned()
        {
            let job = Job {
                recorder: recorder.clone(),
                runner: runner.clone(),
                source: source.clone(),
                agent: agents.named(&task.agent)?.clone(),
                assignment: run.assignment(&task),
                cancel: cancel.clone(),
            };
            run.tasks.insert(task.id, LocalTask::begun());
            run.save(stack)?;
            jobs.spawn(job.run());
        }
        let done = tokio::select! {
            done = jobs.join_next() => done,
            () = interrupt.raised(), if !cancel.is_raised() => {
                cancel.raise();
                continue;
            }
        };
        let Some(done) = done else { break };
        let (id, attempt, outcome) = done.context(|| "a task broke off")??;
        events.note(format!("{id}: {}", outcome.status.name()));
        if !run.take(&id, attempt, &outcome) && !cancel.is_raised() {
            cancel.raise();
            failure = Some(format!("{id}: {}", outcome.failure.unwrap_or_default()));
        }
        run.save(stack)?;
    }
    if interrupt.is_raised() {
        run.end(LocalStatus::Terminated, Some("stopped".to_owned()));
    } else if failure.is_some() {
        run.end(LocalStatus::Failed, failure);
    } else {
        run.end(LocalStatus::Completed, None);
    }
    run.owner = None;
    run.save(stack)?;
    Ok(run)
}

/// Closes the rows of local runs that were broken off; those of a worker are the worker's.
async fn close_broken_off(stack: &Stack, recorder: &Recorder) -> Result<()> {
    for mut left in broken_off(stack)? {
        if left.conductor_task.is_none() {
            let why = "the k1ops that ran it ended before the agent did";
            recorder.break_off(&mut left.begun, why).await?;
            Recorder::forget(&left.begun)?;
        }
    }
    Ok(())
}

/// One task with all its tries.
struct Job {
    recorder: Arc<Recorder>,
    runner: Arc<Runner>,
    source: Source,
    agent: Agent,
    assignment: Assignment,
    cancel: Interrupt,
}

impl Job {
    async fn run(mut self) -> Result<(String, u32, Outcome)> {
        loop {
            let outcome = self.once().await?;
            let tries = self.assignment.attempt;
            let is_last = outcome.is_well() || outcome.is_final || self.cancel.is_raised();
            if is_last || tries > self.agent.config.retries {
                return Ok((self.assignment.task_id, tries, outcome));
            }
            let pause = Duration::from_secs(self.agent.config.retry_delay);
            tokio::select! {
                () = self.cancel.raised() => return Ok((self.assignment.task_id, tries, outcome)),
                () = tokio::time::sleep(pause) => {}
            }
            self.assignment.attempt += 1;
        }
    }

    async fn once(&self) -> Result<Outcome> {
        let Self {
            recorder,
            agent,
            assignment,
            cancel,
            ..
        } = self;
        let mut begun = recorder
            .begin(&self.source, agent, assignment, None)
            .await?;
        let quiet = |_: Stream, _: &str| {};
        let run = self
            .runner
            .run(agent, assignment, &begun.folder, cancel, &quiet);
        match run.await {
            Ok(outcome) => {
                recorder.finish(&mut begun, &outcome, None).await?;
                Recorder::forget(&begun)?;
                Ok(outcome)
            }
            Err(error) => {
                recorder.break_off(&mut begun, &error.to_string()).await?;
                Recorder::forget(&begun)?;
                Err(error)
            }
        }
    }
}

impl LocalTask {
    fn begun() -> Self {
        Self {
            status: LocalStatus::Running,
            attempt: 1,
            started_at: Utc::now(),
            ended_at: None,
            reason: None,
            output: Map::new(),
        }
    }
}

fn read(path: &Path) -> Result<Option<LocalRun>> {
    match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| {
            Error::bad_data(format!("{} is not a run of a plan", path.display()))
                .hint("Move the file away; the run that it tells of is in the K1 tables too.")
                .because(error)
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context(|| format!("{} cannot be read", path.display())),
    }
}

fn folder(stack: &Stack) -> PathBuf {
    stack.folder.join("workflows")
}

fn file(stack: &Stack, id: &str) -> PathBuf {
    folder(stack).join(format!("{id}.json"))
}
