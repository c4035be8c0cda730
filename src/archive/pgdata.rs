//! The tar streams of a physical backup, compared with the server's own manifest: every file there
//! once, as large and with the checksum that the server gave it, and nothing that does not belong.
//!
//! Paths and types are not trusted. A server sends plain files and folders under plain paths, so
//! anything else is refused and can never reach outside of where it is unpacked.

use super::backup_manifest::{BackupManifest, Expected};
use super::{Archive, PartsReader, PhysicalArchive, PhysicalSource};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// What a piece of a file is read into.
const PIECE: usize = 256 << 10;

/// An entry of a tar stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// A plain path, relative to the data directory or the tablespace.
    pub path: PathBuf,
    /// Whether it is a folder; otherwise it is a plain file.
    pub folder: bool,
    /// Bytes of a file.
    pub size: u64,
    /// The owner on the server.
    pub user: u32,
    /// The group on the server.
    pub group: u32,
}

/// What is left to be seen of a physical backup.
#[derive(Debug)]
pub struct PgDataCheck {
    name: String,
    manifest: BackupManifest,
    seen: HashSet<Vec<u8>>,
    /// Segments of the write-ahead log, without their timeline, and their sizes.
    segments: HashMap<String, u64>,
    segment_size: u64,
}

impl PgDataCheck {
    /// Reads the server's manifest of `source`.
    pub fn begin(archive: &Archive, source: &PhysicalSource) -> Result<Self> {
        let size = source.wal_segment_size;
        if !size.is_power_of_two() || !(1 << 20..=1 << 30).contains(&size) {
            return Err(archive.bad(format!("names an impossible size of segments: {size}")));
        }
        let manifest = BackupManifest::parse(&archive.read(&source.manifest_path())?)?;
        if manifest.files.len() as u64 != source.files {
            return Err(archive.bad("is damaged: the server's manifest belongs to another backup"));
        }
        Ok(Self {
            name: archive.path().display().to_string(),
            manifest,
            seen: HashSet::new(),
            segments: HashMap::new(),
            segment_size: size,
        })
    }

    /// Notes that an entry of the stream `of` is there; answers its path relative to the data
    /// directory, and what is expected of its content where the server said so.
    pub fn note(
        &mut self,
        of: &PhysicalArchive,
        entry: &Entry,
    ) -> Result<(PathBuf, Option<&Expected>)> {
        let path = if of.name == PhysicalSource::BASE {
            entry.path.clone()
        } else {
            Path::new("pg_tblspc").join(&of.name).join(&entry.path)
        };
        if entry.folder {
            return Ok((path, None));
        }
        let key = path.as_os_str().as_bytes().to_vec();
        if !self.seen.insert(key.clone()) {
            return Err(self.bad(&path, "is there twice"));
        }
        if let Ok(inside) = path.strip_prefix("pg_wal")
            && let Some(name) = inside.to_str()
            && name.len() == 24
        {
            self.segments.insert(name[8..].to_owned(), entry.size);
        }
        let expected = self.manifest.files.get(&key);
        // The server's manifest leaves the write-ahead log out: it is still written to.
        if expected.is_none() && !path.starts_with("pg_wal") {
            return Err(self.bad(&path, "is not in the server's manifest"));
        }
        if let Some(expected) = expected
            && expected.size != entry.size
        {
            return Err(self.bad(&path, "has another size than the server's manifest says"));
        }
        Ok((path, expected))
    }

    /// What must hold when all streams were seen: no file and no write-ahead log is missing.
    pub fn finish(&self) -> Result<()> {
        let missing = self.manifest.files.keys().find(|k| !self.seen.contains(*k));
        if let Some(key) = missing {
            let path = PathBuf::from(std::ffi::OsString::from_vec(key.clone()));
            return Err(self.bad(&path, "is missing"));
        }
        if self.manifest.wal.is_empty() {
            return Err(self.bad(Path::new("pg_wal"), "is not said to be needed at all"));
        }
        for range in &self.manifest.wal {
            for segment in range.segments(self.segment_size) {
                if self.segments.get(&segment) != Some(&self.segment_size) {
                    let path = Path::new("pg_wal").join(format!("{:08X}{segment}", range.timeline));
                    return Err(self.bad(&path, "is missing or not whole"));
                }
            }
        }
        Ok(())
    }

    /// What the server said of a file.
    #[must_use]
    pub fn expected(&self, path: &Path) -> Option<&Expected> {
        self.manifest.files.get(path.as_os_str().as_bytes())
    }

    /// An error that names the archive and a file in it.
    #[must_use]
    pub fn bad(&self, path: &Path, what: &str) -> Error {
        Error::bad_data(format!("archive {}: {} {what}", self.name, path.display()))
            .hint("Use another archive; `k1ops list` shows which there are.")
    }

    /// Reads one whole stream and compares every file in it.
    pub fn stream(&mut self, of: &PhysicalArchive, stream: &mut impl Read) -> Result<()> {
        let mut buffer = vec![0; PIECE];
        walk(stream, |entry, content| {
            let name = self.name.clone();
            let (path, expected) = self.note(of, entry)?;
            let mut comparison = expected.map(Expected::compare);
            loop {
                let read = content.read(&mut buffer).map_err(unreadable)?;
                if read == 0 {
                    break;
                }
                if let Some(comparison) = &mut comparison {
                    comparison.add(&buffer[..read]);
                }
            }
            comparison
                .map_or(Ok(()), super::backup_manifest::Comparison::finish)
                .map_err(|what| {
                    Error::bad_data(format!("archive {name}: {} {what}", path.display()))
                        .hint("Use another archive; `k1ops list` shows which there are.")
                })
        })
    }
}

