//! The manifest that a `PostgreSQL` server makes of its own base backup: every file's size and
//! checksum, and which write-ahead log is needed. Read as `pg_verifybackup` reads it.

use crate::error::{Error, Result};
use serde::Deserialize;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use std::collections::HashMap;

/// The largest that is taken in; it has room for about 800,000 files.
pub const LARGEST: usize = 128 << 20;

/// A server's manifest of a base backup.
#[derive(Debug, Clone)]
pub struct BackupManifest {
    /// What is expected at each path, which is relative to the data directory.
    pub files: HashMap<Vec<u8>, Expected>,
    /// Which write-ahead log makes the backup consistent.
    pub wal: Vec<WalRange>,
}

/// What a file must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Its size in bytes.
    pub size: u64,
    checksum: Checksum,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Checksum {
    None,
    Crc32c(u32),
    Sha224(Vec<u8>),
    Sha256(Vec<u8>),
    Sha384(Vec<u8>),
    Sha512(Vec<u8>),
}

/// A range of the write-ahead log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalRange {
    /// Its timeline.
    pub timeline: u32,
    /// Its first byte.
    pub start: u64,
    /// The byte after its last.
    pub end: u64,
}

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(rename = "PostgreSQL-Backup-Manifest-Version")]
    version: u32,
    #[serde(rename = "Files", borrow)]
    files: Vec<File<'a>>,
    #[serde(rename = "WAL-Ranges")]
    wal: Vec<Range>,
    #[serde(rename = "Manifest-Checksum")]
    checksum: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct File<'a> {
    path: Option<std::borrow::Cow<'a, str>>,
    /// A path that is not UTF-8, in hex.
    #[serde(rename = "Encoded-Path")]
    encoded_path: Option<&'a str>,
    size: u64,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<&'a str>,
    checksum: Option<&'a str>,
}

#[derive(Deserialize)]
struct Range {
    #[serde(rename = "Timeline")]
    timeline: u32,
    #[serde(rename = "Start-LSN")]
    start: String,
    #[serde(rename = "End-LSN")]
    end: String,
}

impl BackupManifest {
    /// Reads a manifest and checks it against its own checksum.
    pub fn parse(json: &[u8]) -> Result<Self> {
        let document: Document<'_> =
            serde_json::from_slice(json).map_err(|e| bad("cannot be read").because(e))?;
        if !(1..=2).contains(&document.version) {
            let version = document.version;
            return Err(bad(&format!("has version {version}, which is not known"))
                .hint("Use a newer k1ops for backups of this server."));
        }
        let sealed = sealed_part(json).ok_or_else(|| bad("does not end as it should"))?;
        if hex::encode(Sha256::digest(sealed)) != document.checksum {
            return Err(bad("does not match its own checksum"));
        }
        let mut files = HashMap::with_capacity(document.files.len());
        for file in document.files {
            let (path, expected) = file.read()?;
            if files.insert(path, expected).is_some() {
                return Err(bad("names a file twice"));
            }
        }
        let wal: Result<Vec<_>> = document.wal.into_iter().map(Range::read).collect();
        Ok(Self { files, wal: wal? })
    }
}

/// The checksum covers everything before the last line.
fn sealed_part(json: &[u8]) -> Option<&[u8]> {
    let body = json.strip_suffix(b"\n")?;
    let end = memchr::memrchr(b'\n', body)?;
    Some(&json[..=end])
}

impl File<'_> {
    fn read(self) -> Result<(Vec<u8>, Expected)> {
        let path = match (self.path, self.encoded_path) {
            (Some(path), None) => path.into_owned().into_bytes(),
            (None, Some(encoded)) => {
                hex::decode(encoded).map_err(|e| bad("has an unreadable path").because(e))?
            }
            _ => return Err(bad("has a file without one path")),
        };
        let digest = hex::decode(self.checksum.unwrap_or_default())
            .map_err(|e| bad("has an unreadable checksum").because(e))?;
        let checksum = match self.algorithm {
            None => Checksum::None,
            Some("CRC32C") => {
                let bytes = <[u8; 4]>::try_from(digest)
                    .map_err(|_| bad("has a checksum of a wrong length"))?;
                Checksum::Crc32c(u32::from_le_bytes(bytes))
            }
            Some("SHA224") => Checksum::Sha224(digest),
            Some("SHA256") => Checksum::Sha256(digest),
            Some("SHA384") => Checksum::Sha384(digest),
            Some("SHA512") => Checksum::Sha512(digest),
            Some(other) => return Err(bad(&format!("uses the unknown checksum {other}"))),
        };
        let size = self.size;
        Ok((path, Expected { size, checksum }))
    }
}

impl Range {
    fn read(self) -> Result<WalRange> {
        let parse = |lsn: &str| parse_lsn(lsn).ok_or_else(|| bad("has an unreadable position"));
        let range = WalRange {
            timeline: self.timeline,
            start: parse(&self.start)?,
            end: parse(&self.end)?,
        };
        if range.start >= range.end {
            return Err(bad("has an empty range of write-ahead log"));
        }
        Ok(range)
    }
}

