//! Programs that end with everything they started: at their own end, at a time limit, and when the
//! k1ops that started them dies in whatever way.
//!
//! Between k1ops and the program stands a supervisor, which is k1ops again. It holds the reading end
//! of a pipe whose writing end only k1ops has: when that closes, the program is to end. Whatever the
//! program started and left behind falls to the supervisor, however it left its process group.

use super::process::own_program;
use crate::error::{Context, Error, Result};
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitOptions};
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long a program that is told to end is given before it is killed.
const GRACE: Duration = Duration::from_secs(2);

/// What a program may use at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of address space.
    pub memory: Option<u64>,
    /// Seconds of CPU time.
    pub cpu_seconds: Option<u64>,
    /// Open files.
    pub open_files: Option<u64>,
    /// How far the priority is lowered: 0 to 19.
    pub nice: i32,
}

/// A program that is to be supervised.
#[derive(Debug, Clone)]
pub struct Supervised {
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// Environment variables on top of the inherited ones, of which those of k1ops are left out.
    pub environment: Vec<(String, String)>,
    /// The folder it runs in.
    pub folder: PathBuf,
    /// What it may use.
    pub limits: Limits,
}

impl Supervised {
    /// Starts it with its output as pipes. Dropping or closing the child's standard input ends it.
    pub fn spawn(&self) -> Result<tokio::process::Child> {
        let mut command = tokio::process::Command::new(own_program());
        for (name, _) in std::env::vars_os() {
            // Settings of k1ops may hold a password and mean nothing to others.
            if name.to_string_lossy().starts_with("K1OPS_") {
                command.env_remove(name);
            }
        }
        let flag = |name: &str, value: Option<u64>| value.map(|value| format!("--{name}={value}"));
        command
            .arg("__supervised")
            .arg("--folder")
            .arg(&self.folder)
            .args(flag("memory", self.limits.memory))
            .args(flag("cpu-seconds", self.limits.cpu_seconds))
            .args(flag("open-files", self.limits.open_files))
            .arg(format!("--nice={}", self.limits.nice))
            .arg("--")
            .args(&self.command)
            .envs(self.environment.iter().map(|(k, v)| (k, v)))
            // Not a folder of the user's: the nearest k1ops.toml is none of the child's business.
            .current_dir("/")
            // Ctrl-C is for k1ops, which then decides what becomes of the program.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
            .spawn()
            .context(|| format!("{} cannot be started", self.shown()))
    }

    fn shown(&self) -> String {
        let program = self.command.first().map(|p| p.to_string_lossy());
        program.unwrap_or_default().into_owned()
    }
}

/// The other half of [`Supervised::spawn`]: runs the program until it ends or standard input closes,
/// kills all that is left of it, and answers its exit code as a shell would.
pub fn supervise(folder: &Path, limits: Limits, command: &[OsString]) -> Result<u8> {
    let me = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(me))
        .context(|| "orphans cannot be taken care of on this host")?;
    let mut child = child(limits, command)?;
    child
        .current_dir(folder)
        .process_group(0)
        .stdin(Stdio::null());
    let shown = command.first().map(|p| p.to_string_lossy().into_owned());
    let shown = shown.unwrap_or_default();
    let mut child = child.spawn().context(|| {
        format!(
            "{shown} cannot be started in {} (is it installed, and the folder there?)",
            folder.display()
        )
    })?;
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    std::thread::spawn(move || {
        // Nothing is ever written: this returns when k1ops closes the pipe or is no more.
        let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
        end(group);
    });
    let status = child
        .wait()
        .context(|| format!("{shown} cannot be waited for"))?;
    kill_what_is_left(group);
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    Ok(u8::try_from(code).unwrap_or(u8::MAX))
}

/// The program itself, or this program on its way to become it within limits.
fn child(limits: Limits, command: &[OsString]) -> Result<Command> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| Error::usage("no program to run is named"))?;
    if limits == Limits::default() {
        let mut child = Command::new(program);
        child.args(arguments);
        return Ok(child);
    }
    let mut child = Command::new(own_program());
    let flag = |name: &str, value: Option<u64>| value.map(|value| format!("--{name}={value}"));
    child
        .arg("__limited")
        .args(flag("memory", limits.memory))
        .args(flag("cpu-seconds", limits.cpu_seconds))
        .args(flag("open-files", limits.open_files))
        .arg(format!("--nice={}", limits.nice))
        .arg("--")
        .args(command);
    Ok(child)
}

/// Limits this process and becomes the program. Returns only if that fails.
#[must_use]
pub fn become_limited(limits: Limits, command: &[OsString]) -> Error {
    let Some((program, arguments)) = command.split_first() else {
        return Error::usage("no program to run is named");
    };
    let cannot = || format!("{} cannot be started", program.to_string_lossy());
    // Not being allowed to be nice is no reason to fail.
    let _ = rustix::process::nice(limits.nice);
    for (resource, value) in [
        (Resource::Cpu, limits.cpu_seconds),
        (Resource::Nofile, limits.open_files),
        // Last: this process itself may need more than the program is to have.
        (Resource::As, limits.memory),
    ] {
        let Some(value) = value else { continue };
        let limit = Rlimit {
            current: Some(value),
            maximum: Some(value),
        };
        if let Err(error) = rustix::process::setrlimit(resource, limit) {
            return Error::failed(cannot()).because(error);
        }
    }
    let error = Command::new(program).args(arguments).exec();
    Error::failed(cannot()).because(error)
}

/// Asks the group to end and kills it if it does not.
fn end(group: Option<Pid>) {
    let Some(group) = group else { return };
    let _ = rustix::process::kill_process_group(group, Signal::TERM);
    std::thread::sleep(GRACE);
    let _ = rustix::process::kill_process_group(group, Signal::KILL);
}

/// Kills the group, and then every child there is until there is none: what a killed process started
/// becomes a child of this one.
fn kill_what_is_left(group: Option<Pid>) {
    if let Some(group) = group {
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
    loop {
        for pid in children() {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        match rustix::process::wait(WaitOptions::NOHANG) {
            Err(_) => return,
            Ok(Some(_)) => {}
            Ok(None) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// The children of this process.
fn children() -> Vec<Pid> {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let lists = threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let pids = lists.flat_map(|list| {
        let pids = list.split_whitespace().filter_map(|pid| pid.parse().ok());
        pids.collect::<Vec<i32>>()
    });
    pids.filter_map(Pid::from_raw).collect()
}
