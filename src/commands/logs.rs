//! `k1ops logs`.

use super::Context;
use crate::adapters::log_file::{Follower, last_lines};
use crate::error::Result;
use crate::exit_code::ExitCode;
use std::time::Duration;

/// How often a followed log is looked at.
const POLL: Duration = Duration::from_millis(250);

/// Print the server's log
///
/// Logs of earlier runs are beside it, numbered from 1, the newest.
#[derive(Debug, clap::Args)]
pub struct LogsArgs {
    /// Go on with what is appended, until interrupted
    #[arg(short, long)]
    follow: bool,
    /// Print this many of the last lines
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    lines: usize,
}

/// Prints the log.
pub(super) async fn run(args: &LogsArgs, context: &Context) -> Result<ExitCode> {
    let stack = context.stack()?;
    let log = stack.server_log();
    // Opened first: what is appended in between is then printed twice rather than never.
    let mut follower = Follower::at_end(&log)?;
    if !log.exists() {
        context
            .ui
            .say(&format!("No server has written {} yet.", log.display()));
    }
    context.ui.out(&last_lines(&log, args.lines)?)?;
    while args.follow && !context.interrupt.is_raised() {
        tokio::select! {
            () = context.interrupt.raised() => {}
            () = tokio::time::sleep(POLL) => context.ui.out(&follower.read()?)?,
        }
    }
    Ok(ExitCode::Done)
}
