//! A new file on a server without uploads in parts that is written while its bytes come, beside its place.
//!
//! The name that it has meanwhile says that it is not finished, for whoever looks, and for whoever writes next
//! and removes what a run that was killed has left.

use super::streams::Streams;
use super::{Bucket, runtime, wait};
use crate::adapters::storage::Sink;
use crate::error::{Context, Error, Result};
use bytes::Bytes;
use futures_util::StreamExt;
use object_store::PutMode;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How much is sent at a time.
const PIECE: usize = 1 << 20;

/// How long a server may take nothing of an upload, or not answer its end.
const STALLED: Duration = Duration::from_secs(120);

/// Pieces that wait to be sent.
const WAITING: usize = 4;

/// A new file while it is written.
#[derive(Debug)]
pub(super) struct Streamed {
    bucket: Bucket,
    server: Arc<dyn Streams>,
    name: String,
    partial: String,
    replaces: bool,
    buffer: Vec<u8>,
    pieces: Option<mpsc::Sender<Bytes>>,
    sending: Option<JoinHandle<object_store::Result<()>>>,
    is_over: bool,
}

impl Streamed {
    pub(super) fn begin(
        bucket: &Bucket,
        server: Arc<dyn Streams>,
        name: &str,
        partial: String,
        replaces: bool,
    ) -> Result<Self> {
        let (pieces, waiting) = mpsc::channel(WAITING);
        let key = bucket.key(&partial);
        let sender = server.clone();
        let sending = runtime()?.spawn(async move {
            sender.make_folder(&key).await?;
            let pieces = futures_util::stream::unfold(waiting, |mut waiting| async move {
                let piece = waiting.recv().await?;
                Some((piece, waiting))
            });
            sender.send_stream(&key, pieces.boxed()).await
        });
        Ok(Self {
            bucket: bucket.clone(),
            server,
            name: name.to_owned(),
            partial,
            replaces,
            buffer: Vec::with_capacity(PIECE),
            pieces: Some(pieces),
            sending: Some(sending),
            is_over: false,
        })
    }

    /// Hands the buffer over, and waits while too much is under way.
    fn pass_on(&mut self) -> Result<()> {
        let piece = Bytes::from(std::mem::replace(
            &mut self.buffer,
            Vec::with_capacity(PIECE),
        ));
        let pieces = self.pieces.clone();
        let taken = wait(async move {
            match pieces {
                Some(pieces) => timeout(STALLED, pieces.send(piece))
                    .await
                    .is_ok_and(|s| s.is_ok()),
                None => false,
            }
        })?;
        if taken {
            return Ok(());
        }
        // The request has ended before its body: its answer says why.
        self.end()?;
        Err(Error::failed(format!(
            "the server did not take all of {}",
            self.bucket.address_of(&self.name)
        )))
    }

    /// Says that nothing more comes, and waits for the answer.
    fn end(&mut self) -> Result<()> {
        self.pieces = None;
        let Some(sending) = self.sending.take() else {
            return Ok(());
        };
        let late = sending.abort_handle();
        let Ok(answer) = wait(async { timeout(STALLED, sending).await })? else {
            late.abort();
            let address = self.bucket.address_of(&self.name);
            return Err(Error::failed(format!("the server does not take {address}"))
                .hint("Look whether the server has room and is well, and try again."));
        };
        answer
            .context(|| "the upload died")?
            .map_err(|error| self.explain(&error))
    }

    fn complete(&mut self) -> Result<()> {
        if !self.buffer.is_empty() {
            self.pass_on()?;
        }
        self.end()?;
        let (from, to) = (self.bucket.key(&self.partial), self.bucket.key(&self.name));
        let mode = if self.replaces {
            PutMode::Overwrite
        } else {
            PutMode::Create
        };
        let server = self.server.clone();
        wait(async move { server.put_in_place(&from, &to, &mode).await })?
            .map_err(|error| self.explain(&error))
    }

    fn explain(&self, error: &object_store::Error) -> Error {
        self.bucket
            .explain_object(&self.name, "cannot be written", error)
    }
}

impl Write for Streamed {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let taken = buffer.len().min(PIECE - self.buffer.len());
        self.buffer.extend_from_slice(&buffer[..taken]);
        if self.buffer.len() == PIECE {
            self.pass_on().map_err(std::io::Error::other)?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Sink for Streamed {
    fn publish(mut self: Box<Self>) -> Result<()> {
        let completed = self.complete();
        self.is_over = completed.is_ok();
        completed
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        // Broken off before the end of the body, so that no server takes it for all there is.
        if let Some(sending) = self.sending.take() {
            sending.abort();
            let _ = wait(sending);
        }
        // What cannot be removed now is removed by whoever writes next.
        let _ = self.bucket.remove(&self.partial);
    }
}
