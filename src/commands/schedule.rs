//! `k1ops schedule`.

use super::{Context, tell_monitoring};
use crate::config::{Loaded, Origin};
use crate::error::Result;
use crate::exit_code::ExitCode;
use crate::schedule::{
    By, Change, FireOptions, How, InstallPlan, Job, RemovePlan, Run, ScheduleStatus,
    check_freshness, fire, install, plan_install, plan_remove, remove, run_daemon, span, status,
};
use crate::stack::Stack;
use crate::ui::{self, Tone, Ui};
use serde::Serialize;
use std::time::Duration;

/// Back up by the clock
///
/// `[schedule]` says when. A run backs up, reads the backup back as a whole, and prunes. Runs never
/// overlap, and each leaves a record.
#[derive(Debug, clap::Args)]
pub struct ScheduleArgs {
    #[command(subcommand)]
    asked: Asked,
}

impl ScheduleArgs {
    /// Whether it changes the stack, its data, or what runs by itself.
    pub(super) fn changes(&self) -> bool {
        match &self.asked {
            Asked::Install(args) => !args.dry_run,
            Asked::Remove(args) => !args.dry_run,
            Asked::Fire(_) => true,
            Asked::Status | Asked::Check | Asked::Run => false,
        }
    }
}

#[derive(Debug, clap::Subcommand)]
enum Asked {
    /// Have systemd or cron run it
    ///
    /// A systemd timer where systemd runs, else lines in the user's crontab, of which every other
    /// entry stays as it is. Run again, it brings up to date what is installed.
    Install(InstallArgs),
    /// Take out of systemd or the crontab what install has put there, and nothing else
    Remove(RemoveArgs),
    /// Show the next run, the last one, and whether it really fired
    ///
    /// Exits 1 if nobody fires the schedule, if a run was missed, or if the last one failed.
    Status,
    /// Wait and run in the foreground, for containers and hosts without cron
    Run,
    /// Look whether there is a good backup that is young enough, and tell `[notify]` if not
    ///
    /// Exits 1 if there is none for `notify.no_backup_hours`. What install installs does so each hour.
    Check,
    /// Do now what the schedule does: back up, verify, prune, and a drill if one is due
    Fire(FireArgs),
}

#[derive(Debug, clap::Args)]
struct InstallArgs {
    /// Show what would be written, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Who is to run it: systemd or cron [default: the best that the host has]
    #[arg(long, value_name = "WHO")]
    with: Option<How>,
}

#[derive(Debug, clap::Args)]
struct RemoveArgs {
    /// Show what would be taken out, and change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, clap::Args)]
struct FireArgs {
    /// Who fires it: hand, cron, systemd or daemon
    #[arg(long, value_name = "WHO", default_value = "hand")]
    by: By,
    /// Wait a random time, at most this long, such as 10m
    #[arg(long, value_name = "TIME", value_parser = jitter, default_value = "0s")]
    jitter: Duration,
    /// Run only if a run was missed
    #[arg(long)]
    missed: bool,
}

fn jitter(text: &str) -> Result<Duration, String> {
    span(text).map_err(|error| error.to_string())
}

/// Does what is asked.
pub(super) async fn run(args: &ScheduleArgs, context: &Context) -> Result<ExitCode> {
    let stack = context.stack()?;
    let job = Job::of(&stack, &context.loaded)?;
    match &args.asked {
        Asked::Install(args) => run_install(args, &stack, job, context).await,
        Asked::Remove(args) => run_remove(args, &stack, &job, context).await,
        Asked::Status => run_status(&stack, &job, context).await,
        Asked::Run => run_foreground(&stack, &job, context).await,
        Asked::Check => run_check(&stack, context).await,
        Asked::Fire(args) => run_fire(args, &stack, context).await,
    }
}

/// What `install --json` prints.
#[derive(Serialize)]
struct Shown<'a, T> {
    #[serde(flatten)]
    plan: &'a T,
    done: bool,
}

