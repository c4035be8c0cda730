//! The K1 tables, in `PostgreSQL` or `SQLite`, with the same answers.
//!
//! Four tables (workflows, metrics, quality gates, agent executions) and the view
//! `k1_workflow_summary`. Opening a store brings its schema up to date (see `migrations`); both
//! kinds go through one contract suite, `tests/store_contract.rs`. This module does not know who
//! records or who asks.

mod migrations;
mod model;
mod postgres;
pub mod query;
mod sqlite;

pub use migrations::latest_version;
pub use model::{
    AgentFinish, AgentStart, AgentStatus, Counts, NewGate, NewMetric, NewWorkflow, SummaryFilter,
    WorkflowSummary,
};

use crate::adapters::postgres::Address;
use crate::error::{Error, Result};
use crate::event::Events;
use crate::stack::Stack;
use crate::stack::docker::Role;
use migrations::{Schema, State};
use postgres::PostgresStore;
use sqlite::SqliteStore;
use std::path::PathBuf;
use uuid::Uuid;

/// Where a store is.
#[derive(Debug, Clone)]
pub enum Place {
    /// Schema `public` of a `PostgreSQL` database.
    Postgres(Box<Address>),
    /// An `SQLite` file.
    Sqlite(PathBuf),
}

impl Place {
    /// Where the stack keeps its K1 tables: the `PostgreSQL` that its configuration names, else its
    /// own `SQLite` file.
    pub fn of(stack: &Stack) -> Result<Self> {
        Self::by(stack, Role::Administrator)
    }

    /// The same for who only reads.
    pub fn for_questions(stack: &Stack) -> Result<Self> {
        Self::by(stack, Role::Query)
    }

    fn by(stack: &Stack, role: Role) -> Result<Self> {
        if !stack.uses_database_url() {
            return Ok(Self::Sqlite(stack.k1_db()));
        }
        Ok(Self::Postgres(Box::new(stack.database_as(role)?)))
    }

    /// For messages: the URL without its password, or the path.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::Postgres(address) => address.shown().to_owned(),
            Self::Sqlite(path) => path.display().to_string(),
        }
    }
}

/// An open store. Every operation names what it was about when it fails.
#[derive(Debug)]
pub struct Store(Backend);

#[derive(Debug)]
enum Backend {
    Postgres(PostgresStore),
    Sqlite(SqliteStore),
}

/// The same operation on whichever store is open.
macro_rules! on_backend {
    ($store:expr, $operation:ident($($argument:expr),*)) => {
        match &$store.0 {
            Backend::Postgres(store) => store.$operation($($argument),*).await,
            Backend::Sqlite(store) => store.$operation($($argument),*).await,
        }
    };
}

impl Store {
    /// The stack's store, created and brought up to date as needed.
    pub async fn of(stack: &Stack, events: &Events) -> Result<Self> {
        Self::open(&Place::of(stack)?, events).await
    }

    /// Opens the store at `place`, creates what is missing and brings its schema up to date. A
    /// store that the original init-db.sql made is taken over with every row.
    ///
    /// Two processes may do this at once. A store of a newer k1ops is refused.
    pub async fn open(place: &Place, events: &Events) -> Result<Self> {
        let (backend, before) = match place {
            Place::Postgres(address) => {
                let (store, before) = PostgresStore::open(address).await?;
                (Backend::Postgres(store), before)
            }
            Place::Sqlite(path) => {
                let (store, before) = SqliteStore::open(path).await?;
                (Backend::Sqlite(store), before)
            }
        };
        tell(events, place, before);
        Ok(Self(backend))
    }

    /// Opens the store at `place` so that nothing in it can change. A schema that is not up to date
    /// is an error that says so; nothing is brought up to date.
    pub async fn open_read_only(place: &Place) -> Result<Self> {
        let (store, state) = Self::inspect(place).await?;
        match state {
            State::Current => Ok(store),
            State::Absent => Err(
                Error::missing(format!("{} has no K1 tables", place.shown()))
                    .hint("Start the stack once, or restore a backup that has them."),
            ),
            State::Behind(version) => Err(Error::missing(format!(
                "{} has schema version {version}, and this k1ops reads version {}",
                place.shown(),
                latest_version()
            ))
            .hint("Start the stack once, which brings its tables up to date.")),
        }
    }

    /// Opens an existing store for reading, as [`Store::open_read_only`] does, after bringing a
    /// schema that is behind up to date. It creates no store where there is none.
    pub async fn open_for_reading(place: &Place, events: &Events) -> Result<Self> {
        Self::open_to_read(place, place, events).await
    }

