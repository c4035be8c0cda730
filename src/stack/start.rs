//! Starts a stack on the best tier that the host has, unless it runs already.

use super::state::{Remembered, ServerState, StartMode, Store};
use super::tier::{Chosen, PassedOver, choose};
use super::{Stack, Tier, direct, jar};
use crate::adapters::fs::Lock;
use crate::conductor::Client;
use crate::conductor::health::{self, Health};
use crate::error::Result;
use crate::event::Events;
use crate::interrupt::Interrupt;
use serde::Serialize;
use std::time::Duration;

/// How to start.
#[derive(Debug, Clone)]
pub struct StartOptions {
    /// Wait for honest health.
    pub wait: bool,
    /// How long to wait for it, if not as configured.
    pub health_timeout: Option<Duration>,
    /// Whether later starts are prepared to be fast.
    pub prepare: Prepare,
}

/// Whether later starts are prepared to be fast, where the configuration allows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prepare {
    /// Not by this start, which still uses what is prepared.
    No,
    /// By a process in the background, if they are not yet.
    InBackground,
    /// Before the start returns.
    Wait,
}

impl Default for StartOptions {
    fn default() -> Self {
        Self {
            wait: true,
            health_timeout: None,
            prepare: Prepare::InBackground,
        }
    }
}

/// How a start ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A server was started.
    Started,
    /// One ran already, and nothing was done.
    AlreadyRunning,
    /// Agents run without a server: there is nothing to start.
    Direct,
}

/// What is known after a start.
#[derive(Debug, Clone, Serialize)]
pub struct StartReport {
    /// How it ended.
    pub outcome: Outcome,
    /// The tier that runs.
    pub tier: Tier,
    /// The tiers that were passed over, and why.
    pub passed_over: Vec<PassedOver>,
    /// The server's health; `None` where it was not waited for, or where there is no server.
    pub health: Option<Health>,
    /// The server, if there is one.
    pub server: Option<StartedServer>,
    /// Seconds from the start to honest health, if a server was started and waited for.
    pub seconds: Option<f64>,
    /// What to do next, in tier 3.
    pub instructions: Vec<String>,
}

/// A server that runs.
#[derive(Debug, Clone, Serialize)]
pub struct StartedServer {
    /// Its address.
    pub url: String,
    /// Its process ID.
    pub pid: u32,
    /// Conductor's version.
    pub conductor_version: String,
    /// Java's version.
    pub java_version: String,
    /// How its code was loaded.
    pub mode: StartMode,
    /// Where it keeps its data.
    pub store: Store,
}

impl From<&ServerState> for StartedServer {
    fn from(state: &ServerState) -> Self {
        Self {
            url: state.url(),
            pid: state.process.pid,
            conductor_version: state.conductor_version.clone(),
            java_version: state.java_version.clone(),
            mode: state.mode,
            store: state.store.clone(),
        }
    }
}

impl StartReport {
    /// A server of the JAR tier was started.
    pub(super) fn started(state: &ServerState, waited: bool, took: Duration) -> Self {
        Self {
            outcome: Outcome::Started,
            tier: state.tier,
            passed_over: Vec::new(),
            health: waited.then_some(Health::Up),
            server: Some(state.into()),
            seconds: waited.then_some(took.as_secs_f64()),
            instructions: Vec::new(),
        }
    }

    fn already_running(state: &ServerState, health: Health) -> Self {
        Self {
            outcome: Outcome::AlreadyRunning,
            tier: state.tier,
            passed_over: Vec::new(),
            health: Some(health),
            server: Some(state.into()),
            seconds: None,
            instructions: Vec::new(),
        }
    }

    /// Only running agents directly is left.
    fn direct(stack: &Stack) -> Self {
        Self {
            outcome: Outcome::Direct,
            tier: Tier::Direct,
            passed_over: Vec::new(),
            health: None,
            server: None,
            seconds: None,
            instructions: direct::instructions(stack),
        }
    }

    /// Whether a server runs and is, as far as was asked, well.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.server.is_some() && self.health.as_ref().is_none_or(Health::is_up)
    }
}

/// Starts the stack, or says that it runs already.
///
/// Whatever fails, and when it is interrupted, what was started is stopped again. Two starts at
/// once are told apart by a lock.
pub async fn start(
    stack: &Stack,
    options: &StartOptions,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<StartReport> {
    let (report, ready) = start_locked(stack, options, events, interrupt).await?;
    // The lock is free again: preparing may take minutes, and the stack may be stopped meanwhile.
    if let Some(ready) = ready {
        jar::prepare_fast_starts(stack, &ready, options, events, interrupt).await?;
    }
    Ok(report)
}

/// Starts under the lock; answers with what is needed to prepare fast starts, if that is in order.
async fn start_locked(
    stack: &Stack,
    options: &StartOptions,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<(StartReport, Option<Box<jar::Ready>>)> {
    let _lock = Lock::exclusive(&stack.lock_file("server"), "k1ops start")?;
    match ServerState::read(stack)? {
        Remembered::Running(state) => {
            return already_running(stack, &state, options, events, interrupt).await;
        }
        Remembered::Stale(state) => {
            events.note(format!(
                "the server that was started at {} (PID {}) ended without `k1ops stop`",
                state.started_at.format("%Y-%m-%d %H:%M:%S UTC"),
                state.process.pid
            ));
            ServerState::forget(stack)?;
        }
        Remembered::Nothing => {}
    }
    let choice = choose(stack, events, interrupt).await?;
    let (mut report, ready) = match choice.chosen {
        Chosen::Jar(ready) => {
            let report = jar::start(stack, &ready, options, events, interrupt).await?;
            (report, Some(ready))
        }
        Chosen::Direct => (StartReport::direct(stack), None),
    };
    report.passed_over = choice.passed_over;
    Ok((report, ready))
}

async fn already_running(
    stack: &Stack,
    state: &ServerState,
    options: &StartOptions,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<(StartReport, Option<Box<jar::Ready>>)> {
    let client = Client::new(state.url())?;
    let health = interrupt
        .guard(async { Ok(health::check(&client, jar::ANSWER).await) })
        .await?;
    // Only a user who waits for the preparation asks for it again.
    let ready = if options.prepare == Prepare::Wait && state.tier == Tier::Jar {
        Some(Box::new(jar::prepare(stack, events, interrupt).await?))
    } else {
        None
    };
    Ok((StartReport::already_running(state, health), ready))
}
