//! Archives that are encrypted: an age file (<https://age-encryption.org/v1>) around the tar, which the
//! program `age` reads and writes as well.
//!
//! Whoever writes needs public keys only. age does not say whose keys a file is for; a stanza of our own
//! in its header does, which every other reader passes over and which the header's MAC covers.

mod keys;
mod read;
mod write;

pub use keys::{Keys, Lock};
pub use read::{Opened, Seal, is_sealed};
pub use write::{Sealing, seal_whole};

use age::secrecy::ExposeSecret;
use age_core::format::FileKey;

/// The extension of an archive that is encrypted.
pub const SEALED_EXTENSION: &str = "tar.age";

/// The tag of the stanza that names whose keys a file is for.
const NAMES: &str = "k1ops-recipients";

/// The tag of age's stanza for a passphrase.
const PASSPHRASE: &str = "scrypt";

/// The key of one archive and of no other: what its writer may keep, to read back what it wrote.
#[derive(Clone)]
pub struct OwnKey([u8; 16]);

impl OwnKey {
    fn of(key: &FileKey) -> Self {
        Self(*key.expose_secret())
    }

    fn key(&self) -> FileKey {
        FileKey::new(Box::new(self.0))
    }
}

impl std::fmt::Debug for OwnKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OwnKey")
    }
}
