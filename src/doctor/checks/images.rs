//! The images of tier 1 are on the engine, and what runs was made from those that are configured.

use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient};
use crate::error::Result;
use crate::stack::Tier;
use crate::stack::docker::{Service, expected_image};
use std::sync::Arc;

pub(super) struct Images;

impl Check for Images {
    fn name(&self) -> &'static str {
        "images"
    }

    fn group(&self) -> Group {
        Group::Docker
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        Box::pin(async move { look(&patient).await })
    }
}

async fn look(patient: &Patient) -> Result<Examined> {
    if patient.tier().await != Tier::Docker {
        return Ok(Examined::skipped("only tier 1 has images"));
    }
    let Some(engine) = patient.engine_soon().await else {
        return Ok(Examined::skipped("there is no engine to ask"));
    };
    let config = &patient.stack.config.docker;
    let server = expected_image(&patient.stack).tag;
    let mut wanted = vec![
        (Service::Postgres, config.postgres_image.as_str()),
        (Service::Redis, config.redis_image.as_str()),
        (Service::Server, server.as_str()),
    ];
    if config.elasticsearch {
        wanted.push((Service::Elasticsearch, &config.elasticsearch_image));
    }
    let settings = patient.deployment()?.settings;
    if settings.servers().max(config.servers) > 1 {
        wanted.push((Service::Balancer, &config.balancer_image));
    }
    if settings.has_gateway() {
        wanted.push((Service::Gateway, &config.gateway.image));
    }
    for service in Service::MONITORING {
        wanted.extend(settings.image(service).map(|image| (service, image)));
    }
    let containers = patient.docker().await;
    let mut examined = Examined::default();
    let mut missing = Vec::new();
    for (service, name) in wanted {
        let Some(image) = engine.image(name).await? else {
            missing.push(match service {
                Service::Server => format!("{name}, which is built in a minute or two"),
                _ => format!("{name}, which is fetched from its registry"),
            });
            continue;
        };
        let services = containers.iter().flat_map(|docker| &docker.services);
        let running = services
            .filter(|s| s.service == service.key() && s.container.is_running())
            .find(|s| s.container.image_id != image.id);
        match running {
            Some(other) => examined.find(
                Finding::warning(format!(
                    "container {} was made from another image than {name}",
                    other.container.name
                ))
                .seen(format!("it runs {}", other.container.image))
                .because("the image or the configuration has changed since it was started")
                .advise("Start again to have the container made anew; its data stays.")
                .remedy("k1ops stop && k1ops start"),
            ),
            None => examined.say(name),
        }
    }
    if !missing.is_empty() {
        let verb = if missing.len() == 1 {
            "image is"
        } else {
            "images are"
        };
        let title = format!("{} {verb} not on this engine yet", missing.len());
        let finding =
            Finding::note(title).because("the next start fetches and builds what is missing");
        let finding = missing.into_iter().fold(finding, Finding::seen);
        examined.find(finding.remedy("k1ops start"));
    }
    Ok(examined)
}
