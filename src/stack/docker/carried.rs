//! The files that containers mount, for an engine on another host, which has none of them.
//!
//! Each folder of a container that such files are in becomes a volume over there, named by what is in it, and Compose
//! is given a file in which the volumes stand in place of the files. A volume is filled before anything uses it and
//! never changed: what was told otherwise gets another volume, and with it a new container. Which services are started,
//! and when, is not known here.

use super::Deployment;
use crate::adapters::compose::{Compose, Project};
use crate::adapters::docker::{Engine, Filling};
use crate::adapters::fs;
use crate::error::{Context, Error, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The Compose file with the volumes, beside those that it is made of.
const FILE: &str = "docker-compose.elsewhere.json";
/// The label of such a volume; it says which stack's it is.
const LABEL: &str = "k1ops.files-of";
/// Where Compose puts a secret that names no place.
const SECRETS: &str = "/run/secrets";
/// Configuration and keys are small; what is larger is data, which belongs into a volume of its own.
const LARGEST: u64 = 16 << 20;
/// Folders in one another, before a link must lead in a circle.
const DEEPEST: usize = 16;

/// Brings the files of `services` to the engine, and answers the project that mounts them there.
pub(super) async fn project(
    engine: &Engine,
    compose: &Compose,
    deployment: &Deployment,
    services: &[&str],
) -> Result<Project> {
    let mut project = deployment.project();
    let mut model = compose.model(&project).await?;
    keep_only(&mut model, services);
    for folder in take_folders(&mut model, &project.folder)? {
        let volume = folder.bring(engine, deployment).await?;
        folder.mount(&mut model, &volume);
    }
    let text = serde_json::to_vec_pretty(&model).context(|| "a Compose file cannot be made")?;
    fs::write_atomically(&project.folder.join(FILE), &text)?;
    project.files = vec![FILE.to_owned()];
    Ok(project)
}

/// Removes the volumes of this kind that no container has any more: old passwords are in them.
pub async fn remove_unused(engine: &Engine, deployment: &Deployment) -> Result<()> {
    let prefix = deployment.names.prefix();
    for volume in engine.volumes_labelled(LABEL, prefix).await? {
        if !engine.is_mounted(&volume).await? {
            engine.remove_volume(&volume).await?;
        }
    }
    Ok(())
}

/// A folder of a service's containers.
#[derive(Debug, PartialEq)]
struct Folder {
    service: String,
    image: String,
    place: PathBuf,
    /// Files and folders of this host by their place in it; the empty one is the folder itself.
    sources: BTreeMap<PathBuf, PathBuf>,
}

impl Folder {
    /// The volume with these files, made if it is not there.
    async fn bring(&self, engine: &Engine, deployment: &Deployment) -> Result<String> {
        let tar = self.pack()?;
        let Some(image) = engine.image(&self.image).await? else {
            return Err(Error::missing(format!(
                "image {} is not on {}",
                self.image,
                engine.name()
            ))
            .hint("`k1ops start` fetches it."));
        };
        let prefix = deployment.names.prefix();
        let mut digest = Sha256::new();
        // What the image has in that folder is in the volume as well.
        for part in [
            image.id.as_bytes(),
            self.place.as_os_str().as_encoded_bytes(),
        ] {
            digest.update(part);
            digest.update([0]);
        }
        let digest = hex::encode(digest.chain_update(&tar).finalize());
        let volume = format!("{prefix}_files_{}_{}", self.service, &digest[..12]);
        if engine.volume(&volume).await?.is_some() {
            if engine.is_mounted(&volume).await? {
                return Ok(volume);
            }
            // Nobody has used it yet: whoever was filling it may have been killed.
            engine.remove_volume(&volume).await?;
        }
        let filling = Filling {
            volume: &volume,
            labels: HashMap::from([(LABEL.to_owned(), prefix.to_owned())]),
            image: &self.image,
            place: &self.place,
        };
        engine.fill_volume(filling, tar).await?;
        Ok(volume)
    }

    /// The files as a tar archive, which is the same for the same files.
    fn pack(&self) -> Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut room = LARGEST;
        for (name, source) in &self.sources {
            pack(&mut archive, name, source, &mut room, DEEPEST)?;
        }
        archive.into_inner().context(|| "files cannot be packed")
    }

    fn mount(&self, model: &mut Value, volume: &str) {
        let mount = json!({
            "type": "volume",
            "source": volume,
            "target": self.place,
            "read_only": true,
            "volume": { "nocopy": true },
        });
        let mounts = &mut model["services"][&self.service]["volumes"];
        match mounts.as_array_mut() {
            Some(mounts) => mounts.push(mount),
            None => *mounts = json!([mount]),
        }
        model["volumes"][volume] = json!({ "name": volume, "external": true });
    }
}

