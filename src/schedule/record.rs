//! What scheduled runs leave behind, so that it can be told whether the schedule really fires. Each
//! run writes when it begins and when it ends; one that was killed is found out by its process.

use crate::adapters::fs::{self, Lock};
use crate::adapters::process::Identity;
use crate::error::{Context, Result};
use crate::repository::is_ahead;
use crate::stack::Stack;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How many runs are remembered.
const REMEMBERED: usize = 200;

/// Who started a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// A person.
    Hand,
    /// A crontab.
    Cron,
    /// A timer.
    Systemd,
    /// `k1ops schedule run`.
    Daemon,
}

impl By {
    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hand => "hand",
            Self::Cron => "cron",
            Self::Systemd => "systemd",
            Self::Daemon => "daemon",
        }
    }
}

impl std::str::FromStr for By {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let all = [Self::Hand, Self::Cron, Self::Systemd, Self::Daemon];
        let found = all.into_iter().find(|by| by.name() == text);
        found.ok_or_else(|| "hand, cron, systemd or daemon".to_owned())
    }
}

/// One run of the schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Who started it.
    pub by: By,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it ended; none while it runs, or if it died.
    pub ended_at: Option<DateTime<Utc>>,
    /// The process.
    process: Identity,
    /// The archive that it made.
    pub archive: Option<String>,
    /// Archives that it deleted.
    pub pruned: usize,
    /// A drill was due, and passed.
    #[serde(default)]
    pub drilled: bool,
    /// Copies of the repository that are not up to date.
    #[serde(default)]
    pub behind: Vec<String>,
    /// What went wrong, in one line.
    pub error: Option<String>,
    /// Channels on which the message about it did not arrive.
    #[serde(default)]
    pub not_told: Vec<String>,
}

/// What became of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It is at work.
    Running,
    /// It did all it should.
    Good,
    /// Something went wrong.
    Failed,
    /// It was killed, or the host went down.
    Died,
}

impl Run {
    /// A run that begins now, in this process.
    #[must_use]
    pub fn begin(by: By) -> Option<Self> {
        Some(Self {
            by,
            started_at: Utc::now(),
            ended_at: None,
            process: Identity::of(std::process::id())?,
            archive: None,
            pruned: 0,
            drilled: false,
            behind: Vec::new(),
            error: None,
            not_told: Vec::new(),
        })
    }

    /// What became of it.
    #[must_use]
    pub fn fate(&self) -> Fate {
        match (&self.ended_at, &self.error) {
            (Some(_), None) => Fate::Good,
            (Some(_), Some(_)) => Fate::Failed,
            (None, _) if self.process.is_alive() => Fate::Running,
            (None, _) => Fate::Died,
        }
    }
}

/// The runs of a stack's schedule, oldest first.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Runs {
    /// The runs.
    pub runs: Vec<Run>,
}

impl Runs {
    /// What is remembered of a stack.
    pub fn read(stack: &Stack) -> Result<Self> {
        let file = file(stack);
        match std::fs::read(&file) {
            // A record that was damaged is no reason not to take a backup.
            Ok(text) => Ok(serde_json::from_slice(&text).unwrap_or_default()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).context(|| format!("{} cannot be read", file.display())),
        }
    }

    /// The last run that was begun.
    #[must_use]
    pub fn last(&self) -> Option<&Run> {
        self.runs.last()
    }

    /// The last run that was begun by `now`, as far as its date can be believed.
    #[must_use]
    pub fn last_until(&self, now: DateTime<Utc>) -> Option<&Run> {
        self.runs.iter().rfind(|run| !is_ahead(run.started_at, now))
    }

    /// The last one that was all good.
    #[must_use]
    pub fn last_good(&self) -> Option<&Run> {
        self.runs.iter().rfind(|run| run.fate() == Fate::Good)
    }

    /// Remembers `run`, in the place of what was known of it. The caller holds the run lock.
    pub fn remember(stack: &Stack, run: &Run, _lock: &Lock) -> Result<()> {
        let mut known = Self::read(stack)?;
        known
            .runs
            .retain(|other| other.process != run.process || other.started_at != run.started_at);
        known.runs.push(run.clone());
        let surplus = known.runs.len().saturating_sub(REMEMBERED);
        known.runs.drain(..surplus);
        let text = serde_json::to_vec_pretty(&known).context(|| "the run cannot be recorded")?;
        fs::write_atomically(&file(stack), &text)
    }
}

fn file(stack: &Stack) -> PathBuf {
    stack.folder.join("run").join("schedule.json")
}
