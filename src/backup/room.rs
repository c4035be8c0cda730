//! Whether there is room for a backup, before anything is done for it.
//!
//! Nobody knows before how well the data can be compressed. Conductor's tables come out at about a
//! quarter of what they take in the database. So only what leaves no hope is refused, what may not be
//! enough is warned of, and a disk that is full even so ends a backup without harm.

use super::plan::{BackupPlan, PlannedSource};
use crate::adapters::fs::folder_of;
use crate::adapters::postgres::room::database_size;
use crate::error::{Error, Result};
use crate::event::Events;
use crate::repository::Repository;
use crate::stack::Stack;
use crate::stack::docker::Role;

/// Left free besides, for what else is written meanwhile.
const MARGIN: u64 = 16 << 20;

/// No stack's data has been seen to shrink more than this.
const AT_BEST: u64 = 16;

/// What is compressed as badly as this has long values that are compressed already.
const AT_WORST: u64 = 2;

/// Fails with [`crate::error::ErrorKind::Missing`] where there is no hope.
pub(super) async fn check(
    stack: &Stack,
    plan: &BackupPlan,
    repository: &Repository,
    events: &Events,
) -> Result<()> {
    let mut bytes = 0_u64;
    for source in &plan.sources {
        bytes += match source {
            PlannedSource::Sqlite { bytes, .. } => *bytes,
            // One that does not answer fails the backup itself, with more to say about it.
            PlannedSource::Postgres { .. } | PlannedSource::Physical { .. } => {
                match stack.database_as(Role::Backup) {
                    Ok(address) => database_size(&address).await.unwrap_or_default(),
                    Err(_) => 0,
                }
            }
            // How large a volume is the engine finds out by reading all of it.
            PlannedSource::Volume { .. } | PlannedSource::Config { .. } => 0,
        };
    }
    let folder = folder_of(&plan.archive);
    let Some(free) = repository.free_space(&plan.archive)? else {
        return Ok(());
    };
    match verdict(bytes, free) {
        Verdict::Enough => Ok(()),
        Verdict::MayNotBeEnough => {
            events.warning_with_hint(
                format!(
                    "{} has {free} bytes free; a backup of {bytes} bytes often takes a quarter of them, and may take more",
                    folder.display()
                ),
                "Should it not fit, the backup ends without harm. `k1ops prune` removes old archives.",
            );
            Ok(())
        }
        Verdict::Hopeless => Err(Error::missing(format!(
            "{} has {free} bytes free, which a backup of {bytes} bytes cannot fit into",
            folder.display()
        ))
        .hint("Free some space, remove old archives with `k1ops prune`, or write elsewhere with --output.")),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Enough,
    MayNotBeEnough,
    Hopeless,
}

fn verdict(bytes: u64, free: u64) -> Verdict {
    if free < bytes / AT_BEST {
        Verdict::Hopeless
    } else if free < bytes / AT_WORST + MARGIN {
        Verdict::MayNotBeEnough
    } else {
        Verdict::Enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_leaves_no_hope_is_refused() {
        let gib = 1 << 30;
        assert_eq!(verdict(gib, gib), Verdict::Enough);
        assert_eq!(verdict(gib, gib / 4), Verdict::MayNotBeEnough);
        assert_eq!(verdict(gib, gib / 16), Verdict::MayNotBeEnough);
        assert_eq!(verdict(gib, gib / 17), Verdict::Hopeless);
        assert_eq!(verdict(0, MARGIN), Verdict::Enough);
        assert_eq!(verdict(gib, 0), Verdict::Hopeless);
    }
}
