//! Files that survive a crash: written beside their final place, synced, renamed; and locks that
//! die with their holder.

use crate::error::{Context, Error, ErrorKind, Result};
use rustix::fs::FlockOperation;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The folder that `path` is in: the one we are in, for a bare name.
#[must_use]
pub fn folder_of(path: &Path) -> &Path {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// Creates `folder` and what is above it, readable by the owner only.
pub fn create_private_folder(folder: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .context(|| format!("folder {} cannot be created", folder.display()))
}

/// Makes a rename or a new name in `folder` survive a power cut.
pub fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|f| f.sync_all())
        .context(|| format!("folder {} cannot be synced", folder.display()))
}

/// Makes everything that was written to the file system of `folder` survive a power cut.
pub fn sync_file_system(folder: &Path) -> Result<()> {
    let cannot = || format!("the file system of {} cannot be synced", folder.display());
    let folder = File::open(folder).context(cannot)?;
    rustix::fs::syncfs(folder).context(cannot)
}

/// Renames `from` to `to`, replacing it, and makes that survive a power cut.
pub fn rename_durably(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to)
        .context(|| format!("{} cannot be renamed to {}", from.display(), to.display()))?;
    sync_folder(folder_of(from))?;
    sync_folder(folder_of(to))
}

/// How the name of a file begins while [`write_atomically`] writes it.
const HALF_WRITTEN: &str = ".k1ops-";

/// Whether [`write_atomically`] left this file behind when its process died, or is at work on it.
#[must_use]
pub fn is_half_written(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().starts_with(HALF_WRITTEN)
}

/// Removes what [`write_atomically`] left in `folder` at least `age` ago when its process died. With
/// no age, nobody may be writing there.
pub fn remove_half_written(folder: &Path, age: Duration) -> Result<()> {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let changed = entry.metadata().and_then(|found| found.modified()).ok();
        let is_old = changed.is_some_and(|at| at.elapsed().unwrap_or_default() >= age);
        if is_half_written(&path) && is_old {
            remove_if_there(&path)?;
        }
    }
    Ok(())
}

/// Writes `contents` to `path` so that readers see the old file or the new one, never a part;
/// mode 0600.
pub fn write_atomically(path: &Path, contents: &[u8]) -> Result<()> {
    write_with_mode(path, contents, 0o600)
}

/// The same for what every user of this host may read; mode 0644.
pub fn write_atomically_for_all(path: &Path, contents: &[u8]) -> Result<()> {
    write_with_mode(path, contents, 0o644)
}

fn write_with_mode(path: &Path, contents: &[u8], mode: u32) -> Result<()> {
    let folder = folder_of(path);
    create_private_folder(folder)?;
    let cannot = || format!("{} cannot be written", path.display());
    let file = half_written(folder, contents, mode).context(cannot)?;
    file.persist(path).context(cannot)?;
    sync_folder(folder)
}

/// A durable file in `folder` that has no name of its own yet.
fn half_written(
    folder: &Path,
    contents: &[u8],
    mode: u32,
) -> std::io::Result<tempfile::NamedTempFile> {
    let mut file = tempfile::Builder::new()
        .prefix(HALF_WRITTEN)
        .tempfile_in(folder)?;
    file.write_all(contents)?;
    file.as_file()
        .set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Writes `contents` to `path`, which must be free: durably, mode 0600, all of it or nothing. Answers
/// `false`, and changes nothing, if something is there already.
pub fn write_new(path: &Path, contents: &[u8]) -> Result<bool> {
    let folder = folder_of(path);
    let cannot = || format!("{} cannot be written", path.display());
    let file = half_written(folder, contents, 0o600).context(cannot)?;
    match file.persist_noclobber(path) {
        Ok(_) => {
            sync_folder(folder)?;
            Ok(true)
        }
        Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error.error).context(cannot),
    }
}

/// Creates `folder`, readable by the owner only, inside of one that is there, and makes that survive a
/// power cut.
pub fn create_durable_folder(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    create_private_folder(folder)?;
    sync_folder(folder_of(folder))
}

/// Opens a new file for reading and writing, mode 0600; it must not exist.
pub fn create_private_file(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .context(|| format!("{} cannot be created", path.display()))
}

/// Puts `contents` in the place of what is at `path`, whose permissions stay; a file that was not there
/// gets `mode`.
pub fn replace(path: &Path, contents: &[u8], mode: u32) -> Result<()> {
    // A link stays a link: what it leads to is replaced.
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let mode = std::fs::metadata(path).map_or(mode, |meta| meta.permissions().mode());
    write_atomically(path, contents)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .context(|| format!("the permissions of {} cannot be set", path.display()))
}

/// The content of a file, which need not be there.
pub fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    there(path, std::fs::read(path))
}

/// The same of a text.
pub fn read_text_if_there(path: &Path) -> Result<Option<String>> {
    there(path, std::fs::read_to_string(path))
}

/// The password in a file, without the end of its line. That it cannot be read is a usage error.
pub fn read_password(file: &Path) -> Result<String> {
    let text = std::fs::read_to_string(file).context_kind(ErrorKind::Usage, || {
        format!("password file {} cannot be read", file.display())
    })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn there<T>(path: &Path, read: std::io::Result<T>) -> Result<Option<T>> {
    match read {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context(|| format!("{} cannot be read", path.display())),
    }
}

/// The names in a folder, which need not be there.
pub fn names_in(folder: &Path) -> Result<Vec<String>> {
    let cannot = || format!("{} cannot be read", folder.display());
    let mut names = Vec::new();
    for entry in there(folder, std::fs::read_dir(folder))?
        .into_iter()
        .flatten()
    {
        names.extend(entry.context(cannot)?.file_name().into_string());
    }
    Ok(names)
}

/// Removes a file if it is there.
pub fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).context(|| format!("{} cannot be removed", path.display()))
        }
        _ => Ok(()),
    }
}

