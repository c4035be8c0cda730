//! What must hold of a plan before anything is done with it.

use super::expression;
use super::file::{Plan, PlanTask};
use crate::agent::Agents;
use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};

/// More is a mistake, and more than a server likes in one workflow.
const MOST_TASKS: usize = 500;

impl Plan {
    /// Fails with the first thing that is wrong.
    pub fn check(&self, agents: &Agents) -> Result<()> {
        let name = &self.name;
        let wrong = |what: String, hint: &str| {
            Err(Error::usage(format!("plan {name}: {what}")).hint(hint.to_owned()))
        };
        if !is_plain(name) {
            return wrong(
                format!("the name {name:?} is not usable"),
                "Use 1 to 60 letters, digits, '-' or '_'.",
            );
        }
        if self.tasks.is_empty() || self.tasks.len() > MOST_TASKS {
            return wrong(
                format!("it has {} tasks", self.tasks.len()),
                "A plan has 1 to 500 tasks.",
            );
        }
        let mut known = BTreeSet::new();
        for task in &self.tasks {
            if !is_plain(&task.id) || matches!(task.id.as_str(), "workflow" | "fork" | "join") {
                return wrong(
                    format!("the task id {:?} is not usable", task.id),
                    "Use 1 to 60 letters, digits, '-' or '_', but not workflow, fork or join.",
                );
            }
            if !known.insert(task.id.as_str()) {
                return wrong(format!("task {} is there twice", task.id), "Rename one.");
            }
        }
        for task in &self.tasks {
            agents.named(&task.agent).map_err(|error| {
                Error::usage(format!("plan {name}: task {}: {error}", task.id))
                    .hint(error.hint_text().unwrap_or_default())
            })?;
            self.check_dependencies(task)?;
            self.check_gates(task)?;
        }
        if let Some(cycle) = self.cycle() {
            return wrong(
                format!("tasks wait for each other: {}", cycle.join(" → ")),
                "Take one of these dependencies away.",
            );
        }
        self.tasks
            .iter()
            .try_for_each(|task| self.check_input(task))
    }

    fn check_dependencies(&self, task: &PlanTask) -> Result<()> {
        let wrong = |what: String, hint: String| {
            let name = &self.name;
            Err(Error::usage(format!("plan {name}: task {} {what}", task.id)).hint(hint))
        };
        let mut seen = BTreeSet::new();
        for on in &task.depends_on {
            if *on == task.id {
                return wrong("depends on itself".into(), "Take that away.".into());
            }
            if !seen.insert(on) {
                return wrong(format!("depends on {on} twice"), "Name it once.".into());
            }
            if self.task(on).is_none() {
                let ids = self.tasks.iter().map(|task| task.id.as_str());
                let near = |id: &&str| (strsim::jaro_winkler(id, on) * 1000.0).round();
                let nearest = ids.max_by(|a, b| near(a).total_cmp(&near(b)));
                return wrong(
                    format!("depends on {on}, which the plan does not have"),
                    format!("The nearest task is {}.", nearest.unwrap_or_default()),
                );
            }
        }
        Ok(())
    }

    fn check_gates(&self, task: &PlanTask) -> Result<()> {
        let mut seen = BTreeSet::new();
        for gate in &task.gates {
            let problem = if gate.min.is_none() && gate.max.is_none() {
                "has neither min nor max"
            } else if !seen.insert(&gate.name) {
                "is there twice"
            } else if [&gate.name, &gate.metric].iter().any(|t| t.contains("${")) {
                "contains ${"
            } else {
                continue;
            };
            return Err(Error::usage(format!(
                "plan {}: gate {:?} of task {} {problem}",
                self.name, gate.name, task.id
            ))
            .hint("A gate has a name of its own, a metric, and min, max or both."));
        }
        Ok(())
    }

