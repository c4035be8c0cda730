//! The volumes of tier 1 into an archive, each as it is safe to take: the database's cluster through
//! its own protocol, Redis and Elasticsearch by their own snapshots, anything else as files.
//!
//! A volume whose service does not run is at rest, and taken as files.

use super::parts::Parts;
use super::physical;
use crate::adapters::docker::{Container, Engine, TarStream};
use crate::archive::{LeftOut, Source, VolumeContent, VolumeSource, Writer, tree};
use crate::error::{Error, Result};
use crate::event::{Events, Unit};
use crate::interrupt::Interrupt;
use crate::stack::Stack;
use crate::stack::docker::{Deployment, Role, Service, snapshot};
use futures_util::StreamExt;

/// What a volume became.
#[derive(Debug)]
pub(super) enum Taken {
    /// It is in the archive.
    Source(Source),
    /// There is none.
    Nothing(LeftOut),
}

/// Takes volumes of one deployment.
pub(super) struct Volumes<'a> {
    engine: Engine,
    deployment: Deployment,
    writer: &'a Writer,
    events: &'a Events,
    interrupt: &'a Interrupt,
}

impl<'a> Volumes<'a> {
    /// Finds the engine and the stack's volumes on it.
    pub(super) async fn open(
        stack: &Stack,
        writer: &'a Writer,
        events: &'a Events,
        interrupt: &'a Interrupt,
    ) -> Result<Self> {
        Ok(Self {
            engine: Engine::find().await?,
            deployment: Deployment::of(stack)?,
            writer,
            events,
            interrupt,
        })
    }

    /// Takes the volume of a service.
    pub(super) async fn take(&self, service: Service) -> Result<Taken> {
        let live = self.deployment.volume(service);
        if self.engine.volume(&live).await?.is_none() {
            return Ok(Taken::Nothing(LeftOut {
                what: format!("volume {live}"),
                why: "there is none".to_owned(),
            }));
        }
        let container = self.deployment.container(&self.engine, service).await?;
        let runs = container.as_ref().is_some_and(Container::is_up);
        let source = match service {
            Service::Postgres if runs => return self.cluster().await,
            Service::Redis if runs => self.redis().await?,
            Service::Elasticsearch if runs => self.elasticsearch().await?,
            _ => {
                let files = self.files(service, &live).await?;
                if !runs {
                    self.require_rest(service, container.as_ref()).await?;
                }
                files
            }
        };
        Ok(Taken::Source(Source::Volume(source)))
    }

    /// Files that are written to while they are copied are no backup of anything.
    async fn require_rest(&self, service: Service, before: Option<&Container>) -> Result<()> {
        let now = self.deployment.container(&self.engine, service).await?;
        let started =
            |container: Option<&Container>| container.and_then(|container| container.started_at);
        let is_up = now.as_ref().is_some_and(Container::is_up);
        if !is_up && started(now.as_ref()) == started(before) {
            return Ok(());
        }
        let volume = self.deployment.volume(service);
        Err(Error::failed(format!(
            "volume {volume} was copied as that of a service at rest, which was started meanwhile"
        ))
        .hint("Run the backup again: of a service that runs it takes a snapshot."))
    }

    async fn cluster(&self) -> Result<Taken> {
        let volume = self.deployment.names.volume(Service::Postgres);
        let address = self.deployment.database_as(Role::Backup)?;
        let taken = physical::take(self.writer, &address, &volume, self.events, self.interrupt);
        Ok(Taken::Source(Source::Physical(taken.await?)))
    }

    async fn redis(&self) -> Result<VolumeSource> {
        let container = self.deployment.names.container(Service::Redis);
        let file = snapshot::redis(&self.engine, &container, self.interrupt).await?;
        let tar = self.engine.download_tar(&container, &file);
        let content = VolumeContent::RedisSnapshot;
        self.stream(Service::Redis, content, Box::pin(tar)).await
    }

    async fn elasticsearch(&self) -> Result<VolumeSource> {
        let container = self.deployment.names.container(Service::Elasticsearch);
        let taken = snapshot::elasticsearch(&self.engine, &container, self.interrupt).await?;
        let tar = self
            .engine
            .download_tar(&container, &format!("{}/.", taken.folder));
        let content = VolumeContent::ElasticsearchSnapshot;
        let source = self.stream(Service::Elasticsearch, content, Box::pin(tar));
        let source = source.await;
        taken.remove(&self.engine, &container).await?;
        source
    }

    async fn files(&self, service: Service, live: &str) -> Result<VolumeSource> {
        let image = self.deployment.image_at_hand(&self.engine).await?;
        let open = self.engine.open_volume(live, &image).await?;
        let source = self
            .stream(service, VolumeContent::Files, open.read()?)
            .await;
        open.close().await?;
        source
    }

    async fn stream(
        &self,
        service: Service,
        content: VolumeContent,
        tar: TarStream,
    ) -> Result<VolumeSource> {
        self.interrupt
            .guard(self.stream_all(service, content, tar))
            .await
    }

    async fn stream_all(
        &self,
        service: Service,
        content: VolumeContent,
        mut tar: TarStream,
    ) -> Result<VolumeSource> {
        let volume = self.deployment.names.volume(service);
        let step = format!("copying volume {volume}");
        self.events.started(&step);
        let folder = format!("volumes/{volume}");
        let mut parts = Parts::begin(self.writer, folder.clone());
        let (passing, reading) = tree::passing();
        while let Some(piece) = tar.next().await {
            let piece = piece?;
            parts.add(&piece).await?;
            self.events.progress(&step, parts.size, None, Unit::Bytes);
            if passing.send(piece).await.is_err() {
                break;
            }
        }
        drop(passing);
        let found = tree::passed(reading).await?;
        if found.digest.rows == 0 {
            return Err(Error::failed(format!(
                "volume {volume} came without its folder"
            )));
        }
        parts.flush().await?;
        self.events
            .finished(step, format!("{} entries", found.digest.rows));
        Ok(VolumeSource {
            volume,
            service: service.key().to_owned(),
            content,
            folder,
            parts: parts.count,
            size: parts.size,
            bytes: found.bytes,
            entries: found.digest,
        })
    }
}
