//! Redis answers, takes the stack's password, keeps its locks, and can save them.

use super::secrets_in;
use crate::adapters::docker::port_here;
use crate::adapters::redis;
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient};
use crate::error::{ErrorKind, Result};
use crate::stack::Tier;
use crate::stack::docker::Service;
use std::sync::Arc;
use std::time::Duration;

/// How long Redis may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

pub(super) struct Redis;

impl Check for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn group(&self) -> Group {
        Group::Database
    }

    /// Its own time comes after that of the engine, which is asked first.
    fn limit(&self) -> Duration {
        ANSWER * 3
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        Box::pin(async move { look(&patient).await })
    }
}

/// The one that servers of several hosts share.
async fn by_url(patient: &Patient) -> Result<Examined> {
    let Some(address) = patient.stack.redis_address()? else {
        return Ok(Examined::skipped(
            "only tier 1 has a Redis of its own, and redis.url is not set",
        ));
    };
    address.greet(ANSWER).await?;
    let mut examined = Examined::default();
    examined.say(format!("Redis at {} lets k1ops in", address.server()));
    Ok(examined)
}

async fn look(patient: &Patient) -> Result<Examined> {
    if patient.tier().await != Tier::Docker {
        return by_url(patient).await;
    }
    if !patient.service_runs(Service::Redis).await {
        return Ok(Examined::skipped(
            "tier 1 is stopped, and its Redis with it",
        ));
    }
    let deployment = patient.deployment()?;
    let port = port_here(deployment.settings.port(Service::Redis).unwrap_or(6379));
    let secrets = secrets_in(&deployment.folder)?;
    let password = secrets.as_ref().map(|secrets| secrets.redis.expose());
    let authority = deployment.authority();
    let about = match redis::ask(port, password, authority.as_deref(), ANSWER).await {
        Ok(about) => about,
        Err(error) => {
            let container = deployment.names.container(Service::Redis);
            let finding = Finding::of(&error)
                .because("Conductor takes its locks in Redis; without them workflows stand still");
            return Ok(if error.kind() == ErrorKind::Usage {
                finding
                    .seen("docker/secrets/redis.conf is not what this Redis was started with")
                    .remedy(format!("docker restart {container}"))
            } else {
                finding.remedy(format!("docker logs --tail 50 {container}"))
            }
            .into());
        }
    };
    let container = deployment.names.container(Service::Redis);
    let mut examined = Examined::default();
    if about.eviction != "noeviction" && !about.eviction.is_empty() {
        examined.find(
            Finding::problem(
                ErrorKind::Usage,
                format!(
                    "Redis throws keys away when memory is short ({})",
                    about.eviction
                ),
            )
            .seen(format!(
                "{} keys were thrown away since its start",
                about.evicted
            ))
            .because("a lock that is thrown away lets two servers decide one workflow at once")
            .advise("Set maxmemory-policy to noeviction, and remove what set it from redis.conf.")
            .remedy(format!(
                "docker exec -i {container} sh -c 'REDISCLI_AUTH=$(sed -n \"s/^requirepass //p\" \
                 /run/secrets/redis.conf) redis-cli CONFIG SET maxmemory-policy noeviction'"
            )),
        );
    }
    if !about.saves {
        examined.find(
            Finding::warning("Redis could not save to its volume the last time")
                .because("the disk is full, or the volume cannot be written to")
                .remedy(format!("docker logs --tail 50 {container}")),
        );
    }
    if examined.findings.is_empty() {
        examined.say(format!("Redis {}, {}", about.version, about.eviction));
    }
    Ok(examined)
}
