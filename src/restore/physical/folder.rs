//! Unpacks the tar streams into their folders, remembering everything that was made.

use super::{Recovery, Restored, settle, tablespaces};
use crate::adapters::fs::{
    folder_of, remove_if_there, rename_durably, sync_folder, write_atomically,
};
use crate::archive::{
    Archive, Entry, PartsReader, PgDataCheck, PhysicalArchive, PhysicalSource, walk,
};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::{Events, Unit};
use crate::interrupt::Interrupt;
use std::collections::HashMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// No server starts on a data directory without it.
const CONTROL: &str = "global/pg_control";

/// Its name until everything else is in place.
const CONTROL_PARTIAL: &str = "global/pg_control.k1ops-partial";

/// A copy goes through a buffer of this size.
const PIECE: usize = 256 << 10;

/// A restore that is under way.
pub(super) struct Unpacking {
    pub(super) archive: Archive,
    pub(super) source: PhysicalSource,
    /// The folder of each tar stream by its name.
    pub(super) targets: HashMap<String, PathBuf>,
    pub(super) jobs: usize,
    pub(super) recovery: Option<Recovery>,
    pub(super) events: Events,
    pub(super) interrupt: Interrupt,
    pub(super) step: String,
    pub(super) made: Made,
}

/// What was made so far.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) folders: Vec<PathBuf>,
    pub(super) files: Vec<File>,
}

/// A file that was made.
#[derive(Debug, Clone)]
pub(super) struct File {
    /// Where it is.
    pub(super) place: PathBuf,
    /// What the server's manifest calls it.
    pub(super) name: PathBuf,
}

impl Made {
    /// Removes everything, innermost first; what somebody else put there stays.
    pub(super) fn remove(&mut self) -> std::io::Result<()> {
        let mut result = Ok(());
        let mut note = |removed: std::io::Result<()>| match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => result = Err(error),
            _ => {}
        };
        for file in self.files.drain(..) {
            note(std::fs::remove_file(file.place));
        }
        for folder in self.folders.drain(..).rev() {
            note(std::fs::remove_dir(folder));
        }
        result
    }

    fn folder(&mut self, place: &Path) -> Result<()> {
        match DirBuilder::new().mode(0o700).create(place) {
            Ok(()) => self.folders.push(place.to_path_buf()),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && place.is_dir() => {}
            Err(error) => return Err(cannot(place, error)),
        }
        Ok(())
    }

    /// A folder and what is above it.
    fn folders(&mut self, place: &Path) -> Result<()> {
        if let Some(parent) = place.parent().filter(|p| !p.is_dir()) {
            self.folders(parent)?;
        }
        self.folder(place)
    }
}

impl Unpacking {
    pub(super) fn run(&mut self) -> Result<Restored> {
        self.events.started(&self.step);
        let mut check = PgDataCheck::begin(&self.archive, &self.source)?;
        let mut done = 0;
        for of in self.source.archives.clone() {
            self.stream(&of, &mut check, done)?;
            done += of.size;
        }
        check.finish()?;
        settle::all(&self.made, &check, self.jobs, &self.interrupt)?;
        self.complete()?;
        let restored = Restored {
            files: self.source.files,
            bytes: done,
        };
        let detail = format!("{} files, equal to the server's manifest", restored.files);
        self.events.finished(&self.step, detail);
        Ok(restored)
    }

    /// Unpacks one tar stream.
    fn stream(&mut self, of: &PhysicalArchive, check: &mut PgDataCheck, before: u64) -> Result<()> {
        let target = self.target(&of.name)?;
        self.made.folders(&target)?;
        // It may have been there already, and a server refuses one that others can read.
        private(&target)?;
        let folder = self.source.parts_folder(of);
        let mut parts =
            PartsReader::new(&self.archive, &folder, of.parts, self.jobs, &self.interrupt)?;
        let total = self.source.size();
        let (events, step) = (self.events.clone(), self.step.clone());
        let (mut buffer, mut done) = (vec![0; PIECE], before);
        walk(&mut parts, |entry, content| {
            let (name, _) = check.note(of, entry)?;
            let place = renamed(&target, target.join(&entry.path));
            if entry.folder {
                self.made.folders(&place)?;
            } else {
                let file = File {
                    place: place.clone(),
                    name,
                };
                self.file(file, content, &mut buffer)?;
                done += entry.size;
                events.progress(&step, done, Some(total), Unit::Bytes);
            }
            own(&place, entry)?;
            // A server must own its data directory; the tar has no entry for it.
            if entry.path == Path::new("PG_VERSION") || of.location.is_some() {
                own(&target, entry)?;
            }
            Ok(())
        })
        .map_err(|error| parts.take_failure().unwrap_or(error))
    }

