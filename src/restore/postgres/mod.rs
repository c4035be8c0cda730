//! A `PostgreSQL` source of an archive into a new database beside the live one, checked row by row
//! against the manifest. Making it the live one is not this module's business.

mod analyze;
mod check;
mod crew;
mod full_text;
mod left;
mod load;
mod locks;
mod post_data;
mod script;
mod selection;
pub mod sql_file;
mod tablespaces;

pub use selection::Selection;

use crate::adapters::postgres::{Address, Session, admin, quote_identifier, server_message};
use crate::archive::{Archive, PostgresSource};
use crate::backup::postgres::{Roots, SESSION_SETTINGS, properties, roles};
use crate::error::{Error, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use crew::Tasks;
use load::Loader;
use post_data::Plan;
use std::collections::{BTreeSet, VecDeque};
use tokio_postgres::error::SqlState;

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

/// Long values of columns that name no method are compressed by LZ4 where the server has it, which
/// halves the server's work for loading and takes the same space. A server without it, or older than
/// the setting, goes on as it is set up.
const FAST_COMPRESSION: &str = "
    SELECT pg_catalog.set_config(name, 'lz4', false) FROM pg_catalog.pg_settings
    WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals);
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
        create(source, address, database).await?;
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
async fn create(source: &PostgresSource, address: &Address, database: &str) -> Result<()> {
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
    // From the manifest, so that an older archive's roles come in the right order too.
    session
        .batch_execute(&roles::sql(&source.roles))
        .await
        .map_err(|e| no_roles(&e))?;
    let sql = properties::create(source, &quote_identifier(database), major);
    session
        .batch_execute(&sql)
        .await
        .map_err(|e| not_created(source, database, &e))?;
    for statement in &source.database_sql {
        let sql = statement.replacen(":database:", &quote_identifier(database), 1);
        session
            .batch_execute(&sql)
            .await
            .map_err(|e| failed("setting up the database", &e))?;
    }
    Ok(())
}

/// None of the roles was created; says by which statement that failed.
fn no_roles(error: &tokio_postgres::Error) -> Error {
    let context = error.as_db_error().and_then(|e| e.where_());
    let statement = context.and_then(|text| text.lines().next());
    let at = statement.map_or_else(String::new, |text| format!(" in {text}"));
    let what = format!(
        "creating the roles failed: {}{at}; none was created",
        server_message(error)
    );
    Error::missing(what).hint(
        "Restore as a superuser; or create the roles of the archive's postgres/roles.sql first: roles that are there \
         are left as they are.",
    )
}

/// Why the empty database could not be created, and what helps.
fn not_created(source: &PostgresSource, database: &str, error: &tokio_postgres::Error) -> Error {
    let failure = failed(&format!("creating database {database:?}"), error);
    match error.code() {
        Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => failure.hint(
            "The role needs CREATEDB, and must be the owner, a member of it, or a superuser.",
        ),
        // What the server says of a locale that it does not have, or that does not go with the encoding.
        Some(code)
            if [
                SqlState::WRONG_OBJECT_TYPE,
                SqlState::INVALID_PARAMETER_VALUE,
                SqlState::FEATURE_NOT_SUPPORTED,
            ]
            .contains(code) =>
        {
            failure.hint(format!(
                "The database needs {}. Add what is missing to the host or the image that the server runs on (on \
                 Debian: locale-gen; for ICU: a PostgreSQL that is built with it), start the server anew, and restore \
                 again.",
                locale_in_words(source)
            ))
        }
        _ => failure.hint("Mend what the server says, and restore again."),
    }
}

fn locale_in_words(source: &PostgresSource) -> String {
    let PostgresSource {
        encoding,
        collate,
        ctype,
        ..
    } = source;
    let mut text = format!(
        "encoding {encoding}, the locale {collate:?} for LC_COLLATE and {ctype:?} for LC_CTYPE"
    );
    if let Some((provider, locale)) = source
        .locale
        .as_ref()
        .and_then(|from| Some((&from.provider, from.locale.as_ref()?)))
    {
        text.push_str(&format!(", and {locale:?} of {provider}"));
    }
    text
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
    let mut said = BTreeSet::new();
    let pre_data = tablespaces::without_missing(&leader, &pre_data, &mut said, events).await?;
    leader
        .batch_execute(script::strings_of(&pre_data))
        .await
        .map_err(|e| failed("preparing a connection", &e))?;
    execute_script(
        &leader,
        "restoring the schema",
        script::without_psql_commands(&pre_data),
    )
    .await?;

    let post_data = archive.read_text("postgres/schema-post-data.sql")?;
    let post_data = tablespaces::without_missing(&leader, &post_data, &mut said, events).await?;
    let mut post_data = script::without_psql_commands(&post_data).to_owned();
    if !selection.is_everything() {
        // Sequences may go with the tables that own them.
        set_sequences(archive, &leader).await?;
        post_data = selection.limit(&leader, &post_data, events).await?;
    }
    let plan = Plan::of(&post_data, &post_data::sizes(archive, source));
    post_data::in_order(&leader, &plan.preamble, &plan.before_rows).await?;
    let roots = Roots::read(&leader).await?;
    let parts = load::parts(archive, source, &roots, &plan.indexing());
    let rows_in = Loader::new(archive, &parts, events, &step);
    let tasks = Tasks::new(parts, plan.keys, check::groups(&source.tables, &roots));
    let preamble = &plan.preamble;
    let whole = selection.is_everything();
    tokio::try_join!(
        crew::work(tasks, Some(rows_in), preamble, beside, options, events),
        beside_the_tables(archive, source, &leader, whole),
    )?;

    post_data::in_order(&leader, preamble, &plan.rest).await?;
    analyze::all(source, beside, options).await?;
    let keys = Tasks::new(VecDeque::new(), plan.foreign_keys, vec![]);
    crew::work(keys, None, preamble, beside, options, events).await?;
    post_data::in_order(&leader, "", &plan.comments).await?;
    post_data::in_order(&leader, "", &plan.event_triggers).await?;
    let rows = source.tables.iter().map(|table| table.digest.rows).sum();
    events.finished(
        step,
        format!("{rows} rows in {} tables", source.tables.len()),
    );
    Ok(Restored {
        tables: source.tables.len() as u64,
        rows,
    })
}

/// Large objects and sequences, which no table waits for. A part of a database has no large objects,
/// and its sequences are set.
async fn beside_the_tables(
    archive: &Archive,
    source: &PostgresSource,
    leader: &Session,
    whole: bool,
) -> Result<()> {
    if !whole {
        return Ok(());
    }
    // These are our own words, and may be read in another way than pg_dump's.
    leader
        .batch_execute(SESSION_SETTINGS)
        .await
        .map_err(|e| failed("preparing a connection", &e))?;
    load::large_objects(archive, leader).await?;
    set_sequences(archive, leader).await?;
    check::compare_large_objects(leader, source.large_objects).await
}

async fn set_sequences(archive: &Archive, session: &Session) -> Result<()> {
    let sequences = archive.read_text("postgres/sequences.sql")?;
    execute_script(session, "setting the sequences", &sequences).await
}

/// A session with the settings of a restore.
async fn open(address: &Address) -> Result<Session> {
    let session = Session::open(address).await?;
    let sql = format!(
        "{SESSION_SETTINGS} {RESTORE_SETTINGS} {} {FAST_COMPRESSION}",
        full_text::SETTINGS
    );
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
