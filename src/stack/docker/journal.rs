//! A note of what a start is about to make, kept until it has ended well or was undone. It is what
//! is left when k1ops or the engine is killed in between.

use crate::adapters::fs;
use crate::error::{Context, Result};
use crate::stack::Stack;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a start is about to make.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// Volumes that were not there before.
    pub new_volumes: Vec<String>,
}

fn path(stack: &Stack) -> PathBuf {
    stack.folder.join("run").join("docker-start.json")
}

impl Journal {
    /// What an earlier start left, if it was cut short.
    ///
    /// A note that cannot be read is as good as none: it only ever permits to remove something.
    #[must_use]
    pub fn left_behind(stack: &Stack) -> Option<Self> {
        let text = std::fs::read(path(stack)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Notes it down.
    pub fn write(&self, stack: &Stack) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).context(|| "the journal is not JSON")?;
        fs::write_atomically(&path(stack), &text)
    }

    /// The start has ended well, or was undone.
    pub fn remove(stack: &Stack) -> Result<()> {
        fs::remove_if_there(&path(stack))
    }
}
