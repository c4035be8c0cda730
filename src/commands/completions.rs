//! `k1ops completions`.

use super::Context;
use crate::cli::Cli;
use crate::error::{Context as _, Result};
use crate::exit_code::ExitCode;
use clap::CommandFactory;

/// Print a shell's completion script
///
/// For example `k1ops completions bash > /etc/bash_completion.d/k1ops`.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// The shell
    shell: clap_complete::Shell,
}

/// Prints the script.
pub(super) fn run(args: &CompletionsArgs, context: &Context) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "k1ops", &mut script);
    let script = String::from_utf8(script).context(|| "the completion script is not text")?;
    context.ui.out(&script)?;
    Ok(ExitCode::Done)
}
