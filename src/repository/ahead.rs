//! Archives that are dated in the future, as a clock that was wrong for a while leaves them behind.
//! None of them is the newest backup: taken for that, it would be `latest` and look fresh until its
//! day comes, and nobody would hear that no backup was taken since.

use super::{Entry, Name, Purpose, Repository};
use crate::error::Result;
use crate::event::Events;
use chrono::{DateTime, TimeDelta, Utc};

/// How far ahead of this host's clock an archive may be.
const TOLERATED: TimeDelta = TimeDelta::days(1);

/// Whether something that is dated `time` must have been dated by a wrong clock.
#[must_use]
pub fn is_ahead(time: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    time > now + TOLERATED
}

/// The good backups of a stack.
#[derive(Debug, Clone, Default)]
pub struct Backups {
    /// Those that may be believed, newest first.
    pub good: Vec<Entry>,
    /// Those that are dated in the future.
    pub ahead: Vec<Entry>,
}

impl Backups {
    /// Those of `stack` among the entries of a repository, which are newest first.
    #[must_use]
    pub fn among(entries: Vec<Entry>, stack: &str, now: DateTime<Utc>) -> Self {
        let of_stack = entries.into_iter().filter(|e| e.is_backup_of(stack));
        let (ahead, good) = of_stack.partition(|entry| entry.is_ahead(now));
        Self { good, ahead }
    }

    /// When the newest of those that may be believed was begun.
    #[must_use]
    pub fn newest(&self) -> Option<DateTime<Utc>> {
        self.good.iter().filter_map(|entry| entry.time).max()
    }

    /// The names of those that are dated in the future; none if there are none.
    #[must_use]
    pub fn names_ahead(&self) -> Option<String> {
        let names: Vec<&str> = self.ahead.iter().map(|entry| entry.name.as_str()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// Warns of those that are dated in the future, if there are any.
    pub fn warn_of_ahead(&self, events: &Events) {
        warn(self.names_ahead(), events);
    }
}

impl Entry {
    /// Whether it is dated in the future.
    #[must_use]
    pub fn is_ahead(&self, now: DateTime<Utc>) -> bool {
        self.time.is_some_and(|time| is_ahead(time, now))
    }
}

impl Repository {
    /// The good backups of `stack`.
    pub fn backups_of(&self, stack: &str) -> Result<Backups> {
        Ok(Backups::among(self.list()?, stack, Utc::now()))
    }

    /// Warns of the backups of `stack` that `latest` does not mean because they are dated in the
    /// future. It goes by their names and opens none.
    pub fn warn_of_ahead(&self, stack: &str, events: &Events) {
        // Whoever is about to look for an archive says why that does not go.
        let items = self.shelf.items().unwrap_or_default();
        let now = Utc::now();
        let is_ahead_of = |name: &&str| {
            Name::parse(name).is_some_and(|name| {
                name.stack == stack && name.purpose == Purpose::Backup && is_ahead(name.time, now)
            })
        };
        let names = items.iter().map(|item| item.name.as_str());
        let names: Vec<&str> = names.filter(is_ahead_of).collect();
        warn((!names.is_empty()).then(|| names.join(", ")), events);
    }
}

fn warn(names: Option<String>, events: &Events) {
    if let Some(names) = names {
        events.warning_with_hint(
            format!("dated in the future, and not taken for the newest backup: {names}"),
            "A clock was wrong when it was made, or this host's is now. Look at the clock; an archive \
             can be restored by its name.",
        );
    }
}
