//! The kernel allows what Elasticsearch needs, if that is switched on.

use crate::adapters::host;
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient};
use crate::error::ErrorKind;
use crate::stack::Tier;
use std::sync::Arc;

const SETTING: &str = "vm.max_map_count";
/// What Elasticsearch 7 refuses to start below.
const NEEDED: u64 = 262_144;

pub(super) struct Kernel;

impl Check for Kernel {
    fn name(&self) -> &'static str {
        "kernel"
    }

    fn group(&self) -> Group {
        Group::Host
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        Box::pin(async move {
            let on = patient.stack.config.docker.elasticsearch;
            if !on || patient.tier().await != Tier::Docker {
                return Ok(Examined::skipped("Elasticsearch is not used"));
            }
            let Some(found) = host::kernel_setting(SETTING) else {
                return Ok(Examined::skipped(format!("{SETTING} cannot be read here")));
            };
            if found >= NEEDED {
                return Ok(Examined::well(format!("{SETTING} is {found}")));
            }
            Ok(Finding::problem(
                ErrorKind::Missing,
                format!("{SETTING} is {found}, and Elasticsearch needs {NEEDED}"),
            )
            .because("Elasticsearch maps its index into memory, and refuses to start with less")
            .remedy(format!("sudo sysctl -w {SETTING}={NEEDED}"))
            .remedy(format!(
                "echo {SETTING}={NEEDED} | sudo tee /etc/sysctl.d/99-k1.conf"
            ))
            .into())
        })
    }
}
