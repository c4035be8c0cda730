//! What may be asked of the K1 tables, and the answer as rows that come one by one.
//!
//! A [`Question`] has columns with kinds; each is written once, for both databases, and answered
//! by whichever is open. Rows stream: however many there are, only a few are in memory. This module
//! does not know how an answer is shown.

mod archived;
mod grouped;
mod lite;
mod post;
mod questions;
mod sql;

pub use archived::Archived;
pub use questions::{columns, rows_name, sortable};

use super::{Backend, Store};
use crate::error::{Error, Result};
use chrono::{DateTime, Utc};
use grouped::Groups;
use std::borrow::Cow;
use std::time::Duration;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// One row a workflow, as `k1_workflow_summary` has it.
    Summary,
    /// One row a workflow: who asked for it, how it stands, its tags.
    Workflows,
    /// One row a quality gate.
    Gates {
        /// Only those that passed, or that did not.
        passed: Option<bool>,
        /// Only those whose failure is critical.
        critical: bool,
    },
    /// One row a task and metric: how many values, their average, percentiles and trend.
    Metrics,
    /// One row an agent type: how often it ran, how that ended and how long it took.
    Agents,
    /// One row a task that an agent has worked on.
    Tasks {
        /// With what the agent wrote to standard output and standard error.
        logs: bool,
    },
}

/// A question with what narrows the answer. What is `None` lets everything through.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The question.
    pub question: Question,
    /// Of this moment or later.
    pub since: Option<DateTime<Utc>>,
    /// Before this moment.
    pub until: Option<DateTime<Utc>>,
    /// Of the workflow with this id or Conductor execution id.
    pub workflow: Option<String>,
    /// Of this task.
    pub task: Option<String>,
    /// Of workflows from this source.
    pub source: Option<String>,
    /// With this status.
    pub status: Option<String>,
    /// At most so many rows.
    pub limit: Option<u64>,
    /// By this column instead of the question's own order.
    pub sort: Option<String>,
    /// The other way round.
    pub reverse: bool,
}

impl Ask {
    /// The question with nothing that narrows it.
    #[must_use]
    pub fn new(question: Question) -> Self {
        Self {
            question,
            since: None,
            until: None,
            workflow: None,
            task: None,
            source: None,
            status: None,
            limit: None,
            sort: None,
            reverse: false,
        }
    }

    /// Whether anything but the limit narrows the answer.
    #[must_use]
    pub fn is_narrowed(&self) -> bool {
        let texts = [&self.workflow, &self.task, &self.source, &self.status];
        let by_question = match self.question {
            Question::Gates { passed, critical } => passed.is_some() || critical,
            _ => false,
        };
        by_question
            || self.since.is_some()
            || self.until.is_some()
            || texts.iter().any(|text| text.is_some())
    }

    /// `PostgreSQL` takes no text with a NUL character, and no row has one.
    fn checked(&self) -> Result<()> {
        let texts = [&self.workflow, &self.task, &self.source, &self.status];
        if texts.into_iter().flatten().any(|t| t.contains('\0')) {
            return Err(Error::usage("a filter contains a NUL character"));
        }
        Ok(())
    }
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// A UUID, as text.
    Id,
    /// A moment.
    Time,
    /// A whole number.
    Count,
    /// Bytes.
    Bytes,
    /// A number.
    Number,
    /// A part of a whole, from 0 to 1.
    Share,
    /// Seconds.
    Seconds,
    /// True or false.
    Flag,
    /// JSON.
    Json,
    /// Averages over equal spans of time, oldest first.
    Trend,
    /// Whatever the statement of a user answers.
    Any,
}

/// A column of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name, the same in every format.
    pub name: Cow<'static, str>,
    /// What it holds.
    pub kind: Kind,
}

impl Column {
    pub(super) const fn new(name: &'static str, kind: Kind) -> Self {
        Self {
            name: Cow::Borrowed(name),
            kind,
        }
    }
}

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Nothing.
    Null,
    /// Text.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// A number.
    Number(f64),
    /// A number in the server's own digits, which may be more than an `f64` keeps.
    Decimal(String),
    /// True or false.
    Flag(bool),
    /// A moment.
    Time(DateTime<Utc>),
    /// JSON as text.
    Json(String),
    /// Averages; `None` for a span without a value.
    Trend(Vec<Option<f64>>),
}

