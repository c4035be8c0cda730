//! Files that other tools wrote, restored by the same steps as an archive: `pg_dump`'s plain scripts
//! (also compressed) and custom dumps, and the tar of a volume's files.
//!
//! Nothing in such a file says what it should hold. A script must have its end marker; a volume must
//! be one that its server starts on and can read whole.

use super::claim::Claim;
use super::journal::{Journal, Replacement};
use super::plan::{Part, PlannedPart, RestoreOptions, Safety, ServerPlan, server};
use super::postgres::sql_file::{self, END_MARKER};
use super::run::{Around, Begun, RestoreReport, RestoredPart, lend, take_back};
use super::swap::{address, server_of};
use super::volume::{VolumeOf, fill_from};
use super::{choose, crash};
use crate::adapters::docker::Engine;
use crate::adapters::postgres::pg_restore::PgRestore;
use crate::archive::{RowDigest, VolumeContent, VolumeSource, tree};
use crate::error::{Context, Error, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use crate::stack::Stack;
use crate::stack::docker::{Deployment, Service};
use serde::Serialize;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForeignKind {
    /// A plain script of `pg_dump`.
    Script,
    /// A dump in `pg_dump`'s custom format.
    CustomDump,
    /// The tar of a volume.
    VolumeTar,
}

/// What the restore of such a file would do.
#[derive(Debug, Serialize)]
pub struct ForeignPlan {
    /// The stack.
    pub stack: String,
    /// The file.
    pub file: PathBuf,
    /// What it holds.
    pub kind: ForeignKind,
    /// What is replaced.
    pub part: PlannedPart,
    /// What becomes of the present data.
    pub safety: Safety,
    /// What becomes of the server.
    pub server: ServerPlan,
    #[serde(skip)]
    terminate_sessions: bool,
}

/// What `path` is, if it is a file that another tool wrote; `None` for an archive or anything else.
pub fn foreign_kind(path: &Path) -> Result<Option<ForeignKind>> {
    if !path.is_file() {
        return Ok(None);
    }
    let mut head = Vec::new();
    let unreadable = || format!("{} cannot be read", path.display());
    let opened = open(path)?;
    opened
        .take(4096)
        .read_to_end(&mut head)
        .context(unreadable)?;
    Ok(if head.starts_with(b"PGDMP") {
        Some(ForeignKind::CustomDump)
    } else if head.get(257..262) == Some(b"ustar") {
        // An archive of k1ops is a tar as well, and says so first.
        (!head.starts_with(b"format.json\0")).then_some(ForeignKind::VolumeTar)
    } else if looks_like_sql(&head) {
        Some(ForeignKind::Script)
    } else {
        None
    })
}

fn looks_like_sql(head: &[u8]) -> bool {
    let text = String::from_utf8_lossy(head);
    text.starts_with("--") && text.contains("PostgreSQL database dump")
}

/// The file's content, decompressed if it is compressed by gzip or zstd.
fn open(path: &Path) -> Result<Box<dyn BufRead + Send>> {
    let unreadable = || format!("{} cannot be read", path.display());
    let mut file = BufReader::with_capacity(1 << 20, File::open(path).context(unreadable)?);
    let head = file.fill_buf().context(unreadable)?;
    if head.starts_with(&[0x1f, 0x8b]) {
        let unpacked = flate2::bufread::MultiGzDecoder::new(file);
        return Ok(Box::new(BufReader::with_capacity(1 << 20, unpacked)));
    }
    if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let unpacked = zstd::Decoder::with_buffer(file).context(unreadable)?;
        return Ok(Box::new(BufReader::with_capacity(1 << 20, unpacked)));
    }
    Ok(Box::new(file))
}

/// Reads the whole file, so that a damaged or truncated one is refused before anything happens, and
/// decides what it replaces.
pub async fn plan_foreign(
    stack: &Stack,
    path: &Path,
    kind: ForeignKind,
    options: &RestoreOptions,
    interrupt: &Interrupt,
) -> Result<ForeignPlan> {
    interrupt.check()?;
    let part = match kind {
        ForeignKind::VolumeTar => volume(stack, path, &options.only).await?,
        ForeignKind::Script => {
            let file = path.to_owned();
            blocking(move || require_end(&file)).await?;
            database(stack, path).await?
        }
        ForeignKind::CustomDump => database(stack, path).await?,
    };
    Ok(ForeignPlan {
        stack: stack.name.clone(),
        file: path.to_owned(),
        kind,
        safety: match (options.no_safety, part.replaces()) {
            (_, false) => Safety::NothingThere,
            (true, true) => Safety::Declined,
            (false, true) => Safety::Archive,
        },
        part,
        server: server(stack, options.start).await?,
        terminate_sessions: options.terminate_sessions,
    })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .context(|| "the thread that reads the file died")?
}

/// A dump that was cut off looks like one that ended, but for its last line.
fn require_end(path: &Path) -> Result<()> {
    let mut file = open(path)?;
    let (mut ended, mut line) = (false, Vec::new());
    loop {
        line.clear();
        let read = file
            .read_until(b'\n', &mut line)
            .map_err(|error| damaged(path, &error.to_string()))?;
        if read == 0 {
            break;
        }
        if line.starts_with(b"--") {
            ended |= memchr::memmem::find(&line, END_MARKER.as_bytes()).is_some();
        } else if !line.trim_ascii().is_empty() && !line.starts_with(b"\\") {
            ended = false;
        }
    }
    if ended {
        return Ok(());
    }
    Err(damaged(
        path,
        "pg_dump's end marker is missing: it was cut off",
    ))
}

fn damaged(path: &Path, why: &str) -> Error {
    Error::bad_data(format!("{} is not whole: {why}", path.display()))
        .hint("Nothing was changed. Use another backup.")
}

