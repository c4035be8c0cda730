//! The folder of one cluster's write-ahead log.
//!
//! `SYSTEM/TIMELINE+LOG/SEGMENT.zst` for what is complete, `SEGMENT.partial` for what is being
//! received, `TIMELINE.history` as it is. A file appears under its name whole or not at all, and nothing
//! that has its name is ever written again.

use super::name::{self, Segment};
use super::scan::SegmentHeader;
use crate::adapters::fs::{self, Lock};
use crate::archive::{Codec, CodecSettings};
use crate::config::Compression;
use crate::error::{Context, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Segments are compressed while more of them wait: at the level that keeps up.
const LEVEL: i32 = 3;

/// What nobody writes any more.
const LEFTOVER: std::time::Duration = std::time::Duration::from_secs(3600);

/// The beginning of a segment says of which cluster it is and how long.
const FIRST_PAGE: u64 = 8 << 10;

/// What is known of the cluster: `cluster.json`.
const CLUSTER: &str = "cluster.json";

/// What is said to whoever finds it locked.
const RECEIVING: &str = "k1ops wal stream";

/// Of which cluster a store is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Cluster {
    /// Bytes in a segment.
    segment_size: u64,
    /// The stacks whose server it is or was.
    stacks: BTreeSet<String>,
}

/// What became of a file that was to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Put {
    /// It is there now.
    New,
    /// It was there already, with the same content.
    Same,
}

/// What a store holds, by name alone.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Complete segments, and the bytes that each takes.
    pub segments: BTreeMap<Segment, u64>,
    /// Segments of which a part is there.
    pub partial: BTreeSet<Segment>,
    /// Timelines whose history is there.
    pub histories: BTreeSet<u32>,
    /// Other files that a server archived, by their names.
    pub further: Vec<String>,
}

/// The write-ahead log of one cluster.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
    system: String,
    segment_size: u64,
}

impl Store {
    /// The store of the cluster `system` in a repository, made if it is not there.
    pub fn make(repository: &Path, system: &str, segment_size: u64, stack: &str) -> Result<Self> {
        check_system(system)?;
        let folder = repository.join(super::FOLDER).join(system);
        fs::create_private_folder(repository)?;
        fs::create_durable_folder(&repository.join(super::FOLDER))?;
        fs::create_durable_folder(&folder)?;
        let mut cluster = read_cluster(&folder)?.unwrap_or(Cluster {
            segment_size,
            stacks: BTreeSet::new(),
        });
        if cluster.segment_size != segment_size {
            return Err(Error::refused(format!(
                "{} holds segments of {} bytes, and the server writes {segment_size}",
                folder.display(),
                cluster.segment_size
            ))
            .hint("Move that folder away, and take a new physical backup."));
        }
        if cluster.stacks.insert(stack.to_owned()) {
            let text = serde_json::to_vec_pretty(&cluster).context(|| "a note cannot be made")?;
            fs::write_atomically(&folder.join(CLUSTER), &text)?;
        }
        Ok(Self {
            folder,
            system: system.to_owned(),
            segment_size,
        })
    }

    /// The store of the cluster `system`, if there is one.
    pub fn find(repository: &Path, system: &str) -> Result<Option<Self>> {
        check_system(system)?;
        let folder = repository.join(super::FOLDER).join(system);
        Ok(read_cluster(&folder)?.map(|cluster| Self {
            folder,
            system: system.to_owned(),
            segment_size: cluster.segment_size,
        }))
    }

    /// Every store of a repository; with a stack, those of its servers.
    pub fn all(repository: &Path, stack: Option<&str>) -> Result<Vec<Self>> {
        let mut stores = Vec::new();
        for name in fs::names_in(&repository.join(super::FOLDER))? {
            if check_system(&name).is_err() {
                continue;
            }
            let folder = repository.join(super::FOLDER).join(&name);
            if let Some(cluster) = read_cluster(&folder)?
                && stack.is_none_or(|stack| cluster.stacks.contains(stack))
            {
                stores.push(Self {
                    folder,
                    system: name,
                    segment_size: cluster.segment_size,
                });
            }
        }
        stores.sort_by(|a, b| a.system.cmp(&b.system));
        Ok(stores)
    }

    /// Where it is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The cluster's identifier.
    #[must_use]
    pub fn system(&self) -> &str {
        &self.system
    }

    /// Bytes in a segment.
    #[must_use]
    pub fn segment_size(&self) -> u64 {
        self.segment_size
    }

    /// The file name of a segment.
    #[must_use]
    pub fn name(&self, segment: Segment) -> String {
        segment.name(self.segment_size)
    }

    /// Removes what writers that died left half written an hour ago or earlier.
    pub(super) fn remove_leftovers(&self) -> Result<()> {
        fs::remove_half_written(&self.folder, LEFTOVER)?;
        for name in fs::names_in(&self.folder)? {
            fs::remove_half_written(&self.folder.join(name), LEFTOVER)?;
        }
        Ok(())
    }

