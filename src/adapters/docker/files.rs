//! The files of volumes, in and out as tar streams, through containers that are made for it and
//! never started; and servers that are run on a volume for a moment, to look whether they can.
//!
//! Such a container is labelled with the process that made it, so that one left behind by a run
//! that died is found and removed.

use super::Engine;
use super::root_entry::first_folder;
use crate::adapters::process::Identity;
use crate::adapters::tar_program;
use crate::error::{Context, Error, Result};
use bollard::models::{ContainerCreateBody, HostConfig, VolumeCreateRequest};
use bollard::query_parameters as query;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

/// Where a held volume is inside its container.
const PLACE: &str = "/k1ops-volume";

/// The label that says who made a container of this kind.
const MADE_BY: &str = "k1ops.made-by";

/// How long a stream may say nothing.
const STALLED: Duration = Duration::from_secs(120);

/// The tar stream of a volume.
pub type TarStream = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// A volume whose files can be read and written. [`OpenVolume::close`] lets go of it.
#[derive(Debug)]
pub enum OpenVolume {
    /// Its folder on this host, where GNU tar keeps all that there is about a file.
    Folder(PathBuf),
    /// A container that holds it: Docker's archive API drops extended attributes and holes.
    Held {
        /// The engine.
        engine: Engine,
        /// The container.
        container: String,
        /// The volume.
        volume: String,
    },
}

/// A program that is run on a volume for a moment. [`Trial::end`] stops and removes it.
#[derive(Debug)]
pub struct Trial {
    engine: Engine,
    /// The container.
    pub container: String,
}

/// What to run on a volume.
#[derive(Debug, Clone)]
pub struct TrialOf<'a> {
    /// The volume.
    pub volume: &'a str,
    /// Where it is mounted.
    pub place: &'a str,
    /// The image.
    pub image: &'a str,
    /// What runs, if not what the image runs.
    pub command: Vec<String>,
    /// `NAME=VALUE`.
    pub environment: Vec<String>,
}

/// A volume that is made with files in it.
#[derive(Debug)]
pub struct Filling<'a> {
    /// Its name.
    pub volume: &'a str,
    /// Its labels.
    pub labels: HashMap<String, String>,
    /// The image whose containers will mount it.
    pub image: &'a str,
    /// Where they will; what the image has there is in the volume as well.
    pub place: &'a Path,
}

impl Engine {
    /// Makes a volume and unpacks a tar archive into it. There must be none of this name.
    pub async fn fill_volume(&self, filling: Filling<'_>, tar: Vec<u8>) -> Result<()> {
        let Filling {
            volume,
            labels,
            image,
            place,
        } = filling;
        self.make_volume(volume, labels).await?;
        let place = place.display().to_string();
        let what = format!("fill volume {volume}");
        let bind = format!("{volume}:{place}");
        let container = self.hold(&what, image, bind).await?;
        let tar = futures_util::stream::once(async { Ok(Bytes::from(tar)) });
        let written = self.upload_tar(&container, &place, &what, tar).await;
        self.remove_container(&container).await?;
        written
    }

