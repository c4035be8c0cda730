//! `[[repository.copies]]`: further repositories, which every backup is copied to.

use super::{LockMode, Repository, Secret};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One of them. What it has in common with `[repository]` means the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RepositoryCopy {
    /// What it is called; empty: its number, from 1.
    pub name: String,
    /// A folder, which has to be there.
    pub path: PathBuf,
    /// A folder in an object store instead.
    pub url: Secret,
    /// The object store's address, if it is not the provider's own.
    pub endpoint: String,
    /// The object store's region.
    pub region: String,
    /// A file of mode 0600 with the store's credentials.
    pub credentials: PathBuf,
    /// The most that is written a second.
    pub bandwidth: String,
    /// For how long nobody can delete or replace an archive.
    pub locked_for: String,
    /// Against whom.
    pub lock_mode: LockMode,
}

impl RepositoryCopy {
    /// The same as a repository of its own, which is copied nowhere.
    #[must_use]
    pub fn alone(&self) -> Repository {
        let copy = self.clone();
        Repository {
            path: copy.path,
            url: copy.url,
            endpoint: copy.endpoint,
            region: copy.region,
            credentials: copy.credentials,
            bandwidth: copy.bandwidth,
            locked_for: copy.locked_for,
            lock_mode: copy.lock_mode,
            copies: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `[repository]` learns, its copies have to learn too.
    #[test]
    fn a_copy_has_the_keys_of_a_repository() {
        let keys = |table: toml::Table| -> Vec<String> { table.keys().cloned().collect() };
        let mut of_repository = keys(toml::Table::try_from(Repository::default()).unwrap());
        of_repository.retain(|key| key != "copies");
        let mut of_copy = keys(toml::Table::try_from(RepositoryCopy::default()).unwrap());
        of_copy.retain(|key| key != "name");
        assert_eq!(of_copy, of_repository);
    }
}
