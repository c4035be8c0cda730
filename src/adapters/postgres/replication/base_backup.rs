//! The stream of one base backup, in the form that servers send since `PostgreSQL` 15: one COPY of
//! typed messages for all archives and the manifest.
//!
//! The stream is complete only with [`Piece::End`]: a connection that merely ends is an error.

use super::wire::{Wire, WireError, texts};
use crate::error::{Error, Result};
use bytes::{Buf, Bytes};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

/// What is being done, for errors.
const DOING: &str = "the base backup";

/// A position in the write-ahead log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Such as `0/3000028`.
    pub lsn: String,
    /// The timeline it is on.
    pub timeline: u32,
}

/// A tablespace as the server announces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tablespace {
    /// Its object identifier; `None` for the data directory itself.
    pub oid: Option<String>,
    /// Its folder on the server.
    pub location: Option<String>,
    /// About how many bytes it has.
    pub size: u64,
}

/// A piece of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// What follows belongs to a new archive.
    Archive {
        /// Such as `base.tar` or `16385.tar`.
        name: String,
        /// The tablespace's folder on the server; `None` for the data directory.
        location: Option<String>,
    },
    /// What follows belongs to the backup's manifest.
    Manifest,
    /// Bytes of what began last.
    Data(Bytes),
    /// So many bytes have been sent.
    Progress(u64),
    /// The server has sent everything; this is the position up to which the write-ahead log is
    /// needed.
    End(Position),
}

/// What the stream is in the middle of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Begun,
    Archive,
    Manifest,
    Ended,
}

/// A base backup that is under way.
#[derive(Debug)]
pub struct BaseBackup<'a> {
    wire: &'a mut Wire,
    start: Position,
    tablespaces: Vec<Tablespace>,
    stage: Stage,
}

impl<'a> BaseBackup<'a> {
    pub(super) async fn begin(wire: &'a mut Wire, command: &str) -> Result<Self> {
        let (start, tablespaces) = announced(wire, command).await.map_err(explain)?;
        Ok(Self {
            wire,
            start,
            tablespaces,
            stage: Stage::Begun,
        })
    }

    /// Where the write-ahead log that belongs to the backup begins.
    #[must_use]
    pub fn start(&self) -> &Position {
        &self.start
    }

    /// The tablespaces, the data directory among them.
    #[must_use]
    pub fn tablespaces(&self) -> &[Tablespace] {
        &self.tablespaces
    }

    /// The next piece. After [`Piece::End`] there is none, and asking for one is an error.
    pub async fn next(&mut self) -> Result<Piece> {
        self.receive().await.map_err(explain)
    }

    async fn receive(&mut self) -> Result<Piece, WireError> {
        if self.stage == Stage::Ended {
            return Err(WireError::unexpected("anything after the end"));
        }
        match self.wire.receive().await? {
            Message::CopyData(body) => self.typed(body.into_bytes()),
            Message::CopyDone if self.stage == Stage::Manifest => {
                self.stage = Stage::Ended;
                Ok(Piece::End(self.end().await?))
            }
            Message::CopyDone => Err(WireError::unexpected("the backup's manifest")),
            _ => Err(WireError::unexpected("data of the backup")),
        }
    }

    fn typed(&mut self, mut body: Bytes) -> Result<Piece, WireError> {
        if body.is_empty() {
            return Err(WireError::unexpected("the type of a message"));
        }
        match (body.get_u8(), self.stage) {
            (b'd', Stage::Archive | Stage::Manifest) => Ok(Piece::Data(body)),
            (b'n', Stage::Begun | Stage::Archive) => {
                self.stage = Stage::Archive;
                let name = text(&mut body)?;
                let location = Some(text(&mut body)?).filter(|l| !l.is_empty());
                Ok(Piece::Archive { name, location })
            }
            (b'm', Stage::Archive) => {
                self.stage = Stage::Manifest;
                Ok(Piece::Manifest)
            }
            (b'p', _) if body.len() == 8 => Ok(Piece::Progress(body.get_u64())),
            (kind, _) => {
                let kind = char::from(kind).escape_default();
                let what = format!("the server sent a message '{kind}' where none belongs");
                Err(WireError::Protocol(what))
            }
        }
    }

