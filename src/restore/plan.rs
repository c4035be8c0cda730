//! What a restore would do, as a value. Making it reads the whole archive and looks at the stack;
//! it changes nothing.

use super::choose::choose;
use super::room;
use super::volume::VolumeOf;
use crate::archive::{Archive, Depth, LeftOut, Source, SqliteSource, Verified, verify};
use crate::backup::jobs;
use crate::error::{Error, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use crate::repository::{Kind, Repository};
use crate::stack::docker::Service;
use crate::stack::{Stack, server_runs};
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::path::PathBuf;
use std::str::FromStr;

/// A part of an archive that a restore may be limited to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The `PostgreSQL` database.
    Postgres,
    /// A schema, or a table as `SCHEMA.TABLE`, of the `PostgreSQL` database.
    PostgresOnly(String),
    /// All `SQLite` databases.
    Sqlite,
    /// A table of an `SQLite` database.
    Table {
        /// `conductor` or `k1`.
        database: String,
        /// Its name.
        table: String,
    },
    /// The `SQLite` database of this name: `conductor` or `k1`.
    Named(String),
    /// All volumes.
    Volumes,
    /// The volume of this name.
    Volume(String),
}

impl FromStr for Part {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "postgres" => Ok(Self::Postgres),
            "sqlite" => Ok(Self::Sqlite),
            "conductor" | "k1" => Ok(Self::Named(text.to_owned())),
            "volumes" => Ok(Self::Volumes),
            _ => match text.split_once(':') {
                Some(("volume", name)) if !name.is_empty() => Ok(Self::Volume(name.to_owned())),
                Some(("postgres", name)) if !name.is_empty() => {
                    Ok(Self::PostgresOnly(name.to_owned()))
                }
                Some((database @ ("conductor" | "k1"), table)) if !table.is_empty() => {
                    Ok(Self::Table {
                        database: database.to_owned(),
                        table: table.to_owned(),
                    })
                }
                _ => Err(Error::usage(format!(
                    "{text:?} is none of postgres, postgres:SCHEMA, postgres:SCHEMA.TABLE, sqlite, \
                     conductor, k1, conductor:TABLE, k1:TABLE, volumes and volume:NAME"
                ))),
            },
        }
    }
}

impl Part {
    pub(super) fn takes(&self, source: &Source) -> bool {
        match (self, source) {
            (Self::Postgres, Source::Postgres(_))
            | (Self::Sqlite, Source::Sqlite(_))
            | (Self::Volumes, Source::Volume(_)) => true,
            (Self::Named(name), Source::Sqlite(sqlite)) => *name == sqlite.name,
            (Self::Volume(name), Source::Volume(volume)) => *name == volume.volume,
            (Self::Volume(name), Source::Physical(cluster)) => *name == cluster.volume,
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
    },
    /// A volume of tier 1.
    Volume {
        /// Such as `volume conductor_redis_data`.
        what: String,
        /// The service that it belongs to.
        service: Service,
        /// The volume that is replaced.
        live: String,
        /// Its size in bytes.
        bytes: u64,
        /// Something is there that is replaced, and kept.
        replaces: bool,
        /// What the archive says of it.
        #[serde(skip)]
        source: Box<VolumeOf>,
    },
}

impl PlannedPart {
    /// What it is, such as `sqlite conductor`.
    #[must_use]
    pub fn what(&self) -> &str {
        match self {
            Self::Sqlite { what, .. } | Self::Postgres { what, .. } | Self::Volume { what, .. } => {
                what
            }
        }
    }

    /// Something is there that is replaced, and kept.
    #[must_use]
    pub fn replaces(&self) -> bool {
        match self {
            Self::Sqlite { replaces, .. }
            | Self::Postgres { replaces, .. }
            | Self::Volume { replaces, .. } => *replaces,
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
    require_whole_parts(&options.only)?;
    let repository = Repository::of(stack)?;
    let path = repository.find_kind(&options.archive, &stack.name, Some(Kind::Logical))?;
    let opened = repository.open(&path)?;
    let (parts, not_restored) = choose(stack, &opened, &options.only).await?;
    let jobs = jobs(options.jobs.unwrap_or(stack.config.backup.jobs));
    let verified = verify(&opened, Depth::Full, jobs, events, interrupt).await?;
    let (needs_bytes, free_bytes) = room::check(stack, &opened, &parts, events).await?;
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
        server: server(stack, options.start).await?,
        needs_bytes,
        free_bytes,
        terminate_sessions: options.terminate_sessions,
        jobs,
        opened,
    })
}

/// Less than all of a database never takes the place of a live one.
fn require_whole_parts(only: &[Part]) -> Result<()> {
    let limited = |part: &&Part| matches!(part, Part::PostgresOnly(_) | Part::Table { .. });
    match only.iter().find(limited) {
        None => Ok(()),
        Some(Part::Table { .. }) => Err(Error::usage(
            "a table is restored into a new file, which has no name yet",
        )
        .hint("Name it with --as FILE; from there, move what you need.")),
        Some(_) => Err(Error::usage(
            "a schema or a table is restored into a new database, which has no name yet",
        )
        .hint("Name it with --as DATABASE; from there, move what you need.")),
    }
}

pub(super) async fn server(stack: &Stack, start: bool) -> Result<ServerPlan> {
    Ok(match server_runs(stack).await? {
        true => ServerPlan::StopAndStart,
        false if start => ServerPlan::Start,
        false => ServerPlan::LeaveStopped,
    })
}
