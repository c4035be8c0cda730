//! Brings copies up to date: every archive that one lacks is written there, byte for byte.
//!
//! An archive is seen in a copy when it is whole and equal to what was written, and not before. A run
//! that was killed leaves nothing that counts, and the next one goes on with what is still missing.

use super::copies::{CopyPlace, CopyStatus, CopyStep, in_a_line};
use super::proof::Proof;
use super::shelf::Writing;
use super::{Entry, Repository, partial_of};
use crate::adapters::storage::{ReadAt, Sink, explain_write};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::{Events, Unit};
use crate::interrupt::Interrupt;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use std::sync::Arc;

/// How much is read and written at a time.
const PIECE: usize = 1 << 20;

/// What was done for one copy.
#[derive(Debug, Clone, Serialize)]
pub struct CopyReport {
    /// What the copy is called.
    pub name: String,
    /// Where it is.
    pub place: PathBuf,
    /// Archives that were written there, newest first.
    pub copied: Vec<CopyStep>,
    /// Archives that are still missing there, as far as that is known.
    pub missing: Vec<String>,
    /// Why it is behind.
    pub error: Option<String>,
    /// What to do about that.
    #[serde(skip)]
    hint: Option<String>,
}

impl CopyReport {
    fn of(copy: &CopyPlace) -> Self {
        Self {
            name: copy.name().to_owned(),
            place: copy.place(),
            copied: Vec::new(),
            missing: Vec::new(),
            error: None,
            hint: None,
        }
    }

    /// Whether it does not hold all that it should.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.error.is_some()
    }

    /// How many bytes were written there.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.copied.iter().map(|step| step.size).sum()
    }

    fn fail(&mut self, error: &Error) {
        self.error = Some(in_a_line(error));
        // What an interrupt says of everything else is not so here: the backup is done.
        let hint = error
            .hint_text()
            .filter(|_| error.kind() != ErrorKind::Interrupted);
        self.hint = hint.map(str::to_owned);
    }

    fn warn(&self, events: &Events) {
        let Some(error) = &self.error else {
            return;
        };
        let message = format!("the copy {} is behind: {error}", self.name);
        let hint = self.hint.as_deref().unwrap_or_default();
        let again = "`k1ops repo copy` and the next backup make up for it.";
        events.warning_with_hint(message, format!("{again} {hint}").trim_end());
    }
}

/// What is said where copies are behind, of which each was warned about; `None` if none is.
#[must_use]
pub fn behind<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Error> {
    let names: Vec<&str> = names.into_iter().collect();
    let what = match names.as_slice() {
        [] => return None,
        [one] => format!("the copy {one} is behind"),
        several => format!("the copies {} are behind", several.join(", ")),
    };
    let hint = "Once it can be reached, run `k1ops repo copy`, or wait for the next backup.";
    Some(Error::behind(what).hint(hint))
}

impl Repository {
    /// Writes what each copy lacks of the backups of `stack`, newest first. What goes wrong with one
    /// copy is warned about and reported, and does not keep the others waiting.
    pub async fn bring_copies_up(
        &self,
        stack: &str,
        events: &Events,
        interrupt: &Interrupt,
    ) -> Vec<CopyReport> {
        let wanted = if self.copies().is_empty() {
            Ok(Vec::new())
        } else {
            let entries = self.list();
            entries.and_then(|entries| self.wanted_in_copies(entries, stack))
        };
        let mut reports = Vec::new();
        for copy in self.copies() {
            let mut report = CopyReport::of(copy);
            let done = match &wanted {
                Ok(wanted) => {
                    let work = self.bring_up(copy, wanted, &mut report, events, interrupt);
                    Box::pin(work).await
                }
                Err(error) => Err(Error::new(error.kind(), error.to_string())),
            };
            if let Err(error) = done {
                report.fail(&error);
                report.warn(events);
            }
            reports.push(report);
        }
        reports
    }

    async fn bring_up(
        &self,
        copy: &CopyPlace,
        wanted: &[Entry],
        report: &mut CopyReport,
        events: &Events,
        interrupt: &Interrupt,
    ) -> Result<()> {
        interrupt.check()?;
        let there = copy.open()?;
        let purpose = format!("copying from {}", self.place().display());
        let access = there.write_access(&purpose).await?;
        for leftover in there.remove_leftovers(&access)? {
            events.note(format!("removed {} of a run that died", leftover.display()));
        }
        let mut status = CopyStatus::of(copy);
        status.compare(wanted, &there.list()?);
        report.missing = status.missing.iter().map(|s| s.name.clone()).collect();
        let passage = Passage {
            from: self.clone(),
            to: there.clone(),
            copy: copy.name().to_owned(),
            access: access.0.clone(),
            events: events.clone(),
            interrupt: interrupt.clone(),
        };
        copy_missing(&status.missing, wanted, &passage, report).await?;
        for entry in wanted.iter().filter(|e| status.held.contains(&e.name)) {
            there.inherit(&entry.name, &self.known_of(entry)?)?;
        }
        differing(&status)
    }
}

