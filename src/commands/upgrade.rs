//! `k1ops upgrade`.

use super::Context;
use crate::error::{Context as _, Error, Result};
use crate::exit_code::ExitCode;
use crate::restore;
use crate::ui::{self, Tone, Ui};
use crate::upgrade::{self, NewImage, Plan, Report, UndoPlan, UndoReport, UpgradeOptions, Wanted};
use std::path::PathBuf;
use std::time::Duration;

/// Bring the stack to another version, and back by itself if that fails
///
/// Takes a backup, restores it beside the stack, runs the new version on that copy until a workflow has
/// come to its end, and only then stops the server, saves what it left, and starts the new version. If
/// that does not become healthy, the old version and the saved data are put back. k1ops.toml is changed,
/// and changed back, by itself. Killed in between, the next `k1ops start` finishes it or takes it back.
///
/// A new version that fails on the copy exits 4, or with what is missing, and nothing was touched.
#[derive(Debug, clap::Args)]
pub struct UpgradeArgs {
    /// Run this boot JAR of Conductor
    #[arg(long, value_name = "FILE")]
    jar: Option<PathBuf>,
    /// Its SHA-256, unless k1ops knows that of the version
    #[arg(long, value_name = "HEX")]
    jar_sha256: Option<String>,
    /// Run this version of Conductor
    #[arg(long, value_name = "VERSION")]
    server_version: Option<String>,
    /// Use this image for postgres, redis, elasticsearch or java (tier 1), such as redis=redis:7.4-alpine
    #[arg(long, value_name = "PART=IMAGE")]
    image: Vec<NewImage>,
    /// Show what would be done and change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Do not try the new version on a copy of the data first
    #[arg(long)]
    no_drill: bool,
    /// Wait this long for the new version's honest health
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    health_timeout: Option<u64>,
    /// Take the last upgrade back, with the data as they were before it
    #[arg(long, conflicts_with_all = ["jar", "jar_sha256", "server_version", "image", "no_drill", "health_timeout"])]
    undo: bool,
}

/// Plans, shows, asks and does.
pub(super) async fn run(args: &UpgradeArgs, context: &Context) -> Result<ExitCode> {
    let events = context.events();
    if !args.dry_run {
        let stack = context.stack()?;
        restore::recover(&stack, &events).await?;
        if upgrade::recover(&stack, &events, &context.interrupt)
            .await?
            .is_some()
        {
            return Err(
                Error::failed("an earlier upgrade was broken off, and is put right now")
                    .hint("See that the server runs with `k1ops start`, and run this again if it is still wanted."),
            );
        }
    }
    if args.undo {
        return undo(args, context).await;
    }
    let options = options(args)?;
    let plan = Box::pin(upgrade::plan(&context.loaded, &options)).await?;
    let ui = &context.ui;
    if args.dry_run || plan.is_settled() {
        ui.result(&plan, |ui, text| text.push_str(&shown(&plan, ui)))?;
        return Ok(ExitCode::Done);
    }
    ui.say(shown(&plan, ui).trim_end());
    ui.confirm(&format!("Upgrade stack {}?", plan.stack))?;
    let upgrading = upgrade::execute(plan, &events, &context.interrupt);
    let report = Box::pin(upgrading).await?;
    ui.result(&report, |ui, text| show(&report, ui, text))?;
    Ok(ExitCode::Done)
}

fn options(args: &UpgradeArgs) -> Result<UpgradeOptions> {
    let jar = match &args.jar {
        // Relative to where the command is run, not to the configuration.
        Some(jar) => {
            Some(std::path::absolute(jar).context(|| "the current folder cannot be read")?)
        }
        None => None,
    };
    let wanted = Wanted {
        jar,
        jar_sha256: args.jar_sha256.as_ref().map(|sum| sum.to_lowercase()),
        server_version: args.server_version.clone(),
        images: args.image.clone(),
    };
    let names_server = wanted.jar.is_some() || wanted.server_version.is_some();
    if !names_server && wanted.images.is_empty() {
        return Err(Error::usage("it is not said what to upgrade to")
            .hint("Name it with --server-version, --jar or --image."));
    }
    if wanted.jar_sha256.is_some() && !names_server {
        return Err(Error::usage("--jar-sha256 names no JAR")
            .hint("Add --jar FILE or --server-version VERSION."));
    }
    Ok(UpgradeOptions {
        wanted,
        no_drill: args.no_drill,
        health_timeout: args.health_timeout,
    })
}

