//! What a repository stands on: names with bytes behind them, and one writer at a time.
//!
//! There are two: a folder of this host, and a folder in an object store. `tests/repository` runs one
//! contract over both.

use crate::adapters::storage::{ReadAt, Sink};
use crate::error::Result;
use chrono::{DateTime, Utc};
use std::any::Any;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

/// A file that looks like an archive, or like one that is not finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its name; that of an unfinished one ends with [`crate::archive::PARTIAL_SUFFIX`].
    pub name: String,
    /// Its size in bytes, as far as that is known.
    pub size: u64,
}

/// Held while notes are changed, or while there is one writer.
pub(super) type Guard = Box<dyn Any + Send + Sync>;

/// Becomes a guard, or fails with [`crate::error::ErrorKind::Locked`].
pub(super) type Granted<'a> = Pin<Box<dyn Future<Output = Result<Arc<dyn Writing>>> + Send + 'a>>;

/// The right to write.
pub(super) trait Writing: std::fmt::Debug + Send + Sync {
    /// Fails if the right was lost meanwhile.
    fn check(&self) -> Result<()>;
}

/// Names with bytes behind them.
pub(super) trait Shelf: std::fmt::Debug + Send + Sync {
    /// Where it is: a folder, or an address that is written like one.
    fn place(&self) -> &Path;

    /// What looks like an archive, in no order.
    fn items(&self) -> Result<Vec<Item>>;

    /// Whether there is an archive of this name.
    fn has(&self, name: &str) -> Result<bool>;

    /// The bytes of an archive and how many there are.
    fn open(&self, name: &str) -> Result<(Arc<dyn ReadAt>, u64)>;

    /// Begins an archive, which takes its name when it is published.
    fn begin(&self, name: &str, replaces: bool) -> Result<Box<dyn Sink>>;

    /// Bytes that are free for archives, where that can be known.
    fn free_space(&self) -> Result<Option<u64>>;

    /// Until when an archive can't be removed, if that is so.
    fn locked_until(&self, name: &str) -> Result<Option<DateTime<Utc>>>;

    /// Removes an archive.
    fn remove(&self, name: &str) -> Result<()>;

    /// Makes removals durable.
    fn settle(&self) -> Result<()>;

    /// The names of the files in a folder beside the archives, which need not be there.
    fn files(&self, folder: &str) -> Result<Vec<String>>;

    /// A small file beside the archives.
    fn note(&self, name: &str) -> Result<Option<Vec<u8>>>;

    /// Writes a small file so that readers see the old one or the new one.
    fn write_note(&self, name: &str, content: &[u8]) -> Result<()>;

    /// Removes a small file.
    fn remove_note(&self, name: &str) -> Result<()>;

    /// Keeps others from changing notes.
    fn lock_notes(&self) -> Result<Guard>;

    /// Becomes the only writer.
    fn write_access<'a>(&'a self, purpose: &'a str) -> Granted<'a>;

    /// Whether somebody is writing.
    fn has_writer(&self) -> bool;

    /// Removes what writers that died left, and answers the names. There is no other writer.
    fn remove_leftovers(&self) -> Result<Vec<String>>;
}
