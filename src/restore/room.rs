//! Whether there is room for what is restored beside the live data, before anything is done for it.
//!
//! Of files and volumes it is known to the byte. A database takes what its rows, its indexes and the
//! server's compression make of it: between a quarter and all of its rows' text, by experience. So
//! there only what leaves no hope is refused, and only where somebody tells of the server's disk: a full
//! disk is worse for a running server than for us.

use super::plan::PlannedPart;
use crate::adapters::docker::{Container, Engine, is_elsewhere};
use crate::adapters::fs::free_space;
use crate::adapters::postgres::room::local_data_directory;
use crate::adapters::published;
use crate::archive::Archive;
use crate::error::{Error, Result};
use crate::event::Events;
use crate::stack::Stack;
use crate::stack::docker::{Deployment, Service};
use std::time::Duration;

/// Left free on the disk besides what is written, for logs and journals.
const MARGIN: u64 = 64 << 20;

/// How long a container may take to say how much room it sees.
const ANSWER: Duration = Duration::from_secs(20);

/// What a database takes at least, of its rows' text.
const AT_BEST: u64 = 4;

/// Fails with [`crate::error::ErrorKind::Missing`] where there is no room; answers what is written
/// into the stack's folder, and what is free there.
pub(super) async fn check(
    stack: &Stack,
    archive: &Archive,
    parts: &[PlannedPart],
    events: &Events,
) -> Result<(u64, u64)> {
    let (mut files, mut volumes, mut database) = (0_u64, 0_u64, 0_u64);
    for part in parts {
        match part {
            PlannedPart::Sqlite { bytes, .. } => files += bytes,
            PlannedPart::Volume { bytes, .. } => volumes += bytes,
            PlannedPart::Postgres { .. } => {
                let rows = archive.manifest().members_in("postgres/data");
                database += rows.map(|member| member.raw_size).sum::<u64>();
            }
        }
    }
    if volumes > 0 || database > 0 {
        check_server(stack, volumes, database, events).await?;
    }
    let folder = stack.conductor_db();
    let folder = crate::adapters::fs::folder_of(&folder);
    let free = free_space(folder)?;
    if files + MARGIN <= free {
        return Ok((files, free));
    }
    Err(no_room(&folder.display().to_string(), free, files))
}

/// The disk below the server of the database, or below the engine of the volumes.
async fn check_server(stack: &Stack, volumes: u64, database: u64, events: &Events) -> Result<()> {
    let Some((disk, free)) = place(stack).await? else {
        return Ok(());
    };
    let least = volumes.saturating_add(database / AT_BEST);
    if least > free {
        return Err(no_room(&disk, free, least));
    }
    if volumes.saturating_add(database).saturating_add(MARGIN) > free {
        let text = volumes.saturating_add(database);
        events.warning_with_hint(
            format!(
                "{disk} has {free} bytes free; the restored data takes up to about {text} beside the old"
            ),
            "Free some space first if other databases are on this disk; `k1ops undo --discard` deletes what earlier restores kept.",
        );
    }
    Ok(())
}

/// What that disk is called and what is free there, if anybody says so.
async fn place(stack: &Stack) -> Result<Option<(String, u64)>> {
    let folder = if stack.is_in_docker()? {
        let engine = Engine::find().await?;
        if is_elsewhere() {
            return over_there(stack, &engine).await;
        }
        let root = published::about(engine.host()).await?.root;
        root.filter(|root| root.is_dir())
    } else if stack.uses_database_url() {
        local_data_directory(&stack.database_address()?).await
    } else {
        None
    };
    folder
        .map(|folder| Ok((folder.display().to_string(), free_space(&folder)?)))
        .transpose()
}

/// The disk of an engine on another host, as a container sees it that runs there.
async fn over_there(stack: &Stack, engine: &Engine) -> Result<Option<(String, u64)>> {
    let deployment = Deployment::of(stack)?;
    for service in [Service::Postgres, Service::Redis] {
        let container = deployment.container(engine, service).await?;
        let Some(container) = container.filter(Container::is_running) else {
            continue;
        };
        let ask = ["df", "-Pk", "/"];
        let said = engine.run_inside(&container.name, "root", &ask, b"", ANSWER);
        let free = available(&String::from_utf8_lossy(&said.await?.stdout));
        let whose = format!("the disk of {}", engine.name());
        return Ok(free.map(|free| (whose, free)));
    }
    Ok(None)
}

/// Bytes, in what `df -Pk` prints of one file system: POSIX has its fourth column be what is available.
fn available(said: &str) -> Option<u64> {
    let line = said.lines().nth(1)?;
    let kib: u64 = line.split_whitespace().nth(3)?.parse().ok()?;
    Some(kib << 10)
}

fn no_room(disk: &str, free: u64, needs: u64) -> Error {
    Error::missing(format!(
        "{disk} has {free} bytes free; the restored data takes {needs} beside the old"
    ))
    .hint("Free some space; `k1ops undo --discard` deletes what earlier restores kept.")
}
