//! A volume of tier 1 into a new volume beside the live one, and a look whether it is good: files
//! are read back and compared, and a real server is run on what a server is to run on.
//!
//! Making the new volume the live one is not this module's business.

use crate::adapters::docker::{Engine, OpenVolume};
use crate::archive::{Archive, PartsReader, PhysicalSource, VolumeContent, VolumeSource, tree};
use crate::error::{Context, Error, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use crate::stack::Stack;
use crate::stack::docker::{Deployment, Service, snapshot, trial};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use serde::Serialize;
use std::collections::HashMap;
use std::io::Read;
use tokio::sync::mpsc;

/// The label of volumes that a restore has made.
const RESTORED: &str = "k1ops.restored";

/// What a volume is restored from.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum VolumeOf {
    /// A tar stream of files.
    Files(VolumeSource),
    /// A `PostgreSQL` cluster.
    Cluster(PhysicalSource),
}

impl VolumeOf {
    /// The volume's name in the archive.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Files(source) => &source.volume,
            Self::Cluster(source) => &source.volume,
        }
    }

    /// Bytes that are written.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Files(source) => source.bytes,
            Self::Cluster(source) => source.size(),
        }
    }

    /// The service that the volume belongs to.
    #[must_use]
    pub fn service(&self) -> Option<Service> {
        match self {
            Self::Files(source) => Service::named(&source.service),
            Self::Cluster(_) => Some(Service::Postgres),
        }
    }
}

/// One restore into a new volume.
pub(super) struct Restoring<'a> {
    into: Into<'a>,
    archive: &'a Archive,
    jobs: usize,
    interrupt: &'a Interrupt,
}

/// Where new volumes are made.
struct Into<'a> {
    engine: Engine,
    deployment: Deployment,
    events: &'a Events,
}

impl<'a> Restoring<'a> {
    /// Finds the engine and the images.
    pub(super) async fn begin(
        stack: &Stack,
        archive: &'a Archive,
        jobs: usize,
        events: &'a Events,
        interrupt: &'a Interrupt,
    ) -> Result<Self> {
        Ok(Self {
            into: Into {
                engine: Engine::find().await?,
                deployment: Deployment::of(stack)?,
                events,
            },
            archive,
            jobs,
            interrupt,
        })
    }

    /// Fills the new volume `beside`, checks it, and answers how many entries it has. On failure
    /// the volume stays, half filled: whoever gives up removes it.
    pub(super) async fn restore_beside(&self, of: &VolumeOf, beside: &str) -> Result<u64> {
        let all = Box::pin(self.all(of, beside));
        self.interrupt.guard(all).await
    }

    async fn all(&self, of: &VolumeOf, beside: &str) -> Result<u64> {
        let step = format!("restoring volume {}", of.name());
        self.into.events.started(&step);
        let service = of.service().ok_or_else(|| {
            let name = of.name();
            self.archive.bad(format!(
                "holds volume {name} of a service that is not known"
            ))
        })?;
        self.into.make(service, beside).await?;
        let entries = match of {
            VolumeOf::Cluster(source) => self.cluster(source, beside).await?,
            VolumeOf::Files(source) => self.files(source, service, beside).await?,
        };
        self.into
            .events
            .finished(step, format!("{entries} entries"));
        Ok(entries)
    }

    async fn cluster(&self, source: &PhysicalSource, beside: &str) -> Result<u64> {
        let [base] = source.archives.as_slice() else {
            return Err(self
                .archive
                .bad("holds a cluster with tablespaces, which are outside of its volume")
                .hint("Restore the database from its rows: leave --only away."));
        };
        let folder = source.parts_folder(base);
        let tar = self.stream(&folder, base.parts)?;
        self.into.fill(beside, tar).await?;
        trial::postgres(
            &self.into.engine,
            &self.into.deployment,
            beside,
            self.into.events,
        )
        .await?;
        Ok(source.files)
    }