/// Bytes that a user without privileges may still write to the file system that holds `path`.
pub fn free_space(path: &Path) -> Result<u64> {
    let there = path
        .ancestors()
        .find(|p| p.exists())
        .unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(there)
        .context(|| format!("the free space at {} cannot be read", there.display()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// How long looks at a lock, one after the other, are allowed to keep whoever takes it waiting.
const LOOKING: Duration = Duration::from_secs(1);

/// An advisory lock on a file, released when it is dropped or when the process dies in any way. A
/// leftover lock *file* is therefore never stale: only a living holder blocks.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// One holder at a time. Fails with [`ErrorKind::Locked`] and names the holder.
    pub fn exclusive(path: &Path, purpose: &str) -> Result<Self> {
        Self::take(
            path,
            FlockOperation::NonBlockingLockExclusive,
            Some(purpose),
        )
    }

    /// The same, for a lock that others hold shared for a moment, to see whether somebody has it.
    pub async fn exclusive_among_lookers(path: &Path, purpose: &str) -> Result<Self> {
        let begun = Instant::now();
        loop {
            match Self::exclusive(path, purpose) {
                Err(error) if error.kind() == ErrorKind::Locked && begun.elapsed() < LOOKING => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                other => return other,
            }
        }
    }

    /// Many holders, but no exclusive one.
    pub fn shared(path: &Path) -> Result<Self> {
        Self::take(path, FlockOperation::NonBlockingLockShared, None)
    }

    fn take(path: &Path, operation: FlockOperation, purpose: Option<&str>) -> Result<Self> {
        let cannot = || format!("lock {} cannot be taken", path.display());
        create_private_folder(folder_of(path))?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .context(cannot)?;
        match rustix::fs::flock(&file, operation) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(held(path, &mut file)),
            Err(e) => return Err(e).context(cannot),
        }
        if let Some(purpose) = purpose {
            let note = format!("{} (PID {})", purpose, std::process::id());
            file.set_len(0)
                .and_then(|()| file.rewind())
                .and_then(|()| file.write_all(note.as_bytes()))
                .context(cannot)?;
        }
        Ok(Self { _file: file })
    }
}

fn held(path: &Path, file: &mut File) -> Error {
    let mut holder = String::new();
    let _ = file.take(200).read_to_string(&mut holder);
    let holder = if holder.is_empty() {
        "another run".to_owned()
    } else {
        holder
    };
    Error::new(
        ErrorKind::Locked,
        format!("{holder} holds the lock {}", path.display()),
    )
    .hint("Wait until it has ended and try again; the lock ends with its holder.")
}

/// A file that removes itself unless it is published under its final name.
#[derive(Debug)]
pub struct PartialFile {
    partial: PathBuf,
    published: bool,
}

impl PartialFile {
    /// Guards the file at `partial`.
    #[must_use]
    pub fn new(partial: PathBuf) -> Self {
        Self {
            partial,
            published: false,
        }
    }

    /// The file's present path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Gives the file its final name, which must be free, durably. The file must be synced already.
    pub fn publish(mut self, path: &Path) -> Result<()> {
        // A hard link refuses to replace, which a rename would do in silence.
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        let cwd = rustix::fs::CWD;
        match rustix::fs::renameat_with(cwd, &self.partial, cwd, path, flags) {
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                std::fs::hard_link(&self.partial, path)
                    .context(|| format!("{} cannot be given its name", path.display()))?;
                remove_if_there(&self.partial)?;
            }
            other => other.context(|| format!("{} cannot be given its name", path.display()))?,
        }
        self.published = true;
        sync_folder(folder_of(path))
    }

    /// Gives the file its final name in place of what has it now, durably.
    pub fn replace(mut self, path: &Path) -> Result<()> {
        rename_durably(&self.partial, path)?;
        self.published = true;
        Ok(())
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if !self.published {
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_has_one_writer_or_many_readers_and_ends_with_its_holder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/x.lock");
        let writer = Lock::exclusive(&path, "backup").unwrap();
        let error = Lock::exclusive(&path, "restore").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked);
        assert!(error.to_string().contains("backup (PID"), "{error}");
        assert!(Lock::shared(&path).is_err());
        drop(writer);
        let _one = Lock::shared(&path).unwrap();
        let _two = Lock::shared(&path).unwrap();
        assert!(Lock::exclusive(&path, "backup").is_err());
    }

    #[tokio::test]
    async fn whoever_takes_a_lock_waits_for_a_look_and_not_for_a_holder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let look = Lock::shared(&path).unwrap();
        // The look ends once the taker has found it there.
        let (taken, ()) = tokio::join!(Lock::exclusive_among_lookers(&path, "backup"), async {
            drop(look);
        });
        let _held = taken.unwrap();
        let error = Lock::exclusive_among_lookers(&path, "restore").await;
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Locked);
    }

    #[test]
    fn publishing_never_replaces_and_dropping_removes() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("a.tar");
        let partial = |text: &str| {
            let path = folder.path().join("a.tar.partial");
            std::fs::write(&path, text).unwrap();
            PartialFile::new(path)
        };
        partial("one").publish(&place).unwrap();
        assert!(partial("two").publish(&place).is_err());
        assert_eq!(std::fs::read_to_string(&place).unwrap(), "one");
        assert!(!folder.path().join("a.tar.partial").exists());
    }

    #[test]
    fn atomic_writes_are_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/state.json");
        write_atomically(&path, b"{}").unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}
