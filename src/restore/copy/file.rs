//! An `SQLite` database of an archive, or some of its tables, into a new file.

use crate::adapters::fs::{PartialFile, create_private_folder};
use crate::adapters::sqlite::open_existing;
use crate::archive::{Archive, SqliteSource, verify_part};
use crate::backup::jobs;
use crate::backup::sqlite::digest_tables;
use crate::error::{Context, Error, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use crate::repository::Repository;
use crate::restore::journal::{Action, Journal, Old, Replacement};
use crate::restore::plan::{Part, RestoreOptions};
use crate::restore::recover::abandon;
use crate::restore::{crash, sqlite};
use crate::stack::Stack;
use rusqlite::Connection;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// A new file that would be made.
#[derive(Debug, Serialize)]
pub struct FileCopy {
    /// The archive.
    pub archive: PathBuf,
    /// Such as `sqlite conductor`.
    pub what: String,
    /// The new file.
    pub file: PathBuf,
    /// Tables that it is limited to; empty: all.
    pub only: Vec<String>,
    /// Rows.
    pub rows: u64,
    #[serde(skip)]
    source: SqliteSource,
    #[serde(skip)]
    opened: Archive,
}

/// A new file that was made.
#[derive(Debug, Serialize)]
pub struct CopiedFile {
    /// Such as `sqlite conductor`.
    pub what: String,
    /// The new file.
    pub file: PathBuf,
    /// Tables that it is limited to; empty: all.
    pub only: Vec<String>,
    /// Rows, all compared with the backup.
    pub rows: u64,
}

pub(super) async fn plan_file(
    stack: &Stack,
    options: &RestoreOptions,
    name: &str,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<FileCopy> {
    let repository = Repository::of(stack)?;
    let path = repository.find(&options.archive, &stack.name)?;
    let opened = repository.open(&path)?;
    let source = the_only_one(&opened, &options.only)?.clone();
    let only = tables(&source, &options.only)?;
    let file = std::path::absolute(name).context(|| format!("--as {name:?} is no path"))?;
    require_free(&file)?;
    let jobs = jobs(options.jobs.unwrap_or(stack.config.backup.jobs));
    let folder = vec![source.folder.clone()];
    verify_part(&opened, folder, jobs, events, interrupt).await?;
    let taken = |table: &str| only.is_empty() || only.iter().any(|name| name == table);
    let rows = source.tables.iter().filter(|table| taken(&table.name));
    Ok(FileCopy {
        archive: path,
        what: format!("sqlite {}", source.name),
        file,
        rows: rows.map(|table| table.digest.rows).sum(),
        only,
        source,
        opened,
    })
}

fn the_only_one<'a>(archive: &'a Archive, only: &[Part]) -> Result<&'a SqliteSource> {
    let named = |source: &SqliteSource| {
        only.iter().any(|part| match part {
            Part::Sqlite => true,
            Part::Named(name) => *name == source.name,
            Part::Table { database, .. } => *database == source.name,
            _ => false,
        })
    };
    let mut found = archive.manifest().sqlite().filter(|source| named(source));
    match (found.next(), found.next()) {
        (Some(source), None) => Ok(source),
        (None, _) => Err(archive.bad("does not hold that SQLite database")),
        (Some(_), Some(_)) => Err(
            Error::usage("--as makes one file, and the archive holds more")
                .hint("Name one with --only conductor, k1, conductor:TABLE or k1:TABLE."),
        ),
    }
}

/// What `--only` limits the database to; nothing if all of it is asked for as well.
fn tables(source: &SqliteSource, only: &[Part]) -> Result<Vec<String>> {
    let mut tables = Vec::new();
    for part in only {
        let Part::Table { database, table } = part else {
            return Ok(Vec::new());
        };
        if !source.tables.iter().any(|known| known.name == *table) {
            let names = source.tables.iter().map(|known| known.name.as_str());
            let nearest = names.max_by(|a, b| {
                let like = |text: &str| strsim::jaro_winkler(text, table);
                like(a).total_cmp(&like(b))
            });
            let nearest = nearest.unwrap_or_default();
            return Err(Error::usage(format!(
                "the archive has no table {table:?} in SQLite database {database}"
            ))
            .hint(format!("The nearest name is {database}:{nearest}.")));
        }
        tables.push(table.clone());
    }
    Ok(tables)
}