    fn target(&self, name: &str) -> Result<PathBuf> {
        let target = self.targets.get(name).cloned();
        target.ok_or_else(|| Error::failed(format!("no folder is known for {name}")))
    }

    fn file(&mut self, file: File, content: &mut dyn Read, buffer: &mut [u8]) -> Result<()> {
        let place = file.place.clone();
        if let Some(parent) = place.parent() {
            self.made.folders(parent)?;
        }
        let mut handle = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&place)
            .map_err(|error| cannot(&place, error))?;
        self.made.files.push(file);
        loop {
            let read = content.read(buffer).context_kind(ErrorKind::BadData, || {
                format!("{} ends too early", place.display())
            })?;
            if read == 0 {
                return Ok(());
            }
            handle
                .write_all(&buffer[..read])
                .map_err(|error| cannot(&place, error))?;
        }
    }

    /// What comes after the comparison: the server's manifest, where tablespaces are, and at last
    /// the file that lets a server start.
    fn complete(&mut self) -> Result<()> {
        let base = self.target(PhysicalSource::BASE)?;
        let manifest = self.archive.read(&self.source.manifest_path())?;
        self.put(&base.join("backup_manifest"), &manifest)?;
        if self.targets.len() > 1 {
            self.link_tablespaces(&base)?;
        }
        if let Some(recovery) = self.recovery.clone() {
            recovery.lay(self, &base)?;
            sync_folder(&base.join("pg_wal"))?;
        } else {
            // With it, the copy of a standby would be one as well, and follow the live server.
            remove_if_there(&base.join("standby.signal"))?;
        }
        sync_folder(&base)?;
        self.interrupt.check()?;
        let control = base.join(CONTROL);
        self.made.files.push(File {
            place: control.clone(),
            name: PathBuf::new(),
        });
        rename_durably(&base.join(CONTROL_PARTIAL), &control)?;
        if let Some(parent) = base.parent() {
            sync_folder(parent)?;
        }
        Ok(())
    }

    /// Writes a file of our own with the owner of the data directory.
    pub(super) fn put(&mut self, place: &Path, contents: &[u8]) -> Result<()> {
        write_atomically(place, contents)?;
        self.made.files.push(File {
            place: place.to_path_buf(),
            name: PathBuf::new(),
        });
        own_like(place, folder_of(place))
    }

    /// The server makes the links anew from its map when it starts; they are made here as well, so
    /// that `pg_verifybackup` and people find their way.
    fn link_tablespaces(&mut self, base: &Path) -> Result<()> {
        self.put(
            &base.join("tablespace_map"),
            tablespaces::map(&self.targets).as_bytes(),
        )?;
        for (name, target) in &self.targets {
            if name == PhysicalSource::BASE {
                continue;
            }
            let link = base.join("pg_tblspc").join(name);
            std::os::unix::fs::symlink(target, &link).map_err(|error| cannot(&link, error))?;
            self.made.files.push(File {
                place: link.clone(),
                name: PathBuf::new(),
            });
            own_like(&link, base)?;
        }
        sync_folder(&base.join("pg_tblspc"))
    }
}

/// The control file waits under another name.
fn renamed(target: &Path, place: PathBuf) -> PathBuf {
    if place == target.join(CONTROL) {
        return target.join(CONTROL_PARTIAL);
    }
    place
}

/// Gives `place` the owner that it had on the server, if this process may.
fn own(place: &Path, entry: &Entry) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    std::os::unix::fs::lchown(place, Some(entry.user), Some(entry.group))
        .context(|| format!("{} cannot be given its owner", place.display()))
}

/// Gives `place` the owner of `model`.
fn own_like(place: &Path, model: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    std::fs::metadata(model)
        .and_then(|m| std::os::unix::fs::lchown(place, Some(m.uid()), Some(m.gid())))
        .context(|| format!("{} cannot be given its owner", place.display()))
}

fn private(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))
        .context(|| format!("{} cannot be made private", folder.display()))
}

fn cannot(place: &Path, error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::StorageFull {
        return Error::missing(format!("no space is left for {}", place.display()))
            .because(error)
            .hint("Free some space, or restore into a folder on a larger file system.");
    }
    Error::failed(format!("{} cannot be written", place.display())).because(error)
}
