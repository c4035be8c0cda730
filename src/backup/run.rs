//! A backup from its plan to the archive that was read back.

use super::plan::{BackupOptions, BackupPlan, PlannedSource, plan};
use super::sqlite::Snapshot;
use super::{config_file, physical, postgres, restore_txt};
use crate::adapters::fs::{Lock, remove_if_there};
use crate::archive::{
    Archive, ConfigSource, Depth, FORMAT, Header, LeftOut, Manifest, NewMember, Source, Verified,
    Writer, verify,
};
use crate::error::Result;
use crate::event::Events;
use crate::interrupt::Interrupt;
use crate::repository::{Purpose, Repository, describe};
use crate::stack::{Remembered, ServerState, Stack};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A source that is in the archive.
#[derive(Debug, Clone, Serialize)]
pub struct BackedUp {
    /// What it is, such as `sqlite conductor`.
    pub what: String,
    /// Tables in it.
    pub tables: u64,
    /// Rows in it.
    pub rows: u64,
}

/// What a backup did.
#[derive(Debug, Clone, Serialize)]
pub struct BackupReport {
    /// The stack.
    pub stack: String,
    /// The archive.
    pub archive: PathBuf,
    /// What `k1ops restore` takes: the name in the repository, or the path outside of it.
    pub restore_with: String,
    /// The archive's size in bytes.
    pub size: u64,
    /// The size of what is in it, in bytes.
    pub raw_bytes: u64,
    /// All rows.
    pub rows: u64,
    /// What is in it.
    pub sources: Vec<BackedUp>,
    /// What is not, and why.
    pub left_out: Vec<LeftOut>,
    /// What was read back.
    pub verified: Verified,
    /// Seconds it took, reading back included.
    pub seconds: f64,
}

