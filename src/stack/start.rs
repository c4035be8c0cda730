//! Starts a stack on the best tier that the host has, unless it runs already.

use super::state::{Remembered, ServerState, StartMode, Store};
use super::tier::PassedOver;
use super::{Stack, Tier, direct, docker, jar};
use crate::adapters::docker::is_elsewhere;
use crate::adapters::fs::Lock;
use crate::conductor::Client;
use crate::conductor::health::{self, Health};
use crate::error::{Error, ErrorKind, Result};
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
    /// Fetch the images anew (tier 1).
    pub pull: bool,
    /// Start several servers that run anew, one by one (tier 1).
    pub rolling: bool,
    /// Whether later starts are prepared to be fast (tier 2; tier 1 always is).
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
            pull: false,
            rolling: false,
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
    /// Its process ID (tier 2).
    pub pid: Option<u32>,
    /// Conductor's version.
    pub conductor_version: String,
    /// Java's version (tier 2).
    pub java_version: Option<String>,
    /// How its code was loaded (tier 2).
    pub mode: Option<StartMode>,
    /// Its containers (tier 1).
    pub containers: Vec<String>,
    /// Where it keeps its data.
    pub store: Store,
}

impl From<&ServerState> for StartedServer {
    fn from(state: &ServerState) -> Self {
        Self {
            url: state.url(),
            pid: Some(state.process.pid),
            conductor_version: state.conductor_version.clone(),
            java_version: Some(state.java_version.clone()),
            mode: Some(state.mode),
            containers: Vec::new(),
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

    /// The containers of the Docker tier run.
    fn containers(stack: &Stack, started: &docker::Started, waited: bool) -> Self {
        let deployment = &started.deployment;
        let server = StartedServer {
            url: deployment.published_url(),
            pid: None,
            conductor_version: stack.config.server.version.clone(),
            java_version: None,
            mode: None,
            containers: started.containers.clone(),
            store: Store::Postgres {
                url: deployment.database_url(),
            },
        };
        Self {
            outcome: if started.already {
                Outcome::AlreadyRunning
            } else {
                Outcome::Started
            },
            tier: Tier::Docker,
            passed_over: Vec::new(),
            health: (started.already || waited).then_some(Health::Up),
            server: Some(server),
            seconds: (waited && !started.already).then_some(started.took.as_secs_f64()),
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
    let stack = &stack.without_docker_database();
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
    let order = Tier::order(stack.config.tier);
    let mut passed_over = Vec::new();
    for &tier in order {
        match start_on(tier, stack, options, events, interrupt).await {
            Ok((mut report, ready)) => {
                report.passed_over = passed_over;
                if report.server.is_some() {
                    stack.remember_tier(tier)?;
                }
                return Ok((report, ready));
            }
            Err(Attempt { error, begun }) => {
                // The JAR's start, once begun, fails for its own reasons.
                let ends = begun && tier == Tier::Jar;
                if tier == Tier::Docker && is_elsewhere() && order.len() > 1 {
                    return Err(named_engine(error));
                }
                if ends || order.len() == 1 || !tier.may_be_passed_over(&error) {
                    return Err(error);
                }
                pass_over(tier, &error, stack, events);
                passed_over.push(PassedOver {
                    tier,
                    reason: error.to_string(),
                });
            }
        }
    }
    Err(Error::missing("no tier can run on this host"))
}

/// Who names an engine on another host wants the stack there, and not another one here.
fn named_engine(error: Error) -> Error {
    let hint = error.hint_text().unwrap_or_default();
    let hint = format!("{hint} For a server on this host: --tier jar.");
    error.hint(hint.trim_start())
}

async fn already_running(
    stack: &Stack,
    state: &ServerState,
    options: &StartOptions,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<(StartReport, Option<Box<jar::Ready>>)> {
    let wanted = Tier::order(stack.config.tier);
    if !wanted.contains(&state.tier) {
        return Err(Error::new(
            ErrorKind::Missing,
            format!(
                "tier {} of this stack runs at {} (PID {}), and tier {} was asked for",
                state.tier.number(),
                state.url(),
                state.process.pid,
                wanted[0].number()
            ),
        )
        .hint("Stop it first with `k1ops stop`; the two tiers keep their data apart."));
    }
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

/// A start on one tier that did not come to a good end.
struct Attempt {
    error: Error,
    /// What the tier needs was there, and it was begun.
    begun: bool,
}

async fn start_on(
    tier: Tier,
    stack: &Stack,
    options: &StartOptions,
    events: &Events,
    interrupt: &Interrupt,
) -> std::result::Result<(StartReport, Option<Box<jar::Ready>>), Attempt> {
    let unprepared = |error| Attempt {
        error,
        begun: false,
    };
    let failed = |error| Attempt { error, begun: true };
    match tier {
        Tier::Docker => {
            let preparing = docker::prepare(stack, events, interrupt);
            let ready = Box::pin(preparing).await.map_err(unprepared)?;
            let options = docker::DockerOptions {
                wait: options.wait,
                health_timeout: options.health_timeout,
                pull: options.pull,
                rolling: options.rolling,
            };
            let starting = docker::start(stack, &ready, options, events, interrupt);
            let started = Box::pin(starting).await.map_err(failed)?;
            let report = StartReport::containers(stack, &started, options.wait);
            Ok((report, None))
        }
        Tier::Jar => {
            only_one_server(stack, options, events).map_err(unprepared)?;
            let ready = jar::prepare(stack, events, interrupt)
                .await
                .map_err(unprepared)?;
            let report = jar::start(stack, &ready, options, events, interrupt)
                .await
                .map_err(failed)?;
            Ok((report, Some(Box::new(ready))))
        }
        Tier::Direct => Ok((StartReport::direct(stack), None)),
    }
}

/// The JAR tier runs one server, and says so where more were asked for.
fn only_one_server(stack: &Stack, options: &StartOptions, events: &Events) -> Result<()> {
    if options.rolling {
        return Err(Error::usage(
            "one server runs in tier 2, which cannot be started anew one by one",
        )
        .hint("Several servers take tier 1: k1ops start --tier docker --servers 2"));
    }
    if stack.config.docker.servers > 1 {
        events.warning(format!(
            "{} servers are configured, and tier 2 runs one",
            stack.config.docker.servers
        ));
    }
    Ok(())
}

/// Says why a tier is passed over, and loudly if that leaves data behind.
fn pass_over(tier: Tier, error: &Error, stack: &Stack, events: &Events) {
    let mut said = format!(
        "tier {} ({}) is passed over: {error}",
        tier.number(),
        tier.name()
    );
    for cause in error.causes() {
        said.push_str(&format!("\n  because: {cause}"));
    }
    if let Some(hint) = error.hint_text() {
        said.push_str(&format!("\n  hint: {hint}"));
    }
    events.note(said);
    let had_data = matches!(stack.last_tier(), Ok(Some(last)) if last == tier);
    if tier == Tier::Docker && had_data {
        events.warning_with_hint(
            "this stack ran on tier 1 until now, and its data stays in tier 1's PostgreSQL: tier 2 \
             has a store of its own, in which none of those workflows are",
            "Mend tier 1 and start again to have them back; `k1ops status` shows which store has \
             what.",
        );
    }
}
