//! What an agent writes, kept within bounds: the beginning and the end of it, which say most.

use std::collections::VecDeque;

/// As much is kept of the beginning, and as much of the end.
const HALF: usize = 64 << 10;

/// Output that never grows beyond a bound.
#[derive(Debug, Default)]
pub(super) struct BoundedLog {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    left_out: u64,
}

impl BoundedLog {
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        let room = HALF - self.head.len();
        let (head, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(head);
        if rest.len() > HALF {
            self.left_out += (rest.len() - HALF) as u64;
        }
        bytes = &rest[rest.len().saturating_sub(HALF)..];
        let over = (self.tail.len() + bytes.len()).saturating_sub(HALF);
        self.left_out += over as u64;
        self.tail.drain(..over);
        self.tail.extend(bytes);
    }

    /// As text; a line says how much is missing. NUL characters, which `PostgreSQL` cannot store,
    /// and bytes that are not UTF-8 are replaced.
    pub(super) fn into_text(self) -> String {
        let mut bytes = self.head;
        if self.left_out > 0 {
            let note = format!("\n[k1ops: {} bytes left out]\n", self.left_out);
            bytes.extend_from_slice(note.as_bytes());
        }
        bytes.extend(self.tail);
        String::from_utf8_lossy(&bytes).replace('\0', "\u{fffd}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_and_the_end_are_kept_and_the_rest_is_counted() {
        let mut log = BoundedLog::default();
        log.push(b"first\0\xff");
        assert_eq!(log.into_text(), "first\u{fffd}\u{fffd}");
        for piece in [1, 1000, HALF - 1, HALF, 5 * HALF] {
            let mut log = BoundedLog::default();
            let whole: Vec<u8> = (b'a'..=b'z').cycle().take(6 * HALF).collect();
            whole.chunks(piece).for_each(|piece| log.push(piece));
            let text = log.into_text();
            assert!(text.as_bytes().starts_with(&whole[..HALF]));
            assert!(text.as_bytes().ends_with(&whole[5 * HALF..]));
            assert!(text.contains(&format!("{} bytes left out", 4 * HALF)));
        }
    }
}
