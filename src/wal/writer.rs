//! The segment that is being received: bytes as they come, on disk before anybody is told of them.

use super::name::Segment;
use super::store::{Put, Store};
use crate::adapters::fs;
use crate::error::{Context, Error, Result};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

/// Writes one segment.
#[derive(Debug)]
pub(super) struct SegmentWriter<'a> {
    store: &'a Store,
    segment: Segment,
    place: PathBuf,
    file: File,
    written: u64,
    synced: u64,
}

impl<'a> SegmentWriter<'a> {
    /// Begins a segment from its beginning. What an earlier process received of it stays until the same
    /// bytes are written over it.
    pub(super) fn begin(store: &'a Store, segment: Segment) -> Result<Self> {
        let place = store.partial(segment)?;
        let folder = place.parent().unwrap_or(store.folder());
        fs::create_durable_folder(folder)?;
        let file = OpenOptions::new()
            .write(true)
            .read(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&place)
            .context(|| format!("{} cannot be written", place.display()))?;
        fs::sync_folder(folder)?;
        Ok(Self {
            store,
            segment,
            place,
            file,
            written: 0,
            synced: 0,
        })
    }

    /// Where the next byte belongs.
    pub(super) fn position(&self) -> u64 {
        self.segment.start(self.store.segment_size()) + self.written
    }

    /// Up to where everything is on disk.
    pub(super) fn synced(&self) -> u64 {
        self.segment.start(self.store.segment_size()) + self.synced
    }

    /// How many bytes the segment can still take.
    pub(super) fn room(&self) -> u64 {
        self.store.segment_size() - self.written
    }

    /// Adds bytes, of which there are no more than there is room for.
    pub(super) fn add(&mut self, bytes: &[u8]) -> Result<()> {
        let result = self.file.write_all_at(bytes, self.written);
        result.map_err(|error| self.cannot(error))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn sync(&mut self) -> Result<()> {
        if self.synced < self.written {
            self.file.sync_data().map_err(|error| self.cannot(error))?;
            self.synced = self.written;
        }
        Ok(())
    }

    /// Gives the segment its name, compressed, and answers the one that follows.
    pub(super) fn complete(self) -> Result<(Segment, Put)> {
        let mut contents = vec![0; usize::try_from(self.written).unwrap_or(0)];
        let read = self.file.read_exact_at(&mut contents, 0);
        read.map_err(|error| self.cannot(error))?;
        let put = self.store.put(&self.store.name(self.segment), &contents)?;
        fs::remove_if_there(&self.place)?;
        Ok((self.segment.next(), put))
    }

    fn cannot(&self, error: std::io::Error) -> Error {
        let error_of = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Error::missing(
                format!("no space is left for {}", self.place.display()),
            )
            .hint("Free some space; until then the server keeps its write-ahead log for the slot."),
            _ => Error::failed(format!("{} cannot be written", self.place.display())),
        };
        error_of.because(error)
    }
}
