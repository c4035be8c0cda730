//! Named volumes: whether they are there, how large they are, and a small file out of one.

use super::Engine;
use crate::adapters::http;
use crate::error::{Context, Result};
use bollard::query_parameters as query;
use futures_util::StreamExt;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// The largest file that [`Engine::read_small_file`] reads.
const SMALL: usize = 1 << 20;

/// How long the engine may take to add up the sizes of all volumes.
const SIZING: Duration = Duration::from_secs(20);

/// A named volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// When it was made, as the engine writes it.
    pub created_at: Option<String>,
    /// The Compose project that made it.
    pub project: Option<String>,
    /// Its labels.
    pub labels: HashMap<String, String>,
}

impl Engine {
    /// The volume of this name, if there is one.
    pub async fn volume(&self, name: &str) -> Result<Option<Volume>> {
        let what = format!("inspect volume {name}");
        let found = self
            .ask_maybe(&what, self.docker.inspect_volume(name))
            .await?;
        Ok(found.map(|volume| Volume {
            project: volume.labels.get("com.docker.compose.project").cloned(),
            labels: volume.labels,
            created_at: volume.created_at,
            name: volume.name,
        }))
    }

    /// Removes a volume that no container has. Only what was made a moment ago and never got to
    /// hold anything is removed this way.
    pub async fn remove_volume(&self, name: &str) -> Result<()> {
        let what = format!("remove volume {name}");
        let request = self
            .docker
            .remove_volume(name, None::<query::RemoveVolumeOptions>);
        self.ask_maybe(&what, request).await?;
        Ok(())
    }

    /// The names of the volumes whose label has this value.
    pub async fn volumes_labelled(&self, label: &str, value: &str) -> Result<Vec<String>> {
        let filters = HashMap::from([("label", vec![format!("{label}={value}")])]);
        let options = query::ListVolumesOptionsBuilder::default()
            .filters(&filters)
            .build();
        let request = self.docker.list_volumes(Some(options));
        let found = self.ask("list volumes", request).await?;
        let volumes = found.volumes.unwrap_or_default().into_iter();
        Ok(volumes.map(|volume| volume.name).collect())
    }

    /// Bytes in each volume, by name; empty if the engine does not say within a few seconds.
    ///
    /// The client library reads this answer in the form of newer engines only, so it is asked for
    /// by hand in the form that every engine since 20.10 gives.
    pub async fn volume_sizes(&self) -> BTreeMap<String, u64> {
        let sizes = self.disk_usage().await.unwrap_or_default();
        sizes["Volumes"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|volume| {
                let name = volume["Name"].as_str()?.to_owned();
                Some((name, volume["UsageData"]["Size"].as_u64()?))
            })
            .collect()
    }

    async fn disk_usage(&self) -> Option<serde_json::Value> {
        let (client, base) = match self.host().strip_prefix("unix://") {
            Some(socket) => (
                http::socket_client(Path::new(socket), SIZING),
                "http://localhost".to_owned(),
            ),
            None => (
                http::local_client(SIZING),
                self.host().replacen("tcp://", "http://", 1),
            ),
        };
        let url = |api: &str| format!("{base}/v{api}/system/df?type=volume");
        let client = client.ok()?;
        // The engine offers 1.44 if it no longer offers 1.42, which alone knows `type`; older
        // ones ignore it.
        for api in ["1.42", "1.44", "1.41"] {
            let answer = client.get(url(api)).send().await.ok()?;
            if answer.status().is_success() {
                return answer.json().await.ok();
            }
        }
        None
    }

    /// A small file of a volume, read through a container that is made from `image` with the volume
    /// at `place`, and never started. `None` if there is no such file.
    pub async fn read_small_file(
        &self,
        volume: &str,
        image: &str,
        place: &Path,
        file: &Path,
    ) -> Result<Option<Vec<u8>>> {
        let what = format!("read {} of volume {volume}", file.display());
        let config = bollard::models::ContainerCreateBody {
            image: Some(image.to_owned()),
            host_config: Some(bollard::models::HostConfig {
                binds: Some(vec![format!("{volume}:{}:ro,nocopy", place.display())]),
                network_mode: Some("none".to_owned()),
                ..Default::default()
            }),
            ..Default::default()
        };
        let request = self
            .docker
            .create_container(None::<query::CreateContainerOptions>, config);
        let made = self.ask(&what, request).await?;
        let read = self.download(&made.id, &place.join(file), &what).await;
        let removed = self.remove_container(&made.id).await;
        let tar = read?;
        removed?;
        tar.map(|tar| only_file(&tar).context(|| format!("cannot {what}")))
            .transpose()
    }

    async fn download(&self, container: &str, path: &Path, what: &str) -> Result<Option<Vec<u8>>> {
        let options = query::DownloadFromContainerOptionsBuilder::default()
            .path(&path.to_string_lossy())
            .build();
        let mut stream = self
            .docker
            .download_from_container(container, Some(options));
        let mut tar = Vec::new();
        loop {
            let part = self
                .ask_maybe(what, async { stream.next().await.transpose() })
                .await?;
            match part {
                None => return Ok(None),
                Some(None) => return Ok(Some(tar)),
                Some(Some(part)) => tar.extend_from_slice(&part),
            }
            if tar.len() > SMALL {
                return Err(crate::error::Error::bad_data(format!(
                    "{} in container {container} is larger than it can be",
                    path.display()
                )));
            }
        }
    }
}

fn only_file(tar: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Archive::new(tar);
    let mut contents = Vec::new();
    if let Some(entry) = archive.entries()?.next() {
        entry?.read_to_end(&mut contents)?;
    }
    Ok(contents)
}
