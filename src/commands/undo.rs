//! `k1ops undo`.

use super::Context;
use crate::error::Result;
use crate::exit_code::ExitCode;
use crate::restore::{self, Claim, Kept, UndoPlan, UndoReport};
use crate::stack::Stack;
use crate::ui::{self, Tone, Ui};
use crate::upgrade;
use serde::Serialize;

/// Put back what the last restore replaced
///
/// The present data is kept in turn, so that a second undo takes the first one back.
#[derive(Debug, clap::Args)]
pub struct UndoArgs {
    /// Show what would be done and change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Delete what restores and undos keep, instead of putting it back
    #[arg(long, conflicts_with = "terminate_sessions")]
    discard: bool,
    /// End the sessions of others that are connected to the database
    #[arg(long)]
    terminate_sessions: bool,
}

/// What `--discard --json` prints.
#[derive(Serialize)]
struct Discarded<'a> {
    kept: &'a [Kept],
    deleted: bool,
}

/// Plans, asks and puts back, or deletes.
pub(super) async fn run(args: &UndoArgs, context: &Context) -> Result<ExitCode> {
    let stack = context.stack()?;
    if args.discard {
        return discard(args, &stack, context).await;
    }
    let (ui, events) = (&context.ui, context.events());
    if args.dry_run {
        let plan = restore::plan_undo(&stack).await?;
        ui.result(&plan, |_, text| text.push_str(&shown(&plan)))?;
        return Ok(ExitCode::Done);
    }
    upgrade::refuse_unfinished(&stack)?;
    let claim = Claim::take(&stack, "k1ops undo", &events).await?;
    let plan = restore::plan_undo(&stack).await?;
    ui.say(shown(&plan).trim_end());
    ui.confirm(&format!("Replace the data of stack {}?", stack.name))?;
    let terminate = args.terminate_sessions;
    let interrupt = &context.interrupt;
    let report = restore::execute_undo(&stack, &claim, plan, terminate, &events, interrupt).await?;
    ui.result(&report, |ui, text| show_report(ui, &report, text))?;
    Ok(ExitCode::Done)
}

async fn discard(args: &UndoArgs, stack: &Stack, context: &Context) -> Result<ExitCode> {
    let ui = &context.ui;
    let claim = if args.dry_run {
        None
    } else {
        Some(Claim::take(stack, "k1ops undo --discard", &context.events()).await?)
    };
    let kept = restore::kept(stack)?;
    let deleted = claim.is_some() && !kept.is_empty();
    if let Some(claim) = claim.filter(|_| !kept.is_empty()) {
        ui.say(list(&kept).trim_end());
        ui.confirm("Delete it for good?")?;
        restore::discard(stack, &claim, kept.clone()).await?;
    }
    let result = Discarded {
        kept: &kept,
        deleted,
    };
    ui.result(&result, |_, text| {
        if kept.is_empty() {
            text.push_str("nothing is kept\n");
        } else if deleted {
            text.push_str("deleted what was kept; the last restore can no longer be undone\n");
        } else {
            text.push_str(&list(&kept));
        }
    })?;
    Ok(ExitCode::Done)
}

fn list(kept: &[Kept]) -> String {
    let mut text = String::new();
    for kept in kept {
        text.push_str(&format!("kept from before {}:\n", kept.by));
        for place in &kept.places {
            text.push_str(&format!("  {place}\n"));
        }
        if kept.bytes > 0 {
            text.push_str(&format!("  {} in files\n", ui::bytes(kept.bytes)));
        }
    }
    text
}

fn shown(plan: &UndoPlan) -> String {
    let mut text = format!(
        "undo of {}\n  done {}\n",
        plan.undoes,
        ui::time(plan.done_at)
    );
    for part in &plan.parts {
        let back = match &part.comes_back_from {
            Some(kept) => format!("comes back from {kept}"),
            None => "goes away: there was none before".to_owned(),
        };
        text.push_str(&format!("  {} {back}\n", part.what));
        text.push_str(&format!(
            "    the present one is kept: {}\n",
            part.present_goes_to
        ));
    }
    if plan.restarts_server {
        text.push_str("  the server is stopped for the swap and started again\n");
    }
    text
}

fn show_report(ui: &Ui, report: &UndoReport, text: &mut String) {
    let undid = ui.paint(Tone::Good, "undid");
    text.push_str(&format!("{undid} {}\n", report.undid));
    super::after_swap(ui, report.server.as_ref(), report.requeue_pending, text);
    text.push_str("take it back with: k1ops undo\n");
}
