//! The tar around the members: headers, padding and the end mark (POSIX.1-1988 ustar).

use crate::adapters::storage::ReadAt;
use crate::error::{Context, Error, Result};

/// Tar's unit, in bytes.
pub(super) const BLOCK: u64 = 512;

/// The same as a length in memory.
pub(super) const BLOCK_LEN: usize = 512;

/// Two zero blocks end a tar.
pub(super) const END: u64 = 2 * BLOCK;

/// The same as a length in memory.
pub(super) const END_LEN: usize = 2 * BLOCK_LEN;

/// A member's name fits a plain ustar header.
pub(super) const LONGEST_NAME: usize = 100;

/// `size` rounded up to whole blocks.
pub(super) fn padded(size: u64) -> u64 {
    size.div_ceil(BLOCK) * BLOCK
}

/// The header block of a member.
pub(super) fn header(path: &str, size: u64, mtime: u64) -> Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    header
        .set_path(path)
        .context(|| format!("member name {path:?} does not fit a tar"))?;
    header.set_size(size);
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(mtime);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    Ok(header)
}

/// A member's name and size as its header gives them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: String,
    pub(super) size: u64,
}

/// Reads a header block, whose checksum must be right; `None` if it is none.
pub(super) fn parse(block: &[u8; BLOCK_LEN]) -> Option<Entry> {
    let header = tar::Header::from_byte_slice(block);
    let sum: u32 = block[..148]
        .iter()
        .chain(&block[156..])
        .map(|&b| u32::from(b))
        .sum();
    if header.cksum().ok()? != sum + 8 * u32::from(b' ') || header.as_ustar().is_none() {
        return None;
    }
    let path = String::from_utf8(header.path_bytes().into_owned()).ok()?;
    Some(Entry {
        path,
        size: header.size().ok()?,
    })
}

/// Reads exactly `length` bytes at `offset`.
pub(super) fn read_at(file: &dyn ReadAt, offset: u64, length: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset).map_err(|error| {
        if error.kind() == std::io::ErrorKind::UnexpectedEof {
            Error::bad_data("the archive ends too early")
        } else {
            match error.downcast::<Error>() {
                Ok(beneath) => beneath,
                Err(error) => Error::failed("the archive cannot be read").because(error),
            }
        }
    })?;
    Ok(bytes)
}

/// Reads the header block at `offset`.
pub(super) fn entry_at(file: &dyn ReadAt, offset: u64) -> Result<Option<Entry>> {
    let mut block = [0; BLOCK_LEN];
    block.copy_from_slice(&read_at(file, offset, BLOCK_LEN)?);
    Ok(parse(&block))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_back_and_any_flipped_bit_is_noticed() {
        let written = header("postgres/data/a.zst", 12_345, 1_700_000_000).unwrap();
        let block = *written.as_bytes();
        let entry = parse(&block).unwrap();
        assert_eq!(
            entry,
            Entry {
                path: "postgres/data/a.zst".into(),
                size: 12_345
            }
        );
        for bit in 0..BLOCK_LEN * 8 {
            let mut flipped = block;
            flipped[bit / 8] ^= 1 << (bit % 8);
            // Only the checksum field's own padding may differ without consequence.
            assert!(
                parse(&flipped).is_none() || (148..156).contains(&(bit / 8)),
                "bit {bit}"
            );
        }
    }
}
