//! `k1ops logs`.

use super::Context;
use crate::adapters::docker::{Container, Engine};
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
    /// The service of tier 1 whose log to print: server, balancer, gateway, postgres, redis,
    /// elasticsearch, prometheus or grafana; or one of several servers by its container's name
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
    if let Some(which) = which(args, &stack)? {
        return of_container(&which, args, &stack, context).await;
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

/// Whose log is meant: that of a service, or of a container by its name.
enum Which {
    Of(Service),
    Called(String),
}

/// The container that is meant, if the log is in one.
fn which(args: &LogsArgs, stack: &Stack) -> Result<Option<Which>> {
    let Some(word) = &args.service else {
        let in_docker = stack.last_tier()? == Some(Tier::Docker);
        return Ok(in_docker.then_some(Which::Of(Service::Server)));
    };
    if let Some(service) = Service::named(word) {
        return Ok(Some(Which::Of(service)));
    }
    let prefix = format!("{}-", Deployment::of(stack)?.names.prefix());
    if word.starts_with(&prefix) {
        return Ok(Some(Which::Called(word.clone())));
    }
    Err(Error::usage(format!("there is no service {word:?}")).hint(
        "Name server, balancer, gateway, postgres, redis, elasticsearch, prometheus or grafana.",
    ))
}

async fn of_container(
    which: &Which,
    args: &LogsArgs,
    stack: &Stack,
    context: &Context,
) -> Result<ExitCode> {
    let engine = context.interrupt.guard(Engine::find()).await?;
    let containers = found(which, &engine, stack).await?;
    let several = containers.len() > 1;
    let logs = containers.iter().map(|container| {
        let name = container.name.clone();
        let log = engine.log(&name, Some(args.lines), args.follow);
        Box::pin(log.map(move |part| part.map(|part| (name.clone(), part))))
    });
    let mut logs = futures_util::stream::select_all(logs);
    loop {
        tokio::select! {
            () = context.interrupt.raised() => return Ok(ExitCode::Done),
            part = logs.next() => match part {
                Some(part) => {
                    let (name, part) = part?;
                    let text = String::from_utf8_lossy(&part);
                    let text = if several { named(&name, &text) } else { text.into_owned() };
                    context.ui.out(&text)?;
                }
                None => return Ok(ExitCode::Done),
            },
        }
    }
}

async fn found(which: &Which, engine: &Engine, stack: &Stack) -> Result<Vec<Container>> {
    let deployment = Deployment::of(stack)?;
    let (containers, name) = match which {
        Which::Of(service) => (
            deployment.containers(engine, *service).await?,
            deployment.names.container(*service),
        ),
        Which::Called(name) => {
            let mut servers = deployment.containers(engine, Service::Server).await?;
            servers.retain(|server| server.name == *name);
            (servers, name.clone())
        }
    };
    if containers.is_empty() {
        return Err(Error::missing(format!("there is no container {name}"))
            .hint("Start the stack on tier 1 with `k1ops start --tier docker`."));
    }
    Ok(containers)
}

/// Each line with the name of the container that it is from.
fn named(name: &str, text: &str) -> String {
    let lines = text.lines();
    lines.fold(String::new(), |all, line| all + name + " | " + line + "\n")
}
