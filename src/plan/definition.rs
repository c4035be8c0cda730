//! A plan as Conductor's definitions.
//!
//! One fork has every branch, and a branch that waits begins with a join on what it waits for, in
//! whichever branches that is. So a task begins exactly when its dependencies have ended: with nested
//! forks alone, which end together, some would have to wait for more.

use super::file::{Plan, PlanTask};
use crate::agent::Agents;
use crate::conductor::{Step, TaskDefinition, WorkflowDefinition};
use crate::error::Result;
use crate::worker::{PLAN_KEY, PlanNote};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

const OWNER: &str = "k1ops@localhost.invalid";

/// Tries beyond those of the agent: for tasks that a server handed out while it died. The worker
/// itself gives a task up when its agent has failed often enough.
const LOST_TRIES: u32 = 3;

/// Seconds after which a task of which nothing was heard since it was handed out is tried again.
const RESPONSE_TIMEOUT: u64 = 120;

impl Plan {
    /// The definition of each type of task that the plan uses.
    pub fn task_definitions(&self, agents: &Agents) -> Result<Vec<TaskDefinition>> {
        let used: BTreeSet<&str> = self.tasks.iter().map(|task| &*task.agent).collect();
        used.into_iter()
            .map(|name| {
                let agent = agents.named(name)?;
                Ok(TaskDefinition {
                    name: agent.kind().to_owned(),
                    owner_email: OWNER.to_owned(),
                    retry_count: agent.config.retries + LOST_TRIES,
                    retry_delay_seconds: agent.config.retry_delay,
                    timeout_seconds: 0,
                    response_timeout_seconds: RESPONSE_TIMEOUT,
                })
            })
            .collect()
    }

    /// The workflow's definition.
    pub fn workflow_definition(&self, agents: &Agents) -> Result<WorkflowDefinition> {
        let mut branches: Vec<Vec<Step>> = Vec::new();
        for task in self.in_order() {
            let step = self.step(task, agents)?;
            match branch_to_go_on(task, &branches) {
                Some(branch) => branches[branch].push(step),
                None if task.depends_on.is_empty() => branches.push(vec![step]),
                None => {
                    let join = Step::join(&format!("before-{}", task.id), task.depends_on.clone());
                    branches.push(vec![join, step]);
                }
            }
        }
        let tasks = if branches.len() == 1 {
            branches.remove(0)
        } else {
            let ends = branches.iter().filter_map(|branch| branch.last());
            let ends = ends.map(|step| step.task_reference_name.clone()).collect();
            vec![Step::fork("fork", branches), Step::join("join", ends)]
        };
        Ok(WorkflowDefinition {
            name: self.name.clone(),
            version: self.version,
            schema_version: 2,
            owner_email: OWNER.to_owned(),
            tasks,
            output_parameters: Map::new(),
        })
    }

    fn step(&self, task: &PlanTask, agents: &Agents) -> Result<Step> {
        let agent = agents.named(&task.agent)?;
        let mut input = task.input.clone();
        let note = PlanNote {
            plan: self.name.clone(),
            gates: task.gates.clone(),
        };
        let note: Value = json!(note);
        input.insert(PLAN_KEY.to_owned(), note);
        Ok(Step::simple(agent.kind(), &task.id, input))
    }
}

/// The branch whose last task is the only one that this task waits for.
fn branch_to_go_on(task: &PlanTask, branches: &[Vec<Step>]) -> Option<usize> {
    let [only] = &task.depends_on[..] else {
        return None;
    };
    let ends_there = |branch: &Vec<Step>| {
        let last = branch.last();
        last.is_some_and(|step| step.task_reference_name == *only)
    };
    branches.iter().position(ends_there)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::an_agent;
    use std::collections::BTreeMap;

    /// What each task waits for, as the steps say it.
    fn waits(steps: &[Step]) -> BTreeMap<String, BTreeSet<String>> {
        let mut found = BTreeMap::new();
        for step in steps {
            for branch in &step.fork_tasks {
                let mut before = BTreeSet::new();
                for step in branch {
                    if step.join_on.is_empty() {
                        let id = step.task_reference_name.clone();
                        found.insert(id.clone(), std::mem::replace(&mut before, [id].into()));
                    } else {
                        before = step.join_on.iter().cloned().collect();
                    }
                }
            }
        }
        found
    }

    #[test]
    fn exactly_the_dependencies_are_kept() {
        // Not series-parallel: d waits for a and b, e for b and c, and g goes on behind f.
        let edges = [
            ("a", &[][..]),
            ("b", &[]),
            ("c", &[]),
            ("d", &["a", "b"]),
            ("e", &["b", "c"]),
            ("f", &["a"]),
            ("g", &["f"]),
            ("h", &["f"]),
            ("i", &["d", "g"]),
        ];
        let tasks = edges.iter().map(|(id, on)| PlanTask {
            id: (*id).to_owned(),
            title: String::new(),
            agent: "a".to_owned(),
            depends_on: on.iter().map(|on| (*on).to_owned()).collect(),
            input: Map::new(),
            gates: Vec::new(),
        });
        let mut plan = Plan {
            name: "p".into(),
            version: 1,
            description: String::new(),
            tasks: tasks.collect(),
        };
        // Whatever the order in the file is.
        for _ in 0..2 {
            plan.check(&an_agent(&["work"])).unwrap();
            let definition = plan.workflow_definition(&an_agent(&["work"])).unwrap();
            let expected: BTreeMap<String, BTreeSet<String>> = edges
                .iter()
                .map(|(id, on)| {
                    let on = on.iter().map(|on| (*on).to_owned()).collect();
                    ((*id).to_owned(), on)
                })
                .collect();
            assert_eq!(waits(&definition.tasks), expected);
            let ends = &definition.tasks[1].join_on;
            for end in ["e", "h", "i"] {
                assert!(ends.contains(&end.to_owned()), "{ends:?}");
            }
            plan.tasks.reverse();
        }
        plan.tasks
            .retain(|task| matches!(&*task.id, "a" | "f" | "g"));
        let chain = plan.workflow_definition(&an_agent(&["work"])).unwrap();
        let names: Vec<&str> = chain
            .tasks
            .iter()
            .map(|s| &*s.task_reference_name)
            .collect();
        assert_eq!(names, ["a", "f", "g"]);
    }
}
