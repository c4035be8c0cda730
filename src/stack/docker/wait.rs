//! Waiting for a service to be well, while telling how it gets on.

use super::diagnose;
use super::{Deployment, Service};
use crate::adapters::docker::{Container, Engine};
use crate::conductor::{Client, health};
use crate::error::Result;
use crate::event::{Events, Unit};
use std::time::{Duration, Instant};

/// How often a service is looked at.
const LOOK: Duration = Duration::from_millis(400);
/// A service that printed something within this time visibly makes progress.
const LIVELY: Duration = Duration::from_secs(45);
/// How long honest health may take to be told.
const ANSWER: Duration = Duration::from_secs(10);

/// How long to wait.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Seconds in any case.
    pub limit: Duration,
    /// Up to this while the service visibly makes progress.
    pub at_most: Duration,
}

/// Waits until the container `name` of `service` is healthy; fails at once if it dies, and in the end
/// anyway.
pub async fn until_healthy(
    engine: &Engine,
    deployment: &Deployment,
    (service, name): (Service, &str),
    patience: Patience,
    events: &Events,
) -> Result<()> {
    let is_one_of_several = service == Service::Server && deployment.settings.servers() > 1;
    let who = if is_one_of_several {
        name
    } else {
        service.key()
    };
    let step = format!("waiting for {who}");
    events.started(&step);
    let begun = Instant::now();
    let restarts_before = engine.container(name).await?.map_or(0, |c| c.restarts);
    // Conductor is asked where it is reached: the port has to lead there too.
    let is_front = service == deployment.settings.front();
    let client = is_front.then(|| deployment.client()).transpose()?;
    let mut lively = Lively::new();
    loop {
        let container = engine.container(name).await?;
        let waited = begun.elapsed();
        if let Some(container) = &container {
            if is_well(container, client.as_ref()).await {
                let seconds = waited.as_secs_f64();
                events.finished(&step, format!("healthy after {seconds:.1} s"));
                return Ok(());
            }
            if let Some(ending) = ended(container, restarts_before) {
                return Err(diagnose::service(engine, name, service, &ending).await);
            }
        }
        if waited >= patience.limit {
            lively.look(engine, name).await?;
            if waited >= patience.at_most || !lively.is_lively() {
                let what = format!("was not healthy within {} s", waited.as_secs());
                return Err(diagnose::service(engine, name, service, &what).await);
            }
        } else if waited + LIVELY >= patience.limit {
            lively.look(engine, name).await?;
        }
        events.progress(
            &step,
            waited.as_secs(),
            Some(patience.limit.max(waited).as_secs()),
            Unit::Seconds,
        );
        tokio::time::sleep(LOOK).await;
    }
}

/// The engine's check and, for what Conductor is reached through, our own from outside.
async fn is_well(container: &Container, client: Option<&Client>) -> bool {
    if !container.is_healthy() {
        return false;
    }
    match client {
        None => true,
        Some(client) => health::check(client, ANSWER).await.is_up(),
    }
}

/// How a container that does not run has ended.
fn ended(container: &Container, restarts_before: i64) -> Option<String> {
    if container.out_of_memory {
        return Some("was killed for want of memory".to_owned());
    }
    match container.state.as_str() {
        "exited" | "dead" => Some(format!(
            "ended with exit code {}",
            container.exit_code.unwrap_or(-1)
        )),
        // A single restart may be a database that was not ready; three are a loop.
        _ if container.restarts - restarts_before >= 3 => {
            Some("keeps ending and being restarted".to_owned())
        }
        _ => None,
    }
}

/// Whether a container goes on printing.
struct Lively {
    last_line: Option<String>,
    changed_at: Instant,
}

impl Lively {
    fn new() -> Self {
        Self {
            last_line: None,
            changed_at: Instant::now(),
        }
    }

    async fn look(&mut self, engine: &Engine, name: &str) -> Result<()> {
        let line = engine.last_words(name, 1).await?.pop();
        if line != self.last_line {
            self.last_line = line;
            self.changed_at = Instant::now();
        }
        Ok(())
    }

    fn is_lively(&self) -> bool {
        self.changed_at.elapsed() < LIVELY
    }
}