    /// Whether a container has this volume, running or not. What was left behind by a run that died while
    /// it held the volume does not count, and is removed: the caller knows that nobody else works on it.
    pub async fn is_mounted(&self, volume: &str) -> Result<bool> {
        let options = query::ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&HashMap::from([("volume", vec![volume])]))
            .build();
        let what = format!("list the containers with volume {volume}");
        let request = self.docker.list_containers(Some(options));
        let mut is_mounted = false;
        for container in self.ask(&what, request).await? {
            let held = container.labels.is_some_and(|l| l.contains_key(MADE_BY));
            match container.id {
                Some(id) if held => self.remove_container(&id).await?,
                _ => is_mounted = true,
            }
        }
        Ok(is_mounted)
    }

    /// Makes a volume with these labels. There must be none of this name.
    pub async fn make_volume(&self, name: &str, labels: HashMap<String, String>) -> Result<()> {
        let what = format!("make volume {name}");
        if self.volume(name).await?.is_some() {
            return Err(
                Error::refused(format!("volume {name} is there already")).hint(format!(
                    "Look what is in it; remove it with: docker volume rm {name}"
                )),
            );
        }
        let request = VolumeCreateRequest {
            name: Some(name.to_owned()),
            labels: Some(labels),
            ..Default::default()
        };
        self.ask(&what, self.docker.create_volume(request)).await?;
        Ok(())
    }

    /// Opens a volume: its folder, if this process can get there, else through a container that is
    /// made from `image` and never started.
    pub async fn open_volume(&self, volume: &str, image: &str) -> Result<OpenVolume> {
        if let Some(folder) = self.volume_folder(volume).await? {
            return Ok(OpenVolume::Folder(folder));
        }
        self.remove_left_behind(false).await?;
        let what = format!("open volume {volume}");
        // What the image has at that place must not be copied into the volume.
        let bind = format!("{volume}:{PLACE}:nocopy");
        Ok(OpenVolume::Held {
            engine: self.clone(),
            container: self.hold(&what, image, bind).await?,
            volume: volume.to_owned(),
        })
    }

    /// The folder of a volume that lies on this host, for a process that may go there.
    async fn volume_folder(&self, name: &str) -> Result<Option<PathBuf>> {
        let here = self.endpoint.socket().is_some() && !self.maps_users();
        if !here || !rustix::process::geteuid().is_root() || !tar_program::is_here().await {
            return Ok(None);
        }
        let what = format!("inspect volume {name}");
        let found = self
            .ask_maybe(&what, self.docker.inspect_volume(name))
            .await?;
        Ok(found
            .filter(|volume| volume.driver == "local")
            .map(|volume| PathBuf::from(volume.mountpoint))
            .filter(|folder| folder.is_dir()))
    }

    /// Runs a program on a volume, without any network.
    pub async fn try_on(&self, trial: &TrialOf<'_>) -> Result<Trial> {
        self.remove_left_behind(false).await?;
        let what = format!("run {} on volume {}", trial.image, trial.volume);
        let host = HostConfig {
            binds: Some(vec![format!("{}:{}:nocopy", trial.volume, trial.place)]),
            network_mode: Some("none".to_owned()),
            ..Default::default()
        };
        let body = ContainerCreateBody {
            image: Some(trial.image.to_owned()),
            labels: Some(made_by()),
            cmd: Some(trial.command.clone()).filter(|command| !command.is_empty()),
            env: Some(trial.environment.clone()),
            host_config: Some(host),
            ..Default::default()
        };
        let container = self.create(&what, body).await?;
        let running = Trial {
            engine: self.clone(),
            container,
        };
        let request = self
            .docker
            .start_container(&running.container, None::<query::StartContainerOptions>);
        if let Err(error) = self.ask(&what, request).await {
            running.end(Duration::ZERO).await?;
            return Err(error);
        }
        Ok(running)
    }

    /// A container with a volume, that is never started.
    async fn hold(&self, what: &str, image: &str, bind: String) -> Result<String> {
        let host = HostConfig {
            binds: Some(vec![bind]),
            network_mode: Some("none".to_owned()),
            ..Default::default()
        };
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            labels: Some(made_by()),
            host_config: Some(host),
            ..Default::default()
        };
        self.create(what, body).await
    }

    async fn create(&self, what: &str, body: ContainerCreateBody) -> Result<String> {
        let request = self
            .docker
            .create_container(None::<query::CreateContainerOptions>, body);
        Ok(self.ask(what, request).await?.id)
    }

    /// Removes what runs that died have left of these containers, and with `own` what this process
    /// has made as well: the work for which it did was broken off.
    pub async fn remove_left_behind(&self, own: bool) -> Result<()> {
        let filters = HashMap::from([("label", vec![MADE_BY])]);
        let options = query::ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&filters)
            .build();
        let what = "list containers";
        let found = self
            .ask(what, self.docker.list_containers(Some(options)))
            .await?;
        for container in found {
            let by = container.labels.and_then(|mut l| l.remove(MADE_BY));
            if let (Some(id), Some(by)) = (container.id, by)
                && (maker_is_gone(&by) || own && made_by().get(MADE_BY) == Some(&by))
            {
                self.remove_container(&id).await?;
            }
        }
        Ok(())
    }

    /// A path of a container, running or not, as a tar stream.
    pub fn download_tar(
        &self,
        container: &str,
        path: &str,
    ) -> impl Stream<Item = Result<Bytes>> + Send + use<> {
        let options = query::DownloadFromContainerOptionsBuilder::default()
            .path(path)
            .build();
        let engine = self.clone();
        let what = format!("read {path} of container {container}");
        let parts = Box::pin(
            self.docker
                .download_from_container(container, Some(options)),
        );
        futures_util::stream::unfold(Some(parts), move |parts| {
            let (engine, what) = (engine.clone(), what.clone());
            async move {
                let mut parts = parts?;
                match tokio::time::timeout(STALLED, parts.next()).await {
                    Ok(None) => None,
                    Ok(Some(Ok(part))) => Some((Ok(part), Some(parts))),
                    Ok(Some(Err(error))) => Some((Err(engine.refused(&what, error)), None)),
                    Err(_) => Some((Err(super::hangs(&engine.endpoint)), None)),
                }
            }
        })
    }

    /// Unpacks a tar stream at a path of a container.
    async fn upload_tar(
        &self,
        container: &str,
        path: &str,
        what: &str,
        tar: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<()> {
        let options = query::UploadToContainerOptionsBuilder::default()
            .path(path)
            .build();
        let body = bollard::body_try_stream(tar);
        // As long as the stream takes; it is the source that is watched for coming to a stop.
        let docker = self
            .docker
            .clone()
            .with_timeout(Duration::from_secs(24 * 3600));
        Box::pin(docker.upload_to_container(container, Some(options), body))
            .await
            .map_err(|error| self.refused(what, error))
    }
}

