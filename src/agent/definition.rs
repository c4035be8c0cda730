//! The agents that a configuration names, checked.

use super::template;
use crate::adapters::supervised::Limits;
use crate::config;
use crate::error::{Error, Result};
use crate::stack::Stack;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// One agent, ready to be run.
#[derive(Debug, Clone)]
pub struct Agent {
    /// Its name.
    pub name: String,
    /// What it was configured with.
    pub config: config::Agent,
    /// The types of task that it does.
    pub tasks: Vec<String>,
    /// Its working folder.
    pub folder: PathBuf,
    pub(super) limits: Limits,
}

/// All agents of a stack, by name.
#[derive(Debug, Clone)]
pub struct Agents(Vec<Agent>);

/// One agent as it is listed.
#[derive(Debug, Clone, Serialize)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// The types of task that it does.
    pub tasks: Vec<String>,
    /// The program, or `sh`.
    pub program: String,
    /// Whether the program is there.
    pub found: bool,
    /// Seconds until it is ended.
    pub timeout_seconds: u64,
    /// How often a task that failed is tried again.
    pub retries: u32,
    /// Its working folder.
    pub folder: PathBuf,
}

impl Agents {
    /// The stack's agents. A wrong definition is an error that names the agent and the key.
    pub fn of(stack: &Stack) -> Result<Self> {
        let mut agents: Vec<Agent> = Vec::new();
        for (name, config) in &stack.config.agents {
            let agent = Agent::new(name, config, stack)?;
            for kind in &agent.tasks {
                if let Some(other) = agents.iter().find(|other| other.tasks.contains(kind)) {
                    return Err(Error::usage(format!(
                        "agents {} and {name} both do tasks of type {kind}",
                        other.name
                    ))
                    .hint(format!(
                        "Take {kind} out of `tasks` of one of them; a task must have one agent."
                    )));
                }
            }
            agents.push(agent);
        }
        Ok(Self(agents))
    }

    /// The agent of this name.
    pub fn named(&self, name: &str) -> Result<&Agent> {
        let found = self.0.iter().find(|agent| agent.name == name);
        found.ok_or_else(|| {
            let known: Vec<&str> = self.0.iter().map(|agent| agent.name.as_str()).collect();
            let hint = if known.is_empty() {
                format!("Define it in k1ops.toml under [agents.{name}].")
            } else {
                format!("Known agents: {}.", known.join(", "))
            };
            Error::usage(format!("agent {name} is not defined")).hint(hint)
        })
    }

    /// The agent that does tasks of this type.
    #[must_use]
    pub fn for_task(&self, kind: &str) -> Option<&Agent> {
        self.0
            .iter()
            .find(|agent| agent.tasks.iter().any(|task| task == kind))
    }

    /// All of them, by name.
    #[must_use]
    pub fn all(&self) -> &[Agent] {
        &self.0
    }

    /// All of them as they are listed.
    #[must_use]
    pub fn listed(&self) -> Vec<Listed> {
        self.0.iter().map(Agent::listed).collect()
    }
}

impl Agent {
    fn new(name: &str, config: &config::Agent, stack: &Stack) -> Result<Self> {
        let wrong = |key: &str, why: &str| {
            Error::usage(format!("`agents.{name}.{key}` {why}"))
                .hint("Correct it in k1ops.toml; docs/agents.md lists every key.")
        };
        match (config.command.is_empty(), config.shell.is_empty()) {
            (true, true) => return Err(wrong("command", "is missing")),
            (false, false) => return Err(wrong("shell", "is set, and `command` too")),
            _ => {}
        }
        if config.timeout == 0 {
            return Err(wrong("timeout", "must be at least 1 second"));
        }
        if !(0..=19).contains(&config.nice) {
            return Err(wrong("nice", "must be between 0 and 19"));
        }
        let texts = config.command.iter().chain(config.env.values());
        for text in texts {
            template::check(text).map_err(|why| wrong("command", &why))?;
        }
        let memory = match config.memory.as_str() {
            "" => None,
            text => Some(bytes(text).ok_or_else(|| wrong("memory", "is not a size like 512m"))?),
        };
        let tasks = if config.tasks.is_empty() {
            vec![name.to_owned()]
        } else {
            config.tasks.clone()
        };
        if tasks.iter().any(|task| task.trim().is_empty()) {
            return Err(wrong("tasks", "has an empty name"));
        }
        Ok(Self {
            name: name.to_owned(),
            config: config.clone(),
            tasks,
            folder: stack.base.join(&config.folder),
            limits: Limits {
                memory,
                cpu_seconds: Some(config.cpu_seconds).filter(|&n| n > 0),
                open_files: Some(config.open_files).filter(|&n| n > 0),
                nice: config.nice,
            },
        })
    }

    /// How long it may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.config.timeout)
    }

    /// The type of task by which a plan asks for it.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.tasks.first().map_or(&self.name, String::as_str)
    }

    fn listed(&self) -> Listed {
        let program = self.config.command.first();
        let program = program.cloned().unwrap_or_else(|| "sh".to_owned());
        Listed {
            name: self.name.clone(),
            tasks: self.tasks.clone(),
            found: is_there(&program, &self.folder),
            program,
            timeout_seconds: self.config.timeout,
            retries: self.config.retries,
            folder: self.folder.clone(),
        }
    }
}

/// Whether the program would be found: by its path from the working folder, or on `PATH`.
fn is_there(program: &str, folder: &std::path::Path) -> bool {
    if program.contains('/') {
        return folder.join(program).is_file();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|place| place.join(program).is_file())
}

/// `512m` in bytes.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => return None,
    };
    let number: u64 = digits.parse().ok()?;
    number.checked_mul(1 << shift).filter(|&n| n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!(bytes("512m"), Some(512 << 20));
        assert_eq!(bytes("2G"), Some(2 << 30));
        assert_eq!(bytes("7"), Some(7));
        for wrong in ["", "m", "0", "-1", "1t", "99999999999g"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }
}
