//! How the containers are, whoever started them.

use super::{Deployment, Service};
use crate::adapters::docker::{Container, Engine, Usage, port_here};
use crate::conductor::health::{self, Health};
use crate::error::Result;
use crate::stack::Stack;
use futures_util::future::try_join_all;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long honest health may take to be told.
const ANSWER: Duration = Duration::from_secs(10);

/// How the Docker tier is.
#[derive(Debug, Clone, Serialize)]
pub struct DockerStatus {
    /// The engine, for example `Docker 20.10.24 at unix:///var/run/docker.sock`.
    pub engine: String,
    /// The Compose project.
    pub project: String,
    /// The server's health, if it runs.
    pub health: Option<Health>,
    /// The server's address, if it runs.
    pub url: Option<String>,
    /// How many servers there are to be.
    pub wanted_servers: u8,
    /// The services whose container is there; a server each for several.
    pub services: Vec<ServiceStatus>,
    /// The stack's volumes that are there, also without a container.
    pub volumes: Vec<VolumeStatus>,
}

/// How a service is.
#[derive(Debug, Clone, Serialize)]
pub struct ServiceStatus {
    /// Its name in the Compose file.
    pub service: &'static str,
    /// Its container.
    #[serde(flatten)]
    pub container: Container,
    /// What it uses, if it runs.
    pub usage: Option<Usage>,
    /// Seconds that it has run.
    pub uptime_seconds: Option<i64>,
}

/// A volume.
#[derive(Debug, Clone, Serialize)]
pub struct VolumeStatus {
    /// Its name.
    pub name: String,
    /// Bytes in it, if the engine says.
    pub size_bytes: Option<u64>,
}

impl DockerStatus {
    /// Some container of the stack runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.services.iter().any(|s| s.container.is_running())
    }

    /// Conductor answers from its database, every container that is there is well, and no server is
    /// missing.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.health.as_ref().is_some_and(Health::is_up)
            && self.services.iter().all(|s| s.container.is_healthy())
            && self.servers().count() >= usize::from(self.wanted_servers)
    }

    /// The servers, running or not.
    pub fn servers(&self) -> impl Iterator<Item = &ServiceStatus> {
        let is_server = |s: &&ServiceStatus| s.service == Service::Server.key();
        self.services.iter().filter(is_server)
    }

    /// There is data of this tier on this host.
    #[must_use]
    pub fn has_data(&self) -> bool {
        !self.volumes.is_empty()
    }
}

/// Looks how the containers are. `measure` asks for memory, CPU and sizes too, which takes a second.
pub async fn status(stack: &Stack, engine: &Engine, measure: bool) -> Result<DockerStatus> {
    let deployment = Deployment::of(stack)?;
    let looking = Service::ALL
        .into_iter()
        .map(|service| service_statuses(engine, &deployment, service, measure));
    let sizes = async {
        if measure {
            engine.volume_sizes().await
        } else {
            BTreeMap::new()
        }
    };
    let (services, sizes) = tokio::join!(try_join_all(looking), sizes);
    let services: Vec<ServiceStatus> = services?.into_iter().flatten().collect();
    // What stands before the server comes after it.
    let front = services.iter().rev().find_map(front);
    let health = match front {
        Some((service, port)) => Some(match deployment.client_at(&service.url(port_here(port))) {
            Ok(client) => health::check(&client, ANSWER).await,
            Err(error) => Health::Silent {
                reason: error.to_string(),
            },
        }),
        None => None,
    };
    Ok(DockerStatus {
        engine: engine.name(),
        project: deployment.names.prefix().to_owned(),
        wanted_servers: deployment.settings.servers(),
        health,
        url: front.map(|(service, port)| service.url(port)),
        volumes: volumes(engine, &deployment, &services, &sizes).await?,
        services,
    })
}

async fn service_statuses(
    engine: &Engine,
    deployment: &Deployment,
    service: Service,
    measure: bool,
) -> Result<Vec<ServiceStatus>> {
    let containers = deployment.containers(engine, service).await?;
    let looking = containers
        .into_iter()
        .map(|container| service_status(engine, service, container, measure));
    try_join_all(looking).await
}

async fn service_status(
    engine: &Engine,
    service: Service,
    container: Container,
    measure: bool,
) -> Result<ServiceStatus> {
    let name = container.name.clone();
    let usage = if measure && container.is_running() {
        engine.usage(&name).await?
    } else {
        None
    };
    let uptime_seconds = container
        .started_at
        .filter(|_| container.is_running())
        .map(|at| (chrono::Utc::now() - at).num_seconds());
    Ok(ServiceStatus {
        service: service.key(),
        container,
        usage,
        uptime_seconds,
    })
}

/// The address that leads to Conductor now, which need not be the configured one: a server's own, or that
/// of what stands before it.
fn front(status: &ServiceStatus) -> Option<(Service, u16)> {
    let service = Service::named(status.service)?;
    let leads = matches!(
        service,
        Service::Server | Service::Balancer | Service::Gateway
    );
    if !leads || !status.container.is_running() {
        return None;
    }
    let port = status.container.host_port(service.inner_port())?;
    Some((service, port))
}

async fn volumes(
    engine: &Engine,
    deployment: &Deployment,
    services: &[ServiceStatus],
    sizes: &BTreeMap<String, u64>,
) -> Result<Vec<VolumeStatus>> {
    let own = Service::WITH_VOLUME.map(|service| deployment.volume(service));
    let mounted = services.iter().flat_map(|s| s.container.volumes.values());
    let mut names: Vec<String> = own.into_iter().chain(mounted.cloned()).collect();
    names.sort();
    names.dedup();
    let mut volumes = Vec::new();
    for name in names {
        if engine.volume(&name).await?.is_some() {
            volumes.push(VolumeStatus {
                size_bytes: sizes.get(&name).copied(),
                name,
            });
        }
    }
    Ok(volumes)
}