async fn run_install(
    args: &InstallArgs,
    stack: &Stack,
    job: Job,
    context: &Context,
) -> Result<ExitCode> {
    warn_of_environment(&context.loaded, context);
    let plan = plan_install(job, args.with).await?;
    if !args.dry_run {
        install(stack, &plan).await?;
    }
    if let Some(warning) = &plan.warning {
        context.events().warning_with_hint(
            format!("{warning}, so nothing fires"),
            "Start it, or run `k1ops schedule run` as a service of its own.",
        );
    }
    if let Some(why) = &plan.not_systemd {
        context.events().warning_with_hint(
            format!("cron is to fire it, and not systemd: {}", why.reason),
            format!("For a timer, run `{}` and install anew.", why.remedy),
        );
    }
    let done = !args.dry_run;
    context
        .ui
        .result(&Shown { plan: &plan, done }, |ui, text| {
            show_install(ui, &plan, done, text);
        })?;
    Ok(ExitCode::Done)
}

/// What is set in this shell alone is not set when the clock runs k1ops.
fn warn_of_environment(loaded: &Loaded, context: &Context) {
    let set: Vec<String> = loaded
        .origins
        .values()
        .filter_map(|origin| match origin {
            Origin::Environment(name) => Some(name.clone()),
            _ => None,
        })
        .collect();
    if !set.is_empty() {
        context.events().warning_with_hint(
            format!("the schedule does not see {}", set.join(", ")),
            "Put those settings into k1ops.toml, and secrets into files that it names.",
        );
    }
}

fn show_install(ui: &Ui, plan: &InstallPlan, done: bool, text: &mut String) {
    let place = match plan.how {
        How::Systemd => "a systemd timer",
        How::Cron => "the crontab",
    };
    let word = match (plan.change, done) {
        (Change::Same, _) => "up to date:",
        (Change::New, true) => "installed:",
        (Change::Changed, true) => "changed:",
        (_, false) => "would install:",
    };
    text.push_str(&format!(
        "{} {} ({}) in {place}\n",
        ui.paint(Tone::Good, word),
        plan.at,
        plan.time_zone
    ));
    if let Some(next) = plan.next {
        text.push_str(&format!("  next {}\n", ui::time(next)));
    }
    if !done {
        text.push_str(plan.crontab.as_deref().unwrap_or_default());
        for (path, unit) in &plan.units {
            text.push_str(&format!("\n{}:\n{unit}", path.display()));
        }
    }
    if let Some(other) = &plan.replaced {
        show_remove(other, done, text);
    }
}

async fn run_remove(
    args: &RemoveArgs,
    stack: &Stack,
    job: &Job,
    context: &Context,
) -> Result<ExitCode> {
    let plan = plan_remove(job).await?;
    let done = !args.dry_run;
    if done {
        remove(stack, job, &plan).await?;
    }
    context.ui.result(&Shown { plan: &plan, done }, |_, text| {
        show_remove(&plan, done, text);
    })?;
    Ok(ExitCode::Done)
}

fn show_remove(plan: &RemovePlan, done: bool, text: &mut String) {
    if plan.is_empty() {
        text.push_str("no schedule is installed\n");
        return;
    }
    let verb = if done { "removed" } else { "would remove" };
    if let Some(lines) = &plan.crontab {
        text.push_str(&format!("{verb} from the crontab:\n{lines}"));
    }
    for path in &plan.units {
        text.push_str(&format!("{verb} {}\n", path.display()));
    }
}

async fn run_status(stack: &Stack, job: &Job, context: &Context) -> Result<ExitCode> {
    let status = status(stack, job).await?;
    context
        .ui
        .result(&status, |ui, text| show_status(ui, &status, text))?;
    Ok(if status.is_well() {
        ExitCode::Done
    } else {
        ExitCode::Failed
    })
}

