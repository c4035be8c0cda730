//! The write-ahead log where the repository is elsewhere. It is received on this host, sent on from here as it
//! comes in, and fetched back to a host that does not have it.
//!
//! There it lies flat below `wal/SYSTEM/`, and encrypted if archives are: `SEGMENT.zst`, `SEGMENT.partial.zst` for
//! the one that is being received, `TIMELINE.history`, and the notes. What a segment holds is not known here.

use super::sealing::Sealed;
use super::shelf::Shelf;
use super::{LogVerdict, Repository};
use crate::adapters::fs::{self, Lock};
use crate::archive::{Codec, CodecSettings};
use crate::config::Compression;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::wal::{FOLDER, Listing, Note, Segment, Store, note};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_64;

/// How long is believed what was seen there: whatever was deleted meanwhile is sent again.
const BELIEVED: Duration = Duration::from_secs(3600);

/// The note that a store is known by.
const CLUSTER: &str = "cluster.json";

/// The note of how far the log was received.
const STREAM: &str = "stream.json";

/// The notes that go along.
const NOTES: [&str; 2] = [CLUSTER, STREAM];

/// The end of the name of what is encrypted.
pub(super) const SEALED: &str = ".age";

/// The end of the name of a segment that is being received.
const PARTIAL: &str = ".partial.zst";

/// The log in a repository that is elsewhere.
#[derive(Debug)]
pub struct LogElsewhere {
    shelf: Arc<dyn Shelf>,
    sealing: Sealed,
    /// Where it is on this host.
    here: PathBuf,
    sent: BTreeMap<String, Sent>,
}

/// What is there of a cluster's log, and since when that is known.
#[derive(Debug)]
struct Sent {
    names: BTreeSet<String>,
    /// What changes, as it was sent last.
    digests: BTreeMap<String, u64>,
    seen: Instant,
}

impl Repository {
    /// The log of the stack's servers, where the repository is not a folder of this host, which has it anyway.
    pub fn log_elsewhere(&self) -> Result<Option<LogElsewhere>> {
        if !self.is_elsewhere() {
            return Ok(None);
        }
        if self.sealing.seals_by_passphrase() {
            return Err(Error::refused(format!(
                "the write-ahead log is not sent to {} encrypted by a passphrase",
                self.place().display()
            ))
            .hint(
                "Each piece would cost a second of work: encrypt for keys, with encryption.recipients.",
            ));
        }
        Ok(Some(LogElsewhere {
            shelf: self.shelf.clone(),
            sealing: self.sealing.clone(),
            here: self.log_folder().to_path_buf(),
            sent: BTreeMap::new(),
        }))
    }
}

impl LogElsewhere {
    /// Where it goes.
    #[must_use]
    pub fn place(&self) -> &Path {
        self.shelf.place()
    }

    /// Sends what is here and not there, of each server of a stack; answers how many files went.
    pub fn send(&mut self, stack: &str) -> Result<usize> {
        let mut count = 0;
        for store in Store::all(&self.here, Some(stack))? {
            count += self.send_store(&store)?;
        }
        Ok(count)
    }

    fn send_store(&mut self, store: &Store) -> Result<usize> {
        let system = store.system().to_owned();
        let known = self.sent.remove(&system);
        let mut sent = match known.filter(|sent| sent.seen.elapsed() < BELIEVED) {
            Some(sent) => sent,
            None => Sent {
                names: self.shelf.files(&folder_of(&system))?.into_iter().collect(),
                digests: BTreeMap::new(),
                seen: Instant::now(),
            },
        };
        // What the notes say holds of what is read after them.
        let until = note::received_until(store)?;
        let notes = NOTES.map(|name| (name, std::fs::read(store.folder().join(name)).ok()));
        let listing = store.list()?;
        let mut count = 0;
        for (name, place) in whole_files(store, &listing)? {
            if !sent.names.contains(&self.stored_name(&name)) {
                let content = std::fs::read(&place);
                let content = content.context(|| format!("{} cannot be read", place.display()))?;
                count += self.put(&mut sent, &system, &name, &content)?;
            }
        }
        let mut changing: Vec<(String, Vec<u8>)> = Vec::new();
        if let Some(segment) = listing.partial.last()
            && let Some(content) = store.read_partial(*segment)?
        {
            changing.push((format!("{}{PARTIAL}", store.name(*segment)), content));
        }
        for (name, content) in notes {
            changing.extend(content.map(|content| (name.to_owned(), content)));
        }
        for (name, content) in changing {
            let digest = xxh3_64(&content);
            if sent.digests.get(&name) != Some(&digest) {
                let content = if name.ends_with(PARTIAL) {
                    CodecSettings::of(Compression::Zstd, 1).compress(&content)?
                } else {
                    content
                };
                count += self.put(&mut sent, &system, &name, &content)?;
                sent.digests.insert(name, digest);
            }
        }
        self.forget_partial(&mut sent, store, &listing.partial)?;
        if let Some(until) = until {
            note::write_elsewhere(store, until)?;
        }
        self.sent.insert(system, sent);
        Ok(count)
    }

