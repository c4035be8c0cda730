//! What a restore would do, as a value. Making it reads the whole archive and looks at the stack;
//! it changes nothing.

use super::choose::choose;
use super::volume::VolumeOf;
use crate::adapters::fs::free_space;
use crate::archive::{Archive, Depth, LeftOut, Source, SqliteSource, Verified, verify};
use crate::backup::jobs;
use crate::error::{Error, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use crate::repository::Repository;
use crate::stack::docker::Service;
use crate::stack::{Stack, server_runs};
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
    /// All `SQLite` databases.
    Sqlite,
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
            _ => match text.strip_prefix("volume:") {
                Some(name) if !name.is_empty() => Ok(Self::Volume(name.to_owned())),
                _ => Err(Error::usage(format!(
                    "{text:?} is none of postgres, sqlite, conductor, k1, volumes and volume:NAME"
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
    let path = Repository::new(stack.repository()).find(&options.archive, &stack.name)?;
    let opened = Archive::open(&path)?;
    let (parts, not_restored) = choose(stack, &opened, &options.only).await?;
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
        server: server(stack, options.start).await?,
        needs_bytes,
        free_bytes,
        terminate_sessions: options.terminate_sessions,
        jobs,
        opened,
    })
}

fn space(stack: &Stack, parts: &[PlannedPart]) -> Result<(u64, u64)> {
    let needs: u64 = parts
        .iter()
        .map(|part| match part {
            PlannedPart::Sqlite { bytes, .. } => *bytes,
            // Their servers say nothing of the disk below them.
            PlannedPart::Postgres { .. } | PlannedPart::Volume { .. } => 0,
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

pub(super) async fn server(stack: &Stack, start: bool) -> Result<ServerPlan> {
    Ok(match server_runs(stack).await? {
        true => ServerPlan::StopAndStart,
        false if start => ServerPlan::Start,
        false => ServerPlan::LeaveStopped,
    })
}
