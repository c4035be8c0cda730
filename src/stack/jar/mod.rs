//! Tier 2: the Conductor JAR on this host, with its data in `SQLite` or in a `PostgreSQL` by URL.

pub mod boot_jar;
pub mod cache;
pub(super) mod causes;
mod fast_start;
mod fetch;
pub mod java;
mod maven;
mod prepare;
mod server;
mod turn;
mod verified;

pub use fetch::Sources;
pub use prepare::{Request, prepare_requested};
pub use server::Ending;
pub(crate) use server::{ANSWER, end};

use super::Stack;
use super::start::{Prepare, StartOptions, StartReport};
use super::state::ServerState;
use crate::error::Result;
use crate::event::Events;
use crate::interrupt::Interrupt;
use boot_jar::{BootJar, Wanted};
use cache::Cache;
use fast_start::FastStart;
use java::{Java, Places};
use prepare::Preparation;
use server::{Failure, Launch};
use std::time::Duration;
use turn::Turn;

/// Seconds to wait for honest health unless the configuration says otherwise.
const HEALTH_TIMEOUT: u64 = 60;

/// What this tier needs of the host, found and verified.
#[derive(Debug)]
pub struct Ready {
    java: Java,
    jar: BootJar,
    cache: Cache,
}

/// Finds what this tier needs, and fetches the JAR if it must be fetched. An error of the kind
/// `Missing` says why the tier is not for this host.
pub async fn prepare(stack: &Stack, events: &Events, interrupt: &Interrupt) -> Result<Ready> {
    let config = &stack.config.server;
    let places = Places::usual();
    let java = java::find(
        &relative_to(stack, &config.java),
        &places,
        java::needed_by(&config.version),
    )
    .await?;
    tracing::info!(java = %java.binary.display(), version = %java.version, "Java found");
    let cache = Cache::open()?;
    let wanted = Wanted {
        server: config,
        base: &stack.base,
        cache: &cache,
    };
    let jar = wanted.obtain(events, interrupt).await?;
    Ok(Ready { java, jar, cache })
}

fn relative_to(stack: &Stack, path: &std::path::Path) -> std::path::PathBuf {
    if path.as_os_str().is_empty() {
        path.to_path_buf()
    } else {
        stack.base.join(path)
    }
}

/// Starts the server: fast if that is prepared and intact, plainly otherwise. The caller holds the
/// server lock and knows that none runs.
pub async fn start(
    stack: &Stack,
    ready: &Ready,
    options: &StartOptions,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<StartReport> {
    server::check_port(stack.config.ports.conductor)?;
    let begun = std::time::Instant::now();
    let run = Run {
        stack,
        ready,
        options,
        events,
        interrupt,
    };
    let place = ready.fast_start(stack);
    let fast = place.as_ref().and_then(FastStart::launch);
    let state = match (fast, place) {
        (Some(launch), Some(place)) => run.fast_or_plain(&launch, &place).await?,
        _ => run.plain().await.map_err(|failure| failure.error)?,
    };
    Ok(StartReport::started(&state, options.wait, begun.elapsed()))
}

impl Ready {
    fn fast_start(&self, stack: &Stack) -> Option<FastStart> {
        let server = &stack.config.server;
        server
            .fast_start
            .then(|| FastStart::of(&self.cache, &self.jar, &self.java, &server.heap))
    }
}

/// One start of one server.
struct Run<'a> {
    stack: &'a Stack,
    ready: &'a Ready,
    options: &'a StartOptions,
    events: &'a Events,
    interrupt: &'a Interrupt,
}

impl Run<'_> {
    async fn plain(&self) -> std::result::Result<ServerState, Failure> {
        self.with(&Launch::plain(&self.ready.jar)).await
    }

    /// A server that dies of what was to make it fast is started again without it.
    async fn fast_or_plain(&self, launch: &Launch, place: &FastStart) -> Result<ServerState> {
        let failure = match self.with(launch).await {
            Ok(state) => return Ok(state),
            Err(failure) if failure.blames_code => failure,
            Err(failure) => return Err(failure.error),
        };
        self.events.warning(format!(
            "the fast start failed ({}); starting plainly",
            failure.error
        ));
        let state = self.plain().await.map_err(|failure| failure.error)?;
        place.mark_bad(&failure.error.to_string())?;
        Ok(state)
    }

    async fn with(&self, launch: &Launch) -> std::result::Result<ServerState, Failure> {
        self.interrupt.check()?;
        // Kept until the server is well, or given up.
        let _turn = Turn::of(self.stack, self.events, self.interrupt).await?;
        let Ready { java, jar, .. } = self.ready;
        let mut starting = server::start(self.stack, jar, java, launch).await?;
        if !self.options.wait {
            return Ok(starting.state);
        }
        let timeout = health_timeout(self.stack, self.options);
        let log = self.stack.server_log();
        let waiting = async { Ok(starting.wait(timeout, &log, self.events).await) };
        let waited = match self.interrupt.guard(waiting).await {
            Ok(waited) => waited,
            Err(interrupted) => Err(interrupted.into()),
        };
        match waited {
            Ok(()) => Ok(starting.state),
            Err(failure) => {
                self.events.note("stopping what was started");
                starting.undo(self.stack).await?;
                Err(failure)
            }
        }
    }
}

/// Prepares fast starts, as `options` say. That it cannot be done is a remark, never a failure of
/// the start.
pub async fn prepare_fast_starts(
    stack: &Stack,
    ready: &Ready,
    options: &StartOptions,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<()> {
    if !stack.config.server.fast_start {
        return Ok(());
    }
    let preparation = Preparation {
        cache: ready.cache.clone(),
        jar: ready.jar.clone(),
        java: ready.java.clone(),
        heap: stack.config.server.heap.clone(),
        log: stack.folder.join("logs").join("fast-start.log"),
    };
    match options.prepare {
        Prepare::No => Ok(()),
        Prepare::InBackground => {
            match preparation.begin() {
                Ok(None) => events.note("later starts are being prepared to be faster"),
                Ok(Some(reason)) => tracing::info!("fast starts are not prepared: {reason}"),
                Err(error) => tracing::warn!(%error, "fast starts are not prepared"),
            }
            Ok(())
        }
        Prepare::Wait => preparation.build_after_others(events, interrupt).await,
    }
}

fn health_timeout(stack: &Stack, options: &StartOptions) -> Duration {
    let configured = Some(stack.config.server.health_timeout).filter(|&seconds| seconds > 0);
    options
        .health_timeout
        .unwrap_or_else(|| Duration::from_secs(configured.unwrap_or(HEALTH_TIMEOUT)))
}
