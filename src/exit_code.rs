//! The one table of exit codes. `docs/exit-codes.md` explains the same table to users.

use crate::error::ErrorKind;

/// What the process returns to its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Done.
    Done = 0,
    /// Failed, or only tier 3 is left.
    Failed = 1,
    /// Wrong usage or configuration.
    Usage = 2,
    /// Something needed is missing or in use: ports, Docker, Java, disk.
    Missing = 3,
    /// The data is not what it should be: checksum, row counts, drill.
    BadData = 4,
    /// Another run holds the lock.
    Locked = 5,
    /// Refused for safety: needs `--yes`, or would overwrite.
    Refused = 6,
    /// Interrupted, and everything is as before.
    Interrupted = 130,
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
            ErrorKind::Interrupted => Self::Interrupted,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}
