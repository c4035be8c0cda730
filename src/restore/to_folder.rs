//! A physical backup out of an archive into an empty folder: nothing of the stack is touched, and a
//! server of the same major version starts on the folder.

use super::physical;
use crate::archive::Archive;
use crate::backup::jobs;
use crate::error::Result;
use crate::event::Events;
use crate::interrupt::Interrupt;
use crate::repository::Repository;
use crate::stack::Stack;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
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
    /// Seconds it took.
    pub seconds: f64,
}

/// Restores the archive's data directory. On failure, what was made is removed again.
pub async fn to_folder(
    stack: &Stack,
    options: &FolderOptions,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<FolderReport> {
    let begun = Instant::now();
    let path = Repository::new(stack.repository()).find(&options.archive, &stack.name)?;
    let archive = Archive::open(&path)?;
    let source = archive.manifest().physical().next().cloned();
    let source = source.ok_or_else(|| {
        let error = archive.bad("holds no data directory of a PostgreSQL server");
        error.hint("Only what `k1ops backup --physical` wrote can be restored to a folder.")
    })?;
    let how = physical::Options {
        jobs: jobs(options.jobs.unwrap_or(stack.config.backup.jobs)),
        tablespaces: options.tablespaces.clone(),
    };
    let folder: &Path = &options.folder;
    let restored = physical::restore(&archive, &source, folder, &how, events, interrupt).await?;
    Ok(FolderReport {
        archive: path,
        folder: folder.to_path_buf(),
        server_version: source.server_version,
        files: restored.files,
        bytes: restored.bytes,
        seconds: begun.elapsed().as_secs_f64(),
    })
}