impl WalRange {
    /// The names of its segments of `size` bytes without their timeline, which is another one for a
    /// segment in which the timeline changes.
    pub fn segments(&self, size: u64) -> impl Iterator<Item = String> + use<> {
        let per_log = (1_u64 << 32) / size;
        let (first, last) = (self.start / size, (self.end - 1) / size);
        (first..=last).map(move |n| format!("{:08X}{:08X}", n / per_log, n % per_log))
    }
}

/// A position such as `16/B374D848`.
#[must_use]
pub fn parse_lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let part = |hex: &str| u32::from_str_radix(hex, 16).ok();
    Some(u64::from(part(high)?) << 32 | u64::from(part(low)?))
}

fn bad(what: &str) -> Error {
    Error::bad_data(format!("the server's backup_manifest {what}"))
}

/// Compares a file with what is expected of it, piece by piece.
#[derive(Debug)]
pub struct Comparison<'a> {
    expected: &'a Expected,
    size: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    None,
    Crc32c(u32),
    Sha224(Sha224),
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Expected {
    /// Begins to compare.
    #[must_use]
    pub fn compare(&self) -> Comparison<'_> {
        let state = match self.checksum {
            Checksum::None => State::None,
            Checksum::Crc32c(_) => State::Crc32c(0),
            Checksum::Sha224(_) => State::Sha224(Sha224::new()),
            Checksum::Sha256(_) => State::Sha256(Sha256::new()),
            Checksum::Sha384(_) => State::Sha384(Sha384::new()),
            Checksum::Sha512(_) => State::Sha512(Sha512::new()),
        };
        Comparison {
            expected: self,
            size: 0,
            state,
        }
    }
}

impl Comparison<'_> {
    /// Takes the next bytes of the file.
    pub fn add(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        match &mut self.state {
            State::None => {}
            State::Crc32c(sum) => *sum = crc32c::crc32c_append(*sum, bytes),
            State::Sha224(sum) => sum.update(bytes),
            State::Sha256(sum) => sum.update(bytes),
            State::Sha384(sum) => sum.update(bytes),
            State::Sha512(sum) => sum.update(bytes),
        }
    }

    /// What is wrong with the file, if anything is.
    pub fn finish(self) -> Result<(), String> {
        if self.size != self.expected.size {
            let (size, expected) = (self.size, self.expected.size);
            return Err(format!("has {size} bytes instead of {expected}"));
        }
        let equal = match (self.state, &self.expected.checksum) {
            (State::None, Checksum::None) => true,
            (State::Crc32c(found), Checksum::Crc32c(expected)) => found == *expected,
            (State::Sha224(found), Checksum::Sha224(expected)) => {
                found.finalize()[..] == **expected
            }
            (State::Sha256(found), Checksum::Sha256(expected)) => {
                found.finalize()[..] == **expected
            }
            (State::Sha384(found), Checksum::Sha384(expected)) => {
                found.finalize()[..] == **expected
            }
            (State::Sha512(found), Checksum::Sha512(expected)) => {
                found.finalize()[..] == **expected
            }
            _ => false,
        };
        if equal {
            Ok(())
        } else {
            Err("has another checksum than the server gave it".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(body: &str) -> Vec<u8> {
        let mut json = body.as_bytes().to_vec();
        let sum = hex::encode(Sha256::digest(&json));
        json.extend_from_slice(format!("\"Manifest-Checksum\": \"{sum}\"}}\n").as_bytes());
        json
    }

    const BODY: &str = r#"{ "PostgreSQL-Backup-Manifest-Version": 1,
"Files": [
{ "Path": "PG_VERSION", "Size": 9, "Last-Modified": "x", "Checksum-Algorithm": "CRC32C", "Checksum": "839206e3" },
{ "Encoded-Path": "ff", "Size": 0, "Last-Modified": "x" }
],
"WAL-Ranges": [
{ "Timeline": 1, "Start-LSN": "0/FF000028", "End-LSN": "1/1000100" }
],
"#;

    #[test]
    fn a_manifest_is_read_and_a_flipped_bit_is_noticed() {
        let json = sealed(BODY);
        let manifest = BackupManifest::parse(&json).unwrap();
        let mut comparison = manifest.files[b"PG_VERSION".as_slice()].compare();
        comparison.add(b"1234");
        comparison.add(b"56789");
        comparison.finish().unwrap();
        assert!(
            manifest.files[b"PG_VERSION".as_slice()]
                .compare()
                .finish()
                .is_err()
        );
        assert!(manifest.files.contains_key([0xff].as_slice()));
        for at in 0..json.len() - 1 {
            let mut damaged = json.clone();
            damaged[at] ^= 1;
            assert!(BackupManifest::parse(&damaged).is_err(), "byte {at}");
        }
    }

    #[test]
    fn segments_are_named_as_the_server_names_them() {
        let manifest = BackupManifest::parse(&sealed(BODY)).unwrap();
        let names: Vec<_> = manifest.wal[0].segments(16 << 20).collect();
        assert_eq!(
            names,
            ["00000000000000FF", "0000000100000000", "0000000100000001"]
        );
    }
}
