//! Reminders to the server to go on with a workflow.
//!
//! An answer makes the server look what comes next. If it is just looking at the same workflow for
//! another reason, it forgets to look again, and goes on with its next round only, up to half a minute
//! later. So it is asked once more, shortly after the last answer for a workflow, but not while there is
//! more work than can be done: then nothing waits for it, and the server has enough to do.

use crate::conductor::Client;
use crate::interrupt::Interrupt;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long after the last answer the server is reminded.
const AFTER: Duration = Duration::from_millis(300);
/// The server's own round, after which nothing needs a reminder.
const ROUND_OF_SERVER: Duration = Duration::from_secs(30);
/// How often it is looked which workflows that is.
const ROUND: Duration = Duration::from_millis(100);

/// The workflows for which an answer was given of late.
#[derive(Default)]
pub(super) struct Nudges(Mutex<HashMap<String, Instant>>);

impl Nudges {
    /// An answer for this workflow was given.
    pub(super) fn note(&self, workflow: &str) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.insert(workflow.to_owned(), Instant::now());
    }

    /// Reminds the server until `end` is raised.
    pub(super) async fn run(&self, client: &Client, is_busy: impl Fn() -> bool, end: &Interrupt) {
        while !end.is_raised() {
            self.forget_old();
            while !is_busy()
                && let Some(workflow) = self.due()
            {
                // It is a reminder: the server's own round comes in any case.
                if let Err(error) = client.decide_workflow(&workflow).await {
                    tracing::debug!(%error, workflow, "the server was not reminded");
                }
            }
            tokio::select! {
                () = end.raised() => {}
                () = tokio::time::sleep(ROUND) => {}
            }
        }
    }

    /// Those that waited while all slots were taken.
    fn forget_old(&self) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, last| last.elapsed() < ROUND_OF_SERVER);
    }

    /// One whose time has come, which does not wait any more.
    fn due(&self) -> Option<String> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = waiting.iter();
        let (due, _) = all.find(|(_, last)| last.elapsed() >= AFTER)?;
        let due = due.clone();
        waiting.remove(&due);
        Some(due)
    }
}