/// Backs the stack up. Holds off restores while it runs.
pub async fn run(
    stack: &Stack,
    options: &BackupOptions,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<BackupReport> {
    let _data = Lock::shared(&stack.lock_file("data"))?;
    let plan = plan(stack, options, Purpose::Backup)?;
    take(stack, plan, events, interrupt).await
}

/// Executes `plan`. The caller holds the stack's data lock, shared or exclusive.
pub async fn take(
    stack: &Stack,
    mut plan: BackupPlan,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<BackupReport> {
    let begun = Instant::now();
    let repository = Repository::new(stack.repository());
    let in_repository = plan.archive.parent() == Some(repository.folder());
    let access = if in_repository {
        let purpose = format!("backup of stack {}", stack.name);
        Some(repository.write_access(&purpose).await?)
    } else {
        None
    };
    if let Some(access) = &access {
        for leftover in repository.remove_leftovers(access)? {
            events.note(format!(
                "removed {} of a backup that died",
                leftover.display()
            ));
        }
        plan.archive = free_place(&repository, &plan);
    }
    let manifest = write(stack, &plan, events, interrupt).await?;
    let read_back = read_back(&plan, events, interrupt).await;
    if read_back.is_err() {
        // What cannot be read back is no backup, and must not be listed as one.
        let _ = remove_if_there(&plan.archive);
    }
    let (archive, verified) = read_back?;
    drop(access);
    Ok(BackupReport {
        stack: plan.stack,
        restore_with: restore_name(&plan.archive, in_repository),
        size: archive.size(),
        raw_bytes: verified.raw_bytes,
        rows: verified.rows,
        sources: manifest.sources.iter().map(summary).collect(),
        left_out: manifest.left_out,
        verified,
        seconds: begun.elapsed().as_secs_f64(),
        archive: plan.archive,
    })
}

async fn read_back(
    plan: &BackupPlan,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<(Archive, Verified)> {
    let archive = Archive::open(&plan.archive)?;
    let depth = if plan.verify_fully {
        Depth::Full
    } else {
        Depth::Quick
    };
    let verified = verify(&archive, depth, plan.jobs, events, interrupt).await?;
    Ok((archive, verified))
}

/// Another backup may have taken the planned name before we had the lock.
fn free_place(repository: &Repository, plan: &BackupPlan) -> PathBuf {
    let name = plan.archive.file_name().and_then(|n| n.to_str());
    let purpose = name
        .and_then(crate::repository::Name::parse)
        .map_or(Purpose::Backup, |name| name.purpose);
    repository.new_place(&plan.stack, plan.started_at, purpose)
}

fn restore_name(archive: &Path, in_repository: bool) -> String {
    let name = if in_repository {
        archive.file_stem().map(Path::new)
    } else {
        None
    };
    name.unwrap_or(archive).display().to_string()
}

/// Writes everything; on failure nothing is left.
async fn write(
    stack: &Stack,
    plan: &BackupPlan,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<Manifest> {
    let header = Header {
        format: FORMAT,
        tool: concat!("k1ops ", env!("CARGO_PKG_VERSION")).to_owned(),
        stack: plan.stack.clone(),
        started_at: plan.started_at,
    };
    let writer = Writer::create(&plan.archive, header.clone(), plan.codec, plan.jobs)?;
    write_plain(&writer, restore_txt::MEMBER, restore_txt::text(plan)).await?;
    // So that it is the second member, whichever thread is fastest.
    writer.settle().await?;
    let (sources, more) = write_sources(stack, plan, &writer, events, interrupt).await?;
    interrupt.check()?;
    let mut left_out = plan.left_out.clone();
    left_out.extend(more);
    let manifest = Manifest {
        header,
        finished_at: chrono::Utc::now(),
        tier: running_tier(stack)?,
        conductor_version: stack.config.server.version.clone(),
        sources,
        left_out,
        members: Vec::new(),
    };
    writer.finish(manifest).await
}

/// The tier that the stack runs on at this moment.
fn running_tier(stack: &Stack) -> Result<Option<String>> {
    Ok(match ServerState::read(stack)? {
        Remembered::Running(state) => Some(state.tier.name().to_owned()),
        Remembered::Nothing | Remembered::Stale(_) => None,
    })
}

async fn write_sources(
    stack: &Stack,
    plan: &BackupPlan,
    writer: &Writer,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<(Vec<Source>, Vec<LeftOut>)> {
    let (mut sources, mut left_out) = (Vec::new(), Vec::new());
    let mut snapshots = Vec::new();
    // Held at once, before anything is copied, so that the databases are of nearly the same moment.
    for source in &plan.sources {
        if let PlannedSource::Sqlite { name, path, .. } = source {
            snapshots.push(Snapshot::begin(name, path)?);
        }
    }
    let scratch = plan.archive.parent().unwrap_or(Path::new("."));
    for source in &plan.sources {
        match source {
            PlannedSource::Postgres { .. } => {
                let options = postgres::Options {
                    jobs: plan.jobs,
                    pg_dump: pg_dump(stack),
                };
                let address = stack.database_address()?;
                let taken = postgres::take(writer, &address, &options, events, interrupt).await?;
                sources.push(Source::Postgres(Box::new(taken.source)));
                left_out.extend(taken.left_out);
            }
            PlannedSource::Physical { .. } => {
                let address = stack.database_address()?;
                let volume = physical::VOLUME;
                let source = physical::take(writer, &address, volume, events, interrupt).await?;
                sources.push(Source::Physical(source));
            }
            PlannedSource::Sqlite { .. } => {}
            PlannedSource::Config { path } => {
                let text = config_file::without_secrets(&stack.config)?;
                write_plain(writer, path, text).await?;
                sources.push(Source::Config(ConfigSource { path: path.clone() }));
            }
        }
    }
    for snapshot in snapshots {
        let source = snapshot.take(writer, scratch, events, interrupt).await?;
        sources.push(Source::Sqlite(source));
    }
    Ok((sources, left_out))
}

/// Where the configuration says that `pg_dump` is; empty: it is searched for.
fn pg_dump(stack: &Stack) -> PathBuf {
    let configured = &stack.config.database.pg_dump;
    if configured.as_os_str().is_empty() {
        PathBuf::new()
    } else {
        stack.base.join(configured)
    }
}

async fn write_plain(writer: &Writer, path: &str, text: String) -> Result<()> {
    let member = NewMember {
        path: path.to_owned(),
        raw: text.into_bytes(),
        rows: None,
        compressed: false,
    };
    writer.add(member).await
}

fn summary(source: &Source) -> BackedUp {
    let (tables, rows) = match source {
        Source::Postgres(p) => (p.tables.len(), p.tables.iter().map(|t| t.digest.rows).sum()),
        Source::Sqlite(s) => (s.tables.len(), s.tables.iter().map(|t| t.digest.rows).sum()),
        Source::Physical(_) | Source::Config(_) => (0, 0),
    };
    BackedUp {
        what: describe(source),
        tables: tables as u64,
        rows,
    }
}
