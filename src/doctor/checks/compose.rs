//! Docker Compose is there and new enough, where there is an engine for it.

use super::docker;
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient};
use std::sync::Arc;
use std::time::Duration;

pub(super) struct ComposeInstalled;

impl Check for ComposeInstalled {
    fn name(&self) -> &'static str {
        "compose"
    }

    fn group(&self) -> Group {
        Group::Docker
    }

    fn limit(&self) -> Duration {
        Duration::from_secs(20)
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        Box::pin(async move {
            let Some(need) = docker::need(&patient) else {
                return Ok(Examined::skipped(
                    "the stack is configured not to use Docker",
                ));
            };
            if patient.engine().await.is_err() {
                return Ok(Examined::skipped("there is no engine to use it with"));
            }
            Ok(match patient.compose().await {
                Ok(compose) => Examined::well(compose.name()),
                Err(error) => Finding::of(&error)
                    .because("tier 1 is a Compose project")
                    .remedy("sudo apt-get install docker-compose-plugin || sudo apt-get install docker-compose")
                    .as_severe_as(need)
                    .into(),
            })
        })
    }
}
