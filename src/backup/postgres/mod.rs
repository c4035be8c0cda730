//! One `PostgreSQL` database into an archive: schema from the server's own `pg_dump`, rows by
//! parallel `COPY`, all seen through one exported snapshot.
//!
//! The rows go from the server's stream straight into compressed parts; nothing is copied to disk
//! in between, and memory is bounded by the archive writer.

mod catalog;
mod copy;
pub mod large_objects;
mod pieces;
pub mod properties;
pub mod roles;
mod roots;
mod sequences;

pub use roots::Roots;

use crate::adapters::postgres::dump::{Dumped, Inside, PgDump, Section};
use crate::adapters::postgres::{Address, Session, server_message};
use crate::archive::{
    Effort, LargeObjects, LeftOut, NewMember, PostgresSource, PostgresTable, Writer,
};
use crate::error::{Error, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use std::path::PathBuf;
use std::time::Duration;
use tokio_postgres::error::SqlState;

/// How to take the backup.
#[derive(Debug, Clone)]
pub struct Options {
    /// Connections that copy at the same time.
    pub jobs: usize,
    /// `pg_dump` or its folder; empty: find one of the server's version.
    pub pg_dump: PathBuf,
    /// The container that the server runs in, if it does; its own `pg_dump` is used unless another
    /// is told.
    pub inside: Option<Inside>,
}

/// What was taken.
#[derive(Debug)]
pub struct Taken {
    /// For the manifest.
    pub source: PostgresSource,
    /// What was not taken, and why.
    pub left_out: Vec<LeftOut>,
}

/// What every session of a backup sets, so that values have the same text here and at the restore,
/// and nothing but the user ends a long copy: what the database or the role is set to does not govern
/// it. Some settings are not known to every version of the server, and one is a superuser's.
pub const SESSION_SETTINGS: &str = "
    SET default_transaction_read_only = off;
    SET default_transaction_isolation = 'read committed';
    SET default_transaction_deferrable = off;
    SET statement_timeout = 0;
    SET idle_in_transaction_session_timeout = 0;
    SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings
    WHERE name IN ('idle_session_timeout', 'transaction_timeout');
    SELECT pg_catalog.set_config(name, 'origin', false) FROM pg_catalog.pg_settings
    WHERE name = 'session_replication_role' AND setting <> 'origin'
      AND pg_catalog.current_setting('is_superuser') = 'on';
    SET standard_conforming_strings = on;
    SET array_nulls = on;
    SET lock_timeout = '60s';
    SET search_path = '';
    SET TimeZone = 'UTC';
    SET DateStyle = 'ISO, YMD';
    SET IntervalStyle = 'postgres';
    SET bytea_output = 'hex';
    SET extra_float_digits = 3;
    SET row_security = off;
    SET synchronize_seqscans = off;
";

/// What to do when a standby had to choose between its readers and what its primary did.
const CONFLICT: &str = "Set hot_standby_feedback = on on the standby, and max_standby_streaming_delay to the length of a backup; or run it when nothing on the primary is altered or vacuumed.";

/// How many snapshots are taken before a schema that keeps changing is given up,
const SNAPSHOTS: u32 = 20;
/// and how long to leave it alone in between.
const ALTERED: Duration = Duration::from_millis(500);

/// Copies the database at `address` into `writer`.
pub async fn take(
    writer: &Writer,
    address: &Address,
    options: &Options,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<Taken> {
    interrupt
        .guard(Box::pin(take_all(writer, address, options, events)))
        .await
}

async fn take_all(
    writer: &Writer,
    address: &Address,
    options: &Options,
    events: &Events,
) -> Result<Taken> {
    let step = format!("copying database {}", address.database());
    events.started(&step);
    let leader = Session::open(address).await?;
    let major = leader.major_version().await?;
    let pg_dump = match &options.inside {
        Some(inside) if options.pg_dump.as_os_str().is_empty() => PgDump::inside(inside.clone()),
        _ => PgDump::find(major, &options.pg_dump).await?,
    };
    let Still {
        snapshot,
        mut catalog,
    } = hold_still(&leader, address, major, events).await?;
    let roots = Roots::read(&leader).await?;
    for table in &mut catalog.tables {
        // A row has the same text, and digest, whichever partition it is read from.
        if let Some(root) = roots.of(&table.schema, &table.name) {
            table.columns.clone_from(&root.columns);
        }
    }

    let moment = copy::Moment {
        leader: &leader,
        address,
        snapshot: &snapshot,
    };
    // The schema is dumped while the rows are copied: all look through the same snapshot.
    let (pre_data, post_data, copied) = tokio::try_join!(
        pg_dump.section(address, &snapshot, Section::PreData),
        pg_dump.section(address, &snapshot, Section::PostData),
        copy::all(writer, moment, &catalog.tables, options, events, &step),
    )?;
    catalog
        .left_out
        .extend(warned_of(&pre_data, &post_data, events));
    let (large_objects, sequences) =
        add_schema(writer, &leader, &catalog, pre_data.sql, post_data.sql).await?;
    let tables = tables(&catalog.tables, &copied);
    add_text(
        writer,
        "postgres/load.tsv",
        load_list(&tables, &roots, writer),
        Effort::Usual,
    )
    .await?;
    let facts = catalog.facts;
    let source = PostgresSource {
        database: address.database().to_owned(),
        server_version: facts.server_version,
        server_major: major,
        lsn: facts.lsn,
        owner: facts.owner,
        encoding: facts.encoding,
        collate: facts.collate,
        ctype: facts.ctype,
        locale: facts.locale,
        database_sql: facts.database_sql,
        roles: catalog.roles,
        tables,
        sequences,
        large_objects,
        standby: None,
    };
    add_text(
        writer,
        "postgres/database.sql",
        properties::script(&source),
        Effort::None,
    )
    .await?;
    leader
        .batch_execute("COMMIT")
        .await
        .map_err(|e| failed("ending the snapshot", &e))?;
    let rows: u64 = source.tables.iter().map(|t| t.digest.rows).sum();
    events.finished(
        step,
        format!("{rows} rows in {} tables", source.tables.len()),
    );
    Ok(Taken {
        source,
        left_out: catalog.left_out,
    })
}

/// Everything of the schema, around the large objects, and how many sequences there are.
async fn add_schema(
    writer: &Writer,
    leader: &Session,
    catalog: &catalog::Catalog,
    pre_data: String,
    post_data: String,
) -> Result<(LargeObjects, u64)> {
    add_text(
        writer,
        "postgres/roles.sql",
        roles::sql(&catalog.roles),
        Effort::None,
    )
    .await?;
    large_objects::define(writer, leader, &catalog.large_objects, &pre_data).await?;
    add_text(
        writer,
        "postgres/schema-pre-data.sql",
        pre_data,
        Effort::Usual,
    )
    .await?;
    let large_objects = large_objects::copy(writer, leader, &catalog.large_objects).await?;
    let sequences = sequences::read(leader).await?;
    add_text(
        writer,
        "postgres/sequences.sql",
        sequences.sql,
        Effort::Usual,
    )
    .await?;
    add_text(
        writer,
        "postgres/schema-post-data.sql",
        post_data,
        Effort::Usual,
    )
    .await?;
    Ok((large_objects, sequences.count))
}

/// Tells what `pg_dump` warned of. Both sections may say the same.
fn warned_of(pre_data: &Dumped, post_data: &Dumped, events: &Events) -> Vec<LeftOut> {
    let mut warnings = [pre_data.warnings.as_slice(), &post_data.warnings].concat();
    warnings.sort_unstable();
    warnings.dedup();
    let left_out = |what: String| {
        events.warning(format!("pg_dump warns: {what}"));
        let why = "pg_dump warned of it".to_owned();
        LeftOut { what, why }
    };
    warnings.into_iter().map(left_out).collect()
}

/// A snapshot, and the tables as it sees them, none of which can change any more.
struct Still {
    snapshot: String,
    catalog: catalog::Catalog,
}

/// Takes a snapshot and locks its tables. A table that was altered between the two, as by a server
/// that is just bringing its schema up to date, can no longer be read as the snapshot sees it: then
/// another snapshot is taken.
async fn hold_still(
    leader: &Session,
    address: &Address,
    major: u32,
    events: &Events,
) -> Result<Still> {
    let fresh = Session::open(address).await?;
    settle(&fresh).await?;
    for attempt in 1..=SNAPSHOTS {
        begin(leader, None).await?;
        let snapshot = export_snapshot(leader).await?;
        let catalog = catalog::read(leader, major).await?;
        let locked = catalog::lock(leader, &catalog.tables).await;
        if locked.is_ok() {
            let then = catalog::columns(leader, &catalog.tables).await?;
            if then == catalog::columns(&fresh, &catalog.tables).await? {
                return Ok(Still { snapshot, catalog });
            }
        }
        leader
            .batch_execute("ROLLBACK")
            .await
            .map_err(|e| failed("giving up a snapshot", &e))?;
        if attempt == SNAPSHOTS {
            locked?;
        }
        events.note("tables were altered while the snapshot was taken; it is taken anew");
        tokio::time::sleep(ALTERED).await;
    }
    Err(
        Error::failed("the schema does not stay the same long enough for a snapshot")
            .hint("Back up when whatever alters tables has ended."),
    )
}

/// Begins a read-only transaction on the leader, or on a worker that looks through `snapshot`.
async fn begin(session: &Session, snapshot: Option<&str>) -> Result<()> {
    let adopt = snapshot.map_or_else(String::new, |id| {
        format!("SET TRANSACTION SNAPSHOT '{id}';")
    });
    settle(session).await?;
    let sql = format!("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY; {adopt}");
    session
        .batch_execute(&sql)
        .await
        .map_err(|e| failed("beginning the snapshot", &e))
}

/// Has the session set what every session of a backup sets.
async fn settle(session: &Session) -> Result<()> {
    session
        .batch_execute(SESSION_SETTINGS)
        .await
        .map_err(|e| failed("preparing a connection", &e))
}

async fn export_snapshot(leader: &Session) -> Result<String> {
    let row = leader
        .query_one("SELECT pg_catalog.pg_export_snapshot()", &[])
        .await
        .map_err(|e| failed("exporting the snapshot", &e))?;
    Ok(row.get(0))
}

/// An error that says what the server said.
fn failed(doing: &str, error: &tokio_postgres::Error) -> Error {
    let what = format!("{doing} failed: {}", server_message(error));
    match error.code() {
        Some(code) if [SqlState::DATA_CORRUPTED, SqlState::INDEX_CORRUPTED].contains(code) => {
            Error::bad_data(what).hint(
                "A file of the server is damaged. Restore a backup with `k1ops restore latest --no-safety`; \
                 the damaged database is kept for `k1ops undo`.",
            )
        }
        // Nothing that reads one snapshot fails like this, but for what a standby has to replay.
        Some(code) if *code == SqlState::T_R_SERIALIZATION_FAILURE => {
            Error::failed(what).hint(CONFLICT)
        }
        Some(code) if *code == SqlState::LOCK_NOT_AVAILABLE => Error::failed(what)
            .hint("Another session is altering the table: run the backup again when it is done."),
        _ => Error::failed(what),
    }
}

async fn add_text(writer: &Writer, path: &str, text: String, effort: Effort) -> Result<()> {
    let raw = text.into_bytes();
    writer
        .add(NewMember {
            path: path.to_owned(),
            raw,
            rows: None,
            effort,
        })
        .await
}

fn tables(tables: &[catalog::Table], copied: &[copy::Copied]) -> Vec<PostgresTable> {
    tables
        .iter()
        .zip(copied)
        .map(|(table, copied)| PostgresTable {
            schema: table.schema.clone(),
            name: table.name.clone(),
            folder: table.folder.clone(),
            columns: table.columns.clone(),
            condition: table.condition.clone(),
            parts: copied.parts,
            digest: copied.digest,
        })
        .collect()
}

/// For people without this tool: a line a part, with the statement that takes it in.
fn load_list(tables: &[PostgresTable], roots: &Roots, writer: &Writer) -> String {
    let mut list = String::new();
    for table in tables {
        let copy = roots.copy_in(table);
        for part in 0..table.parts {
            let path = part_path(&table.folder, part);
            list.push_str(&format!("{path}{}\t{copy}\n", writer.codec().suffix()));
        }
    }
    list
}

/// The member of a table's part, without the codec's suffix.
fn part_path(folder: &str, part: u32) -> String {
    format!("{folder}/{part:06}.copy")
}
