//! Archive names: `k1-STACK-20261123T190000Z.tar`, and `….tar.age` of an encrypted one.

use crate::archive::EXTENSION;
use chrono::{DateTime, NaiveDateTime, Utc};
use serde::Serialize;

/// The time in a name.
const TIME: &str = "%Y%m%dT%H%M%SZ";

/// What is appended to the name of a safety archive.
const SAFETY: &str = "-safety";

/// Why an archive was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// Somebody, or a schedule, asked for a backup.
    Backup,
    /// A restore saved what it was about to replace.
    Safety,
}

/// What an archive's name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The stack.
    pub stack: String,
    /// When the backup began, to the second.
    pub time: DateTime<Utc>,
    /// Why it was made.
    pub purpose: Purpose,
}

impl Name {
    /// The name of the file.
    #[must_use]
    pub fn file_name(&self) -> String {
        let safety = match self.purpose {
            Purpose::Backup => "",
            Purpose::Safety => SAFETY,
        };
        let time = self.time.format(TIME);
        format!("k1-{}-{time}{safety}.{EXTENSION}", self.stack)
    }

    /// Reads a file's name; `None` if it is not of our making.
    #[must_use]
    pub fn parse(file_name: &str) -> Option<Self> {
        let file_name = file_name.strip_suffix(".age").unwrap_or(file_name);
        let stem = file_name.strip_suffix(EXTENSION)?.strip_suffix('.')?;
        let (stem, purpose) = match stem.strip_suffix(SAFETY) {
            Some(stem) => (stem, Purpose::Safety),
            None => (stem, Purpose::Backup),
        };
        let (stack, time) = stem.strip_prefix("k1-")?.rsplit_once('-')?;
        let time = NaiveDateTime::parse_from_str(time, TIME).ok()?.and_utc();
        let stack = stack.to_owned();
        Some(Self {
            stack,
            time,
            purpose,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for stack in ["k1", "a-b", "x-safety"] {
            for purpose in [Purpose::Backup, Purpose::Safety] {
                let name = Name {
                    stack: stack.into(),
                    time: DateTime::from_timestamp(1_790_000_000, 0).unwrap(),
                    purpose,
                };
                assert_eq!(Name::parse(&name.file_name()), Some(name));
            }
        }
        assert_eq!(Name::parse("k1-k1-yesterday.tar"), None);
        assert_eq!(Name::parse("holiday.tar"), None);
    }
}
