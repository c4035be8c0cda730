//! The write-ahead log as the server writes it: a stream that goes on until somebody ends it, and the
//! slot that keeps the server from recycling what has not arrived.

use super::wire::{Wire, WireError, texts};
use super::{Replication, Row};
use crate::error::Result;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

/// What is being done, for errors.
const DOING: &str = "streaming the write-ahead log";

/// A replication slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// From where on the server keeps its log, such as `0/3000028`; `None` if it keeps none.
    pub restart: Option<String>,
    /// The timeline of that position.
    pub timeline: Option<u32>,
}

/// What the server sends. Its clock counts microseconds since 2000.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// Bytes of the log.
    Data {
        /// The position of the first.
        start: u64,
        /// Up to where the server had written when it sent them.
        server_end: u64,
        /// When it sent them.
        at: i64,
        /// The bytes.
        bytes: Bytes,
    },
    /// Nothing new.
    Alive {
        /// Up to where it has sent its log.
        sent_end: u64,
        /// When it said so.
        at: i64,
        /// It wants an answer at once.
        reply: bool,
    },
    /// The server has no more on this timeline.
    Done,
    /// The server has recycled what was asked for.
    Gone,
}

/// Where to go on after the end of a timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextTimeline {
    /// The timeline.
    pub timeline: u32,
    /// Where it begins, such as `0/3000060`.
    pub start: String,
}

/// A stream that is under way.
#[derive(Debug)]
pub struct WalStream<'a> {
    wire: &'a mut Wire,
}

impl Replication {
    /// Where the server's log ends now, such as `0/3000028`.
    pub async fn current_position(&mut self) -> Result<String> {
        let doing = "asking for the present end of the write-ahead log";
        let row = self.row("IDENTIFY_SYSTEM", doing).await?;
        let position = row.into_iter().nth(2).flatten();
        position.ok_or_else(|| WireError::unexpected("a position").during(doing))
    }

    /// The physical slot of this name, if there is one.
    pub async fn slot(&mut self, name: &str) -> Result<Option<Slot>> {
        let doing = format!("looking for the replication slot {name}");
        let sql = format!("READ_REPLICATION_SLOT {}", quoted(name));
        let row = self.row(&sql, &doing).await?;
        let column = |index: usize| row.get(index).cloned().flatten();
        Ok(column(0).map(|_| Slot {
            restart: column(1),
            timeline: column(2).and_then(|timeline| timeline.parse().ok()),
        }))
    }

    /// Makes a physical slot, from which on the server keeps its log.
    pub async fn create_slot(&mut self, name: &str) -> Result<()> {
        let doing = format!("making the replication slot {name}");
        let sql = format!(
            "CREATE_REPLICATION_SLOT {} PHYSICAL RESERVE_WAL",
            quoted(name)
        );
        self.row(&sql, &doing).await.map(drop).map_err(|error| {
            error.hint("Set max_replication_slots and max_wal_senders to 4 or more on the server, and let the role replicate.")
        })
    }

    /// Removes a slot.
    pub async fn drop_slot(&mut self, name: &str) -> Result<()> {
        let doing = format!("removing the replication slot {name}");
        let sql = format!("DROP_REPLICATION_SLOT {}", quoted(name));
        let dropped: Result<Vec<Row>, WireError> = self.rows(&sql).await;
        dropped.map(drop).map_err(|error| error.during(&doing))
    }

    /// The history file of a timeline.
    pub async fn timeline_history(&mut self, timeline: u32) -> Result<String> {
        let doing = format!("reading the history of timeline {timeline}");
        let sql = format!("TIMELINE_HISTORY {timeline}");
        let row = self.row(&sql, &doing).await?;
        let content = row.into_iter().nth(1).flatten();
        content.ok_or_else(|| WireError::unexpected("a history").during(&doing))
    }

