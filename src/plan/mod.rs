//! Plans: tasks, the agents that do them, what they wait for, and the gates they have to pass.
//!
//! A plan is a file. It is checked as a whole, becomes a workflow definition that keeps exactly its
//! dependencies, and in tier 3 it is run here, in the same order and with the same records. It does
//! not know who shows what it did.

mod check;
mod definition;
mod expression;
mod file;
mod graph;
mod local;
mod server;
mod view;

pub use file::{Plan, PlanTask};
pub use local::{LocalOptions, LocalRun, LocalStatus, LocalTask, run_locally};
pub use server::{register, retry, start, watch};
pub use view::{TaskView, WorkflowView};
