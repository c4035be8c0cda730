//! Processes that outlive k1ops: started detached, told apart from whatever reuses their PID, and
//! signalled only when they are still themselves.

use crate::error::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub use rustix::process::Signal;

/// How often a process that is to end is looked at.
const POLL: Duration = Duration::from_millis(50);

/// How long a process that was killed is given to end. The kernel frees gigabytes in less, unless a
/// disk does not answer.
const ENDING: Duration = Duration::from_secs(10);

/// One process for all time: a PID alone may be reused, within one boot or after the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The process ID.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub start_ticks: u64,
    /// Which boot that was.
    pub boot_id: String,
}

impl Identity {
    /// The identity of the process that has `pid` now; `None` if there is none, or if it has
    /// ended and waits for its parent only.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name is in parentheses and may hold anything, so fields are counted behind it.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        // The first thread of a killed process ends before the others have; until the last one has,
        // ports, files and locks are still held.
        let threads: u32 = fields.get(17)?.parse().ok()?;
        if matches!(*fields.first()?, "Z" | "X") && threads <= 1 {
            return None;
        }
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(Self {
            pid,
            start_ticks: fields.get(19)?.parse().ok()?,
            boot_id: boot_id.trim().to_owned(),
        })
    }

    /// Whether this very process still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }

    /// Whether this very process runs and is not about to end. One that was killed holds its ports,
    /// files and locks for a moment longer: that moment is waited for.
    #[must_use]
    pub fn is_alive_and_stays(&self) -> bool {
        let deadline = std::time::Instant::now() + ENDING;
        while self.is_alive() {
            if !self.is_ending() || std::time::Instant::now() >= deadline {
                return true;
            }
            std::thread::sleep(POLL);
        }
        false
    }

    /// Whether a thread of the process has been killed already, or is to be as soon as it is its
    /// turn. Nothing brings a process back from there.
    fn is_ending(&self) -> bool {
        let Ok(status) = std::fs::read_to_string(format!("/proc/{}/status", self.pid)) else {
            return true;
        };
        let value = |name| status.lines().find_map(|line| line.strip_prefix(name));
        let killed = |name| {
            value(name)
                .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
                .is_some_and(|mask| mask & (1 << (Signal::KILL.as_raw() - 1)) != 0)
        };
        value("State:").is_some_and(|state| state.trim().starts_with(['Z', 'X']))
            || killed("SigPnd:")
            || killed("ShdPnd:")
    }

    /// Sends `signal` to this very process; `false` if it has ended. A process that reuses the PID
    /// is never signalled: the descriptor is opened first, and then it is checked what it refers to.
    pub fn signal(&self, signal: Signal) -> Result<bool> {
        let cannot = || format!("process {} cannot be signalled", self.pid);
        let Some(pid) = i32::try_from(self.pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        else {
            return Ok(false);
        };
        let descriptor =
            match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
                Ok(descriptor) => Some(descriptor),
                Err(rustix::io::Errno::SRCH) => return Ok(false),
                // Linux before 5.3: the check below still leaves only an instant.
                Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => None,
                Err(e) => return Err(e).context(cannot),
            };
        if !self.is_alive() {
            return Ok(false);
        }
        let sent = match &descriptor {
            Some(descriptor) => rustix::process::pidfd_send_signal(descriptor, signal),
            None => rustix::process::kill_process(pid, signal),
        };
        match sent {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(e) => Err(e).context(cannot),
        }
    }

    /// Waits until the process has ended; `false` if it has not within `timeout`.
    pub async fn ended_within(&self, timeout: Duration) -> bool {
        let deadline = tokio::time::Instant::now() + timeout;
        while self.is_alive() {
            if tokio::time::Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(POLL).await;
        }
        true
    }

    /// Resident memory in bytes, if the process runs.
    #[must_use]
    pub fn resident(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
        let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        self.is_alive().then_some(kib * 1024)
    }
}

/// A program that is to outlive k1ops.
#[derive(Debug, Clone)]
pub struct Detached {
    /// The program.
    pub program: PathBuf,
    /// Its arguments. They are visible to every user of the host: no secret belongs here.
    pub arguments: Vec<OsString>,
    /// Environment variables on top of the inherited ones; secrets may go here.
    pub environment: Vec<(String, String)>,
    /// The folder it runs in.
    pub folder: PathBuf,
    /// Where its output goes, appended.
    pub log: PathBuf,
    /// How far to lower its priority: 0 to 19.
    pub nice: i32,
    /// Whether it is killed when k1ops ends, in whatever way.
    pub tied: bool,
}

/// A program that has been forked but waits for the word to go. If k1ops dies first, it ends by
/// itself, so there is never a server that no state file knows of.
#[derive(Debug)]
pub struct Waiting {
    child: Child,
    identity: Identity,
}

