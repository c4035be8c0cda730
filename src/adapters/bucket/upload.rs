//! A new object that is written while its bytes come, in parts, with a bounded number of them in
//! memory and under way. Until the last call it cannot be seen, whatever happens to this process.

use super::connect::Parts;
use super::{Bucket, runtime, wait};
use crate::adapters::storage::Sink;
use crate::error::{Context, Error, Result};
use object_store::multipart::PartId;
use object_store::{MultipartId, PutMode, PutPayload};
use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Parts under way at the same time.
const UNDER_WAY: usize = 4;

/// The first parts' size. Every store takes parts of at least 5 MiB, and no more than 10,000.
const PART: usize = 8 << 20;

/// After so many parts they grow, so that 10,000 are enough: for 80 GiB with parts of one size, which
/// some stores insist on, and for 580 GiB in all.
const GROWS_AFTER: [(usize, usize); 2] = [(6_000, 64 << 20), (2_000, 16 << 20)];

/// How long a part that is under way is given to arrive, once the upload is given up.
const LAST_PART: Duration = Duration::from_secs(10);

type Sent = JoinHandle<object_store::Result<PartId>>;

/// A new object while it is written.
#[derive(Debug)]
pub struct Upload {
    bucket: Bucket,
    store: Arc<dyn Parts>,
    name: String,
    replaces: bool,
    /// Begun with the first full part: what is smaller goes in one request.
    id: Option<MultipartId>,
    buffer: Vec<u8>,
    next: usize,
    under_way: VecDeque<Sent>,
    parts: Vec<PartId>,
    is_over: bool,
}

impl Upload {
    /// Begins an object of this name in the folder, which takes the place of the one that has it or must
    /// find it free.
    pub(super) fn begin_object(
        bucket: &Bucket,
        store: Arc<dyn Parts>,
        name: &str,
        replaces: bool,
    ) -> Self {
        Self {
            bucket: bucket.clone(),
            store,
            name: name.to_owned(),
            replaces,
            id: None,
            buffer: Vec::new(),
            next: 0,
            under_way: VecDeque::new(),
            parts: Vec::new(),
            is_over: false,
        }
    }

    fn part_size(&self) -> usize {
        let grown = GROWS_AFTER.iter().find(|(after, _)| self.next >= *after);
        grown.map_or(PART, |(_, size)| *size)
    }

    fn begin(&mut self) -> Result<MultipartId> {
        if let Some(id) = &self.id {
            return Ok(id.clone());
        }
        let (store, key) = (self.store.clone(), self.bucket.key(&self.name));
        let id = wait(async move { store.create_multipart(&key).await })?
            .map_err(|error| self.explain(&error))?;
        self.id = Some(id.clone());
        Ok(id)
    }

    /// Hands the buffer over, and waits while too much is under way.
    fn send(&mut self) -> Result<()> {
        let id = self.begin()?;
        while self.under_way.len() >= UNDER_WAY {
            self.settle_one()?;
        }
        let (store, key) = (self.store.clone(), self.bucket.key(&self.name));
        let payload = PutPayload::from(std::mem::take(&mut self.buffer));
        let number = self.next;
        self.next += 1;
        self.under_way.push_back(
            runtime()?.spawn(async move { store.put_part(&key, &id, number, payload).await }),
        );
        Ok(())
    }

    fn settle_one(&mut self) -> Result<()> {
        let Some(sent) = self.under_way.pop_front() else {
            return Ok(());
        };
        let part = wait(sent)?
            .context(|| "the upload of a part died")?
            .map_err(|error| self.explain(&error))?;
        self.parts.push(part);
        Ok(())
    }

    fn complete(&mut self) -> Result<()> {
        let Some(id) = self.id.clone() else {
            let content = std::mem::take(&mut self.buffer);
            let mode = if self.replaces {
                PutMode::Overwrite
            } else {
                PutMode::Create
            };
            let put = self.bucket.put(&self.name, &content, mode);
            return put.map(|_| ()).map_err(|error| self.explain(&error));
        };
        if !self.buffer.is_empty() {
            self.send()?;
        }
        while !self.under_way.is_empty() {
            self.settle_one()?;
        }
        if !self.replaces {
            self.bucket.require_free(&self.name)?;
        }
        let (store, key) = (self.store.clone(), self.bucket.key(&self.name));
        let parts = std::mem::take(&mut self.parts);
        wait(async move { store.complete_multipart(&key, &id, parts).await })?
            .map_err(|error| self.explain(&error))?;
        Ok(())
    }

    fn explain(&self, error: &object_store::Error) -> Error {
        self.bucket
            .explain_object(&self.name, "cannot be written", error)
    }
}

impl Write for Upload {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let size = self.part_size();
        if self.buffer.capacity() == 0 {
            self.buffer.reserve_exact(size);
        }
        let taken = buffer.len().min(size - self.buffer.len());
        self.buffer.extend_from_slice(&buffer[..taken]);
        if self.buffer.len() == size {
            self.send().map_err(std::io::Error::other)?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Sink for Upload {
    fn publish(mut self: Box<Self>) -> Result<()> {
        let completed = self.complete();
        self.is_over = completed.is_ok();
        completed
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // A part that arrives after the upload was removed may bring it back to life.
        for sent in self.under_way.drain(..) {
            let late = sent.abort_handle();
            if !wait(async { timeout(LAST_PART, sent).await.is_ok() }).unwrap_or_default() {
                late.abort();
            }
        }
        let Some(id) = self.id.take().filter(|_| !self.is_over) else {
            return;
        };
        let (store, key) = (self.store.clone(), self.bucket.key(&self.name));
        // What cannot be removed now is removed by whoever writes next.
        let _ = wait(async move { store.abort_multipart(&key, &id).await });
    }
}
