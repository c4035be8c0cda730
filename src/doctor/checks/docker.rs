//! A Docker engine is there, answers, and is new enough, where the stack needs one.

use crate::config::TierChoice;
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient, Severity};
use crate::stack::Tier;
use std::sync::Arc;
use std::time::Duration;

pub(super) struct Docker;

impl Check for Docker {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn group(&self) -> Group {
        Group::Docker
    }

    /// An engine that hangs is given up after 5 s, and then it is said why.
    fn limit(&self) -> Duration {
        Duration::from_secs(7)
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        Box::pin(async move {
            let Some(need) = need(&patient) else {
                return Ok(Examined::skipped(
                    "the stack is configured not to use Docker",
                ));
            };
            Ok(match patient.engine().await {
                Ok(engine) => Examined::well(engine.name()),
                Err(error) => Finding::of(&error)
                    .because(match need {
                        Severity::Problem => "this stack runs on tier 1, which needs Docker",
                        _ => "tier 1 needs Docker; tier 2 is started instead",
                    })
                    .remedy("docker version")
                    .as_severe_as(need)
                    .into(),
            })
        })
    }
}

/// How bad it is if there is no Docker; none where the stack would not use it.
pub(super) fn need(patient: &Patient) -> Option<Severity> {
    let own_database = patient.stack.without_docker_database().uses_database_url();
    match (patient.stack.config.tier, patient.stack.last_tier()) {
        (TierChoice::Docker, _) | (TierChoice::Auto, Ok(Some(Tier::Docker))) => {
            Some(Severity::Problem)
        }
        (TierChoice::Auto, _) if !own_database => Some(Severity::Note),
        _ => None,
    }
}
