//! What a worker that died has left: tasks that nobody works on, and answers that nobody gave.

use super::Worker;
use super::job::Delivered;
use crate::agent::{BrokenOff, Recorder, broken_off};
use crate::conductor::TaskResult;
use crate::error::{Context, Result};
use crate::stack::Stack;

/// Seconds after which a dead worker's task is handed out again: the server may still hold a poll of
/// that worker, and would hand the task to nobody.
const AFTER_ITS_POLLS: u64 = 2;

/// Gives the answers that were noted, closes the rows of runs that were broken off, and hands their
/// tasks back, so that they are done again at once.
pub(super) async fn settle(worker: &Worker, stack: &Stack) -> Result<()> {
    for mut left in broken_off(stack)? {
        let settled = worker.stop.guard(one(worker, &mut left));
        settled.await?;
    }
    Ok(())
}

async fn one(worker: &Worker, left: &mut BrokenOff) -> Result<()> {
    let folder = left.begun.folder.display().to_string();
    if let Some(answer) = left.answer.take() {
        let answer: TaskResult = serde_json::from_value(answer)
            .context(|| format!("the answer in {folder} is not one"))?;
        let delivered = worker.deliver(&answer).await;
        if delivered == Delivered::Taken {
            let said = format!("answered for task {}", answer.task_id);
            worker.events.note(said);
        }
        if delivered.is_settled() {
            Recorder::forget(&left.begun)?;
        }
        return Ok(());
    }
    let why = "the k1ops that ran it ended before the agent did";
    worker.recorder.break_off(&mut left.begun, why).await?;
    if let Some(id) = &left.conductor_task {
        hand_back(worker, id).await;
    }
    Recorder::forget(&left.begun)
}

/// A task that the server does not know, or that has ended, needs nothing; a server that does not
/// answer hands the task out again when its time is up.
async fn hand_back(worker: &Worker, id: &str) {
    let handed_back = async {
        let task = worker.client.task(id).await?;
        if task.status.is_open() {
            let word = task.in_progress(&worker.name, AFTER_ITS_POLLS);
            worker.client.update_task(&word).await?;
            worker.events.note(format!(
                "task {} of {} is handed out again",
                task.reference_task_name, task.workflow_instance_id
            ));
        }
        Ok::<_, crate::error::Error>(())
    };
    if let Err(error) = handed_back.await {
        tracing::info!(%error, task = id, "not handed back");
    }
}
