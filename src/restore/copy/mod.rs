//! A part of an archive into something new of a name of its own, to look into, to try something on,
//! or to take from it what was lost: a volume, a database or some of its tables, an `SQLite` file.
//! Nothing that is live is replaced, and what is there already is refused.

mod database;
mod file;
mod volume;

pub use database::{CopiedDatabase, DatabaseCopy};
pub use file::{CopiedFile, FileCopy};
pub use volume::{CopiedVolume, VolumeCopy};

use super::claim::Claim;
use super::plan::{Part, RestoreOptions};
use crate::error::{Error, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use crate::stack::Stack;
use serde::Serialize;

/// What a copy would make.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum CopyPlan {
    /// A volume.
    Volume(Box<VolumeCopy>),
    /// A `PostgreSQL` database.
    Database(Box<DatabaseCopy>),
    /// An `SQLite` file.
    File(Box<FileCopy>),
}

/// What a copy made.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum CopyReport {
    /// A volume.
    Volume(CopiedVolume),
    /// A `PostgreSQL` database.
    Database(CopiedDatabase),
    /// An `SQLite` file.
    File(CopiedFile),
}

/// Verifies the archive and decides what to copy into what `name` names.
///
/// Fails with [`crate::error::ErrorKind::Usage`] unless the options choose parts of one kind, and
/// with [`crate::error::ErrorKind::Refused`] if there is something of that name.
pub async fn plan_copy(
    stack: &Stack,
    options: &RestoreOptions,
    name: &str,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<CopyPlan> {
    let all = |of: fn(&Part) -> bool| options.only.iter().all(of);
    if all(|part| matches!(part, Part::Volumes | Part::Volume(_))) {
        let plan = volume::plan_volume(stack, options, name, events, interrupt).await?;
        return Ok(CopyPlan::Volume(Box::new(plan)));
    }
    if all(|part| matches!(part, Part::Postgres | Part::PostgresOnly(_))) {
        let plan = database::plan_database(stack, options, name, events, interrupt).await?;
        return Ok(CopyPlan::Database(Box::new(plan)));
    }
    if all(|part| matches!(part, Part::Sqlite | Part::Named(_) | Part::Table { .. })) {
        let plan = file::plan_file(stack, options, name, events, interrupt).await?;
        return Ok(CopyPlan::File(Box::new(plan)));
    }
    Err(
        Error::usage("--as makes one thing, and --only names parts of several kinds")
            .hint("Restore them one by one, each with a name of its own."),
    )
}

/// Executes `plan`. Whatever fails, what was made is removed, if need be by the next run.
pub async fn copy(
    stack: &Stack,
    _claim: &Claim,
    plan: CopyPlan,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<CopyReport> {
    Ok(match plan {
        CopyPlan::Volume(plan) => {
            CopyReport::Volume(volume::copy_volume(stack, *plan, events, interrupt).await?)
        }
        CopyPlan::Database(plan) => {
            CopyReport::Database(database::copy_database(stack, *plan, events, interrupt).await?)
        }
        CopyPlan::File(plan) => {
            CopyReport::File(file::copy_file(stack, *plan, events, interrupt).await?)
        }
    })
}
