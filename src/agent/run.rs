//! One run of one agent: its files, its process, its time limit, and what it leaves.

use super::definition::Agent;
use super::gate::{Threshold, Verdict};
use super::log::BoundedLog;
use super::report::Report;
use super::template::{self, Values};
use crate::adapters::fs;
use crate::adapters::supervised::{Hold, Program, Supervised, Supervisors, read_rest};
use crate::error::{Context, Result};
use crate::interrupt::Interrupt;
use crate::store::AgentStatus;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The largest result that is handed on; a larger one stays a file.
const MOST_RESULT_BYTES: u64 = 256 << 10;
/// More of a line is not shown while the agent works.
const LONGEST_LINE: usize = 2000;

/// What an agent is to do.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// The workflow's id, as Conductor or the local run names it.
    pub workflow_id: String,
    /// The task's name within the workflow.
    pub task_id: String,
    /// Which try this is: 1, 2, ...
    pub attempt: u32,
    /// What the task was given.
    pub input: Map<String, Value>,
    /// The gates that its metrics have to pass.
    pub gates: Vec<Threshold>,
}

/// How a run ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Completed, failed, timed out or cancelled.
    pub status: AgentStatus,
    /// When the process was started.
    pub started_at: DateTime<Utc>,
    /// When it had ended.
    pub completed_at: DateTime<Utc>,
    /// Its exit code; 128 and the signal's number where a signal ended it.
    pub exit_code: Option<i32>,
    /// Its standard output, within bounds.
    pub stdout: String,
    /// Its standard error, within bounds.
    pub stderr: String,
    /// The metrics that it reported, and the gates, with those that were judged here.
    pub report: Report,
    /// The result file, if it wrote one.
    pub result_file: Option<PathBuf>,
    /// What is in the result file, if that is JSON and not too large.
    pub result: Option<Value>,
    /// Why it did not end well.
    pub failure: Option<String>,
    /// Trying again would not help.
    pub is_final: bool,
}

/// Where a line of output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// Who hears lines of output while the agent works.
pub type Line<'a> = &'a (dyn Fn(Stream, &str) + Send + Sync);

/// Runs agents.
#[derive(Debug, Default)]
pub struct Runner {
    supervisors: Supervisors,
}

impl Runner {
    /// Runs `agent` in `folder`, which is made and holds the run's files. Raising `cancel` ends it.
    ///
    /// That the agent fails is an [`Outcome`]; an error is that it could not be run at all.
    pub async fn run(
        &self,
        agent: &Agent,
        assignment: &Assignment,
        folder: &Path,
        cancel: &Interrupt,
        lines: Line<'_>,
    ) -> Result<Outcome> {
        let files = Files::create(folder, assignment)?;
        let started_at = Utc::now();
        let mut outcome = match program(agent, assignment, &files) {
            Err(why) => Outcome::refused(started_at, format!("agent {}: {why}", agent.name)),
            Ok(program) => {
                let mut program = self.supervisors.start(&program).await?;
                let outcome = follow(&mut program, agent, cancel, lines, started_at).await?;
                self.supervisors.keep(program);
                outcome
            }
        };
        outcome.take_files(&files)?;
        outcome.judge(agent, assignment);
        Ok(outcome)
    }
}

/// The files of one run.
struct Files {
    input: PathBuf,
    report: PathBuf,
    result: PathBuf,
}

impl Files {
    fn create(folder: &Path, assignment: &Assignment) -> Result<Self> {
        fs::create_private_folder(folder)?;
        let files = Self {
            input: folder.join("input.json"),
            report: folder.join("report.jsonl"),
            result: folder.join("result.json"),
        };
        let input = serde_json::to_vec(&assignment.input).context(|| "the input is not JSON")?;
        for (path, text) in [(&files.input, input), (&files.report, Vec::new())] {
            std::fs::write(path, text)
                .context(|| format!("{} cannot be written", path.display()))?;
        }
        Ok(files)
    }
}

