//! The schema's versions: which there are, and what a store that was found needs. Pure values; the
//! two stores read and apply them.
//!
//! A migration that was released never changes, only new ones are added: its checksum is in every
//! store that it was applied to. Both databases have the same versions and names.

use crate::error::{Error, Result};
use sha2::{Digest, Sha256};

/// One step of the schema.
#[derive(Debug)]
pub(super) struct Migration {
    pub(super) version: i32,
    pub(super) name: &'static str,
    pub(super) sql: &'static str,
}

impl Migration {
    /// SHA-256 of the SQL, in hex.
    pub(super) fn checksum(&self) -> String {
        hex::encode(Sha256::digest(self.sql))
    }
}

macro_rules! migrations {
    ($database:literal: $($version:literal $name:literal),+) => {
        &[$(Migration {
            version: $version,
            name: $name,
            sql: include_str!(concat!(
                "migrations/", $database, "/000", $version, "_", $name, ".sql"
            )),
        }),+]
    };
}

pub(super) const POSTGRES: &[Migration] =
    migrations!("postgres": 1 "tables", 2 "indexes", 3 "summary_view", 4 "metric_statistics");
pub(super) const SQLITE: &[Migration] =
    migrations!("sqlite": 1 "tables", 2 "indexes", 3 "summary_view", 4 "metric_statistics");

/// The schema version that this k1ops writes and reads.
#[must_use]
pub fn latest_version() -> i32 {
    SQLITE.last().map_or(0, |last| last.version)
}

/// A row of `k1_schema_migrations`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) version: i32,
    pub(super) name: String,
    pub(super) checksum: String,
}

/// What was found in a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Schema {
    /// No K1 tables.
    Absent,
    /// K1 tables without our migrations: the original init-db.sql made them.
    Original,
    /// K1 tables with the migrations that made them, by version.
    Ours(Vec<Applied>),
}

/// How a schema stands to what this k1ops knows.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    /// No K1 tables.
    Absent,
    /// Older: this version; 0 is the original.
    Behind(i32),
    /// Up to date.
    Current,
}

impl Schema {
    /// The migrations that are still to be applied to the store at `place`.
    ///
    /// Fails if the store is of a newer k1ops, or if its migrations are not those that we know.
    pub(super) fn pending<'a>(
        &self,
        known: &'a [Migration],
        place: &str,
    ) -> Result<&'a [Migration]> {
        let Self::Ours(applied) = self else {
            return Ok(known);
        };
        let latest = known.last().map_or(0, |last| last.version);
        if let Some(newest) = applied.last().filter(|newest| newest.version > latest) {
            return Err(newer(place, newest.version, latest));
        }
        for (position, found) in applied.iter().enumerate() {
            let same = known
                .get(position)
                .is_some_and(|m| m.version == found.version && m.checksum() == found.checksum);
            if !same {
                return Err(Error::bad_data(format!(
                    "{place} has a migration {} ({}) that is not the one this k1ops knows",
                    found.version, found.name
                ))
                .hint("Use the k1ops that made this store, or restore a backup into a new one."));
            }
        }
        Ok(known.get(applied.len()..).unwrap_or_default())
    }

    /// How the schema of the store at `place` stands to `known`; fails as [`Schema::pending`] does.
    pub(super) fn state(&self, known: &[Migration], place: &str) -> Result<State> {
        let pending = self.pending(known, place)?;
        Ok(match self {
            Self::Absent => State::Absent,
            _ if pending.is_empty() => State::Current,
            Self::Original => State::Behind(0),
            Self::Ours(applied) => State::Behind(applied.last().map_or(0, |last| last.version)),
        })
    }
}

/// Nothing is wrong with the data: what is missing is a newer k1ops.
fn newer(place: &str, found: i32, latest: i32) -> Error {
    Error::missing(format!(
        "{place} has schema version {found}, which is newer than version {latest} of k1ops {}",
        env!("CARGO_PKG_VERSION")
    ))
    .hint("Upgrade k1ops, and leave the store as it is.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn applied(known: &[Migration]) -> Vec<Applied> {
        known
            .iter()
            .map(|m| Applied {
                version: m.version,
                name: m.name.to_owned(),
                checksum: m.checksum(),
            })
            .collect()
    }

    #[test]
    fn both_databases_have_the_same_versions_without_a_gap() {
        let list =
            |known: &[Migration]| -> Vec<_> { known.iter().map(|m| (m.version, m.name)).collect() };
        assert_eq!(list(POSTGRES), list(SQLITE));
        let versions: Vec<i32> = SQLITE.iter().map(|m| m.version).collect();
        assert_eq!(versions, (1..=latest_version()).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_pending_follows_from_what_is_applied() {
        let all = applied(SQLITE);
        for done in 0..=SQLITE.len() {
            let schema = Schema::Ours(all[..done].to_vec());
            assert_eq!(
                schema.pending(SQLITE, "x").unwrap().len(),
                SQLITE.len() - done
            );
        }
        assert_eq!(
            Schema::Original.state(SQLITE, "x").unwrap(),
            State::Behind(0)
        );
        assert_eq!(Schema::Absent.state(SQLITE, "x").unwrap(), State::Absent);
        assert_eq!(
            Schema::Ours(all).state(SQLITE, "x").unwrap(),
            State::Current
        );
    }

    #[test]
    fn a_gap_or_another_text_is_bad_data_and_a_newer_store_is_not() {
        let mut gap = applied(SQLITE);
        gap.remove(0);
        let mut other = applied(SQLITE);
        other[1].checksum = "0".repeat(64);
        for strange in [gap, other] {
            let error = Schema::Ours(strange).pending(SQLITE, "x").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BadData);
        }
        let mut newer = applied(SQLITE);
        newer.push(Applied {
            version: 99,
            name: "future".into(),
            checksum: String::new(),
        });
        let error = Schema::Ours(newer).pending(SQLITE, "x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Missing);
    }
}
