//! Decrypts what is read, wherever that is: age's payload is chunks of 64 KiB, each of which can be
//! read and checked alone.

use super::{Keys, NAMES, OwnKey, PASSPHRASE};
use crate::adapters::storage::ReadAt;
use crate::error::{Error, Result};
use age::stream::StreamReader;
use age::{DecryptError, Decryptor, Identity, scrypt};
use age_core::format::{FileKey, Stanza};
use sha2::{Digest, Sha256};
use std::io::{Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex, PoisonError};

/// How an age file begins.
const MAGIC: &[u8] = b"age-encryption.org/v1";

/// Readers that are kept, at most.
const MOST_READERS: usize = 16;

/// What an encrypted archive says without its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// Whose keys open it, if it says.
    pub recipients: Vec<String>,
    /// It is locked with a passphrase.
    pub by_passphrase: bool,
    /// Tells this content from others: the header, which has a MAC by a key of its own, and the size.
    pub content: String,
}

/// Whether the bytes are those of an age file.
pub fn is_sealed(bytes: &dyn ReadAt, size: u64) -> std::io::Result<bool> {
    let mut begin = vec![0; MAGIC.len()];
    if size < MAGIC.len() as u64 {
        return Ok(false);
    }
    bytes.read_exact_at(&mut begin, 0)?;
    Ok(begin == MAGIC)
}

/// An encrypted archive as it was before.
pub struct Opened {
    bytes: Arc<dyn ReadAt>,
    stored: u64,
    size: u64,
    key: OwnKey,
    readers: Mutex<Vec<Reader>>,
}

struct Reader {
    stream: StreamReader<Cursor>,
    at: u64,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opened({:?})", self.bytes)
    }
}

impl Seal {
    /// What `bytes` say without a key.
    pub fn of(bytes: &Arc<dyn ReadAt>, size: u64) -> Result<Self> {
        let mut cursor = Cursor::over(bytes.clone(), size);
        let decryptor = Decryptor::new(&mut cursor).map_err(explain)?;
        let looking = Looking::default();
        let looks: [&dyn Identity; 1] = [&looking];
        // Nothing opens it; the header was shown.
        let _ = decryptor.decrypt(looks.into_iter()).map(|_| ());
        let mut header = vec![0; usize::try_from(cursor.at).unwrap_or_default()];
        bytes.read_exact_at(&mut header, 0).map_err(unread)?;
        let mut hash = Sha256::new();
        hash.update(size.to_le_bytes());
        hash.update(&header);
        let stanzas = looking
            .0
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let names = stanzas.iter().find(|stanza| stanza.tag == NAMES);
        Ok(Self {
            recipients: names.map(|stanza| stanza.args.clone()).unwrap_or_default(),
            by_passphrase: stanzas.iter().any(|stanza| stanza.tag == PASSPHRASE),
            content: hex::encode(hash.finalize()),
        })
    }

    /// What to do without the key.
    #[must_use]
    pub fn hint(&self) -> String {
        if self.by_passphrase {
            return "It needs its passphrase: set K1OPS_ENCRYPTION_PASSPHRASE, or \
                    encryption.passphrase to file:PATH."
                .to_owned();
        }
        let whose = match self.recipients.as_slice() {
            [] => "It does not say whose key it needs".to_owned(),
            [one] => format!("It needs the identity of {one}"),
            many => format!("It needs the identity of one of {}", many.join(", ")),
        };
        format!("{whose}; name the file with --identity or encryption.identity.")
    }
}

impl Opened {
    /// Opens with any of `keys`, or with the archive's own key; `None` if none of them fits.
    pub fn with(
        bytes: Arc<dyn ReadAt>,
        stored: u64,
        keys: &Keys,
        own: Option<&OwnKey>,
    ) -> Result<Option<Self>> {
        let scrypt = keys.passphrase.clone().map(scrypt::Identity::new);
        let mut all: Vec<&dyn Identity> = Vec::new();
        all.extend(keys.identities.iter().map(|key| key as &dyn Identity));
        all.extend(scrypt.iter().map(|key| key as &dyn Identity));
        let own = own.cloned().map(Own);
        all.extend(own.iter().map(|key| key as &dyn Identity));
        let keeping = Keeping {
            all,
            kept: Mutex::new(None),
        };
        let cursor = Cursor::over(bytes.clone(), stored);
        let decryptor = Decryptor::new(cursor).map_err(explain)?;
        let opened = decryptor.decrypt(std::iter::once(&keeping as &dyn Identity));
        let mut stream = match opened {
            Ok(stream) => stream,
            Err(
                DecryptError::NoMatchingKeys
                | DecryptError::KeyDecryptionFailed
                | DecryptError::DecryptionFailed,
            ) => return Ok(None),
            Err(error) => return Err(explain(error)),
        };
        let kept = keeping
            .kept
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(key) = kept else {
            return Ok(None);
        };
        // The last chunk is marked as such: a file that was cut is found out here.
        let size = stream.seek(SeekFrom::End(0)).map_err(|error| {
            let truncated = || Error::bad_data("its encryption does not end as it should");
            error.downcast().unwrap_or_else(|_| truncated())
        })?;
        let readers = Mutex::new(vec![Reader { stream, at: size }]);
        Ok(Some(Self {
            bytes,
            stored,
            size,
            key,
            readers,
        }))
    }

