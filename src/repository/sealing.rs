//! Which archives are encrypted, with what, and which keys are here to open them.

use super::Name;
use crate::adapters::storage::{ReadAt, Sink};
use crate::archive::{Archive, Keys, Lock, Opened, OwnKey, Seal, Sealing, is_sealed, seal_whole};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::stack::Stack;
use age::secrecy::SecretString;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// What can be seen of an archive.
pub(super) enum Look {
    /// All of it.
    Archive(Archive),
    /// It is encrypted, and no key here opens it.
    Sealed(Seal),
}

/// How archives are encrypted, and opened.
#[derive(Debug, Clone, Default)]
pub(super) struct Sealed {
    lock: Option<Lock>,
    identity: Option<PathBuf>,
    passphrase: Option<SecretString>,
    /// Of archives that this very run has written, which it may read back.
    own: Arc<Mutex<BTreeMap<PathBuf, OwnKey>>>,
}

impl Sealed {
    pub(super) fn of(stack: &Stack) -> Result<Self> {
        let configured = &stack.config.encryption;
        let file = |path: &Path| (!path.as_os_str().is_empty()).then(|| stack.base.join(path));
        let passphrase = passphrase(stack)?;
        let recipients_file = file(&configured.recipients_file);
        let has_recipients = !configured.recipients.is_empty() || recipients_file.is_some();
        let lock = match (&passphrase, has_recipients) {
            (Some(_), true) => {
                return Err(
                    Error::usage("encryption.passphrase and recipients are both set")
                        .hint("A passphrase cannot be combined with keys; keep one of them."),
                );
            }
            (Some(passphrase), false) => Some(Lock::Passphrase(passphrase.clone())),
            (None, true) => Some(Lock::for_recipients_in(
                &configured.recipients,
                recipients_file.as_deref(),
            )?),
            (None, false) => None,
        };
        Ok(Self {
            lock,
            identity: file(&configured.identity),
            passphrase,
            own: Arc::default(),
        })
    }

    pub(super) fn seals(&self) -> bool {
        self.lock.is_some()
    }

    /// Whose keys open archives from now on, sorted; none if archives are not encrypted.
    pub(super) fn names(&self) -> Option<Vec<String>> {
        self.lock.as_ref().map(Lock::names)
    }

    pub(super) fn file_name(&self, name: &Name) -> String {
        let plain = name.file_name();
        if self.seals() {
            format!("{plain}.age")
        } else {
            plain
        }
    }

    /// One that costs work for each thing that is encrypted.
    pub(super) fn seals_by_passphrase(&self) -> bool {
        matches!(self.lock, Some(Lock::Passphrase(_)))
    }

    /// Encrypts something small, if anything is encrypted.
    pub(super) fn seal(&self, content: &[u8]) -> Result<Vec<u8>> {
        match &self.lock {
            Some(lock) => seal_whole(content, lock),
            None => Ok(content.to_vec()),
        }
    }

    /// What was made by [`Sealed::seal`], or was never encrypted.
    pub(super) fn unseal(&self, path: &Path, bytes: Arc<dyn ReadAt>, size: u64) -> Result<Vec<u8>> {
        let cannot = || format!("{} cannot be read", path.display());
        let (bytes, size) = if is_sealed(&*bytes, size).context(cannot)? {
            let seal = Seal::of(&bytes, size)?;
            let opened = Opened::with(bytes, size, &self.keys()?, None)?;
            let opened = opened.ok_or_else(|| {
                Error::missing(format!("{} is encrypted", path.display())).hint(seal.hint())
            })?;
            let size = opened.size();
            (Arc::new(opened) as Arc<dyn ReadAt>, size)
        } else {
            (bytes, size)
        };
        let mut content = vec![0; usize::try_from(size).context(cannot)?];
        bytes.read_exact_at(&mut content, 0).context(cannot)?;
        Ok(content)
    }

    pub(super) fn begin(&self, place: &Path, sink: Box<dyn Sink>) -> Result<Box<dyn Sink>> {
        let Some(lock) = &self.lock else {
            return Ok(sink);
        };
        let (sealing, key) = Sealing::begin(sink, lock)?;
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        own.insert(place.to_path_buf(), key);
        Ok(Box::new(sealing))
    }

    pub(super) fn open(&self, path: &Path, bytes: Arc<dyn ReadAt>, size: u64) -> Result<Look> {
        if !is_sealed(&*bytes, size).unwrap_or_default() {
            return Archive::over(path, bytes, size).map(Look::Archive);
        }
        let named = |error: Error| {
            let is_bad = error.kind() == ErrorKind::BadData;
            if is_bad {
                Error::bad_data(format!("archive {}: {error}", path.display()))
                    .hint("Use another archive; `k1ops list` shows which there are.")
            } else {
                error
            }
        };
        let seal = Seal::of(&bytes, size).map_err(named)?;
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let own = own.get(path).cloned();
        let keys = self.keys()?;
        match Opened::with(bytes, size, &keys, own.as_ref()).map_err(named)? {
            None => Ok(Look::Sealed(seal)),
            Some(opened) => {
                let size = opened.size();
                let archive = Archive::over(path, Arc::new(opened), size)?;
                Ok(Look::Archive(archive.under(seal)))
            }
        }
    }

    fn keys(&self) -> Result<Keys> {
        let mut keys = Keys::default();
        if let Some(file) = &self.identity {
            keys.add_identities(file)?;
        }
        if let Some(passphrase) = &self.passphrase {
            keys.add_passphrase(passphrase.clone());
        }
        Ok(keys)
    }
}

fn passphrase(stack: &Stack) -> Result<Option<SecretString>> {
    let configured = &stack.config.encryption.passphrase;
    if configured.is_empty() {
        return Ok(None);
    }
    let text = match configured.file() {
        None => configured.expose().to_owned(),
        Some(file) => {
            let file = stack.base.join(file);
            let text = std::fs::read_to_string(&file)
                .context(|| format!("the passphrase file {} cannot be read", file.display()))?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
    };
    if text.is_empty() {
        return Err(Error::usage("the passphrase for archives is empty"));
    }
    Ok(Some(SecretString::from(text)))
}
