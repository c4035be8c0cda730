//! `k1ops logs`.

use super::Context;
use crate::adapters::docker::Engine;
use crate::adapters::log_file::{Follower, last_lines};
use crate::error::{Error, Result};
use crate::exit_code::ExitCode;
use crate::stack::docker::{Deployment, Service};
use crate::stack::{Stack, Tier};
use futures_util::StreamExt;
use std::time::Duration;

/// How often a followed log is looked at.
const POLL: Duration = Duration::from_millis(250);

/// Print the server's log, or that of a service of tier 1
///
/// In tier 2, logs of earlier runs are beside it, numbered from 1, the newest.
#[derive(Debug, clap::Args)]
pub struct LogsArgs {
    /// The service of tier 1 whose log to print: server, gateway, postgres, redis or elasticsearch
    service: Option<String>,
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
    if let Some(service) = service(args, &stack)? {
        return of_container(service, args, &stack, context).await;
    }
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

/// The service that is meant, if its log is in a container.
fn service(args: &LogsArgs, stack: &Stack) -> Result<Option<Service>> {
    let Some(word) = &args.service else {
        let in_docker = stack.last_tier()? == Some(Tier::Docker);
        return Ok(in_docker.then_some(Service::Server));
    };
    match Service::named(word) {
        Some(service) => Ok(Some(service)),
        None => Err(Error::usage(format!("there is no service {word:?}"))
            .hint("Name server, gateway, postgres, redis or elasticsearch.")),
    }
}

async fn of_container(
    service: Service,
    args: &LogsArgs,
    stack: &Stack,
    context: &Context,
) -> Result<ExitCode> {
    let engine = context.interrupt.guard(Engine::find()).await?;
    let deployment = Deployment::of(stack)?;
    let Some(container) = deployment.container(&engine, service).await? else {
        let name = deployment.names.container(service);
        return Err(Error::missing(format!("there is no container {name}"))
            .hint("Start the stack on tier 1 with `k1ops start --tier docker`."));
    };
    let mut log = std::pin::pin!(engine.log(&container.name, Some(args.lines), args.follow));
    loop {
        tokio::select! {
            () = context.interrupt.raised() => return Ok(ExitCode::Done),
            part = log.next() => match part {
                Some(part) => context.ui.out(&String::from_utf8_lossy(&part?))?,
                None => return Ok(ExitCode::Done),
            },
        }
    }
}
