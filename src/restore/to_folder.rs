//! A physical backup out of an archive into an empty folder: nothing of the stack is touched, and a
//! server of the same major version starts on the folder.

use super::physical;
use super::point_in_time::RecoveryPlan;
use crate::archive::{Archive, PhysicalSource};
use crate::backup::jobs;
use crate::error::Result;
use crate::event::Events;
use crate::interrupt::Interrupt;
use crate::repository::{Kind, Repository};
use crate::stack::Stack;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

/// Which archive, and where to.
#[derive(Debug, Clone, Default)]
pub struct FolderOptions {
    /// A name in the repository, a path, or `latest`.
    pub archive: String,
    /// The folder, which is empty or not there.
    pub folder: PathBuf,
    /// Where tablespaces go: their folder on the server, and the empty folder that each gets.
    pub tablespaces: BTreeMap<String, PathBuf>,
    /// Instead of the configured number of jobs.
    pub jobs: Option<usize>,
}

/// What would be laid down.
#[derive(Debug, Clone, Serialize)]
pub struct FolderPlan {
    /// The archive.
    pub archive: PathBuf,
    /// The data directory.
    pub folder: PathBuf,
    /// Where tablespaces go.
    pub tablespaces: BTreeMap<String, PathBuf>,
    /// The version of the server that it is from.
    pub server_version: String,
    /// Bytes that are written.
    pub needs_bytes: u64,
    /// Threads that work at the same time.
    pub jobs: usize,
    /// How it gets to a moment after the backup.
    pub recovery: Option<RecoveryPlan>,
    #[serde(skip)]
    pub(super) how_to_recover: Option<physical::Recovery>,
    #[serde(skip)]
    pub(super) source: PhysicalSource,
    #[serde(skip)]
    pub(super) opened: Archive,
}

/// What is in the folder now.
#[derive(Debug, Clone, Serialize)]
pub struct FolderReport {
    /// The archive.
    pub archive: PathBuf,
    /// The data directory.
    pub folder: PathBuf,
    /// The version of the server that it is from.
    pub server_version: String,
    /// Files that were compared with the server's manifest.
    pub files: u64,
    /// Bytes of the tar streams.
    pub bytes: u64,
    /// How it gets to a moment after the backup, when a server starts on it.
    pub recovery: Option<RecoveryPlan>,
    /// Seconds it took.
    pub seconds: f64,
}

/// Finds the archive, and sees to it that the folder can take what it holds.
pub fn plan_folder(stack: &Stack, options: &FolderOptions) -> Result<FolderPlan> {
    let repository = Repository::of(stack)?;
    let path = repository.find_kind(&options.archive, &stack.name, Some(Kind::Physical))?;
    planned(stack, options, repository.open(&path)?)
}

/// The plan for an archive that was chosen.
pub(super) fn planned(
    stack: &Stack,
    options: &FolderOptions,
    opened: Archive,
) -> Result<FolderPlan> {
    let source = opened.manifest().physical().next().cloned();
    let source = source.ok_or_else(|| {
        let error = opened.bad("holds no data directory of a PostgreSQL server");
        error.hint("Only what `k1ops backup --physical` wrote can be restored into a folder.")
    })?;
    let plan = FolderPlan {
        archive: opened.path().to_path_buf(),
        folder: options.folder.clone(),
        tablespaces: options.tablespaces.clone(),
        server_version: source.server_version.clone(),
        needs_bytes: source.size(),
        jobs: jobs(options.jobs.unwrap_or(stack.config.backup.jobs)),
        recovery: None,
        how_to_recover: None,
        source,
        opened,
    };
    physical::check(&plan.opened, &plan.source, &plan.folder, &plan.how())?;
    Ok(plan)
}

impl FolderPlan {
    fn how(&self) -> physical::Options {
        physical::Options {
            jobs: self.jobs,
            tablespaces: self.tablespaces.clone(),
            recovery: self.how_to_recover.clone(),
        }
    }
}

/// Lays the data directory down. On failure, what was made is removed again.
pub async fn execute_folder(
    plan: &FolderPlan,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<FolderReport> {
    let begun = Instant::now();
    let (archive, source) = (&plan.opened, &plan.source);
    let how = plan.how();
    let restored = physical::restore(archive, source, &plan.folder, &how, events, interrupt);
    let restored = restored.await?;
    Ok(FolderReport {
        archive: plan.archive.clone(),
        folder: plan.folder.clone(),
        server_version: plan.server_version.clone(),
        files: restored.files,
        bytes: restored.bytes,
        recovery: plan.recovery.clone(),
        seconds: begun.elapsed().as_secs_f64(),
    })
}