    async fn files(&self, source: &VolumeSource, service: Service, beside: &str) -> Result<u64> {
        let tar = self.stream(&source.folder, source.parts)?;
        match source.content {
            VolumeContent::Files => {
                self.into.fill(beside, tar).await?;
                self.into.compare(source, beside).await?;
                self.into.try_files(service, beside).await?;
            }
            VolumeContent::RedisSnapshot => {
                self.into.fill(beside, tar).await?;
                trial::redis(
                    &self.into.engine,
                    &self.into.deployment,
                    beside,
                    self.into.events,
                )
                .await?;
            }
            VolumeContent::ElasticsearchSnapshot => {
                self.fill_elasticsearch(source, beside).await?;
                trial::elasticsearch(
                    &self.into.engine,
                    &self.into.deployment,
                    beside,
                    self.into.events,
                )
                .await?;
            }
        }
        Ok(source.entries.rows)
    }

    /// The snapshot goes where Elasticsearch may read it, in a volume that belongs to its user.
    async fn fill_elasticsearch(&self, source: &VolumeSource, beside: &str) -> Result<()> {
        let mut parts = self.parts(&source.folder, source.parts)?;
        let owner = tokio::task::spawn_blocking(move || first_owner(&mut parts))
            .await
            .context(|| "the thread that reads a tar stream died")??;
        let name = snapshot::ELASTICSEARCH_FOLDER.rsplit('/').next();
        let folders = folders(&["./", &format!("./{}/", name.unwrap_or_default())], owner)?;
        let tar = futures_util::stream::once(async { Ok(Bytes::from(folders)) });
        self.into.fill(beside, tar).await?;
        let tar = self.stream(&source.folder, source.parts)?;
        let open = self.into.open(beside).await?;
        let written = open.write(name.unwrap_or_default(), tar).await;
        open.close().await?;
        written
    }

    fn parts(&self, folder: &str, count: u32) -> Result<PartsReader> {
        PartsReader::new(self.archive, folder, count, self.jobs, self.interrupt)
    }

    /// The parts of a stream, one after the other, from a thread of their own.
    fn stream(
        &self,
        folder: &str,
        count: u32,
    ) -> Result<impl Stream<Item = std::io::Result<Bytes>> + Send + use<>> {
        Ok(streamed(self.parts(folder, count)?))
    }
}

impl Into<'_> {
    /// Makes the new volume, and sees to the images that it is filled and tried with.
    async fn make(&self, service: Service, volume: &str) -> Result<()> {
        trial::ensure_image(&self.engine, &self.deployment, service, self.events).await?;
        let labels = labels(&self.deployment, service);
        self.engine.make_volume(volume, labels).await
    }

    async fn open(&self, volume: &str) -> Result<OpenVolume> {
        let image = self.deployment.image_at_hand(&self.engine).await?;
        self.engine.open_volume(volume, &image).await
    }

    async fn fill(
        &self,
        beside: &str,
        tar: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<()> {
        let open = self.open(beside).await?;
        let written = open.write(".", tar).await;
        open.close().await?;
        written
    }

    /// Reads the new volume back and compares every entry with what was backed up.
    async fn compare(&self, source: &VolumeSource, beside: &str) -> Result<()> {
        let open = self.open(beside).await?;
        let found = look_through(open.read()?).await;
        open.close().await?;
        let found = found?;
        if found.digest == source.entries {
            return Ok(());
        }
        let (name, had, has) = (&source.volume, source.entries.rows, found.digest.rows);
        Err(Error::bad_data(format!(
            "what was restored of volume {name} is not what was backed up: {has} entries, {had} were backed up"
        ))
        .hint("Nothing was replaced. The disk below Docker's volumes may be failing."))
    }

    /// A store that was taken at rest must start as well.
    async fn try_files(&self, service: Service, beside: &str) -> Result<()> {
        match service {
            Service::Postgres => {
                trial::postgres(&self.engine, &self.deployment, beside, self.events).await
            }
            _ => Ok(()),
        }
    }
}

