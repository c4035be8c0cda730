//! Where a drill takes place: scratch files for SQLite, a scratch database on the same server for a
//! PostgreSQL by URL, containers and volumes of its own for tier 1. All of it is gone afterwards,
//! also what a drill left that was killed.

use crate::adapters::docker::Engine;
use crate::adapters::postgres::{Address, admin};
use crate::archive::{Archive, Source};
use crate::config::TierChoice;
use crate::error::{Context, Error, Result};
use crate::event::Events;
use crate::restore;
use crate::stack::docker::{Deployment, Service, remove_unused_files};
use crate::stack::{self, ScratchStack, Stack, Tier};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// What keeps the scratch server from doing anything by itself outside of its own database.
const QUIET: [(&str, &str); 6] = [
    ("conductor.system-task-workers.enabled", "false"),
    ("conductor.default-event-processor.enabled", "false"),
    ("conductor.event-queues.default.enabled", "false"),
    ("conductor.scheduler.enabled", "false"),
    ("conductor.workflow-status-listener.type", "stub"),
    ("conductor.task-status-listener.type", "stub"),
];
/// How a scratch database's name begins. Nothing else is ever dropped.
const DATABASE: &str = "k1ops_drill_";
/// Where its name is noted before there is one.
const NOTE: &str = "database";

/// A scratch stack, and what of it is not in its folder.
#[derive(Debug)]
pub(super) struct Ground {
    /// Its folder.
    scratch: ScratchStack,
    /// The stack that an archive is restored to and that is started.
    pub stack: Stack,
    /// The tier that it runs on.
    pub tier: Tier,
    /// The real one.
    live: Stack,
}

/// The folder of the scratch folders.
pub(super) fn parent(live: &Stack) -> PathBuf {
    live.folder.join("drills")
}

impl Ground {
    /// Everything that `archive` needs to be restored into, beside the stack `live`.
    pub(super) fn prepare(live: &Stack, archive: &Archive) -> Result<Self> {
        let kind = Kind::of(live, archive)?;
        let name = &archive.manifest().header.stack;
        let mut scratch =
            ScratchStack::new(&live.config, &live.base, name, &parent(live), "drill-")?;
        for (name, value) in QUIET {
            let properties = &mut scratch.stack.config.server.properties;
            properties.insert(name.to_owned(), value.to_owned());
        }
        let (tier, choice) = match kind {
            Kind::Files { has_server: false } => (Tier::Direct, TierChoice::Direct),
            Kind::Files { has_server: true } | Kind::Database => (Tier::Jar, TierChoice::Jar),
            Kind::Containers => (Tier::Docker, TierChoice::Docker),
        };
        scratch.stack.config.tier = choice;
        let mut stack = scratch.stack.clone();
        match kind {
            Kind::Files { .. } => {}
            Kind::Database => {
                let id = Uuid::new_v4().simple().to_string();
                let name = format!("{DATABASE}{}", &id[..12]);
                std::fs::write(stack.base.join(NOTE), &name)
                    .context(|| "the scratch database cannot be noted")?;
                stack.config.database = live.config.database.clone();
                stack.config.database.url = Address::url_of(&live.config.database.url, &name)?;
                let file = &mut stack.config.database.password_file;
                if !file.as_os_str().is_empty() {
                    *file = live.base.join(&*file);
                }
            }
            Kind::Containers => stack = restore::in_docker(&scratch.stack, true)?,
        }
        Ok(Self {
            scratch,
            stack,
            tier,
            live: live.clone(),
        })
    }

    /// Leaves the folder where it is; what is not in it goes all the same.
    pub(super) fn keep(&mut self) -> PathBuf {
        self.scratch.keep();
        self.stack.base.clone()
    }

    /// Stops everything, and removes it.
    pub(super) async fn clear(self, events: &Events) -> Result<()> {
        let cleared = clear(&self.stack, self.tier, &self.live, events).await;
        drop(self.scratch);
        // It stays if somebody keeps a scratch folder in it.
        let _ = std::fs::remove_dir(parent(&self.live));
        cleared
    }
}

