//! Commands that k1ops runs itself with. They are hidden, and not for people.

use crate::adapters::process::become_detached;
use crate::error::Result;
use crate::exit_code::ExitCode;
use std::ffi::OsString;
use std::path::PathBuf;

/// Become a program that outlives k1ops
#[derive(Debug, clap::Args)]
pub struct DetachedArgs {
    /// Lower the priority by this much
    #[arg(long, default_value_t = 0)]
    nice: i32,
    /// Run in this folder
    #[arg(long)]
    folder: PathBuf,
    /// The program
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Becomes the program; returns only if that fails.
pub(super) fn detached(args: &DetachedArgs) -> Result<ExitCode> {
    let (program, arguments) = args.command.split_first().unzip();
    let program = program.map(PathBuf::from).unwrap_or_default();
    Err(become_detached(
        args.nice,
        &args.folder,
        &program,
        arguments.unwrap_or_default(),
    ))
}
