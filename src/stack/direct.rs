//! Tier 3: agents run as plain commands, without Conductor. There is nothing to start; this module
//! says how to go on.

use super::Stack;

/// What to do when only running agents directly is left, one line each.
#[must_use]
pub fn instructions(stack: &Stack) -> Vec<String> {
    vec![
        "Run a plan with `k1ops workflow run PLAN --tier direct`, or one agent with `k1ops agent run \
         NAME TASK_ID`."
            .to_owned(),
        format!(
            "What they record (runs, metrics, quality gates) is kept in {}.",
            stack.k1_db().display()
        ),
        "See it with `k1ops query summary`, and keep it safe with `k1ops backup`.".to_owned(),
        "For workflows that survive a crash, install Docker, or Java 21 or later, and run `k1ops \
         start` again."
            .to_owned(),
    ]
}
