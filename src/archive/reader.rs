//! Reads an archive: the manifest from the end of the file, then any member by its offset.
//!
//! Nothing in the file is trusted: sizes and offsets are checked against the file, content against
//! its SHA-256, and decompression stops at the size that the manifest promises.

use super::manifest::{Header, Manifest, Member};
use super::sealed::Seal;
use super::tape::{self, BLOCK, END};
use crate::adapters::storage::{ReadAt, open_file};
use crate::error::{Error, ErrorKind, Result};
use crate::interrupt::Interrupt;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How many raw bytes [`Archive::each_piece`] hands out at a time, at most.
const PIECE: usize = 1 << 20;

/// The largest `format.json`.
const LARGEST_HEADER: u64 = 1 << 20;

/// The largest `manifest.json`; it takes about 300 bytes for 8 MiB of data.
const LARGEST_MANIFEST: u64 = 512 << 20;

/// The largest member that is read into memory as a whole, in raw bytes.
pub const SMALL_MEMBER: u64 = 256 << 20;

/// An archive whose manifest is there and sound. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Archive {
    path: PathBuf,
    file: Arc<dyn ReadAt>,
    size: u64,
    manifest: Arc<Manifest>,
    /// What it says without its key, if it is encrypted.
    seal: Option<Seal>,
}

impl Archive {
    /// Opens an archive and reads its manifest. Everything else is read on demand.
    ///
    /// Fails with [`ErrorKind::BadData`] on a file that is empty, truncated, foreign, damaged or of
    /// a newer format.
    pub fn open(path: &Path) -> Result<Self> {
        let (file, size) = open_file(path)?;
        Self::over(path, file, size)
    }

    /// The same for `size` bytes that are known to the user as `path`.
    pub fn over(path: &Path, file: Arc<dyn ReadAt>, size: u64) -> Result<Self> {
        let manifest = read_manifest(&*file, size).map_err(|error| name(path, error))?;
        Ok(Self {
            path: path.to_path_buf(),
            file,
            size,
            manifest: Arc::new(manifest),
            seal: None,
        })
    }

    /// The same archive, which was under this seal.
    #[must_use]
    pub fn under(mut self, seal: Seal) -> Self {
        self.seal = Some(seal);
        self
    }

    /// What it says without its key, if it is encrypted.
    #[must_use]
    pub fn seal(&self) -> Option<&Seal> {
        self.seal.as_ref()
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What is in it.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The member with this path, without the codec's suffix.
    pub fn member(&self, path: &str) -> Result<&Member> {
        self.manifest
            .members
            .iter()
            .find(|m| m.path.strip_suffix(m.codec.suffix()) == Some(path))
            .ok_or_else(|| self.bad(format!("has no member {path}")))
    }

    /// Reads a small member as a whole and checks it.
    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        let member = self.member(path)?;
        if member.raw_size > SMALL_MEMBER {
            return Err(self.bad(format!("has a member {path} that is too large to be one")));
        }
        let mut raw = Vec::new();
        let mut reader = self.reader(member)?;
        reader
            .read_to_end(&mut raw)
            .map_err(|e| self.cannot_read(member, e))?;
        Ok(raw)
    }

    /// Reads a small text member and checks it.
    pub fn read_text(&self, path: &str) -> Result<String> {
        String::from_utf8(self.read(path)?)
            .map_err(|_| self.bad(format!("has a member {path} that is not text")))
    }

    /// A reader of a member's raw bytes. Its last read fails if the content is not what the
    /// manifest says, so only what was read *to the end* may be believed.
    pub fn reader(&self, member: &Member) -> Result<MemberReader> {
        let stored = Stored {
            file: self.file.clone(),
            offset: member.offset,
            left: member.size,
            sha256: Sha256::new(),
            expected: member.sha256.clone(),
        };
        Ok(MemberReader {
            decoder: member.codec.decoder(stored)?,
            left: member.raw_size,
        })
    }

    /// Hands out the raw bytes of all members of a folder in pieces, one member after the other in the
    /// order of their names. In the file they lie as they were ready.
    pub fn each_piece(
        &self,
        folder: &str,
        interrupt: &Interrupt,
        mut take: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut buffer = vec![0; PIECE];
        let mut members: Vec<&Member> = self.manifest().members_in(folder).collect();
        members.sort_by_key(|member| &member.path);
        for member in members {
            let mut reader = self.reader(member)?;
            loop {
                interrupt.check()?;
                let read = reader
                    .read(&mut buffer)
                    .map_err(|e| self.cannot_read(member, e))?;
                if read == 0 {
                    break;
                }
                take(&buffer[..read])?;
            }
        }
        Ok(())
    }

    /// An error that names the archive.
    #[must_use]
    pub fn bad(&self, what: impl std::fmt::Display) -> Error {
        Error::bad_data(format!("archive {} {what}", self.path.display()))
            .hint("Use another archive; `k1ops list` shows which there are.")
    }

    /// A member is not what the manifest says.
    #[must_use]
    pub fn damaged(&self, member: &Member, what: &str) -> Error {
        self.bad(format!("is damaged: member {}: {what}", member.path))
    }

    /// Reading a member failed: since it is damaged, or since what holds it cannot be reached.
    #[must_use]
    pub fn cannot_read(&self, member: &Member, error: std::io::Error) -> Error {
        match error.downcast::<Error>() {
            Ok(beneath) => {
                let path = self.path.display();
                Error::new(beneath.kind(), format!("archive {path} cannot be read"))
                    .because(beneath)
            }
            Err(error) => self.damaged(member, &error.to_string()),
        }
    }

    /// All of it as it is before encryption.
    #[must_use]
    pub fn bytes(&self) -> &dyn ReadAt {
        &*self.file
    }