    /// Begins to stream from `position` of `timeline`.
    pub async fn stream_wal(
        &mut self,
        slot: &str,
        position: &str,
        timeline: u32,
    ) -> Result<WalStream<'_>> {
        let sql = format!(
            "START_REPLICATION SLOT {} PHYSICAL {position} TIMELINE {timeline}",
            quoted(slot)
        );
        let begun = begin(&mut self.wire, &sql).await;
        begun.map_err(|error| error.during(DOING))?;
        Ok(WalStream {
            wire: &mut self.wire,
        })
    }
}

async fn begin(wire: &mut Wire, sql: &str) -> Result<(), WireError> {
    wire.send(|buffer| frontend::query(sql, buffer)).await?;
    match wire.receive().await? {
        Message::CopyOutResponse(_) => Ok(()),
        _ => Err(WireError::unexpected("the write-ahead log")),
    }
}

/// A name in a command of the replication protocol.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl WalStream<'_> {
    /// What comes next. Nothing is lost if this is dropped before it has answered.
    pub async fn next(&mut self) -> Result<Sent> {
        match self.wire.receive().await {
            Ok(Message::CopyData(body)) => typed(body.into_bytes()),
            Ok(Message::CopyDone) => Ok(Sent::Done),
            Ok(_) => Err(WireError::unexpected("the write-ahead log")),
            Err(WireError::Server(said)) if said.code == "58P01" => return Ok(Sent::Gone),
            Err(error) => Err(error),
        }
        .map_err(|error| error.during(DOING))
    }

    /// Tells the server up to where its log is safe here, which its slot is set to, and asks for a sign of life
    /// if `reply`. `None` leaves the slot where it is.
    pub async fn report(&mut self, safe: Option<u64>, reply: bool) -> Result<()> {
        // The protocol's word for no position.
        let safe = safe.unwrap_or(0);
        let mut body = BytesMut::with_capacity(34);
        body.put_u8(b'r');
        body.put_u64(safe);
        body.put_u64(safe);
        // Nothing is replayed here.
        body.put_u64(0);
        let now = chrono::Utc::now().timestamp_micros() - 946_684_800_000_000;
        body.put_i64(now);
        body.put_u8(u8::from(reply));
        let sent = self.wire.send(|buffer| {
            frontend::CopyData::new(body.freeze())?.write(buffer);
            Ok(())
        });
        sent.await.map_err(|error| error.during(DOING))
    }

    /// Ends the stream after [`Sent::Done`]; answers where the log goes on, if it does.
    pub async fn finish(self) -> Result<Option<NextTimeline>> {
        end(self.wire).await.map_err(|error| error.during(DOING))
    }
}

async fn end(wire: &mut Wire) -> Result<Option<NextTimeline>, WireError> {
    wire.send(|buffer| {
        frontend::copy_done(buffer);
        Ok(())
    })
    .await?;
    let mut next = None;
    loop {
        match wire.receive().await? {
            Message::DataRow(row) => {
                let mut columns = texts(&row)?.into_iter().map(Option::unwrap_or_default);
                let timeline = columns.next().unwrap_or_default().parse();
                next = Some(NextTimeline {
                    timeline: timeline.map_err(|_| WireError::unexpected("a timeline"))?,
                    start: columns.next().unwrap_or_default(),
                });
            }
            Message::ReadyForQuery(_) => return Ok(next),
            Message::CopyDone | Message::RowDescription(_) | Message::CommandComplete(_) => {}
            _ => return Err(WireError::unexpected("the end of the stream")),
        }
    }
}

fn typed(mut body: Bytes) -> Result<Sent, WireError> {
    match body.first() {
        Some(b'w') if body.len() > 24 => {
            body.advance(1);
            Ok(Sent::Data {
                start: body.get_u64(),
                server_end: body.get_u64(),
                at: body.get_i64(),
                bytes: body,
            })
        }
        Some(b'k') if body.len() == 18 => {
            body.advance(1);
            Ok(Sent::Alive {
                sent_end: body.get_u64(),
                at: body.get_i64(),
                reply: body.get_u8() != 0,
            })
        }
        _ => Err(WireError::unexpected("a message of the write-ahead log")),
    }
}
