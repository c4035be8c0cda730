//! Docker Compose, v2 (`docker compose`) or v1 (`docker-compose`): found, asked for its version,
//! and run with a time limit. It knows project folders; it does not know what is in them.

use crate::error::{Context, Error, Result};
use rustix::process::{Pid, Signal};
use serde_json::Value;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

/// How long Compose may take to say its version.
const HELLO: Duration = Duration::from_secs(20);
/// v1 learnt profiles in this version.
const OLDEST: (u32, u32) = (1, 28);
/// How many of the last lines are kept for an error.
const KEPT_LINES: usize = 15;

/// A Compose that runs here and is new enough.
#[derive(Debug, Clone)]
pub struct Compose {
    command: Vec<String>,
    version: String,
    engine: String,
}

/// What Compose works on.
#[derive(Debug, Clone)]
pub struct Project {
    /// The project's name.
    pub name: String,
    /// The folder that holds the Compose files and `.env`.
    pub folder: PathBuf,
    /// The Compose files' names, each over those before it.
    pub files: Vec<String>,
    /// Profiles that are on.
    pub profiles: Vec<String>,
}

impl Compose {
    /// The Compose of this host for the engine at `engine` (as `DOCKER_HOST` takes it). `wanted` is
    /// a command line such as `docker-compose`; empty: v2 if it is there, else v1.
    pub async fn find(wanted: &str, engine: &str) -> Result<Self> {
        let commands: Vec<Vec<String>> = if wanted.trim().is_empty() {
            vec![words("docker compose"), words("docker-compose")]
        } else {
            vec![words(wanted)]
        };
        let mut too_old = None;
        for command in commands {
            let Some(version) = version_of(&command).await else {
                continue;
            };
            if number(&version) >= OLDEST {
                return Ok(Self {
                    command,
                    version,
                    engine: engine.to_owned(),
                });
            }
            too_old = Some(version);
        }
        let message = match (too_old, wanted) {
            (Some(version), _) => format!("Docker Compose {version} is too old"),
            (None, "") => "Docker Compose is not installed".to_owned(),
            (None, wanted) => format!("`{wanted}` is not a Docker Compose that runs here"),
        };
        Err(Error::missing(message)
            .hint("Install the Compose plugin of Docker (v2), or docker-compose 1.28 or later."))
    }

    /// For example `Compose 2.39.4`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("Compose {}", self.version)
    }

    /// Whether it is of this version or a later one.
    #[must_use]
    pub fn is_at_least(&self, version: (u32, u32, u32)) -> bool {
        numbers(&self.version) >= version
    }

    /// Runs `compose ARGS` on `project` and hands every line it prints to `on_line`. Fails with its
    /// last lines if it fails, and stops it if it takes longer than `limit` or is dropped.
    pub async fn run(
        &self,
        project: &Project,
        args: &[&str],
        limit: Duration,
        mut on_line: impl FnMut(&str),
    ) -> Result<()> {
        let shown = format!("`{} {}`", self.command.join(" "), args.join(" "));
        let mut child = self
            .command_for(project, args)
            .spawn()
            .context(|| format!("{shown} cannot be run"))?;
        let _group = Group::of(&child);
        let mut last = VecDeque::with_capacity(KEPT_LINES);
        let mut note = |line: &str| {
            let line = line.trim_end();
            if line.is_empty() {
                return;
            }
            tracing::debug!("compose: {line}");
            on_line(line);
            if last.len() == KEPT_LINES {
                last.pop_front();
            }
            last.push_back(line.to_owned());
        };
        let waiting = tokio::time::timeout(limit, watch(&mut child, &mut note));
        let Ok(status) = waiting.await else {
            let error = Error::failed(format!(
                "{shown} was stopped: it took longer than {} s",
                limit.as_secs()
            ));
            return Err(with_lines(error, &last));
        };
        let status = status.context(|| format!("{shown} cannot be watched"))?;
        if status.success() {
            return Ok(());
        }
        Err(with_lines(Error::failed(format!("{shown} failed")), &last))
    }

    /// The project as Compose understands it: all files in one, with every value filled in, as JSON of
    /// the [Compose specification](https://github.com/compose-spec/compose-spec).
    pub async fn model(&self, project: &Project) -> Result<Value> {
        let shown = format!("`{} config`", self.command.join(" "));
        let asked = self
            .command_for(project, &["config", "--format", "json"])
            .output();
        let Ok(output) = tokio::time::timeout(HELLO, asked).await else {
            return Err(Error::failed(format!(
                "{shown} was stopped: it took longer than {} s",
                HELLO.as_secs()
            )));
        };
        let output = output.context(|| format!("{shown} cannot be run"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Error::failed(format!("{shown} failed")).because(said.trim()));
        }
        serde_json::from_slice(&output.stdout).context(|| format!("{shown} printed no JSON"))
    }

    fn command_for(&self, project: &Project, args: &[&str]) -> Command {
        let mut command = Command::new(&self.command[0]);
        command
            .args(&self.command[1..])
            .args(["--project-name", &project.name])
            .arg("--project-directory")
            .arg(&project.folder)
            .arg("--env-file")
            .arg(project.folder.join(".env"));
        for file in &project.files {
            command.arg("--file").arg(project.folder.join(file));
        }
        for profile in &project.profiles {
            command.args(["--profile", profile]);
        }
        command
            .args(args)
            .env("DOCKER_HOST", &self.engine)
            .env("COMPOSE_ANSI", "never")
            .env("COMPOSE_PROGRESS", "plain")
            .env("NO_COLOR", "1")
            .env_remove("DOCKER_CONTEXT")
            .env_remove("COMPOSE_FILE")
            .env_remove("COMPOSE_PROFILES")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own: the plugin is a grandchild, and a Ctrl-C in the terminal is ours
            // to hear.
            .process_group(0)
            .kill_on_drop(true);
        // The environment would beat the `.env` file that this project stands on.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("K1_") {
                command.env_remove(name);
            }
        }
        command
    }
}