    /// An expression may refer to what is there when the task begins, and to nothing else.
    fn check_input(&self, task: &PlanTask) -> Result<()> {
        let before = self.ancestors(&task.id);
        let input = serde_json::Value::Object(task.input.clone());
        for reference in expression::references(&input) {
            let mut parts = reference.split('.');
            let (first, second) = (parts.next().unwrap_or_default(), parts.next());
            let is_known = match first {
                "workflow" => second == Some("input"),
                other => second == Some("output") && before.contains(other),
            };
            if !is_known {
                return Err(Error::usage(format!(
                    "plan {}: task {} refers to ${{{reference}}}, which is not there when it begins",
                    self.name, task.id
                ))
                .hint(
                    "Refer to ${workflow.input.KEY}, or to ${TASK.output.result.KEY} of a task that \
                     it depends on.",
                ));
            }
        }
        Ok(())
    }

    /// All tasks that have ended when this one begins.
    fn ancestors(&self, id: &str) -> BTreeSet<&str> {
        let mut found = BTreeSet::new();
        let mut open: Vec<&str> = vec![id];
        while let Some(task) = open.pop().and_then(|id| self.task(id)) {
            for on in &task.depends_on {
                if found.insert(on.as_str()) {
                    open.push(on);
                }
            }
        }
        found
    }

    /// Tasks of which each waits for the next and the last for the first, if there are any.
    fn cycle(&self) -> Option<Vec<String>> {
        let mut waits: BTreeMap<&str, &PlanTask> = self
            .tasks
            .iter()
            .map(|task| (task.id.as_str(), task))
            .collect();
        // What waits for nothing that is left is in no cycle.
        loop {
            let free: Vec<&str> = waits
                .iter()
                .filter(|(_, task)| !task.depends_on.iter().any(|on| waits.contains_key(&**on)))
                .map(|(id, _)| *id)
                .collect();
            if free.is_empty() {
                break;
            }
            for id in free {
                waits.remove(id);
            }
        }
        let mut path: Vec<String> = vec![(*waits.keys().next()?).to_owned()];
        loop {
            let task = waits.get(path.last()?.as_str())?;
            let next = task
                .depends_on
                .iter()
                .find(|on| waits.contains_key(&***on))?;
            if let Some(at) = path.iter().position(|id| id == next) {
                path.drain(..at);
                path.push(next.clone());
                return Some(path);
            }
            path.push(next.clone());
        }
    }
}

/// A name that is fit for a server's paths and expressions as it is.
fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    (1..=60).contains(&name.len()) && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::an_agent;

    #[test]
    fn what_is_wrong_is_named() {
        let tasks = |text: &str| format!("name = 'p'\n{text}");
        let task = |id: &str, more: &str| format!("[[tasks]]\nid = '{id}'\nagent = 'a'\n{more}\n");
        for (text, said) in [
            ("name = 'a b'\ntasks = []".to_owned(), "not usable"),
            ("name = 'p'\ntasks = []".to_owned(), "has 0 tasks"),
            (
                tasks("[[tasks]]\nid = 'x'\nagent = 'b'"),
                "agent b is not defined",
            ),
            (tasks(&(task("x", "") + &task("x", ""))), "x is there twice"),
            (tasks(&task("workflow", "")), "not usable"),
            (tasks(&task("x", "depends_on = ['x']")), "depends on itself"),
            (tasks(&task("x", "depends_on = ['y']")), "does not have"),
            (
                tasks(&(task("x", "") + &task("y", "depends_on = ['x', 'x']"))),
                "twice",
            ),
            (
                tasks(
                    &(task("w", "depends_on = ['z']")
                        + &task("x", "depends_on = ['z']")
                        + &task("y", "depends_on = ['x']")
                        + &task("z", "depends_on = ['y']")),
                ),
                "wait for each other",
            ),
            (
                tasks(&task("x", "gates = [{ name = 'g', metric = 'm' }]")),
                "neither min nor max",
            ),
            (
                tasks(&(task("x", "") + &task("y", "input = { n = '${x.output.n}' }"))),
                "not there when it begins",
            ),
            (
                tasks(&task("x", "input = { n = ['${workflow.id}'] }")),
                "not there when it begins",
            ),
        ] {
            let plan = Plan::parse(&text, "x").unwrap();
            let error = plan.check(&an_agent(&[])).unwrap_err();
            assert!(error.to_string().contains(said), "{said}: {error}");
        }
        for (text, said) in [("name = 'p'\nx = 1", "line 2"), ("tasks = []", "name")] {
            let error = Plan::parse(text, "x").unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
    }
}
