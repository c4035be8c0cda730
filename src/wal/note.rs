//! How far the log has been received, kept beside it once every few seconds, and what that says of how
//! much would be lost now.

use super::name::parse_lsn;
use super::store::Store;
use crate::adapters::fs::write_atomically;
use crate::adapters::postgres::{Address, Session};
use crate::error::{Context, Error, Result};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Its file.
const FILE: &str = "stream.json";

/// What whoever receives the log writes down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The stack whose server it is.
    pub stack: String,
    /// The slot that makes the server keep its log.
    pub slot: String,
    /// The timeline that is received.
    pub timeline: u32,
    /// Up to here everything is on disk.
    pub received: String,
    /// Everything that the server had written at this moment, by its clock, is on disk.
    pub complete_until: Option<DateTime<Utc>>,
    /// The position that this is said of.
    pub complete_at: String,
    /// What was never received, as far as whoever received it knows.
    pub lost: Option<Lost>,
}

/// A piece of the log that the server had recycled before it was received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// The first segment of it.
    pub segment: String,
    /// Where the log goes on. A backup that ends behind it needs nothing of what was lost.
    pub until: String,
}

impl Note {
    /// What was written down of a cluster's log. A note that cannot be read says nothing.
    #[must_use]
    pub fn read(store: &Store) -> Option<Self> {
        let text = std::fs::read(store.folder().join(FILE)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Whether more had been received when this was written down than when the other was.
    #[must_use]
    pub fn is_beyond(&self, other: &Self) -> bool {
        let reached = |note: &Self| {
            (
                note.timeline,
                parse_lsn(&note.received),
                note.complete_until,
            )
        };
        reached(self) > reached(other)
    }

    pub(super) fn write(&self, store: &Store) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).context(|| "a note cannot be made")?;
        write_atomically(&store.folder().join(FILE), &text)
    }
}

/// The file that says what was sent on.
const ELSEWHERE: &str = "elsewhere.json";

/// What was sent on to a repository that is elsewhere.
#[derive(Debug, Serialize, Deserialize)]
struct Elsewhere {
    /// Everything that was committed before this moment is there.
    until: DateTime<Utc>,
}

/// Everything that was committed before this moment is here, as far as is known.
pub fn received_until(store: &Store) -> Result<Option<DateTime<Utc>>> {
    let streamed = Note::read(store).and_then(|note| note.complete_until);
    Ok(streamed.max(newest_archived(store)?))
}

/// Writes down until when everything was sent on.
pub fn write_elsewhere(store: &Store, until: DateTime<Utc>) -> Result<()> {
    let text = serde_json::to_vec(&Elsewhere { until }).context(|| "a note cannot be made")?;
    write_atomically(&store.folder().join(ELSEWHERE), &text)
}

fn sent_until(store: &Store) -> Option<DateTime<Utc>> {
    let text = std::fs::read(store.folder().join(ELSEWHERE)).ok()?;
    let sent: Elsewhere = serde_json::from_slice(&text).ok()?;
    Some(sent.until)
}

/// How the log of a stack's server comes in.
#[derive(Debug, Clone, Serialize)]
pub struct Incoming {
    /// The cluster.
    pub system: String,
    /// A living process receives it now.
    pub streaming: bool,
    /// Everything that was committed before this moment is in the repository.
    pub received_until: Option<DateTime<Utc>>,
    /// Seconds of work that would be lost with the server: what is now called the recovery point.
    pub rpo_seconds: Option<f64>,
    /// Seconds of work that would be lost with this host, where the log is sent on.
    pub host_rpo_seconds: Option<f64>,
    /// Where what was received ends.
    pub received: Option<String>,
    /// The slot that makes the server keep its log.
    pub slot: Option<String>,
    /// What the server keeps for the slot, in bytes; filled in by whoever asks the server.
    pub slot_lag_bytes: Option<u64>,
    /// What was never received.
    pub lost: Option<Lost>,
}

/// How the log of the stack's server comes in; of several servers, that which was heard of last.
pub fn incoming(repository: &Path, stack: &str) -> Result<Option<Incoming>> {
    let mut newest: Option<Incoming> = None;
    for store in Store::all(repository, Some(stack))? {
        let found = of(&store)?;
        if newest
            .as_ref()
            .is_none_or(|other| other.received_until <= found.received_until)
        {
            newest = Some(found);
        }
    }
    Ok(newest)
}

/// What the server at `address` keeps for a slot, in bytes; `None` if there is no such slot.
pub async fn slot_lag(address: &Address, slot: &str) -> Result<Option<u64>> {
    let session = Session::open(address).await?;
    let row = session
        .query_opt(
            "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint
             FROM pg_replication_slots WHERE slot_name = $1 AND NOT pg_is_in_recovery()",
            &[&slot],
        )
        .await
        .context(|| "the replication slots cannot be read")?;
    let lag = row.and_then(|row| row.get::<_, Option<i64>>(0));
    Ok(lag.map(|lag| u64::try_from(lag).unwrap_or(0)))
}

fn of(store: &Store) -> Result<Incoming> {
    let note = Note::read(store);
    let received_until = received_until(store)?;
    let age = |at: DateTime<Utc>| (Utc::now() - at).as_seconds_f64().max(0.0);
    Ok(Incoming {
        system: store.system().to_owned(),
        streaming: store.is_received(),
        received_until,
        rpo_seconds: received_until.map(age),
        host_rpo_seconds: sent_until(store).map(age),
        received: note.as_ref().map(|note| note.received.clone()),
        slot: note.as_ref().map(|note| note.slot.clone()),
        slot_lag_bytes: None,
        lost: note.and_then(|note| note.lost),
    })
}

/// When the newest complete segment came in.
fn newest_archived(store: &Store) -> Result<Option<DateTime<Utc>>> {
    let listing = store.list()?;
    let Some(newest) = listing.segments.keys().max() else {
        return Ok(None);
    };
    let place = store.place(&store.name(*newest))?;
    let changed = std::fs::metadata(&place).and_then(|found| found.modified());
    match changed {
        Ok(at) => Ok(Some(at.into())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            Err(Error::failed(format!("{} cannot be read", place.display())).because(error))
        }
    }
}
