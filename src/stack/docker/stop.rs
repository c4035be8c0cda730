//! Stopping the containers: what stands before Conductor first, then Conductor, the database last. Volumes stay, always.

use super::journal::Journal;
use super::{Deployment, Service};
use crate::adapters::docker::{Container, Engine};
use crate::error::Result;
use crate::event::Events;
use crate::stack::Stack;
use futures_util::future::try_join_all;
use std::time::{Duration, Instant};

/// Whether Conductor runs, in one container or several.
pub async fn server_runs(stack: &Stack, engine: &Engine) -> Result<bool> {
    let deployment = Deployment::of(stack)?;
    let containers = deployment.containers(engine, Service::Server).await?;
    Ok(containers.iter().any(Container::is_up))
}

/// Stops Conductor alone, all servers of it: the database goes on, for whoever works on it.
pub async fn stop_server(stack: &Stack, engine: &Engine, events: &Events) -> Result<Vec<String>> {
    stop_services(stack, engine, &[Service::Server], events).await
}

/// Stops what runs of the stack's containers, whoever started them, and names them.
pub async fn stop(stack: &Stack, engine: &Engine, events: &Events) -> Result<Vec<String>> {
    let mut services = Service::ALL;
    services.reverse();
    let stopped = stop_services(stack, engine, &services, events).await?;
    // Whatever a start that was cut short has left: it had time to become a stack that was used.
    Journal::remove(stack)?;
    Ok(stopped)
}

/// Stops what runs of these services, in this order, and names the containers.
pub async fn stop_services(
    stack: &Stack,
    engine: &Engine,
    services: &[Service],
    events: &Events,
) -> Result<Vec<String>> {
    let deployment = Deployment::of(stack)?;
    let mut stopped = Vec::new();
    for &service in services {
        let containers = deployment.containers(engine, service).await?;
        let grace = service.grace(&stack.config);
        // Several servers are stopped at once: none is to take over what another one leaves.
        let stopping = containers
            .into_iter()
            .filter(Container::is_up)
            .map(|container| stop_one(engine, container.name, grace, events));
        stopped.extend(try_join_all(stopping).await?);
    }
    Ok(stopped)
}

async fn stop_one(
    engine: &Engine,
    name: String,
    grace: Duration,
    events: &Events,
) -> Result<String> {
    let step = format!("stopping {name}");
    events.started(&step);
    let begun = Instant::now();
    engine.stop_container(&name, grace).await?;
    events.finished(&step, format!("{:.1} s", begun.elapsed().as_secs_f64()));
    Ok(name)
}
