//! What the reader of a tar keeps in memory, kept small.
//!
//! A long name, an extended header or the list of a sparse file is read into memory as a whole, and
//! a few compressed kilobytes can claim gigabytes of it. This watches a stream while it passes by
//! and ends it before such a thing. It must understand sizes exactly as [`tar`] does, or something
//! could hide in what it takes for content.

use std::io::{Error, ErrorKind, Read, Result};
use tar::{EntryType, Header};

const BLOCK: u64 = 512;

/// The largest long name or extended header. Paths have 4 KiB; extended attributes may have more.
const LARGEST_EXTENSION: u64 = 1 << 20;

/// The most blocks that the list of an old sparse file goes on in, with 21 pieces each.
const MOST_LIST_BLOCKS: u32 = 1 << 15;

/// A tar stream that fails where it would fill the memory.
pub(super) struct Guarded<R> {
    stream: R,
    block: Vec<u8>,
    next: Next,
    /// The extended header of the entry that comes next.
    extended: Option<Vec<u8>>,
}

/// What the next bytes are.
enum Next {
    Header,
    /// Blocks of a sparse file's list, `.0` so far, before `.1` bytes of content.
    List(u32, u64),
    Extended(u64),
    Content(u64),
}

impl<R: Read> Guarded<R> {
    pub(super) fn new(stream: R) -> Self {
        Self {
            stream,
            block: Vec::new(),
            next: Next::Header,
            extended: None,
        }
    }

    fn watch(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match &mut self.next {
                Next::Content(left) | Next::Extended(left) if *left > 0 => {
                    let length = usize::try_from(*left)
                        .unwrap_or(usize::MAX)
                        .min(bytes.len());
                    *left -= length as u64;
                    let (seen, rest) = bytes.split_at(length);
                    if matches!(self.next, Next::Extended(_)) {
                        self.extended
                            .get_or_insert_default()
                            .extend_from_slice(seen);
                    }
                    bytes = rest;
                    if let Next::Content(0) | Next::Extended(0) = self.next {
                        self.next = Next::Header;
                    }
                }
                _ => {
                    let length = (512 - self.block.len()).min(bytes.len());
                    self.block.extend_from_slice(&bytes[..length]);
                    bytes = &bytes[length..];
                    if self.block.len() == 512 {
                        let block = std::mem::take(&mut self.block);
                        self.next = self.after(&block)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// What follows a block that is a header or part of a list.
    fn after(&mut self, block: &[u8]) -> Result<Next> {
        if let Next::List(count, size) = self.next {
            if count >= MOST_LIST_BLOCKS {
                return Err(too_large("the list of a sparse file"));
            }
            return Ok(if block[504] == 1 {
                Next::List(count + 1, size)
            } else {
                content(size)
            });
        }
        // Zeros end a tar; the reader looks that nothing follows.
        if block.iter().all(|&byte| byte == 0) {
            return Ok(Next::Header);
        }
        let header = Header::from_byte_slice(block);
        let size = header.entry_size()?;
        let kind = header.entry_type();
        if matches!(
            kind,
            EntryType::GNULongName
                | EntryType::GNULongLink
                | EntryType::XHeader
                | EntryType::XGlobalHeader
        ) {
            if size > LARGEST_EXTENSION {
                return Err(too_large("the name or the extended header of an entry"));
            }
            if kind == EntryType::XHeader {
                self.extended = None;
                return Ok(Next::Extended(padded(size)));
            }
            return Ok(content(size));
        }
        let size = self
            .extended
            .take()
            .and_then(|e| size_in(&e))
            .unwrap_or(size);
        match header.as_gnu() {
            Some(gnu) if kind == EntryType::GNUSparse && gnu.is_extended() => {
                Ok(Next::List(0, size))
            }
            _ => Ok(content(size)),
        }
    }
}

impl<R: Read> Read for Guarded<R> {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let read = self.stream.read(buf)?;
        self.watch(&buf[..read])?;
        Ok(read)
    }
}

fn content(size: u64) -> Next {
    match padded(size) {
        0 => Next::Header,
        padded => Next::Content(padded),
    }
}

fn padded(size: u64) -> u64 {
    size.div_ceil(BLOCK).saturating_mul(BLOCK)
}

/// The size that an extended header gives to its entry: the first, and none behind a mistake.
fn size_in(extended: &[u8]) -> Option<u64> {
    // The zeros that pad it are not part of it.
    let end = extended.iter().rposition(|&byte| byte != 0)? + 1;
    for extension in tar::PaxExtensions::new(&extended[..end]) {
        let extension = extension.ok()?;
        if extension.key() == Ok("size") {
            return extension.value().ok()?.parse().ok();
        }
    }
    None
}

fn too_large(what: &str) -> Error {
    Error::new(
        ErrorKind::InvalidData,
        format!("{what} is larger than it can be"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: EntryType, size: u64) -> Vec<u8> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    fn passes(stream: &[u8], piece: usize) -> Result<()> {
        let mut guarded = Guarded::new(stream);
        let mut buffer = vec![0; piece];
        while guarded.read(&mut buffer)? > 0 {}
        Ok(())
    }

    fn block(content: &[u8]) -> Vec<u8> {
        let mut block = content.to_vec();
        block.resize(content.len().div_ceil(512) * 512, 0);
        block
    }

    #[test]
    fn large_names_are_refused_wherever_they_come_and_large_files_are_not() {
        let name = |size| [header(EntryType::GNULongName, size), vec![b'x'; 512]].concat();
        let file = [header(EntryType::Regular, 700), vec![7; 1024]].concat();
        for piece in [1, 511, 512, 4096] {
            passes(&[name(300), file.clone(), name(2)].concat(), piece).unwrap();
            passes(&[file.clone(), name(LARGEST_EXTENSION + 1)].concat(), piece).unwrap_err();
            for kind in [
                EntryType::GNULongLink,
                EntryType::XHeader,
                EntryType::XGlobalHeader,
            ] {
                passes(&header(kind, 1 << 40), piece).unwrap_err();
            }
            passes(&header(EntryType::Regular, 1 << 40), piece).unwrap();
        }
    }

    #[test]
    fn a_size_in_an_extended_header_holds_for_the_next_entry_alone() {
        let extended = block(b"13 size=1024\n");
        let hidden = header(EntryType::GNULongName, 1 << 30);
        // Believed, the header in the content is content; not believed, it is a header.
        let stream = [
            header(EntryType::XHeader, 13),
            extended,
            header(EntryType::Regular, 0),
            hidden.clone(),
            vec![0; 512],
        ]
        .concat();
        passes(&stream, 100).unwrap();
        passes(&[stream, hidden].concat(), 100).unwrap_err();
    }

    #[test]
    fn a_list_of_a_sparse_file_has_an_end() {
        let mut sparse = header(EntryType::GNUSparse, 0);
        sparse[482] = 1;
        let mut more = vec![0; 512];
        more[504] = 1;
        passes(&[sparse.clone(), more.clone(), vec![0; 512]].concat(), 512).unwrap();
        let many = more.repeat(MOST_LIST_BLOCKS as usize + 2);
        passes(&[sparse, many].concat(), 4096).unwrap_err();
    }
}
