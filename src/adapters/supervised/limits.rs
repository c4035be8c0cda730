//! What a program may use, and the program on its way to become another within that.

use crate::error::Error;
use rustix::process::{Resource, Rlimit};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What a program may use at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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
