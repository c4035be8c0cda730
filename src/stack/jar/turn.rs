//! Whose turn it is to start, among servers of several hosts on one database: a new version brings the database up
//! to date at its first start, and two at once would be in each other's way.

use crate::adapters::postgres::{Session, server_message};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Events, Unit};
use crate::interrupt::Interrupt;
use crate::stack::Stack;
use std::time::{Duration, Instant};

/// The number of the lock in the database; any that nobody else takes.
const LOCK: i64 = 0x6b31_6f70_735f_7475;
/// How long others may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// Between two questions.
const AGAIN: Duration = Duration::from_millis(500);

/// The turn, which goes to the next one when this is dropped or the process dies.
#[derive(Debug)]
pub struct Turn {
    _session: Session,
}

impl Turn {
    /// Waits for it; none if this host's server is the only one.
    pub async fn of(stack: &Stack, events: &Events, interrupt: &Interrupt) -> Result<Option<Self>> {
        if stack.config.redis.url.is_empty() || !stack.uses_database_url() {
            return Ok(None);
        }
        let session = Session::open(&stack.database_address()?).await?;
        interrupt.guard(wait(&session, events)).await?;
        Ok(Some(Self { _session: session }))
    }
}

async fn wait(session: &Session, events: &Events) -> Result<()> {
    let step = "waiting for another host's server to start";
    let begun = Instant::now();
    loop {
        let row = session
            .query_one("SELECT pg_try_advisory_lock($1)", &[&LOCK])
            .await
            .map_err(|error| {
                Error::failed("whose turn it is to start cannot be asked")
                    .because(server_message(&error))
            })?;
        if row.get::<_, bool>(0) {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            return Err(Error::new(
                ErrorKind::Locked,
                format!(
                    "the server of another host on this database starts since {} minutes",
                    PATIENCE.as_secs() / 60
                ),
            )
            .hint("Look at that host: `k1ops status`, `k1ops logs`."));
        }
        events.progress(
            step,
            begun.elapsed().as_secs(),
            Some(PATIENCE.as_secs()),
            Unit::Seconds,
        );
        tokio::time::sleep(AGAIN).await;
    }
}
