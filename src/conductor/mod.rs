//! A Conductor server: its REST API, its properties and its honest health. It knows nothing of
//! tiers, processes or containers.

mod client;
mod definitions;
pub mod health;
pub mod properties;
mod requeue;
mod tasks;
mod workflows;

pub use client::Client;
pub use definitions::{Step, TaskDefinition, WorkflowDefinition};
pub use requeue::{Requeued, requeue};
pub use tasks::{Taken, Task, TaskResult, TaskStatus};
pub use workflows::{FoundWorkflow, Workflow, WorkflowStatus};
