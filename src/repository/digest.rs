//! The SHA-256 of archives as they are stored, taken while their bytes pass. What is copied later is
//! held against what was written, not against what the disk has made of it since.

use crate::adapters::storage::Sink;
use crate::error::Result;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

/// Of archives that this very run has written, by name.
#[derive(Debug, Clone, Default)]
pub(super) struct Digests(Arc<Mutex<BTreeMap<String, String>>>);

impl Digests {
    /// Takes the digest of what goes into `sink`, which counts once that is published.
    pub(super) fn watch(&self, name: &str, sink: Box<dyn Sink>) -> Box<dyn Sink> {
        Box::new(Watched {
            sink,
            hash: Sha256::new(),
            name: name.to_owned(),
            digests: self.clone(),
        })
    }

    /// What this run has written under a name.
    pub(super) fn of(&self, name: &str) -> Option<String> {
        let digests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        digests.get(name).cloned()
    }
}

struct Watched {
    sink: Box<dyn Sink>,
    hash: Sha256,
    name: String,
    digests: Digests,
}

impl Write for Watched {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let written = self.sink.write(buffer)?;
        self.hash.update(&buffer[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.sink.flush()
    }
}

impl Sink for Watched {
    fn publish(self: Box<Self>) -> Result<()> {
        self.sink.publish()?;
        let digest = hex::encode(self.hash.finalize());
        let mut digests = self
            .digests
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        digests.insert(self.name, digest);
        Ok(())
    }
}
