//! The Conductor servers of a stack, one or several: brought up so that at most one of them brings the
//! database up to date, taken away without a request failing, and started anew one by one.

use super::balancer::Balancer;
use super::services::Services;
use super::wait::{Patience, until_healthy};
use super::{Service, Settings};
use crate::adapters::docker::Container;
use crate::adapters::postgres::{Session, server_message};
use crate::config::Config;
use crate::error::{Error, Result};

/// More than this many have no room in the connections that `PostgreSQL` gives by default.
pub const MOST: u8 = 8;
/// Connections for everybody else: backups, questions, the write-ahead log.
const FOR_OTHERS: u32 = 15;
/// Connections that a server takes unless it is told otherwise.
const POOL: u32 = 10;
/// What guards a workflow, so that two servers do not decide it at once.
const LOCK: &str = "conductor.workflow-execution-lock.type";

/// Fails if the configuration asks for servers that could not work together.
pub(super) fn check(config: &Config) -> Result<()> {
    let servers = config.docker.servers;
    if servers > MOST {
        return Err(Error::usage(format!(
            "docker.servers is {servers}, and {MOST} are the most"
        ))
        .hint("PostgreSQL gives 100 connections, and each server takes 10."));
    }
    let lock = config.server.properties.get(LOCK);
    if servers > 1 && lock.is_some_and(|lock| lock != "redis") {
        return Err(Error::usage(format!(
            "{LOCK} is set to {:?}, and {servers} servers need `redis`",
            lock.map_or("", String::as_str)
        ))
        .hint("Remove it from server.properties: with any other, two servers may decide one workflow at once."));
    }
    Ok(())
}

/// Whether a container is a server that runs and was made for what is wanted now.
pub(super) fn is_current(settings: &Settings, volume: &str, container: &Container) -> bool {
    let port = settings.port(Service::Server);
    container.is_running()
        && Some(container.image.as_str()) == settings.image(Service::Server)
        && container.host_port(Service::Server.inner_port()) == port
        && container.volumes.values().any(|v| v == volume)
        && settings.is_told_to(Service::Server, &container.environment)
}

