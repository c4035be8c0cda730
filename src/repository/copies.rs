//! The further repositories that archives are copied to: where they are, and what they lack.
//!
//! A copy is a repository like the first one, with proofs and a lock of its own; an archive has the same
//! name in all of them and is the same to the last byte.

use super::sealing::Sealed;
use super::{Entry, Kind, Repository, is_same_place, name_in};
use crate::adapters::bandwidth::Bandwidth;
use crate::error::{Error, Result};
use crate::stack::Stack;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// The word for the first repository among those that an archive is in.
const FIRST: &str = "repository";

/// A further repository that archives are copied to.
#[derive(Debug, Clone)]
pub struct CopyPlace {
    name: String,
    /// The stack as if its archives were there.
    stack: Stack,
    sealing: Sealed,
}

impl CopyPlace {
    /// Those that a stack's configuration names.
    pub(super) fn all(stack: &Stack, sealing: &Sealed) -> Result<Vec<Self>> {
        let mut copies: Vec<Self> = Vec::new();
        for (number, configured) in (1..).zip(&stack.config.repository.copies) {
            let name = match configured.name.as_str() {
                "" => number.to_string(),
                name => name.to_owned(),
            };
            let copy = Self {
                stack: stack.with_repository(configured.alone()),
                sealing: sealing.clone(),
                name,
            };
            copy.check(stack, &copies)?;
            copies.push(copy);
        }
        Ok(copies)
    }

    fn check(&self, stack: &Stack, others: &[Self]) -> Result<()> {
        let name = &self.name;
        let wrong = |what: &str| Error::usage(format!("the copy {name} of the repository {what}"));
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if !name.chars().all(plain) || name == FIRST {
            return Err(wrong("has a name that is not usable").hint(format!(
                "Use letters, digits, '-' or '_', and not {FIRST:?}."
            )));
        }
        let configured = &self.stack.config.repository;
        match (
            configured.path.as_os_str().is_empty(),
            configured.url.is_empty(),
        ) {
            (true, true) => {
                return Err(wrong("has no place").hint("Set its path or its url."));
            }
            (false, false) => {
                return Err(wrong("has both a path and a url").hint("Keep one of them."));
            }
            _ => {}
        }
        Bandwidth::parse(&configured.bandwidth)?;
        if others.iter().any(|other| other.name == *name) {
            return Err(wrong("is named twice").hint("Give each copy a name of its own."));
        }
        let place = self.place();
        let mut taken = others.iter().map(Self::place).chain([stack.repository()]);
        if taken.any(|other| is_same_place(&other, &place)) {
            return Err(wrong("is where other archives are already").hint(
                "Give each copy a place of its own; in stores, a bucket or folder of another name.",
            ));
        }
        Ok(())
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is: a folder, or an address that is written like one.
    #[must_use]
    pub fn place(&self) -> PathBuf {
        self.stack.repository()
    }

    /// Opens it as a repository of its own.
    ///
    /// A folder has to be there: where a disk is not mounted, one that is made would be on another disk.
    pub fn open(&self) -> Result<Repository> {
        if let Some(folder) = self.stack.repository_folder().filter(|f| !f.is_dir()) {
            let shown = folder.display();
            return Err(Error::missing(format!("the folder {shown} is not there")).hint(format!(
                "Mount its disk; if there is none, make the folder once: mkdir -m 700 -p {shown}"
            )));
        }
        Ok(Repository {
            is_copy: true,
            ..Repository::alone(&self.stack, self.sealing.clone())?
        })
    }
}

/// An archive of which there should be a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CopyStep {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// What is there under its name is damaged, and is replaced.
    pub replaces: bool,
}

/// What a copy holds and lacks.
#[derive(Debug, Clone, Serialize)]
pub struct CopyStatus {
    /// What the copy is called.
    pub name: String,
    /// Where it is.
    pub place: PathBuf,
    /// Archives that it has in common with the first repository.
    pub held: Vec<String>,
    /// Archives that it lacks, newest first.
    pub missing: Vec<CopyStep>,
    /// Archives that have another content there. Neither is known to be the right one.
    pub differing: Vec<String>,
    /// Why it cannot be looked at.
    pub error: Option<String>,
    /// What to do about that.
    #[serde(skip)]
    pub hint: Option<String>,
}

impl CopyStatus {
    pub(super) fn of(copy: &CopyPlace) -> Self {
        Self {
            name: copy.name.clone(),
            place: copy.place(),
            held: Vec::new(),
            missing: Vec::new(),
            differing: Vec::new(),
            error: None,
            hint: None,
        }
    }

