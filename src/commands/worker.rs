//! `k1ops worker`.

use super::Context;
use crate::error::Result;
use crate::exit_code::ExitCode;
use crate::worker::{self, WorkerOptions};
use std::num::NonZeroUsize;
use std::time::Duration;

/// Take tasks from Conductor and have agents do them
///
/// Works until it is told to stop (SIGTERM, SIGINT): then it takes nothing more, lets running agents
/// finish, and hands back what has not finished in time. A second signal ends it at once. A server
/// that goes away is waited for. One worker runs for a stack on a host.
#[derive(Debug, clap::Args)]
pub struct WorkerArgs {
    /// Work for this server instead of the stack's own
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Run this many agents at once
    #[arg(long, value_name = "COUNT", default_value = "4")]
    jobs: NonZeroUsize,
    /// Take tasks of these types only
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    types: Vec<String>,
    /// Let running agents go on this long after the word to stop
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    grace: u64,
}

/// Works, and says what it did.
pub(super) async fn run(args: WorkerArgs, context: &Context) -> Result<ExitCode> {
    let options = WorkerOptions {
        server: args.server,
        jobs: args.jobs.get(),
        types: args.types,
        grace: Duration::from_secs(args.grace),
    };
    let stack = context.stack()?;
    let report = worker::run(&stack, &options, &context.events(), &context.interrupt).await?;
    context.ui.result(&report, |_, text| {
        text.push_str(&format!(
            "{} tasks completed, {} failed, {} handed back in {:.0} s\n",
            report.completed, report.failed, report.handed_back, report.seconds
        ));
    })?;
    Ok(ExitCode::Done)
}
