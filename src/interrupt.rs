//! Ctrl-C and SIGTERM, as a value that work can listen to.
//!
//! Work that needs no cleaning up is wrapped in [`Interrupt::guard`]: it is dropped where it
//! stands, and what it holds (temporary files, locks, connections) is released by its destructors.
//! Work that must clean up asynchronously guards only its inner part and tidies afterwards.

use crate::error::{Error, Result};
use std::future::Future;
use tokio_util::sync::CancellationToken;

/// Tells whether the user asked to stop. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(CancellationToken);

impl Interrupt {
    /// Asks everything that listens to stop.
    pub fn raise(&self) {
        self.0.cancel();
    }

    /// Whether the user asked to stop.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until the user asks to stop.
    pub async fn raised(&self) {
        self.0.cancelled().await;
    }

    /// Fails if the user asked to stop; for loops in blocking code.
    pub fn check(&self) -> Result<()> {
        if self.is_raised() {
            Err(Self::error())
        } else {
            Ok(())
        }
    }

    /// Runs `work` to its end, or drops it and fails as soon as the user asks to stop.
    pub async fn guard<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.0.cancelled() => Err(Self::error()),
            result = work => result,
        }
    }

    fn error() -> Error {
        Error::new(crate::error::ErrorKind::Interrupted, "interrupted")
            .hint("Everything is as it was before the command; run it again when you are ready.")
    }
}
