//! The stack's ports are free, or held by the stack itself; who holds them otherwise.

use super::{quoted, word};
use crate::adapters::docker::is_elsewhere;
use crate::adapters::port::{self, Holder, Listening};
use crate::adapters::published::Published;
use crate::config::{Origin, Switch};
use crate::doctor::{Check, Examined, Finding, Fix, Group, Looking, Patient, Scrubber};
use crate::error::{ErrorKind, Result};
use crate::stack::docker::Service;
use crate::stack::{Remembered, Tier};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) struct Ports;

impl Check for Ports {
    fn name(&self) -> &'static str {
        "ports"
    }

    fn group(&self) -> Group {
        Group::Ports
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        Box::pin(async move { look(&patient).await })
    }
}

/// A port that the stack wants.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    service: Service,
    port: u16,
}

async fn look(patient: &Patient) -> Result<Examined> {
    if is_elsewhere() && patient.tier().await == Tier::Docker {
        return Ok(Examined::skipped(
            "the engine is on another host, and so are the stack's ports",
        ));
    }
    let wanted = wanted(patient).await?;
    let ports: Vec<u16> = wanted.iter().map(|w| w.port).collect();
    let listening = port::listening_on(&ports);
    let published = patient.published().await;
    let mut examined = Examined::default();
    for pair in twice(&wanted) {
        examined.find(pair);
    }
    let mut promised = ports.clone();
    for one in &wanted {
        let sockets: Vec<&Listening> = listening.iter().filter(|l| l.port == one.port).collect();
        let container = published.iter().find(|p| p.port == one.port);
        if sockets.is_empty() && container.is_none() && port::is_free(one.port) {
            continue;
        }
        if is_own(patient, *one, &sockets, container).await {
            examined.say(format!("{} is this stack's own", one.port));
            continue;
        }
        let free = port::free_near_but(one.port, &promised);
        promised.extend(free);
        examined.find(taken(patient, *one, &sockets, container, free));
    }
    elsewhere(patient, &wanted, &mut examined).await;
    if examined.findings.is_empty() && examined.well.is_empty() {
        let list: Vec<String> = ports.iter().map(u16::to_string).collect();
        examined.say(format!("{} free", list.join(", ")));
    }
    Ok(examined)
}

/// What the tier that runs, or would be started, listens on.
async fn wanted(patient: &Patient) -> Result<Vec<Wanted>> {
    let ports = &patient.stack.config.ports;
    let server = Wanted {
        service: Service::Server,
        port: ports.conductor,
    };
    match patient.tier().await {
        Tier::Direct => Ok(Vec::new()),
        Tier::Jar => Ok(vec![server]),
        Tier::Docker if patient.service_runs(Service::Server).await => {
            // What runs was told by its own files, which need not be what is configured now.
            let settings = patient.deployment()?.settings;
            let services = settings.services().into_iter();
            Ok(services
                .filter_map(|service| {
                    let port = settings.port(service)?;
                    Some(Wanted { service, port })
                })
                .collect())
        }
        Tier::Docker => {
            let mut wanted = vec![server];
            let mut add = |service, port| wanted.push(Wanted { service, port });
            add(Service::Postgres, ports.postgres);
            add(Service::Redis, ports.redis);
            if patient.stack.config.docker.elasticsearch {
                add(Service::Elasticsearch, ports.elasticsearch);
            }
            let monitoring = &patient.stack.config.docker.monitoring;
            if monitoring.run == Switch::On {
                add(Service::Prometheus, ports.prometheus);
                if !monitoring.grafana_image.is_empty() {
                    add(Service::Grafana, ports.grafana);
                }
            }
            Ok(wanted)
        }
    }
}

fn twice(wanted: &[Wanted]) -> Vec<Finding> {
    let mut found = Vec::new();
    for (at, one) in wanted.iter().enumerate() {
        for other in &wanted[at + 1..] {
            if one.port == other.port {
                let (a, b) = (one.service.port_key(), other.service.port_key());
                let title = format!("{a} and {b} are both {}", one.port);
                found.push(
                    Finding::problem(ErrorKind::Usage, title)
                        .because("two services cannot share a port")
                        .remedy(set_variable(other.service, port::free_near(one.port))),
                );
            }
        }
    }
    found
}

async fn is_own(
    patient: &Patient,
    wanted: Wanted,
    sockets: &[&Listening],
    container: Option<&Published>,
) -> bool {
    if let Ok(Remembered::Running(state)) = patient.server()
        && state.port == wanted.port
    {
        let pid = state.process.pid;
        let theirs = |s: &&&Listening| s.holder.as_ref().is_none_or(|h| h.pid == pid);
        return sockets.iter().filter(theirs).count() == sockets.len();
    }
    let (Some(container), Ok(deployment)) = (container, patient.deployment()) else {
        return false;
    };
    let Some(engine) = patient.engine_soon().await else {
        return false;
    };
    // Conductor's port is the server's own, or that of what stands before several.
    let holders = match wanted.service {
        Service::Server | Service::Balancer => vec![Service::Server, Service::Balancer],
        other => vec![other],
    };
    for service in holders {
        let own = deployment.containers(&engine, service).await;
        if own.is_ok_and(|own| own.iter().any(|c| c.name == container.container)) {
            return true;
        }
    }
    false
}

