//! Taking tasks: one long poll a type, while a slot is free.
//!
//! A poll that waits holds no slot: with as many types as slots, the idle ones would keep the busy one
//! from filling them. So a few tasks more than there are slots may come; those wait for a slot, and go
//! back if none gets free soon. Of short tasks, some more are asked for on purpose.

use super::{Worker, job};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// How long the server holds a poll while nothing waits.
const LONG: Duration = Duration::from_secs(1);
/// The same where it is only looked whether there is more.
const SHORT: Duration = Duration::from_millis(50);
/// The first and the last pause between polls of a server that does not answer.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Polls for all types until the worker is stopped; answers the jobs that still run.
pub(super) async fn until_stopped(
    worker: &Arc<Worker>,
    types: &[String],
    share: usize,
) -> JoinSet<()> {
    let mut pollers = JoinSet::new();
    for kind in types {
        let poller = Poller {
            worker: worker.clone(),
            kind: kind.clone(),
            share,
        };
        pollers.spawn(poller.run());
    }
    let mut all = JoinSet::new();
    while let Some(jobs) = pollers.join_next().await {
        // A poller does not panic; if one did, its jobs would have ended with it.
        if let Ok(mut jobs) = jobs {
            all.spawn(async move { while jobs.join_next().await.is_some() {} });
        }
    }
    all
}

struct Poller {
    worker: Arc<Worker>,
    kind: String,
    share: usize,
}

impl Poller {
    async fn run(self) -> JoinSet<()> {
        let mut jobs = JoinSet::new();
        let mut pause = PAUSES.0;
        let mut is_away = false;
        // Where there were as many as were asked for, there may be more.
        let mut is_rich = false;
        while let Some(count) = self.wanted(is_rich).await {
            let wait = if is_rich { SHORT } else { LONG };
            let polled = self.poll(count, wait, &mut jobs).await;
            is_rich = matches!(polled, Ok(true));
            match polled {
                Ok(_) => {
                    if is_away {
                        self.worker
                            .events
                            .note(format!("the server hands out {} again", self.kind));
                    }
                    (pause, is_away) = (PAUSES.0, false);
                }
                Err(error) => {
                    if !is_away {
                        self.worker.events.warning(format!(
                            "no tasks of type {} can be had; trying until they can: {error}",
                            self.kind
                        ));
                    }
                    is_away = true;
                    tokio::select! {
                        () = self.worker.stop.raised() => {}
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
            while jobs.try_join_next().is_some() {}
        }
        jobs
    }

    /// As many tasks as there are free slots, and at most the type's share; of a type that is rich in
    /// short tasks some more. Waits for a free slot; none when the worker is stopped.
    async fn wanted(&self, is_rich: bool) -> Option<usize> {
        let slots = &self.worker.slots;
        let free = tokio::select! {
            biased;
            () = self.worker.stop.raised() => return None,
            permit = slots.acquire() => slots.available_permits() + usize::from(permit.is_ok()),
        };
        let Worker { pace, jobs, .. } = &*self.worker;
        Some(if is_rich {
            free + pace.ahead(*jobs)
        } else {
            free.min(self.share)
        })
    }

    /// A poll that is under way is never given up: what the server hands out meanwhile would be
    /// lost until its time is up. Answers whether as many came as were asked for.
    async fn poll(
        &self,
        count: usize,
        wait: Duration,
        jobs: &mut JoinSet<()>,
    ) -> crate::error::Result<bool> {
        let Worker { client, name, .. } = &*self.worker;
        let tasks = client.poll_tasks(&self.kind, name, count, wait).await?;
        let is_full = tasks.len() >= count;
        for task in tasks {
            // At once, so that the next poll does not count the same slot again.
            let slot = self.worker.slots.clone().try_acquire_owned().ok();
            jobs.spawn(job::run(self.worker.clone(), task, slot));
        }
        Ok(is_full)
    }
}
