//! What is checked before anything is started: ports, and whether the database's volume fits the
//! image.

use super::{Deployment, Service, Settings};
use crate::adapters::compose::Compose;
use crate::adapters::docker::{Container, Engine, is_elsewhere};
use crate::adapters::port;
use crate::error::{Error, Result};
use std::path::Path;

/// Where the database keeps its data inside its container.
const PGDATA: &str = "/var/lib/postgresql/data";
/// From this version on Compose takes back what an earlier file says, and reads back the model that it prints.
const RESETS: (u32, u32, u32) = (2, 24, 4);
/// How to get it.
const NEWER: &str =
    "Install Compose 2.24.4 or later; https://docs.docker.com/compose/install/ says how.";

/// Fails if Compose cannot take the server's port away, which is then that of what stands before it.
pub fn check_compose(compose: &Compose, settings: &Settings) -> Result<()> {
    let name = compose.name();
    if compose.is_at_least(RESETS) {
        return Ok(());
    }
    if settings.servers() > 1 {
        return Err(Error::usage(format!("{name} cannot run several servers"))
            .hint("Install Compose 2.24.4 or later, or start with --servers 1."));
    }
    if settings.has_gateway() {
        let what = format!("{name} cannot put a gateway before Conductor");
        return Err(Error::missing(what).hint(NEWER));
    }
    Ok(())
}

/// Fails if the stack cannot be started on an engine of another host, where this one is.
pub fn check_elsewhere(compose: &Compose, settings: &Settings) -> Result<()> {
    if !is_elsewhere() {
        return Ok(());
    }
    if !compose.is_at_least(RESETS) {
        let name = compose.name();
        let what = format!("{name} cannot start a stack on an engine of another host");
        return Err(Error::missing(what).hint(NEWER));
    }
    if settings.has_monitoring() {
        return Err(Error::usage(
            "monitoring cannot be started on an engine of another host: k1ops writes its metrics into a folder here",
        )
        .hint("Start it on that host, or start with --with-monitoring=false; `k1ops metrics --serve` is for a Prometheus elsewhere."));
    }
    Ok(())
}

/// Fails if a container of this stack's names belongs to another one.
pub async fn check_names(engine: &Engine, deployment: &Deployment) -> Result<()> {
    for service in deployment.settings.services() {
        let name = deployment.names.container(service);
        let Some(container) = engine.container(&name).await? else {
            continue;
        };
        if !deployment.owns(&container) {
            let folder = container.project_folder.unwrap_or_default();
            return Err(Error::missing(format!(
                "container {name} belongs to another stack, the one in {}",
                folder.display()
            ))
            .hint("Set another docker.prefix for this stack."));
        }
    }
    Ok(())
}

/// Fails, naming the port and its holder, if a port is taken by anybody but the stack itself.
/// Of an engine elsewhere nobody here knows; there Docker says it when the container is started.
pub async fn check_ports(engine: &Engine, deployment: &Deployment) -> Result<()> {
    if is_elsewhere() {
        return Ok(());
    }
    for service in deployment.settings.services() {
        let Some(wanted) = deployment.settings.port(service) else {
            continue;
        };
        if port::is_free(wanted) {
            continue;
        }
        if !is_own(engine, deployment, service, wanted).await? {
            return Err(taken(service, wanted));
        }
    }
    Ok(())
}

/// Whether a port is held by this very service; Conductor's also by what it was reached through before.
async fn is_own(
    engine: &Engine,
    deployment: &Deployment,
    service: Service,
    port: u16,
) -> Result<bool> {
    let holders = match service {
        Service::Server | Service::Balancer | Service::Gateway => {
            vec![Service::Server, Service::Balancer, Service::Gateway]
        }
        other => vec![other],
    };
    for holder in holders {
        let containers = deployment.containers(engine, holder).await?;
        let holds =
            |c: &Container| c.is_running() && c.host_port(holder.inner_port()) == Some(port);
        if containers.iter().any(holds) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn taken(service: Service, wanted: u16) -> Error {
    let holder = port::owner(wanted).map_or_else(
        || "another process".to_owned(),
        |owner| format!("{} (PID {})", owner.name, owner.pid),
    );
    let key = service.port_key();
    let hint = match port::free_near(wanted) {
        Some(free) => format!(
            "Port {free} is free: set {key} = {free} in k1ops.toml, or {}={free}.",
            format!("K1OPS_{key}").to_uppercase().replace('.', "_")
        ),
        None => format!("Set another {key}."),
    };
    Error::missing(format!(
        "port {wanted}, wanted for {}, is taken by {holder}",
        service.key()
    ))
    .hint(hint)
}

/// Fails if the database's volume was made by another major version than the image's.
pub async fn check_postgres_version(engine: &Engine, deployment: &Deployment) -> Result<()> {
    let volume = deployment.volume(Service::Postgres);
    let image = deployment
        .settings
        .image(Service::Postgres)
        .unwrap_or_default();
    if engine.volume(&volume).await?.is_none() {
        return Ok(());
    }
    let Some(wanted) = engine
        .image(image)
        .await?
        .and_then(|image| image.env.get("PG_MAJOR").cloned())
    else {
        return Ok(());
    };
    let found = engine
        .read_small_file(&volume, image, Path::new(PGDATA), Path::new("PG_VERSION"))
        .await?;
    let Some(found) = found else {
        return Ok(());
    };
    let found = String::from_utf8_lossy(&found).trim().to_owned();
    if found == wanted {
        return Ok(());
    }
    Err(Error::bad_data(format!(
        "volume {volume} belongs to PostgreSQL {found}, and image {image} is PostgreSQL {wanted}"
    ))
    .hint(format!(
        "Set docker.postgres_image to a PostgreSQL {found} image, or dump the database with that \
         version and restore it into a new volume."
    )))
}
