//! A backup from its plan to the archive that was read back.

use super::plan::{BackupOptions, BackupPlan, PlannedSource, plan};
use super::sqlite::Snapshot;
use super::standby::{self, Reading};
use super::volume::{Taken, Volumes};
use super::{config_file, physical, postgres, restore_txt, room};
use crate::adapters::docker::Engine;
use crate::adapters::fs::{Lock, create_private_folder, folder_of};
use crate::adapters::postgres::Address;
use crate::adapters::postgres::dump::Inside;
use crate::archive::{
    Archive, ConfigSource, Depth, Effort, FORMAT, FromStandby, Header, LeftOut, Manifest,
    NewMember, PhysicalSource, Source, Verified, Writer, verify,
};
use crate::config::ProofKind;
use crate::error::Result;
use crate::event::Events;
use crate::interrupt::Interrupt;
use crate::repository::{Purpose, Repository, WriteAccess, describe, partial_of};
use crate::stack::docker::{Deployment, Lent, Role, Service, lend_database};
use crate::stack::{self, Remembered, ServerState, Stack, Tier};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a broken-off attempt may take to remove what it wrote.
const LETTING_GO: Duration = Duration::from_secs(10);

/// A source that is in the archive.
#[derive(Debug, Clone, Serialize)]
pub struct BackedUp {
    /// What it is, such as `sqlite conductor`.
    pub what: String,
    /// Tables in it.
    pub tables: u64,
    /// Rows in it.
    pub rows: u64,
    /// Of a volume: bytes in it.
    pub bytes: u64,
    /// Of a database that was read from a standby: what that had of its primary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standby: Option<FromStandby>,
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
    let repository = Repository::of(stack)?;
    let in_repository = plan.archive.parent() == Some(repository.place());
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
        plan.archive = free_place(&repository, &plan)?;
    }
    let lent = lend(stack, &plan, events, interrupt).await?;
    let place = Target {
        repository: &repository,
        access: access.as_ref(),
    };
    let manifest = match room::check(stack, &plan, &repository, events).await {
        Ok(()) => write_from_either(stack, &mut plan, &place, events, interrupt).await,
        Err(error) => Err(error),
    };
    if let Some(lent) = lent {
        stack::take_back(stack, lent).await?;
    }
    let manifest = manifest?;
    let read_back = read_back(&repository, &plan, events, interrupt).await;
    if read_back.is_err() {
        // What cannot be read back is no backup, and must not be listed as one.
        let _ = repository.remove(&plan.archive);
    }
    let (archive, verified) = read_back?;
    if in_repository {
        repository.note_written(&archive)?;
    }
    if in_repository && verified.depth == Depth::Full {
        repository.note_proof(&archive, ProofKind::Verify)?;
    }
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

/// The database of tier 1, started for the backup alone where the stack is stopped.
async fn lend(
    stack: &Stack,
    plan: &BackupPlan,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<Option<Lent>> {
    let postgres = |source: &PlannedSource| {
        matches!(
            source,
            PlannedSource::Postgres { .. }
                | PlannedSource::Volume {
                    service: Service::Postgres,
                    ..
                }
        )
    };
    if !stack.is_in_docker()? || !plan.sources.iter().any(postgres) {
        return Ok(None);
    }
    lend_database(stack, events, interrupt).await.map(Some)
}

async fn read_back(
    repository: &Repository,
    plan: &BackupPlan,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<(Archive, Verified)> {
    let archive = repository.open(&plan.archive)?;
    let depth = if plan.verify_fully || repository.seals() {
        Depth::Full
    } else if repository.is_elsewhere() && plan.archive.starts_with(repository.place()) {
        Depth::Pieces
    } else {
        Depth::Quick
    };
    let verified = verify(&archive, depth, plan.jobs, events, interrupt).await?;
    Ok((archive, verified))
}

/// Another backup may have taken the planned name before we had the lock.
fn free_place(repository: &Repository, plan: &BackupPlan) -> Result<PathBuf> {
    let name = plan.archive.file_name().and_then(|n| n.to_str());
    let purpose = name
        .and_then(crate::repository::Name::parse)
        .map_or(Purpose::Backup, |name| name.purpose);
    repository.new_place(&plan.stack, plan.started_at, purpose)
}

fn restore_name(archive: &Path, in_repository: bool) -> String {
    let name = archive.file_name().filter(|_| in_repository);
    let Some(name) = name.and_then(|name| name.to_str()) else {
        return archive.display().to_string();
    };
    let plain = name.strip_suffix(".age").unwrap_or(name);
    plain.strip_suffix(".tar").unwrap_or(plain).to_owned()
}

/// Where the archive goes.
struct Target<'a> {
    repository: &'a Repository,
    /// Needed in the repository, not outside of it.
    access: Option<&'a WriteAccess>,
}

impl Target<'_> {
    fn begin(&self, plan: &BackupPlan, header: Header) -> Result<Writer> {
        let sink = self.repository.begin(&plan.archive)?;
        Writer::begin(sink, &plan.archive, header, plan.codec, plan.jobs)
    }

    fn check(&self) -> Result<()> {
        self.access.map_or(Ok(()), WriteAccess::check)
    }
}