    /// The same of a stack, by a role that can do nothing else where there is one.
    pub async fn open_for_questions(stack: &Stack, events: &Events) -> Result<Self> {
        Self::open_to_read(&Place::for_questions(stack)?, &Place::of(stack)?, events).await
    }

    async fn open_to_read(place: &Place, owners: &Place, events: &Events) -> Result<Self> {
        if let (_, State::Behind(_)) = Self::inspect(place).await? {
            Self::open(owners, events).await?;
        }
        Self::open_read_only(place).await
    }

    /// Connects for reading and says how the schema stands.
    async fn inspect(place: &Place) -> Result<(Self, State)> {
        let (backend, schema) = match place {
            Place::Postgres(address) => {
                let (store, schema) = PostgresStore::inspect(address).await?;
                (Backend::Postgres(store), schema)
            }
            Place::Sqlite(path) => {
                let (store, schema) = SqliteStore::inspect(path).await?;
                (Backend::Sqlite(store), schema)
            }
        };
        let known = match backend {
            Backend::Postgres(_) => migrations::POSTGRES,
            Backend::Sqlite(_) => migrations::SQLITE,
        };
        let state = schema.state(known, &place.shown())?;
        Ok((Self(backend), state))
    }

    /// Records a workflow and answers its id. An execution id that is recorded already is refused.
    pub async fn record_workflow(&self, workflow: NewWorkflow) -> Result<Uuid> {
        let workflow = workflow.checked()?;
        on_backend!(self, record_workflow(workflow))
    }

    /// Records a workflow unless its execution id is recorded already; answers the id of the row
    /// that is there then.
    pub async fn ensure_workflow(&self, workflow: NewWorkflow) -> Result<Uuid> {
        let workflow = workflow.checked()?;
        on_backend!(self, ensure_workflow(workflow))
    }

    /// Records a measured value and answers its id.
    pub async fn record_metric(&self, metric: NewMetric) -> Result<Uuid> {
        let metric = metric.checked()?;
        on_backend!(self, record_metric(metric))
    }

    /// Records the outcome of a quality gate and answers its id.
    pub async fn record_gate(&self, gate: NewGate) -> Result<Uuid> {
        let gate = gate.checked()?;
        on_backend!(self, record_gate(gate))
    }

    /// Records that an agent has begun, with status `RUNNING`, and answers the execution's id.
    pub async fn start_agent_execution(&self, start: AgentStart) -> Result<Uuid> {
        let start = start.checked()?;
        on_backend!(self, start_agent_execution(start))
    }

    /// Records how the agent execution `id` has ended.
    pub async fn finish_agent_execution(&self, id: Uuid, finish: AgentFinish) -> Result<()> {
        let finish = finish.checked()?;
        on_backend!(self, finish_agent_execution(id, finish))
    }

    /// Begins to write several rows as one: all of them are there after [`Store::commit`], or none.
    pub async fn begin(&mut self) -> Result<()> {
        match &self.0 {
            Backend::Postgres(store) => store.control("BEGIN").await,
            Backend::Sqlite(store) => store.control("BEGIN IMMEDIATE").await,
        }
    }

    /// Makes what was written since [`Store::begin`] last.
    pub async fn commit(&mut self) -> Result<()> {
        on_backend!(self, control("COMMIT"))
    }

    /// Takes back what was written since [`Store::begin`].
    pub async fn roll_back(&mut self) -> Result<()> {
        on_backend!(self, control("ROLLBACK"))
    }

    /// The workflows that `filter` lets through, newest first, from the view.
    pub async fn workflow_summaries(&self, filter: SummaryFilter) -> Result<Vec<WorkflowSummary>> {
        let filter = filter.checked()?;
        on_backend!(self, workflow_summaries(filter))
    }

    /// How many rows each table has, at one moment.
    pub async fn counts(&self) -> Result<Counts> {
        on_backend!(self, counts())
    }
}

/// Says what opening has changed, unless there was nothing before or nothing to change.
fn tell(events: &Events, place: &Place, before: Schema) {
    let now = latest_version();
    match before {
        Schema::Original => events.note(format!(
            "took over the K1 tables in {} (schema version {now}); every row is kept",
            place.shown()
        )),
        Schema::Ours(applied) => {
            let version = applied.last().map_or(0, |last| last.version);
            if version < now {
                events.note(format!(
                    "brought the K1 tables in {} from schema version {version} to {now}",
                    place.shown()
                ));
            }
        }
        Schema::Absent => {}
    }
}