    /// How many bytes it has.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    fn reader_at(&self, offset: u64) -> std::io::Result<Reader> {
        let taken = {
            let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
            let fits = readers.iter().position(|reader| reader.at == offset);
            let many = readers.len() >= MOST_READERS;
            let index = fits.or_else(|| many.then_some(0));
            index.map(|index| readers.remove(index))
        };
        let mut reader = match taken {
            Some(reader) => reader,
            None => self.another()?,
        };
        if reader.at != offset {
            reader.at = reader.stream.seek(SeekFrom::Start(offset))?;
        }
        Ok(reader)
    }

    fn another(&self) -> std::io::Result<Reader> {
        let cursor = Cursor::over(self.bytes.clone(), self.stored);
        let own = Own(self.key.clone());
        let stream = Decryptor::new(cursor)
            .and_then(|decryptor| decryptor.decrypt(std::iter::once(&own as &dyn Identity)))
            .map_err(|error| std::io::Error::other(explain(error)))?;
        Ok(Reader { stream, at: 0 })
    }
}

impl ReadAt for Opened {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        if offset >= self.size {
            return Ok(0);
        }
        let mut reader = self.reader_at(offset).map_err(damaged)?;
        let read = reader.stream.read(buffer).map_err(damaged)?;
        reader.at += read as u64;
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers.push(reader);
        Ok(read)
    }
}

fn explain(error: DecryptError) -> Error {
    match error {
        DecryptError::Io(error) => unread(error),
        error => Error::bad_data("its encryption cannot be read").because(error.to_string()),
    }
}

/// What neither the system nor a store said, age did: a chunk is not what was written.
fn damaged(error: std::io::Error) -> std::io::Error {
    let inner = error.get_ref();
    let from_beneath = inner.is_some_and(|inner| inner.downcast_ref::<Error>().is_some());
    if from_beneath || error.raw_os_error().is_some() {
        return error;
    }
    std::io::Error::other(Error::bad_data("its encryption shows that it is damaged"))
}

/// What could not be read need not be damaged.
fn unread(error: std::io::Error) -> Error {
    match error.downcast() {
        Ok(beneath) => beneath,
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            Error::bad_data("the header of its encryption is cut off")
        }
        Err(error) => Error::failed("the archive cannot be read").because(error),
    }
}

/// A place in bytes, from which age reads on.
struct Cursor {
    bytes: Arc<dyn ReadAt>,
    size: u64,
    at: u64,
}

impl Cursor {
    fn over(bytes: Arc<dyn ReadAt>, size: u64) -> Self {
        Self { bytes, size, at: 0 }
    }
}

impl Read for Cursor {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.bytes.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Cursor {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(std::io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

fn copy(stanza: &Stanza) -> Stanza {
    Stanza {
        tag: stanza.tag.clone(),
        args: stanza.args.clone(),
        body: stanza.body.clone(),
    }
}

/// Opens nothing and remembers what it was shown.
#[derive(Default)]
struct Looking(Mutex<Vec<Stanza>>);

impl Identity for Looking {
    fn unwrap_stanza(&self, _stanza: &Stanza) -> Option<Result<FileKey, DecryptError>> {
        None
    }

    fn unwrap_stanzas(&self, stanzas: &[Stanza]) -> Option<Result<FileKey, DecryptError>> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = stanzas.iter().map(copy).collect();
        None
    }
}

/// The archive's own key.
struct Own(OwnKey);

impl Identity for Own {
    fn unwrap_stanza(&self, _stanza: &Stanza) -> Option<Result<FileKey, DecryptError>> {
        Some(Ok(self.0.key()))
    }
}

/// Tries all, and keeps the key that was found: a passphrase is slow on purpose, and is to be tried
/// once.
struct Keeping<'a> {
    all: Vec<&'a dyn Identity>,
    kept: Mutex<Option<OwnKey>>,
}

impl Identity for Keeping<'_> {
    fn unwrap_stanza(&self, _stanza: &Stanza) -> Option<Result<FileKey, DecryptError>> {
        None
    }

    fn unwrap_stanzas(&self, stanzas: &[Stanza]) -> Option<Result<FileKey, DecryptError>> {
        let found = self.all.iter().find_map(|key| key.unwrap_stanzas(stanzas));
        if let Some(Ok(key)) = &found {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            *kept = Some(OwnKey::of(key));
        }
        found
    }
}
