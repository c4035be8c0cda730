//! The order of a plan's tasks.

use super::file::{Plan, PlanTask};
use std::collections::BTreeMap;

impl Plan {
    /// The tasks so that each comes after what it waits for, and else as in the file. The plan is
    /// free of cycles.
    #[must_use]
    pub fn in_order(&self) -> Vec<&PlanTask> {
        let levels = self.levels();
        let mut tasks: Vec<&PlanTask> = self.tasks.iter().collect();
        tasks.sort_by_key(|task| levels.get(task.id.as_str()).copied().unwrap_or(0));
        tasks
    }

    /// How many tasks at least have to end before each one, one after the other.
    #[must_use]
    pub fn levels(&self) -> BTreeMap<&str, usize> {
        let mut levels = BTreeMap::new();
        // Each round settles at least one task of a plan without cycles.
        for _ in 0..self.tasks.len() {
            for task in &self.tasks {
                let before: Option<Vec<usize>> = task
                    .depends_on
                    .iter()
                    .map(|on| levels.get(on.as_str()).copied())
                    .collect();
                if let Some(before) = before {
                    let level = before.into_iter().max().map_or(0, |level: usize| level + 1);
                    levels.insert(task.id.as_str(), level);
                }
            }
        }
        levels
    }

    /// The plan in Graphviz's language.
    #[must_use]
    pub fn to_dot(&self) -> String {
        let quoted = |text: &str| format!("{text:?}");
        let mut text = format!(
            "digraph {} {{\n  rankdir=LR;\n  node [shape=box];\n",
            quoted(&self.name)
        );
        for task in &self.tasks {
            let label = format!("{}\n{}", task.id, task.title);
            let label = quoted(label.trim_end());
            text.push_str(&format!("  {} [label={label}];\n", quoted(&task.id)));
            for on in &task.depends_on {
                text.push_str(&format!("  {} -> {};\n", quoted(on), quoted(&task.id)));
            }
        }
        text.push_str("}\n");
        text
    }
}