/// Fills the new volume `beside` from a tar of another tool, checks it, and answers how many entries
/// it has. On failure the volume stays, half filled: whoever gives up removes it.
pub(super) async fn fill_from(
    stack: &Stack,
    of: &VolumeOf,
    tar: Box<dyn std::io::BufRead + Send>,
    beside: &str,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<u64> {
    let VolumeOf::Files(source) = of else {
        return Err(Error::failed("a cluster comes from an archive only"));
    };
    let into = Into {
        engine: Engine::find().await?,
        deployment: Deployment::of(stack)?,
        events,
    };
    let service = of.service().unwrap_or(Service::Server);
    let all = async {
        into.make(service, beside).await?;
        into.fill(beside, streamed(tar)).await?;
        into.compare(source, beside).await?;
        into.try_files(service, beside).await?;
        Ok(source.entries.rows)
    };
    interrupt.guard(Box::pin(all)).await
}

/// What is read, piece by piece, from a thread of its own.
fn streamed(
    mut tar: impl Read + Send + 'static,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    let (sender, receiver) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut piece = vec![0; 256 << 10];
            let read = tar.read(&mut piece).map(|read| {
                piece.truncate(read);
                Bytes::from(piece)
            });
            let over = !read.as_ref().is_ok_and(|piece| !piece.is_empty());
            if read.as_ref().is_ok_and(Bytes::is_empty)
                || sender.blocking_send(read).is_err()
                || over
            {
                return;
            }
        }
    });
    futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|piece| (piece, receiver))
    })
}

async fn look_through(tar: impl Stream<Item = Result<Bytes>> + Send) -> Result<tree::Tree> {
    let (passing, reading) = tree::passing();
    let mut tar = std::pin::pin!(tar);
    while let Some(piece) = tar.next().await {
        if passing.send(piece?).await.is_err() {
            break;
        }
    }
    drop(passing);
    tree::passed(reading).await
}

fn first_owner(parts: &mut PartsReader) -> Result<(u64, u64)> {
    let unreadable = || "a tar stream of a volume cannot be read";
    let mut archive = tar::Archive::new(parts);
    let mut entries = archive.entries().context(unreadable)?;
    let Some(first) = entries.next() else {
        return Err(Error::bad_data("a tar stream of a volume is empty"));
    };
    let first = first.context(unreadable)?;
    let header = first.header();
    Ok((
        header.uid().context(unreadable)?,
        header.gid().context(unreadable)?,
    ))
}

/// A tar stream with nothing but these folders in it.
fn folders(names: &[&str], (uid, gid): (u64, u64)) -> Result<Vec<u8>> {
    let cannot = || "a tar stream cannot be made";
    let mut builder = tar::Builder::new(Vec::new());
    for name in names {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o775);
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_size(0);
        builder
            .append_data(&mut header, name, std::io::empty())
            .context(cannot)?;
    }
    builder.into_inner().context(cannot)
}

/// What Compose knows its volumes by, so that it takes the new one for its own.
fn labels(deployment: &Deployment, service: Service) -> HashMap<String, String> {
    let project = deployment.names.prefix().to_owned();
    let first = deployment.names.volume(service);
    let key = first
        .strip_prefix(&format!("{project}_"))
        .unwrap_or(&first)
        .to_owned();
    HashMap::from([
        ("com.docker.compose.project".to_owned(), project),
        ("com.docker.compose.volume".to_owned(), key),
        (RESTORED.to_owned(), "yes".to_owned()),
    ])
}

/// Removes the new volume of a restore that is given up. One of that name which somebody else has
/// made meanwhile is not touched.
pub(super) async fn give_up(stack: &Stack, service: Service, volume: &str) -> Result<()> {
    let found = Engine::find().await?.volume(volume).await?;
    if found.is_some_and(|volume| volume.labels.contains_key(RESTORED)) {
        remove(stack, service, volume).await?;
    }
    Ok(())
}

/// Removes the new volume of a restore that is given up, or a kept one that is discarded. A stopped
/// container of the stack that still has it is removed first; it would be made anew anyway.
pub(super) async fn remove(stack: &Stack, service: Service, volume: &str) -> Result<()> {
    let engine = Engine::find().await?;
    engine.remove_left_behind(true).await?;
    let deployment = Deployment::of(stack)?;
    if deployment.volume(service) == volume {
        return Err(Error::refused(format!("volume {volume} is the live one"))
            .hint("Nothing was removed. Look at K1_*_VOLUME in .conductor/docker/.env."));
    }
    for container in deployment.containers(&engine, service).await? {
        if !container.is_running() && container.volumes.values().any(|name| name == volume) {
            engine.remove_container(&container.name).await?;
        }
    }
    engine.remove_volume(volume).await
}
