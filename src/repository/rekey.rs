//! Encrypts every archive anew, for those who are to read them from now on.
//!
//! An archive is read through with an old key and written through with a new one. Encrypted ones are
//! replaced in one step, under the name that they have; plain ones go when their encrypted copy was
//! read back as a whole. At every moment, each archive is there in one form or the other.

use super::sealing::Look;
use super::{Entry, Repository, State, WriteAccess};
use crate::adapters::storage::Sink;
use crate::archive::{Archive, Depth, verify};
use crate::config::ProofKind;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::{Events, Unit};
use crate::interrupt::Interrupt;
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;

/// How much is read and written at a time.
const PIECE: usize = 1 << 20;

/// What is to be done with one archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub enum Rekey {
    /// It is for these keys already.
    Keep,
    /// It is encrypted for others.
    Reencrypt,
    /// It is not encrypted.
    Encrypt,
    /// No key here opens it, or it is no archive.
    Leave {
        /// Why.
        reason: String,
    },
}

/// An archive and what is to be done with it.
#[derive(Debug, Clone, Serialize)]
pub struct RekeyStep {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// What is to be done.
    #[serde(flatten)]
    pub what: Rekey,
}

/// What would be done with every archive of a stack.
#[derive(Debug, Clone, Serialize)]
pub struct RekeyPlan {
    /// The repository.
    pub repository: PathBuf,
    /// Whose keys open archives afterwards; nobody's by name if it is a passphrase.
    pub recipients: Vec<String>,
    /// Every archive, newest first.
    pub archives: Vec<RekeyStep>,
    /// Files of the write-ahead log that are not encrypted for these keys, below the repository's place.
    pub log: Vec<String>,
}

impl RekeyPlan {
    /// What is written anew.
    pub fn changes(&self) -> impl Iterator<Item = &RekeyStep> {
        let changes = |step: &&RekeyStep| matches!(step.what, Rekey::Reencrypt | Rekey::Encrypt);
        self.archives.iter().filter(changes)
    }

    /// What cannot be.
    pub fn left(&self) -> impl Iterator<Item = &RekeyStep> {
        let left = |step: &&RekeyStep| matches!(step.what, Rekey::Leave { .. });
        self.archives.iter().filter(left)
    }
}

impl Repository {
    /// Decides what to do with the archives of `stack`.
    pub fn plan_rekey(&self, stack: &str) -> Result<RekeyPlan> {
        let Some(recipients) = self.sealing.names() else {
            return Err(Error::usage("no key is configured to encrypt archives for")
                .hint("Set encryption.recipients to the public keys that age-keygen shows."));
        };
        let mut entries = self.list()?;
        entries.retain(|entry| entry.stack.as_deref() == Some(stack));
        let log = self.log_for_others(stack, &entries, &recipients)?;
        let step = |entry: Entry| {
            Ok(RekeyStep {
                what: self.rekey_of(&entry, &recipients)?,
                name: entry.name,
                path: entry.path,
                size: entry.size,
            })
        };
        let archives = entries.into_iter().map(step).collect::<Result<_>>()?;
        Ok(RekeyPlan {
            repository: self.place().to_path_buf(),
            log,
            recipients,
            archives,
        })
    }

    fn rekey_of(&self, entry: &Entry, recipients: &[String]) -> Result<Rekey> {
        let leave = |reason: &str| Rekey::Leave {
            reason: reason.to_owned(),
        };
        Ok(match &entry.state {
            State::Incomplete { .. } => leave("it is not finished"),
            State::Unreadable { reason } => leave(reason),
            State::Sealed { recipients: of } if !of.is_empty() && of == recipients => Rekey::Keep,
            State::Sealed { .. } => leave("no key here opens it"),
            State::Good => match self.look_at(&entry.path)? {
                Look::Sealed(_) => leave("no key here opens it"),
                Look::Archive(archive) => match archive.seal() {
                    // Perhaps its copy, by a run that was ended before it removed the plain one;
                    // that is for somebody to decide.
                    None if self.has(&format!("{}.age", entry.name))? => {
                        leave("there is an encrypted archive of the same name beside it")
                    }
                    None => Rekey::Encrypt,
                    Some(seal) if !recipients.is_empty() && seal.recipients == recipients => {
                        Rekey::Keep
                    }
                    Some(_) => Rekey::Reencrypt,
                },
            },
        })
    }

    /// Does what the plan says, one archive after the other, and then the log; answers how many files of the log no
    /// key here opens. Interrupted, it goes on where it was.
    pub async fn execute_rekey(
        &self,
        plan: &RekeyPlan,
        access: &WriteAccess,
        jobs: usize,
        events: &Events,
        interrupt: &Interrupt,
    ) -> Result<u64> {
        for leftover in self.remove_leftovers(access)? {
            events.note(format!("removed {}", leftover.display()));
        }
        for step in plan.changes() {
            interrupt.check()?;
            access.check()?;
            let archive = self.open(&step.path)?;
            let proof = self.proof(&Entry::of(&archive))?;
            let replaces = step.what == Rekey::Reencrypt;
            let name = if replaces {
                step.name.clone()
            } else {
                format!("{}.age", step.name)
            };
            let path = self.place().join(&name);
            let sink = self
                .sealing
                .begin(&path, self.begin_stored(&name, replaces)?)?;
            copy(archive, sink, events, interrupt).await?;
            let copied = self.open(&path)?;
            verify(&copied, Depth::Full, jobs, events, interrupt).await?;
            self.note_proof(&copied, ProofKind::Verify)?;
            if proof.drilled_at.is_some() {
                self.note_drill_of(&copied, &proof)?;
            }
            if !replaces {
                self.shelf.remove(&step.name)?;
                self.forget_proof(&step.name)?;
            }
        }
        let left = self.rekey_log(&plan.log, events, interrupt)?;
        self.shelf.settle()?;
        Ok(left)
    }
}

/// Passes an archive on, a piece at a time. What comes out of an encrypted one is authenticated.
async fn copy(
    archive: Archive,
    mut sink: Box<dyn Sink>,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<()> {
    let (events, interrupt) = (events.clone(), interrupt.clone());
    let step = format!("encrypting {}", archive.path().display());
    let work = move || -> Result<()> {
        events.started(&step);
        let mut buffer = vec![0; PIECE];
        let mut done = 0;
        while done < archive.size() {
            interrupt.check()?;
            let length = usize::try_from(archive.size() - done)
                .unwrap_or(PIECE)
                .min(PIECE);
            archive
                .bytes()
                .read_exact_at(&mut buffer[..length], done)
                .context(|| format!("archive {} cannot be read", archive.path().display()))?;
            sink.write_all(&buffer[..length]).context(|| {
                format!("the copy of {} cannot be written", archive.path().display())
            })?;
            done += length as u64;
            events.progress(&step, done, Some(archive.size()), Unit::Bytes);
        }
        sink.publish()?;
        events.finished(step, format!("{done} bytes"));
        Ok(())
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::new(ErrorKind::Failed, "the thread that encrypts died"))?
}