impl OpenVolume {
    /// The files in it, `./` first.
    pub fn read(&self) -> Result<TarStream> {
        Ok(match self {
            Self::Folder(folder) => Box::pin(tar_program::read(folder)?),
            Self::Held {
                engine, container, ..
            } => Box::pin(engine.download_tar(container, &format!("{PLACE}/."))),
        })
    }

    /// Unpacks a tar stream into a folder of it, which must be there; `.` is the volume itself.
    pub async fn write(
        &self,
        folder: &str,
        tar: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<()> {
        match self {
            Self::Folder(place) => tar_program::write(&place.join(folder), tar).await,
            Self::Held {
                engine,
                container,
                volume,
            } => {
                let what = format!("write volume {volume}");
                let path = format!("{PLACE}/{folder}");
                let name = path.trim_start_matches('/').trim_end_matches("/.");
                let cannot = || format!("cannot {what}");
                let (root, tar) = first_folder(tar, name).await.context(cannot)?;
                engine.upload_tar(container, &path, &what, tar).await?;
                let Some(root) = root else { return Ok(()) };
                let root = futures_util::stream::once(async { Ok(root) });
                engine.upload_tar(container, "/", &what, root).await
            }
        }
    }

    /// Lets go of the volume, which stays.
    pub async fn close(self) -> Result<()> {
        match self {
            Self::Folder(_) => Ok(()),
            Self::Held {
                engine, container, ..
            } => engine.remove_container(&container).await,
        }
    }
}

impl Trial {
    /// Stops it, with `grace` before it is killed, and removes it.
    pub async fn end(self, grace: Duration) -> Result<()> {
        if !grace.is_zero() {
            self.engine.stop_container(&self.container, grace).await?;
        }
        self.engine.remove_container(&self.container).await
    }
}

fn made_by() -> HashMap<String, String> {
    let me = Identity::of(std::process::id());
    let me = me.map_or_else(String::new, |me| {
        format!("{}:{}:{}", me.boot_id, me.pid, me.start_ticks)
    });
    HashMap::from([(MADE_BY.to_owned(), me)])
}

/// A process of another boot, or of another host, is not known to be gone.
fn maker_is_gone(label: &str) -> bool {
    let mut parts = label.split(':');
    let (Some(boot), Some(pid), Some(start)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let (Ok(pid), Ok(start_ticks)) = (pid.parse(), start.parse()) else {
        return false;
    };
    let here = Identity::of(std::process::id()).is_some_and(|me| me.boot_id == boot);
    let maker = Identity {
        pid,
        start_ticks,
        boot_id: boot.to_owned(),
    };
    here && !maker.is_alive()
}
