//! A tar stream of a physical backup as it left the server, for somebody else to unpack: a
//! container engine, for example.

use crate::archive::{Archive, PartsReader, PgDataCheck, PhysicalSource};
use crate::error::Result;
use crate::interrupt::Interrupt;
use bytes::Bytes;
use futures_util::Stream;
use std::io::Read;
use tokio::sync::mpsc;

/// Bytes that are handed over at once.
const PIECE: usize = 256 << 10;

/// The uncompressed tar stream of the archive `name` (`base`, or a tablespace's identifier) of
/// `source`.
///
/// Every file is compared with the server's manifest in passing. What is wrong is an error in the
/// place of the next piece, after which nothing follows: only what was read *to the end without an
/// error* may be believed. The stream of the data directory is held against the whole manifest
/// only where there are no tablespaces.
pub fn tar_stream(
    archive: &Archive,
    source: &PhysicalSource,
    name: &str,
    jobs: usize,
    interrupt: &Interrupt,
) -> Result<impl Stream<Item = Result<Bytes>> + Send + use<>> {
    let found = source.archives.iter().find(|of| of.name == name).cloned();
    let of = found.ok_or_else(|| archive.bad(format!("has no data of tablespace {name}")))?;
    let mut check = PgDataCheck::begin(archive, source)?;
    let folder = source.parts_folder(&of);
    let parts = PartsReader::new(archive, &folder, of.parts, jobs, interrupt)?;
    let whole = source.archives.len() == 1;
    let (pieces, received) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        let mut passing = Passing {
            parts,
            piece: Vec::with_capacity(PIECE),
            pieces,
        };
        let mut result = check.stream(&of, &mut passing);
        if whole && result.is_ok() {
            result = check.finish();
        }
        let last = match result {
            Ok(()) => Ok(Bytes::from(std::mem::take(&mut passing.piece))),
            Err(error) => Err(passing.parts.take_failure().unwrap_or(error)),
        };
        // Nobody listens any more if the reader gave up.
        let _ = passing.pieces.blocking_send(last);
    });
    Ok(futures_util::stream::unfold(
        received,
        |mut received| async {
            let piece = received.recv().await?;
            Some((piece, received))
        },
    ))
}

/// Hands on what is read through it.
struct Passing {
    parts: PartsReader,
    piece: Vec<u8>,
    pieces: mpsc::Sender<Result<Bytes>>,
}

impl Read for Passing {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let read = self.parts.read(buf)?;
        self.piece.extend_from_slice(&buf[..read]);
        if self.piece.len() >= PIECE {
            let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
            self.pieces
                .blocking_send(Ok(Bytes::from(piece)))
                .map_err(|_| std::io::Error::other("nobody reads the stream any more"))?;
        }
        Ok(read)
    }
}
