//! What a backup would do, as a value: nothing is opened, locked or written to make it.

use crate::adapters::host;
use crate::archive::{CodecSettings, LeftOut};
use crate::config::{Compression, Encryption};
use crate::error::{Error, Result};
use crate::repository::{Purpose, Repository, partial_of};
use crate::stack::Stack;
use crate::stack::docker::{Deployment, Names, Service};
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// How a backup is to be made.
#[derive(Debug, Clone, Default)]
pub struct BackupOptions {
    /// A file to write instead of one in the repository; it must not exist.
    pub output: Option<PathBuf>,
    /// Instead of the configured compression.
    pub compression: Option<Compression>,
    /// Instead of the configured level.
    pub level: Option<i32>,
    /// Instead of the configured number of jobs.
    pub jobs: Option<usize>,
    /// Read every byte back after writing, not only the structure.
    pub verify_fully: bool,
    /// The whole data directory of the `PostgreSQL` server instead of the rows of one database.
    pub physical: bool,
}

/// A thing that would be backed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum PlannedSource {
    /// The `PostgreSQL` database that the configuration names.
    Postgres {
        /// Its URL without the password.
        database: String,
    },
    /// The data directory of the `PostgreSQL` server that the configuration names.
    Physical {
        /// The URL that it is reached by, without the password.
        server: String,
    },
    /// An `SQLite` file.
    Sqlite {
        /// What it holds: `conductor` or `k1`.
        name: String,
        /// Where it is.
        path: PathBuf,
        /// Its size with its write-ahead log, in bytes.
        bytes: u64,
    },
    /// A volume of tier 1.
    Volume {
        /// The volume.
        volume: String,
        /// The service that it belongs to.
        service: Service,
    },
    /// The configuration without secrets.
    Config {
        /// Its member.
        path: String,
    },
}

/// What a backup would do.
#[derive(Debug, Clone, Serialize)]
pub struct BackupPlan {
    /// The stack.
    pub stack: String,
    /// When the backup begins.
    pub started_at: DateTime<Utc>,
    /// The archive to write.
    pub archive: PathBuf,
    /// What goes into it.
    pub sources: Vec<PlannedSource>,
    /// The standby that is read in place of the database's server, if it is fit for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standby: Option<String>,
    /// What does not, and why.
    pub left_out: Vec<LeftOut>,
    /// Connections and compressing threads.
    pub jobs: usize,
    /// What the volumes are called in the archive.
    #[serde(skip)]
    pub(super) names: Names,
    /// How members are compressed.
    #[serde(skip)]
    pub codec: CodecSettings,
    /// Read every byte back after writing.
    pub verify_fully: bool,
}

/// Decides what to back up and where to.
///
/// Fails with [`crate::error::ErrorKind::Missing`] if the stack has no data.
pub fn plan(stack: &Stack, options: &BackupOptions, purpose: Purpose) -> Result<BackupPlan> {
    let started_at = Utc::now();
    let mut sources = sources_of(stack)?;
    if options.physical {
        sources = physical(stack, sources)?;
    }
    if !has_data(&sources) {
        return Err(nothing_to_back_up(stack));
    }
    let standby = match purpose {
        Purpose::Backup => stack.standby_address()?,
        // Of what is about to be replaced nothing may be missing.
        Purpose::Safety => None,
    };
    let configured = &stack.config.backup;
    let compression = options.compression.unwrap_or(configured.compression);
    let wanted = options.jobs.unwrap_or(configured.jobs);
    let level = options.level.unwrap_or(configured.level);
    Ok(BackupPlan {
        stack: stack.name.clone(),
        started_at,
        archive: place(stack, options, started_at, purpose)?,
        sources,
        standby: standby.map(|address| address.shown().to_owned()),
        left_out: left_out(stack),
        names: Names::new(stack.config.docker.prefix.clone()),
        jobs: match purpose {
            Purpose::Backup if wanted == 0 => idle_processors(),
            _ => jobs(wanted),
        },
        codec: CodecSettings::of(compression, level),
        verify_fully: options.verify_fully,
    })
}

/// `wanted` jobs, or one for each CPU.
#[must_use]
pub fn jobs(wanted: usize) -> usize {
    if wanted > 0 {
        return wanted;
    }
    host::processors()
}

