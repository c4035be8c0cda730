//! `[agents.NAME]`: what workers may run, and for which types of task.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// One agent: a command that does tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Agent {
    /// The program and its arguments. `{{task_id}}`, `{{workflow_id}}`, `{{attempt}}` and
    /// `{{input.KEY}}` are replaced within an argument; what is put in never becomes two arguments.
    pub command: Vec<String>,
    /// Instead of `command`: a script for `sh -c`. Nothing is replaced in it; the same values come
    /// as variables and as the input file.
    pub shell: String,
    /// Environment variables on top of the worker's own, with the same replacements. They are shown
    /// by `k1ops doctor --config`: a secret belongs into the worker's own environment.
    pub env: BTreeMap<String, String>,
    /// The working folder, relative to the configuration file.
    pub folder: PathBuf,
    /// Seconds until it is ended.
    pub timeout: u64,
    /// How often a task that failed is tried again.
    pub retries: u32,
    /// Seconds between two tries.
    pub retry_delay: u64,
    /// The types of task that it does; empty: the one of its own name.
    pub tasks: Vec<String>,
    /// The most address space, such as `2g`; empty: no limit.
    pub memory: String,
    /// The most CPU time in seconds; 0: no limit.
    pub cpu_seconds: u64,
    /// The most open files; 0: no limit.
    pub open_files: u64,
    /// How far its priority is lowered: 0 to 19.
    pub nice: i32,
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            shell: String::new(),
            env: BTreeMap::new(),
            folder: PathBuf::new(),
            timeout: 600,
            retries: 0,
            retry_delay: 1,
            tasks: Vec::new(),
            memory: String::new(),
            cpu_seconds: 0,
            open_files: 0,
            nice: 0,
        }
    }
}

impl Agent {
    /// Whether `key` (what follows `agents.NAME.`) is one of an agent's keys.
    pub(super) fn knows(key: &str) -> bool {
        let variable = key.strip_prefix("env.");
        variable.map_or_else(|| Self::keys().contains(&key), |name| !name.contains('.'))
    }

    /// The keys of an agent but for `env`, which has keys of the user's own.
    pub(super) fn keys() -> &'static [&'static str] {
        &[
            "command",
            "shell",
            "folder",
            "timeout",
            "retries",
            "retry_delay",
            "tasks",
            "memory",
            "cpu_seconds",
            "open_files",
            "nice",
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_keys_is_that_of_the_struct() {
        let table = toml::Table::try_from(Agent::default()).unwrap();
        for (key, value) in &table {
            assert!(value.is_table() || Agent::knows(key), "{key}");
        }
        assert_eq!(table.len(), Agent::keys().len() + 1);
        assert!(Agent::knows("env.PATH") && !Agent::knows("env.a.b") && !Agent::knows("x"));
    }
}
