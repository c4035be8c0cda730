//! Asking `PostgreSQL`: read-only transactions, rows as the server sends them.

use super::sql::Query;
use super::{Cell, Column, Connection, Kind, Rows, Source};
use crate::adapters::postgres::server_message;
use crate::error::{Error, ErrorKind, Result};
use crate::store::Backend;
use crate::store::postgres::{PostgresStore, explain};
use chrono::NaiveDateTime;
use futures_util::StreamExt;
use std::borrow::Cow;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Row, RowStream, SimpleQueryMessage, SimpleQueryStream, Statement};

/// How long to wait for somebody who has locked the tables.
const LOCKED: Duration = Duration::from_secs(15);

/// Statements that are executed for one group after the other.
#[derive(Debug, Default)]
pub(super) struct Statements(Mutex<HashMap<String, Statement>>);

impl Connection<'_> {
    /// How the database would go about a statement, a line a step.
    pub(super) async fn explain(self, query: Query) -> Result<Vec<String>> {
        let verb = match self.0 {
            Backend::Postgres(_) => "EXPLAIN",
            Backend::Sqlite(_) => "EXPLAIN QUERY PLAN",
        };
        let columns = match self.0 {
            Backend::Postgres(_) => vec![Column::new("plan", Kind::Text)],
            Backend::Sqlite(_) => ["id", "parent", "unused", "plan"]
                .map(|name| Column::new(name, Kind::Any))
                .to_vec(),
        };
        let query = Query {
            text: format!("{verb} {}", query.text),
            columns,
            ..query
        };
        let lines = self
            .fetch(query)
            .await?
            .into_iter()
            .filter_map(|mut row| match row.pop() {
                Some(Cell::Text(line)) => Some(line),
                _ => None,
            });
        Ok(lines.collect())
    }
}

/// Rows on their way.
pub(super) struct Stream<'a> {
    store: &'a PostgresStore,
    columns: Vec<Column>,
    rows: Sent,
}

enum Sent {
    Typed(Pin<Box<RowStream>>),
    Text(Pin<Box<SimpleQueryStream>>, Vec<Type>),
}

impl std::fmt::Debug for Stream<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

/// Begins a read-only transaction. `guarded` takes a superuser's rights away for as long as it
/// lasts: not everything that writes is a change of the database, such as `lo_export`.
pub(super) async fn begin(
    store: &PostgresStore,
    timeout: Option<Duration>,
    guarded: bool,
) -> Result<()> {
    let millis = |d: Duration| d.as_millis().clamp(1, 2_147_483_647);
    let wait = millis(
        // Before the answer takes too long, so that the reason is named.
        timeout.map_or(LOCKED, |t| (t / 2).min(LOCKED)),
    );
    // Compiling takes longer than these statements do.
    let mut sql = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL jit = off;
        SET LOCAL lock_timeout = {wait}; SET LOCAL statement_timeout = {};",
        timeout.map_or(0, millis)
    );
    if guarded {
        sql.push_str(
            "DO $$ BEGIN
                IF current_setting('is_superuser') = 'on'
                    AND EXISTS (SELECT FROM pg_roles WHERE rolname = 'pg_read_all_data')
                THEN SET LOCAL ROLE pg_read_all_data; END IF;
            END $$",
        );
    }
    let begun = store.session.batch_execute(&sql).await;
    begun.map_err(|e| failed(store, e))
}

pub(super) async fn stream(store: &PostgresStore, query: Query) -> Result<Rows<'_>> {
    let statement = prepare(store, &query.text).await?;
    execute(store, &statement, query).await
}

async fn prepare(store: &PostgresStore, sql: &str) -> Result<Statement> {
    let prepared = store.session.prepare(sql).await;
    prepared.map_err(|e| failed(store, e))
}

async fn execute<'a>(
    store: &'a PostgresStore,
    statement: &Statement,
    query: Query,
) -> Result<Rows<'a>> {
    let rows = store.session.query_raw(statement, &query.values).await;
    let rows = rows.map_err(|e| failed(store, e))?;
    Ok(Rows {
        columns: query.columns.clone(),
        source: Source::Postgres(Stream {
            store,
            columns: query.columns,
            rows: Sent::Typed(Box::pin(rows)),
        }),
    })
}