/// One job for each CPU that other work on this host leaves idle now: a backup that takes every CPU
/// from a busy server is felt by all its users.
fn idle_processors() -> usize {
    let idle = host::processors().saturating_sub(host::busy_processors());
    idle.max(1)
}

/// Everything of the stack that holds data or describes it.
pub fn sources_of(stack: &Stack) -> Result<Vec<PlannedSource>> {
    let mut sources = Vec::new();
    if stack.uses_database_url() {
        sources.push(PlannedSource::Postgres {
            database: stack.config.database.url.to_string(),
        });
    }
    for (name, path) in sqlite_files(stack) {
        if path.is_file() {
            sources.push(PlannedSource::Sqlite {
                name: name.to_owned(),
                bytes: size_with_log(&path),
                path,
            });
        }
    }
    if stack.is_in_docker()? {
        let deployment = Deployment::of(stack)?;
        let mut services = deployment.settings.services();
        services.retain(|service| Service::WITH_VOLUME.contains(service));
        for service in services {
            sources.push(PlannedSource::Volume {
                volume: deployment.volume(service),
                service,
            });
        }
    }
    sources.push(PlannedSource::Config {
        path: super::config_file::MEMBER.to_owned(),
    });
    Ok(sources)
}

/// With the server as a whole in the place of its database.
fn physical(stack: &Stack, mut sources: Vec<PlannedSource>) -> Result<Vec<PlannedSource>> {
    if !stack.uses_database_url() {
        let what = format!("stack {} keeps its data in SQLite files", stack.name);
        return Err(Error::usage(what)
            .hint("A physical backup is of a PostgreSQL server; back up without --physical."));
    }
    if stack.is_in_docker()? {
        // The server's volume is among the sources already.
        sources.retain(|source| !matches!(source, PlannedSource::Postgres { .. }));
        return Ok(sources);
    }
    for source in &mut sources {
        if let PlannedSource::Postgres { database } = source {
            let server = std::mem::take(database);
            *source = PlannedSource::Physical { server };
        }
    }
    Ok(sources)
}

/// The `SQLite` databases that a stack may have, by the name they go under in an archive.
#[must_use]
pub fn sqlite_files(stack: &Stack) -> [(&'static str, PathBuf); 2] {
    [("conductor", stack.conductor_db()), ("k1", stack.k1_db())]
}

/// Whether there is anything among `sources` that cannot be made again.
#[must_use]
pub fn has_data(sources: &[PlannedSource]) -> bool {
    sources
        .iter()
        .any(|source| !matches!(source, PlannedSource::Config { .. }))
}

fn size_with_log(path: &Path) -> u64 {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    [path, Path::new(&log)]
        .iter()
        .filter_map(|file| std::fs::metadata(file).ok())
        .map(|metadata| metadata.len())
        .sum()
}

fn nothing_to_back_up(stack: &Stack) -> Error {
    Error::missing(format!("stack {} has no data to back up", stack.name)).hint(format!(
        "Neither database.url is set nor is there a database in {}; start the stack first, or name the right one with --stack or --config.",
        stack.folder.join("data").display()
    ))
}

fn place(
    stack: &Stack,
    options: &BackupOptions,
    started_at: DateTime<Utc>,
    purpose: Purpose,
) -> Result<PathBuf> {
    let Some(output) = &options.output else {
        return Repository::of(stack)?.new_place(&stack.name, started_at, purpose);
    };
    let partial = partial_of(output);
    if output.exists() {
        return Err(
            Error::refused(format!("{} exists already", output.display()))
                .hint("Choose another name for --output; a backup never replaces a file."),
        );
    }
    if partial.exists() {
        return Err(Error::refused(format!(
            "{} exists: a backup is writing it, or died while it did",
            partial.display()
        ))
        .hint("Remove it if no backup is running, or choose another name for --output."));
    }
    Ok(output.clone())
}

fn left_out(stack: &Stack) -> Vec<LeftOut> {
    let thing = |what: &str, why: &str| LeftOut {
        what: what.to_owned(),
        why: why.to_owned(),
    };
    let mut left_out = vec![thing(
        "secrets of the configuration",
        if stack.config.encryption == Encryption::default() {
            "the archive is not encrypted"
        } else {
            "they are the host's, not the stack's"
        },
    )];
    if stack.server_log().exists() {
        left_out.push(thing("server logs", "they are no data of the stack"));
    }
    left_out
}
