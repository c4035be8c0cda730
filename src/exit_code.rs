//! The one table of exit codes. `docs/exit-codes.md` explains the same table to users.

use crate::error::ErrorKind;

/// What the process returns to its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitCode {
    /// Done.
    Done,
    /// Failed, or only tier 3 is left.
    Failed,
    /// Wrong usage or configuration.
    Usage,
    /// Something needed is missing or in use: ports, Docker, Java, disk.
    Missing,
    /// The data is not what it should be: checksum, row counts, drill.
    BadData,
    /// Another run holds the lock.
    Locked,
    /// Refused for safety: needs `--yes`, or would overwrite.
    Refused,
    /// Done, but a copy of a backup is missing somewhere.
    Behind,
    /// Interrupted, and everything is as before.
    Interrupted,
}

impl ExitCode {
    /// The number that the process ends with.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Missing => 3,
            Self::BadData => 4,
            Self::Locked => 5,
            Self::Refused => 6,
            Self::Behind => 7,
            Self::Interrupted => 130,
        }
    }
}

impl From<ErrorKind> for ExitCode {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Failed => Self::Failed,
            ErrorKind::Usage => Self::Usage,
            ErrorKind::Missing => Self::Missing,
            ErrorKind::BadData => Self::BadData,
            ErrorKind::Locked => Self::Locked,
            ErrorKind::Refused => Self::Refused,
            ErrorKind::Behind => Self::Behind,
            ErrorKind::Interrupted => Self::Interrupted,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.number())
    }
}
