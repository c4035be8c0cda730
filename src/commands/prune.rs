//! `k1ops prune`.

use super::Context;
use crate::config::Keep;
use crate::error::Result;
use crate::exit_code::ExitCode;
use crate::repository::{LogVerdict, PruneOptions, PrunePlan, Repository};
use crate::ui::{self, Table, Tone, Ui};
use serde::Serialize;

/// Delete archives that no rule keeps
///
/// The rules are `[backup.keep]`, or what the flags say. What any rule keeps is kept. Nothing is
/// deleted before a newer archive has been proven by `k1ops verify` (or by a drill, as `backup.proof`
/// asks), and nothing at all while the newest backup is suddenly small (exit code 4).
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
struct Pruned<'a> {
    #[serde(flatten)]
    plan: &'a PrunePlan,
    deleted: usize,
    freed_bytes: u64,
}

/// Plans, asks and deletes.
pub(super) async fn run(args: &PruneArgs, context: &Context) -> Result<ExitCode> {
    let stack = context.stack()?;
    let ui = &context.ui;
    let options = PruneOptions {
        keep: args.keep.rules(&stack.config.backup.keep),
        accept_shrink: args.accept_shrink,
        ..PruneOptions::of(&stack)
    };
    let repository = Repository::of(&stack)?;
    if args.dry_run {
        let plan = repository.plan_prune(&options, None)?;
        return report(ui, &plan, false);
    }
    let purpose = format!("prune of stack {}", stack.name);
    let access = repository.write_access(&purpose).await?;
    let plan = repository.plan_prune(&options, Some(&access))?;
    let (goes, log) = (plan.goes().count(), plan.log_files());
    if goes + log > 0 {
        let mut text = String::new();
        show(ui, &plan, &mut text);
        ui.say(text.trim_end());
        let archives = format!("Delete {goes} archives");
        ui.confirm(&match log {
            0 => format!("{archives} for good?"),
            _ => format!("{archives} and {log} files of the write-ahead log for good?"),
        })?;
    }
    let (events, interrupt) = (context.events(), &context.interrupt);
    repository.execute_prune(&plan, &options, &access, &events, interrupt)?;
    report(ui, &plan, true)
}

fn report(ui: &Ui, plan: &PrunePlan, done: bool) -> Result<ExitCode> {
    let goes = plan.goes().count();
    let pruned = Pruned {
        plan,
        deleted: if done { goes } else { 0 },
        freed_bytes: if done { plan.frees() } else { 0 },
    };
    ui.result(&pruned, |ui, text| {
        if !done {
            show(ui, plan, text);
        }
        let kept = plan.archives.len() - goes;
        let verb = if done { "deleted" } else { "would delete" };
        text.push_str(&format!(
            "{verb} {goes} archives ({}), kept {kept}; days and weeks are those of {}\n",
            ui::bytes(plan.frees()),
            plan.time_zone
        ));
    })?;
    Ok(ExitCode::Done)
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