    pub(super) fn file(&self) -> &dyn ReadAt {
        &*self.file
    }
}

fn name(path: &Path, error: Error) -> Error {
    // That it cannot be reached says nothing of the archive.
    if error.kind() == ErrorKind::Failed {
        return error;
    }
    let hint = error.hint_text().map_or_else(
        || "Use another archive; `k1ops list` shows which there are.".to_owned(),
        str::to_owned,
    );
    let mut named = Error::new(error.kind(), format!("archive {}: {error}", path.display()));
    if let Some(cause) = error.causes().first() {
        named = named.because(cause.clone());
    }
    named.hint(hint)
}

fn read_manifest(file: &dyn ReadAt, size: u64) -> Result<Manifest> {
    if size == 0 {
        return Err(Error::bad_data("the file is empty"));
    }
    if size < BLOCK {
        return Err(Error::bad_data("the file is too short to be an archive"));
    }
    let header = read_header(file, size)?;
    if !size.is_multiple_of(BLOCK) || size < 4 * BLOCK + END {
        return Err(truncated());
    }
    let (offset, length) = find_manifest(file, size)?.ok_or_else(truncated)?;
    let length = usize::try_from(length).map_err(|_| truncated())?;
    let manifest = Manifest::unseal(&tape::read_at(file, offset, length)?)?;
    if manifest.header != header {
        return Err(Error::bad_data(
            "format.json and the manifest belong to different archives",
        ));
    }
    check_layout(&manifest, offset - BLOCK)?;
    Ok(manifest)
}

fn truncated() -> Error {
    Error::bad_data(
        "the file does not end with a manifest: it is truncated, or its backup never finished",
    )
}

fn read_header(file: &dyn ReadAt, size: u64) -> Result<Header> {
    let foreign = || {
        Error::bad_data("the file was not written by k1ops backup").hint(
            "k1ops restores what `k1ops backup` wrote; `k1ops list` shows which archives there are.",
        )
    };
    let entry = tape::entry_at(file, 0)?
        .filter(|e| e.path == "format.json")
        .ok_or_else(foreign)?;
    if entry.size > LARGEST_HEADER || BLOCK + entry.size > size {
        return Err(truncated());
    }
    let length = usize::try_from(entry.size).map_err(|_| foreign())?;
    Header::parse(&tape::read_at(file, BLOCK, length)?)
}

/// Searches backwards for the header of `manifest.json`, whose content must end exactly where the
/// end mark begins. Answers offset and length of the content.
fn find_manifest(file: &dyn ReadAt, size: u64) -> Result<Option<(u64, u64)>> {
    let end = size - END;
    if tape::read_at(file, end, tape::END_LEN)?
        .iter()
        .any(|&b| b != 0)
    {
        return Ok(None);
    }
    let mut offset = end;
    while offset >= BLOCK && end - offset <= LARGEST_MANIFEST {
        offset -= BLOCK;
        if let Some(entry) = tape::entry_at(file, offset)?
            && entry.path == "manifest.json"
            && entry.size <= end
            && offset + BLOCK + tape::padded(entry.size) == end
        {
            return Ok(Some((offset + BLOCK, entry.size)));
        }
    }
    Ok(None)
}

/// Members must lie one behind the other, from the start of the file to the manifest's header at
/// `end`, under plain relative paths that occur once.
fn check_layout(manifest: &Manifest, end: u64) -> Result<()> {
    let mut at = 0_u64;
    let mut paths = std::collections::HashSet::new();
    for member in &manifest.members {
        let plain = member
            .path
            .split('/')
            .all(|part| !matches!(part, "" | "." | ".."));
        let fits = member.path.len() <= tape::LONGEST_NAME;
        if !plain || !fits || member.path.contains(['\\', '\0']) || !paths.insert(&member.path) {
            return Err(Error::bad_data(format!(
                "member {:?} has a forbidden path",
                member.path
            )));
        }
        let next = member.offset.checked_add(member.size).filter(|n| *n <= end);
        match next {
            Some(_) if at.checked_add(BLOCK) == Some(member.offset) => {
                at = member.offset + tape::padded(member.size);
            }
            _ => {
                let message = format!("member {} does not lie where it should", member.path);
                return Err(Error::bad_data(message));
            }
        }
    }
    if at == end {
        Ok(())
    } else {
        Err(Error::bad_data("members and manifest do not meet"))
    }
}

/// Raw bytes of one member; see [`Archive::reader`].
pub struct MemberReader {
    decoder: Box<dyn Read + Send>,
    left: u64,
}

impl std::fmt::Debug for MemberReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemberReader")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

impl Read for MemberReader {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let read = self.decoder.read(buf)?;
        match self.left.checked_sub(read as u64) {
            None => Err(invalid("it is larger than the manifest says")),
            Some(left) if read == 0 && left > 0 && !buf.is_empty() => {
                Err(invalid("it is smaller than the manifest says"))
            }
            Some(left) => {
                self.left = left;
                Ok(read)
            }
        }
    }
}

/// Stored bytes of one member; the read that reaches the end checks the hash.
struct Stored {
    file: Arc<dyn ReadAt>,
    offset: u64,
    left: u64,
    sha256: Sha256,
    expected: String,
}

impl Read for Stored {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 {
            return Ok(0);
        }
        let most = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buf.len());
        let read = self.file.read_at(&mut buf[..most], self.offset)?;
        if read == 0 {
            return Err(invalid("the file ends in it"));
        }
        self.sha256.update(&buf[..read]);
        self.offset += read as u64;
        self.left -= read as u64;
        if self.left == 0 {
            let found = hex::encode(std::mem::take(&mut self.sha256).finalize());
            if found != self.expected {
                return Err(invalid("its checksum is wrong"));
            }
        }
        Ok(read)
    }
}

fn invalid(what: &str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned())
}