fn show_status(ui: &Ui, status: &ScheduleStatus, text: &mut String) {
    let mut line = |tone: Tone, label: &str, said: String| {
        text.push_str(&format!("{label:<7} {}\n", ui.paint(tone, &said)));
    };
    let when = format!("{} ({})", status.at, status.time_zone);
    match status.fired_by {
        None => line(
            Tone::Bad,
            "fires",
            format!("never: {when} is not installed; see `k1ops schedule install`"),
        ),
        Some(by) if !status.is_served => {
            let name = by.name();
            let said = match &status.not_served {
                Some(why) => format!("not always: {when} is left to {name}, and {why}"),
                None => format!("never: {when} is left to {name}, which does not run"),
            };
            line(Tone::Bad, "fires", said);
        }
        Some(by) => line(Tone::Good, "fires", format!("{when} by {}", by.name())),
    }
    if let Some(next) = status.next {
        line(Tone::Dim, "next", ui::time(next));
    }
    match (status.fired, status.last_due) {
        (Some(true), Some(due)) => line(Tone::Good, "fired", format!("as due {}", ui::time(due))),
        (Some(false), Some(due)) => {
            line(Tone::Bad, "missed", format!("the run of {}", ui::time(due)));
        }
        _ => line(Tone::Dim, "fired", "nothing was due yet".to_owned()),
    }
    if let (Some(run), Some(fate)) = (&status.last, status.result) {
        let (tone, said) = outcome(run, fate);
        line(tone, "last", said);
    }
    for channel in status.last.iter().flat_map(|run| &run.not_told) {
        line(
            Tone::Bad,
            "untold",
            format!("the message by {channel} did not arrive"),
        );
    }
    if let Some(good) = status.last_good {
        line(Tone::Dim, "good", ui::time(good));
    }
}

fn outcome(run: &Run, fate: crate::schedule::Fate) -> (Tone, String) {
    use crate::schedule::Fate;
    let at = format!("{} by {}", ui::time(run.started_at), run.by.name());
    let archive = run.archive.as_deref().unwrap_or("no archive");
    match fate {
        Fate::Good => (
            Tone::Good,
            format!("{at}: {archive}, {} pruned", run.pruned),
        ),
        Fate::Running => (Tone::Dim, format!("{at}: at work")),
        Fate::Died => (Tone::Bad, format!("{at}: it was killed before it ended")),
        Fate::Failed => {
            let error = run.error.as_deref().unwrap_or_default();
            (Tone::Bad, format!("{at}: {error}"))
        }
    }
}

async fn run_foreground(stack: &Stack, job: &Job, context: &Context) -> Result<ExitCode> {
    let command = job.fire();
    let runs = run_daemon(stack, &command, &context.events(), &context.interrupt).await?;
    let done = serde_json::json!({ "stack": stack.name, "runs": runs });
    context.ui.result(&done, |_, text| {
        text.push_str(&format!("ended after {runs} runs\n"));
    })?;
    Ok(ExitCode::Done)
}

async fn run_check(stack: &Stack, context: &Context) -> Result<ExitCode> {
    let found = check_freshness(stack, &context.events()).await;
    tell_monitoring(stack, context).await;
    let found = found?;
    context.ui.result(&found, |ui, text| {
        let newest = found.newest.map_or_else(|| "none".to_owned(), ui::time);
        let tone = if found.is_stale {
            Tone::Bad
        } else {
            Tone::Good
        };
        text.push_str(&format!(
            "newest good backup: {}\n",
            ui.paint(tone, &newest)
        ));
    })?;
    Ok(if found.is_stale {
        ExitCode::Failed
    } else {
        ExitCode::Done
    })
}

async fn run_fire(args: &FireArgs, stack: &Stack, context: &Context) -> Result<ExitCode> {
    let options = FireOptions {
        by: args.by,
        jitter: args.jitter,
        only_missed: args.missed,
    };
    let run = Box::pin(fire(stack, &options, &context.events(), &context.interrupt)).await;
    tell_monitoring(stack, context).await;
    let run = run?;
    context.ui.result(&run, |ui, text| match &run {
        None => text.push_str("nothing was missed\n"),
        Some(run) => {
            let (tone, said) = outcome(run, run.fate());
            text.push_str(&format!("{}\n", ui.paint(tone, &said)));
        }
    })?;
    Ok(ExitCode::Done)
}