    fn put(&self, sent: &mut Sent, system: &str, name: &str, content: &[u8]) -> Result<usize> {
        let stored = self.stored_name(name);
        let content = self.sealing.seal(content)?;
        self.shelf
            .write_note(&format!("{}/{stored}", folder_of(system)), &content)?;
        sent.names.insert(stored);
        Ok(1)
    }

    /// Removes there what is complete by now.
    fn forget_partial(
        &self,
        sent: &mut Sent,
        store: &Store,
        partial: &BTreeSet<Segment>,
    ) -> Result<()> {
        let kept: Vec<String> = partial
            .iter()
            .map(|segment| self.stored_name(&format!("{}{PARTIAL}", store.name(*segment))))
            .collect();
        let is_over = |name: &&String| {
            let plain = name.strip_suffix(SEALED).unwrap_or(name);
            let segment = plain.strip_suffix(PARTIAL);
            segment.is_some_and(|segment| {
                !kept.contains(name)
                    && sent
                        .names
                        .contains(&self.stored_name(&format!("{segment}.zst")))
            })
        };
        let over: Vec<String> = sent.names.iter().filter(is_over).cloned().collect();
        for name in over {
            self.shelf
                .remove_note(&format!("{}/{name}", folder_of(store.system())))?;
            sent.names.remove(&name);
        }
        Ok(())
    }

    /// Fetches what is there of a cluster's log and not here, from a position on; answers how many files came.
    pub fn fetch(&self, system: &str, from: u64) -> Result<usize> {
        let names = || self.shelf.files(&folder_of(system));
        // What the note says holds of what is read after it.
        let note = self.read_if_there(&names()?, system, STREAM)?;
        let count = self.fetch_of(&names()?, system, from)?;
        if let (Some(note), Some(store)) = (note, Store::find(&self.here, system)?) {
            return Ok(count + usize::from(take_note(&store, &note)?));
        }
        Ok(count)
    }

    /// The same of what is known to be there, but for how far it was received.
    fn fetch_of(&self, names: &[String], system: &str, from: u64) -> Result<usize> {
        let folder = self.here.join(FOLDER).join(system);
        let place = folder.join(CLUSTER);
        let mut count = 0;
        if !place.exists()
            && let Some(note) = self.read_if_there(names, system, CLUSTER)?
        {
            fs::create_private_folder(&self.here)?;
            fs::create_durable_folder(&self.here.join(FOLDER))?;
            fs::create_durable_folder(&folder)?;
            fs::write_atomically(&place, &note)?;
            count += 1;
        }
        let Some(store) = Store::find(&self.here, system)? else {
            return Ok(count);
        };
        for name in names {
            let name = name.strip_suffix(SEALED).unwrap_or(name);
            let segment = name.get(..24);
            let segment = segment.and_then(|name| Segment::parse(name, store.segment_size()));
            let is_before = |segment: Segment| {
                segment.start(store.segment_size()) + store.segment_size() <= from
            };
            if !segment.is_some_and(is_before) {
                count += usize::from(self.fetch_into(names, &store, name)?);
            }
        }
        Ok(count)
    }

    /// Brings one file, unless it is here; answers whether it came.
    fn fetch_into(&self, names: &[String], store: &Store, name: &str) -> Result<bool> {
        if let Some(segment) = name.strip_suffix(PARTIAL) {
            return self.fetch_partial(names, store, name, segment);
        }
        let Ok(place) = store.place(name.strip_suffix(".zst").unwrap_or(name)) else {
            // Nothing of ours.
            return Ok(false);
        };
        if place.exists() {
            return Ok(false);
        }
        let content = self.read(names, store.system(), name)?;
        fs::create_durable_folder(place.parent().unwrap_or(store.folder()))?;
        fs::write_atomically(&place, &content)?;
        Ok(true)
    }

    /// Brings what there is of a segment that is being received, if more of it is there than here.
    fn fetch_partial(
        &self,
        names: &[String],
        store: &Store,
        name: &str,
        segment: &str,
    ) -> Result<bool> {
        let Some(parsed) = Segment::parse(segment, store.segment_size()) else {
            return Ok(false);
        };
        if store.place(segment)?.exists() {
            return Ok(false);
        }
        let content = self.read(names, store.system(), name)?;
        let content = unpacked(&content, store.segment_size())?;
        let place = store.partial(parsed)?;
        fs::create_durable_folder(place.parent().unwrap_or(store.folder()))?;
        let Some(_lock) = alone(store)? else {
            return Ok(false);
        };
        let here = store.read_partial(parsed)?;
        if here.is_some_and(|here| here.len() >= content.len()) {
            return Ok(false);
        }
        fs::write_atomically(&place, &content)?;
        Ok(true)
    }

