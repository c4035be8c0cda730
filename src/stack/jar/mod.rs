//! Tier 2: the Conductor JAR on this host, with its data in `SQLite` or in a `PostgreSQL` by URL.

pub mod boot_jar;
pub mod cache;
mod causes;
mod fetch;
pub mod java;
mod maven;
mod server;
mod verified;

pub use server::Ending;
pub(crate) use server::{ANSWER, end};

use super::Stack;
use super::start::{StartOptions, StartReport};
use super::state::ServerState;
use crate::error::Result;
use crate::event::Events;
use crate::interrupt::Interrupt;
use boot_jar::{BootJar, Wanted};
use cache::Cache;
use java::{Java, Places};
use server::Launch;
use std::time::Duration;

/// Seconds to wait for honest health unless the configuration says otherwise.
const HEALTH_TIMEOUT: u64 = 60;

/// What this tier needs of the host, found and verified.
#[derive(Debug)]
pub struct Ready {
    java: Java,
    jar: BootJar,
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
    Ok(Ready { java, jar })
}

fn relative_to(stack: &Stack, path: &std::path::Path) -> std::path::PathBuf {
    if path.as_os_str().is_empty() {
        path.to_path_buf()
    } else {
        stack.base.join(path)
    }
}

/// Starts the server. The caller holds the server lock and knows that none runs.
pub async fn start(
    stack: &Stack,
    ready: &Ready,
    options: &StartOptions,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<StartReport> {
    server::check_port(stack.config.ports.conductor)?;
    let launch = Launch::plain(&ready.jar);
    let begun = std::time::Instant::now();
    let state = launch_and_wait(stack, ready, &launch, options, events, interrupt).await?;
    Ok(StartReport::started(&state, options.wait, begun.elapsed()))
}

async fn launch_and_wait(
    stack: &Stack,
    ready: &Ready,
    launch: &Launch,
    options: &StartOptions,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<ServerState> {
    interrupt.check()?;
    let mut starting = server::start(stack, &ready.jar, &ready.java, launch).await?;
    let log = stack.server_log();
    let waited = if options.wait {
        let timeout = health_timeout(stack, options);
        interrupt.guard(starting.wait(timeout, &log, events)).await
    } else {
        Ok(())
    };
    match waited {
        Ok(()) => Ok(starting.state),
        Err(error) => {
            events.note("stopping what was started");
            starting.undo(stack).await?;
            Err(error)
        }
    }
}

fn health_timeout(stack: &Stack, options: &StartOptions) -> Duration {
    let configured = Some(stack.config.server.health_timeout).filter(|&seconds| seconds > 0);
    options
        .health_timeout
        .unwrap_or_else(|| Duration::from_secs(configured.unwrap_or(HEALTH_TIMEOUT)))
}