impl Services<'_> {
    /// Brings the servers up, and what stands before several. Those that run and are as they should be
    /// go on.
    pub(super) async fn bring_up_servers(&self, patience: Patience, wait: bool) -> Result<()> {
        let count = self.deployment.settings.servers();
        if count == 1 {
            self.make_room_for_one().await?;
            self.up(&[Service::Server]).await?;
        } else {
            self.bring_up_several(count, patience).await?;
        }
        if wait {
            self.wait(Service::Server, patience).await?;
        }
        Ok(())
    }

    async fn bring_up_several(&self, count: u8, patience: Patience) -> Result<()> {
        self.check_connections(count).await?;
        let volume = self.deployment.volume(Service::Server);
        let (mut current, others): (Vec<_>, Vec<_>) = self
            .servers()
            .await?
            .into_iter()
            .partition(|c| is_current(&self.deployment.settings, &volume, c));
        for container in &others {
            self.remove(container).await?;
        }
        if current.is_empty() {
            // It may have to bring the database up to date, which two must not do at once: it is
            // waited for in any case.
            self.up_servers(1).await?;
            self.wait(Service::Server, patience).await?;
        }
        self.up(&[Service::Balancer]).await?;
        self.wait(Service::Balancer, patience).await?;
        // A rolling restart that was killed may have left one that is sent nothing.
        self.balancer().free_all().await?;
        while current.len() > usize::from(count)
            && let Some(last) = current.pop()
        {
            self.retire(&last).await?;
        }
        self.up_servers(count).await
    }

    /// Of several servers none has a port, and what stood before them holds it.
    async fn make_room_for_one(&self) -> Result<()> {
        let balancer = self.deployment.containers(self.engine, Service::Balancer);
        let servers = self.servers().await?;
        let name = self.deployment.names.container(Service::Server);
        let surplus = servers.into_iter().filter(|server| server.name != name);
        for container in balancer.await?.into_iter().chain(surplus) {
            self.remove(&container).await?;
        }
        Ok(())
    }

    /// Starts every server anew, each when the one before it takes requests again. Nothing that
    /// reaches the balancer fails.
    pub(super) async fn roll(&self, patience: Patience) -> Result<()> {
        let count = self.deployment.settings.servers();
        let servers = self.servers().await?;
        let balancer = self.deployment.container(self.engine, Service::Balancer);
        let stands_before = balancer
            .await?
            .is_some_and(|balancer| balancer.is_running());
        if count < 2 || !stands_before || !servers.iter().any(Container::is_running) {
            return Err(Error::usage(
                "servers are started anew one by one where several run, and here they do not",
            )
            .hint("Start several first: k1ops start --servers 2"));
        }
        self.check_versions(&servers)?;
        for server in servers.iter().filter(|server| !server.is_running()) {
            self.remove(server).await?;
        }
        self.up_servers(count).await?;
        self.wait(Service::Server, patience).await?;
        self.up(&[Service::Balancer]).await?;
        self.wait(Service::Balancer, patience).await?;
        self.balancer().free_all().await?;
        for server in self.servers().await? {
            self.balancer().until_used(&server).await?;
        }
        for server in self.servers().await? {
            self.replace(&server, count, patience).await?;
        }
        Ok(())
    }

    async fn replace(&self, server: &Container, count: u8, patience: Patience) -> Result<()> {
        self.retire(server).await?;
        let before = self.servers().await?;
        self.up_servers(count).await?;
        for fresh in self.servers().await? {
            if before.iter().any(|other| other.id == fresh.id) {
                continue;
            }
            let which = (Service::Server, fresh.name.as_str());
            until_healthy(self.engine, self.deployment, which, patience, self.events).await?;
            self.balancer().until_used(&fresh).await?;
        }
        Ok(())
    }

    /// The schema of one version of Conductor is not that of another, and while servers are started
    /// anew one by one both would work on it.
    fn check_versions(&self, servers: &[Container]) -> Result<()> {
        let version = |image: &str| {
            let tag = image.rsplit_once(':').map_or(image, |(_, tag)| tag);
            tag.rsplit_once('-')
                .map_or(tag, |(version, _)| version)
                .to_owned()
        };
        let image = self.deployment.settings.image(Service::Server);
        let wanted = version(image.unwrap_or_default());
        let is_other = |server: &&Container| version(&server.image) != wanted;
        let Some(other) = servers.iter().find(is_other) else {
            return Ok(());
        };
        Err(Error::usage(format!(
            "{} is Conductor {}, and {wanted} is configured",
            other.name,
            version(&other.image)
        ))
        .hint("Two versions do not work on one database: start without --rolling."))
    }

    /// Each server takes connections of the database, and others need some as well.
    async fn check_connections(&self, count: u8) -> Result<()> {
        let session = Session::open(&self.deployment.database()?).await?;
        let free = "SELECT current_setting('max_connections')::integer
            - current_setting('superuser_reserved_connections')::integer";
        let row = session.query_one(free, &[]).await.map_err(|error| {
            Error::failed("PostgreSQL does not say how many connections it gives")
                .because(server_message(&error))
        })?;
        let given = u32::try_from(row.get::<_, i32>(0)).unwrap_or(0);
        let pool = self.deployment.settings.get("K1_SERVER_CONNECTIONS");
        let pool: u32 = pool.and_then(|pool| pool.parse().ok()).unwrap_or(POOL);
        let needed = u32::from(count).saturating_mul(pool) + FOR_OTHERS;
        if needed <= given {
            return Ok(());
        }
        Err(Error::usage(format!(
            "{count} servers with {pool} connections each, and {FOR_OTHERS} for others, are \
             {needed}; PostgreSQL gives {given}"
        ))
        .hint("Start fewer servers, or have each take fewer by spring.datasource.hikari.maximum-pool-size."))
    }

    /// Takes a server away once it has answered what it was sent.
    async fn retire(&self, server: &Container) -> Result<()> {
        let step = format!("draining {}", server.name);
        self.events.started(&step);
        let place = self.balancer().drain(server).await?;
        self.events.finished(&step, "");
        let removed = self.remove(server).await;
        if let Some(place) = place {
            self.balancer().free(&place).await?;
        }
        removed
    }

    async fn remove(&self, container: &Container) -> Result<()> {
        let grace = self.deployment.settings.server_grace();
        self.engine.stop_container(&container.name, grace).await?;
        self.engine.remove_container(&container.name).await
    }

    async fn servers(&self) -> Result<Vec<Container>> {
        self.deployment
            .containers(self.engine, Service::Server)
            .await
    }

    pub(super) fn balancer(&self) -> Balancer<'_> {
        Balancer::of(self.deployment, self.engine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_cannot_work_together_are_refused() {
        let mut config = Config::default();
        config.docker.servers = MOST;
        check(&config).unwrap();
        config.docker.servers = MOST + 1;
        assert!(check(&config).unwrap_err().to_string().contains("most"));
        config.docker.servers = 2;
        config
            .server
            .properties
            .insert(LOCK.into(), "local_only".into());
        assert!(check(&config).unwrap_err().to_string().contains("`redis`"));
        config.docker.servers = 1;
        check(&config).unwrap();
    }
}
