//! The error every layer returns: what is the case, and what to do about it.
//!
//! The *kind* picks the exit code, the *message* names the object, the *hint* is a full sentence
//! that says what to do. Messages are lower case and carry no secret.

use std::error::Error as StdError;

/// The result of everything that can fail in k1ops.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something failed, in the terms of the exit-code table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// It was tried and failed.
    Failed,
    /// The command line or the configuration is wrong.
    Usage,
    /// Something needed is missing or in use.
    Missing,
    /// Data is not what it should be.
    BadData,
    /// Another run holds the lock.
    Locked,
    /// Refused for safety.
    Refused,
    /// Done, but a copy of a backup is missing somewhere.
    Behind,
    /// The user interrupted.
    Interrupted,
}

/// An error with a kind, a message, an optional cause and an optional hint.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    #[source]
    cause: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `message` names the object and says what is the case.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
            cause: None,
        }
    }

    /// It was tried and failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, message)
    }

    /// The command line or the configuration is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    /// Something needed is missing or in use.
    pub fn missing(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Missing, message)
    }

    /// Data is not what it should be.
    pub fn bad_data(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::BadData, message)
    }

    /// Another run holds the lock.
    pub fn locked(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Locked, message)
    }

    /// Refused for safety.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Refused, message)
    }

    /// Done, but a copy of a backup is missing somewhere.
    pub fn behind(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Behind, message)
    }

    /// The same error with a full sentence that says what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same error with what lies beneath it.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// The kind, which picks heading and exit code.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What to do, if there is something to do.
    #[must_use]
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The messages of everything beneath this error, outermost first.
    #[must_use]
    pub fn causes(&self) -> Vec<String> {
        let mut causes = Vec::new();
        let mut next = self
            .cause
            .as_deref()
            .map(|cause| cause as &(dyn StdError + 'static));
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        causes
    }
}

/// Turns a foreign error into ours, naming what was being done.
pub trait Context<T> {
    /// On failure, an [`ErrorKind::Failed`] whose message is made by `message`.
    fn context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T>;

    /// On failure, an error of `kind` whose message is made by `message`.
    fn context_kind<M: Into<String>>(
        self,
        kind: ErrorKind,
        message: impl FnOnce() -> M,
    ) -> Result<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> Context<T> for std::result::Result<T, E> {
    fn context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.context_kind(ErrorKind::Failed, message)
    }

    fn context_kind<M: Into<String>>(
        self,
        kind: ErrorKind,
        message: impl FnOnce() -> M,
    ) -> Result<T> {
        self.map_err(|cause| Error::new(kind, message()).because(cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_listed_outermost_first() {
        let io = std::io::Error::other("disk on fire");
        let inner = Error::failed("cannot write a.tar").because(io);
        let outer = Error::bad_data("backup is incomplete").because(inner);
        assert_eq!(outer.causes(), ["cannot write a.tar", "disk on fire"]);
    }
}
