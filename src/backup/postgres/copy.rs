//! Copies tables' rows: several connections look through one snapshot and take piece after piece.
//!
//! The leader, whose snapshot it is, has locked every table. A session that wants to alter one waits for that,
//! and whoever comes later waits behind it, for as long as the backup lasts: our own connections as well. So they wait a
//! moment only, and leave such a table to the leader.

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
use tokio_postgres::error::SqlState;

/// How long a connection waits to be let at a table before it leaves it to the leader.
const PATIENCE: &str = "SET LOCAL lock_timeout = '2s'";

/// What became of a table.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Copied {
    pub(super) parts: u32,
    pub(super) digest: RowDigest,
}

/// A moment of a database.
#[derive(Clone, Copy)]
pub(super) struct Moment<'a> {
    /// The session that holds the snapshot, and has locked the tables.
    pub(super) leader: &'a Session,
    /// Where others connect to, to look through it.
    pub(super) address: &'a Address,
    pub(super) snapshot: &'a str,
}

/// Copies the rows of all `tables`; answers in their order.
pub(super) async fn all(
    writer: &Writer,
    moment: Moment<'_>,
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
        left: Mutex::default(),
        copied: Mutex::new(vec![Copied::default(); tables.len()]),
        done: AtomicU64::new(0),
        events: events.clone(),
        step: step.to_owned(),
    });
    let mut running = JoinSet::new();
    for _ in 0..workers {
        let copying = copying.clone();
        let (address, snapshot) = (moment.address.clone(), moment.snapshot.to_owned());
        running.spawn(async move { copying.work(&address, &snapshot).await });
    }
    // The first failure ends the others: dropping the set aborts them.
    while let Some(result) = running.join_next().await {
        result.context(|| "a copying task died")??;
    }
    copying.copy_left(moment.leader).await?;
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
    /// For the leader.
    left: Mutex<Vec<Piece>>,
    copied: Mutex<Vec<Copied>>,
    done: AtomicU64,
    events: Events,
    step: String,
}

impl Copying {
    async fn work(&self, address: &Address, snapshot: &str) -> Result<()> {
        let session = Session::open(address).await?;
        begin_patiently(&session, snapshot).await?;
        let mut part = self.writer.buffer();
        while let Some(piece) = self.next() {
            if let Err(refused) = self.copy(&session, &piece, &mut part).await? {
                tracing::debug!(%refused, "left to the leader");
                self.leave(piece);
                run(&session, "ROLLBACK").await?;
                begin_patiently(&session, snapshot).await?;
            }
        }
        run(&session, "COMMIT").await
    }

    fn leave(&self, piece: Piece) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.push(piece);
    }

    /// Copies what others were not let at.
    async fn copy_left(&self, leader: &Session) -> Result<()> {
        let left = std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner));
        let mut part = self.writer.buffer();
        for piece in left {
            self.copy(leader, &piece, &mut part).await??;
        }
        Ok(())
    }

    fn next(&self) -> Option<Piece> {
        self.pieces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }

    /// Copies a piece; `part` is empty before and after. The inner error is that of a session that is not let
    /// at the table, and has read nothing of it.
    async fn copy(
        &self,
        session: &Session,
        piece: &Piece,
        part: &mut Vec<u8>,
    ) -> Result<Result<()>> {
        let table = &self.tables[piece.table];
        let doing = || format!("copying table {}", table.shown());
        let stream = match session.copy_out(&table.copy_out(piece)).await {
            Ok(stream) => stream,
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                return Ok(Err(failed(&doing(), &error)));
            }
            Err(error) => return Err(failed(&doing(), &error)),
        };
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
        Ok(Ok(()))
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

async fn begin_patiently(session: &Session, snapshot: &str) -> Result<()> {
    begin(session, Some(snapshot)).await?;
    run(session, PATIENCE).await
}

async fn run(session: &Session, sql: &str) -> Result<()> {
    let done = session.batch_execute(sql).await;
    done.map_err(|e| failed("looking through the snapshot", &e))
}