fn taken(
    patient: &Patient,
    wanted: Wanted,
    sockets: &[&Listening],
    container: Option<&Published>,
    free: Option<u16>,
) -> Finding {
    let Wanted { service, port } = wanted;
    let holder = sockets.iter().find_map(|s| s.holder.as_ref());
    let other = other_stack(holder, container);
    let by = if let Some(base) = &other {
        format!("another k1ops stack, the one in {}", base.display())
    } else if let Some(container) = container {
        let of = container.project.as_ref();
        let of = of.map_or_else(String::new, |name| format!(" of Compose project {name}"));
        format!("container {}{of}", container.container)
    } else if let Some(holder) = holder {
        format!("{} (PID {})", holder.name, holder.pid)
    } else if let Some(socket) = sockets.first() {
        format!("a process of user {}", socket.user)
    } else {
        "something that cannot be seen".to_owned()
    };
    let title = format!(
        "port {port}, wanted for {}, is taken by {by}",
        service.key()
    );
    let mut finding = Finding::problem(ErrorKind::Missing, title);
    for socket in sockets {
        let reach = if socket.address.is_unspecified() {
            ", all addresses"
        } else {
            ""
        };
        finding = finding.seen(format!(
            "listens on {}{reach}, user {}",
            socket.place(),
            socket.user
        ));
    }
    if let Some(holder) = holder {
        // Some programs are told passwords where everybody can see them.
        let command = Scrubber::new([]).clean(&holder.command);
        finding = finding.seen(format!("PID {}: {command}", holder.pid));
    }
    if let Some(container) = container {
        let Published { image, inner, .. } = container;
        finding = finding.seen(format!("image {image}, its port {inner}"));
    }
    if holder.is_none() && container.is_none() && !port::sees_everybody() {
        finding = finding
            .because("the process belongs to another user, and only root may see which it is");
        finding = finding.remedy(format!("sudo ss -ltnp 'sport = :{port}'"));
    } else {
        finding = finding.because("two programs cannot listen on one port of one address");
    }
    let finding = mend(patient, wanted, free, finding);
    match (&other, container, holder) {
        (Some(base), _, _) => finding
            .advise("Use another port for this stack, or stop the other one.")
            .remedy(format!(
                "k1ops stop --config {}",
                word(&base.join(crate::config::FILE_NAME))
            )),
        (None, Some(container), _) => finding
            .advise("Use another port for this stack, or stop that container.")
            .remedy(format!("docker stop {}", quoted(&container.container))),
        (None, None, Some(holder)) => finding
            .advise("Use another port, or end that process if it is not needed.")
            .remedy(format!("kill {}", holder.pid)),
        _ => finding.advise("Use another port for this stack."),
    }
}

/// A free port: written by `--fix` where the file decides, or else by the variable that does.
fn mend(patient: &Patient, wanted: Wanted, free: Option<u16>, finding: Finding) -> Finding {
    let Some(port) = free else {
        return finding;
    };
    let key = wanted.service.port_key();
    if let Some(Origin::Environment(_)) = patient.loaded.origins.get(key) {
        return finding.remedy(set_variable(wanted.service, Some(port)));
    }
    if patient.unreadable.is_some() {
        return finding;
    }
    let name = key.strip_prefix("ports.").unwrap_or(key);
    finding.remedy("k1ops doctor --fix").fix(Fix::SetPort {
        file: patient.config_file(),
        name: name.to_owned(),
        port,
    })
}

fn set_variable(service: Service, port: Option<u16>) -> String {
    let key = service.port_key().replace('.', "_").to_uppercase();
    let port = port.map_or_else(|| "PORT".to_owned(), |port| port.to_string());
    format!("export K1OPS_{key}={port}")
}

/// The folder of the other stack that a holder belongs to: its server works, and its Compose file
/// is, below `.conductor`.
fn other_stack(holder: Option<&Holder>, container: Option<&Published>) -> Option<PathBuf> {
    let of_container = container.and_then(|container| container.folder.as_deref());
    let of_process = holder
        .filter(|holder| holder.name == "java")
        .and_then(|holder| holder.folder.as_deref());
    of_container.or(of_process).and_then(base_of)
}

fn base_of(folder: &Path) -> Option<PathBuf> {
    let own = folder
        .ancestors()
        .find(|folder| folder.ends_with(".conductor"))?;
    own.parent().map(Path::to_path_buf)
}

/// Where nothing answers here, but something listens on the very port in another network namespace.
async fn elsewhere(patient: &Patient, wanted: &[Wanted], examined: &mut Examined) {
    if patient.conductor().await.is_some() {
        return;
    }
    let ports: Vec<u16> = wanted.iter().map(|w| w.port).collect();
    let asked = tokio::task::spawn_blocking(move || port::listening_elsewhere(&ports)).await;
    for (port, holder) in asked.unwrap_or_default() {
        if is_in_container(holder.pid) {
            continue;
        }
        examined.find(
            Finding::note(format!(
                "{} (PID {}) listens on port {port} in another network namespace",
                holder.name, holder.pid
            ))
            .seen(holder.command)
            .because("it is in nobody's way here, and cannot be reached from here either")
            .remedy(format!("sudo nsenter -t {} -n ss -ltnp", holder.pid)),
        );
    }
}

/// Containers listen in namespaces of their own all the time.
fn is_in_container(pid: u32) -> bool {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    ["docker", "libpod", "containerd", "kubepods"]
        .iter()
        .any(|engine| groups.contains(engine))
}