/// Rows of one statement of the user's. It is prepared first: the server takes one statement then
/// and no more, and says which columns it will answer, before anything is executed.
pub(super) async fn free<'a>(store: &'a PostgresStore, sql: &str) -> Result<Rows<'a>> {
    let prepared = store.session.prepare(sql).await;
    let statement = prepared.map_err(|e| wrong(store, sql, e))?;
    if !statement.params().is_empty() {
        return Err(
            Error::usage("the statement has parameters, which get no value here")
                .hint("Write the values into the statement."),
        );
    }
    // COPY ... TO PROGRAM and DO are no queries, and a read-only transaction does not mind them.
    if statement.columns().is_empty() {
        return Err(not_a_query());
    }
    let columns = statement.columns();
    let types = columns.iter().map(|c| c.type_().clone()).collect();
    let columns: Vec<Column> = columns
        .iter()
        .map(|column| Column {
            name: Cow::Owned(column.name().to_owned()),
            kind: Kind::Any,
        })
        .collect();
    let rows = store.session.simple_query_raw(sql).await;
    let rows = rows.map_err(|e| wrong(store, sql, e))?;
    Ok(Rows {
        columns: columns.clone(),
        source: Source::Postgres(Stream {
            store,
            columns,
            rows: Sent::Text(Box::pin(rows), types),
        }),
    })
}

/// The refusal of a statement that does not answer rows.
pub(super) fn not_a_query() -> Error {
    Error::refused("the statement is not one that answers rows")
        .hint("`k1ops query sql` reads only: use SELECT, VALUES, WITH, EXPLAIN or SHOW.")
}

impl Stream<'_> {
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Cell>>> {
        match &mut self.rows {
            Sent::Typed(rows) => {
                let Some(row) = rows.next().await else {
                    return Ok(None);
                };
                let cells = row.and_then(|row| cells(&row, &self.columns));
                cells.map(Some).map_err(|e| failed(self.store, e))
            }
            Sent::Text(rows, types) => loop {
                match rows.next().await {
                    None => return Ok(None),
                    Some(Err(error)) => return Err(wrong(self.store, "", error)),
                    Some(Ok(SimpleQueryMessage::Row(row))) => {
                        let cell = |(n, of): (usize, &Type)| text_cell(row.get(n), of);
                        return Ok(Some(types.iter().enumerate().map(cell).collect()));
                    }
                    Some(Ok(_)) => {}
                }
            },
        }
    }
}

impl Connection<'_> {
    /// Fetches by a statement that was perhaps prepared before.
    pub(super) async fn fetch_again(
        self,
        query: Query,
        statements: &Statements,
    ) -> Result<Vec<Vec<Cell>>> {
        let Backend::Postgres(store) = self.0 else {
            return self.fetch(query).await;
        };
        let known = |statements: &Statements| {
            let map = statements.0.lock().unwrap_or_else(PoisonError::into_inner);
            map.get(&query.text).cloned()
        };
        let statement = if let Some(statement) = known(statements) {
            statement
        } else {
            let statement = prepare(store, &query.text).await?;
            let mut map = statements.0.lock().unwrap_or_else(PoisonError::into_inner);
            map.insert(query.text.clone(), statement.clone());
            statement
        };
        execute(store, &statement, query).await?.collect().await
    }
}

fn cells(row: &Row, columns: &[Column]) -> Result<Vec<Cell>, tokio_postgres::Error> {
    columns
        .iter()
        .enumerate()
        .map(|(n, column)| cell(row, n, column.kind))
        .collect()
}