/// Visits the entries of a tar stream in order, then reads the stream to its end.
pub fn walk(
    stream: &mut impl Read,
    mut visit: impl FnMut(&Entry, &mut dyn Read) -> Result<()>,
) -> Result<()> {
    let mut archive = tar::Archive::new(&mut *stream);
    // Raw: no extension may give an entry another name, size or target than its header does.
    let entries = archive.entries().map_err(unreadable)?.raw(true);
    for entry in entries {
        let mut entry = entry.map_err(unreadable)?;
        let described = describe(&entry)?;
        visit(&described, &mut entry)?;
    }
    let mut rest = [0; 4096];
    loop {
        match stream.read(&mut rest).map_err(unreadable)? {
            0 => return Ok(()),
            read if rest[..read].iter().all(|&byte| byte == 0) => {}
            _ => return Err(Error::bad_data("something follows the end of a tar stream")),
        }
    }
}

fn describe<R: Read>(entry: &tar::Entry<'_, R>) -> Result<Entry> {
    let header = entry.header();
    let bytes = entry.path_bytes();
    let path = Path::new(std::ffi::OsStr::from_bytes(&bytes));
    let refuse = |what: &str| {
        let shown = String::from_utf8_lossy(&bytes).escape_debug().to_string();
        Error::bad_data(format!("the tar stream has an entry \"{shown}\" {what}")).hint(
            "No PostgreSQL server makes such an entry; do not trust where this archive comes from.",
        )
    };
    let folder = match header.entry_type() {
        tar::EntryType::Directory => true,
        tar::EntryType::Regular => false,
        tar::EntryType::Symlink | tar::EntryType::Link => return Err(refuse("that is a link")),
        _ => return Err(refuse("that is neither a file nor a folder")),
    };
    // Servers write `./pg_wal/archive_status`. Collected from its components, the path has no such
    // beginning, no slash at its end and no doubled ones.
    let components = path.components().filter(|c| *c != Component::CurDir);
    let plain = components
        .clone()
        .all(|c| matches!(c, Component::Normal(_)));
    let path: PathBuf = components.collect();
    if !plain || path.as_os_str().is_empty() || bytes.contains(&0) {
        return Err(refuse("with a path that leads elsewhere"));
    }
    let number = |value: std::io::Result<u64>| {
        let value = value.map_err(|_| refuse("with an unreadable owner"))?;
        u32::try_from(value).map_err(|_| refuse("with an impossible owner"))
    };
    let (user, group) = (number(header.uid())?, number(header.gid())?);
    let size = entry.size();
    if folder && size != 0 {
        return Err(refuse("that is a folder with content"));
    }
    Ok(Entry {
        path,
        folder,
        size,
        user,
        group,
    })
}

fn unreadable(error: std::io::Error) -> Error {
    Error::bad_data("a tar stream of the physical backup cannot be read").because(error)
}

/// Compares all of `source` with the server's manifest.
pub(super) fn check(
    archive: &Archive,
    source: &PhysicalSource,
    jobs: usize,
    interrupt: &Interrupt,
) -> Result<()> {
    let mut check = PgDataCheck::begin(archive, source)?;
    for of in &source.archives {
        let folder = source.parts_folder(of);
        let mut parts = PartsReader::new(archive, &folder, of.parts, jobs, interrupt)?;
        // The reader knows best why it stopped; the tar's reader only knows that it did.
        check
            .stream(of, &mut parts)
            .map_err(|error| parts.take_failure().unwrap_or(error))?;
    }
    check.finish()
}

/// Names, parts and sizes must fit together; no content is read.
pub(super) fn check_structure(archive: &Archive, source: &PhysicalSource) -> Result<()> {
    archive.member(&source.manifest_path())?;
    let bases = source.archives.iter();
    let bases = bases.filter(|a| a.name == PhysicalSource::BASE).count();
    if bases != 1 {
        return Err(archive.bad("is damaged: it has not exactly one data directory"));
    }
    let mut names = HashSet::new();
    for of in &source.archives {
        let tablespace = !of.name.is_empty() && of.name.bytes().all(|b| b.is_ascii_digit());
        if !names.insert(&of.name) || of.name != PhysicalSource::BASE && !tablespace {
            return Err(archive.bad(format!("has a forbidden tablespace {:?}", of.name)));
        }
        let folder = source.parts_folder(of);
        let members = super::parts::ordered(archive, &folder, of.parts)?;
        if members.iter().map(|m| m.raw_size).sum::<u64>() != of.size {
            return Err(archive.bad(format!("is damaged: {folder} has another size")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar_of(kind: tar::EntryType, path: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(&[0; 1024]);
        bytes
    }

    #[test]
    fn nothing_that_leads_elsewhere_is_let_in() {
        use tar::EntryType::{Block, Directory, GNULongName, Link, Regular, Symlink, XHeader};
        let visited = |bytes: &[u8]| {
            let mut paths = Vec::new();
            walk(&mut &*bytes, |entry, _| {
                paths.push(entry.path.clone());
                Ok(())
            })
            .map(|()| paths)
        };
        let good = visited(&tar_of(Directory, b"base/1/")).unwrap();
        assert_eq!(good[0].as_os_str(), "base/1");
        let good = visited(&tar_of(Directory, b"./pg_wal/archive_status/")).unwrap();
        assert_eq!(good[0].as_os_str(), "pg_wal/archive_status");
        for path in [
            "/etc/passwd",
            "../x",
            "a/../../x",
            "./../a",
            ".",
            "./",
            "..",
            "",
        ] {
            visited(&tar_of(Regular, path.as_bytes())).unwrap_err();
        }
        for kind in [Symlink, Link, Block, GNULongName, XHeader] {
            visited(&tar_of(kind, b"a")).unwrap_err();
        }
    }
}
