//! In production images are named by digest: a tag may lead to something else tomorrow.

use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient};
use crate::error::Result;
use std::sync::Arc;

pub(super) struct Digests;

impl Check for Digests {
    fn name(&self) -> &'static str {
        "digests"
    }

    fn group(&self) -> Group {
        Group::Security
    }

    fn only_in_production(&self) -> bool {
        true
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        Box::pin(async move { look(&patient).await })
    }
}

async fn look(patient: &Patient) -> Result<Examined> {
    let config = &patient.stack.config.docker;
    let mut named = vec![
        ("postgres_image", config.postgres_image.as_str()),
        ("redis_image", config.redis_image.as_str()),
        ("java_image", config.java_image.as_str()),
    ];
    if config.elasticsearch {
        named.push(("elasticsearch_image", config.elasticsearch_image.as_str()));
    }
    if patient.deployment()?.settings.servers().max(config.servers) > 1 {
        named.push(("balancer_image", config.balancer_image.as_str()));
    }
    if config.gateway.is_configured() {
        named.push(("gateway.image", config.gateway.image.as_str()));
    }
    if patient.deployment()?.settings.has_monitoring() {
        named.extend(config.monitoring.images());
    }
    let engine = patient.engine_soon().await;
    let mut examined = Examined::default();
    for (key, name) in named {
        if name.contains("@sha256:") {
            examined.say(format!("docker.{key} is named by digest"));
            continue;
        }
        let image = match &engine {
            Some(engine) => engine.image(name).await?,
            None => None,
        };
        let finding = Finding::warning(format!("docker.{key} is {name}, which is no digest"))
            .because("whoever can change the registry, or the way to it, decides what runs here");
        examined.find(match image.and_then(|image| image.digests.into_iter().next()) {
            Some(digest) => finding
                .advise(format!("Set docker.{key} to what is here now."))
                .remedy(format!("export K1OPS_DOCKER_{}={digest}", key.to_uppercase().replace('.', "_"))),
            None => finding
                .seen("this engine did not get it from a registry, so that it has no digest")
                .advise(format!("Name an image of a registry in docker.{key}, by its digest."))
                .remedy(format!("docker pull {name} && docker inspect -f '{{{{index .RepoDigests 0}}}}' {name}")),
        });
    }
    Ok(examined)
}
