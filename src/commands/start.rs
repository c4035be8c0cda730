//! `k1ops start`.

use super::{Context, tell_monitoring};
use crate::config::{Switch, TierChoice};
use crate::error::Result;
use crate::exit_code::ExitCode;
use crate::harden;
use crate::restore;
use crate::stack::{Outcome, Prepare, StartOptions, StartReport, StartedServer, start};
use crate::store::Store;
use crate::ui::{Tone, Ui};
use crate::upgrade;
use std::time::Duration;

/// Start the stack on the best tier this host has
///
/// Tries tier 1 (docker), tier 2 (jar) and tier 3 (direct) in that order and says why each was
/// passed over. A stack that runs already is left as it is. With tier 3 there is nothing to start:
/// it prints how to run agents directly, and exits 1.
#[derive(Debug, clap::Args)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub struct StartArgs {
    /// Start this tier and no other
    #[arg(long, value_name = "TIER")]
    pub(super) tier: Option<TierChoice>,
    /// Wait until the server is healthy
    #[arg(long, value_name = "BOOL", default_value_t = true, default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    wait: bool,
    /// Wait this long for honest health
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    health_timeout: Option<u64>,
    /// Also wait until later starts are prepared to be fast
    #[arg(long)]
    prepare: bool,
    /// Fetch the images of tier 1 anew
    #[arg(long)]
    pull: bool,
    /// Run Elasticsearch as well (tier 1)
    #[arg(long)]
    with_elasticsearch: bool,
    /// Have Prometheus and Grafana watch the stack (tier 1); later starts keep them, until =false
    #[arg(long, value_name = "BOOL", default_missing_value = "true", num_args = 0..=1,
          require_equals = true)]
    with_monitoring: Option<bool>,
    /// Run this many Conductor servers behind a balancer (tier 1); later starts keep the number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=8))]
    servers: Option<u8>,
    /// Start several servers that run anew, one by one, so that no request fails (tier 1)
    #[arg(long, conflicts_with_all = ["servers", "pull"])]
    rolling: bool,
}

/// Starts the stack.
pub(super) async fn run(args: &StartArgs, context: &Context) -> Result<ExitCode> {
    let mut stack = context.stack()?;
    stack.config.docker.elasticsearch |= args.with_elasticsearch;
    if let Some(wanted) = args.with_monitoring {
        let switch = if wanted { Switch::On } else { Switch::Off };
        stack.config.docker.monitoring.run = switch;
    }
    if let Some(servers) = args.servers {
        let configured = std::mem::replace(&mut stack.config.docker.servers, servers);
        if ![0, servers].contains(&configured) {
            context.events().warning(format!(
                "docker.servers is {configured}: the next start without --servers goes back to that"
            ));
        }
    }
    let options = StartOptions {
        wait: args.wait,
        health_timeout: args.health_timeout.map(Duration::from_secs),
        prepare: if args.prepare {
            Prepare::Wait
        } else {
            Prepare::InBackground
        },
        pull: args.pull,
        rolling: args.rolling,
    };
    let (events, interrupt) = (context.events(), &context.interrupt);
    // A server must never see a database that is half replaced.
    restore::recover(&stack, &events).await?;
    harden::recover(&stack, &events)?;
    if let Some(recovered) = upgrade::recover(&stack, &events, interrupt).await? {
        recovered.versions.put_into(&mut stack.config);
    }
    let report = start(&stack, &options, &events, interrupt).await?;
    // Where the data is follows from the tier that runs now.
    let stack = context.stack()?;
    // The K1 tables are there from the first start on, whichever tier runs.
    Store::of(&stack, &events).await?;
    if report.health.is_some() && report.is_well() {
        restore::requeue_pending(&stack, &events, interrupt).await?;
    }
    tell_monitoring(&stack, context).await;
    context
        .ui
        .result(&report, |ui, text| show(&report, ui, text))?;
    Ok(if report.is_well() {
        ExitCode::Done
    } else {
        ExitCode::Failed
    })
}

fn show(report: &StartReport, ui: &Ui, text: &mut String) {
    let Some(server) = &report.server else {
        text.push_str(&ui.paint(
            Tone::Warn,
            "No server was started; only tier 3 (direct) is left.\n",
        ));
        for line in &report.instructions {
            text.push_str(&format!("- {line}\n"));
        }
        return;
    };
    let what = match report.outcome {
        Outcome::AlreadyRunning => "already runs",
        Outcome::Started | Outcome::Direct => "runs",
    };
    text.push_str(&format!(
        "Conductor {} {what} at {} ({}).\n",
        server.conductor_version,
        ui.paint(Tone::Strong, &server.url),
        details(report, server),
    ));
    match &report.health {
        None => text.push_str("Its health was not waited for; `k1ops status` tells.\n"),
        Some(health) => match health.reason() {
            Some(reason) => text.push_str(&format!(
                "{} {reason}\n",
                ui.paint(Tone::Bad, "It is not healthy:")
            )),
            None => text.push_str(&format!("Its data is in {}.\n", server.store.place())),
        },
    }
}

fn details(report: &StartReport, server: &StartedServer) -> String {
    let mut details = vec![format!(
        "tier {} {}",
        report.tier.number(),
        report.tier.name()
    )];
    if let Some(pid) = server.pid {
        details.push(format!("PID {pid}"));
    }
    if let Some(java) = &server.java_version {
        details.push(format!("Java {java}"));
    }
    if let Some(mode) = server.mode {
        details.push(mode.describe().to_owned());
    }
    if !server.containers.is_empty() {
        details.push(format!("containers {}", server.containers.join(", ")));
    }
    if let Some(seconds) = report.seconds {
        details.push(format!("healthy after {seconds:.1} s"));
    }
    details.join(", ")
}
