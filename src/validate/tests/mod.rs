//! The seven tests.

mod chain;
mod fallback;
mod health;
mod parallel;
mod persistence;
mod resources;
mod single;

use super::Finding;
use super::rig::Rig;
use crate::error::Result;
use crate::plan::WorkflowView;
use sha2::{Digest, Sha256};

/// One of the guide's tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    Persistence,
    Fallback,
    Single,
    Chain,
    Parallel,
    Resources,
    Health,
}

impl Test {
    /// In the order in which they run. The last one breaks the database.
    pub(super) const ALL: [Self; 7] = [
        Self::Persistence,
        Self::Fallback,
        Self::Single,
        Self::Chain,
        Self::Parallel,
        Self::Resources,
        Self::Health,
    ];

    pub(super) fn number(self) -> u8 {
        match self {
            Self::Persistence => 1,
            Self::Fallback => 2,
            Self::Single => 3,
            Self::Chain => 4,
            Self::Parallel => 5,
            Self::Resources => 6,
            Self::Health => 7,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Persistence => "persistence",
            Self::Fallback => "fallback",
            Self::Single => "single",
            Self::Chain => "chain",
            Self::Parallel => "parallel",
            Self::Resources => "resources",
            Self::Health => "health",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Persistence => "A workflow that is half done survives a stop and a crash",
            Self::Fallback => "Without Docker tier 2 starts, without Java too tier 3 is left",
            Self::Single => "One task is done by an agent within five minutes",
            Self::Chain => "Tasks 6, 7 and 8 are done one after the other",
            Self::Parallel => "Tasks 4 to 7 at once take a third of their time in a row, or less",
            Self::Resources => "22 tasks within 2 GB of memory and 80 % of the CPUs",
            Self::Health => "Every endpoint answers, and a broken database is told",
        }
    }

    pub(super) async fn run(self, rig: &mut Rig) -> Result<Finding> {
        match self {
            Self::Persistence => Box::pin(persistence::run(rig)).await,
            Self::Fallback => fallback::run(rig).await,
            Self::Single => single::run(rig).await,
            Self::Chain => chain::run(rig).await,
            Self::Parallel => parallel::run(rig).await,
            Self::Resources => resources::run(rig).await,
            Self::Health => health::run(rig).await,
        }
    }
}

/// What a task of the example makes from what it is given.
fn made(task: &str, from: &[&str]) -> String {
    hex::encode(Sha256::digest(format!("{task} {}", from.join(" "))))
}

/// Notes a fault for a workflow that did not complete.
fn expect_completed(view: &WorkflowView, finding: &mut Finding) {
    finding.expect(view.is_completed(), || {
        format!(
            "workflow {} ended as {}: {}",
            view.name,
            view.status,
            view.reason.as_deref().unwrap_or("no reason is given")
        )
    });
}
