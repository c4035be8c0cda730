//! Containers by name: what they are doing, what they said, and stopping them.

use super::Engine;
use crate::error::Result;
use bollard::models::{ContainerInspectResponse, ContainerStatsResponse};
use bollard::query_parameters as query;
use chrono::{DateTime, Utc};
use futures_util::{Stream, StreamExt};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

/// A container as it is now.
#[derive(Debug, Clone, Serialize)]
pub struct Container {
    /// Its name, without the slash.
    pub name: String,
    /// Its id.
    pub id: String,
    /// `running`, `exited`, `restarting`, `created`, `paused`, `dead`.
    pub state: String,
    /// `healthy`, `unhealthy`, `starting`; none where the image has no check.
    pub health: Option<String>,
    /// What the last health check printed.
    pub health_said: Option<String>,
    /// The image's name as it was asked for.
    pub image: String,
    /// The image's id.
    pub image_id: String,
    /// When it started last.
    pub started_at: Option<DateTime<Utc>>,
    /// How often the engine restarted it.
    pub restarts: i64,
    /// What it exited with, if it has exited.
    pub exit_code: Option<i64>,
    /// The kernel killed it for want of memory.
    pub out_of_memory: bool,
    /// Ports: `127.0.0.1:8080->8080/tcp`.
    pub ports: Vec<String>,
    /// Named volumes that are mounted, by their place in the container.
    pub volumes: BTreeMap<String, String>,
    /// The Compose project that it belongs to.
    pub project: Option<String>,
    /// The folder of the Compose file that made it.
    pub project_folder: Option<PathBuf>,
    /// The engine's own error, if it could not start it.
    pub error: Option<String>,
    /// Its addresses in the engine's networks.
    #[serde(skip)]
    pub addresses: Vec<String>,
    /// Its environment, which is shown to nobody.
    #[serde(skip)]
    pub environment: BTreeMap<String, String>,
}

impl Container {
    /// It runs (and is not between two restarts).
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state == "running"
    }

    /// It runs, or would run again: between two restarts it does not.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.is_running() || self.state == "restarting"
    }

    /// It runs and its health check, if it has one, says so.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.is_running() && self.health.as_deref().is_none_or(|h| h == "healthy")
    }

    /// The port of 127.0.0.1 (or of all addresses) that leads to `port` inside.
    #[must_use]
    pub fn host_port(&self, port: u16) -> Option<u16> {
        let inside = format!("->{port}/tcp");
        let outside = self.ports.iter().find_map(|p| p.strip_suffix(&inside))?;
        outside.rsplit_once(':')?.1.parse().ok()
    }
}

/// What a container uses at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Usage {
    /// Bytes of memory, without the page cache that can be given back.
    pub memory: u64,
    /// The limit.
    pub memory_limit: Option<u64>,
    /// Percent of one CPU.
    pub cpu_percent: f64,
}

/// What a program in a container printed, and how it ended.
#[derive(Debug)]
pub struct Said {
    /// Its exit code.
    pub code: i64,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it complained about.
    pub stderr: String,
}

impl Engine {
    /// The container of this name, if there is one.
    pub async fn container(&self, name: &str) -> Result<Option<Container>> {
        let request = self
            .docker
            .inspect_container(name, None::<query::InspectContainerOptions>);
        let what = format!("inspect container {name}");
        Ok(self.ask_maybe(&what, request).await?.map(described))
    }

