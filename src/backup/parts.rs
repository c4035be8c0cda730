//! A stream of files into the parts of an archive: every part but the last is full, so that their number
//! depends on nothing but the stream's length.

use crate::archive::{Effort, NewMember, Writer, part_path};
use crate::error::Result;

/// One stream on its way into the archive.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    writer: &'a Writer,
    folder: String,
    part: Vec<u8>,
    /// Parts that were handed over.
    pub(super) count: u32,
    /// Bytes of the stream so far.
    pub(super) size: u64,
}

impl<'a> Parts<'a> {
    /// Begins a stream whose parts lie in `folder`.
    pub(super) fn begin(writer: &'a Writer, folder: String) -> Self {
        Self {
            writer,
            folder,
            part: writer.buffer(),
            count: 0,
            size: 0,
        }
    }

    /// Takes the next bytes.
    pub(super) async fn add(&mut self, mut bytes: &[u8]) -> Result<()> {
        let full = self.writer.part_size();
        while self.part.len() + bytes.len() >= full {
            let (head, tail) = bytes.split_at(full - self.part.len());
            self.part.extend_from_slice(head);
            self.flush().await?;
            bytes = tail;
        }
        self.part.extend_from_slice(bytes);
        Ok(())
    }

    /// Hands what has come over to the archive as a part. Called once more at the end.
    pub(super) async fn flush(&mut self) -> Result<()> {
        if self.part.is_empty() {
            return Ok(());
        }
        let raw = std::mem::replace(&mut self.part, self.writer.buffer());
        let path = part_path(&self.folder, self.count);
        self.count += 1;
        self.size += raw.len() as u64;
        self.writer
            .add(NewMember {
                path,
                raw,
                rows: None,
                effort: Effort::Light,
            })
            .await
    }
}
