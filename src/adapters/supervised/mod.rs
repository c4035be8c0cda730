//! Programs that end with everything they started: at their own end, at a time limit, and when the
//! k1ops that started them dies in whatever way.
//!
//! Between k1ops and the program stands a supervisor, which is k1ops again, at the other end of a socket.
//! When that closes, the program is to end. Whatever the program started and left behind falls to the
//! supervisor, however it left its process group. A supervisor whose program has ended waits for the next
//! one: to start it costs more than many a program does.

mod limits;
mod supervisor;

pub use limits::{Limits, become_limited};
pub use supervisor::supervise;

use super::process::own_program;
use crate::error::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, ChildStdout};

/// A program that is to be supervised.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Supervised {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Environment variables on top of the inherited ones, of which those of k1ops are left out.
    pub environment: Vec<(String, String)>,
    /// The folder it runs in.
    pub folder: PathBuf,
    /// What it may use.
    pub limits: Limits,
}

/// What a supervisor says when nothing is left of a program.
#[derive(Debug, Serialize, Deserialize)]
struct Ended {
    /// The exit code; 128 and the signal's number where a signal ended it.
    code: i32,
}

/// The supervisors that wait for a program.
#[derive(Debug, Default)]
pub struct Supervisors(Mutex<Vec<Program>>);

/// A program that runs. Dropping it ends it.
#[derive(Debug)]
pub struct Program {
    /// Its standard output. It does not end with the program: [`read_rest`] answers what is left then.
    pub stdout: ChildStdout,
    /// Its standard error, likewise.
    pub stderr: ChildStderr,
    /// Its end, to be waited for and brought about.
    pub hold: Hold,
}

/// What holds a program alive.
#[derive(Debug)]
pub struct Hold {
    supervisor: Child,
    socket: UnixStream,
    /// What the supervisor has said so far.
    said: Vec<u8>,
    is_let_go: bool,
}

impl Supervisors {
    /// Starts a program with its output as pipes. That it cannot be started is said there, by an exit
    /// code of 127; an error is that it cannot be supervised.
    pub async fn start(&self, program: &Supervised) -> Result<Program> {
        let mut order = serde_json::to_vec(program)
            .context(|| format!("{} cannot be asked for", program.folder.display()))?;
        order.push(b'\n');
        while let Some(mut waiting) = self.pop() {
            // One that was killed meanwhile takes nothing.
            if waiting.hold.socket.write_all(&order).await.is_ok() {
                return Ok(waiting);
            }
        }
        let mut started = Program::supervisor()?;
        let cannot = || "a supervisor cannot be told what to start".to_owned();
        started
            .hold
            .socket
            .write_all(&order)
            .await
            .context(cannot)?;
        Ok(started)
    }

    /// Takes back what a program that has ended by itself leaves: its supervisor.
    pub fn keep(&self, ended: Program) {
        if !ended.hold.is_let_go {
            self.waiting().push(ended);
        }
    }

    fn pop(&self) -> Option<Program> {
        self.waiting().pop()
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Program>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Program {
    /// A supervisor that nothing was asked of yet.
    fn supervisor() -> Result<Self> {
        let cannot = || "a supervisor cannot be started".to_owned();
        let (ours, theirs) = UnixStream::pair().context(cannot)?;
        let theirs = theirs.into_std().context(cannot)?;
        theirs.set_nonblocking(false).context(cannot)?;
        let mut command = tokio::process::Command::new(own_program());
        for (name, _) in std::env::vars_os() {
            // Settings of k1ops may hold a password and mean nothing to others.
            if name.to_string_lossy().starts_with("K1OPS_") {
                command.env_remove(name);
            }
        }
        command
            .arg("__supervisor")
            // Not a folder of the user's: the nearest k1ops.toml is none of the child's business.
            .current_dir("/")
            // Ctrl-C is for k1ops, which then decides what becomes of the program.
            .process_group(0)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut supervisor = command.spawn().context(cannot)?;
        let (Some(stdout), Some(stderr)) = (supervisor.stdout.take(), supervisor.stderr.take())
        else {
            return Err(Error::failed(cannot()));
        };
        Ok(Self {
            stdout,
            stderr,
            hold: Hold {
                supervisor,
                socket: ours,
                said: Vec::new(),
                is_let_go: false,
            },
        })
    }
}

impl Hold {
    /// The exit code, when nothing is left of the program. May be given up and called again.
    pub async fn ended(&mut self) -> Result<Option<i32>> {
        let cannot = || "a supervisor cannot be understood".to_owned();
        loop {
            if let Some(end) = self.said.iter().position(|&byte| byte == b'\n') {
                let said: Vec<u8> = self.said.drain(..=end).collect();
                let ended: Ended = serde_json::from_slice(&said).context(cannot)?;
                return Ok(Some(ended.code));
            }
            if self.socket.read_buf(&mut self.said).await.unwrap_or(0) == 0 {
                // Somebody killed the supervisor.
                self.is_let_go = true;
                let status = self.supervisor.wait().await.context(cannot)?;
                return Ok(status.code());
            }
        }
    }

    /// Has the program ended, first by asking it; its supervisor ends with it.
    pub async fn let_go(&mut self) {
        self.is_let_go = true;
        // Where it is closed already, the supervisor is no more.
        let _ = self.socket.shutdown().await;
    }
}

/// What is in `pipe` and was not read, once nobody writes to it any more.
///
/// The kernel is asked and not the runtime, which may not have heard of it yet.
pub fn read_rest(pipe: &impl AsFd, mut take: impl FnMut(&[u8])) {
    let mut buffer = [0; 16 << 10];
    loop {
        match rustix::io::read(pipe, &mut buffer) {
            Ok(count @ 1..) => take(&buffer[..count]),
            Err(rustix::io::Errno::INTR) => {}
            // It has ended, or is empty.
            Ok(_) | Err(_) => return,
        }
    }
}
