//! A Conductor server: its REST API and its honest health. It knows nothing of tiers, processes or
//! containers.

mod client;
mod definitions;
mod requeue;
mod tasks;
mod workflows;

pub use client::Client;
pub use definitions::{Step, StepKind, TaskDefinition, WorkflowDefinition};
pub use requeue::{Requeued, requeue};
pub use tasks::{Task, TaskResult, TaskStatus};
pub use workflows::{Workflow, WorkflowStatus};
