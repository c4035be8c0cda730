//! Asking `SQLite`: on a thread of its own, a few rows ahead of whoever reads them.

use super::post::{not_a_query, too_slow};
use super::sql::Query;
use super::{Cell, Column, Kind, Rows, Source};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::store::sqlite::{SqliteStore, explain, moment};
use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, InterruptHandle, Row, params_from_iter};
use std::borrow::Cow;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// How many batches of rows are read ahead.
const AHEAD: usize = 4;

/// How many rows are handed over at once.
const BATCH: usize = 64;

/// A batch ends early when its values are long.
const BATCH_BYTES: usize = 256 << 10;

/// Instructions of `SQLite`'s machine between two looks at the clock.
const LOOK: i32 = 10_000;

type Batch = Vec<Vec<Cell>>;

/// Rows on their way. Dropping it ends the statement.
pub(super) struct Stream {
    batches: mpsc::Receiver<Result<Batch>>,
    batch: std::vec::IntoIter<Vec<Cell>>,
    interrupt: Arc<InterruptHandle>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

impl Stream {
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Cell>>> {
        loop {
            if let Some(row) = self.batch.next() {
                return Ok(Some(row));
            }
            match self.batches.recv().await {
                Some(batch) => self.batch = batch?.into_iter(),
                None => return Ok(None),
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Only if somebody is still at work: the handle belongs to the connection, not to a call.
        if !self.batches.is_closed() {
            self.interrupt.interrupt();
        }
    }
}

/// Begins a transaction, so that all statements see one moment. `guarded` lets nothing through but
/// reading, whatever the statement is.
pub(super) async fn begin(
    store: &SqliteStore,
    timeout: Option<Duration>,
    guarded: bool,
) -> Result<()> {
    let store = store.clone();
    let work = move || {
        let mut db = store
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let cannot = |e| explain(&store.shown, "be asked", e);
        db.execute_batch("PRAGMA query_only = on; BEGIN")
            .map_err(cannot)?;
        if let Some(timeout) = timeout {
            let deadline = Instant::now() + timeout;
            db.progress_handler(LOOK, Some(move || Instant::now() > deadline))
                .map_err(cannot)?;
        }
        if guarded {
            db.authorizer(Some(|asked: AuthContext<'_>| allowed(&asked.action)))
                .map_err(cannot)?;
        }
        Ok(())
    };
    tokio::task::spawn_blocking(work)
        .await
        .context(|| "work on an SQLite database broke off")?
}

/// What a statement of the user's may do.
fn allowed(action: &AuthAction<'_>) -> Authorization {
    let reads = match action {
        AuthAction::Select | AuthAction::Read { .. } | AuthAction::Recursive => true,
        AuthAction::Function { function_name } => {
            !function_name.eq_ignore_ascii_case("load_extension")
        }
        AuthAction::Pragma { pragma_name, .. } => READING_PRAGMAS
            .iter()
            .any(|name| pragma_name.eq_ignore_ascii_case(name)),
        _ => false,
    };
    if reads {
        Authorization::Allow
    } else {
        Authorization::Deny
    }
}

/// Pragmas that answer and change nothing, whatever their argument is.
const READING_PRAGMAS: [&str; 9] = [
    "table_list",
    "table_info",
    "table_xinfo",
    "index_list",
    "index_info",
    "index_xinfo",
    "foreign_key_list",
    "database_list",
    "compile_options",
];

pub(super) async fn stream(store: &SqliteStore, query: Query) -> Result<Rows<'static>> {
    let columns = query.columns.clone();
    read(store, move |db, send, columns_out| {
        let mut statement = db.prepare_cached(&query.text).map_err(Failure::Own)?;
        let _ = columns_out.send(Ok(Vec::new()));
        let mut rows = statement
            .query(params_from_iter(&query.values))
            .map_err(Failure::Own)?;
        let kinds: Vec<Kind> = query.columns.iter().map(|c| c.kind).collect();
        send_all(&mut rows, &kinds, send).map_err(Failure::Own)
    })
    .await
    .map(|(_, stream)| Rows {
        columns,
        source: Source::Sqlite(stream),
    })
}

/// Rows of one statement of the user's.
pub(super) async fn free(store: &SqliteStore, sql: String) -> Result<Rows<'static>> {
    let (columns, stream) = read(store, move |db, send, columns_out| {
        let mut statement = single(db, &sql)?;
        let columns: Vec<Column> = statement
            .column_names()
            .map(|name| Column {
                name: Cow::Owned(name.to_owned()),
                kind: Kind::Any,
            })
            .collect();
        let kinds = vec![Kind::Any; columns.len()];
        let _ = columns_out.send(Ok(columns));
        let mut rows = statement.raw_query();
        send_all(&mut rows, &kinds, send).map_err(Failure::Theirs)
    })
    .await?;
    Ok(Rows {
        columns,
        source: Source::Sqlite(stream),
    })
}

/// The only statement in `sql`, which must be one that reads.
fn single<'a>(db: &'a Connection, sql: &str) -> Result<rusqlite::Statement<'a>, Failure> {
    let mut batch = rusqlite::Batch::new(db, sql);
    let first = batch.next().map_err(Failure::Theirs)?;
    let Some(statement) = first else {
        return Err(Failure::Known(Error::usage("there is no statement")));
    };
    if batch.next().map_err(Failure::Theirs)?.is_some() {
        return Err(Failure::Theirs(rusqlite::Error::MultipleStatement));
    }
    if !statement.readonly() || statement.column_count() == 0 {
        return Err(Failure::Known(not_a_query()));
    }
    if statement.parameter_count() > 0 {
        let error = Error::usage("the statement has parameters, which get no value here")
            .hint("Write the values into the statement.");
        return Err(Failure::Known(error));
    }
    Ok(statement)
}

/// Whose fault it is that a statement failed.
enum Failure {
    Own(rusqlite::Error),
    Theirs(rusqlite::Error),
    Known(Error),
}

type Columns = oneshot::Sender<Result<Vec<Column>>>;
type Batches = mpsc::Sender<Result<Batch>>;

/// Runs `work` on a thread; answers the columns once they are known.
async fn read(
    store: &SqliteStore,
    work: impl FnOnce(&Connection, &Batches, Columns) -> Result<(), Failure> + Send + 'static,
) -> Result<(Vec<Column>, Stream)> {
    let (send, batches) = mpsc::channel(AHEAD);
    let (columns_out, columns) = oneshot::channel();
    let (handle_out, handle) = oneshot::channel();
    let store = store.clone();
    tokio::task::spawn_blocking(move || {
        let db = store
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let _ = handle_out.send(db.get_interrupt_handle());
        if let Err(failure) = work(&db, &send, columns_out) {
            // Whoever has gone does not want to know.
            let _ = send.blocking_send(Err(explained(&store.shown, failure)));
        }
    });
    let broke_off = || "work on an SQLite database broke off";
    let interrupt = Arc::new(handle.await.context(broke_off)?);
    let mut stream = Stream {
        batches,
        batch: Vec::new().into_iter(),
        interrupt,
    };
    match columns.await {
        Ok(columns) => Ok((columns?, stream)),
        // The statement failed before its columns were known; the reason comes as a batch.
        Err(_) => match stream.next().await {
            Err(error) => Err(error),
            Ok(_) => Err(Error::failed(broke_off())),
        },
    }
}

fn send_all(rows: &mut rusqlite::Rows<'_>, kinds: &[Kind], send: &Batches) -> rusqlite::Result<()> {
    let (mut batch, mut bytes) = (Batch::new(), 0);
    while let Some(row) = rows.next()? {
        let cells = cells(row, kinds)?;
        bytes += cells.iter().map(weight).sum::<usize>();
        batch.push(cells);
        if batch.len() >= BATCH || bytes >= BATCH_BYTES {
            bytes = 0;
            if send.blocking_send(Ok(std::mem::take(&mut batch))).is_err() {
                return Ok(());
            }
        }
    }
    let _ = send.blocking_send(Ok(batch));
    Ok(())
}

fn weight(cell: &Cell) -> usize {
    match cell {
        Cell::Text(text) | Cell::Json(text) | Cell::Decimal(text) => text.len(),
        _ => 8,
    }
}

fn cells(row: &Row<'_>, kinds: &[Kind]) -> rusqlite::Result<Vec<Cell>> {
    kinds
        .iter()
        .enumerate()
        .map(|(n, kind)| row.get_ref(n).map(|value| cell(value, *kind)))
        .collect()
}

/// A value as its kind; what another program has put there against the rules stays what it is.
#[allow(clippy::cast_precision_loss, reason = "SQLite itself does the same")]
fn cell(value: ValueRef<'_>, kind: Kind) -> Cell {
    match (value, kind) {
        (ValueRef::Null, _) => Cell::Null,
        (ValueRef::Integer(n), Kind::Flag) => Cell::Flag(n != 0),
        (ValueRef::Integer(n), Kind::Number | Kind::Seconds | Kind::Share) => {
            Cell::Number(n as f64)
        }
        (ValueRef::Integer(n), _) => Cell::Integer(n),
        (ValueRef::Real(n), _) => Cell::Number(n),
        (ValueRef::Text(text), Kind::Time) => {
            let text = String::from_utf8_lossy(text);
            moment(&text).map_or_else(|| Cell::Text(text.into_owned()), Cell::Time)
        }
        (ValueRef::Text(text), Kind::Json) => json(String::from_utf8_lossy(text).into_owned()),
        (ValueRef::Text(text), _) => Cell::Text(String::from_utf8_lossy(text).into_owned()),
        (ValueRef::Blob(bytes), _) => Cell::Text(format!("\\x{}", hex::encode(bytes))),
    }
}

/// JSON in one form, whatever order and spaces the database keeps it in.
pub(super) fn json(text: String) -> Cell {
    let parsed = serde_json::from_str::<serde_json::Value>(&text);
    Cell::Json(parsed.map_or(text, |value| value.to_string()))
}

fn explained(shown: &str, failure: Failure) -> Error {
    let (error, theirs) = match failure {
        Failure::Known(error) => return error,
        Failure::Own(error) => (error, false),
        Failure::Theirs(error) => (error, true),
    };
    match error.sqlite_error_code() {
        Some(ErrorCode::OperationInterrupted) => too_slow(),
        Some(ErrorCode::AuthorizationForStatementDenied | ErrorCode::ReadOnly) if theirs => {
            Error::refused("the statement would do more than read")
                .because(error)
                .hint("`k1ops query sql` reads only; use sqlite3 to change something.")
        }
        Some(ErrorCode::Unknown | ErrorCode::TypeMismatch | ErrorCode::TooBig) | None if theirs => {
            Error::new(ErrorKind::Usage, "the statement is wrong")
                .because(error)
                .hint("Tables: k1_workflow_metadata, k1_execution_metrics, k1_quality_gates, k1_agent_executions; view: k1_workflow_summary.")
        }
        _ => explain(shown, "be asked", error),
    }
}
