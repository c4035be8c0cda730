//! The other half of [`Supervisors`](super::Supervisors): a process of its own that runs the programs
//! it is asked for on standard input, which is a socket, one after another.

use super::super::process::own_program;
use super::{Ended, Limits, Supervised};
use crate::error::{Context, Error, Result};
use rustix::process::{Pid, Signal, WaitOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a program that is told to end is given before it is killed.
const GRACE: Duration = Duration::from_secs(2);
/// What a shell answers for a program that cannot be started.
const CANNOT_BE_STARTED: i32 = 127;

/// The process group of the program that runs, and whether it is to end.
#[derive(Default)]
struct Running {
    group: Option<Pid>,
    is_to_end: bool,
}

/// Runs programs until standard input closes, which ends the one that runs. After each, kills all that
/// is left of it and answers its exit code.
pub fn supervise() -> Result<()> {
    let cannot = || "programs cannot be supervised on this host".to_owned();
    let me = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(me)).context(cannot)?;
    let socket = std::io::stdin().as_fd().try_clone_to_owned();
    let mut socket = UnixStream::from(socket.context(cannot)?);
    let orders = socket.try_clone().context(cannot)?;
    let running = Arc::new(Mutex::new(Running::default()));
    let (ordered, next) = mpsc::channel();
    let listener = running.clone();
    std::thread::spawn(move || listen(orders, &ordered, &listener));
    for program in next {
        let ended = Ended {
            code: run(&program, &running)?,
        };
        let mut said = serde_json::to_vec(&ended).context(cannot)?;
        said.push(b'\n');
        if socket.write_all(&said).is_err() {
            break;
        }
    }
    Ok(())
}

/// Hands on what is asked for, and ends what runs when k1ops closes the socket or is no more.
fn listen(orders: UnixStream, ordered: &Sender<Supervised>, running: &Mutex<Running>) {
    for line in BufReader::new(orders).lines() {
        let program = line.ok().and_then(|line| serde_json::from_str(&line).ok());
        let Some(program) = program else { break };
        if ordered.send(program).is_err() {
            break;
        }
    }
    let group = {
        let mut running = lock(running);
        running.is_to_end = true;
        running.group
    };
    end(group);
}

/// Runs a program to its end; answers its exit code as a shell would.
fn run(program: &Supervised, running: &Mutex<Running>) -> Result<i32> {
    let name = program.command.first().map_or("", String::as_str);
    let started = {
        let mut running = lock(running);
        if running.is_to_end {
            return Ok(CANNOT_BE_STARTED);
        }
        let started = start(program);
        if let Ok(child) = &started {
            running.group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        }
        started
    };
    let mut child = match started {
        Ok(child) => child,
        Err(error) => {
            // Where the program would have said it.
            let _ = writeln!(std::io::stderr(), "{error}");
            return Ok(CANNOT_BE_STARTED);
        }
    };
    let status = child
        .wait()
        .context(|| format!("{name} cannot be waited for"))?;
    let group = lock(running).group.take();
    kill_what_is_left(group);
    let by_signal = || 128 + status.signal().unwrap_or_default();
    Ok(status.code().unwrap_or_else(by_signal))
}

fn start(program: &Supervised) -> Result<Child> {
    let folder = &program.folder;
    let mut command = child(program.limits, &program.command)?;
    command
        .envs(
            program
                .environment
                .iter()
                .map(|(name, value)| (name, value)),
        )
        .current_dir(folder)
        .process_group(0)
        .stdin(Stdio::null());
    command.spawn().context(|| {
        let name = program.command.first().map_or("", String::as_str);
        format!(
            "{name} cannot be started in {} (is it installed, and the folder there?)",
            folder.display()
        )
    })
}

fn lock(running: &Mutex<Running>) -> MutexGuard<'_, Running> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The program itself, or this program on its way to become it within limits.
fn child(limits: Limits, command: &[String]) -> Result<Command> {
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