/// Removes what drills left that were killed. Nobody else does one meanwhile.
pub(super) async fn remove_abandoned(live: &Stack, events: &Events) -> Result<()> {
    let entries = std::fs::read_dir(parent(live))
        .into_iter()
        .flatten()
        .flatten();
    for folder in entries.map(|entry| entry.path()) {
        let scratch = ScratchStack::abandoned(&folder, live);
        let tier = scratch.last_tier()?.unwrap_or(Tier::Jar);
        if tier == Tier::Docker
            && let Ok(in_docker) = scratch.in_docker()
        {
            // What a restore has made beside the volumes is known to its journal only.
            let _ = Box::pin(restore::recover(&in_docker, events)).await;
        }
        // A folder that was kept has nothing outside of it any more.
        clear(&scratch, tier, live, events).await?;
        std::fs::remove_dir_all(&folder)
            .context(|| format!("{} cannot be removed", folder.display()))?;
        events.note(format!("removed {} of an earlier drill", folder.display()));
    }
    Ok(())
}

async fn clear(scratch: &Stack, tier: Tier, live: &Stack, events: &Events) -> Result<()> {
    let stopped = stack::stop(&scratch.without_docker_database(), events)
        .await
        .map(drop);
    let dropped = drop_databases(scratch, live).await;
    let removed = match tier {
        Tier::Docker => remove_containers(scratch, live, events).await,
        Tier::Jar | Tier::Direct => Ok(()),
    };
    stopped.and(dropped).and(removed)
}

/// The scratch database, and what a restore that was killed has put beside it.
async fn drop_databases(scratch: &Stack, live: &Stack) -> Result<()> {
    let Ok(name) = std::fs::read_to_string(scratch.base.join(NOTE)) else {
        return Ok(());
    };
    let name = name.trim();
    if !name.starts_with(DATABASE) || !live.uses_database_url() {
        return Ok(());
    }
    let address = live.database_address()?;
    for found in admin::databases_beginning_with(&address, name).await? {
        admin::drop_database(&address, &found).await?;
    }
    Ok(())
}

/// Containers, network, volumes and image of the scratch stack, none of which is the real one's.
async fn remove_containers(scratch: &Stack, live: &Stack, events: &Events) -> Result<()> {
    let engine = Engine::find().await?;
    let own = Deployment::of(scratch)?;
    let real = Deployment::of(live)?;
    if own.names.prefix() == real.names.prefix() || !scratch.docker_folder().exists() {
        return Ok(());
    }
    let step = "removing the scratch containers";
    events.started(step);
    let mut volumes = BTreeSet::new();
    for service in Service::ALL {
        engine
            .remove_container(&own.names.container(service))
            .await?;
        // That which it was made with, and that which the restore has put in its place.
        volumes.extend([own.names.volume(service), own.volume(service)]);
    }
    for service in Service::ALL {
        volumes.remove(&real.names.volume(service));
        volumes.remove(&real.volume(service));
    }
    for volume in &volumes {
        engine.remove_volume(volume).await?;
    }
    remove_unused_files(&engine, &own).await?;
    engine.remove_network(&own.names.network()).await?;
    let images = [
        own.settings.image(Service::Server),
        real.settings.image(Service::Server),
    ];
    if let [Some(image), other] = images
        && other != Some(image)
    {
        engine.remove_image(image).await?;
    }
    events.finished(step, format!("{} volumes", volumes.len()));
    Ok(())
}

/// What an archive is restored into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Files { has_server: bool },
    Database,
    Containers,
}

impl Kind {
    fn of(live: &Stack, archive: &Archive) -> Result<Self> {
        let manifest = archive.manifest();
        let in_containers = manifest.tier.as_deref() == Some(Tier::Docker.name());
        let has_database = manifest.postgres().is_some();
        let is_beside = |source: &Source| matches!(source, Source::Sqlite(_) | Source::Config(_));
        if in_containers {
            Ok(Self::Containers)
        } else if manifest.sources.iter().all(is_beside) {
            let has_server = manifest.sqlite().any(|source| source.name == "conductor");
            Ok(Self::Files { has_server })
        } else if has_database && live.uses_database_url() && !live.is_in_docker()? {
            Ok(Self::Database)
        } else {
            Err(nowhere(archive.path()))
        }
    }
}

fn nowhere(archive: &Path) -> Error {
    Error::usage(format!(
        "{} was taken of a PostgreSQL, and this stack has none to make a scratch database on",
        archive.display()
    ))
    .hint("Set database.url to the server to use, or do the drill where the stack is.")
}