/// Adds a file or a folder with all that is in it, as whoever owns it here.
fn pack(
    archive: &mut tar::Builder<Vec<u8>>,
    name: &Path,
    source: &Path,
    room: &mut u64,
    depth: usize,
) -> Result<()> {
    let cannot = || format!("{} cannot be read", source.display());
    let about = source.metadata().context(cannot)?;
    let mut header = tar::Header::new_gnu();
    header.set_mode(about.mode() & 0o7777);
    header.set_uid(u64::from(about.uid()));
    header.set_gid(u64::from(about.gid()));
    if about.is_dir() && depth > 0 {
        if !name.as_os_str().is_empty() {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_size(0);
            archive
                .append_data(&mut header, name, std::io::empty())
                .context(cannot)?;
        }
        let mut names = fs::names_in(source)?;
        names.sort();
        for entry in names {
            let (name, source) = (name.join(&entry), source.join(&entry));
            pack(archive, &name, &source, room, depth - 1)?;
        }
        return Ok(());
    }
    let left = about.is_file().then(|| room.checked_sub(about.len()));
    *room = left.flatten().ok_or_else(|| too_much(source))?;
    let contents = std::fs::read(source).context(cannot)?;
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(contents.len() as u64);
    archive
        .append_data(&mut header, name, &contents[..])
        .context(cannot)
}

fn too_much(source: &Path) -> Error {
    Error::usage(format!(
        "{} cannot be brought to an engine elsewhere: files that containers mount may have {} MiB together there, \
         and be nothing but files and folders",
        source.display(),
        LARGEST >> 20
    ))
    .hint("Keep data in a named volume, or run k1ops on the engine's host.")
}

/// Leaves of a model what concerns `services` when they are started by themselves.
fn keep_only(model: &mut Value, services: &[&str]) {
    let Some(all) = model.get_mut("services").and_then(Value::as_object_mut) else {
        return;
    };
    all.retain(|name, _| services.contains(&name.as_str()));
    let mut used = Vec::new();
    for service in all.values_mut() {
        if let Some(service) = service.as_object_mut() {
            service.remove("depends_on");
        }
        let mounts = service.get("volumes").and_then(Value::as_array);
        used.extend(
            mounts
                .into_iter()
                .flatten()
                .filter_map(|mount| mount["source"].as_str().map(str::to_owned)),
        );
    }
    // Compose would make every volume that is named.
    if let Some(volumes) = model.get_mut("volumes").and_then(Value::as_object_mut) {
        volumes.retain(|name, _| used.contains(name));
    }
}

/// Takes the files of this host out of a model: every secret and configuration that is a file, and what is mounted
/// out of `base`. Other mounts name what is on the engine's host.
fn take_folders(model: &mut Value, base: &Path) -> Result<Vec<Folder>> {
    let mut folders: Vec<Folder> = Vec::new();
    let files = ["secrets", "configs"].map(|kind| (kind, named_files(&model[kind])));
    let services = model.get_mut("services").and_then(Value::as_object_mut);
    for (name, service) in services.into_iter().flatten() {
        let image = service["image"].as_str().unwrap_or_default().to_owned();
        let mut mounted = take_bound(name, service, base)?;
        for (kind, files) in &files {
            mounted.extend(take_named(service, kind, files));
        }
        for (target, source) in mounted {
            let (place, inside) = if source.is_dir() {
                (target.clone(), PathBuf::new())
            } else {
                let inside = target.file_name().map(PathBuf::from).unwrap_or_default();
                (fs::folder_of(&target).to_owned(), inside)
            };
            check_place(name, service, &place, &target)?;
            let known = folders
                .iter_mut()
                .find(|folder| folder.service == *name && folder.place == place);
            if let Some(folder) = known {
                folder.sources.insert(inside, source);
                continue;
            }
            folders.push(Folder {
                service: name.clone(),
                image: image.clone(),
                place,
                sources: BTreeMap::from([(inside, source)]),
            });
        }
    }
    for (kind, files) in files {
        if let Some(all) = model.get_mut(kind).and_then(Value::as_object_mut) {
            all.retain(|name, _| !files.contains_key(name));
        }
    }
    Ok(folders)
}

