//! The stack's containers run, are well, and were not killed or restarted over and over.

use super::quoted;
use crate::adapters::docker::Container;
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient};
use crate::error::ErrorKind;
use std::sync::Arc;

/// More restarts than this are a loop.
const RESTARTS: i64 = 3;

pub(super) struct Containers;

impl Check for Containers {
    fn name(&self) -> &'static str {
        "containers"
    }

    fn group(&self) -> Group {
        Group::Docker
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        Box::pin(async move {
            let Some(docker) = patient.docker().await else {
                return Ok(Examined::skipped("there is no engine to ask"));
            };
            if docker.services.is_empty() {
                return Ok(Examined::skipped("this stack has no containers"));
            }
            let mut examined = Examined::default();
            let running = docker.is_running();
            for service in &docker.services {
                match unwell(&service.container, running) {
                    Some(finding) => examined.find(finding),
                    None => examined.say(service.container.name.clone()),
                }
            }
            Ok(examined)
        })
    }
}

fn unwell(container: &Container, others_run: bool) -> Option<Finding> {
    let name = &container.name;
    let problem = |title: String| Finding::problem(ErrorKind::Failed, title);
    let mut finding = if container.out_of_memory {
        problem(format!("container {name} was killed for want of memory"))
            .because("its memory limit, or the host's memory, is too small for it")
            .advise("Lower server.heap, or give the host more memory.")
    } else if container.is_running() && container.restarts > RESTARTS {
        problem(format!(
            "container {name} was restarted {} times",
            container.restarts
        ))
        .because("it ends soon after each start")
    } else if container.state == "restarting" {
        problem(format!("container {name} is restarted over and over"))
    } else if container.is_running() && !container.is_healthy() {
        let health = container.health.as_deref().unwrap_or("unknown");
        if health == "starting" {
            return None;
        }
        problem(format!("container {name} runs but is {health}"))
    } else if !container.is_running() && others_run {
        problem(format!(
            "container {name} does not run ({}), while others of the stack do",
            container.state
        ))
        .remedy("k1ops start")
    } else {
        return None;
    };
    if let Some(code) = container.exit_code {
        finding = finding.seen(format!("it exited with {code}"));
    }
    for said in [&container.error, &container.health_said]
        .into_iter()
        .flatten()
    {
        finding = finding.seen(said.clone());
    }
    Some(finding.remedy(format!("docker logs --tail 50 {}", quoted(name))))
}
