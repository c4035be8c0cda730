//! What the demo showed, in numbers.

use super::compare::Compared;
use super::record::Summary;
use crate::conductor::Requeued;
use crate::error::Result;
use crate::event::Events;
use crate::stack::Tier;
use serde::Serialize;
use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// One step of the demo and how long it took.
#[derive(Debug, Clone, Serialize)]
pub struct StepTime {
    /// What was done.
    pub step: &'static str,
    /// Seconds.
    pub seconds: f64,
}

/// What the demo showed.
#[derive(Debug, Clone, Serialize)]
pub struct DemoReport {
    /// The tier it ran on.
    pub tier: Tier,
    /// The archive's size in bytes.
    pub archive_bytes: u64,
    /// What was compared, row by row, and found the same.
    pub compared: Compared,
    /// Tables that the server itself wrote to while the backup was taken, so that there is nothing
    /// to compare them with.
    pub left_out: Vec<String>,
    /// What became of the workflows that ran when the backup was taken; `None` without a server.
    pub requeued: Option<Requeued>,
    /// The workflows' end, as `query summary` tells it.
    pub summary: Summary,
    /// The steps in their order.
    pub steps: Vec<StepTime>,
    /// The whole, in seconds.
    pub seconds: f64,
    /// The scratch folder, if it was kept.
    pub folder: Option<PathBuf>,
}

/// Times steps and tells which one begins.
#[derive(Debug)]
pub(super) struct Clock {
    events: Events,
    total: usize,
    begun: Instant,
    steps: Vec<StepTime>,
}

impl Clock {
    /// A clock for `total` steps.
    pub(super) fn new(total: usize, events: &Events) -> Self {
        Self {
            events: events.clone(),
            total,
            begun: Instant::now(),
            steps: Vec::new(),
        }
    }

    /// Does one step.
    pub(super) async fn time<T>(
        &mut self,
        step: &'static str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let number = self.steps.len() + 1;
        self.events
            .note(format!("[{number}/{}] {step}", self.total));
        let begun = Instant::now();
        let done = work.await?;
        let seconds = seconds_since(begun);
        self.steps.push(StepTime { step, seconds });
        Ok(done)
    }

    /// The steps, and the seconds since the first began.
    pub(super) fn stop(self) -> (Vec<StepTime>, f64) {
        (self.steps, seconds_since(self.begun))
    }
}

/// To the millisecond; more would not come out the same twice.
fn seconds_since(begun: Instant) -> f64 {
    (begun.elapsed().as_secs_f64() * 1e3).round() / 1e3
}

impl StepTime {
    /// How long it took.
    #[must_use]
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}
