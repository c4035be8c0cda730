//! A tree of files as a tar stream: looked through for what does not belong, and digested, so that
//! two trees can be compared whatever order they come in.
//!
//! An entry's digest is over its path, type, mode, owner, time, link and content. Extended
//! attributes are carried by the stream and not part of the digest: not every way to read a tree
//! back shows them.

use super::RowDigest;
use super::tar_guard::Guarded;
use crate::error::{Context, Error, Result};
use bytes::Bytes;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;
use xxhash_rust::xxh3::Xxh3;

/// More pieces of one sparse file than any file has; the list of them is held in memory.
const MOST_PIECES: u64 = 1 << 20;

/// What a tree holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tree {
    /// Its entries, folders included, and their digest.
    pub digest: RowDigest,
    /// Bytes of its files.
    pub bytes: u64,
}

/// Reads a tar stream while it passes by: what is sent to the first goes to a thread of its own,
/// whose answer is the second's once the first is dropped.
#[must_use]
pub fn passing() -> (Sender<Bytes>, JoinHandle<Result<Tree>>) {
    let (sender, receiver) = channel(4);
    let reading = tokio::task::spawn_blocking(move || {
        read(&mut Incoming {
            pieces: receiver,
            current: Bytes::new(),
        })
    });
    (sender, reading)
}

/// The answer of [`passing`].
pub async fn passed(reading: JoinHandle<Result<Tree>>) -> Result<Tree> {
    reading
        .await
        .context(|| "the thread that reads a tar stream died")?
}

struct Incoming {
    pieces: Receiver<Bytes>,
    current: Bytes,
}

impl Read for Incoming {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece,
                None => return Ok(0),
            }
        }
        let length = buf.len().min(self.current.len());
        buf[..length].copy_from_slice(&self.current.split_to(length));
        Ok(length)
    }
}

/// Reads a whole tar stream.
pub fn read(stream: &mut impl Read) -> Result<Tree> {
    read_within(stream, u64::MAX)
}

/// The same, for a stream that somebody else could have made: more than `limit` bytes in its files,
/// holes included, are refused.
pub fn read_within(stream: &mut impl Read, limit: u64) -> Result<Tree> {
    read_each(stream, limit, &mut |_| {})
}

/// The same, showing the path of each entry.
pub fn read_each(stream: &mut impl Read, limit: u64, show: &mut dyn FnMut(&Path)) -> Result<Tree> {
    let mut tree = Tree::default();
    let mut guarded = Guarded::new(&mut *stream);
    let mut archive = tar::Archive::new(&mut guarded);
    for entry in archive.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        let holes = Holes::of(&mut entry)?;
        // An old sparse file's size is its holes' as well.
        if holes.size.max(entry.size()) > limit.saturating_sub(tree.bytes) {
            return Err(Error::bad_data("a file is larger than it can be"));
        }
        let (path, mut row) = describe(&entry, &holes)?;
        show(&path);
        if is_file(&entry) {
            let mut content = Content::default();
            holes.read(&mut entry, &mut content)?;
            let (size, hash) = (content.size, content.hash.digest128());
            row.extend_from_slice(format!(" {size} {hash:032x}").as_bytes());
            tree.bytes += size;
        }
        tree.digest.add(&row);
    }
    drain(&mut guarded)?;
    Ok(tree)
}

/// A file's content as a program would read it: its holes are zeros.
#[derive(Default)]
struct Content {
    hash: Xxh3,
    size: u64,
}

impl Content {
    fn add(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
    }

    fn add_zeros(&mut self, mut count: u64) {
        const ZEROS: [u8; 4096] = [0; 4096];
        while count > 0 {
            let length = count.min(ZEROS.len() as u64);
            self.add(&ZEROS[..usize::try_from(length).unwrap_or(ZEROS.len())]);
            count -= length;
        }
    }
}

/// How the content of a sparse file lies in the stream, in GNU's form 1.0
/// (<https://www.gnu.org/software/tar/manual/html_node/PAX-1.html>): its true name and size are in
/// the extended header, and a list of what is not a hole comes before the content.
#[derive(Default)]
struct Holes {
    name: Option<Vec<u8>>,
    size: u64,
}