fn words(command: &str) -> Vec<String> {
    command.split_whitespace().map(str::to_owned).collect()
}

async fn version_of(command: &[String]) -> Option<String> {
    let (program, args) = command.split_first()?;
    let asked = Command::new(program)
        .args(args)
        .args(["version", "--short"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(HELLO, asked).await.ok()?.ok()?;
    let version = String::from_utf8_lossy(&output.stdout)
        .trim()
        .trim_start_matches('v')
        .to_owned();
    let numbered = version.starts_with(|c: char| c.is_ascii_digit());
    (output.status.success() && numbered).then_some(version)
}

fn number(version: &str) -> (u32, u32) {
    let (major, minor, _) = numbers(version);
    (major, minor)
}

/// The three numbers of a version; distributions add words to the last.
fn numbers(version: &str) -> (u32, u32, u32) {
    let mut parts = version.split('.').map(|part| {
        let end = part.find(|c: char| !c.is_ascii_digit());
        part[..end.unwrap_or(part.len())].parse().unwrap_or(0)
    });
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next())
}

async fn watch(
    child: &mut Child,
    note: &mut impl FnMut(&str),
) -> std::io::Result<std::process::ExitStatus> {
    let mut out = child.stdout.take().map(|pipe| BufReader::new(pipe).lines());
    let mut err = child.stderr.take().map(|pipe| BufReader::new(pipe).lines());
    while out.is_some() || err.is_some() {
        tokio::select! {
            line = next_line(&mut out), if out.is_some() => note(&line?.unwrap_or_default()),
            line = next_line(&mut err), if err.is_some() => note(&line?.unwrap_or_default()),
        }
    }
    child.wait().await
}

async fn next_line<R: AsyncRead + Unpin>(
    lines: &mut Option<tokio::io::Lines<BufReader<R>>>,
) -> std::io::Result<Option<String>> {
    let Some(reader) = lines else {
        return Ok(None);
    };
    let line = reader.next_line().await?;
    if line.is_none() {
        *lines = None;
    }
    Ok(line)
}

fn with_lines(error: Error, lines: &VecDeque<String>) -> Error {
    if lines.is_empty() {
        return error;
    }
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    error.because(lines.join("\n    "))
}

/// Ends Compose and what it started of its own when it is dropped early.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.and_then(Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It fails when all of the group have ended, which is what is wanted.
            let _ = rustix::process::kill_process_group(group, Signal::TERM);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// A program that stands in for Compose, so that what Compose would rarely do can be seen. A shell reads
    /// it: to be run itself, it would have to be open for writing in no process that another test forks meanwhile.
    fn double(folder: &Path, body: &str) -> String {
        let path = folder.join("compose");
        let text = format!("#!/bin/sh\n[ \"$1\" = version ] && echo v2.39.4 && exit\n{body}\n");
        std::fs::write(&path, text).unwrap();
        format!("sh {}", path.display())
    }

    fn project(folder: &Path) -> Project {
        Project {
            name: "p".into(),
            folder: folder.to_owned(),
            files: vec!["docker-compose.yaml".into()],
            profiles: vec!["search".into()],
        }
    }

    #[tokio::test]
    async fn it_is_told_the_project_and_its_lines_are_heard() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = double(folder.path(), "echo \"$@\"; echo \"$DOCKER_HOST\" >&2");
        let compose = Compose::find(&wanted, "unix:///x").await.unwrap();
        assert_eq!(compose.name(), "Compose 2.39.4");
        let mut lines = Vec::new();
        compose
            .run(
                &project(folder.path()),
                &["up", "-d"],
                Duration::from_secs(20),
                |line| lines.push(line.to_owned()),
            )
            .await
            .unwrap();
        lines.sort();
        assert!(lines[0].starts_with("--project-name p --project-directory"));
        assert!(lines[0].ends_with("--profile search up -d"), "{lines:?}");
        assert_eq!(lines[1], "unix:///x");
    }

    #[tokio::test]
    async fn a_failure_carries_its_last_lines_and_a_hang_ends() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = double(folder.path(), "echo port is taken >&2; exit 1");
        let compose = Compose::find(&wanted, "").await.unwrap();
        let run = |compose: Compose, limit| {
            let project = project(folder.path());
            async move { compose.run(&project, &["up"], limit, |_| {}).await }
        };
        let error = run(compose, Duration::from_secs(20)).await.unwrap_err();
        assert_eq!(error.causes(), ["port is taken"]);
        let pid_file = folder.path().join("pid");
        let wanted = double(
            folder.path(),
            &format!("sleep 600 & echo $! > {}; wait", pid_file.display()),
        );
        let compose = Compose::find(&wanted, "").await.unwrap();
        let error = run(compose, Duration::from_secs(5)).await.unwrap_err();
        assert!(error.to_string().contains("longer than 5 s"), "{error}");
        let pid: i32 = std::fs::read_to_string(pid_file)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while rustix::process::test_kill_process(Pid::from_raw(pid).unwrap()).is_ok()
            && !is_zombie(pid)
        {
            assert!(std::time::Instant::now() < deadline, "it still runs");
            std::thread::yield_now();
        }
    }

    fn is_zombie(pid: i32) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z"))
    }

    #[tokio::test]
    async fn a_compose_that_is_not_there_is_missing() {
        let error = Compose::find("no-such-compose", "").await.unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::Missing);
    }
}
