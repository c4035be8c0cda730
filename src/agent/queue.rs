//! Rows on their way into the K1 tables.
//!
//! Each run's rows are written as one, and what several runs bring at the same time shares one
//! transaction: a disk that is asked to be sure a thousand times has no time for anything else. The
//! store may be away for a while (tier 1's `PostgreSQL` is restarted with its stack), so rows wait for
//! it. Every row has its id from the beginning; to write it again changes nothing.

use crate::error::{Error, ErrorKind, Result};
use crate::event::Events;
use crate::stack::Stack;
use crate::store::{AgentFinish, AgentStart, NewGate, NewMetric, NewWorkflow, Store};
use std::sync::{Mutex as Lock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, oneshot};
use uuid::Uuid;

/// How long rows wait for a store that is away.
const PATIENCE: Duration = Duration::from_secs(180);

/// A row that is to be written.
#[derive(Debug, Clone)]
pub(super) enum Row {
    Workflow(NewWorkflow),
    /// An agent's, and its workflow's if that is not there yet; answers the workflow's id.
    Begin(NewWorkflow, AgentStart),
    Metric(NewMetric),
    Gate(NewGate),
    Finish(Uuid, AgentFinish),
}

/// What waits to be written, and the store that takes it.
#[derive(Debug)]
pub(super) struct Queue {
    stack: Stack,
    events: Events,
    store: Mutex<Option<Store>>,
    waiting: Lock<Vec<Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    rows: Vec<Row>,
    written: oneshot::Sender<Result<Uuid>>,
}

impl Queue {
    /// The store is opened, so that what is wrong with it shows now.
    pub(super) async fn open(stack: &Stack, events: &Events) -> Result<Self> {
        let store = Store::of(stack, events).await?;
        Ok(Self {
            stack: stack.clone(),
            events: events.clone(),
            store: Mutex::new(Some(store)),
            waiting: Lock::default(),
        })
    }

    /// Writes these rows as one, waiting for a store that is away; answers the last one's id.
    pub(super) async fn put(&self, rows: Vec<Row>) -> Result<Uuid> {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_millis(200);
        loop {
            let error = match self.put_once(rows.clone()).await {
                Ok(id) => return Ok(id),
                Err(error) => error,
            };
            let may_pass = matches!(
                error.kind(),
                ErrorKind::Failed | ErrorKind::Missing | ErrorKind::Locked
            );
            if !may_pass || Instant::now() > deadline {
                return Err(error);
            }
            tracing::info!(%error, "the K1 tables are away; trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }

    /// Whoever gets the store first writes for all who wait.
    async fn put_once(&self, rows: Vec<Row>) -> Result<Uuid> {
        let (written, mut answer) = oneshot::channel();
        self.waiting().push(Waiting { rows, written });
        let mut held = self.store.lock().await;
        if let Ok(answer) = answer.try_recv() {
            return answer;
        }
        let waiting = std::mem::take(&mut *self.waiting());
        let mut store = match held.take() {
            Some(store) => store,
            // Where it cannot be opened, the others try for themselves.
            None => Store::of(&self.stack, &self.events).await?,
        };
        if write_all(&mut store, waiting).await {
            *held = Some(store);
        }
        drop(held);
        answer.await.unwrap_or_else(|_| Err(not_written()))
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes for all in one transaction, or, if one of them cannot be written, each for itself. Whether
/// the connection can be used again.
async fn write_all(store: &mut Store, waiting: Vec<Waiting>) -> bool {
    let all = waiting.iter().map(|one| one.rows.as_slice());
    match write(store, all).await {
        Ok(ids) => {
            for (one, id) in waiting.into_iter().zip(ids) {
                // Whoever waited may have been stopped.
                let _ = one.written.send(Ok(id));
            }
            true
        }
        Err(error) if waiting.len() == 1 => {
            let is_fit = error.kind() != ErrorKind::Failed;
            if let Some(one) = waiting.into_iter().next() {
                let _ = one.written.send(Err(error));
            }
            is_fit
        }
        Err(error) if error.kind() == ErrorKind::Failed => {
            for one in waiting {
                let said = Error::failed(error.to_string());
                let _ = one.written.send(Err(said));
            }
            false
        }
        Err(_) => {
            for one in waiting {
                let written = write(store, std::iter::once(one.rows.as_slice())).await;
                let written = written.and_then(|ids| ids.last().copied().ok_or_else(not_written));
                let is_fit = !matches!(&written, Err(e) if e.kind() == ErrorKind::Failed);
                let _ = one.written.send(written);
                if !is_fit {
                    return false;
                }
            }
            true
        }
    }
}

/// Writes in one transaction; answers the id of the last row of each.
async fn write(store: &mut Store, all: impl Iterator<Item = &[Row]>) -> Result<Vec<Uuid>> {
    store.begin().await?;
    let mut ids = Vec::new();
    for rows in all {
        let mut last = Uuid::nil();
        for row in rows {
            last = match one(store, row.clone()).await {
                Ok(id) => id,
                Err(error) => {
                    store.roll_back().await?;
                    return Err(error);
                }
            };
        }
        ids.push(last);
    }
    if let Err(error) = store.commit().await {
        // Of a connection that is no more nothing is left to take back.
        let _ = store.roll_back().await;
        return Err(error);
    }
    Ok(ids)
}

async fn one(store: &Store, row: Row) -> Result<Uuid> {
    match row {
        Row::Workflow(row) => store.ensure_workflow(row).await,
        Row::Begin(workflow, mut agent) => {
            agent.workflow_id = store.ensure_workflow(workflow).await?;
            store.start_agent_execution(agent.clone()).await?;
            Ok(agent.workflow_id)
        }
        Row::Metric(row) => store.record_metric(row).await,
        Row::Gate(row) => store.record_gate(row).await,
        Row::Finish(id, row) => store.finish_agent_execution(id, row).await.map(|()| id),
    }
}

fn not_written() -> Error {
    Error::failed("rows of the K1 tables were not written")
}
