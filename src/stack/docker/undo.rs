//! Taking down what a start that failed has brought up, and nothing that was there before.

use super::{Deployment, Service, remove_unused_files};
use crate::adapters::docker::{Container, Engine};
use crate::config::Config;
use crate::error::Result;
use crate::event::Events;
use std::collections::BTreeMap;
use std::time::Duration;

/// An undoing that takes longer than this is given up, so that the next tier gets its turn.
const LIMIT: Duration = Duration::from_secs(180);

/// What was there before a start.
#[derive(Debug, Clone)]
pub struct Before {
    /// The containers that were there, and whether they ran.
    containers: BTreeMap<String, bool>,
    /// The services whose volume is not there yet.
    pub new_volumes: Vec<Service>,
    network: bool,
}

impl Before {
    /// Looks what is there.
    pub async fn look(engine: &Engine, deployment: &Deployment) -> Result<Self> {
        let mut containers = BTreeMap::new();
        let mut new_volumes = Vec::new();
        for service in deployment.settings.services() {
            for container in deployment.containers(engine, service).await? {
                containers.insert(container.name.clone(), container.is_running());
            }
            if !Service::WITH_VOLUME.contains(&service) {
                continue;
            }
            let volume = deployment.volume(service);
            if engine.volume(&volume).await?.is_none() {
                new_volumes.push(service);
            }
        }
        Ok(Self {
            containers,
            new_volumes,
            network: engine.has_network(&deployment.names.network()).await?,
        })
    }

    /// Brings everything back to that. Returns whether it could.
    pub async fn restore(
        &self,
        engine: &Engine,
        deployment: &Deployment,
        config: &Config,
        events: &Events,
    ) -> bool {
        let undoing = self.try_restore(engine, deployment, config);
        let result = match tokio::time::timeout(LIMIT, undoing).await {
            Ok(result) => result,
            Err(_) => Err(crate::error::Error::failed("it took too long")),
        };
        let Err(error) = result else { return true };
        events.warning_with_hint(
            format!("what was started could not all be taken down: {error}"),
            "When Docker answers again, `k1ops stop` stops what runs and the next `k1ops start` \
             goes on from there.",
        );
        false
    }

    async fn try_restore(
        &self,
        engine: &Engine,
        deployment: &Deployment,
        config: &Config,
    ) -> Result<()> {
        engine.must_answer().await?;
        let names = &deployment.names;
        for service in deployment.settings.services().into_iter().rev() {
            for Container { name, .. } in deployment.containers(engine, service).await? {
                let ran = self.containers.get(&name);
                if ran != Some(&true) {
                    engine.stop_container(&name, service.grace(config)).await?;
                }
                if ran.is_none() {
                    engine.remove_container(&name).await?;
                }
            }
        }
        // A volume that this start made, and that never became a healthy stack, holds nothing but a
        // beginning that would be in the way of the next start.
        for &service in &self.new_volumes {
            engine.remove_volume(&deployment.volume(service)).await?;
        }
        remove_unused_files(engine, deployment).await?;
        if !self.network {
            engine.remove_network(&names.network()).await?;
        }
        Ok(())
    }
}
