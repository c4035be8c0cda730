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

#[cfg(test)]
mod tests {
    use crate::agent::Agents;
    use crate::config::{Agent, Config};
    use crate::stack::Stack;

    /// One agent, called `a`, that does tasks of these types; of its own name if there are none.
    pub(super) fn an_agent(tasks: &[&str]) -> Agents {
        let mut config = Config::default();
        let agent = Agent {
            command: vec!["true".into()],
            tasks: tasks.iter().map(|&kind| kind.into()).collect(),
            ..Agent::default()
        };
        config.agents.insert("a".into(), agent);
        Agents::of(&Stack {
            name: "k1".into(),
            config,
            base: "/".into(),
            folder: "/".into(),
        })
        .unwrap()
    }
}