/// The command with the values put in, or what keeps it from being run.
fn program(
    agent: &Agent,
    assignment: &Assignment,
    files: &Files,
) -> std::result::Result<Supervised, String> {
    let values = Values {
        task_id: &assignment.task_id,
        workflow_id: &assignment.workflow_id,
        attempt: assignment.attempt,
        input: &assignment.input,
    };
    let config = &agent.config;
    let mut command = Vec::new();
    for argument in &config.command {
        command.push(template::expand(argument, values)?);
    }
    if !config.shell.is_empty() {
        command = ["sh", "-c", &config.shell].map(str::to_owned).into();
    }
    let shown = |path: &Path| path.display().to_string();
    let mut environment = vec![
        ("K1_AGENT".to_owned(), agent.name.clone()),
        ("K1_TASK_ID".to_owned(), assignment.task_id.clone()),
        ("K1_WORKFLOW_ID".to_owned(), assignment.workflow_id.clone()),
        ("K1_ATTEMPT".to_owned(), assignment.attempt.to_string()),
        ("K1_INPUT".to_owned(), shown(&files.input)),
        ("K1_REPORT".to_owned(), shown(&files.report)),
        ("K1_RESULT".to_owned(), shown(&files.result)),
    ];
    for (name, value) in &config.env {
        environment.push((name.clone(), template::expand(value, values)?));
    }
    Ok(Supervised {
        command,
        environment,
        folder: agent.folder.clone(),
        limits: agent.limits,
    })
}

/// Follows the program to its end.
async fn follow(
    program: &mut Program,
    agent: &Agent,
    cancel: &Interrupt,
    lines: Line<'_>,
    started_at: DateTime<Utc>,
) -> Result<Outcome> {
    let Program {
        stdout,
        stderr,
        hold,
    } = program;
    let mut out = Output::of(Stream::Out, lines);
    let mut err = Output::of(Stream::Err, lines);
    let (status, exit_code) = {
        // Ends only where somebody killed the supervisor.
        let reading = async { tokio::join!(out.read(stdout), err.read(stderr)) };
        let waiting = wait(hold, agent, cancel);
        tokio::pin!(reading, waiting);
        tokio::select! {
            _ = &mut reading => waiting.await?,
            end = &mut waiting => end?,
        }
    };
    Ok(Outcome {
        status,
        started_at,
        completed_at: Utc::now(),
        exit_code,
        stdout: out.ended(stdout),
        stderr: err.ended(stderr),
        report: Report::default(),
        result_file: None,
        result: None,
        failure: None,
        is_final: false,
    })
}

/// Waits for the end, and brings it about when it is time.
async fn wait(
    hold: &mut Hold,
    agent: &Agent,
    cancel: &Interrupt,
) -> Result<(AgentStatus, Option<i32>)> {
    let status = tokio::select! {
        biased;
        ended = hold.ended() => {
            let code = ended?;
            let well = code == Some(0);
            return Ok((if well { AgentStatus::Completed } else { AgentStatus::Failed }, code));
        }
        () = cancel.raised() => AgentStatus::Canceled,
        () = tokio::time::sleep(agent.timeout()) => AgentStatus::TimedOut,
    };
    hold.let_go().await;
    Ok((status, hold.ended().await?))
}

/// One of a program's two streams of output, as far as it was read.
struct Output<'a> {
    stream: Stream,
    lines: Line<'a>,
    log: BoundedLog,
    /// The line that has not ended yet.
    line: Vec<u8>,
}

impl<'a> Output<'a> {
    fn of(stream: Stream, lines: Line<'a>) -> Self {
        Self {
            stream,
            lines,
            log: BoundedLog::default(),
            line: Vec::new(),
        }
    }

    async fn read(&mut self, from: &mut (impl AsyncRead + Unpin)) {
        let mut buffer = vec![0; 32 << 10];
        // A pipe that cannot be read has ended.
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            self.take(&buffer[..count]);
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.log.push(bytes);
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let room = LONGEST_LINE.saturating_sub(self.line.len());
            self.line.extend_from_slice(&piece[..room.min(piece.len())]);
            if piece.ends_with(b"\n") {
                self.tell();
            }
        }
    }

    fn tell(&mut self) {
        let line = String::from_utf8_lossy(&self.line);
        (self.lines)(self.stream, line.trim_end());
        self.line.clear();
    }

    /// All that was kept of it, once nobody writes any more.
    fn ended(mut self, pipe: &impl AsFd) -> String {
        read_rest(pipe, |bytes| self.take(bytes));
        if !self.line.is_empty() {
            self.tell();
        }
        self.log.into_text()
    }
}