/// The files of secrets or configurations, by their names.
fn named_files(all: &Value) -> BTreeMap<String, PathBuf> {
    let all = all.as_object().into_iter().flatten();
    all.filter_map(|(name, one)| Some((name.clone(), PathBuf::from(one["file"].as_str()?))))
        .collect()
}

/// Secrets or configurations of a service that are files, by their place in its containers.
fn take_named(
    service: &mut Value,
    kind: &str,
    files: &BTreeMap<String, PathBuf>,
) -> Vec<(PathBuf, PathBuf)> {
    let folder = if kind == "secrets" { SECRETS } else { "/" };
    take(service, kind, |one| {
        let name = one["source"].as_str()?;
        let target = one["target"].as_str().unwrap_or(name);
        // A target that begins with a slash stays what it is.
        Some((Path::new(folder).join(target), files.get(name)?.clone()))
    })
}

/// What a service mounts out of `base`, by its place in its containers.
fn take_bound(name: &str, service: &mut Value, base: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let is_own = |one: &Value| {
        let source = one["source"].as_str().unwrap_or_default();
        one["type"] == "bind" && Path::new(source).starts_with(base)
    };
    let mounts = service["volumes"].as_array().into_iter().flatten();
    for one in mounts.filter(|one| is_own(one)) {
        if one["read_only"] != true {
            return Err(Error::usage(format!(
                "service {name} writes to {}, which is on this host and not on the engine's",
                one["source"]
            ))
            .hint("Use a named volume, or mount it read-only (`:ro`)."));
        }
    }
    Ok(take(service, "volumes", |one| {
        let path = |key: &str| one[key].as_str().map(PathBuf::from);
        is_own(one).then(|| path("target").zip(path("source")))?
    }))
}

/// Takes out of a list of a service what `look` finds something in.
fn take<T>(service: &mut Value, list: &str, look: impl Fn(&Value) -> Option<T>) -> Vec<T> {
    let mut taken = Vec::new();
    // An index would put the list there, empty.
    if let Some(all) = service.get_mut(list).and_then(Value::as_array_mut) {
        all.retain(|one| match look(one) {
            Some(found) => {
                taken.push(found);
                false
            }
            None => true,
        });
    }
    taken
}

