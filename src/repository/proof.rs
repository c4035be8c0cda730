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
use std::path::Path;

/// The folder of notes, beside the archives.
pub(super) const PROOFS: &str = ".proofs";

/// What was found out about one archive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Of which content.
    pub(super) content: String,
    /// When all of it was read and found whole.
    pub verified_at: Option<DateTime<Utc>>,
    /// When a stack was restored from it and did its work.
    pub drilled_at: Option<DateTime<Utc>>,
    /// Why it is no backup, if that was found out last.
    pub failure: Option<String>,
    /// The SHA-256 of the file, as it was written or first copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sha256: Option<String>,
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

    /// Notes the digest of an archive that this run has written, for whoever copies it.
    pub fn note_written(&self, archive: &Archive) -> Result<()> {
        let digest = self
            .name_of(archive.path())
            .and_then(|name| self.digests.of(&name));
        match digest {
            Some(_) => self.note(archive, |_| ()),
            None => Ok(()),
        }
    }

    /// Notes that the file of an archive is not what it was, although its manifest may be.
    pub(super) fn note_damage(&self, entry: &Entry, reason: &str) -> Result<()> {
        let damaged = Proof {
            content: entry.content.clone().unwrap_or_default(),
            failure: Some(reason.to_owned()),
            ..Proof::default()
        };
        let _lock = self.shelf.lock_notes()?;
        self.write_proof(&entry.name, &damaged)
    }

    /// Notes of an archive what is known of one that it is equal to, byte for byte. What was found out
    /// about this one itself stays.
    pub(super) fn inherit(&self, name: &str, known: &Proof) -> Result<()> {
        let _lock = self.shelf.lock_notes()?;
        let own = self.read_proof(name)?.unwrap_or_default();
        let own = if own.content == known.content {
            own
        } else {
            Proof::default()
        };
        let both = Proof {
            content: known.content.clone(),
            verified_at: own.verified_at.max(known.verified_at),
            drilled_at: own.drilled_at.max(known.drilled_at),
            failure: own.failure.clone(),
            sha256: own.sha256.clone().or_else(|| known.sha256.clone()),
        };
        if both == own || known.failure.is_some() {
            return Ok(());
        }
        self.write_proof(name, &both)
    }

    /// What is known of an archive as it was when it was listed.
    pub(super) fn known_of(&self, entry: &Entry) -> Result<Proof> {
        let content = entry.content.clone().unwrap_or_default();
        let known = self.read_proof(&entry.name)?;
        Ok(known
            .filter(|proof| proof.content == content)
            .unwrap_or(Proof {
                content,
                ..Proof::default()
            }))
    }

    /// Why an archive that was listed is no backup, if that was found out.
    pub(super) fn known_failure(&self, entry: &Entry) -> Result<Option<String>> {
        Ok(self.known_of(entry)?.failure)
    }

    /// What stands for the content of the archive at `path`, as it is now.
    pub(super) fn content_of(&self, path: &Path) -> Result<String> {
        Ok(match self.look_at(path)? {
            Look::Archive(archive) => content(&archive),
            Look::Sealed(seal) => seal.content,
        })
    }

    /// What is known of an archive of this repository as it is now.
    pub fn proof(&self, entry: &Entry) -> Result<Proof> {
        let Some(proof) = self.read_proof(&entry.name)? else {
            return Ok(Proof::default());
        };
        let now = self.content_of(&entry.path);
        let same = now.is_ok_and(|now| now == proof.content);
        Ok(if same { proof } else { Proof::default() })
    }

    /// Forgets what is known of an archive that was deleted.
    pub(super) fn forget_proof(&self, name: &str) -> Result<()> {
        self.shelf.remove_note(&proof_file(name))
    }

    fn note(&self, archive: &Archive, change: impl FnOnce(&mut Proof)) -> Result<()> {
        let Some(name) = self.name_of(archive.path()) else {
            return match self.copy_of(archive.path()) {
                Some(copy) => copy.open()?.note(archive, change),
                None => Ok(()),
            };
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
        proof.sha256 = self.digests.of(&name).or(proof.sha256);
        self.write_proof(&name, &proof)
    }

    fn write_proof(&self, name: &str, proof: &Proof) -> Result<()> {
        let text = serde_json::to_vec_pretty(proof).context(|| "a proof cannot be written")?;
        self.shelf.write_note(&proof_file(name), &text)
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
pub(super) fn content(archive: &Archive) -> String {
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
