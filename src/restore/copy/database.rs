//! The `PostgreSQL` database of an archive, or some of its tables, into a new database on the stack's
//! server. The stack's own database is not touched, and its server goes on running.

use crate::adapters::postgres::{Address, admin};
use crate::archive::{Archive, PostgresSource, verify_part};
use crate::backup::jobs;
use crate::backup::postgres::large_objects;
use crate::error::{Error, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use crate::repository::Repository;
use crate::restore::choose::wrong_kind;
use crate::restore::crash;
use crate::restore::journal::{Action, Journal, Old, Replacement};
use crate::restore::plan::{Part, RestoreOptions};
use crate::restore::postgres::{self, Options, Selection};
use crate::restore::recover::abandon;
use crate::restore::run::{database_name, lend, take_back};
use crate::restore::swap::server_of;
use crate::stack::Stack;
use serde::Serialize;
use std::path::PathBuf;

/// The longest name that a server keeps whole.
const LONGEST_NAME: usize = 63;

/// A new database that would be made.
#[derive(Debug, Serialize)]
pub struct DatabaseCopy {
    /// The archive.
    pub archive: PathBuf,
    /// The server, `HOST:PORT`.
    pub server: String,
    /// The new database.
    pub database: String,
    /// Schemas and tables that it is limited to; empty: all.
    pub only: Vec<String>,
    /// Tables whose rows it gets.
    pub tables: u64,
    /// Rows.
    pub rows: u64,
    #[serde(skip)]
    selection: Selection,
    #[serde(skip)]
    opened: Archive,
    #[serde(skip)]
    jobs: usize,
}

/// A new database that was made.
#[derive(Debug, Serialize)]
pub struct CopiedDatabase {
    /// The server, `HOST:PORT`.
    pub server: String,
    /// The new database.
    pub database: String,
    /// Schemas and tables that it is limited to; empty: all.
    pub only: Vec<String>,
    /// Tables whose rows it got.
    pub tables: u64,
    /// Rows, all compared with the backup.
    pub rows: u64,
}

pub(super) async fn plan_database(
    stack: &Stack,
    options: &RestoreOptions,
    name: &str,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<DatabaseCopy> {
    let repository = Repository::of(stack)?;
    let path = repository.find(&options.archive, &stack.name)?;
    let opened = repository.open(&path)?;
    let source = opened
        .manifest()
        .postgres()
        .ok_or_else(|| opened.bad("holds no PostgreSQL database"))?;
    let only = names(&options.only);
    let selection = Selection::of(&opened, source, &only)?;
    if !stack.uses_database_url() {
        let what = "a PostgreSQL database";
        return Err(wrong_kind(stack, &opened, what, "in SQLite files")
            .hint("Set database.url to a server that the new database may be made on."));
    }
    let address = stack.database_address()?;
    check_name(name)?;
    // A stopped tier 1 is started for the work; then it is looked again.
    if !stack.is_in_docker()? {
        require_free(&address, name).await?;
    }
    let jobs = jobs(options.jobs.unwrap_or(stack.config.backup.jobs));
    let narrow = selection.narrow(source);
    verify_part(&opened, folders_of(&narrow), jobs, events, interrupt).await?;
    let chosen = narrow.tables;
    Ok(DatabaseCopy {
        archive: path,
        server: server_of(&address),
        database: name.to_owned(),
        only,
        tables: chosen.len() as u64,
        rows: chosen.iter().map(|table| table.digest.rows).sum(),
        selection,
        opened: opened.clone(),
        jobs,
    })
}

/// Where what is restored of the database lies: schema, roles and sequences, and then the rows.
fn folders_of(source: &PostgresSource) -> Vec<String> {
    let tables = source.tables.iter().map(|table| table.folder.clone());
    let mut folders: Vec<String> = tables.collect();
    folders.push("postgres".to_owned());
    if source.large_objects.parts > 0 {
        folders.push(large_objects::DEFINITIONS.to_owned());
        folders.push(large_objects::FOLDER.to_owned());
    }
    folders
}

/// What `--only` limits the database to; nothing if all of it is asked for as well.
fn names(only: &[Part]) -> Vec<String> {
    if only.contains(&Part::Postgres) {
        return Vec::new();
    }
    let name = |part: &Part| match part {
        Part::PostgresOnly(name) => Some(name.clone()),
        _ => None,
    };
    only.iter().filter_map(name).collect()
}

fn check_name(name: &str) -> Result<()> {
    if (1..=LONGEST_NAME).contains(&name.len()) && !name.contains(char::is_control) {
        return Ok(());
    }
    Err(
        Error::usage(format!("--as {name:?} cannot be the name of a database")).hint(format!(
            "A name has 1 to {LONGEST_NAME} bytes and no control characters."
        )),
    )
}

async fn require_free(address: &Address, name: &str) -> Result<()> {
    if !admin::database_exists(address, name).await? {
        return Ok(());
    }
    Err(
        Error::refused(format!("database {name:?} is there already"))
            .hint("Choose another name for --as; nothing is overwritten."),
    )
}

pub(super) async fn copy_database(
    stack: &Stack,
    plan: DatabaseCopy,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<CopiedDatabase> {
    let lent = lend(stack, true, events, interrupt).await?;
    let made = Box::pin(make(stack, plan, events, interrupt)).await;
    take_back(stack, lent).await?;
    made
}

/// It is filled under a name that nobody else has, so that giving up never drops what somebody else
/// has made under the wanted one.
async fn make(
    stack: &Stack,
    plan: DatabaseCopy,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<CopiedDatabase> {
    let address = stack.database_address()?;
    require_free(&address, &plan.database).await?;
    let action = Action::Restore {
        archive: plan.archive.clone(),
        safety: None,
    };
    let mut journal = Journal::new(stack, action);
    let beside = database_name(&plan.database, "new", &journal.id);
    journal.replacements.push(Replacement::Database {
        what: format!("postgres {}", plan.database),
        server: plan.server.clone(),
        live: plan.database.clone(),
        beside: Some(beside.clone()),
        kept: String::new(),
        old: Old::InPlace,
    });
    journal.write(stack)?;
    crash::point("restoring-noted");
    match fill(&plan, &address, &beside, events, interrupt).await {
        Ok(restored) => {
            crash::point("new-moved");
            journal.forget(stack)?;
            Ok(CopiedDatabase {
                server: plan.server,
                database: plan.database,
                only: plan.only,
                tables: restored.tables,
                rows: restored.rows,
            })
        }
        Err(error) => {
            abandon(stack, &mut journal).await?;
            Err(error)
        }
    }
}

async fn fill(
    plan: &DatabaseCopy,
    address: &Address,
    beside: &str,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<postgres::Restored> {
    let options = Options { jobs: plan.jobs };
    let (archive, selection) = (&plan.opened, &plan.selection);
    let restored = postgres::restore_selected(
        archive, address, beside, selection, &options, events, interrupt,
    )
    .await?;
    crash::point("restored-beside");
    interrupt.check()?;
    require_free(address, &plan.database).await?;
    admin::rename_database(address, beside, &plan.database).await?;
    Ok(restored)
}
