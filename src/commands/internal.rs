//! Commands that k1ops runs itself with. They are hidden, and not for people.

use super::Context;
use crate::adapters::process::become_detached;
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
