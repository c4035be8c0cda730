//! What a restore would do, as a value. Making it reads the whole archive and looks at the stack;
//! it changes nothing.

use super::postgres::Selection;
use super::swap::server_of;
use crate::adapters::fs::free_space;
use crate::adapters::postgres::admin;
use crate::archive::{
    Archive, Depth, LeftOut, PostgresSource, Source, SqliteSource, Verified, verify,
};
use crate::backup::{jobs, sqlite_files};
use crate::error::{Error, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use crate::repository::{Repository, describe};
use crate::stack::{Remembered, ServerState, Stack};
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Left free on the disk besides what is written, for logs and journals.
const MARGIN: u64 = 64 << 20;

/// A part of an archive that a restore may be limited to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The `PostgreSQL` database.
    Postgres,
    /// A schema, or a table as `SCHEMA.TABLE`, of the `PostgreSQL` database.
    PostgresOnly(String),
    /// All `SQLite` databases.
    Sqlite,
    /// The `SQLite` database of this name: `conductor` or `k1`.
    Named(String),
}

impl FromStr for Part {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "postgres" => Ok(Self::Postgres),
            "sqlite" => Ok(Self::Sqlite),
            "conductor" | "k1" => Ok(Self::Named(text.to_owned())),
            _ => match text.strip_prefix("postgres:") {
                Some(name) if !name.is_empty() => Ok(Self::PostgresOnly(name.to_owned())),
                _ => Err(Error::usage(format!(
                    "{text:?} is none of postgres, postgres:SCHEMA, postgres:SCHEMA.TABLE, sqlite, conductor and k1"
                ))),
            },
        }
    }
}

impl Part {
    fn takes(&self, source: &Source) -> bool {
        match (self, source) {
            (Self::Postgres | Self::PostgresOnly(_), Source::Postgres(_))
            | (Self::Sqlite, Source::Sqlite(_)) => true,
            (Self::Named(name), Source::Sqlite(sqlite)) => *name == sqlite.name,
            _ => false,
        }
    }
}

/// What to restore, and how.
#[derive(Debug, Clone, Default)]
pub struct RestoreOptions {
    /// A name in the repository, a path, or `latest`.
    pub archive: String,
    /// Only these parts; empty: all.
    pub only: Vec<Part>,
    /// Restore the `PostgreSQL` part into a new database of this name, and touch nothing else.
    pub new_database: Option<String>,
    /// Do not save what is there before.
    pub no_safety: bool,
    /// Start the server afterwards even if it did not run before.
    pub start: bool,
    /// End the sessions of others that are connected to the `PostgreSQL` database.
    pub terminate_sessions: bool,
    /// Instead of the configured number of jobs.
    pub jobs: Option<usize>,
}

/// A part that would be restored.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum PlannedPart {
    /// An `SQLite` file.
    Sqlite {
        /// Such as `sqlite conductor`.
        what: String,
        /// The file that is replaced.
        live: PathBuf,
        /// Rows in the archive.
        rows: u64,
        /// Its size in bytes.
        bytes: u64,
        /// Something is there that is replaced, and kept.
        replaces: bool,
        /// What the archive says of it.
        #[serde(skip)]
        source: SqliteSource,
    },
    /// A `PostgreSQL` database.
    Postgres {
        /// Such as `postgres conductor`.
        what: String,
        /// The server, `HOST:PORT`.
        server: String,
        /// The database that is replaced.
        live: String,
        /// Rows in the archive.
        rows: u64,
        /// Something is there that is replaced, and kept.
        replaces: bool,
        /// Schemas and tables that it is limited to; empty: all.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        only: Vec<String>,
        /// The same, found in the archive.
        #[serde(skip)]
        selection: Selection,
    },
}

impl PlannedPart {
    /// What it is, such as `sqlite conductor`.
    #[must_use]
    pub fn what(&self) -> &str {
        match self {
            Self::Sqlite { what, .. } | Self::Postgres { what, .. } => what,
        }
    }

    /// Something is there that is replaced, and kept.
    #[must_use]
    pub fn replaces(&self) -> bool {
        match self {
            Self::Sqlite { replaces, .. } | Self::Postgres { replaces, .. } => *replaces,
        }
    }
}

/// What becomes of the present data before anything is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Safety {
    /// It is backed up first.
    Archive,
    /// There is none.
    NothingThere,
    /// It is not backed up, as was asked for; it is still kept for undo.
    Declined,
}

/// What becomes of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerPlan {
    /// It runs: it is stopped for the swap and started again.
    StopAndStart,
    /// It does not run and is started afterwards, as was asked for.
    Start,
    /// It goes on as it is: nothing that it uses is replaced.
    Untouched,
    /// It does not run and stays so.
    LeaveStopped,
}