    /// Becomes the only one who receives this cluster's log, if nobody does now.
    pub fn lock(&self) -> Result<Lock> {
        Lock::exclusive(&self.lock_file(), RECEIVING)
    }

    /// The same for whoever is to receive it for long.
    pub async fn lock_for_long(&self) -> Result<Lock> {
        Lock::exclusive_among_lookers(&self.lock_file(), RECEIVING).await
    }

    /// Whether a living process receives it.
    #[must_use]
    pub fn is_received(&self) -> bool {
        let look = Lock::shared(&self.lock_file());
        matches!(look, Err(error) if error.kind() == ErrorKind::Locked)
    }

    fn lock_file(&self) -> PathBuf {
        self.folder.join("stream.lock")
    }

    /// Everything that is there.
    pub fn list(&self) -> Result<Listing> {
        let mut listing = Listing::default();
        for name in fs::names_in(&self.folder)? {
            if name::is_history(&name) {
                listing
                    .histories
                    .extend(u32::from_str_radix(&name[..8], 16).ok());
            } else if name.len() == 16 {
                self.list_folder(&name, &mut listing)?;
            }
        }
        Ok(listing)
    }

    fn list_folder(&self, folder: &str, listing: &mut Listing) -> Result<()> {
        let folder = self.folder.join(folder);
        for name in fs::names_in(&folder)? {
            let segment = |name: &str| Segment::parse(name, self.segment_size);
            if let Some(stem) = name.strip_suffix(".zst") {
                if let Some(segment) = segment(stem) {
                    let bytes = std::fs::metadata(folder.join(&name)).map_or(0, |m| m.len());
                    listing.segments.insert(segment, bytes);
                } else if name::is_further(stem) {
                    listing.further.push(stem.to_owned());
                }
            } else if let Some(partial) = name.strip_suffix(".partial").and_then(segment) {
                listing.partial.insert(partial);
            }
        }
        Ok(())
    }

    /// Stores a file that a server names as it does: a segment, a history, or what else its
    /// `archive_command` is given. The same again is fine; something else under its name is refused.
    pub fn put(&self, name: &str, contents: &[u8]) -> Result<Put> {
        self.check(name, contents)?;
        let place = self.place(name)?;
        let codec = CodecSettings::of(Compression::Zstd, LEVEL);
        let compressed;
        let stored = if name::is_history(name) {
            contents
        } else {
            compressed = codec.compress(contents)?;
            &compressed
        };
        fs::create_durable_folder(place.parent().unwrap_or(&self.folder))?;
        if fs::write_new(&place, stored)? {
            return Ok(Put::New);
        }
        if self.read(name)?.as_deref() == Some(contents) {
            return Ok(Put::Same);
        }
        Err(Error::refused(format!(
            "{name} is in {} already, with other content",
            self.folder.display()
        ))
        .hint(
            "Two servers that were copies of one write to one repository: give each a repository of its own.",
        ))
    }

    /// Refuses what is not what its name says.
    fn check(&self, name: &str, contents: &[u8]) -> Result<()> {
        let Some(segment) = Segment::parse(name.get(..24).unwrap_or(name), self.segment_size)
            .filter(|_| !name.ends_with(".backup"))
        else {
            return Ok(());
        };
        let wrong = |what: &str| {
            Error::bad_data(format!("WAL segment {name} {what}"))
                .hint("Nothing was stored; the server's own log says what it was about to archive.")
        };
        if contents.len() as u64 != self.segment_size {
            return Err(wrong(&format!(
                "has {} bytes instead of {}",
                contents.len(),
                self.segment_size
            )));
        }
        SegmentHeader::check(contents, segment, self.segment_size, &self.system)
            .map_err(|what| wrong(&what))
    }

