//! Nothing of the stack is open to other hosts: Conductor has no login of its own.

use super::{quoted, target};
use crate::adapters::port;
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient};
use crate::error::{Context, ErrorKind, Result};
use crate::stack::Remembered;
use std::sync::Arc;

pub(super) struct Exposure;

impl Check for Exposure {
    fn name(&self) -> &'static str {
        "exposure"
    }

    fn group(&self) -> Group {
        Group::Security
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        Box::pin(async move { look(&patient).await })
    }
}

async fn look(patient: &Patient) -> Result<Examined> {
    let mut examined = Examined::default();
    let mut looked_at = 0;
    if let Remembered::Running(state) = patient.server()? {
        looked_at += 1;
        let open = port::listening_on(&[state.port]);
        let own = |l: &&port::Listening| {
            l.is_open_to_others() && l.holder.as_ref().is_none_or(|h| h.pid == state.process.pid)
        };
        if let Some(socket) = open.iter().find(own) {
            examined.find(
                told("Conductor", &socket.place())
                    .advise("Remove server.address from server.properties: k1ops sets 127.0.0.1.")
                    .remedy("k1ops stop && k1ops start"),
            );
        }
    }
    looked_at += containers(patient, &mut examined).await?;
    looked_at += database(patient, &mut examined).await?;
    if looked_at == 0 {
        return Ok(Examined::skipped("nothing of this stack runs"));
    }
    if examined.findings.is_empty() {
        examined.say("all that runs listens on this host only");
    }
    Ok(examined)
}

async fn containers(patient: &Patient, examined: &mut Examined) -> Result<usize> {
    let deployment = patient.deployment()?;
    let published = patient.published().await;
    let mut looked_at = 0;
    let mut told_of = Vec::new();
    let docker = patient.docker().await;
    let services = docker.iter().flat_map(|docker| &docker.services);
    for one in services.filter(|s| s.container.is_running()) {
        let name = &one.container.name;
        let of_service = published.iter().filter(|p| p.container == *name);
        looked_at += 1;
        for one in of_service.filter(|p| p.is_open_to_others()) {
            if told_of.contains(&one.port) {
                continue;
            }
            told_of.push(one.port);
            let place = format!("port {} of all addresses", one.port);
            examined.find(
                told(&format!("container {name}"), &place)
                    .advise(
                        "Write 127.0.0.1: before the port in docker-compose.yaml. Docker opens \
                         published ports past the host's firewall.",
                    )
                    .remedy(format!(
                        "grep -n {} {}",
                        one.inner,
                        quoted(
                            &deployment
                                .folder
                                .join("docker-compose.yaml")
                                .display()
                                .to_string()
                        )
                    ))
                    .remedy("k1ops stop && k1ops start"),
            );
        }
    }
    Ok(looked_at)
}

/// A database on this host that listens on every address.
async fn database(patient: &Patient, examined: &mut Examined) -> Result<usize> {
    if patient.stack.is_in_docker()? {
        return Ok(0);
    }
    let Some(session) = patient.session_if_any().await else {
        return Ok(0);
    };
    let address = patient.database()?;
    let host = address.host();
    if !(host == "localhost" || host.starts_with("127.") || host.starts_with('/')) {
        return Ok(0);
    }
    let row = session
        .query_one("SELECT current_setting('listen_addresses')", &[])
        .await
        .context(|| "the server's addresses cannot be read")?;
    let listens: String = row.get(0);
    let on_all = listens
        .split(',')
        .map(str::trim)
        .any(|a| ["*", "0.0.0.0", "::"].contains(&a));
    if on_all {
        let set = "ALTER SYSTEM SET listen_addresses = 'localhost'";
        examined.find(
            Finding::warning(
                "PostgreSQL listens on all addresses, and is used from this host only",
            )
            .seen(format!("listen_addresses is {listens:?}"))
            .because("whoever reaches this host can try passwords at it")
            .remedy(format!(
                "psql {} -c {}",
                target(address.shown()),
                quoted(set)
            ))
            .remedy("sudo systemctl restart postgresql"),
        );
    }
    Ok(1)
}

fn told(what: &str, place: &str) -> Finding {
    Finding::problem(
        ErrorKind::Failed,
        format!("{what} is open to other hosts: {place}"),
    )
    .because("there is no login: whoever reaches it can read, start and end everything")
}