/// One archive after the other. One that is damaged does not keep the others from being copied.
async fn copy_missing(
    steps: &[CopyStep],
    wanted: &[Entry],
    passage: &Passage,
    report: &mut CopyReport,
) -> Result<()> {
    let mut damaged = None;
    for step in steps {
        let Some(entry) = wanted.iter().find(|entry| entry.name == step.name) else {
            continue;
        };
        let (passage, entry, replaces) = (passage.clone(), entry.clone(), step.replaces);
        let working = tokio::task::spawn_blocking(move || passage.take(&entry, replaces));
        match working.await.context(|| "the thread that copies died")? {
            Ok(()) => {
                report.missing.retain(|name| *name != step.name);
                report.copied.push(step.clone());
            }
            Err(error) if error.kind() == ErrorKind::BadData => damaged = Some(error),
            Err(error) => return Err(error),
        }
    }
    damaged.map_or(Ok(()), Err)
}

fn differing(status: &CopyStatus) -> Result<()> {
    let Some(name) = status.differing.first() else {
        return Ok(());
    };
    let (copy, place) = (&status.name, status.place.display());
    Err(Error::bad_data(format!(
        "{} archives are not the same there, among them {name}",
        status.differing.len()
    ))
    .hint(format!(
        "Find out which is right, with `k1ops verify {name}` and `k1ops verify {name} --from-copy \
         {copy}`. After `k1ops repo rekey`, delete the old ones in {place}."
    )))
}

/// The way of archives from the first repository to a copy.
#[derive(Clone)]
struct Passage {
    from: Repository,
    to: Repository,
    copy: String,
    access: Arc<dyn Writing>,
    events: Events,
    interrupt: Interrupt,
}

impl Passage {
    /// Copies one archive, and holds what was read against what was written in the first place.
    fn take(&self, entry: &Entry, replaces: bool) -> Result<()> {
        self.interrupt.check()?;
        self.access.check()?;
        let place = self.to.place().join(&entry.name);
        let known = self.from.known_of(entry)?;
        let (bytes, size) = self.from.shelf.open(&entry.name)?;
        let mut sink = self.to.begin_stored(&entry.name, replaces)?;
        let digest = self.pour(entry, &*bytes, size, &mut *sink)?;
        if known
            .sha256
            .as_ref()
            .is_some_and(|written| *written != digest)
        {
            let from = entry.path.display();
            let reason = "its bytes are not those that were written";
            self.from.note_damage(entry, reason)?;
            return Err(Error::bad_data(format!("archive {from}: {reason}")).hint(
                "It was damaged on its disk and is not copied; look at the disk, and take a backup.",
            ));
        }
        self.access.check()?;
        sink.publish()
            .map_err(|error| explain_write(&place, error))?;
        let read_back = self.to.content_of(&place);
        if read_back.as_ref().ok() != entry.content.as_ref() {
            // What cannot be read back is no copy, and must not be listed as one.
            let _ = self.to.shelf.remove(&entry.name);
            let failed = Error::failed(format!("{} cannot be read back", place.display()));
            return Err(match read_back {
                Err(error) => failed.because(error),
                Ok(_) => failed.because("it is not what was written there"),
            });
        }
        let known = Proof {
            sha256: Some(digest),
            ..known
        };
        self.from.inherit(&entry.name, &known)?;
        self.to.inherit(&entry.name, &known)
    }

    /// Passes the bytes on as they are stored; answers their digest.
    fn pour(
        &self,
        entry: &Entry,
        bytes: &dyn ReadAt,
        size: u64,
        sink: &mut dyn Sink,
    ) -> Result<String> {
        let step = format!("copying {} to {}", entry.name, self.copy);
        let place = self.to.place().join(&entry.name);
        self.events.started(&step);
        let (mut hash, mut buffer, mut done) = (Sha256::new(), vec![0; PIECE], 0);
        while done < size {
            self.interrupt.check()?;
            let length = usize::try_from(size - done).unwrap_or(PIECE).min(PIECE);
            let piece = &mut buffer[..length];
            bytes
                .read_exact_at(piece, done)
                .context(|| format!("archive {} cannot be read", entry.path.display()))?;
            hash.update(&*piece);
            let written = sink
                .write_all(piece)
                .context(|| format!("{} cannot be written", partial_of(&place).display()));
            written.map_err(|error| explain_write(&place, error))?;
            done += length as u64;
            self.events.progress(&step, done, Some(size), Unit::Bytes);
        }
        self.events.finished(step, format!("{done} bytes"));
        Ok(hex::encode(hash.finalize()))
    }
}