impl Holes {
    fn of<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Self> {
        let mut holes = Self::default();
        let Some(extensions) = entry.pax_extensions().map_err(unreadable)? else {
            return Ok(holes);
        };
        for extension in extensions {
            let extension = extension.map_err(unreadable)?;
            let value = extension.value_bytes();
            match extension.key_bytes() {
                b"GNU.sparse.name" => holes.name = Some(value.to_vec()),
                b"GNU.sparse.realsize" => holes.size = number_in(value)?,
                b"GNU.sparse.major" if value != b"1" => {
                    return Err(Error::bad_data(
                        "a sparse file is in a form that is not known",
                    ));
                }
                _ => {}
            }
        }
        Ok(holes)
    }

    fn read<R: Read>(&self, entry: &mut tar::Entry<'_, R>, content: &mut Content) -> Result<()> {
        let mut buffer = vec![0; 256 << 10];
        if self.name.is_none() {
            return copy(entry, u64::MAX, &mut buffer, content);
        }
        for (offset, length) in Self::list(entry)? {
            if offset < content.size || offset.saturating_add(length) > self.size {
                return Err(Error::bad_data("the list of a sparse file is wrong"));
            }
            content.add_zeros(offset - content.size);
            copy(entry, length, &mut buffer, content)?;
        }
        content.add_zeros(self.size.saturating_sub(content.size));
        Ok(())
    }

    /// Numbers in lines, padded to a whole block: how many follow, and for each offset and length.
    fn list<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Vec<(u64, u64)>> {
        let mut taken = 0;
        let mut next = || -> Result<u64> {
            let mut digits = Vec::new();
            let mut byte = [0];
            loop {
                entry.read_exact(&mut byte).map_err(unreadable)?;
                taken += 1;
                match byte[0] {
                    b'\n' => return number_in(&digits),
                    digit if digits.len() < 20 => digits.push(digit),
                    _ => return number_in(b""),
                }
            }
        };
        let mut list = Vec::new();
        let count = next()?;
        if count > MOST_PIECES {
            return Err(Error::bad_data("a sparse file has too many pieces"));
        }
        for _ in 0..count {
            list.push((next()?, next()?));
        }
        let mut padding = vec![0; (512 - taken % 512) % 512];
        entry.read_exact(&mut padding).map_err(unreadable)?;
        Ok(list)
    }
}

fn number_in(text: &[u8]) -> Result<u64> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Error::bad_data("a sparse file has a number that is none"))
}

/// Up to `limit` bytes of the entry; fewer only if it ends.
fn copy(entry: &mut impl Read, limit: u64, buffer: &mut [u8], content: &mut Content) -> Result<()> {
    let mut limited = entry.take(limit);
    loop {
        match limited.read(buffer).map_err(unreadable)? {
            0 => return Ok(()),
            read => content.add(&buffer[..read]),
        }
    }
}

/// Zeros follow the end; a sender that is not read to its end is held up.
fn drain(stream: &mut impl Read) -> Result<()> {
    let mut rest = [0; 4096];
    loop {
        match stream.read(&mut rest).map_err(unreadable)? {
            0 => return Ok(()),
            read if rest[..read].iter().all(|&byte| byte == 0) => {}
            _ => return Err(Error::bad_data("something follows the end of a tar stream")),
        }
    }
}

fn is_file<R: Read>(entry: &tar::Entry<'_, R>) -> bool {
    use tar::EntryType::{Continuous, GNUSparse, Regular};
    matches!(
        entry.header().entry_type(),
        Regular | Continuous | GNUSparse
    )
}

