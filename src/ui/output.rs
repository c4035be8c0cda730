//! Standard output for long answers: written in large pieces, and given up when nobody reads.

use crate::error::{Error, Result};
use std::io::Write;

/// As much is held back before the first byte is written, so that a short answer that fails on the
/// way leaves nothing behind.
const PIECE: usize = 64 << 10;

/// A long answer on its way to standard output.
#[derive(Debug, Default)]
pub struct Output {
    held: String,
    closed: bool,
}

impl Output {
    /// Adds text. Answers whether anybody still reads.
    pub fn write(&mut self, text: &str) -> Result<bool> {
        self.held.push_str(text);
        if self.held.len() >= PIECE {
            self.flush()?;
        }
        Ok(!self.closed)
    }

    /// Writes what is held back.
    pub fn flush(&mut self) -> Result<()> {
        if self.closed {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        let written = out
            .write_all(self.held.as_bytes())
            .and_then(|()| out.flush());
        self.held.clear();
        match written {
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            Err(e) => Err(Error::failed("standard output cannot be written").because(e)),
            Ok(()) => Ok(()),
        }
    }
}
