//! One task from its taking to its answer.

use super::Worker;
use crate::agent::{Agent, Assignment, Begun, Outcome, Recorder, Source, Stream, Threshold};
use crate::conductor::{Taken, Task, TaskResult};
use crate::error::{Context, Result};
use crate::interrupt::Interrupt;
use crate::store::AgentStatus;
use serde::{Deserialize, Serialize};
use serde_json::Map;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// Most tasks end before, and need no heartbeat.
const FIRST_BEAT: Duration = Duration::from_secs(1);
/// Seconds within which the server hears of a running task again.
const BEAT: Duration = Duration::from_secs(10);
/// Seconds after which a task of which nothing was heard is handed out again: several beats, and
/// less than the response time-out, which would count as a failed try.
const CALLBACK: u64 = 45;
/// The pause before a beat or an answer that did not get through is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a task may wait here for a slot.
const SLOT: Duration = Duration::from_secs(2);
/// A second hand-out of a task that still ends here comes back after so many seconds.
const LATER: u64 = 3;

/// As many answers are remembered.
const MOST_ANSWERS: usize = 200;

/// The key in a task's input under which a plan tells the worker what is not for the agent.
pub const PLAN_KEY: &str = "_k1";

/// What a plan tells the worker.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PlanNote {
    /// The plan's name.
    pub plan: String,
    /// The gates that the task's metrics have to pass.
    #[serde(default)]
    pub gates: Vec<Threshold>,
}

/// The tasks that agents work on now, by workflow and name within it: never two at once for one.
#[derive(Default)]
pub(super) struct Running(Mutex<HashMap<(String, String), Held>>);

struct Held {
    task_id: String,
    cancel: Interrupt,
}

impl Running {
    /// Takes the place of a task, unless it is taken.
    fn enter(&self, task: &Task, cancel: &Interrupt) -> bool {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match running.entry(key(task)) {
            std::collections::hash_map::Entry::Occupied(held) => {
                let held = held.get();
                if held.task_id != task.task_id {
                    // The server gave up the earlier try: what it does is of no use any more.
                    held.cancel.raise();
                }
                false
            }
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(Held {
                    task_id: task.task_id.clone(),
                    cancel: cancel.clone(),
                });
                true
            }
        }
    }

    fn leave(&self, task: &Task) {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        running.remove(&key(task));
    }

    pub(super) fn cancel_all(&self) {
        let running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        running.values().for_each(|held| held.cancel.raise());
    }
}

/// The last answers. A server that comes back from a crash hands out what it had handed out before,
/// and one of these may overtake the answer that is just given for it.
#[derive(Default)]
pub(super) struct Answered(Mutex<VecDeque<TaskResult>>);

impl Answered {
    fn put(&self, answer: TaskResult) {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() == MOST_ANSWERS {
            answers.pop_front();
        }
        answers.push_back(answer);
    }

    fn get(&self, task_id: &str) -> Option<TaskResult> {
        let answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = answers.iter().find(|answer| answer.task_id == task_id);
        found.cloned()
    }
}

fn key(task: &Task) -> (String, String) {
    let name = task.reference_task_name.clone();
    (task.workflow_instance_id.clone(), name)
}

/// Does the task, or hands it back.
pub(super) async fn run(worker: Arc<Worker>, task: Task, slot: Option<OwnedSemaphorePermit>) {
    let job = Job {
        worker: &worker,
        task: &task,
        cancel: Interrupt::default(),
        word: tokio::sync::Mutex::default(),
    };
    if !worker.running.enter(&task, &job.cancel) {
        job.hand_back(LATER).await;
        return;
    }
    let slot = match slot {
        Some(slot) if !worker.stop.is_raised() => Some(slot),
        _ => a_slot(&worker).await,
    };
    match worker.answered.get(&task.task_id) {
        Some(answer) => {
            worker.deliver(&answer).await;
        }
        None => match slot {
            Some(slot) => job.run(slot).await,
            // After the word to stop, or more than can be done soon.
            None => job.hand_back(0).await,
        },
    }
    worker.running.leave(&task);
}

/// A slot that gets free soon, unless the worker is stopped.
async fn a_slot(worker: &Worker) -> Option<OwnedSemaphorePermit> {
    tokio::select! {
        biased;
        () = worker.stop.raised() => None,
        slot = tokio::time::timeout(SLOT, worker.slots.clone().acquire_owned()) => slot.ok()?.ok(),
    }
}

struct Job<'a> {
    worker: &'a Worker,
    task: &'a Task,
    cancel: Interrupt,
    /// One word at a time: of a heartbeat and an answer at once, the server may keep the heartbeat.
    word: tokio::sync::Mutex<()>,
}

