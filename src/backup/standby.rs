//! Which server a backup reads: the standby that the configuration names, if it is fit for that, else the
//! primary.
//!
//! A standby is fit if it is one, of this very cluster, and soon has everything that the primary had when the
//! backup began. So a backup of a standby is never older than one of the primary would be.

use crate::adapters::postgres::standby::{Position, position};
use crate::adapters::postgres::{Address, Session};
use crate::archive::FromStandby;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Events;
use crate::stack::Stack;
use std::error::Error as _;
use std::time::{Duration, Instant};

/// How often a standby that is behind is asked again.
const AGAIN: Duration = Duration::from_millis(100);
/// How long a server may take to take a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// What helps against most of what ends the reading of a standby.
const CONFLICTS: &str = "If it was cancelled by a conflict with recovery: set hot_standby_feedback = on on the standby, and max_standby_streaming_delay to the length of a backup.";

/// The server that is read.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    pub(super) address: Address,
    /// What is known of it, if it is a standby.
    pub(super) facts: Option<FromStandby>,
    /// It is read in place of the primary, which can still be read.
    pub(super) instead: bool,
}

impl Reading {
    /// The primary.
    pub(super) fn primary(address: Address) -> Self {
        Self {
            address,
            facts: None,
            instead: false,
        }
    }

    /// An error that came of reading, with what helps most often on a standby. A session that is in the way of the
    /// replay may be ended without a word to it.
    pub(super) fn explain(&self, error: Error) -> Error {
        if self.facts.is_none() || error.hint_text().is_some() {
            return error;
        }
        error.hint(CONFLICTS)
    }

    /// Whether a backup that failed with `error` is worth another attempt at the primary; says so if it is.
    pub(super) fn may_be_at_fault(&self, error: &Error, events: &Events) -> bool {
        let ours = [
            ErrorKind::Interrupted,
            ErrorKind::Usage,
            ErrorKind::Refused,
            ErrorKind::Locked,
        ];
        if !self.instead || ours.contains(&error.kind()) || is_full(error) {
            return false;
        }
        let standby = self.address.shown();
        events.warning_with_hint(
            format!("the standby {standby} could not be read to the end, the primary is read anew: {error}"),
            error.hint_text().unwrap_or(CONFLICTS),
        );
        true
    }
}

/// Chooses between the stack's standby, if `standby` asks for one, and its primary.
pub(super) async fn choose(stack: &Stack, standby: bool, events: &Events) -> Result<Reading> {
    let primary = stack.database_address()?;
    let named = if standby {
        stack.standby_address()?
    } else {
        None
    };
    let at_primary = ask(&primary).await;
    let Some(address) = named else {
        // database.url itself may lead to a standby.
        let facts = at_primary.ok().filter(|server| server.in_recovery);
        let facts = facts.map(|server| facts_of(&server, None, Duration::ZERO));
        return Ok(Reading {
            facts,
            ..Reading::primary(primary)
        });
    };
    let patience = Duration::from_secs(stack.config.backup.standby_lag);
    let at_primary = match at_primary {
        Ok(server) => Some(server),
        Err(error) => {
            events.warning_with_hint(
                format!("how far the standby is behind cannot be told: {error}"),
                "The backup has what the standby has. Look after the primary.",
            );
            None
        }
    };
    match fit(&address, at_primary.as_ref(), patience).await {
        Ok(facts) => {
            events.note(format!(
                "reading the standby {}: {}",
                address.shown(),
                said(&facts)
            ));
            Ok(Reading {
                address,
                facts: Some(facts),
                instead: true,
            })
        }
        Err(unfit) => {
            events.warning_with_hint(
                format!("{unfit}; the backup reads the primary"),
                unfit.hint_text().unwrap_or("`k1ops doctor` says more."),
            );
            Ok(Reading::primary(primary))
        }
    }
}

/// What a standby had of its primary, in words.
#[must_use]
pub fn said(facts: &FromStandby) -> String {
    match (facts.behind_bytes, facts.caught_up_ms) {
        (Some(0), _) => "it had everything that the primary had".to_owned(),
        (Some(bytes), Some(took)) => {
            format!("it was {bytes} bytes behind, and had them after {took} ms")
        }
        _ => format!("it had replayed up to {}", facts.replayed_lsn),
    }
}

async fn ask(address: &Address) -> Result<Position> {
    position(&open(address).await?).await
}

async fn open(address: &Address) -> Result<Session> {
    let opening = tokio::time::timeout(CONNECT, Session::open(address));
    opening.await.unwrap_or_else(|_| {
        Err(Error::missing(format!(
            "PostgreSQL at {} does not answer within {} s",
            address.shown(),
            CONNECT.as_secs()
        )))
    })
}

/// What the standby has, once that is all that the primary had; or why it is not to be read.
async fn fit(
    address: &Address,
    primary: Option<&Position>,
    patience: Duration,
) -> Result<FromStandby> {
    let shown = address.shown();
    let session = open(address).await?;
    let mut now = position(&session).await?;
    let at_first = now.clone();
    if let Some(why) = now.is_no_standby_of(primary) {
        return Err(Error::refused(format!("{shown} {why}"))
            .hint("Let database.standby name a standby of the server in database.url."));
    }
    let begun = Instant::now();
    while primary.is_some_and(|primary| now.behind(primary) > 0) {
        if begun.elapsed() >= patience {
            let bytes = primary.map_or(0, |primary| now.behind(primary));
            let paused = if now.paused {
                ", its replay is paused"
            } else {
                ""
            };
            return Err(Error::failed(format!(
                "the standby {shown} is still {bytes} bytes behind after {} s{paused}",
                patience.as_secs()
            ))
            .hint("Look at pg_stat_wal_receiver on the standby, or give it longer: backup.standby_lag."));
        }
        tokio::time::sleep(AGAIN).await;
        now = position(&session).await?;
    }
    let behind = primary.map(|primary| (primary, at_first.behind(primary)));
    Ok(facts_of(&now, behind, begun.elapsed()))
}

fn facts_of(now: &Position, behind: Option<(&Position, u64)>, took: Duration) -> FromStandby {
    FromStandby {
        system_identifier: now.system.clone(),
        replayed_lsn: now.lsn.clone(),
        primary_lsn: behind.map(|(primary, _)| primary.lsn.clone()),
        behind_bytes: behind.map(|(_, bytes)| bytes),
        caught_up_ms: behind.map(|_| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
    }
}

/// The disk that is written is full, for which no server can do anything.
fn is_full(error: &Error) -> bool {
    let mut cause = error.source();
    while let Some(one) = cause {
        let io = one.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::StorageFull) {
            return true;
        }
        cause = one.source();
    }
    false
}