async fn database(stack: &Stack, path: &Path) -> Result<PlannedPart> {
    if !stack.uses_database_url() {
        return Err(Error::bad_data(format!(
            "{} holds a PostgreSQL database, but stack {} keeps its data in SQLite files",
            path.display(),
            stack.name
        ))
        .hint(
            "Set database.url, or start the stack on tier 1 (k1ops start --tier docker) first.",
        ));
    }
    let address = stack.database_address()?;
    let live = address.database().to_owned();
    Ok(PlannedPart::Postgres {
        what: format!("postgres {live}"),
        server: server_of(&address),
        replaces: choose::is_there(stack, &address, &live).await?,
        live,
        rows: 0,
    })
}

async fn volume(stack: &Stack, path: &Path, only: &[Part]) -> Result<PlannedPart> {
    if !stack.is_in_docker()? {
        return Err(Error::bad_data(format!(
            "{} holds a volume, and stack {} has none",
            path.display(),
            stack.name
        ))
        .hint("Start the stack on tier 1 (k1ops start --tier docker) first."));
    }
    let deployment = Deployment::of(stack)?;
    let file = path.to_owned();
    let (found, seems) = blocking(move || look_through(&file)).await?;
    let service = match only {
        [] => seems,
        [Part::Volume(name)] => Service::WITH_VOLUME
            .into_iter()
            .find(|&service| deployment.names.volume(service) == *name),
        _ => None,
    };
    let Some(service) = service else {
        return Err(Error::usage(format!(
            "{} does not tell which volume it is of",
            path.display()
        ))
        .hint(format!(
            "Name it, such as: --only volume:{}",
            deployment.names.volume(Service::Server)
        )));
    };
    let volume = deployment.names.volume(service);
    let live = deployment.volume(service);
    let source = VolumeSource {
        volume: volume.clone(),
        service: service.key().to_owned(),
        content: VolumeContent::Files,
        folder: String::new(),
        parts: 0,
        size: 0,
        bytes: found.bytes,
        entries: found.digest,
    };
    Ok(PlannedPart::Volume {
        what: format!("volume {volume}"),
        service,
        replaces: Engine::find().await?.volume(&live).await?.is_some(),
        live,
        bytes: found.bytes,
        source: Box::new(VolumeOf::Files(source)),
    })
}

/// What is in the tar, and whose volume it seems to be.
fn look_through(path: &Path) -> Result<(tree::Tree, Option<Service>)> {
    let mut seems = None;
    let found = tree::read_each(&mut open(path)?, u64::MAX, &mut |entry| {
        seems = seems.or(match entry.to_str() {
            Some("PG_VERSION") => Some(Service::Postgres),
            Some("dump.rdb" | "appendonlydir" | "appendonly.aof") => Some(Service::Redis),
            Some("nodes") => Some(Service::Elasticsearch),
            Some("conductor-server.log") => Some(Service::Server),
            _ => None,
        });
    })
    .map_err(|error| damaged(path, "its tar stream cannot be read").because(error))?;
    if found.digest == RowDigest::default() {
        return Err(damaged(path, "there is nothing in it"));
    }
    Ok((found, seems))
}

/// Executes `plan`, with the same promises as [`super::execute`].
pub async fn execute_foreign(
    stack: &Stack,
    _claim: &Claim,
    plan: ForeignPlan,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<RestoreReport> {
    let needs_database = matches!(plan.part, PlannedPart::Postgres { .. });
    let lent = lend(stack, needs_database, events, interrupt).await?;
    let report = Box::pin(execute(stack, plan, events, interrupt)).await;
    take_back(stack, lent).await?;
    report
}

async fn execute(
    stack: &Stack,
    plan: ForeignPlan,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<RestoreReport> {
    let parts = std::slice::from_ref(&plan.part);
    let begun = Begun::now(stack, &plan.file, plan.safety, parts, events, interrupt).await?;
    let restored = beside(stack, &plan, &begun.journal, events, interrupt).await;
    let around = Around {
        start: plan.server == ServerPlan::Start,
        terminate_sessions: plan.terminate_sessions,
    };
    let restored = restored.map(|part| vec![part]);
    begun.end(stack, restored, around, events, interrupt).await
}

async fn beside(
    stack: &Stack,
    plan: &ForeignPlan,
    journal: &Journal,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<RestoredPart> {
    let mut part = RestoredPart {
        what: plan.part.what().to_owned(),
        tables: 0,
        rows: 0,
        entries: 0,
        compared: false,
        kept: None,
    };
    match (&plan.part, &journal.replacements[0]) {
        (
            PlannedPart::Postgres { server, .. },
            Replacement::Database {
                beside: Some(name), ..
            },
        ) => {
            let address = address(stack, server)?;
            let ran = if plan.kind == ForeignKind::CustomDump {
                let file = File::open(&plan.file)
                    .context(|| format!("{} cannot be read", plan.file.display()))?;
                let mut script = PgRestore::find(&stack.config.database.pg_dump)?.script(file)?;
                let ran =
                    sql_file::run_beside(&mut script, &address, name, events, interrupt).await?;
                script.finish()?;
                ran
            } else {
                let script = open(&plan.file)?;
                sql_file::run_beside(script, &address, name, events, interrupt).await?
            };
            (part.tables, part.rows) = (ran.tables, ran.rows);
        }
        (PlannedPart::Volume { source, .. }, Replacement::Volume { beside, .. }) => {
            let tar = open(&plan.file)?;
            part.entries = fill_from(stack, source, tar, beside, events, interrupt).await?;
        }
        _ => return Err(Error::failed(format!("{} has no place to go", part.what))),
    }
    crash::point("restored-beside");
    Ok(part)
}