impl Job<'_> {
    async fn run(&self, slot: OwnedSemaphorePermit) {
        let Some(agent) = self.worker.agents.for_task(&self.task.task_type) else {
            self.hand_back(LATER).await;
            return;
        };
        let done = tokio::select! {
            done = self.work(agent, slot) => done,
            () = self.beat() => return,
        };
        if let Err(error) = done {
            // Another worker, or this one later, may do better.
            let name = &self.task.reference_task_name;
            let events = &self.worker.events;
            events.warning(format!("task {name} is handed back: {error}"));
            self.hand_back(LATER).await;
        }
    }

    async fn work(&self, agent: &Agent, slot: OwnedSemaphorePermit) -> Result<()> {
        let Worker {
            recorder,
            runner,
            client,
            answers,
            ..
        } = self.worker;
        let (assignment, source) = match self.assignment() {
            Ok(assigned) => assigned,
            Err(error) => {
                let name = &self.worker.name;
                let answer = self.task.failed(name, Map::new(), error.to_string(), true);
                return client.update_task(&answer).await;
            }
        };
        let task_id = Some(self.task.task_id.as_str());
        let mut begun = recorder.begin(&source, agent, &assignment, task_id).await?;
        let quiet = |_: Stream, _: &str| {};
        let run = runner.run(agent, &assignment, &begun.folder, &self.cancel, &quiet);
        let outcome = match run.await {
            Ok(outcome) => outcome,
            Err(error) => {
                recorder.break_off(&mut begun, &error.to_string()).await?;
                Recorder::forget(&begun)?;
                return Err(error);
            }
        };
        self.tell(agent, &outcome);
        let _answering = answers.acquire().await;
        drop(slot);
        self.answer(agent, &mut begun, &outcome).await
    }

    fn assignment(&self) -> Result<(Assignment, Source)> {
        let mut input = self.task.input_data.clone();
        let note: Option<PlanNote> = input
            .remove(PLAN_KEY)
            .map(serde_json::from_value)
            .transpose()
            .context(|| format!("the task's {PLAN_KEY} is not what a plan writes"))?;
        let source = match &note {
            Some(note) => Source::plan(&note.plan),
            None => Source {
                source: "WORKER".to_owned(),
                metadata: None,
            },
        };
        let assignment = Assignment {
            workflow_id: self.task.workflow_instance_id.clone(),
            task_id: self.task.reference_task_name.clone(),
            attempt: self.task.retry_count + 1,
            input,
            gates: note.unwrap_or_default().gates,
        };
        Ok((assignment, source))
    }

    /// Records the end and gives the answer for it.
    async fn answer(&self, agent: &Agent, begun: &mut Begun, outcome: &Outcome) -> Result<()> {
        let Worker {
            recorder,
            counts,
            name,
            ..
        } = self.worker;
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        // Never given back: no heartbeat after this.
        let _last = self.word.lock().await;
        let answer = match outcome.status {
            AgentStatus::Canceled => {
                recorder.finish(begun, outcome, None).await?;
                // Ignored if the task is not wanted any more.
                self.hand_back(0).await;
                return Recorder::forget(begun);
            }
            AgentStatus::Completed => {
                count(&counts.completed);
                self.task.completed(name, outcome.output())
            }
            _ => {
                count(&counts.failed);
                let why = outcome.failure.clone().unwrap_or_default();
                let is_last = self.task.retry_count >= agent.config.retries;
                let is_final = outcome.is_final || is_last;
                self.task.failed(name, outcome.output(), why, is_final)
            }
        };
        let noted = serde_json::to_value(&answer).context(|| "the answer is not JSON")?;
        recorder.finish(begun, outcome, Some(noted)).await?;
        self.worker.answered.put(answer.clone());
        if self.worker.deliver(&answer).await.is_settled() {
            Recorder::forget(begun)?;
        }
        Ok(())
    }

    fn tell(&self, agent: &Agent, outcome: &Outcome) {
        let took = outcome.completed_at - outcome.started_at;
        self.worker.pace.note(took.to_std().unwrap_or_default());
        let mut said = format!(
            "{} of {} by {}: {} after {:.1} s",
            self.task.reference_task_name,
            self.task.workflow_instance_id,
            agent.name,
            outcome.status.name(),
            took.as_seconds_f64()
        );
        if let Some(failure) = &outcome.failure {
            said.push_str(&format!(": {failure}"));
        }
        self.worker.events.note(said);
    }

    /// Tells the server every so often that the task is worked on, and finds out whether it is still
    /// wanted. Never ends by itself.
    async fn beat(&self) {
        let Worker { client, name, .. } = self.worker;
        tokio::time::sleep(FIRST_BEAT).await;
        loop {
            let beat = async {
                let _one = self.word.lock().await;
                let word = self.task.in_progress(name, CALLBACK);
                client.update_task(&word).await?;
                client.task(&self.task.task_id).await
            };
            let pause = match beat.await {
                Ok(task) if task.status.is_open() => BEAT,
                Ok(_) => {
                    self.cancel.raise();
                    BEAT
                }
                Err(error) => {
                    tracing::info!(%error, "a heartbeat did not get through");
                    AGAIN
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Gives the task back; it may be taken again after so many seconds. A server that is away is waited
    /// for: it would keep the task until its time is up.
    async fn hand_back(&self, seconds: u64) {
        let Worker { name, counts, .. } = self.worker;
        counts.handed_back.fetch_add(1, Ordering::Relaxed);
        let word = self.task.in_progress(name, seconds);
        self.worker.deliver(&word).await;
    }
}

/// What became of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivered {
    /// The server has it.
    Taken,
    /// The server knows no such task, as after a restore to a moment before it. That does not pass.
    Unknown,
    /// The worker had to end before. The next one gives it.
    NotYet,
}

impl Delivered {
    /// Nothing is left to be done for it.
    pub(super) fn is_settled(self) -> bool {
        self != Self::NotYet
    }
}

impl Worker {
    /// Gives an answer until the server has taken it or says that it knows no such task.
    pub(super) async fn deliver(&self, answer: &TaskResult) -> Delivered {
        let (id, mut is_told) = (&answer.task_id, false);
        loop {
            let error = match self.client.update_task_if_known(answer).await {
                Ok(Taken::Yes) => break,
                Ok(Taken::Unknown) => {
                    self.events.warning(format!(
                        "the server does not know task {id} of {} any more: its answer is dropped",
                        answer.workflow_instance_id
                    ));
                    return Delivered::Unknown;
                }
                Err(error) => error,
            };
            if !is_told {
                let said = format!("the answer for task {id} waits for the server: {error}");
                self.events.warning(said);
            }
            is_told = true;
            tokio::select! {
                () = self.end.raised() => return Delivered::NotYet,
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
        self.nudges.note(&answer.workflow_instance_id);
        Delivered::Taken
    }
}
