//! Checks an archive: quickly its structure, or fully every byte, frame and row.

use super::manifest::{Member, Source, VolumeSource};
use super::tape::{self, BLOCK};
use super::{Archive, PartsReader, RowDigest, parts, pgdata, tree};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::{Events, Unit};
use crate::interrupt::Interrupt;
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How thoroughly to check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Depth {
    /// Manifest, layout, and a header in each piece of an upload: that the store has all pieces, in their
    /// order.
    Pieces,
    /// Manifest, headers and layout. Reads little.
    Quick,
    /// Every byte of the file, every checksum, every frame, every row.
    Full,
}

/// How long a piece of an upload is: a header is looked at wherever a new one begins.
const PIECE: u64 = 8 << 20;

/// A look at the structure waits for each answer of a store, and reads next to nothing.
const QUICK_READERS: usize = 16;

/// What was checked.
#[derive(Debug, Clone, Serialize)]
pub struct Verified {
    /// How thoroughly.
    pub depth: Depth,
    /// Members.
    pub members: u64,
    /// Bytes as stored.
    pub stored_bytes: u64,
    /// Bytes when uncompressed.
    pub raw_bytes: u64,
    /// Rows that the manifest counts.
    pub rows: u64,
    /// Seconds it took.
    pub seconds: f64,
}

