//! A `PostgreSQL` source of an archive into a new database beside the live one, checked row by row
//! against the manifest. Making it the live one is not this module's business.

mod check;
mod load;
mod locks;
mod post_data;
mod script;
mod selection;

pub use selection::Selection;

use crate::adapters::postgres::{Address, Session, admin, quote_identifier, server_message};
use crate::archive::{Archive, PostgresSource};
use crate::backup::postgres::SESSION_SETTINGS;
use crate::error::{Error, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;

/// How to restore.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Connections that work at the same time.
    pub jobs: usize,
}

/// What was restored, and found equal to the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// Tables.
    pub tables: u64,
    /// Rows.
    pub rows: u64,
}

/// What every session of a restore sets besides the backup's settings: nothing is durable before
/// the swap, whose own commit makes everything before it durable.
const RESTORE_SETTINGS: &str = "
    SET synchronous_commit = off;
    SET maintenance_work_mem = '256MB';
    SET check_function_bodies = off;
    SET xmloption = content;
    SET client_min_messages = warning;
    SET max_parallel_maintenance_workers = 0;
";

/// Restores the archive's database under the name `database`, which must be free, on the server of
/// `address`; compares all rows with the manifest. On failure the new database is dropped again.
pub async fn restore_beside(
    archive: &Archive,
    address: &Address,
    database: &str,
    options: &Options,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<Restored> {
    let all = Selection::default();
    restore_selected(archive, address, database, &all, options, events, interrupt).await
}

/// The same with only some of the tables.
pub async fn restore_selected(
    archive: &Archive,
    address: &Address,
    database: &str,
    selection: &Selection,
    options: &Options,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<Restored> {
    let source = archive
        .manifest()
        .postgres()
        .ok_or_else(|| archive.bad("holds no PostgreSQL database"))?;
    let beside = address.with_database(database);
    let work = async {
        interrupt.check()?;
        // Not left halfway: the server would go on creating a database that nobody waits for.
        create(archive, source, address, database).await?;
        let filled = fill(archive, source, &beside, selection, options, events);
        interrupt.guard(filled).await
    };
    let result = work.await;
    if result.is_err()
        && let Err(error) = admin::drop_database(address, database).await
    {
        events.warning_with_hint(
            format!("the unfinished database {database:?} could not be dropped: {error}"),
            "Drop it by hand when the server answers again.",
        );
    }
    result
}

/// Creates roles and the empty database.
async fn create(
    archive: &Archive,
    source: &PostgresSource,
    address: &Address,
    database: &str,
) -> Result<()> {
    let session = admin::maintenance(address, &[]).await?;
    let major = session.major_version().await?;
    if major < source.server_major {
        return Err(Error::missing(format!(
            "the server has version {major}, the backup was taken from version {}",
            source.server_major
        ))
        .hint(format!(
            "Restore into a PostgreSQL {} or newer.",
            source.server_major
        )));
    }
    for statement in script::statements(&archive.read_text("postgres/roles.sql")?) {
        session
            .batch_execute(statement)
            .await
            .map_err(|e| failed("creating the roles", &e))?;
    }
    let sql = format!(
        "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {} OWNER {}",
        quote_identifier(database),
        quoted(&source.encoding),
        quoted(&source.collate),
        quoted(&source.ctype),
        quote_identifier(&source.owner),
    );
    session.batch_execute(&sql).await.map_err(|e| {
        failed(&format!("creating database {database:?}"), &e)
            .hint("The role needs CREATEDB, and must be the owner, a member of it, or a superuser.")
    })?;
    for statement in &source.database_sql {
        let sql = statement.replacen(":database:", &quote_identifier(database), 1);
        session
            .batch_execute(&sql)
            .await
            .map_err(|e| failed("setting up the database", &e))?;
    }
    Ok(())
}

fn quoted(text: &str) -> String {
    crate::adapters::postgres::quote_literal(text)
}

/// Schema, rows, what follows the rows, and the comparison.
async fn fill(
    archive: &Archive,
    source: &PostgresSource,
    beside: &Address,
    selection: &Selection,
    options: &Options,
    events: &Events,
) -> Result<Restored> {
    let source = &selection.narrow(source);
    let step = format!("restoring database {}", source.database);
    events.started(&step);
    let leader = open(beside).await?;
    let pre_data = archive.read_text("postgres/schema-pre-data.sql")?;
    execute_script(
        &leader,
        "restoring the schema",
        script::without_psql_commands(&pre_data),
    )
    .await?;

    load::all(archive, source, beside, options, events, &step).await?;
    if selection.is_everything() {
        for member in archive.manifest().members_in("postgres/large-objects") {
            load::large_objects(archive, member, &leader).await?;
        }
    }
    let sequences = archive.read_text("postgres/sequences.sql")?;
    execute_script(&leader, "setting the sequences", &sequences).await?;

    let post_data = archive.read_text("postgres/schema-post-data.sql")?;
    let mut post_data = script::without_psql_commands(&post_data).to_owned();
    if !selection.is_everything() {
        execute_script(&leader, "dropping other tables", &selection.drop_others()).await?;
        let (kept, others) = selection.post_data(&post_data);
        post_data = kept;
        events.note(format!(
            "left out {others} statements that belong to other tables, or need them"
        ));
    }
    post_data::all(source, beside, &post_data, options, events).await?;
    let rows = check::all(source, beside, options, events).await?;
    events.finished(
        step,
        format!("{rows} rows in {} tables", source.tables.len()),
    );
    Ok(Restored {
        tables: source.tables.len() as u64,
        rows,
    })
}

/// A session with the settings of a restore.
async fn open(address: &Address) -> Result<Session> {
    let session = Session::open(address).await?;
    let sql = format!("{SESSION_SETTINGS} {RESTORE_SETTINGS}");
    session
        .batch_execute(&sql)
        .await
        .map_err(|e| failed("preparing a connection", &e))?;
    Ok(session)
}

async fn execute_script(session: &Session, doing: &str, sql: &str) -> Result<()> {
    session
        .batch_execute(sql)
        .await
        .map_err(|e| failed(doing, &e))?;
    // A script sets things for its own session; later work begins from ours again.
    session
        .batch_execute(SESSION_SETTINGS)
        .await
        .map_err(|e| failed(doing, &e))
}

/// An error that says what the server said, and where in the script.
fn failed(doing: &str, error: &tokio_postgres::Error) -> Error {
    Error::failed(format!("{doing} failed: {}", server_message(error)))
}