fn cell(row: &Row, n: usize, kind: Kind) -> Result<Cell, tokio_postgres::Error> {
    Ok(match kind {
        Kind::Count | Kind::Bytes if *row.columns()[n].type_() == Type::INT4 => {
            option(row.try_get::<_, Option<i32>>(n)?, |n| {
                Cell::Integer(n.into())
            })
        }
        Kind::Count | Kind::Bytes => option(row.try_get(n)?, Cell::Integer),
        Kind::Number | Kind::Share | Kind::Seconds => option(row.try_get(n)?, Cell::Number),
        Kind::Flag => option(row.try_get(n)?, Cell::Flag),
        // An infinite moment is none that SQLite or anybody else could show.
        Kind::Time => option(
            row.try_get::<_, Option<NaiveDateTime>>(n)
                .unwrap_or_default(),
            |moment| Cell::Time(moment.and_utc()),
        ),
        Kind::Json => option(row.try_get::<_, Option<String>>(n)?, super::lite::json),
        Kind::Text | Kind::Id | Kind::Trend | Kind::Any => option(row.try_get(n)?, Cell::Text),
    })
}

fn option<T>(value: Option<T>, cell: impl FnOnce(T) -> Cell) -> Cell {
    value.map_or(Cell::Null, cell)
}

/// A value in the server's own text.
fn text_cell(text: Option<&str>, of: &Type) -> Cell {
    let Some(text) = text else { return Cell::Null };
    let as_text = || Cell::Text(text.to_owned());
    match *of {
        Type::BOOL => Cell::Flag(text == "t"),
        Type::INT2 | Type::INT4 | Type::INT8 | Type::OID => {
            text.parse().map_or_else(|_| as_text(), Cell::Integer)
        }
        Type::FLOAT4 | Type::FLOAT8 | Type::NUMERIC if text.parse().is_ok_and(f64::is_finite) => {
            Cell::Decimal(text.to_owned())
        }
        Type::JSON | Type::JSONB => Cell::Json(text.to_owned()),
        _ => as_text(),
    }
}

/// A question of our own failed.
fn failed(store: &PostgresStore, error: tokio_postgres::Error) -> Error {
    if error.code() == Some(&SqlState::QUERY_CANCELED) {
        return too_slow();
    }
    explain(&store.shown, "be asked", error)
}

/// The answer took longer than `--timeout`.
pub(super) fn too_slow() -> Error {
    Error::failed("the answer took too long and was given up")
        .hint("Narrow the question, or allow more time with --timeout.")
}

/// A statement of the user's failed: what is wrong with it is theirs, all else is the store's.
fn wrong(store: &PostgresStore, sql: &str, error: tokio_postgres::Error) -> Error {
    let Some(code) = error.code().cloned() else {
        return failed(store, error);
    };
    let said = server_message(&error);
    if code == SqlState::INSUFFICIENT_PRIVILEGE {
        return Error::refused("the statement needs a right that it does not have")
            .because(said)
            .hint("`k1ops query sql` reads only, and without a superuser's rights.");
    }
    // Class 25: it would write, or change the transaction that keeps it from writing.
    if code.code().starts_with("25") {
        return Error::refused("the statement would change the database")
            .because(said)
            .hint("`k1ops query sql` reads only; use psql to change something.");
    }
    // Classes: 0A not supported, 21 cardinality, 22 data, 42 syntax and names.
    if matches!(&code.code()[..2], "0A" | "21" | "22" | "42") {
        let message = match position(&error, sql) {
            Some(place) => format!("the statement is wrong {place}"),
            None => "the statement is wrong".to_owned(),
        };
        return Error::new(ErrorKind::Usage, message)
            .because(said)
            .hint("Tables: k1_workflow_metadata, k1_execution_metrics, k1_quality_gates, k1_agent_executions; view: k1_workflow_summary.");
    }
    failed(store, error)
}

fn position(error: &tokio_postgres::Error, sql: &str) -> Option<String> {
    let tokio_postgres::error::ErrorPosition::Original(at) = error.as_db_error()?.position()?
    else {
        return None;
    };
    let from = usize::try_from(*at).ok()?.checked_sub(1)?;
    let rest: String = sql.chars().skip(from).take(20).collect();
    (!rest.trim().is_empty()).then(|| format!("at {:?}", rest.trim()))
}
