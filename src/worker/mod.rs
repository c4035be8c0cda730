//! A worker: takes tasks from Conductor, has agents do them, and answers for them.
//!
//! What Conductor asks of a worker: a task that is taken is worked on until there is an answer, and
//! word of it comes before its time is up, else it is handed out again. So each task has a
//! heartbeat from the moment it is taken; what a dead worker left is handed back by the next one;
//! an answer is noted on disk before it is given, and given until the server has taken it. It does
//! not know how agents run or what they leave in the K1 tables.

mod inherit;
mod job;
mod nudge;
mod poll;

use crate::adapters::fs::Lock;
use crate::agent::{Agents, Recorder, Runner};
use crate::conductor::Client;
use crate::error::{Error, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use crate::stack::Stack;
use job::{Answered, Running};
pub use job::{PLAN_KEY, PlanNote};
use nudge::Nudges;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Answers at once for each agent at once.
const ANSWERS: usize = 4;

/// How a worker works.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// The server; the stack's own if not named.
    pub server: Option<String>,
    /// Agents at once.
    pub jobs: usize,
    /// Take tasks of these types only; empty: of all that agents do.
    pub types: Vec<String>,
    /// How long running agents may go on after the word to stop.
    pub grace: Duration,
}

/// What a worker did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct WorkerReport {
    /// Tasks that were done.
    pub completed: u64,
    /// Tasks that were tried and failed.
    pub failed: u64,
    /// Tasks that were given back, or were not wanted any more.
    pub handed_back: u64,
    /// How long it worked.
    pub seconds: f64,
}

/// What every part of a worker stands on.
struct Worker {
    client: Client,
    agents: Agents,
    recorder: Recorder,
    runner: Runner,
    /// How the server knows it.
    name: String,
    events: Events,
    /// Raised when no further task is to be taken.
    stop: Interrupt,
    /// Raised when nothing is to be waited for any more.
    end: Interrupt,
    /// Agents at once, and a slot for each.
    jobs: usize,
    slots: Arc<Semaphore>,
    /// Answers at once: an agent's slot is free for the next while its answer is given.
    answers: Semaphore,
    running: Running,
    answered: Answered,
    nudges: Nudges,
    pace: Pace,
    counts: Counts,
}

/// How long agents take of late, in milliseconds.
#[derive(Default)]
struct Pace(AtomicU64);

impl Pace {
    /// Tasks this short are taken ahead of time: asking for each would take as long as doing it.
    const SHORT: u64 = 250;
    /// As much work is taken ahead, in milliseconds, and at most so many tasks.
    const AHEAD: u64 = 500;
    const MOST_AHEAD: usize = 32;

    fn note(&self, took: Duration) {
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX / 4);
        let before = self.0.load(Ordering::Relaxed);
        self.0
            .store((before * 3 + took.max(1)) / 4, Ordering::Relaxed);
    }

    /// How many tasks to take beyond those for which `jobs` agents are free.
    fn ahead(&self, jobs: usize) -> usize {
        let pace = self.0.load(Ordering::Relaxed);
        if !(1..Self::SHORT).contains(&pace) {
            return 0;
        }
        let each = usize::try_from(Self::AHEAD / pace).unwrap_or(1);
        each.saturating_mul(jobs).min(Self::MOST_AHEAD.max(jobs))
    }
}

#[derive(Default)]
struct Counts {
    completed: AtomicU64,
    failed: AtomicU64,
    handed_back: AtomicU64,
}

/// Works until `stop` is raised; then running agents may finish within the grace, and what has not
/// finished is handed back.
///
/// One worker a stack and host: two could be handed the same task after a break of the network.
pub async fn run(
    stack: &Stack,
    options: &WorkerOptions,
    events: &Events,
    stop: &Interrupt,
) -> Result<WorkerReport> {
    let agents = Agents::of(stack)?;
    let types = types(&agents, &options.types)?;
    let _lock = Lock::exclusive(&stack.lock_file("worker"), "k1ops worker")?;
    let client = match &options.server {
        Some(url) => stack.conductor_at(url)?,
        None => stack.conductor()?,
    };
    let begun = Instant::now();
    let worker = Arc::new(Worker {
        client,
        recorder: Recorder::open(stack, events).await?,
        agents,
        runner: Runner::default(),
        name: name(),
        events: events.clone(),
        stop: stop.clone(),
        end: Interrupt::default(),
        jobs: options.jobs,
        slots: Arc::new(Semaphore::new(options.jobs)),
        answers: Semaphore::new(options.jobs * ANSWERS),
        running: Running::default(),
        answered: Answered::default(),
        nudges: Nudges::default(),
        pace: Pace::default(),
        counts: Counts::default(),
    });
    inherit::settle(&worker, stack).await?;
    events.note(format!(
        "working for {} on {}, {} at once",
        worker.client.base(),
        types.join(", "),
        options.jobs
    ));
    let reminder = worker.clone();
    tokio::spawn(async move {
        let is_busy = || reminder.slots.available_permits() == 0;
        let Worker {
            nudges,
            client,
            end,
            ..
        } = &*reminder;
        nudges.run(client, is_busy, end).await;
    });
    let share = (options.jobs / types.len()).max(1);
    let mut jobs = poll::until_stopped(&worker, &types, share).await;
    wind_up(&worker, &mut jobs, options.grace).await;
    worker.end.raise();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    Ok(WorkerReport {
        completed: count(&worker.counts.completed),
        failed: count(&worker.counts.failed),
        handed_back: count(&worker.counts.handed_back),
        seconds: begun.elapsed().as_secs_f64(),
    })
}

/// Lets running agents finish, and ends those that do not within the grace.
async fn wind_up(worker: &Worker, jobs: &mut JoinSet<()>, grace: Duration) {
    if !jobs.is_empty() {
        worker.events.note(format!(
            "stopping: {} agents have {} s to finish",
            jobs.len(),
            grace.as_secs()
        ));
    }
    let all = async { while jobs.join_next().await.is_some() {} };
    if tokio::time::timeout(grace, all).await.is_err() {
        worker.running.cancel_all();
        worker.end.raise();
        while jobs.join_next().await.is_some() {}
    }
}

/// The types that are asked for, each of which an agent must do.
fn types(agents: &Agents, wanted: &[String]) -> Result<Vec<String>> {
    if agents.all().is_empty() {
        return Err(Error::usage("no agents are defined, so there is no work")
            .hint("Define one in k1ops.toml under [agents.NAME]; docs/agents.md shows how."));
    }
    if wanted.is_empty() {
        let all = agents.all().iter().flat_map(|agent| agent.tasks.clone());
        return Ok(all.collect());
    }
    for kind in wanted {
        if agents.for_task(kind).is_none() {
            return Err(Error::usage(format!("no agent does tasks of type {kind}"))
                .hint("`k1ops agent list` shows the types that agents do."));
        }
    }
    Ok(wanted.to_vec())
}

fn name() -> String {
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy().into_owned();
    format!("k1ops-{host}-{}", std::process::id())
}