impl Outcome {
    /// A run that never began.
    fn refused(at: DateTime<Utc>, why: String) -> Self {
        Self {
            status: AgentStatus::Failed,
            started_at: at,
            completed_at: at,
            exit_code: None,
            stdout: String::new(),
            stderr: String::new(),
            report: Report::default(),
            result_file: None,
            result: None,
            failure: Some(why),
            is_final: true,
        }
    }

    fn take_files(&mut self, files: &Files) -> Result<()> {
        self.report = Report::read(&files.report)?;
        let Ok(meta) = std::fs::metadata(&files.result) else {
            return Ok(());
        };
        self.result_file = Some(files.result.clone());
        if meta.len() <= MOST_RESULT_BYTES {
            let text = std::fs::read(&files.result)
                .context(|| format!("result {} cannot be read", files.result.display()))?;
            self.result = serde_json::from_slice(&text).ok();
        }
        Ok(())
    }

    /// Says how it went, from its end, its report and its gates.
    fn judge(&mut self, agent: &Agent, assignment: &Assignment) {
        let name = &agent.name;
        match self.status {
            AgentStatus::TimedOut => {
                let limit = agent.config.timeout;
                self.failure = Some(format!("agent {name} took longer than {limit} s"));
            }
            AgentStatus::Canceled => self.failure = Some(format!("agent {name} was stopped")),
            AgentStatus::Failed if self.failure.is_none() => {
                let code = self
                    .exit_code
                    .map_or("?".to_owned(), |code| code.to_string());
                let said = self.stderr.trim_end().lines().next_back().unwrap_or("");
                let said: String = said.chars().take(300).collect();
                self.failure = Some(format!("agent {name} exited with {code}: {said}"));
            }
            _ => {}
        }
        if self.status != AgentStatus::Completed {
            return;
        }
        let judged = assignment.gates.iter();
        let judged: Vec<Verdict> = judged.map(|g| g.judge(&self.report.metrics)).collect();
        self.report.gates.extend(judged);
        if let Some(problem) = &self.report.problem {
            self.fail(format!("agent {name} reported wrongly: {problem}"), false);
            return;
        }
        let mut gates = self.report.gates.iter();
        if let Some(gate) = gates.find(|gate| gate.critical && !gate.passed) {
            let figure = |n: Option<f64>| n.map_or("none".to_owned(), |n| n.to_string());
            let why = format!(
                "critical gate {:?} did not pass: {} against {}",
                gate.name,
                figure(gate.actual),
                figure(gate.threshold)
            );
            self.fail(why, true);
        }
    }

    fn fail(&mut self, why: String, is_final: bool) {
        self.status = AgentStatus::Failed;
        self.failure = Some(why);
        self.is_final = is_final;
    }

    /// Whether it ended well.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.status == AgentStatus::Completed
    }

    /// What is answered for the task: the result, the metrics by name, the gates.
    #[must_use]
    pub fn output(&self) -> Map<String, Value> {
        let metrics: Map<String, Value> = self
            .report
            .metrics
            .iter()
            .map(|metric| (metric.name.clone(), metric.value.into()))
            .collect();
        let mut output = Map::new();
        output.insert("metrics".to_owned(), metrics.into());
        let gates = serde_json::to_value(&self.report.gates).unwrap_or_default();
        output.insert("gates".to_owned(), gates);
        output.insert("exit_code".to_owned(), self.exit_code.into());
        if let Some(result) = &self.result {
            output.insert("result".to_owned(), result.clone());
        }
        if let Some(file) = &self.result_file {
            let file = file.display().to_string();
            output.insert("result_file".to_owned(), file.into());
        }
        output
    }
}