    /// The containers of a service of a Compose project, running or not.
    pub async fn containers_of(&self, project: &str, service: &str) -> Result<Vec<Container>> {
        let label = |name: &str, value: &str| format!("com.docker.compose.{name}={value}");
        // Compose's own one-off runs are not of the service.
        let labels = vec![
            label("project", project),
            label("service", service),
            label("oneoff", "False"),
        ];
        let options = query::ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&HashMap::from([("label".to_owned(), labels)]))
            .build();
        let what = format!("list the containers of {service}");
        let listed = self
            .ask(&what, self.docker.list_containers(Some(options)))
            .await?;
        let mut found = Vec::new();
        for id in listed.into_iter().filter_map(|one| one.id) {
            // It may have gone since.
            found.extend(self.container(&id).await?);
        }
        Ok(found)
    }

    /// Its memory and CPU, measured over about a second.
    pub async fn usage(&self, name: &str) -> Result<Option<Usage>> {
        let options = query::StatsOptionsBuilder::default().stream(false).build();
        let mut stream = self.docker.stats(name, Some(options));
        let request = async { stream.next().await.transpose() };
        let what = format!("measure container {name}");
        Ok(self
            .ask_maybe(&what, request)
            .await?
            .flatten()
            .map(|s| used(&s)))
    }

    /// The last `lines` lines that it printed, on either stream.
    pub async fn last_words(&self, name: &str, lines: usize) -> Result<Vec<String>> {
        let options = query::LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .tail(&lines.to_string())
            .build();
        let mut stream = self.docker.logs(name, Some(options));
        let mut text = String::new();
        let what = format!("read the log of container {name}");
        while let Some(Some(part)) = self
            .ask_maybe(&what, async { stream.next().await.transpose() })
            .await?
        {
            text.push_str(&part.to_string());
        }
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// What it prints, from its last `tail` lines (all if `None`) on, as long as it runs if
    /// `follow`.
    pub fn log(
        &self,
        name: &str,
        tail: Option<usize>,
        follow: bool,
    ) -> impl Stream<Item = Result<bytes::Bytes>> + Send + use<> {
        let tail = tail.map_or_else(|| "all".to_owned(), |n| n.to_string());
        let options = query::LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .follow(follow)
            .tail(&tail)
            .build();
        let engine = self.clone();
        let what = format!("read the log of container {name}");
        self.docker.logs(name, Some(options)).map(move |part| {
            part.map(bollard::container::LogOutput::into_bytes)
                .map_err(|error| engine.refused(&what, error))
        })
    }

    /// Stops it, with `grace` before it is killed. Nothing happens if it is not there.
    pub async fn stop_container(&self, name: &str, grace: Duration) -> Result<()> {
        let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        let options = query::StopContainerOptionsBuilder::default()
            .t(seconds)
            .build();
        // The engine answers when the container has ended, so the client has to outwait it.
        let docker = self
            .docker
            .clone()
            .with_timeout(grace + Duration::from_secs(30));
        let request = docker.stop_container(name, Some(options));
        match tokio::time::timeout(grace + Duration::from_secs(30), request).await {
            Ok(Err(bollard::errors::Error::DockerResponseServerError {
                status_code: 304 | 404,
                ..
            })) => Ok(()),
            Ok(result) => {
                result.map_err(|error| self.refused(&format!("stop container {name}"), error))
            }
            Err(_) => Err(super::hangs(&self.endpoint)),
        }
    }

    /// Removes it, running or not, with its anonymous volumes; named volumes stay.
    pub async fn remove_container(&self, name: &str) -> Result<()> {
        let options = query::RemoveContainerOptionsBuilder::default()
            .force(true)
            .v(true)
            .build();
        let request = self.docker.remove_container(name, Some(options));
        self.ask_maybe(&format!("remove container {name}"), request)
            .await?;
        Ok(())
    }

    /// Whether there is a network of this name.
    pub async fn has_network(&self, name: &str) -> Result<bool> {
        Ok(self.network(name).await?.is_some())
    }

    /// The device of this host that a network of the driver `bridge` is; none if there is no such network.
    pub async fn bridge_of(&self, network: &str) -> Result<Option<String>> {
        Ok(self.network(network).await?.and_then(|found| {
            let named = found.options.unwrap_or_default();
            let named = named.get("com.docker.network.bridge.name").cloned();
            // Docker's own name for it, unless another was asked for.
            let usual = || Some(format!("br-{}", found.id?.get(..12)?));
            named.or_else(usual)
        }))
    }

    async fn network(&self, name: &str) -> Result<Option<bollard::models::NetworkInspect>> {
        let request = self
            .docker
            .inspect_network(name, None::<query::InspectNetworkOptions>);
        self.ask_maybe(&format!("inspect network {name}"), request)
            .await
    }

    /// Removes a network that nothing uses.
    pub async fn remove_network(&self, name: &str) -> Result<()> {
        let request = self.docker.remove_network(name);
        self.ask_maybe(&format!("remove network {name}"), request)
            .await?;
        Ok(())
    }

    /// Runs a program in a running container, hands it `input`, and answers its exit code and what
    /// it printed. The input is not visible to anybody who lists processes. It may be silent for as
    /// long as `patience`.
    pub async fn run_inside(
        &self,
        name: &str,
        user: &str,
        command: &[&str],
        input: &[u8],
        patience: Duration,
    ) -> Result<Said> {
        use tokio::io::AsyncWriteExt;
        let what = format!("run {} in container {name}", command[0]);
        let options = bollard::models::ExecConfig {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            user: Some(user.to_owned()),
            cmd: Some(command.iter().map(|part| (*part).to_owned()).collect()),
            ..Default::default()
        };
        let exec = self
            .ask(&what, self.docker.create_exec(name, options))
            .await?;
        let started = self
            .ask(&what, self.docker.start_exec(&exec.id, None))
            .await?;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        if let bollard::exec::StartExecResults::Attached {
            mut output,
            input: mut pipe,
        } = started
        {
            let cannot = |error| super::Error::failed(format!("cannot {what}")).because(error);
            pipe.write_all(input).await.map_err(cannot)?;
            pipe.shutdown().await.map_err(cannot)?;
            loop {
                let Ok(part) = tokio::time::timeout(patience, output.next()).await else {
                    return Err(super::Error::failed(format!(
                        "{} in container {name} says nothing for {} s",
                        command[0],
                        patience.as_secs()
                    )));
                };
                match part {
                    None => break,
                    Some(Ok(bollard::container::LogOutput::StdErr { message })) => {
                        stderr.extend_from_slice(&message);
                    }
                    Some(Ok(part)) => stdout.extend_from_slice(&part.into_bytes()),
                    Some(Err(error)) => return Err(self.refused(&what, error)),
                }
            }
        }
        let ended = self.ask(&what, self.docker.inspect_exec(&exec.id)).await?;
        Ok(Said {
            code: ended.exit_code.unwrap_or(-1),
            stdout,
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        })
    }
}