    /// Fetches a single file that a server asks for, as far as it is there.
    pub fn fetch_file(&self, system: &str, name: &str) -> Result<Option<Vec<u8>>> {
        let names = self.shelf.files(&folder_of(system))?;
        self.fetch_of(&names, system, u64::MAX)?;
        let Some(store) = Store::find(&self.here, system)? else {
            return Ok(None);
        };
        for candidate in [format!("{name}.zst"), format!("{name}{PARTIAL}")] {
            if names.contains(&self.stored_name(&candidate)) {
                self.fetch_into(&names, &store, &candidate)?;
                break;
            }
        }
        store.fetch(name)
    }

    /// Removes there what no backup needs, before it is removed here.
    pub(super) fn prune(&self, verdicts: &[LogVerdict]) -> Result<()> {
        for verdict in verdicts {
            let (Some(number), Some(store)) = (
                verdict.needed_from,
                Store::find(&self.here, &verdict.system)?,
            ) else {
                continue;
            };
            let folder = folder_of(&verdict.system);
            for name in self.shelf.files(&folder)? {
                let segment = name.get(..24);
                let segment = segment.and_then(|name| Segment::parse(name, store.segment_size()));
                if segment.is_some_and(|segment| segment.number < number) {
                    self.shelf.remove_note(&format!("{folder}/{name}"))?;
                }
            }
        }
        Ok(())
    }

    fn read_if_there(&self, names: &[String], system: &str, name: &str) -> Result<Option<Vec<u8>>> {
        let is_there = |wanted: &str| names.iter().any(|name| name == wanted);
        if is_there(name) || is_there(&format!("{name}{SEALED}")) {
            return self.read(names, system, name).map(Some);
        }
        Ok(None)
    }

    fn read(&self, names: &[String], system: &str, name: &str) -> Result<Vec<u8>> {
        let folder = folder_of(system);
        let sealed = format!("{name}{SEALED}");
        let is_sealed = names.contains(&sealed);
        let stored = format!("{folder}/{}", if is_sealed { &sealed } else { name });
        let (bytes, size) = self.shelf.open(&stored)?;
        let place = self.shelf.place().join(&stored);
        self.sealing.unseal(&place, bytes, size)
    }

    fn stored_name(&self, name: &str) -> String {
        if self.sealing.seals() {
            format!("{name}{SEALED}")
        } else {
            name.to_owned()
        }
    }
}

/// Keeps whoever receives the log here away; none if somebody does now, who has all that is there and writes to
/// what would be replaced.
fn alone(store: &Store) -> Result<Option<Lock>> {
    match store.lock() {
        Ok(lock) => Ok(Some(lock)),
        Err(error) if error.kind() == ErrorKind::Locked => Ok(None),
        Err(error) => Err(error),
    }
}

/// Takes a note of how far the log was received, if that is further than is known here.
fn take_note(store: &Store, text: &[u8]) -> Result<bool> {
    let Ok(note) = serde_json::from_slice::<Note>(text) else {
        return Ok(false);
    };
    let Some(_lock) = alone(store)? else {
        return Ok(false);
    };
    if Note::read(store).is_some_and(|here| !note.is_beyond(&here)) {
        return Ok(false);
    }
    fs::write_atomically(&store.folder().join(STREAM), text)?;
    Ok(true)
}

pub(super) fn folder_of(system: &str) -> String {
    format!("{FOLDER}/{system}")
}

/// What never changes, by the name that it has there, and where it is here.
fn whole_files(store: &Store, listing: &Listing) -> Result<Vec<(String, PathBuf)>> {
    let segments = listing.segments.keys().map(|segment| store.name(*segment));
    let compressed = segments.chain(listing.further.iter().cloned());
    let histories = listing.histories.iter();
    let histories = histories.map(|timeline| format!("{timeline:08X}.history"));
    let mut files = Vec::new();
    for name in histories {
        files.push((name.clone(), store.place(&name)?));
    }
    for name in compressed {
        files.push((format!("{name}.zst"), store.place(&name)?));
    }
    Ok(files)
}

/// At most a segment.
fn unpacked(stored: &[u8], segment_size: u64) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let decoder = Codec::Zstd.decoder(stored)?;
    decoder
        .take(segment_size)
        .read_to_end(&mut content)
        .context(|| "a piece of the write-ahead log is not what was sent")?;
    Ok(content)
}