async fn undo(args: &UpgradeArgs, context: &Context) -> Result<ExitCode> {
    let ui = &context.ui;
    let plan = upgrade::plan_undo(&context.stack()?)?;
    if args.dry_run {
        ui.result(&plan, |ui, text| text.push_str(&shown_undo(&plan, ui)))?;
        return Ok(ExitCode::Done);
    }
    ui.say(shown_undo(&plan, ui).trim_end());
    ui.confirm("Take the upgrade back, and put what was done since aside?")?;
    let report = Box::pin(upgrade::undo(plan, &context.events(), &context.interrupt)).await?;
    ui.result(&report, |ui, text| show_undone(&report, ui, text))?;
    Ok(ExitCode::Done)
}

fn shown(plan: &Plan, ui: &Ui) -> String {
    if plan.is_settled() {
        return format!("Stack {} runs that already.\n", plan.stack);
    }
    let tier = plan.tier.name();
    let mut text = format!("upgrade of stack {} (tier {tier})\n", plan.stack);
    let mut line = |word: &str, what: &str| {
        let word = ui.paint(Tone::Dim, &format!("{word:<8}"));
        text.push_str(&format!("  {word} {what}\n"));
    };
    for change in &plan.changes {
        let from = named(&change.from);
        let to = named(&change.to);
        line("set", &format!("{} from {from} to {to}", change.key));
    }
    line("back up", "into the repository, and read every byte of it");
    if plan.drill {
        let what = "a copy of it, run the new version on that, and complete a workflow";
        line("restore", what);
    }
    line("stop", "the server, and save what it left");
    line("start", "the new version, and wait until it is healthy");
    let saved = plan.saved.join(", ");
    line(
        "if not",
        &format!("the old version is put back, and with it {saved}"),
    );
    text
}

fn named(value: &str) -> &str {
    if value.is_empty() { "nothing" } else { value }
}

fn show(report: &Report, ui: &Ui, text: &mut String) {
    let word = ui.paint(Tone::Good, "upgraded");
    text.push_str(&format!("{word}: stack {}\n", report.stack));
    for change in &report.changes {
        let to = named(&change.to);
        text.push_str(&format!("  {} is {to}\n", change.key));
    }
    let down = ui::duration(Duration::from_secs_f64(report.down_seconds));
    text.push_str(&format!("  backup of before {}\n", report.backup.display()));
    if let Some(drill) = &report.drill {
        let (rows, tables) = (ui::count(drill.rows), ui::count(drill.tables));
        text.push_str(&format!(
            "  tried on a copy: {rows} rows in {tables} tables, a workflow came to its end\n"
        ));
    }
    text.push_str(&format!(
        "  the server is healthy at {}; it was away for {down}\ntake it back with: k1ops upgrade --undo\n",
        report.url
    ));
}

fn shown_undo(plan: &UndoPlan, ui: &Ui) -> String {
    let mut text = format!("undo of the upgrade of {}\n", ui::time(plan.at));
    let mut line = |word: &str, what: &str| {
        let word = ui.paint(Tone::Dim, &format!("{word:<8}"));
        text.push_str(&format!("  {word} {what}\n"));
    };
    for change in &plan.changes {
        line("set", &format!("{} to {}", change.key, named(&change.to)));
    }
    if let Some(saved) = &plan.saved {
        let saved = saved.display();
        line("restore", &format!("what was there before it: {saved}"));
    }
    line(
        "put",
        "what was done since aside, where `k1ops status` and `k1ops undo` find it",
    );
    text
}

fn show_undone(report: &UndoReport, ui: &Ui, text: &mut String) {
    let word = ui.paint(Tone::Good, "taken back");
    text.push_str(&format!(
        "{word}: stack {} runs as before the upgrade\n",
        report.stack
    ));
    for kept in &report.kept {
        text.push_str(&format!("  what was done since is kept: {kept}\n"));
    }
}