/// What a restore would do.
#[derive(Debug, Clone, Serialize)]
pub struct RestorePlan {
    /// The stack.
    pub stack: String,
    /// The archive.
    pub archive: PathBuf,
    /// The stack that it was taken from.
    pub archive_stack: String,
    /// When its backup began.
    pub archive_time: DateTime<Utc>,
    /// What was checked of it.
    pub verified: Verified,
    /// What is restored.
    pub parts: Vec<PlannedPart>,
    /// What is in the archive and not restored, and why.
    pub not_restored: Vec<LeftOut>,
    /// What becomes of the present data.
    pub safety: Safety,
    /// What becomes of the server.
    pub server: ServerPlan,
    /// Bytes that are written into the stack's folder.
    pub needs_bytes: u64,
    /// Bytes that are free there.
    pub free_bytes: u64,
    /// The sessions of others are ended.
    pub terminate_sessions: bool,
    /// Connections and threads.
    pub jobs: usize,
    #[serde(skip)]
    pub(super) opened: Archive,
}

/// Finds, opens and fully verifies the archive, and decides what to do with it.
pub async fn plan(
    stack: &Stack,
    options: &RestoreOptions,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<RestorePlan> {
    let path = Repository::new(stack.repository()).find(&options.archive, &stack.name)?;
    let opened = Archive::open(&path)?;
    let apart = check_apart(options)?;
    let (parts, not_restored) = choose(stack, &opened, options).await?;
    let jobs = jobs(options.jobs.unwrap_or(stack.config.backup.jobs));
    let verified = verify(&opened, Depth::Full, jobs, events, interrupt).await?;
    let (needs_bytes, free_bytes) = space(stack, &parts)?;
    let header = &opened.manifest().header;
    Ok(RestorePlan {
        stack: stack.name.clone(),
        archive: path,
        archive_stack: header.stack.clone(),
        archive_time: header.started_at,
        verified,
        safety: match (options.no_safety, parts.iter().any(PlannedPart::replaces)) {
            (_, false) => Safety::NothingThere,
            (true, true) => Safety::Declined,
            (false, true) => Safety::Archive,
        },
        parts,
        not_restored,
        server: if apart {
            ServerPlan::Untouched
        } else {
            server(stack, options.start)?
        },
        needs_bytes,
        free_bytes,
        terminate_sessions: options.terminate_sessions,
        jobs,
        opened,
    })
}

/// Chooses parts by what the stack uses and what was asked for.
async fn choose(
    stack: &Stack,
    archive: &Archive,
    options: &RestoreOptions,
) -> Result<(Vec<PlannedPart>, Vec<LeftOut>)> {
    let only = &options.only;
    let (mut parts, mut not_restored) = (Vec::new(), Vec::new());
    for source in &archive.manifest().sources {
        if let Source::Config(config) = source {
            not_restored.push(LeftOut {
                what: describe(source),
                why: format!(
                    "k1ops.toml is yours; take it out with: tar xf {} {}",
                    archive.path().display(),
                    config.path
                ),
            });
        } else if only.is_empty() || only.iter().any(|part| part.takes(source)) {
            parts.push(planned(stack, archive, source, options).await?);
        } else {
            not_restored.push(LeftOut {
                what: describe(source),
                why: "not among what --only names".to_owned(),
            });
        }
    }
    if parts.is_empty() {
        let error = archive.bad("holds nothing of what is to be restored");
        return Err(error.hint("`k1ops list` shows what each archive holds."));
    }
    check_kind(stack, archive, &parts, only)?;
    Ok((parts, not_restored))
}

/// Whether everything goes into a new database of its own, which is the only place for less than
/// all of a database: no other data is ever touched by it.
fn check_apart(options: &RestoreOptions) -> Result<bool> {
    let limited = options
        .only
        .iter()
        .any(|part| matches!(part, Part::PostgresOnly(_)));
    let postgres = !options.only.is_empty()
        && options
            .only
            .iter()
            .all(|part| matches!(part, Part::Postgres | Part::PostgresOnly(_)));
    match (&options.new_database, limited, postgres) {
        (None, true, _) => Err(Error::usage(
            "a schema or a table is restored into a new database, which has no name yet",
        )
        .hint("Name it with --as; from there, move what you need.")),
        (Some(_), _, false) => Err(Error::usage("--as names a new PostgreSQL database").hint(
            "Say with --only postgres, postgres:SCHEMA or postgres:SCHEMA.TABLE what goes into it.",
        )),
        (as_name, ..) => Ok(as_name.is_some()),
    }
}

/// What is asked for in names, found in the archive; nothing if all of it is.
fn selected(postgres: &PostgresSource, only: &[Part]) -> Result<(Vec<String>, Selection)> {
    if only.contains(&Part::Postgres) {
        return Ok(Default::default());
    }
    let names = only.iter().filter_map(|part| match part {
        Part::PostgresOnly(name) => Some(name.clone()),
        _ => None,
    });
    let names: Vec<String> = names.collect();
    let selection = Selection::of(postgres, &names)?;
    Ok((names, selection))
}

async fn planned(
    stack: &Stack,
    archive: &Archive,
    source: &Source,
    options: &RestoreOptions,
) -> Result<PlannedPart> {
    let what = describe(source);
    match source {
        Source::Postgres(postgres) => {
            if !stack.uses_database_url() {
                return Err(wrong_kind(
                    stack,
                    archive,
                    "a PostgreSQL database",
                    "in SQLite files",
                )
                .hint("Set database.url to the server that it belongs to, or restore only the rest with --only sqlite."));
            }
            let address = stack.database_address()?;
            let live = match &options.new_database {
                Some(name) => name.clone(),
                None => address.database().to_owned(),
            };
            let replaces = admin::database_exists(&address, &live).await?;
            if replaces && options.new_database.is_some() {
                return Err(Error::refused(format!(
                    "database {live:?} is there already; --as takes the name of a new one"
                ))
                .hint("Choose another name, or drop that database first."));
            }
            let (only, selection) = selected(postgres, &options.only)?;
            let tables = selection.narrow(postgres).tables;
            Ok(PlannedPart::Postgres {
                what,
                server: server_of(&address),
                replaces,
                live,
                rows: tables.iter().map(|t| t.digest.rows).sum(),
                only,
                selection,
            })
        }
        Source::Sqlite(sqlite) => {
            let live = sqlite_files(stack)
                .into_iter()
                .find_map(|(name, path)| (name == sqlite.name).then_some(path))
                .ok_or_else(|| {
                    archive.bad(format!(
                        "holds an unknown SQLite database {:?}",
                        sqlite.name
                    ))
                })?;
            Ok(PlannedPart::Sqlite {
                what,
                replaces: live.exists(),
                live,
                rows: sqlite.tables.iter().map(|t| t.digest.rows).sum(),
                bytes: sqlite.page_size * sqlite.pages,
                source: sqlite.clone(),
            })
        }
        Source::Physical(_) => Err(Error::refused(format!(
            "{what} of archive {} cannot be restored into a running stack yet",
            archive.path().display()
        ))
        .hint("Restore only the rest with --only.")),
        Source::Config(_) => Err(archive.bad("holds a configuration that cannot be restored")),
    }
}

/// An archive of `SQLite` files alone is not what a stack on `PostgreSQL` is restored from, unless
/// that is asked for.
fn check_kind(
    stack: &Stack,
    archive: &Archive,
    parts: &[PlannedPart],
    only: &[Part],
) -> Result<()> {
    let has_postgres = parts
        .iter()
        .any(|part| matches!(part, PlannedPart::Postgres { .. }));
    if stack.uses_database_url() && !has_postgres && only.is_empty() {
        return Err(wrong_kind(
            stack,
            archive,
            "SQLite databases only",
            "in PostgreSQL",
        )
        .hint("Clear database.url to go back to SQLite, or restore the files anyway with --only sqlite."));
    }
    Ok(())
}

fn wrong_kind(stack: &Stack, archive: &Archive, holds: &str, keeps: &str) -> Error {
    archive.bad(format!(
        "holds {holds}, but stack {} keeps its data {keeps}",
        stack.name
    ))
}

fn space(stack: &Stack, parts: &[PlannedPart]) -> Result<(u64, u64)> {
    let needs: u64 = parts
        .iter()
        .map(|part| match part {
            PlannedPart::Sqlite { bytes, .. } => *bytes,
            PlannedPart::Postgres { .. } => 0,
        })
        .sum();
    let folder = stack.conductor_db();
    let folder = folder.parent().unwrap_or(Path::new("."));
    let free = free_space(folder)?;
    if needs + MARGIN <= free {
        return Ok((needs, free));
    }
    Err(Error::missing(format!(
        "{} has {free} bytes free; the restored data takes {needs} beside the old",
        folder.display()
    ))
    .hint("Free some space; `k1ops undo --discard` deletes what earlier restores kept."))
}

fn server(stack: &Stack, start: bool) -> Result<ServerPlan> {
    Ok(match ServerState::read(stack)? {
        Remembered::Running(_) => ServerPlan::StopAndStart,
        _ if start => ServerPlan::Start,
        _ => ServerPlan::LeaveStopped,
    })
}