/// An answer's rows, as they come.
#[derive(Debug)]
pub struct Rows<'a> {
    columns: Vec<Column>,
    source: Source<'a>,
}

#[derive(Debug)]
enum Source<'a> {
    Postgres(post::Stream<'a>),
    Sqlite(lite::Stream),
    Groups(Box<Groups<'a>>),
}

impl Rows<'_> {
    /// The columns.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The next row; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Vec<Cell>>> {
        match &mut self.source {
            Source::Postgres(stream) => stream.next().await,
            Source::Sqlite(stream) => stream.next().await,
            // Looking at a group asks for rows in turn.
            Source::Groups(groups) => Box::pin(groups.next()).await,
        }
    }

    /// All rows, for answers that are known to be short.
    pub async fn collect(mut self) -> Result<Vec<Vec<Cell>>> {
        let mut rows = Vec::new();
        while let Some(row) = self.next().await? {
            rows.push(row);
        }
        Ok(rows)
    }
}

impl Store {
    /// Asks, at one moment of the store. `timeout` bounds each statement.
    pub async fn ask(&self, ask: &Ask, timeout: Option<Duration>) -> Result<Rows<'_>> {
        ask.checked()?;
        let connection = Connection(&self.0);
        connection.begin(timeout, false).await?;
        match questions::plan(ask, connection.dialect())? {
            questions::Plan::Rows(query) => connection.stream(query).await,
            questions::Plan::Groups(plan) => {
                let columns = columns(ask.question);
                let groups = Groups::open(connection, plan).await?;
                Ok(Rows {
                    columns,
                    source: Source::Groups(Box::new(groups)),
                })
            }
        }
    }

    /// How the database would answer a question that has groups: a list of steps for finding them,
    /// for a percentile of the first one, and for its trend. Nothing for other questions.
    pub async fn plans(&self, ask: &Ask) -> Result<Vec<Vec<String>>> {
        let connection = Connection(&self.0);
        connection.begin(None, false).await?;
        match questions::plan(ask, connection.dialect())? {
            questions::Plan::Rows(_) => Ok(Vec::new()),
            questions::Plan::Groups(plan) => Groups::open(connection, plan).await?.plans().await,
        }
    }

    /// Answers one statement of the user's own, which the server itself keeps from writing.
    pub async fn ask_sql(&self, sql: &str, timeout: Option<Duration>) -> Result<Rows<'_>> {
        if sql.contains('\0') {
            return Err(Error::usage("the statement contains a NUL character"));
        }
        let connection = Connection(&self.0);
        connection.begin(timeout, true).await?;
        match connection.0 {
            Backend::Postgres(store) => post::free(store, sql).await,
            Backend::Sqlite(store) => lite::free(store, sql.to_owned()).await,
        }
    }
}

/// Whichever store is open.
#[derive(Debug, Clone, Copy)]
struct Connection<'a>(&'a Backend);

impl<'a> Connection<'a> {
    fn dialect(self) -> sql::Dialect {
        match self.0 {
            Backend::Postgres(_) => sql::Dialect::Postgres,
            Backend::Sqlite(_) => sql::Dialect::Sqlite,
        }
    }

    /// Begins the transaction that the answer is read in. It ends with the connection.
    async fn begin(self, timeout: Option<Duration>, guarded: bool) -> Result<()> {
        match self.0 {
            Backend::Postgres(store) => post::begin(store, timeout, guarded).await,
            Backend::Sqlite(store) => lite::begin(store, timeout, guarded).await,
        }
    }

    async fn stream(self, query: sql::Query) -> Result<Rows<'a>> {
        match self.0 {
            Backend::Postgres(store) => post::stream(store, query).await,
            Backend::Sqlite(store) => lite::stream(store, query).await,
        }
    }

    async fn fetch(self, query: sql::Query) -> Result<Vec<Vec<Cell>>> {
        self.stream(query).await?.collect().await
    }
}