    /// What follows the COPY: the end position, and the server's readiness for more.
    async fn end(&mut self) -> Result<Position, WireError> {
        let mut end = None;
        loop {
            match self.wire.receive().await? {
                Message::DataRow(row) if end.is_none() => end = Some(position(&texts(&row)?)?),
                Message::RowDescription(_) | Message::CommandComplete(_) => {}
                Message::ReadyForQuery(_) => break,
                _ => return Err(WireError::unexpected("the end position")),
            }
        }
        end.ok_or_else(|| WireError::unexpected("the end position"))
    }
}

/// The two result sets before the COPY: where the backup starts, and the tablespaces.
async fn announced(
    wire: &mut Wire,
    command: &str,
) -> Result<(Position, Vec<Tablespace>), WireError> {
    wire.send(|buffer| frontend::query(command, buffer)).await?;
    let mut sets: Vec<Vec<Vec<Option<String>>>> = Vec::new();
    loop {
        match wire.receive().await? {
            Message::RowDescription(_) => sets.push(Vec::new()),
            Message::DataRow(row) => {
                let set = sets.last_mut();
                set.ok_or_else(|| WireError::unexpected("columns before a row"))?
                    .push(texts(&row)?);
            }
            Message::CommandComplete(_) => {}
            Message::CopyOutResponse(_) => break,
            _ => return Err(WireError::unexpected("the beginning of the backup")),
        }
    }
    let [starts, tablespaces] = <[_; 2]>::try_from(sets)
        .map_err(|_| WireError::unexpected("where the backup begins and its tablespaces"))?;
    let start = starts.first().map(|row| position(row)).transpose()?;
    let start = start.ok_or_else(|| WireError::unexpected("where the backup begins"))?;
    Ok((start, tablespaces.into_iter().map(tablespace).collect()))
}

fn position(row: &[Option<String>]) -> Result<Position, WireError> {
    match row {
        [Some(lsn), Some(timeline), ..] => Ok(Position {
            lsn: lsn.clone(),
            timeline: timeline
                .parse()
                .map_err(|_| WireError::unexpected("a timeline's number"))?,
        }),
        _ => Err(WireError::unexpected("a position")),
    }
}

fn tablespace(row: Vec<Option<String>>) -> Tablespace {
    let mut columns = row.into_iter();
    let mut next = || columns.next().flatten();
    let (oid, location, kilobytes) = (next(), next(), next());
    let kilobytes: u64 = kilobytes.and_then(|k| k.parse().ok()).unwrap_or_default();
    Tablespace {
        oid,
        location,
        size: kilobytes.saturating_mul(1024),
    }
}

/// A text that ends with a zero byte.
fn text(body: &mut Bytes) -> Result<String, WireError> {
    let length = memchr::memchr(0, body).ok_or_else(|| WireError::unexpected("a whole text"))?;
    let bytes = body.split_to(length);
    body.advance(1);
    String::from_utf8(bytes.to_vec()).map_err(|_| WireError::unexpected("a text in UTF-8"))
}

/// What to do about a backup that the server ended.
fn explain(error: WireError) -> Error {
    let WireError::Server(said) = error else {
        return error.during(DOING);
    };
    let failed = WireError::Server(said.clone()).during(DOING);
    match said.code.as_str() {
        "42501" => failed.hint("The role needs REPLICATION: ALTER ROLE ... REPLICATION."),
        // The server is a standby, and says in detail what is the matter.
        "55000" if said.message.contains("full_page_writes") => failed.hint(
            "Set full_page_writes = on on the primary and let it run CHECKPOINT, or back up from the primary.",
        ),
        "55000" if said.message.contains("promoted") => {
            failed.hint("Run the backup again, now that the server is a primary.")
        }
        "55000" => failed.hint("Set wal_level to replica in postgresql.conf and restart the server."),
        "XX001" => Error::bad_data(failed.to_string()).hint(
            "The server found damaged pages in its own files; its log names them. Take a logical backup and check the disk.",
        ),
        "57P01" | "57P02" | "57P03" => failed.hint("The server was shut down; run the backup again when it is up."),
        _ => failed.hint("Run the backup again; if it stays so, the server's log says more."),
    }
}