/// The entry in one line, which need not be readable.
fn describe<R: Read>(entry: &tar::Entry<'_, R>, holes: &Holes) -> Result<(PathBuf, Vec<u8>)> {
    let header = entry.header();
    let name = match &holes.name {
        Some(name) => name.clone(),
        None => entry.path_bytes().into_owned(),
    };
    let path = plain(&name)?;
    let kind = match header.entry_type() {
        tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => 'f',
        tar::EntryType::Directory => 'd',
        tar::EntryType::Symlink => 'l',
        tar::EntryType::Link => 'h',
        tar::EntryType::Fifo => 'p',
        _ => {
            return Err(refuse(
                &name,
                "that is a device, or of a type that is not known",
            ));
        }
    };
    let number = |value: std::io::Result<u64>| value.map_err(unreadable);
    let mut row = path.as_os_str().as_bytes().to_vec();
    let link = entry.link_name_bytes().unwrap_or_default();
    if kind == 'h' {
        row.extend_from_slice(b"\0h");
        row.extend_from_slice(plain(&link)?.as_os_str().as_bytes());
        return Ok((path, row));
    }
    let mode = header.mode().map_err(unreadable)? & 0o7777;
    // The mode of a symbolic link means nothing, and is not set by everybody.
    let mode = if kind == 'l' { 0 } else { mode };
    let (uid, gid) = (number(header.uid())?, number(header.gid())?);
    let time = number(header.mtime())?;
    row.extend_from_slice(format!("\0{kind} {mode:o} {uid} {gid} {time} ").as_bytes());
    if kind == 'l' {
        row.extend_from_slice(&link);
    }
    Ok((path, row))
}

/// A path that stays where it is unpacked, without `./` and doubled slashes.
fn plain(bytes: &[u8]) -> Result<PathBuf> {
    let path = Path::new(std::ffi::OsStr::from_bytes(bytes));
    let mut parts = path.components().filter(|c| *c != Component::CurDir);
    if bytes.contains(&0) || !parts.all(|c| matches!(c, Component::Normal(_))) {
        return Err(refuse(bytes, "with a path that leads elsewhere"));
    }
    Ok(path
        .components()
        .filter(|c| *c != Component::CurDir)
        .collect())
}

fn refuse(name: &[u8], what: &str) -> Error {
    let shown = String::from_utf8_lossy(name).escape_debug().to_string();
    Error::bad_data(format!("the tar stream has an entry \"{shown}\" {what}"))
        .hint("It is not restored; do not trust where this archive comes from.")
}

fn unreadable(error: std::io::Error) -> Error {
    Error::bad_data("a tar stream of a volume cannot be read").because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: tar::EntryType, name: &str, link: Option<&str>) -> Vec<u8> {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(1);
        header.set_gid(2);
        header.set_mtime(3);
        header.set_size(0);
        if let Some(link) = link {
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        }
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    fn tree_of(entries: &[Vec<u8>]) -> Result<Tree> {
        let mut bytes = entries.concat();
        bytes.extend_from_slice(&[0; 1024]);
        read(&mut &*bytes)
    }

    #[test]
    fn order_does_not_matter_and_everything_else_does() {
        use tar::EntryType::{Regular, Symlink};
        let a = entry(Regular, "./a", None);
        let b = entry(Regular, "b", None);
        let one = tree_of(&[a.clone(), b.clone()]).unwrap();
        assert_eq!(one, tree_of(&[b.clone(), a.clone()]).unwrap());
        assert_eq!(
            one,
            tree_of(&[b.clone(), entry(Regular, "a", None)]).unwrap()
        );
        assert_eq!(one.digest.rows, 2);
        let link = entry(Symlink, "a", Some("b"));
        assert_ne!(one, tree_of(&[link, b]).unwrap());
        assert_ne!(one, tree_of(&[a]).unwrap());
    }

    #[test]
    fn what_leads_elsewhere_is_refused() {
        use tar::EntryType::{Block, Char, Link, Regular, Symlink};
        for bad in [
            entry(Regular, "/etc/passwd", None),
            entry(Regular, "../x", None),
            entry(Regular, "a/../../x", None),
            entry(Link, "a", Some("/etc/passwd")),
            entry(Link, "a", Some("../../etc/passwd")),
            entry(Block, "a", None),
            entry(Char, "a", None),
        ] {
            tree_of(&[bad]).unwrap_err();
        }
        // Where a symbolic link leads is its content: nobody follows it.
        tree_of(&[entry(Symlink, "a", Some("/etc/passwd"))]).unwrap();
    }
}
