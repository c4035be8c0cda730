//! The stack's data for one run alone, with whatever an earlier run left unfinished put right.

use super::journal::Journal;
use super::recover::{self, Recovered};
use crate::adapters::fs::{Lock, remove_if_there};
use crate::error::{ErrorKind, Result};
use crate::event::Events;
use crate::stack::Stack;
use std::time::{Duration, Instant};

/// How long to wait for somebody who only looks whether the lock is held.
const LOOKING: Duration = Duration::from_millis(500);

/// Nobody else restores, undoes or backs up while this is held.
#[derive(Debug)]
pub struct Claim {
    #[allow(dead_code, reason = "it is held, not read")]
    lock: Lock,
}

impl Claim {
    /// Takes the data lock and puts right what a run that died left behind.
    ///
    /// Fails with [`ErrorKind::Locked`] while another run is at work.
    pub async fn take(stack: &Stack, purpose: &str, events: &Events) -> Result<Self> {
        let (claim, _) = Self::take_and_recover(stack, purpose, events).await?;
        Ok(claim)
    }

    pub(super) async fn take_and_recover(
        stack: &Stack,
        purpose: &str,
        events: &Events,
    ) -> Result<(Self, Option<Recovered>)> {
        let begun = Instant::now();
        let lock = loop {
            match Lock::exclusive(&stack.lock_file("data"), purpose) {
                Err(error) if error.kind() == ErrorKind::Locked && begun.elapsed() < LOOKING => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                other => break other?,
            }
        };
        for leftover in Journal::leftovers(stack) {
            remove_if_there(&leftover)?;
        }
        let recovered = match Journal::unfinished(stack)? {
            Some(journal) => Some(recover::finish(stack, journal, events).await?),
            None => None,
        };
        Ok((Self { lock }, recovered))
    }
}
