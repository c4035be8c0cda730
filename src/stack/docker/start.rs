//! Starting the containers, from whatever is there to honest health, or back to what was there.

use super::image::ensure_pulled;
use super::journal::Journal;
use super::servers::is_current;
use super::services::{Services, open_files, said};
use super::undo::Before;
use super::wait::Patience;
use super::{
    Deployment, Ready, Service, ServiceStatus, expected_image, home, image_of, monitoring, plan,
    preflight, remove_unused_files, roles,
};
use crate::adapters::docker::{Engine, way_to};
use crate::config::Profile;
use crate::error::{Error, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use crate::stack::Stack;
use std::time::{Duration, Instant};

/// Seconds to wait for honest health unless the configuration says otherwise.
const HEALTH_TIMEOUT: u64 = 90;
/// While it visibly makes progress, a first boot may take this many times as long,
const FIRST_BOOT_TIMES: u32 = 5;
/// and a later one, as on a host that is busy, this many times.
const LATER_BOOT_TIMES: u32 = 2;

/// How to start.
#[derive(Debug, Clone, Copy, Default)]
pub struct DockerOptions {
    /// Wait for honest health.
    pub wait: bool,
    /// How long to wait for it, if not as configured.
    pub health_timeout: Option<Duration>,
    /// Fetch the images anew.
    pub pull: bool,
    /// Start servers that run anew, one by one.
    pub rolling: bool,
}

/// What a start has done.
#[derive(Debug)]
pub struct Started {
    /// The stack as it runs.
    pub deployment: Deployment,
    /// It ran already, and nothing was done.
    pub already: bool,
    /// Its containers.
    pub containers: Vec<String>,
    /// From the beginning to the end.
    pub took: Duration,
}

/// Starts the containers. The caller holds the server lock and knows that tier 2 does not run.
///
/// Whatever fails, and when it is interrupted, what was started is taken down again.
pub async fn start(
    stack: &Stack,
    ready: &Ready,
    options: DockerOptions,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<Started> {
    let begun = Instant::now();
    let stack = &with_elasticsearch_kept(stack)?;
    let (deployment, changed) = write_files(stack, ready, events)?;
    let mut run = Run {
        stack,
        ready,
        deployment,
        options,
        events,
    };
    if !changed && Box::pin(interrupt.guard(run.is_up_to_date())).await? {
        Journal::remove(stack)?;
        return Box::pin(interrupt.guard(run.started(true, begun))).await;
    }
    Box::pin(interrupt.guard(run.get_ready())).await?;
    let looking = Before::look(&ready.engine, &run.deployment);
    let before = Box::pin(interrupt.guard(looking)).await?;
    let earlier = run.note_down(&before)?;
    match Box::pin(interrupt.guard(run.bring_up(&before, &earlier))).await {
        Ok(()) => {
            Journal::remove(stack)?;
            remove_unused_files(&ready.engine, &run.deployment).await?;
            Box::pin(interrupt.guard(run.started(false, begun))).await
        }
        Err(error) => {
            events.note("taking down what was started");
            let undone = before
                .restore(&ready.engine, &run.deployment, &stack.config, events)
                .await;
            if undone {
                Journal::remove(stack)?;
                if before.new_volumes.contains(&Service::Postgres) {
                    home::forget(stack)?;
                }
            }
            Err(error)
        }
    }
}

/// Checks what can be checked, and fetches and makes every image that a start would need, while what
/// runs goes on.
pub async fn get_images(
    stack: &Stack,
    ready: &Ready,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<()> {
    let stack = &with_elasticsearch_kept(stack)?;
    let image = image_of(stack, &ready.jar.sha256);
    let run = Run {
        stack,
        ready,
        deployment: Deployment::planned(stack, &image)?,
        options: DockerOptions::default(),
        events,
    };
    Box::pin(interrupt.guard(run.get_ready())).await
}

/// Fails if the database's volume was made by another major version of `PostgreSQL` than that of the
/// image which the configuration names. An image that is not there yet is not fetched for it.
pub async fn check_database_image(stack: &Stack) -> Result<()> {
    let deployment = Deployment::planned(stack, &expected_image(stack))?;
    preflight::check_postgres_version(&Engine::find().await?, &deployment).await
}

/// Elasticsearch that was once asked for stays on: the search index is in it.
fn with_elasticsearch_kept(stack: &Stack) -> Result<Stack> {
    let mut stack = stack.clone();
    stack.config.docker.elasticsearch |= Deployment::of(&stack)?.settings.has_elasticsearch();
    Ok(stack)
}

/// Writes the files that Compose reads, and answers whether any has changed. What a user edited
/// stays, and is what counts.
fn write_files(stack: &Stack, ready: &Ready, events: &Events) -> Result<(Deployment, bool)> {
    let image = image_of(stack, &ready.jar.sha256);
    let plan = plan(stack, &image, true)?;
    for file in plan.edited() {
        events.warning_with_hint(
            format!("{} was edited and is used as it is", file.path.display()),
            "`k1ops init` shows how it differs, and asks whether to bring it up to date.",
        );
    }
    let docker = &stack.config.docker;
    if docker.gateway.is_configured() && docker.profile != Profile::Production {
        events.warning_with_hint(
            "docker.gateway is set, and there is no gateway: the profile is not production",
            "`k1ops harden` brings it up; until then Conductor's API asks for no login.",
        );
    }
    let changed = plan.has_updates();
    plan.apply(&[])?;
    open_files(&ready.engine, &plan.folder)?;
    Ok((Deployment::of(stack)?, changed))
}

struct Run<'a> {
    stack: &'a Stack,
    ready: &'a Ready,
    deployment: Deployment,
    options: DockerOptions,
    events: &'a Events,
}

impl Run<'_> {
    /// Everything runs, is well, and is of the wanted image.
    async fn is_up_to_date(&self) -> Result<bool> {
        if self.options.pull || self.options.rolling {
            return Ok(false);
        }
        let status = super::status(self.stack, &self.ready.engine, false).await?;
        let wanted = self.deployment.settings.services();
        let all = wanted.iter().all(|service| {
            status
                .services
                .iter()
                .any(|s| s.service == service.key() && s.container.is_running())
        });
        let settings = &self.deployment.settings;
        let logs = self.deployment.volume(Service::Server);
        let is_current = |s: &ServiceStatus| is_current(settings, &logs, &s.container);
        let count = settings.servers();
        let right =
            status.servers().all(is_current) && status.servers().count() == usize::from(count);
        // Of these one is reached from the host, and the others are not, or are not there.
        let ports = status.services.iter().all(|s| {
            let leads = [Service::Server, Service::Balancer, Service::Gateway].into_iter();
            leads
                .filter(|one| s.service == one.key())
                .all(|one| s.container.host_port(one.inner_port()) == settings.port(one))
        });
        // After a restore the next start has to bring its volume in.
        let volumes = wanted.iter().all(|&service| {
            if !Service::WITH_VOLUME.contains(&service) {
                return true;
            }
            let volume = self.deployment.volume(service);
            status.services.iter().any(|s| {
                s.service == service.key() && s.container.volumes.values().any(|v| *v == volume)
            })
        });
        // What a service is told may have changed without it: passwords, certificates.
        let told = status.services.iter().all(|s| {
            Service::named(s.service)
                .is_none_or(|service| settings.is_told_to(service, &s.container.environment))
        });
        Ok(all
            && right
            && ports
            && volumes
            && told
            && status.is_healthy()
            // What cannot be looked at, such as by another password, is mended on the way.
            && (!self.deployment.has_roles()
                || matches!(roles::fit(&self.deployment).await, Ok(true)))
            && (count == 1 || self.services().balancer().uses(count).await?))
    }

    /// What came of it, for whoever asked.
    async fn started(&self, already: bool, begun: Instant) -> Result<Started> {
        let took = begun.elapsed();
        let deployment = self.deployment.clone();
        let front = deployment.settings.front();
        if let Some(way) = deployment.settings.port(front).and_then(way_to) {
            let engine = self.ready.engine.name();
            self.events
                .note(format!("Conductor runs on {engine}: {way}"));
        }
        let mut containers = Vec::new();
        for service in deployment.settings.services() {
            let found = deployment.containers(&self.ready.engine, service).await?;
            containers.extend(found.into_iter().map(|container| container.name));
        }
        Ok(Started {
            deployment,
            already,
            containers,
            took,
        })
    }

    /// Checks what can be checked and makes the images, while nothing of the stack is touched yet.
    async fn get_ready(&self) -> Result<()> {
        let engine = &self.ready.engine;
        preflight::check_compose(&self.ready.compose, &self.deployment.settings)?;
        preflight::check_elsewhere(&self.ready.compose, &self.deployment.settings)?;
        home::check(self.stack, engine, &self.deployment).await?;
        preflight::check_names(engine, &self.deployment).await?;
        preflight::check_ports(engine, &self.deployment).await?;
        let settings = &self.deployment.settings;
        for service in settings.services() {
            // The server's own is built.
            if service == Service::Server {
                continue;
            }
            let image = settings.image(service).unwrap_or_default();
            ensure_pulled(engine, image, self.options.pull, self.events).await?;
        }
        preflight::check_postgres_version(engine, &self.deployment).await?;
        let image = image_of(self.stack, &self.ready.jar.sha256);
        let (folder, jar) = (&self.deployment.folder, &self.ready.jar.path);
        image
            .ensure(engine, folder, jar, self.options.pull, self.events)
            .await
    }

    /// Notes what is about to be made; answers what an earlier start that was cut short had made.
    fn note_down(&self, before: &Before) -> Result<Journal> {
        let earlier = Journal::left_behind(self.stack).unwrap_or_default();
        let mut journal = earlier.clone();
        for &service in &before.new_volumes {
            let volume = self.deployment.volume(service);
            if !journal.new_volumes.contains(&volume) {
                journal.new_volumes.push(volume);
            }
        }
        journal.write(self.stack)?;
        home::note(self.stack, &self.ready.engine)?;
        Ok(earlier)
    }

    async fn bring_up(&mut self, before: &Before, earlier: &Journal) -> Result<()> {
        let volume = self.deployment.volume(Service::Postgres);
        let first_boot = before.new_volumes.contains(&Service::Postgres);
        let begun = match self.bring_up_stores().await {
            Err(error) if earlier.new_volumes.contains(&volume) && never_finished(&error) => {
                self.set_aside(&volume).await?;
                self.bring_up_stores().await
            }
            other => other,
        };
        begun?;
        let patience = self.patience(first_boot || earlier.new_volumes.contains(&volume));
        self.bring_up_conductor(patience).await?;
        self.bring_up_monitoring().await
    }

    /// The servers, and then what asks for a login before them.
    async fn bring_up_conductor(&self, patience: Patience) -> Result<()> {
        let has_gateway = self.deployment.settings.has_gateway();
        if !has_gateway {
            // It holds the port that the server is to be reached by.
            self.remove(Service::Gateway).await?;
        }
        let services = self.services();
        if self.options.rolling {
            services.roll(patience).await?;
        } else {
            services
                .bring_up_servers(patience, self.options.wait)
                .await?;
        }
        if has_gateway {
            services.up(&[Service::Gateway]).await?;
            if self.options.wait {
                services.wait(Service::Gateway, patience).await?;
            }
        }
        Ok(())
    }

    /// What watches the stack, when there is something to be seen.
    async fn bring_up_monitoring(&self) -> Result<()> {
        let wanted = self.deployment.settings.services();
        let (on, off): (Vec<_>, Vec<_>) = Service::MONITORING
            .into_iter()
            .partition(|service| wanted.contains(service));
        for service in off {
            self.remove(service).await?;
        }
        if on.is_empty() {
            return Ok(());
        }
        self.services().up(&on).await?;
        if self.options.wait {
            for &service in &on {
                let patience = self.patience(true);
                self.services().wait(service, patience).await?;
            }
        }
        for note in monitoring::places(&self.deployment) {
            self.events.note(note);
        }
        Ok(())
    }

    /// Takes a container away that is not wanted any more.
    async fn remove(&self, service: Service) -> Result<()> {
        let engine = &self.ready.engine;
        let Some(container) = self.deployment.container(engine, service).await? else {
            return Ok(());
        };
        let grace = service.grace(&self.stack.config);
        engine.stop_container(&container.name, grace).await?;
        engine.remove_container(&container.name).await
    }

    /// What keeps data comes first, so that the database is known to be well, and to let us in,
    /// before Conductor needs it.
    async fn bring_up_stores(&self) -> Result<()> {
        let mut stores = self.deployment.settings.services();
        stores.retain(|service| {
            Service::WITH_VOLUME.contains(service) && *service != Service::Server
        });
        self.services().up(&stores).await?;
        for service in stores {
            self.services().wait(service, self.patience(true)).await?;
        }
        self.services().open_database().await
    }

    fn services(&self) -> Services<'_> {
        Services {
            engine: &self.ready.engine,
            compose: &self.ready.compose,
            deployment: &self.deployment,
            events: self.events,
        }
    }

    fn patience(&self, first_boot: bool) -> Patience {
        let configured = self.stack.config.server.health_timeout;
        let limit = self.options.health_timeout.unwrap_or_else(|| {
            Duration::from_secs(if configured > 0 {
                configured
            } else {
                HEALTH_TIMEOUT
            })
        });
        let times = if first_boot {
            FIRST_BOOT_TIMES
        } else {
            LATER_BOOT_TIMES
        };
        Patience {
            limit,
            at_most: limit * times,
        }
    }

    /// Goes on with a new volume. The other one is kept: that nothing is in it is only what it seems.
    async fn set_aside(&mut self, volume: &str) -> Result<()> {
        let name = self.deployment.names.container(Service::Postgres);
        self.ready.engine.remove_container(&name).await?;
        let first = self.deployment.names.volume(Service::Postgres);
        let fresh = format!("{first}_{}", chrono::Utc::now().format("%Y%m%dt%H%M%Sz"));
        Deployment::set_volume(self.stack, Service::Postgres, &fresh)?;
        self.deployment = Deployment::of(self.stack)?;
        self.events.warning_with_hint(
            format!(
                "volume {volume} is of a start that was cut short before there was a database in \
                 it; it is set aside, and {fresh} takes its place"
            ),
            format!("If nothing in it is yours: docker volume rm {volume}"),
        );
        Ok(())
    }
}

/// Whether the database says that its first start never got to its end. Then the database
/// `conductor` was never open to anybody, and nothing can be lost.
fn never_finished(error: &Error) -> bool {
    let said = said(error);
    [
        "pg_control",
        "exists but is not empty",
        "database \"conductor\" does not exist",
        "role \"conductor\" does not exist",
        "no pg_hba.conf entry",
        "pg_filenode.map",
    ]
    .iter()
    .any(|text| said.contains(text))
}
