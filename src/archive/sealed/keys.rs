//! Whose keys lock an archive, and which keys are here to open one.

use crate::error::{Context, Error, Result};
use age::secrecy::SecretString;
use age::x25519;
use std::path::Path;

/// What new archives are locked with.
#[derive(Clone)]
pub enum Lock {
    /// Public keys; any of their owners can open.
    Recipients(Vec<x25519::Recipient>),
    /// A passphrase, from which a key is made slowly.
    Passphrase(SecretString),
}

impl std::fmt::Debug for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Recipients(_) => write!(f, "Recipients({:?})", self.names()),
            Self::Passphrase(_) => f.write_str("Passphrase"),
        }
    }
}

impl Lock {
    /// A lock for public keys in age's form.
    pub fn for_recipients(keys: &[String]) -> Result<Self> {
        let parsed = keys.iter().map(|key| {
            key.parse().map_err(|why: &str| {
                // A private key in the wrong place must not be shown.
                let shown = key.get(..8).unwrap_or(key);
                Error::usage(format!(
                    "encryption.recipients: {shown}… is no recipient: {why}"
                ))
                .hint("A recipient is the public key that age-keygen shows: age1….")
            })
        });
        parsed.collect::<Result<_>>().map(Self::Recipients)
    }

    /// A lock for `keys` and for those in a file, one a line.
    pub fn for_recipients_in(keys: &[String], file: Option<&Path>) -> Result<Self> {
        let mut all = keys.to_vec();
        if let Some(file) = file {
            let text = std::fs::read_to_string(file)
                .context(|| format!("the recipients file {} cannot be read", file.display()))?;
            let lines = text.lines().map(str::trim);
            let keys = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
            all.extend(keys.map(str::to_owned));
        }
        Self::for_recipients(&all)
    }

    /// Whose keys open it, sorted; nobody's by name if it is a passphrase.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names = match self {
            Self::Recipients(keys) => keys.iter().map(ToString::to_string).collect(),
            Self::Passphrase(_) => Vec::new(),
        };
        names.sort();
        names.dedup();
        names
    }
}

/// What can open archives.
#[derive(Clone, Default)]
pub struct Keys {
    pub(super) identities: Vec<x25519::Identity>,
    pub(super) passphrase: Option<SecretString>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({} identities)", self.identities.len())
    }
}

impl Keys {
    /// The private keys in an age identity file.
    pub fn add_identities(&mut self, file: &Path) -> Result<()> {
        let shown = file.display();
        let text = std::fs::read_to_string(file)
            .context(|| format!("the identity file {shown} cannot be read"))?;
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let identity = line.parse().map_err(|_| {
                Error::usage(format!("line {number} of {shown} is no age identity")).hint(
                    "An identity file is what age-keygen writes: lines with AGE-SECRET-KEY-1….",
                )
            })?;
            self.identities.push(identity);
        }
        Ok(())
    }

    /// A passphrase to try.
    pub fn add_passphrase(&mut self, passphrase: SecretString) {
        self.passphrase = Some(passphrase);
    }
}
