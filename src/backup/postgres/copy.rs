//! Copies tables' rows: several connections look through one snapshot and take piece after piece.

use super::catalog::Table;
use super::pieces::{Piece, divide};
use super::{Options, begin, failed, part_path};
use crate::adapters::postgres::{Address, Session};
use crate::archive::{Effort, NewMember, RowDigest, Writer};
use crate::error::{Context, Error, Result};
use crate::event::{Events, Unit};
use futures_util::{StreamExt, pin_mut};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::JoinSet;

/// What became of a table.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Copied {
    pub(super) parts: u32,
    pub(super) digest: RowDigest,
}

/// Copies the rows of all `tables`; answers in their order.
pub(super) async fn all(
    writer: &Writer,
    address: &Address,
    snapshot: &str,
    tables: &[Table],
    options: &Options,
    events: &Events,
    step: &str,
) -> Result<Vec<Copied>> {
    // Ranges of blocks are read without reading the rest since PostgreSQL 14.
    let by_blocks = tables.first().is_none_or(|t| t.server_major >= 14);
    let pieces = divide(tables, by_blocks);
    let workers = options.jobs.clamp(1, pieces.len().max(1));
    let copying = Arc::new(Copying {
        writer: writer.clone(),
        tables: tables.to_vec(),
        total: pieces.iter().map(|p| p.cost).sum(),
        pieces: Mutex::new(pieces.into()),
        copied: Mutex::new(vec![Copied::default(); tables.len()]),
        done: AtomicU64::new(0),
        events: events.clone(),
        step: step.to_owned(),
    });
    let mut running = JoinSet::new();
    for _ in 0..workers {
        let (copying, address, snapshot) = (copying.clone(), address.clone(), snapshot.to_owned());
        running.spawn(async move { copying.work(&address, &snapshot).await });
    }
    // The first failure ends the others: dropping the set aborts them.
    while let Some(result) = running.join_next().await {
        result.context(|| "a copying task died")??;
    }
    let copied = copying
        .copied
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    Ok(copied)
}

struct Copying {
    writer: Writer,
    tables: Vec<Table>,
    total: u64,
    pieces: Mutex<VecDeque<Piece>>,
    copied: Mutex<Vec<Copied>>,
    done: AtomicU64,
    events: Events,
    step: String,
}

impl Copying {
    async fn work(&self, address: &Address, snapshot: &str) -> Result<()> {
        let session = Session::open(address).await?;
        begin(&session, Some(snapshot)).await?;
        let mut part = self.writer.buffer();
        while let Some(piece) = self.next() {
            self.copy(&session, &piece, &mut part).await?;
        }
        session
            .batch_execute("COMMIT")
            .await
            .map_err(|e| failed("ending the snapshot", &e))
    }

    fn next(&self) -> Option<Piece> {
        self.pieces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }

    /// Copies a piece; `part` is empty before and after.
    async fn copy(&self, session: &Session, piece: &Piece, part: &mut Vec<u8>) -> Result<()> {
        let table = &self.tables[piece.table];
        let doing = || format!("copying table {}", table.shown());
        let stream = session
            .copy_out(&table.copy_out(piece))
            .await
            .map_err(|e| failed(&doing(), &e))?;
        pin_mut!(stream);
        let full = self.writer.part_size();
        while let Some(bytes) = stream.next().await {
            let bytes = bytes.map_err(|e| failed(&doing(), &e))?;
            // The server sends whole rows; a part ends before the row that would overfill it.
            if !part.is_empty() && part.len() + bytes.len() > full {
                self.flush(piece.table, part).await?;
            }
            part.extend_from_slice(&bytes);
        }
        if !part.is_empty() {
            self.flush(piece.table, part).await?;
        }
        let done = self.done.fetch_add(piece.cost, Ordering::Relaxed) + piece.cost;
        self.events
            .progress(&self.step, done, Some(self.total), Unit::Bytes);
        Ok(())
    }

    /// Hands a part over to the archive.
    async fn flush(&self, index: usize, part: &mut Vec<u8>) -> Result<()> {
        let raw = std::mem::replace(part, self.writer.buffer());
        let table = &self.tables[index];
        let mut digest = RowDigest::default();
        if !digest.add_lines(&raw).is_empty() {
            let message = format!("table {} ended in the middle of a row", table.shown());
            return Err(Error::failed(message).hint("Run the backup again."));
        }
        let number = {
            let mut copied = self.copied.lock().unwrap_or_else(PoisonError::into_inner);
            let copied = &mut copied[index];
            copied.digest = copied.digest.merge(digest);
            copied.parts += 1;
            copied.parts - 1
        };
        let path = part_path(&table.folder, number);
        self.writer
            .add(NewMember {
                path,
                raw,
                rows: Some(digest),
                effort: Effort::Usual,
            })
            .await
    }
}
