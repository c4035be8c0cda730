//! `k1ops __man`: the manual pages of a package.

use crate::cli::Cli;
use crate::error::{Context as _, Result};
use crate::exit_code::ExitCode;
use clap::CommandFactory;
use std::path::PathBuf;

/// Write the manual pages of all commands into a folder
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// The folder, which must be there
    folder: PathBuf,
}

/// Writes them: `k1ops.1`, `k1ops-backup.1` and so on.
pub(super) fn run(args: &ManArgs) -> Result<ExitCode> {
    clap_mangen::generate_to(Cli::command(), &args.folder).context(|| {
        format!(
            "manual pages cannot be written to {}",
            args.folder.display()
        )
    })?;
    Ok(ExitCode::Done)
}
