//! What is known of an archive beyond its structure: that all of it was read, that a stack ran on
//! it, or that it failed. Kept beside the archives, in `.proofs/`, so that it outlives the run that
//! found it out and holds for everybody who uses the repository.
//!
//! A proof is of content, not of a name: a file that was replaced since is unproven.

use super::sealing::Look;
use super::{Entry, Repository};
use crate::archive::Archive;
use crate::config::ProofKind;
use crate::error::{Context, Result};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The folder of notes, beside the archives.
pub(super) const PROOFS: &str = ".proofs";

/// What was found out about one archive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Of which content.
    content: String,
    /// When all of it was read and found whole.
    pub verified_at: Option<DateTime<Utc>>,
    /// When a stack was restored from it and did its work.
    pub drilled_at: Option<DateTime<Utc>>,
    /// Why it is no backup, if that was found out last.
    pub failure: Option<String>,
}

impl Proof {
    /// When the archive was proven by what `kind` asks for.
    #[must_use]
    pub fn passed(&self, kind: ProofKind) -> Option<DateTime<Utc>> {
        match kind {
            _ if self.failure.is_some() => None,
            // A drill reads all of the archive first.
            ProofKind::Verify => self.verified_at.max(self.drilled_at),
            ProofKind::Drill => self.drilled_at,
        }
    }
}

impl Repository {
    /// Notes that `archive` was proven now. An archive outside of the repository is not noted.
    pub fn note_proof(&self, archive: &Archive, kind: ProofKind) -> Result<()> {
        let now = Some(Utc::now());
        self.note(archive, |proof| {
            proof.failure = None;
            match kind {
                ProofKind::Verify => proof.verified_at = now,
                ProofKind::Drill => proof.drilled_at = now,
            }
        })
    }

    /// Notes that `archive` turned out to be no backup.
    pub fn note_failure(&self, archive: &Archive, reason: &str) -> Result<()> {
        self.note(archive, |proof| {
            *proof = Proof {
                content: proof.content.clone(),
                failure: Some(reason.to_owned()),
                ..Proof::default()
            };
        })
    }

    /// Notes of a copy what a drill found out about the archive that it was made of.
    pub(super) fn note_drill_of(&self, copy: &Archive, known: &Proof) -> Result<()> {
        self.note(copy, |proof| proof.drilled_at = known.drilled_at)
    }

    /// What is known of an archive of this repository as it is now.
    pub fn proof(&self, entry: &Entry) -> Result<Proof> {
        let Some(proof) = self.read_proof(&entry.name)? else {
            return Ok(Proof::default());
        };
        let same = self.look_at(&entry.path).is_ok_and(|now| {
            let now = match now {
                Look::Archive(archive) => content(&archive),
                Look::Sealed(seal) => seal.content,
            };
            now == proof.content
        });
        Ok(if same { proof } else { Proof::default() })
    }

    /// Forgets what is known of an archive that was deleted.
    pub(super) fn forget_proof(&self, name: &str) -> Result<()> {
        self.shelf.remove_note(&proof_file(name))
    }

    fn note(&self, archive: &Archive, change: impl FnOnce(&mut Proof)) -> Result<()> {
        let Some(name) = self.name_of(archive.path()) else {
            return Ok(());
        };
        let _lock = self.shelf.lock_notes()?;
        let content = content(archive);
        let known = self
            .read_proof(&name)?
            .filter(|proof| proof.content == content);
        let mut proof = known.unwrap_or_else(|| Proof {
            content,
            ..Proof::default()
        });
        change(&mut proof);
        let text = serde_json::to_vec_pretty(&proof).context(|| "a proof cannot be written")?;
        self.shelf.write_note(&proof_file(&name), &text)
    }

    /// A note that cannot be read proves nothing.
    fn read_proof(&self, name: &str) -> Result<Option<Proof>> {
        let text = self.shelf.note(&proof_file(name))?;
        Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
    }
}

fn proof_file(name: &str) -> String {
    format!("{PROOFS}/{name}.json")
}

/// What the manifest says of every byte that matters; of an encrypted archive what can be said
/// without its key.
fn content(archive: &Archive) -> String {
    if let Some(seal) = archive.seal() {
        return seal.content.clone();
    }
    let mut hash = Sha256::new();
    hash.update(archive.size().to_le_bytes());
    hash.update(archive.manifest().header.started_at.to_rfc3339());
    for member in &archive.manifest().members {
        hash.update(&member.path);
        hash.update(&member.sha256);
    }
    hex::encode(hash.finalize())
}
