//! `k1ops prune`.

use super::Context;
use crate::config::Keep;
use crate::error::{Error, ErrorKind, Result};
use crate::exit_code::ExitCode;
use crate::repository::{LogVerdict, PruneOptions, PrunePlan, Repository};
use crate::ui::{self, Table, Tone, Ui};
use serde::Serialize;

/// Delete archives that no rule keeps
///
/// The rules are `[backup.keep]`, or what the flags say. What any rule keeps is kept. Nothing is
/// deleted before a newer archive has been proven by `k1ops verify` (or by a drill, as `backup.proof`
/// asks), and nothing at all while the newest backup is suddenly small (exit code 4). Each of
/// `[[repository.copies]]` is pruned by the same rules, each by what it holds itself; one that cannot be
/// reached is left as it is (exit code 7).
#[derive(Debug, clap::Args)]
pub struct PruneArgs {
    /// Show what would be deleted and why, and delete nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Take the newest backup's size and row count as usual from now on
    #[arg(long)]
    accept_shrink: bool,
    #[command(flatten)]
    keep: KeepArgs,
}

/// Rules instead of the configured ones.
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_field_names, reason = "they are the names of the flags")]
#[command(next_help_heading = "Rules (any of them replaces all of `[backup.keep]`)")]
struct KeepArgs {
    /// Keep the newest N archives
    #[arg(long, value_name = "N")]
    keep_last: Option<u32>,
    /// Keep the newest archive of each of N hours
    #[arg(long, value_name = "N")]
    keep_hourly: Option<u32>,
    /// Keep the newest archive of each of N days
    #[arg(long, value_name = "N")]
    keep_daily: Option<u32>,
    /// Keep the newest archive of each of N ISO weeks
    #[arg(long, value_name = "N")]
    keep_weekly: Option<u32>,
    /// Keep the newest archive of each of N months
    #[arg(long, value_name = "N")]
    keep_monthly: Option<u32>,
    /// Keep the newest archive of each of N years
    #[arg(long, value_name = "N")]
    keep_yearly: Option<u32>,
    /// Keep everything this much older than the newest archive, such as 14d
    #[arg(long, value_name = "TIME")]
    keep_within: Option<String>,
    /// Keep the newest N safety archives of restores
    #[arg(long, value_name = "N")]
    keep_safety: Option<u32>,
}

