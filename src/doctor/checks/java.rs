//! Java is there and new enough for the server, where the server runs on this host.

use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient, Severity};
use crate::stack::Tier;
use crate::stack::jar::java::needed_by;
use std::sync::Arc;
use std::time::Duration;

pub(super) struct JavaFound;

impl Check for JavaFound {
    fn name(&self) -> &'static str {
        "java"
    }

    fn group(&self) -> Group {
        Group::Conductor
    }

    /// A Java without a `release` file has to be started to say its version.
    fn limit(&self) -> Duration {
        Duration::from_secs(20)
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        Box::pin(async move {
            let tier = patient.tier().await;
            let version = &patient.stack.config.server.version;
            let needed = needed_by(version);
            Ok(match patient.java().await {
                Ok(java) => Examined::well(format!(
                    "Java {} will be used ({}); Conductor {version} needs {needed}",
                    java.version,
                    java.binary.display()
                )),
                Err(error) => {
                    let severity = match tier {
                        Tier::Docker => Severity::Note,
                        _ => Severity::Problem,
                    };
                    Finding::of(&error)
                        .because(match tier {
                            Tier::Docker => "tier 1 brings its own Java; only tier 2 needs it here",
                            _ => "tier 2 runs Conductor with the Java of this host",
                        })
                        .remedy(format!(
                            "sudo apt-get install openjdk-{needed}-jre-headless"
                        ))
                        .as_severe_as(severity)
                        .into()
                }
            })
        })
    }
}
