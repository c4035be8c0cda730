//! Which containers of an engine hold ports of this host, and what the engine says of itself. An
//! engine is named by its address, as `DOCKER_HOST` takes it.

use crate::error::{Context, Result};
use bollard::{API_DEFAULT_VERSION, Docker};
use serde::Serialize;
use std::net::IpAddr;
use std::path::PathBuf;

/// Seconds that the engine may take to answer.
const ANSWER: u64 = 5;

/// A port of the host that leads into a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Published {
    /// The host's port.
    pub port: u16,
    /// The host's address, if the engine says.
    pub address: Option<IpAddr>,
    /// The port inside.
    pub inner: u16,
    /// The container's name.
    pub container: String,
    /// Its image.
    pub image: String,
    /// The Compose project that it belongs to.
    pub project: Option<String>,
    /// The folder of that project.
    pub folder: Option<PathBuf>,
}

impl Published {
    /// Whoever reaches the host reaches the container.
    #[must_use]
    pub fn is_open_to_others(&self) -> bool {
        self.address.is_some_and(|address| !address.is_loopback())
    }
}

/// What an engine says of itself.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// The folder that images and volumes are in.
    pub root: Option<PathBuf>,
    /// Bytes of memory that containers can have in all.
    pub memory: Option<u64>,
}

/// Every port that a running container holds.
pub async fn all(host: &str) -> Result<Vec<Published>> {
    let containers = client(host)?
        .list_containers(None::<bollard::query_parameters::ListContainersOptions>)
        .await
        .context(|| format!("the containers of the engine at {host} cannot be listed"))?;
    let mut found = Vec::new();
    for container in containers {
        let mut labels = container.labels.unwrap_or_default();
        let name = container.names.unwrap_or_default().into_iter().next();
        let one = Published {
            port: 0,
            address: None,
            inner: 0,
            container: name.unwrap_or_default().trim_start_matches('/').to_owned(),
            image: container.image.unwrap_or_default(),
            project: labels.remove("com.docker.compose.project"),
            folder: labels
                .remove("com.docker.compose.project.working_dir")
                .map(PathBuf::from),
        };
        for port in container.ports.unwrap_or_default() {
            let Some(public) = port.public_port else {
                continue;
            };
            found.push(Published {
                port: public,
                address: port.ip.and_then(|ip| ip.parse().ok()),
                inner: port.private_port,
                ..one.clone()
            });
        }
    }
    Ok(found)
}

/// What the engine says of itself.
pub async fn about(host: &str) -> Result<About> {
    let info = client(host)?
        .info()
        .await
        .context(|| format!("the engine at {host} says nothing of itself"))?;
    Ok(About {
        root: info.docker_root_dir.map(PathBuf::from),
        memory: info.mem_total.and_then(|bytes| u64::try_from(bytes).ok()),
    })
}

fn client(host: &str) -> Result<Docker> {
    let cannot = || format!("the engine at {host} cannot be reached");
    match host.strip_prefix("unix://") {
        Some(path) => Docker::connect_with_unix(path, ANSWER, API_DEFAULT_VERSION),
        None => Docker::connect_with_http(host, ANSWER, API_DEFAULT_VERSION),
    }
    .context(cannot)
}
