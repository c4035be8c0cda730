//! A connection in `PostgreSQL`'s replication mode, which takes a handful of commands and streams a
//! base backup or the write-ahead log. `tokio_postgres` has no such mode; messages and logins come from the crate beneath
//! it.

mod base_backup;
mod login;
mod transport;
mod wal;
mod wire;

pub use base_backup::{BaseBackup, Piece, Position, Tablespace};
pub use wal::{NextTimeline, Sent, Slot, WalStream};

use super::{Address, quote_literal};
use crate::error::{Context, Error, Result};
use crate::event::Events;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use wire::{Wire, WireError, texts};

/// A replication connection. Dropping it closes it, and the server forgets its temporary slot.
#[derive(Debug)]
pub struct Replication {
    wire: Wire,
}

/// Which cluster a server runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    /// The number that `initdb` gave the cluster; copies of it share it.
    pub identifier: String,
    /// The timeline it is on.
    pub timeline: u32,
}

/// A row of text columns.
type Row = Vec<Option<String>>;

impl Replication {
    /// Connects in replication mode. Warnings of the server go to `events`.
    pub async fn open(address: &Address, events: &Events) -> Result<Self> {
        let wire = login::log_in(address, events).await?;
        Ok(Self { wire })
    }

    /// The server's version without the distribution's remark, such as `15.18`.
    #[must_use]
    pub fn server_version(&self) -> &str {
        let full = self.wire.server_version();
        full.split_once(' ').map_or(full, |(version, _)| version)
    }

    /// The server's major version, such as 15.
    pub fn major_version(&self) -> Result<u32> {
        let version = self.server_version();
        let digits = version.split(|c: char| !c.is_ascii_digit()).next();
        digits
            .unwrap_or_default()
            .parse()
            .context(|| format!("the server's version {version:?} is not a version"))
    }

    /// Which cluster this is.
    pub async fn identify(&mut self) -> Result<System> {
        let doing = "identifying the server";
        let row = self.row("IDENTIFY_SYSTEM", doing).await?;
        let column = |index: usize| row.get(index).cloned().flatten().unwrap_or_default();
        Ok(System {
            identifier: column(0),
            timeline: column(1).parse().context(|| "the timeline is no number")?,
        })
    }

    /// The value of a setting.
    pub async fn show(&mut self, name: &str) -> Result<String> {
        let doing = format!("reading the setting {name}");
        let row = self.row(&format!("SHOW {name}"), &doing).await?;
        row.into_iter()
            .next()
            .flatten()
            .ok_or_else(|| Error::failed(format!("{doing} failed: it has no value")))
    }

    /// Bytes in a segment of the write-ahead log.
    pub async fn wal_segment_size(&mut self) -> Result<u64> {
        segment_size(&self.show("wal_segment_size").await?)
    }

    /// Makes the server keep its write-ahead log from now on, until this connection ends.
    pub async fn reserve_wal(&mut self) -> Result<()> {
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let sql = format!("CREATE_REPLICATION_SLOT k1ops_{unique} TEMPORARY PHYSICAL RESERVE_WAL");
        self.row(&sql, "reserving the write-ahead log").await?;
        Ok(())
    }

    /// Begins a base backup, with the write-ahead log that it needs at its end and with a manifest.
    pub async fn base_backup(&mut self, label: &str) -> Result<BaseBackup<'_>> {
        // CRC-32C is what the processor computes in passing; what protects the archive at rest is
        // SHA-256 over what is stored. Without WAIT, a broken archive_command cannot hold it up.
        let sql = format!(
            "BASE_BACKUP (LABEL {}, PROGRESS true, CHECKPOINT 'fast', WAL true, WAIT false, \
             TABLESPACE_MAP true, MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C', TARGET 'client')",
            quote_literal(label)
        );
        BaseBackup::begin(&mut self.wire, &sql).await
    }

    /// The single row that `command` answers.
    async fn row(&mut self, command: &str, doing: &str) -> Result<Row> {
        let rows = self.rows(command).await.map_err(|e| e.during(doing))?;
        let [row] = <[Row; 1]>::try_from(rows)
            .map_err(|_| WireError::unexpected("one row").during(doing))?;
        Ok(row)
    }

    async fn rows(&mut self, command: &str) -> Result<Vec<Row>, WireError> {
        self.wire
            .send(|buffer| frontend::query(command, buffer))
            .await?;
        let mut rows = Vec::new();
        let mut refused = None;
        loop {
            match self.wire.receive().await {
                Ok(Message::DataRow(row)) => rows.push(texts(&row)?),
                Ok(Message::RowDescription(_) | Message::CommandComplete(_)) => {}
                Ok(Message::ReadyForQuery(_)) => break,
                Ok(_) => return Err(WireError::unexpected("rows")),
                // The connection stays usable: the server gets ready again.
                Err(WireError::Server(error)) if error.severity == "ERROR" => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        refused.map_or(Ok(rows), |error| Err(WireError::Server(error)))
    }
}

/// Reads a size as the server shows it, such as `16MB`.
fn segment_size(shown: &str) -> Result<u64> {
    let unit = shown.trim_start_matches(|c: char| c.is_ascii_digit());
    let factor = match unit {
        "B" | "" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => 0,
    };
    let number: u64 = shown[..shown.len() - unit.len()]
        .parse()
        .unwrap_or_default();
    match number.checked_mul(factor) {
        Some(size) if size.is_power_of_two() && (1 << 20..=1 << 30).contains(&size) => Ok(size),
        _ => Err(Error::failed(format!(
            "wal_segment_size {shown:?} is not a size"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_the_server_shows_them() {
        assert_eq!(segment_size("16MB").unwrap(), 16 << 20);
        assert_eq!(segment_size("1GB").unwrap(), 1 << 30);
        for wrong in ["", "MB", "16", "3MB", "16 MB", "16XB"] {
            assert!(segment_size(wrong).is_err(), "{wrong}");
        }
    }
}