    /// A complete file, if it is there.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let place = self.place(name)?;
        let file = match std::fs::File::open(&place) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).context(|| format!("{} cannot be read", place.display()));
            }
        };
        let codec = if name::is_history(name) {
            Codec::None
        } else {
            Codec::Zstd
        };
        let mut contents = Vec::new();
        let most = self.segment_size + 1;
        codec
            .decoder(file)?
            .take(most)
            .read_to_end(&mut contents)
            .map_err(|error| {
                Error::bad_data(format!("{} is damaged", place.display())).because(error)
            })?;
        Ok(Some(contents))
    }

    /// A segment that is complete, and checked to be that segment.
    pub fn read_segment(&self, segment: Segment) -> Result<Option<Vec<u8>>> {
        self.fetch_whole(&self.name(segment))
    }

    /// What has been received of a segment.
    pub fn read_partial(&self, segment: Segment) -> Result<Option<Vec<u8>>> {
        fs::read_if_there(&self.partial(segment)?)
    }

    /// A file that a server asks for, if it is here in full.
    pub fn fetch_whole(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let contents = self.read(name)?;
        if let Some(contents) = &contents {
            self.check(name, contents)?;
        }
        Ok(contents)
    }

    /// What a server is given that asks for a file: of a segment that is still being received, what there
    /// is, and zeros.
    pub fn fetch(&self, name: &str) -> Result<Option<Vec<u8>>> {
        if let Some(contents) = self.fetch_whole(name)? {
            return Ok(Some(contents));
        }
        let Some(segment) = Segment::parse(name, self.segment_size) else {
            return Ok(None);
        };
        let Some(mut contents) = self.read_partial(segment)? else {
            // It may have been completed in between.
            return self.read_segment(segment);
        };
        contents.resize(usize::try_from(self.segment_size).unwrap_or(0), 0);
        if SegmentHeader::read(&contents).is_none() {
            return Ok(None);
        }
        self.check(name, &contents)?;
        Ok(Some(contents))
    }

    /// Where a file goes.
    pub fn place(&self, name: &str) -> Result<PathBuf> {
        if name::is_history(name) {
            return Ok(self.folder.join(name));
        }
        if Segment::parse(name, self.segment_size).is_none() && !name::is_further(name) {
            return Err(Error::usage(format!("{name:?} is no file of a write-ahead log"))
                .hint("Use %f and %p in archive_command and restore_command as the documentation shows."));
        }
        Ok(self.folder.join(&name[..16]).join(format!("{name}.zst")))
    }

    /// Where a segment is while it is received.
    pub fn partial(&self, segment: Segment) -> Result<PathBuf> {
        let place = self.place(&self.name(segment))?;
        Ok(place.with_extension("partial"))
    }
}

/// The identifier of the cluster whose data directory is `data`, as its control file has it.
pub fn system_of(data: &Path) -> Result<String> {
    let file = data.join("global").join("pg_control");
    let mut first = [0; 8];
    std::fs::File::open(&file)
        .and_then(|mut control| control.read_exact(&mut first))
        .map_err(|error| {
            Error::missing(format!("{} cannot be read", file.display()))
                .because(error)
                .hint("Run it in the data directory, as the server does, or say --system.")
        })?;
    Ok(u64::from_le_bytes(first).to_string())
}

fn check_system(system: &str) -> Result<()> {
    if !system.is_empty() && system.len() <= 20 && system.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(());
    }
    Err(Error::usage(format!(
        "{system:?} is no identifier of a PostgreSQL cluster"
    )))
}

fn read_cluster(folder: &Path) -> Result<Option<Cluster>> {
    let file = folder.join(CLUSTER);
    let Some(text) = fs::read_if_there(&file)? else {
        return Ok(None);
    };
    let bad = || Error::bad_data(format!("{} is not what was written", file.display()));
    let cluster: Cluster = serde_json::from_slice(&text).map_err(|e| bad().because(e))?;
    let size = cluster.segment_size;
    if !size.is_power_of_two() || !(1 << 20..=1 << 30).contains(&size) {
        return Err(bad());
    }
    Ok(Some(cluster))
}

/// Stores what a server's `archive_command` names: the file `name` at `path`.
pub fn push(
    repository: &Path,
    stack: &str,
    path: &Path,
    name: &str,
    contents: &[u8],
) -> Result<Put> {
    let header =
        SegmentHeader::read(contents).filter(|_| name::is_name(name.get(..24).unwrap_or(name)));
    let store = if let Some(header) = header {
        Store::make(repository, &header.system.to_string(), header.size, stack)?
    } else {
        // A history or a note does not say whose it is, but lies in pg_wal of the data directory.
        let folder = path.parent().unwrap_or(Path::new(""));
        let data = folder.parent();
        let system = system_of(
            data.filter(|d| !d.as_os_str().is_empty())
                .unwrap_or(Path::new(".")),
        )?;
        if let Some(store) = Store::find(repository, &system)? {
            store
        } else {
            // A server that was promoted sends the history of its timeline before any segment.
            let size = segment_size_in(folder, &system)?;
            let size = size.ok_or_else(|| no_segment(&system, folder))?;
            Store::make(repository, &system, size, stack)?
        }
    };
    store.put(name, contents)
}

/// The size of the cluster's segments, as any of them says that is in `folder`.
fn segment_size_in(folder: &Path, system: &str) -> Result<Option<u64>> {
    for name in fs::names_in(folder)? {
        if !name::is_name(&name) {
            continue;
        }
        let mut page = Vec::new();
        // The server may have renamed or removed it since.
        let read = std::fs::File::open(folder.join(&name))
            .and_then(|file| file.take(FIRST_PAGE).read_to_end(&mut page));
        // One that is kept for what comes next holds nothing yet, or what was in it before.
        if read.is_ok()
            && let Some(header) = SegmentHeader::read(&page)
            && header.system.to_string() == system
        {
            return Ok(Some(header.size));
        }
    }
    Ok(None)
}

fn no_segment(system: &str, folder: &Path) -> Error {
    Error::missing(format!(
        "no WAL segment of cluster {system} is in the repository yet, nor in {}",
        folder.display()
    ))
    .hint("Name the file where it lies in the server's pg_wal, as %p does; the server tries this again.")
}