fn described(found: ContainerInspectResponse) -> Container {
    let state = found.state.unwrap_or_default();
    let config = found.config.unwrap_or_default();
    let health = state.health.unwrap_or_default();
    let mut labels = config.labels.unwrap_or_default();
    let status = state
        .status
        .map(|status| status.to_string())
        .unwrap_or_default();
    let ended = matches!(status.as_str(), "exited" | "dead");
    let network = found.network_settings.unwrap_or_default();
    Container {
        name: found
            .name
            .unwrap_or_default()
            .trim_start_matches('/')
            .to_owned(),
        id: found.id.unwrap_or_default(),
        health: health
            .status
            .map(|status| status.to_string())
            .filter(|status| !status.is_empty() && status != "none"),
        health_said: health
            .log
            .and_then(|log| log.into_iter().next_back()?.output)
            .map(|said| said.trim().to_owned()),
        image: config.image.unwrap_or_default(),
        image_id: found.image.unwrap_or_default(),
        started_at: state.started_at.and_then(|at| moment(&at)),
        restarts: found.restart_count.unwrap_or(0),
        exit_code: state.exit_code.filter(|_| ended),
        out_of_memory: state.oom_killed.unwrap_or(false),
        addresses: network
            .networks
            .unwrap_or_default()
            .into_values()
            .filter_map(|one| one.ip_address.filter(|address| !address.is_empty()))
            .collect(),
        ports: ports(network.ports),
        volumes: found
            .mounts
            .unwrap_or_default()
            .into_iter()
            .filter_map(|mount| Some((mount.destination?, mount.name?)))
            .filter(|(_, name)| !name.is_empty())
            .collect(),
        project: labels.remove("com.docker.compose.project"),
        project_folder: labels
            .remove("com.docker.compose.project.working_dir")
            .map(PathBuf::from),
        error: state.error.filter(|error| !error.is_empty()),
        environment: config
            .env
            .unwrap_or_default()
            .iter()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        state: status,
    }
}

fn ports(map: Option<bollard::models::PortMap>) -> Vec<String> {
    let mut ports: Vec<String> = map
        .unwrap_or_default()
        .into_iter()
        .flat_map(|(inside, bindings)| {
            bindings.unwrap_or_default().into_iter().map(move |b| {
                let address = b.host_ip.unwrap_or_default();
                format!("{address}:{}->{inside}", b.host_port.unwrap_or_default())
            })
        })
        .collect();
    ports.sort();
    ports
}

/// The engine writes the year 1 for "never".
fn moment(text: &str) -> Option<DateTime<Utc>> {
    let at = DateTime::parse_from_rfc3339(text).ok()?.to_utc();
    (at.timestamp() > 0).then_some(at)
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a percentage is shown with a few digits"
)]
fn used(stats: &ContainerStatsResponse) -> Usage {
    let memory = stats.memory_stats.clone().unwrap_or_default();
    let details = memory.stats.unwrap_or_default();
    // The names of cgroup v2, then of v1.
    let cache = details
        .get("inactive_file")
        .or_else(|| details.get("total_inactive_file"))
        .copied()
        .unwrap_or(0);
    let cpu = |part: &Option<bollard::models::ContainerCpuStats>| {
        let part = part.clone().unwrap_or_default();
        (
            part.cpu_usage.and_then(|u| u.total_usage).unwrap_or(0),
            part.system_cpu_usage.unwrap_or(0),
            part.online_cpus.unwrap_or(1),
        )
    };
    let (now, system_now, cpus) = cpu(&stats.cpu_stats);
    let (before, system_before, _) = cpu(&stats.precpu_stats);
    let elapsed = system_now.saturating_sub(system_before);
    let cpu_percent = if elapsed == 0 {
        0.0
    } else {
        now.saturating_sub(before) as f64 / elapsed as f64 * f64::from(cpus) * 100.0
    };
    Usage {
        memory: memory.usage.unwrap_or(0).saturating_sub(cache),
        memory_limit: memory.limit,
        cpu_percent,
    }
}
