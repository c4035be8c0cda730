//! Putting stranded workflows back to work. A workflow that runs but has lost its place in the
//! server's decider queue, as may happen when queue and workflows were not saved at the same
//! moment, never moves again by itself.

use super::Client;
use crate::error::{Error, Result};
use crate::event::{Events, Unit};
use crate::interrupt::Interrupt;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

/// Requests in flight: enough to hide the way to the server, few enough to leave its database
/// connections (ten, or a single one on `SQLite`) to the workers.
const IN_FLIGHT: usize = 8;

/// What became of the workflows that run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Requeued {
    /// Workflows that run and are not paused.
    pub running: u64,
    /// Of these, stranded and put back.
    pub requeued: u64,
    /// Of these, in their place already.
    pub untouched: u64,
    /// Of these, not put back because the server refused.
    pub failed: u64,
}

/// Puts every stranded workflow back into the decider queue. A refusal for one workflow is counted
/// and does not keep the others from being put back.
pub async fn requeue(client: &Client, events: &Events, interrupt: &Interrupt) -> Result<Requeued> {
    let step = "requeueing stranded workflows";
    events.started(step);
    let ids = interrupt.guard(client.running_workflows()).await?;
    let total = ids.len() as u64;
    let mut counts = Requeued {
        running: total,
        ..Requeued::default()
    };
    let answers = stream::iter(ids)
        .map(|id| async move { Ok::<_, Error>((put_back(client, &id).await, id)) })
        .buffer_unordered(IN_FLIGHT);
    let count = answers.try_for_each(|(answer, id)| {
        match answer {
            Ok(true) => counts.requeued += 1,
            Ok(false) => counts.untouched += 1,
            Err(error) => {
                tracing::warn!(%error, workflow = id, "not requeued");
                counts.failed += 1;
            }
        }
        let done = counts.requeued + counts.untouched + counts.failed;
        events.progress(step, done, Some(total), Unit::Items);
        std::future::ready(Ok(()))
    });
    interrupt.guard(count).await?;
    if counts.failed > 0 {
        events.warning_with_hint(
            format!(
                "{} of {total} workflows could not be requeued",
                counts.failed
            ),
            "See the server's log for the reason; the log at -v names the workflows.",
        );
    }
    events.finished(
        step,
        format!(
            "{total} running, {} requeued, {} in their place",
            counts.requeued, counts.untouched
        ),
    );
    Ok(counts)
}

/// Whether the workflow was missing from the queue and is there again.
pub(super) async fn put_back(client: &Client, id: &str) -> Result<bool> {
    let path = Client::path(&["admin", "sweep", "requeue", id], &[])?;
    let answer = client.post(&path, &serde_json::Map::new()).await?;
    // `true.ID` or `false.ID`.
    match answer.trim().split_once('.') {
        Some(("true", _)) => Ok(true),
        Some(("false", _)) => Ok(false),
        _ => Err(Error::failed(format!(
            "Conductor at {} answered {path} with {answer:?}",
            client.base()
        ))),
    }
}