impl KeepArgs {
    fn rules(&self, configured: &Keep) -> Keep {
        let counts = [
            self.keep_last,
            self.keep_hourly,
            self.keep_daily,
            self.keep_weekly,
            self.keep_monthly,
            self.keep_yearly,
        ];
        let safety = self.keep_safety.unwrap_or(configured.safety);
        if counts.iter().all(Option::is_none) && self.keep_within.is_none() {
            return Keep {
                safety,
                ..configured.clone()
            };
        }
        let [last, hourly, daily, weekly, monthly, yearly] = counts.map(Option::unwrap_or_default);
        Keep {
            last,
            hourly,
            daily,
            weekly,
            monthly,
            yearly,
            within: self.keep_within.clone().unwrap_or_default(),
            safety,
        }
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Pruned {
    #[serde(flatten)]
    plan: PrunePlan,
    deleted: usize,
    freed_bytes: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    copies: Vec<CopyPruned>,
}

/// What became of a copy.
#[derive(Serialize)]
struct CopyPruned {
    name: String,
    #[serde(flatten)]
    pruned: Option<Box<Pruned>>,
    error: Option<String>,
}

/// Plans, asks and deletes, in the repository and then in each copy of it.
pub(super) async fn run(args: &PruneArgs, context: &Context) -> Result<ExitCode> {
    let stack = context.stack()?;
    let options = PruneOptions {
        keep: args.keep.rules(&stack.config.backup.keep),
        accept_shrink: args.accept_shrink,
        ..PruneOptions::of(&stack)
    };
    let done = !args.dry_run;
    let repository = Repository::of(&stack)?;
    let mut pruned = prune(&repository, &options, done, context).await?;
    for copy in repository.copies() {
        let of_copy = async { prune(&copy.open()?, &options, done, context).await };
        let of_copy = of_copy.await;
        if let Err(error) = &of_copy {
            give_up_or_warn(copy.name(), error, context)?;
        }
        pruned.copies.push(CopyPruned {
            name: copy.name().to_owned(),
            error: of_copy.as_ref().err().map(ToString::to_string),
            pruned: of_copy.ok().map(Box::new),
        });
    }
    context.ui.result(&pruned, |ui, text| {
        report(ui, &pruned, done, text);
        for copy in &pruned.copies {
            if let Some(pruned) = &copy.pruned {
                report(ui, pruned, done, text);
            }
        }
    })?;
    let unreached = pruned.copies.iter().any(|copy| copy.error.is_some());
    Ok(if unreached {
        ExitCode::Behind
    } else {
        ExitCode::Done
    })
}

/// One copy that cannot be pruned does not keep the others from it; whoever says no means all.
fn give_up_or_warn(copy: &str, error: &Error, context: &Context) -> Result<()> {
    if matches!(error.kind(), ErrorKind::Refused | ErrorKind::Interrupted) {
        let message = format!("the copy {copy} is not pruned: {error}");
        let hint = error.hint_text().unwrap_or_default();
        return Err(Error::new(error.kind(), message).hint(hint));
    }
    let hint = error.hint_text().unwrap_or("Look at it, and prune again.");
    let message = format!("the copy {copy} is not pruned: {error}");
    context.events().warning_with_hint(message, hint);
    Ok(())
}

/// Plans, asks and deletes in one repository.
async fn prune(
    repository: &Repository,
    options: &PruneOptions,
    done: bool,
    context: &Context,
) -> Result<Pruned> {
    let ui = &context.ui;
    if !done {
        let plan = repository.plan_prune(options, None)?;
        return Ok(Pruned::of(plan, done));
    }
    let purpose = format!("prune of stack {}", options.stack);
    let access = repository.write_access(&purpose).await?;
    let plan = repository.plan_prune(options, Some(&access))?;
    let (goes, log) = (plan.goes().count(), plan.log_files());
    if goes + log > 0 {
        let mut text = String::new();
        show(ui, &plan, &mut text);
        ui.say(text.trim_end());
        let archives = format!("Delete {goes} archives in {}", plan.repository.display());
        ui.confirm(&match log {
            0 => format!("{archives} for good?"),
            _ => format!("{archives} and {log} files of the write-ahead log for good?"),
        })?;
    }
    let (events, interrupt) = (context.events(), &context.interrupt);
    repository.execute_prune(&plan, options, &access, &events, interrupt)?;
    Ok(Pruned::of(plan, done))
}

impl Pruned {
    fn of(plan: PrunePlan, done: bool) -> Self {
        Self {
            deleted: if done { plan.goes().count() } else { 0 },
            freed_bytes: if done { plan.frees() } else { 0 },
            plan,
            copies: Vec::new(),
        }
    }
}

fn report(ui: &Ui, pruned: &Pruned, done: bool, text: &mut String) {
    let plan = &pruned.plan;
    if !done {
        show(ui, plan, text);
    }
    let goes = plan.goes().count();
    let kept = plan.archives.len() - goes;
    let verb = if done { "deleted" } else { "would delete" };
    text.push_str(&format!(
        "{verb} {goes} archives ({}) in {}, kept {kept}; days and weeks are those of {}\n",
        ui::bytes(plan.frees()),
        plan.repository.display(),
        plan.time_zone
    ));
}

fn shown_log(log: &LogVerdict) -> String {
    let goes = match (&log.first, &log.last) {
        (Some(first), Some(last)) => format!(
            "{} files go, {first} to {last}, {}: no kept backup needs them",
            log.goes.len(),
            ui::bytes(log.frees)
        ),
        _ => "nothing goes".to_owned(),
    };
    format!(
        "write-ahead log of cluster {}: {} segments stay ({}); {goes}\n",
        log.system, log.kept, log.reason
    )
}

fn show(ui: &Ui, plan: &PrunePlan, text: &mut String) {
    for log in &plan.wal {
        text.push_str(&shown_log(log));
    }
    if plan.archives.is_empty() {
        return;
    }
    let mut table = Table::new(&["name", "time", "size", "verdict", "reason"]).numbers(&[2]);
    for verdict in &plan.archives {
        let word = if verdict.keep {
            ui.paint(Tone::Good, "keep")
        } else {
            ui.paint(Tone::Warn, "delete")
        };
        table.row([
            verdict.name.clone(),
            ui::time(verdict.time),
            ui::bytes(verdict.size),
            word,
            verdict.reasons.join(", "),
        ]);
    }
    text.push_str(&table.render());
}
