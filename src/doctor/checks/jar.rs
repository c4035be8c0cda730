//! Conductor's JAR is there and is the one that was released.

use super::{at_files, word};
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient};
use crate::error::{ErrorKind, Result};
use crate::stack::jar::boot_jar::Wanted;
use crate::stack::jar::cache::Cache;
use std::sync::Arc;
use std::time::Duration;

pub(super) struct Jar;

impl Check for Jar {
    fn name(&self) -> &'static str {
        "jar"
    }

    fn group(&self) -> Group {
        Group::Conductor
    }

    /// A JAR that was never verified has to be read whole, all 458 MB of it.
    fn limit(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        at_files(patient, look)
    }
}

fn look(patient: &Patient) -> Result<Examined> {
    let server = &patient.stack.config.server;
    let cache = Cache::open()?;
    let wanted = Wanted {
        server,
        base: &patient.stack.base,
        cache: &cache,
    };
    let mut examined = Examined::default();
    let mut damaged = Vec::new();
    for (path, verified) in wanted.candidates() {
        match verified {
            Ok(jar) => {
                examined.say(format!(
                    "Conductor {} in {}, checksum right",
                    jar.version,
                    path.display()
                ));
                // Later ones would not be used.
                break;
            }
            Err(error) => {
                let mut finding = Finding::of(&error)
                    .because("it would not be run: a damaged or foreign JAR can do anything");
                if error.kind() == ErrorKind::BadData {
                    let path = word(&path);
                    finding = finding.remedy(if server.jar.as_os_str().is_empty() {
                        format!("rm {path} && k1ops start")
                    } else {
                        format!("sha256sum {path}")
                    });
                } else if error.kind() == ErrorKind::Missing {
                    finding = finding
                        .remedy("unset K1OPS_SERVER_JAR    # or remove server.jar from k1ops.toml");
                }
                damaged.push(finding);
            }
        }
    }
    let nothing = examined.well.is_empty() && damaged.is_empty();
    for finding in damaged {
        examined.find(finding);
    }
    if nothing {
        examined.find(
            Finding::note(format!(
                "the JAR of Conductor {} is not here yet",
                server.version
            ))
            .because("the next start fetches it: 458 MB")
            .remedy("k1ops start"),
        );
    }
    Ok(examined)
}