/// A volume at `place` must not hide another one.
fn check_place(name: &str, service: &Value, place: &Path, target: &Path) -> Result<()> {
    let is_taken = |mount: &Value| mount["target"].as_str().map(Path::new) == Some(place);
    let mut mounts = service["volumes"].as_array().into_iter().flatten();
    let hides = mounts.any(is_taken);
    if !hides && place != Path::new("/") {
        return Ok(());
    }
    Err(Error::usage(format!(
        "service {name} has {} mounted, for which an engine elsewhere needs all of {} as a volume",
        target.display(),
        place.display()
    ))
    .hint("Mount it in a folder of its own."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(base: &Path) -> Value {
        json!({
            "services": {
                "store": {
                    "image": "store:1",
                    "depends_on": { "other": { "condition": "service_healthy" } },
                    "secrets": [
                        { "source": "password", "target": "/run/secrets/password" },
                        { "source": "key", "target": "key.pem" },
                        { "source": "vault" },
                    ],
                    "volumes": [
                        { "type": "volume", "source": "data", "target": "/data" },
                        { "type": "bind", "source": base.join("rules"), "target": "/etc/store/rules", "read_only": true },
                        { "type": "bind", "source": base.join("many"), "target": "/etc/many", "read_only": true },
                        { "type": "bind", "source": "/etc/localtime", "target": "/etc/localtime" },
                    ],
                },
                "other": { "image": "other:1", "volumes": [{ "type": "volume", "source": "more", "target": "/more" }] },
            },
            "secrets": {
                "password": { "file": base.join("secrets/password") },
                "key": { "file": "/somewhere/key" },
                "vault": { "external": true },
            },
            "volumes": { "data": { "name": "x_data" }, "more": { "name": "x_more" } },
        })
    }

    fn filled() -> tempfile::TempDir {
        let base = tempfile::tempdir().unwrap();
        for folder in ["secrets", "many/deep"] {
            std::fs::create_dir_all(base.path().join(folder)).unwrap();
        }
        for file in ["secrets/password", "rules", "many/a", "many/deep/b"] {
            std::fs::write(base.path().join(file), file).unwrap();
        }
        base
    }

    #[test]
    fn files_of_this_host_become_volumes_and_nothing_else_does() {
        let base = filled();
        let mut model = model(base.path());
        keep_only(&mut model, &["store"]);
        assert_eq!(model["services"].as_object().unwrap().len(), 1);
        assert_eq!(model["volumes"], json!({ "data": { "name": "x_data" } }));
        let folders = take_folders(&mut model, base.path()).unwrap();
        let places: Vec<_> = folders
            .iter()
            .map(|folder| (folder.place.to_str().unwrap(), folder.sources.len()))
            .collect();
        assert_eq!(
            places,
            [("/etc/store", 1), ("/etc/many", 1), ("/run/secrets", 2)]
        );
        folders[0].mount(&mut model, "x_files_store_1");
        let store = &model["services"]["store"];
        assert!(store.get("depends_on").is_none());
        assert_eq!(store["secrets"], json!([{ "source": "vault" }]));
        assert!(store.get("configs").is_none() && model.get("configs").is_none());
        let mounts: Vec<_> = store["volumes"].as_array().unwrap().iter().collect();
        assert_eq!(mounts.len(), 3, "{mounts:?}");
        assert_eq!(mounts[1]["source"], "/etc/localtime");
        assert_eq!(mounts[2]["target"], "/etc/store");
        assert_eq!(model["secrets"], json!({ "vault": { "external": true } }));
        assert_eq!(model["volumes"]["x_files_store_1"]["external"], true);
    }

    #[test]
    fn what_is_packed_is_the_same_for_the_same_files_and_only_for_those() {
        let base = filled();
        let mut model = model(base.path());
        let folders = take_folders(&mut model, base.path()).unwrap();
        let many = folders.iter().find(|f| f.place == Path::new("/etc/many"));
        let many = many.unwrap();
        let first = many.pack().unwrap();
        let mut archive = tar::Archive::new(&first[..]);
        let names: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names, ["a", "deep", "deep/b"]);
        assert_eq!(many.pack().unwrap(), first);
        std::fs::write(base.path().join("many/a"), "b").unwrap();
        assert_ne!(many.pack().unwrap(), first);
        std::os::unix::fs::symlink(".", base.path().join("many/circle")).unwrap();
        assert!(many.pack().is_err(), "a circle ends");
    }

    #[test]
    fn what_cannot_be_carried_is_refused() {
        let base = filled();
        let refused = |change: &dyn Fn(&mut Value)| {
            let mut model = model(base.path());
            change(&mut model["services"]["store"]["volumes"]);
            take_folders(&mut model, base.path())
                .unwrap_err()
                .to_string()
        };
        let written = refused(&|mounts| mounts[1]["read_only"] = json!(false));
        assert!(written.contains("writes to"), "{written}");
        let at_root = refused(&|mounts| mounts[1]["target"] = json!("/rules"));
        assert!(at_root.contains("all of / as a volume"), "{at_root}");
        let hidden = refused(&|mounts| mounts[1]["target"] = json!("/data/rules"));
        assert!(hidden.contains("all of /data"), "{hidden}");
    }
}
