//! The stack's data for one run alone, with whatever an earlier run left unfinished put right.

use super::journal::Journal;
use super::recover::{self, Recovered};
use crate::adapters::fs::{Lock, remove_if_there};
use crate::error::Result;
use crate::event::Events;
use crate::stack::Stack;

/// Nobody else restores, undoes or backs up while this is held.
#[derive(Debug)]
pub struct Claim {
    #[allow(dead_code, reason = "it is held, not read")]
    lock: Lock,
}

impl Claim {
    /// Takes the data lock and puts right what a run that died left behind.
    ///
    /// Fails with [`crate::error::ErrorKind::Locked`] while another run is at work.
    pub async fn take(stack: &Stack, purpose: &str, events: &Events) -> Result<Self> {
        let (claim, _) = Self::take_and_recover(stack, purpose, events).await?;
        Ok(claim)
    }

    pub(super) async fn take_and_recover(
        stack: &Stack,
        purpose: &str,
        events: &Events,
    ) -> Result<(Self, Option<Recovered>)> {
        let lock = Lock::exclusive_among_lookers(&stack.lock_file("data"), purpose).await?;
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
