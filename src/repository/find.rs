//! Which archive is meant by a name, and where a copy of it is if it cannot be had here.

use super::{Backups, Entry, Kind, LATEST, Repository};
use crate::error::{Error, ErrorKind, Result};
use std::path::PathBuf;

impl Repository {
    /// The archive that `wanted` means: `latest`, a name in the repository (with or without its
    /// extension), or a path. `latest` is the newest good archive of `stack` that somebody asked
    /// for: never the safety archive of a restore, which may hold the very damage that was undone, and
    /// never one that is dated in the future.
    pub fn find(&self, wanted: &str, stack: &str) -> Result<PathBuf> {
        self.find_kind(wanted, stack, None)
    }

    /// The same, where `latest` is the newest of one kind, if there is any.
    ///
    /// Where it is not here, or cannot be asked for, the error says which copy has it.
    pub fn find_kind(&self, wanted: &str, stack: &str, kind: Option<Kind>) -> Result<PathBuf> {
        self.find_here(wanted, stack, kind)
            .map_err(|error| self.point_to_copy(error, wanted, stack, kind))
    }

    fn point_to_copy(&self, error: Error, wanted: &str, stack: &str, kind: Option<Kind>) -> Error {
        if !matches!(error.kind(), ErrorKind::Missing | ErrorKind::Failed) {
            return error;
        }
        let found = self.copies().iter().find_map(|copy| {
            let there = copy.open().ok()?;
            let path = there.find_here(wanted, stack, kind).ok()?;
            there.name_of(&path).map(|name| (copy.name(), name))
        });
        match found {
            Some((copy, name)) => error.hint(format!(
                "The copy {copy} has {name}; take it from there with --from-copy {copy}."
            )),
            None => error,
        }
    }

    fn find_here(&self, wanted: &str, stack: &str, kind: Option<Kind>) -> Result<PathBuf> {
        if wanted == LATEST {
            return self.latest(stack, kind);
        }
        let path = PathBuf::from(wanted);
        let name = self.name_of(&path).unwrap_or_else(|| wanted.to_owned());
        if !name.contains('/') {
            for end in ["", ".tar", ".age", ".tar.age"] {
                let name = format!("{name}{end}");
                if self.shelf.has(&name)? {
                    return Ok(self.place().join(name));
                }
            }
        }
        if path.is_file() || self.is_in_copy(&path)? {
            return Ok(path);
        }
        Err(Error::missing(format!("there is no archive {wanted:?}")).hint(self.suggestion(wanted)))
    }

    fn latest(&self, stack: &str, kind: Option<Kind>) -> Result<PathBuf> {
        let backups = self.backups_of(stack)?;
        let entries = &backups.good;
        let newest = entries.iter().find(|e| kind.is_none() || e.kind == kind);
        // Where there is only the other kind, what is done with it says what to do instead.
        let any = || entries.first().filter(|_| kind == Some(Kind::Logical));
        let newest = newest.or_else(any).map(|entry| entry.path.clone());
        newest.ok_or_else(|| self.no_latest(&backups, stack, kind))
    }

    /// Why there is no newest archive.
    fn no_latest(&self, backups: &Backups, stack: &str, kind: Option<Kind>) -> Error {
        let place = self.place().display();
        let (what, make) = match kind {
            Some(Kind::Physical) => ("physical archive", "k1ops backup --physical"),
            _ => ("archive", "k1ops backup"),
        };
        if let Some(names) = backups.names_ahead() {
            return Error::missing(format!(
                    "there is no good {what} of stack {stack} in {place} but what is dated in the future: {names}"
                ))
                .hint("Look whether this host's clock is right. If it is, name the archive instead of `latest`.");
        }
        Error::missing(format!(
            "there is no good {what} of stack {stack} in {place}"
        ))
        .hint(format!(
            "Make one with `{make}`; `k1ops list` shows what is there."
        ))
    }

    fn suggestion(&self, wanted: &str) -> String {
        let entries = self.list().unwrap_or_default();
        let nearest = entries.iter().max_by(|a, b| {
            let like = |entry: &Entry| strsim::jaro_winkler(&entry.name, wanted);
            like(a).total_cmp(&like(b))
        });
        match nearest {
            Some(entry) => format!(
                "The nearest name in {} is {}; `k1ops list` shows all.",
                self.place().display(),
                entry.name
            ),
            None => format!(
                "{} holds no archive yet; make one with `k1ops backup`.",
                self.place().display()
            ),
        }
    }
}