impl Detached {
    /// Forks the program, in a session of its own, and holds it back until [`Waiting::go`].
    ///
    /// It starts as this very program with the hidden command `__detached` (see [`become_detached`]),
    /// since a session of one's own can be opened only from inside.
    pub fn spawn(&self) -> Result<Waiting> {
        let cannot = || format!("{} cannot be started", self.program.display());
        let log = open_log(&self.log)?;
        let log_too = log.try_clone().context(cannot)?;
        let mut command = Command::new(own_program());
        for (name, _) in std::env::vars_os() {
            // Settings of k1ops may hold a password and mean nothing to others.
            if name.to_string_lossy().starts_with("K1OPS_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .arg("__detached")
            .arg(format!("--nice={}", self.nice))
            .args(self.tied.then_some("--tied"))
            .arg("--folder")
            .arg(&self.folder)
            .arg("--")
            .arg(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(k, v)| (k, v)))
            // Not a folder of the user's: the nearest k1ops.toml is none of the child's business.
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(log_too)
            .spawn()
            .context(cannot)?;
        let Some(identity) = Identity::of(child.id()) else {
            let _ = child.wait();
            return Err(Error::failed(cannot()).hint(format!("See {}.", self.log.display())));
        };
        Ok(Waiting { child, identity })
    }
}

impl Waiting {
    /// Which process it is and stays.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Lets it become the program.
    pub fn go(mut self) -> Result<Child> {
        let mut word = self.child.stdin.take();
        if let Some(word) = &mut word {
            word.write_all(b"g")
                .context(|| format!("process {} cannot be started", self.identity.pid))?;
        }
        Ok(self.child)
    }
}

/// The other half of [`Detached::spawn`]: opens a session of its own, waits for the word, and
/// becomes `program`. Returns only if that fails.
#[must_use]
pub fn become_detached(
    nice: i32,
    tied: bool,
    folder: &Path,
    program: &Path,
    arguments: &[OsString],
) -> Error {
    let cannot = || format!("{} cannot be started", program.display());
    let prepared = (|| {
        rustix::process::setsid()?;
        // The server's files hold the users' data.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        // Not being allowed to be nice is no reason to fail.
        let _ = rustix::process::nice(nice);
        if tied {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        }
        std::env::set_current_dir(folder)?;
        let mut word = [0];
        std::io::stdin().lock().read_exact(&mut word)
    })();
    if let Err(error) = prepared {
        return Error::failed(cannot()).because(error);
    }
    let error = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .exec();
    Error::failed(cannot()).because(error)
}

/// This program's file, also after it was replaced by a newer one.
#[must_use]
pub fn own_program() -> PathBuf {
    std::env::current_exe()
        .ok()
        .filter(|path| path.exists())
        .unwrap_or_else(|| PathBuf::from("/proc/self/exe"))
}

/// The output of a program that is to end within `timeout`; standard error follows standard
/// output. `None` if it did not end in time; it is killed then.
pub async fn output_within(
    program: &Path,
    arguments: &[&str],
    timeout: Duration,
) -> Result<Option<(bool, String)>> {
    let cannot = || format!("{} cannot be run", program.display());
    let output = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let Ok(output) = tokio::time::timeout(timeout, output).await else {
        return Ok(None);
    };
    let output = output.context(cannot)?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok(Some((output.status.success(), text)))
}

fn open_log(path: &Path) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    super::fs::create_private_folder(super::fs::folder_of(path))?;
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .context(|| format!("log {} cannot be opened", path.display()))
}

/// The name that a process goes by, such as `java`.
#[must_use]
pub fn name_of(pid: u32) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> (Child, Identity) {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let identity = Identity::of(child.id()).unwrap();
        (child, identity)
    }

    #[tokio::test]
    async fn a_process_is_known_until_it_ends_even_as_a_zombie() {
        let (mut child, identity) = sleeper();
        assert!(identity.is_alive());
        assert!(identity.resident().unwrap() > 0);
        assert!(!identity.ended_within(Duration::from_millis(1)).await);
        assert!(identity.signal(Signal::TERM).unwrap());
        // Nobody has waited for it yet, so it is a zombie now.
        assert!(identity.ended_within(Duration::from_secs(10)).await);
        assert!(!identity.signal(Signal::TERM).unwrap());
        child.wait().unwrap();
        assert!(Identity::of(identity.pid).is_none());
    }

    #[test]
    fn a_killed_process_is_not_taken_for_one_that_stays() {
        for _ in 0..20 {
            let (mut child, identity) = sleeper();
            assert!(identity.is_alive_and_stays());
            child.kill().unwrap();
            assert!(!identity.is_alive_and_stays());
            child.wait().unwrap();
        }
    }

    #[test]
    fn whoever_reuses_the_pid_is_a_stranger_and_not_signalled() {
        let (mut child, identity) = sleeper();
        let earlier = Identity {
            start_ticks: identity.start_ticks - 1,
            ..identity.clone()
        };
        let other_boot = Identity {
            boot_id: "another".into(),
            ..identity.clone()
        };
        for stranger in [earlier, other_boot] {
            assert!(!stranger.is_alive());
            assert!(!stranger.signal(Signal::KILL).unwrap());
        }
        assert!(identity.is_alive());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn a_program_that_does_not_end_is_given_up() {
        let output = output_within(Path::new("sleep"), &["60"], Duration::from_millis(50)).await;
        assert!(output.unwrap().is_none());
    }
}
