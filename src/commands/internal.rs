//! Commands that k1ops runs itself with. They are hidden, and not for people.

use super::Context;
use crate::adapters::process::become_detached;
use crate::adapters::supervised::{Limits, become_limited, supervise};
use crate::error::Result;
use crate::exit_code::ExitCode;
use crate::stack::jar::{Request, prepare_requested};
use std::ffi::OsString;
use std::path::PathBuf;

/// Become a program that outlives k1ops
#[derive(Debug, clap::Args)]
pub struct DetachedArgs {
    /// Lower the priority by this much
    #[arg(long, default_value_t = 0)]
    nice: i32,
    /// End when the process that started it ends
    #[arg(long)]
    tied: bool,
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
        args.tied,
        &args.folder,
        &program,
        arguments.unwrap_or_default(),
    ))
}

/// Become a program that may use only so much
#[derive(Debug, clap::Args)]
pub struct LimitedArgs {
    /// Bytes of address space
    #[arg(long)]
    memory: Option<u64>,
    /// Seconds of CPU time
    #[arg(long)]
    cpu_seconds: Option<u64>,
    /// Open files
    #[arg(long)]
    open_files: Option<u64>,
    /// Lower the priority by this much
    #[arg(long, default_value_t = 0)]
    nice: i32,
    /// The program
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl LimitedArgs {
    fn limits(&self) -> Limits {
        Limits {
            memory: self.memory,
            cpu_seconds: self.cpu_seconds,
            open_files: self.open_files,
            nice: self.nice,
        }
    }
}

/// Runs the programs that another k1ops asks for.
pub(super) fn supervisor() -> Result<ExitCode> {
    supervise()?;
    Ok(ExitCode::Done)
}

/// Becomes the program; returns only if that fails.
pub(super) fn limited(args: &LimitedArgs) -> Result<ExitCode> {
    Err(become_limited(args.limits(), &args.command))
}

/// Prepare fast starts of one JAR on one Java
#[derive(Debug, clap::Args)]
pub struct PrepareArgs {
    /// The cache
    #[arg(long)]
    cache: PathBuf,
    /// The boot JAR
    #[arg(long)]
    jar: PathBuf,
    /// Its SHA-256
    #[arg(long)]
    sha256: String,
    /// Conductor's version
    #[arg(long)]
    conductor: String,
    /// The Java
    #[arg(long)]
    java: PathBuf,
    /// The heap
    #[arg(long)]
    heap: String,
    /// The training server's log
    #[arg(long)]
    log: PathBuf,
}

/// Prepares fast starts.
pub(super) async fn prepare(args: PrepareArgs, context: &Context) -> Result<ExitCode> {
    let request = Request {
        cache: args.cache,
        jar: args.jar,
        sha256: args.sha256,
        conductor: args.conductor,
        java: args.java,
        heap: args.heap,
        log: args.log,
    };
    prepare_requested(request, &context.events(), &context.interrupt).await?;
    Ok(ExitCode::Done)
}
