//! Positions in the write-ahead log, and the names of the segments that hold them.

/// A position as `PostgreSQL` writes it, such as `0/3000028`.
#[must_use]
pub fn parse_lsn(text: &str) -> Option<u64> {
    crate::archive::backup_manifest::parse_lsn(text)
}

/// Writes a position as `PostgreSQL` does.
#[must_use]
pub fn show_lsn(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xFFFF_FFFF)
}

/// A segment of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Segment {
    /// The timeline that it is of.
    pub timeline: u32,
    /// Which one it is, counted from the beginning of the log.
    pub number: u64,
}

impl Segment {
    /// The segment that holds `lsn`, where a segment has `size` bytes.
    #[must_use]
    pub fn at(timeline: u32, lsn: u64, size: u64) -> Self {
        Self {
            timeline,
            number: lsn / size,
        }
    }

    /// Where it begins.
    #[must_use]
    pub fn start(self, size: u64) -> u64 {
        self.number * size
    }

    /// The one that follows on the same timeline.
    #[must_use]
    pub fn next(self) -> Self {
        Self {
            number: self.number + 1,
            ..self
        }
    }

    /// Its file name, such as `000000010000000000000003`.
    #[must_use]
    pub fn name(self, size: u64) -> String {
        let per_log = (1 << 32) / size;
        format!(
            "{:08X}{:08X}{:08X}",
            self.timeline,
            self.number / per_log,
            self.number % per_log
        )
    }

    /// The segment of a file name; `None` for anything else.
    #[must_use]
    pub fn parse(name: &str, size: u64) -> Option<Self> {
        if !is_name(name) {
            return None;
        }
        let part = |at: usize| u64::from_str_radix(&name[at..at + 8], 16).ok();
        let per_log = (1 << 32) / size;
        let (log, within) = (part(8)?, part(16)?);
        (within < per_log).then_some(Self {
            timeline: u32::try_from(part(0)?).ok()?,
            number: log * per_log + within,
        })
    }
}

/// Whether a file name is that of a segment.
pub(super) fn is_name(name: &str) -> bool {
    name.len() == 24 && name.bytes().all(is_digit)
}

/// Whether a file name is that of a timeline's history.
pub(super) fn is_history(name: &str) -> bool {
    let timeline = name.strip_suffix(".history");
    timeline.is_some_and(|t| t.len() == 8 && t.bytes().all(is_digit))
}

/// Whether a file name is that of what a server's `archive_command` may be given besides: the note of a
/// base backup, or the last segment of a timeline that was left.
pub(super) fn is_further(name: &str) -> bool {
    let Some((segment, rest)) = name.split_at_checked(24) else {
        return false;
    };
    let note = rest
        .strip_suffix(".backup")
        .and_then(|r| r.strip_prefix('.'));
    let note = note.is_some_and(|offset| offset.len() == 8 && offset.bytes().all(is_digit));
    is_name(segment) && (note || rest == ".partial")
}

fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'A'..=b'F')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_positions_are_those_of_the_server() {
        let size = 16 << 20;
        let segment = Segment::at(2, parse_lsn("1/FF000028").unwrap(), size);
        assert_eq!(segment.name(size), "0000000200000001000000FF");
        assert_eq!(
            Segment::parse("0000000200000001000000FF", size),
            Some(segment)
        );
        assert_eq!(segment.next().name(size), "000000020000000200000000");
        assert_eq!(show_lsn(segment.start(size)), "1/FF000000");
        assert_eq!(
            Segment::at(1, 3 << 30, 1 << 30).name(1 << 30),
            "000000010000000000000003"
        );
        for wrong in [
            "",
            "000000010000000000000100",
            "00000001000000000000000g",
            "../../etc/passwd",
        ] {
            assert_eq!(Segment::parse(wrong, size), None, "{wrong}");
        }
        assert!(is_history("00000002.history") && !is_history("2.history"));
        assert!(is_further("000000010000000000000002.00000028.backup"));
        assert!(is_further("000000010000000000000002.partial"));
        assert!(
            !is_further("000000010000000000000002")
                && !is_further("ä0000001000000000000002.partial")
        );
    }
}