fn require_free(file: &Path) -> Result<()> {
    if file.symlink_metadata().is_err() {
        return Ok(());
    }
    Err(
        Error::refused(format!("{} is there already", file.display()))
            .hint("Choose another name for --as; nothing is overwritten."),
    )
}

pub(super) async fn copy_file(
    stack: &Stack,
    plan: FileCopy,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<CopiedFile> {
    let action = Action::Restore {
        archive: plan.archive.clone(),
        safety: None,
    };
    let mut journal = Journal::new(stack, action);
    // In the folder of the new file, since a rename does not cross file systems.
    let folder = plan.file.parent().unwrap_or(Path::new("/"));
    let own = folder.join(format!(".k1ops-{}", journal.id));
    let beside = own.join("new").join("copy.db");
    journal.replacements.push(Replacement::File {
        what: plan.what.clone(),
        live: plan.file.clone(),
        beside: Some(beside.clone()),
        kept: PathBuf::new(),
        old: Old::InPlace,
    });
    journal.write(stack)?;
    crash::point("restoring-noted");
    if let Err(error) = make(&plan, &beside, events, interrupt).await {
        abandon(stack, &mut journal).await?;
        return Err(error);
    }
    crash::point("new-moved");
    // Tidies up the folders of its own; the file is no longer in them.
    abandon(stack, &mut journal).await?;
    journal.forget(stack)?;
    Ok(CopiedFile {
        what: plan.what,
        file: plan.file,
        only: plan.only,
        rows: plan.rows,
    })
}

async fn make(
    plan: &FileCopy,
    beside: &Path,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<()> {
    let folder = beside.parent().unwrap_or(Path::new("/"));
    create_private_folder(folder)?;
    let (archive, source) = (&plan.opened, &plan.source);
    sqlite::restore_beside(archive, source, beside, events, interrupt).await?;
    crash::point("restored-beside");
    if !plan.only.is_empty() {
        let (plan, beside) = ((source.clone(), plan.only.clone()), beside.to_path_buf());
        let interrupt = interrupt.clone();
        tokio::task::spawn_blocking(move || keep_only(&plan.0, &plan.1, &beside, &interrupt))
            .await
            .context(|| "the thread that limits a copy died")??;
    }
    interrupt.check()?;
    let file = std::fs::File::open(beside);
    file.and_then(|file| file.sync_all())
        .context(|| format!("{} cannot be synced", beside.display()))?;
    require_free(&plan.file)?;
    PartialFile::new(beside.to_path_buf()).publish(&plan.file)
}

/// Drops everything but the tables `only` and their indexes, and compares those once more.
fn keep_only(
    source: &SqliteSource,
    only: &[String],
    file: &Path,
    interrupt: &Interrupt,
) -> Result<()> {
    let cannot = || format!("{} cannot be limited to some tables", file.display());
    let connection = open_existing(file)?;
    connection
        .pragma_update(None, "foreign_keys", false)
        .context(cannot)?;
    // Views and triggers may need tables that go; a table beneath a virtual one goes with it.
    for (kind, names) in [
        ("VIEW", "type = 'view'"),
        ("TRIGGER", "type = 'trigger'"),
        ("TABLE", "type = 'table' AND sql LIKE 'CREATE VIRTUAL%'"),
        (
            "TABLE",
            "type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
        ),
    ] {
        for name in listed(&connection, names).context(cannot)? {
            interrupt.check()?;
            if !only.contains(&name) {
                let quoted = name.replace('"', "\"\"");
                let drop = format!("DROP {kind} IF EXISTS \"{quoted}\"");
                connection.execute_batch(&drop).context(cannot)?;
            }
        }
    }
    connection
        .execute_batch("PRAGMA journal_mode = DELETE; VACUUM")
        .context(cannot)?;
    let found = digest_tables(&connection, interrupt)?;
    let wanted = source.tables.iter().filter(|t| only.contains(&t.name));
    if found.iter().eq(wanted) {
        return Ok(());
    }
    Err(Error::bad_data(format!(
        "{} does not hold exactly the tables that were asked for",
        file.display()
    ))
    .hint("A table beneath a virtual one cannot be restored alone; restore the whole database with --as."))
}

fn listed(connection: &Connection, which: &str) -> rusqlite::Result<Vec<String>> {
    let sql = format!("SELECT name FROM sqlite_schema WHERE {which}");
    let mut statement = connection.prepare(&sql)?;
    let names = statement.query_map([], |row| row.get(0))?;
    names.collect()
}