/// Where there is room for the copy of a database: beside the archive, if that is on this host.
fn scratch(stack: &Stack, plan: &BackupPlan) -> Result<PathBuf> {
    let beside = folder_of(&plan.archive);
    let elsewhere = stack.repository_folder().is_none() && beside == stack.repository();
    let folder = if elsewhere {
        stack.folder.join("run")
    } else {
        beside.to_path_buf()
    };
    create_private_folder(&folder)?;
    Ok(folder)
}

/// Writes everything, from a standby first if there is one; on failure nothing is left.
async fn write_from_either(
    stack: &Stack,
    plan: &mut BackupPlan,
    target: &Target<'_>,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<Manifest> {
    let reading = reading(stack, plan, events).await?;
    match write(stack, plan, target, reading.as_ref(), events, interrupt).await {
        Err(error) if reading.is_some_and(|from| from.may_be_at_fault(&error, events)) => {
            move_on(plan, target).await?;
            let primary = Reading::primary(stack.database_address()?);
            write(stack, plan, target, Some(&primary), events, interrupt).await
        }
        written => written,
    }
}

/// Has another attempt be in nobody's way: tasks of the first that were broken off may be about to remove what it wrote.
async fn move_on(plan: &mut BackupPlan, target: &Target<'_>) -> Result<()> {
    if target.access.is_some() {
        let later = plan.started_at + chrono::TimeDelta::seconds(1);
        plan.started_at = later.max(chrono::Utc::now());
        plan.archive = free_place(target.repository, plan)?;
        return Ok(());
    }
    let (begun, partial) = (Instant::now(), partial_of(&plan.archive));
    while partial.exists() && begun.elapsed() < LETTING_GO {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// The server whose database is read, if one is.
async fn reading(stack: &Stack, plan: &BackupPlan, events: &Events) -> Result<Option<Reading>> {
    let reads = |source: &PlannedSource| {
        matches!(
            source,
            PlannedSource::Postgres { .. } | PlannedSource::Physical { .. }
        )
    };
    if !plan.sources.iter().any(reads) {
        return Ok(None);
    }
    if stack.is_in_docker()? {
        return Ok(Some(Reading::primary(database(stack).await?)));
    }
    let wanted = plan.standby.is_some();
    standby::choose(stack, wanted, events).await.map(Some)
}

/// Writes everything; on failure nothing is left.
async fn write(
    stack: &Stack,
    plan: &BackupPlan,
    target: &Target<'_>,
    reading: Option<&Reading>,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<Manifest> {
    let header = Header {
        format: FORMAT,
        tool: concat!("k1ops ", env!("CARGO_PKG_VERSION")).to_owned(),
        stack: plan.stack.clone(),
        started_at: plan.started_at,
    };
    let writer = target.begin(plan, header.clone())?;
    write_plain(&writer, restore_txt::MEMBER, restore_txt::text(plan)).await?;
    // So that it is the second member, whichever thread is fastest.
    writer.settle().await?;
    let (sources, more) = write_sources(stack, plan, &writer, reading, events, interrupt).await?;
    interrupt.check()?;
    let mut left_out = plan.left_out.clone();
    left_out.extend(more);
    let manifest = Manifest {
        header,
        finished_at: chrono::Utc::now(),
        tier: running_tier(stack)?,
        conductor_version: stack.config.server.version.clone(),
        images: images(stack).await?,
        sources,
        left_out,
        members: Vec::new(),
    };
    target.check()?;
    writer.finish(manifest).await
}

/// The tier that the stack runs on at this moment, or whose volumes hold its data.
fn running_tier(stack: &Stack) -> Result<Option<String>> {
    if stack.is_in_docker()? {
        return Ok(Some(Tier::Docker.name().to_owned()));
    }
    Ok(match ServerState::read(stack)? {
        Remembered::Running(state) => Some(state.tier.name().to_owned()),
        Remembered::Nothing | Remembered::Stale(_) => None,
    })
}

/// What was taken of the planned sources, by their number in the plan.
#[derive(Default)]
struct Sources {
    taken: Vec<(usize, Source)>,
    left_out: Vec<LeftOut>,
}

async fn write_sources(
    stack: &Stack,
    plan: &BackupPlan,
    writer: &Writer,
    reading: Option<&Reading>,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<(Vec<Source>, Vec<LeftOut>)> {
    let mut snapshots = Vec::new();
    // Held at once, before anything is copied, so that the databases are of nearly the same moment.
    for source in &plan.sources {
        if let PlannedSource::Sqlite { name, path, .. } = source {
            snapshots.push(Snapshot::begin(name, path)?);
        }
    }
    let scratch = scratch(stack, plan)?;
    let rows = Box::pin(write_rows(stack, plan, writer, reading, events, interrupt));
    let volumes = Box::pin(write_volumes(stack, plan, writer, events, interrupt));
    // One waits for snapshots and checkpoints while the other keeps the CPUs busy, unless none is idle.
    // Both go on to their end, so that what a service keeps for its snapshot is removed.
    let (rows, volumes) = if plan.jobs > 1 {
        futures_util::join!(rows, volumes)
    } else {
        (rows.await, volumes.await)
    };
    let (rows, mut all) = (rows?, volumes?);
    all.taken.extend(rows.taken);
    all.taken.sort_by_key(|(number, _)| *number);
    let mut left_out = rows.left_out;
    left_out.extend(all.left_out);
    let mut sources: Vec<Source> = all.taken.into_iter().map(|(_, source)| source).collect();
    for snapshot in snapshots {
        let source = snapshot.take(writer, &scratch, events, interrupt).await?;
        sources.push(Source::Sqlite(source));
    }
    Ok((sources, left_out))
}

async fn write_rows(
    stack: &Stack,
    plan: &BackupPlan,
    writer: &Writer,
    reading: Option<&Reading>,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<Sources> {
    let mut all = Sources::default();
    for (number, source) in plan.sources.iter().enumerate() {
        let source = match (source, reading) {
            (PlannedSource::Postgres { .. }, Some(from)) => {
                let options = postgres::Options {
                    jobs: plan.jobs,
                    pg_dump: pg_dump(stack),
                    inside: inside(stack).await?,
                };
                let taking =
                    postgres::take(writer, &from.address, &options, events, interrupt).await;
                let mut taken = taking.map_err(|error| from.explain(error))?;
                all.left_out.extend(taken.left_out);
                taken.source.standby.clone_from(&from.facts);
                Source::Postgres(Box::new(taken.source))
            }
            (PlannedSource::Physical { .. }, Some(from)) => {
                let (address, volume) = (&from.address, PhysicalSource::SERVER);
                let taking = physical::take(writer, address, volume, events, interrupt).await;
                let source = taking.map_err(|error| from.explain(error))?;
                let standby = from.facts.clone().map(Box::new);
                Source::Physical(PhysicalSource { standby, ..source })
            }
            (PlannedSource::Config { path }, _) => {
                let text = config_file::without_secrets(&stack.config)?;
                write_plain(writer, path, text).await?;
                Source::Config(ConfigSource { path: path.clone() })
            }
            _ => continue,
        };
        all.taken.push((number, source));
    }
    Ok(all)
}

async fn write_volumes(
    stack: &Stack,
    plan: &BackupPlan,
    writer: &Writer,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<Sources> {
    let mut all = Sources::default();
    let mut volumes = None;
    for (number, source) in plan.sources.iter().enumerate() {
        let PlannedSource::Volume { service, .. } = source else {
            continue;
        };
        let opened = match volumes.take() {
            Some(opened) => opened,
            None => Volumes::open(stack, writer, events, interrupt).await?,
        };
        match volumes.insert(opened).take(*service).await? {
            Taken::Source(source) => all.taken.push((number, source)),
            Taken::Nothing(left) => all.left_out.push(left),
        }
    }
    Ok(all)
}

/// What the services of tier 1 run.
async fn images(stack: &Stack) -> Result<BTreeMap<String, String>> {
    if !stack.is_in_docker()? {
        return Ok(BTreeMap::new());
    }
    Deployment::of(stack)?.images(&Engine::find().await?).await
}

/// The database on the shortest way.
async fn database(stack: &Stack) -> Result<Address> {
    if !stack.is_in_docker()? {
        return stack.database_address();
    }
    let engine = Engine::find().await?;
    let deployment = Deployment::of(stack)?;
    deployment
        .database_without_proxy(&engine, Role::Backup)
        .await
}

/// The container that the database runs in, on tier 1.
async fn inside(stack: &Stack) -> Result<Option<Inside>> {
    if !stack.is_in_docker()? {
        return Ok(None);
    }
    let container = Deployment::of(stack)?.names.container(Service::Postgres);
    let engine = Engine::find().await?;
    Ok(Some(Inside { engine, container }))
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
        effort: Effort::None,
    };
    writer.add(member).await
}

fn summary(source: &Source) -> BackedUp {
    let (tables, rows) = match source {
        Source::Postgres(p) => (p.tables.len(), p.tables.iter().map(|t| t.digest.rows).sum()),
        Source::Sqlite(s) => (s.tables.len(), s.tables.iter().map(|t| t.digest.rows).sum()),
        Source::Physical(_) | Source::Volume(_) | Source::Config(_) => (0, 0),
    };
    let bytes = match source {
        Source::Physical(cluster) => cluster.size(),
        Source::Volume(volume) => volume.bytes,
        Source::Postgres(_) | Source::Sqlite(_) | Source::Config(_) => 0,
    };
    let standby = match source {
        Source::Postgres(database) => database.standby.clone(),
        Source::Physical(cluster) => cluster.standby.as_deref().cloned(),
        Source::Sqlite(_) | Source::Volume(_) | Source::Config(_) => None,
    };
    BackedUp {
        what: describe(source),
        tables: tables as u64,
        rows,
        bytes,
        standby,
    }
}
