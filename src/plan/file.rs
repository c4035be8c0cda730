//! The file of a plan.

use crate::agent::Threshold;
use crate::error::{Context, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;

/// A plan as it is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Its name, by which Conductor knows the workflow.
    pub name: String,
    /// Its version; Conductor keeps all of them.
    #[serde(default = "one")]
    pub version: u32,
    /// What it is for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Its tasks. The order matters only where nothing else decides.
    pub tasks: Vec<PlanTask>,
}

/// One task of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanTask {
    /// Its name within the plan.
    pub id: String,
    /// What it is, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub title: String,
    /// The agent that does it.
    pub agent: String,
    /// The tasks that must have ended well before it begins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<String>,
    /// What the agent is given. `${workflow.input.KEY}` and `${TASK.output.result.KEY}` are replaced.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub input: Map<String, Value>,
    /// The gates that its metrics have to pass.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<Threshold>,
}

fn one() -> u32 {
    1
}

impl Plan {
    /// Reads a plan in TOML. What it says is checked by [`Plan::check`].
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).context_kind(ErrorKind::Usage, || {
            format!("plan {} cannot be read", path.display())
        })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Reads a plan from text that came from `shown`.
    pub fn parse(text: &str, shown: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| {
                text[..span.start.min(text.len())].matches('\n').count() + 1
            });
            Error::usage(format!(
                "plan {shown} is not a plan: line {line}: {}",
                error.message()
            ))
            .hint("docs/plans.md describes the file.")
        })
    }

    /// The task of this name.
    #[must_use]
    pub fn task(&self, id: &str) -> Option<&PlanTask> {
        self.tasks.iter().find(|task| task.id == id)
    }

    /// The plan with only these tasks, none of which waits for another one that is left out.
    #[must_use]
    pub fn only(&self, name: &str, ids: &[&str]) -> Self {
        let mut plan = self.clone();
        name.clone_into(&mut plan.name);
        plan.tasks.retain(|task| ids.contains(&task.id.as_str()));
        for task in &mut plan.tasks {
            task.depends_on.retain(|on| ids.contains(&on.as_str()));
        }
        plan
    }
}