impl Verified {
    /// How long it took.
    #[must_use]
    pub fn took(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

/// Checks `archive` on `jobs` threads. An archive that differs in one bit from what was written is
/// refused with [`crate::error::ErrorKind::BadData`].
pub async fn verify(
    archive: &Archive,
    depth: Depth,
    jobs: usize,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<Verified> {
    check(archive, (depth, None), jobs, events, interrupt).await
}

/// Checks the structure of `archive`, and every byte of what is to be taken out of it: the members in `folders`,
/// which may also be the paths of members. What is not needed is not read, and may be damaged.
pub async fn verify_part(
    archive: &Archive,
    folders: Vec<String>,
    jobs: usize,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<Verified> {
    let part = Some(folders.into_iter().collect());
    check(archive, (Depth::Quick, part), jobs, events, interrupt).await
}

async fn check(
    archive: &Archive,
    (depth, part): (Depth, Option<HashSet<String>>),
    jobs: usize,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<Verified> {
    let begun = Instant::now();
    let step = format!("verifying {}", archive.path().display());
    events.started(&step);
    let mut work = Work::new(
        archive.clone(),
        depth,
        events.clone(),
        interrupt.clone(),
        step.clone(),
    );
    work.part = part.unwrap_or_default();
    let work = std::sync::Arc::new(work);
    let mut threads = tokio::task::JoinSet::new();
    check_sums(archive)?;
    if depth == Depth::Full {
        for source in archive.manifest().physical() {
            let (archive, source, interrupt) = (archive.clone(), source.clone(), interrupt.clone());
            threads.spawn_blocking(move || pgdata::check(&archive, &source, jobs, &interrupt));
        }
        for volume in archive.manifest().volumes() {
            let (archive, volume, interrupt) = (archive.clone(), volume.clone(), interrupt.clone());
            threads.spawn_blocking(move || check_volume(&archive, &volume, jobs, &interrupt));
        }
    }
    let readers = match depth {
        Depth::Pieces | Depth::Quick => jobs.max(QUICK_READERS),
        Depth::Full => jobs.max(1),
    };
    for _ in 0..readers {
        let work = work.clone();
        threads.spawn_blocking(move || work.run());
    }
    while let Some(result) = threads.join_next().await {
        result.context(|| "a verifying thread died")??;
    }
    let manifest = archive.manifest();
    work.check_end()?;
    let verified = Verified {
        depth,
        members: manifest.members.len() as u64,
        stored_bytes: archive.size(),
        raw_bytes: manifest.members.iter().map(|m| m.raw_size).sum(),
        rows: manifest.rows(),
        seconds: begun.elapsed().as_secs_f64(),
    };
    events.finished(
        step,
        format!("{} members, {} rows", verified.members, verified.rows),
    );
    Ok(verified)
}

/// Members that threads take one after the other.
struct Work {
    archive: Archive,
    depth: Depth,
    events: Events,
    interrupt: Interrupt,
    step: String,
    /// Folders with the parts of streams.
    streams: HashSet<String>,
    /// Folders and members of which every byte is checked, however thorough the rest is.
    part: HashSet<String>,
    next: AtomicUsize,
    done: AtomicU64,
}

impl Work {
    fn new(
        archive: Archive,
        depth: Depth,
        events: Events,
        interrupt: Interrupt,
        step: String,
    ) -> Self {
        let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
        let physical = archive.manifest().physical();
        let volumes = archive.manifest().volumes().map(|v| v.folder.clone());
        let streams = physical
            .flat_map(|source| source.archives.iter().map(|of| source.parts_folder(of)))
            .chain(volumes)
            .collect();
        Self {
            archive,
            depth,
            events,
            interrupt,
            step,
            streams,
            part: HashSet::new(),
            next,
            done,
        }
    }

    fn run(&self) -> Result<()> {
        let mut buffer = vec![0; 1 << 20];
        loop {
            self.interrupt.check()?;
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(member) = self.archive.manifest().members.get(index) else {
                return Ok(());
            };
            if self.depth != Depth::Pieces || self.begins_a_piece(index) {
                self.check_frame(member)?;
            }
            if self.is_read_here(member) {
                self.check_content(member, &mut buffer)?;
            }
            let done = self.done.fetch_add(member.size, Ordering::Relaxed) + member.size;
            self.events
                .progress(&self.step, done, Some(self.archive.size()), Unit::Bytes);
        }
    }

    fn begins_a_piece(&self, index: usize) -> bool {
        let piece = |member: &Member| member.offset / PIECE;
        let members = &self.archive.manifest().members;
        let before = index.checked_sub(1).and_then(|before| members.get(before));
        before.is_none_or(|before| members.get(index).map(piece) != Some(piece(before)))
    }

    /// Parts of a stream are read, and checked, when the stream is.
    fn is_read_here(&self, member: &Member) -> bool {
        let folder = member.path.rsplit_once('/').map(|(folder, _)| folder);
        let is_in = |folders: &HashSet<String>| folder.is_some_and(|f| folders.contains(f));
        match self.depth {
            Depth::Full => !is_in(&self.streams),
            Depth::Pieces | Depth::Quick => is_in(&self.part) || self.part.contains(&member.path),
        }
    }

    /// The header must be to the byte what the writer wrote, and the padding zero.
    fn check_frame(&self, member: &Member) -> Result<()> {
        let checked = check_tape(&self.archive, &member.path, member.offset, member.size);
        checked.map_err(|error| {
            let what = "its tar header or padding is wrong";
            or_unread(error, || self.archive.damaged(member, what))
        })
    }

    fn check_content(&self, member: &Member, buffer: &mut [u8]) -> Result<()> {
        let mut reader = self.archive.reader(member)?;
        let mut digest = RowDigest::default();
        let mut rest: Vec<u8> = Vec::new();
        loop {
            self.interrupt.check()?;
            let read = reader
                .read(buffer)
                .map_err(|e| self.archive.cannot_read(member, e))?;
            if read == 0 {
                break;
            }
            if member.rows.is_some() {
                add_rows(&mut digest, &mut rest, &buffer[..read]);
            }
        }
        match member.rows {
            Some(_) if !rest.is_empty() => {
                Err(self.archive.damaged(member, "its last row is not complete"))
            }
            Some(rows) if rows != digest => Err(self
                .archive
                .damaged(member, "its rows are not those of the manifest")),
            _ => Ok(()),
        }
    }

    /// The manifest's own header and padding.
    fn check_end(&self) -> Result<()> {
        let last = self.archive.manifest().members.last();
        let header = last.map_or(0, |m| m.offset + tape::padded(m.size));
        let entry = tape::entry_at(self.archive.file(), header)?.ok_or_else(|| {
            self.archive
                .bad("is damaged: the manifest's header is wrong")
        })?;
        let checked = check_tape(&self.archive, &entry.path, header + BLOCK, entry.size);
        checked.map_err(|error| {
            let what = "is damaged: the manifest's header or padding is wrong";
            or_unread(error, || self.archive.bad(what))
        })
    }
}

/// What could not be read need not be damaged.
fn or_unread(error: Error, damaged: impl FnOnce() -> Error) -> Error {
    if error.kind() == ErrorKind::BadData {
        damaged()
    } else {
        error
    }
}

/// A volume's stream must hold what was in the volume, and nothing that leads elsewhere.
fn check_volume(
    archive: &Archive,
    volume: &VolumeSource,
    jobs: usize,
    interrupt: &Interrupt,
) -> Result<()> {
    let mut parts = PartsReader::new(archive, &volume.folder, volume.parts, jobs, interrupt)?;
    // The reader knows best why it stopped; the tar's reader only knows that it did.
    let found = tree::read_within(&mut parts, volume.bytes)
        .map_err(|e| parts.take_failure().unwrap_or(e))?;
    if found.digest == volume.entries && found.bytes == volume.bytes {
        return Ok(());
    }
    let name = &volume.volume;
    Err(archive.bad(format!(
        "is damaged: the files of volume {name} are not those of the manifest"
    )))
}

/// Adds the rows that `piece` completes; `rest` carries the unfinished one.
fn add_rows(digest: &mut RowDigest, rest: &mut Vec<u8>, piece: &[u8]) {
    let mut piece = piece;
    if !rest.is_empty() {
        let Some(end) = memchr::memchr(b'\n', piece) else {
            rest.extend_from_slice(piece);
            return;
        };
        rest.extend_from_slice(&piece[..end]);
        digest.add(rest);
        rest.clear();
        piece = &piece[end + 1..];
    }
    let unfinished = digest.add_lines(piece);
    rest.extend_from_slice(unfinished);
}

/// Compares header and padding of the member at `offset` with what the writer writes.
fn check_tape(archive: &Archive, path: &str, offset: u64, size: u64) -> Result<()> {
    let started = archive.manifest().header.started_at.timestamp();
    let expected = tape::header(path, size, u64::try_from(started).unwrap_or_default())?;
    let found = tape::read_at(archive.file(), offset - BLOCK, tape::BLOCK_LEN)?;
    let length = usize::try_from(tape::padded(size) - size).unwrap_or_default();
    let padding = tape::read_at(archive.file(), offset + size, length)?;
    if found != expected.as_bytes() || padding.iter().any(|&b| b != 0) {
        return Err(archive.bad("is damaged"));
    }
    Ok(())
}

/// A table's digest must be the sum of its parts, and all its parts must be there.
fn check_sums(archive: &Archive) -> Result<()> {
    let manifest = archive.manifest();
    let mut parts: HashMap<&str, (u32, RowDigest)> = HashMap::new();
    for member in &manifest.members {
        if let Some((folder, _)) = member.path.rsplit_once('/') {
            let entry = parts.entry(folder).or_default();
            entry.0 += 1;
            entry.1 = entry.1.merge(member.rows.unwrap_or_default());
        }
    }
    let found = |folder: &str| parts.get(folder).copied().unwrap_or_default();
    for source in &manifest.sources {
        match source {
            Source::Postgres(postgres) => {
                let large = postgres.large_objects;
                if found("postgres/large-objects") != (large.parts, large.digest) {
                    return Err(archive.bad("is damaged: parts of the large objects are missing"));
                }
                for table in &postgres.tables {
                    if found(&table.folder) != (table.parts, table.digest) {
                        let name = format!("{}.{}", table.schema, table.name);
                        return Err(
                            archive.bad(format!("is damaged: parts of table {name} are missing"))
                        );
                    }
                }
            }
            Source::Sqlite(sqlite) => {
                let raw: u64 = manifest
                    .members_in(&sqlite.folder)
                    .map(|m| m.raw_size)
                    .sum();
                if found(&sqlite.folder).0 != sqlite.parts || raw != sqlite.page_size * sqlite.pages
                {
                    let name = &sqlite.name;
                    return Err(
                        archive.bad(format!("is damaged: parts of database {name} are missing"))
                    );
                }
            }
            Source::Physical(physical) => pgdata::check_structure(archive, physical)?,
            Source::Volume(volume) => {
                let members = parts::ordered(archive, &volume.folder, volume.parts)?;
                if members.iter().map(|m| m.raw_size).sum::<u64>() != volume.size {
                    let folder = &volume.folder;
                    return Err(archive.bad(format!("is damaged: {folder} has another size")));
                }
            }
            Source::Config(config) => {
                archive.member(&config.path)?;
            }
        }
    }
    Ok(())
}
