//! Encrypts what is written on its way to wherever it goes.

use super::{Lock, NAMES, OwnKey};
use crate::adapters::storage::Sink;
use crate::error::{Context, Error, Result};
use age::stream::StreamWriter;
use age::{EncryptError, Encryptor, Recipient, scrypt};
use age_core::format::{FileKey, Stanza};
use std::collections::HashSet;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

/// A sink whose content is encrypted.
pub struct Sealing(StreamWriter<Box<dyn Sink>>);

impl Sealing {
    /// Encrypts to `sink`. The key that is answered opens this archive and no other.
    pub fn begin(sink: Box<dyn Sink>, lock: &Lock) -> Result<(Self, OwnKey)> {
        let keeping = Keeping::of(lock);
        let encryptor = keeping.encryptor()?;
        let kept = keeping
            .kept
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let key = kept.ok_or_else(|| Error::failed("the archive cannot be encrypted"))?;
        let writer = encryptor
            .wrap_output(sink)
            .context(|| "the header of the encryption cannot be written")?;
        Ok((Self(writer), key))
    }
}

/// Encrypts something that is in memory as a whole.
pub fn seal_whole(content: &[u8], lock: &Lock) -> Result<Vec<u8>> {
    let cannot = || "this cannot be encrypted";
    let encryptor = Keeping::of(lock).encryptor()?;
    let mut writer = encryptor.wrap_output(Vec::new()).context(cannot)?;
    writer.write_all(content).context(cannot)?;
    writer.finish().context(cannot)
}

impl Write for Sealing {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        self.0.write(buffer)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

impl Sink for Sealing {
    fn publish(self: Box<Self>) -> Result<()> {
        let sink = self.0.finish();
        sink.context(|| "the end of the archive cannot be written")?
            .publish()
    }
}

/// All recipients as one, which keeps the key and writes down whose keys it was wrapped for.
struct Keeping<'a> {
    lock: &'a Lock,
    kept: Mutex<Option<OwnKey>>,
}

impl<'a> Keeping<'a> {
    fn of(lock: &'a Lock) -> Self {
        Self {
            lock,
            kept: Mutex::new(None),
        }
    }

    fn encryptor(&self) -> Result<Encryptor> {
        Encryptor::with_recipients(std::iter::once(self as &dyn Recipient))
            .context(|| "the archive cannot be encrypted")
    }
}

impl Recipient for Keeping<'_> {
    fn wrap_file_key(&self, key: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), EncryptError> {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(OwnKey::of(key));
        let recipients = match self.lock {
            Lock::Passphrase(passphrase) => {
                // age allows nothing beside it.
                return scrypt::Recipient::new(passphrase.clone()).wrap_file_key(key);
            }
            Lock::Recipients(recipients) => recipients,
        };
        let mut stanzas = Vec::new();
        let mut labels = HashSet::new();
        for recipient in recipients {
            let (wrapped, of_this) = recipient.wrap_file_key(key)?;
            stanzas.extend(wrapped);
            labels = of_this;
        }
        if stanzas.is_empty() {
            return Err(EncryptError::MissingRecipients);
        }
        stanzas.push(Stanza {
            tag: NAMES.to_owned(),
            args: self.lock.names(),
            body: Vec::new(),
        });
        Ok((stanzas, labels))
    }
}