    /// Whether it is not as it should be.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.error.is_some() || !self.missing.is_empty() || !self.differing.is_empty()
    }

    /// Holds what is there against what should be.
    pub(super) fn compare(&mut self, wanted: &[Entry], there: &[Entry]) {
        for entry in wanted {
            let name = entry.name.clone();
            let found = there.iter().find(|other| other.name == name);
            match found {
                Some(other) if !other.state.is_good() => self.lacks(entry, true),
                None => self.lacks(entry, false),
                Some(other) if other.size == entry.size && other.content == entry.content => {
                    self.held.push(name);
                }
                Some(_) => self.differing.push(name),
            }
        }
    }

    fn lacks(&mut self, entry: &Entry, replaces: bool) {
        self.missing.push(CopyStep {
            name: entry.name.clone(),
            size: entry.size,
            replaces,
        });
    }
}

impl Repository {
    /// The further repositories that archives of this one are copied to.
    #[must_use]
    pub fn copies(&self) -> &[CopyPlace] {
        &self.copies
    }

    /// The copy of this name.
    pub fn copy(&self, name: &str) -> Result<Self> {
        let found = self.copies.iter().find(|copy| copy.name == name);
        let copy = found.ok_or_else(|| {
            let names: Vec<&str> = self.copies.iter().map(CopyPlace::name).collect();
            Error::usage(format!("there is no copy {name:?} of the repository")).hint(
                match names.as_slice() {
                    [] => "None is configured: see [[repository.copies]].".to_owned(),
                    names => format!("There are: {}.", names.join(", ")),
                },
            )
        })?;
        copy.open()
    }

    /// The archive that `wanted` means in the copy of this name.
    pub fn find_in_copy(
        &self,
        copy: &str,
        wanted: &str,
        stack: &str,
        kind: Option<Kind>,
    ) -> Result<PathBuf> {
        self.copy(copy)?.find_kind(wanted, stack, kind)
    }

    /// The copy that an archive at `path` belongs to.
    pub(super) fn copy_of(&self, path: &Path) -> Option<&CopyPlace> {
        let holds = |copy: &&CopyPlace| name_in(&copy.place(), path).is_some();
        self.copies.iter().find(holds)
    }

    /// Whether `path` is the address of an archive in a copy.
    pub(super) fn is_in_copy(&self, path: &Path) -> Result<bool> {
        match (self.copy_of(path), path.file_name()) {
            (Some(copy), Some(name)) => copy.open()?.has(&name.to_string_lossy()),
            _ => Ok(false),
        }
    }

    /// What each copy holds and lacks of the backups of `stack`.
    pub fn copy_status(&self, stack: &str) -> Result<Vec<CopyStatus>> {
        let wanted = self.wanted_in_copies(self.list()?, stack)?;
        Ok(self.copies.iter().map(|copy| look(copy, &wanted)).collect())
    }

    /// The archives of which there should be copies, newest first: good backups of the stack. What a
    /// restore put aside is for this host.
    pub(super) fn wanted_in_copies(&self, entries: Vec<Entry>, stack: &str) -> Result<Vec<Entry>> {
        let mut wanted = Vec::new();
        for entry in entries {
            if entry.is_backup_of(stack) && self.known_failure(&entry)?.is_none() {
                wanted.push(entry);
            }
        }
        Ok(wanted)
    }
}

fn look(copy: &CopyPlace, wanted: &[Entry]) -> CopyStatus {
    let mut status = CopyStatus::of(copy);
    match copy.open().and_then(|there| there.list()) {
        Ok(there) => status.compare(wanted, &there),
        Err(error) => {
            status.error = Some(in_a_line(&error));
            status.hint = error.hint_text().map(str::to_owned);
        }
    }
    status
}

/// An error and what lies beneath it.
pub(super) fn in_a_line(error: &Error) -> String {
    let mut parts = vec![error.to_string()];
    parts.extend(error.causes());
    parts.join(": ").replace('\n', " ")
}

/// An archive, and where it is.
#[derive(Debug, Clone, Serialize)]
pub struct Located {
    /// The archive, as the first repository that has it says.
    #[serde(flatten)]
    pub entry: Entry,
    /// `repository`, and the names of copies.
    #[serde(rename = "where")]
    pub places: Vec<String>,
}

/// Lays what the copies hold beside what the first repository holds, newest first.
#[must_use]
pub fn locate(first: Vec<Entry>, copies: &[(String, Vec<Entry>)]) -> Vec<Located> {
    let located = |place: &str| {
        let places = vec![place.to_owned()];
        move |entry: Entry| Located {
            entry,
            places: places.clone(),
        }
    };
    let mut all: Vec<Located> = first.into_iter().map(located(FIRST)).collect();
    for (copy, entries) in copies {
        for entry in entries {
            let known = all.iter_mut().find(|known| known.entry.name == entry.name);
            match known {
                Some(known) if entry.state.is_good() => known.places.push(copy.clone()),
                Some(_) => {}
                None => all.push(located(copy)(entry.clone())),
            }
        }
    }
    let age = |located: &Located| (located.entry.time, located.entry.name.clone());
    all.sort_by_key(|located| std::cmp::Reverse(age(located)));
    all
}
