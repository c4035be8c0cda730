//! A folder in an object store. An archive that is not finished is an upload that nobody can read, or,
//! on a `WebDAV` server, a file of another name.

use super::is_archive;
use super::shelf::{Granted, Guard, Item, Shelf, Writing};
use crate::adapters::bucket::{Bucket, Lease, Settings};
use crate::adapters::storage::{ReadAt, Sink};
use crate::archive::PARTIAL_SUFFIX;
use crate::error::Result;
use chrono::{DateTime, Utc};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The name of the lease that a writer holds.
const LOCK: &str = ".lock";

#[derive(Debug)]
pub(super) struct Elsewhere {
    bucket: Bucket,
    /// Its address, written as a path.
    place: PathBuf,
}

impl Elsewhere {
    pub(super) fn open(settings: &Settings) -> Result<Self> {
        let bucket = Bucket::open(settings)?;
        let place = PathBuf::from(bucket.address());
        Ok(Self { bucket, place })
    }
}

impl Writing for Lease {
    fn check(&self) -> Result<()> {
        Self::check(self)
    }
}

impl Shelf for Elsewhere {
    fn place(&self) -> &Path {
        &self.place
    }

    fn items(&self) -> Result<Vec<Item>> {
        let objects = self.bucket.list()?.into_iter().map(|object| Item {
            name: object.name,
            size: object.size,
        });
        let unfinished = self.bucket.unfinished()?.into_iter().map(|upload| Item {
            name: format!("{}{PARTIAL_SUFFIX}", upload.name),
            size: 0,
        });
        let looks_like_one =
            |item: &Item| is_archive(item.name.strip_suffix(PARTIAL_SUFFIX).unwrap_or(&item.name));
        Ok(objects.chain(unfinished).filter(looks_like_one).collect())
    }

    fn has(&self, name: &str) -> Result<bool> {
        Ok(self.bucket.head(name)?.is_some())
    }

    fn open(&self, name: &str) -> Result<(Arc<dyn ReadAt>, u64)> {
        let object = self.bucket.open_object(name)?;
        let size = object.size();
        Ok((Arc::new(object), size))
    }

    fn begin(&self, name: &str, replaces: bool) -> Result<Box<dyn Sink>> {
        let partial = format!("{name}{PARTIAL_SUFFIX}");
        self.bucket.begin(name, partial, replaces)
    }

    fn free_space(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    fn locked_until(&self, name: &str) -> Result<Option<DateTime<Utc>>> {
        self.bucket.locked_until(name)
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.bucket.remove(name)
    }

    /// A store answers when it is done.
    fn settle(&self) -> Result<()> {
        Ok(())
    }

    fn files(&self, folder: &str) -> Result<Vec<String>> {
        let objects = self.bucket.list_in(folder)?.into_iter();
        Ok(objects.map(|object| object.name).collect())
    }

    fn note(&self, name: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.bucket.read(name)?.map(Into::into))
    }

    fn write_note(&self, name: &str, content: &[u8]) -> Result<()> {
        self.bucket.write(name, content)
    }

    fn remove_note(&self, name: &str) -> Result<()> {
        self.bucket.remove(name)
    }

    /// Of two that note something about one archive at the same time the last one stays. What the
    /// other found out has to be found out again, and nothing is believed that was not.
    fn lock_notes(&self) -> Result<Guard> {
        Ok(Box::new(()))
    }

    fn write_access<'a>(&'a self, purpose: &'a str) -> Granted<'a> {
        Box::pin(async move {
            let lease = self.bucket.lease(LOCK, purpose).await?;
            Ok(Arc::new(lease) as Arc<dyn Writing>)
        })
    }

    fn has_writer(&self) -> bool {
        self.bucket.is_leased(LOCK).unwrap_or_default()
    }

    fn remove_leftovers(&self) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        for object in self.bucket.list()? {
            let unfinished = object.name.strip_suffix(PARTIAL_SUFFIX);
            if unfinished.is_some_and(is_archive) {
                self.bucket.remove(&object.name)?;
                removed.push(object.name);
            }
        }
        for upload in self.bucket.unfinished()? {
            if is_archive(&upload.name) {
                self.bucket.abandon(&upload)?;
                removed.push(format!("{}{PARTIAL_SUFFIX}", upload.name));
            }
        }
        Ok(removed)
    }
}
