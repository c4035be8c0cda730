//! Where a server is in its write-ahead log, and whether another is a standby of it. It does not know what
//! the standby is wanted for.

use super::{Session, server_message};
use crate::error::{Error, Result};
use serde::Serialize;

/// What a server says of itself.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Position {
    /// The number that `initdb` gave the cluster; its standbys share it.
    pub system: String,
    /// It replays what another server writes.
    pub in_recovery: bool,
    /// Where its log ends: what it has replayed, or written. Such as `0/3000028`.
    pub lsn: String,
    /// The same as a number.
    #[serde(skip)]
    pub at: u64,
    /// Somebody has stopped the replay.
    pub paused: bool,
    /// It tells the primary which rows its readers still need.
    pub feedback: bool,
    /// Milliseconds for which it lets a reader hold up the replay; `None`: for ever.
    pub patience: Option<i64>,
    /// Whole pages are written to the log, without which a physical backup of a standby is refused.
    pub full_pages: bool,
}

impl Position {
    /// Bytes of the log that it has not got, of those that `other` has.
    #[must_use]
    pub fn behind(&self, other: &Self) -> u64 {
        other.at.saturating_sub(self.at)
    }

    /// Why it is no standby of `primary`, in words that follow its name.
    #[must_use]
    pub fn is_no_standby_of(&self, primary: Option<&Self>) -> Option<String> {
        if let Some(primary) = primary
            && primary.system != self.system
        {
            return Some(format!(
                "belongs to another cluster: its system identifier is {}, the primary's {}",
                self.system, primary.system
            ));
        }
        if !self.in_recovery {
            return Some("is no standby: it takes writes, as one does that was promoted".into());
        }
        None
    }
}

/// Asks a server.
pub async fn position(session: &Session) -> Result<Position> {
    let row = session
        .query_one(
            "SELECT (SELECT system_identifier FROM pg_catalog.pg_control_system())::text, r,
                    l::text, (l - '0/0')::bigint,
                    CASE WHEN r THEN pg_catalog.pg_is_wal_replay_paused() ELSE false END,
                    current_setting('hot_standby_feedback')::bool,
                    (SELECT setting::bigint FROM pg_catalog.pg_settings
                     WHERE name = 'max_standby_streaming_delay'),
                    current_setting('full_page_writes')::bool
             FROM (SELECT r, coalesce(CASE WHEN r THEN pg_catalog.pg_last_wal_replay_lsn()
                                           ELSE pg_catalog.pg_current_wal_lsn() END, '0/0') AS l
                   FROM pg_catalog.pg_is_in_recovery() r) where_it_is",
            &[],
        )
        .await
        .map_err(|error| {
            let said = server_message(&error);
            Error::failed(format!("the server does not say where its log is: {said}"))
        })?;
    Ok(Position {
        system: row.get(0),
        in_recovery: row.get(1),
        lsn: row.get(2),
        at: u64::try_from(row.get::<_, i64>(3)).unwrap_or_default(),
        paused: row.get(4),
        feedback: row.get(5),
        patience: row
            .get::<_, Option<i64>>(6)
            .filter(|milliseconds| *milliseconds >= 0),
        full_pages: row.get(7),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(system: &str, in_recovery: bool, at: u64) -> Position {
        Position {
            system: system.into(),
            in_recovery,
            lsn: format!("0/{at:X}"),
            at,
            paused: false,
            feedback: true,
            patience: None,
            full_pages: true,
        }
    }

    #[test]
    fn a_standby_is_told_from_what_is_none() {
        let (primary, standby) = (at("7", false, 9), at("7", true, 5));
        assert_eq!(standby.is_no_standby_of(Some(&primary)), None);
        assert_eq!((standby.behind(&primary), primary.behind(&standby)), (4, 0));
        let why = |server: &Position| server.is_no_standby_of(Some(&primary)).unwrap();
        assert!(why(&at("8", true, 5)).contains("another cluster"));
        assert!(why(&at("7", false, 5)).contains("promoted"));
        assert!(
            at("8", false, 5)
                .is_no_standby_of(None)
                .unwrap()
                .contains("no standby")
        );
    }
}
