//! `k1ops repo`.

use super::Context;
use crate::backup::jobs;
use crate::error::{Error, Result};
use crate::exit_code::ExitCode;
use crate::repository::{Rekey, RekeyPlan, Repository};
use crate::ui::{self, Table, Tone, Ui};

/// Change the repository as a whole
#[derive(Debug, clap::Args)]
pub struct RepoArgs {
    #[command(subcommand)]
    asked: Asked,
}

#[derive(Debug, clap::Subcommand)]
enum Asked {
    /// Encrypt every archive for the recipients of the configuration
    ///
    /// Needs a key that opens what is encrypted for others (--identity). Each archive is read through
    /// and written through; it is replaced in one step, or, if it was not encrypted, removed when its
    /// encrypted copy was read back. Those that are right already are not touched, so that a run that
    /// was ended is gone on with by the next.
    Rekey(RekeyArgs),
}

#[derive(Debug, clap::Args)]
struct RekeyArgs {
    /// Show what would be done and change nothing
    #[arg(long)]
    dry_run: bool,
}

impl RepoArgs {
    /// Whether it changes anything.
    pub(super) fn changes(&self) -> bool {
        let Asked::Rekey(args) = &self.asked;
        !args.dry_run
    }
}

/// Does what is asked.
pub(super) async fn run(args: &RepoArgs, context: &Context) -> Result<ExitCode> {
    let Asked::Rekey(args) = &args.asked;
    rekey(args, context).await
}

async fn rekey(args: &RekeyArgs, context: &Context) -> Result<ExitCode> {
    let (stack, ui) = (context.stack()?, &context.ui);
    let repository = Repository::of(&stack)?;
    if args.dry_run {
        let plan = repository.plan_rekey(&stack.name)?;
        ui.result(&plan, |ui, text| show(ui, &plan, text))?;
        return Ok(ExitCode::Done);
    }
    let purpose = format!("rekey of stack {}", stack.name);
    let access = repository.write_access(&purpose).await?;
    let plan = repository.plan_rekey(&stack.name)?;
    let count = plan.changes().count();
    if count > 0 {
        let mut text = String::new();
        show(ui, &plan, &mut text);
        ui.say(text.trim_end());
        ui.confirm(&format!("Encrypt {count} archives anew?"))?;
    }
    let (events, interrupt) = (context.events(), &context.interrupt);
    let jobs = jobs(stack.config.backup.jobs);
    let work = repository.execute_rekey(&plan, &access, jobs, &events, interrupt);
    Box::pin(work).await?;
    ui.result(&plan, |ui, text| {
        let done = ui.paint(Tone::Good, "encrypted");
        text.push_str(&format!("{done} {count} archives anew\n"));
    })?;
    match plan.left().count() {
        0 => Ok(ExitCode::Done),
        left => Err(Error::missing(format!(
            "{left} archives could not be encrypted anew; the others are"
        ))
        .hint(
            "`k1ops repo rekey --dry-run` says why; name a key that opens them with --identity.",
        )),
    }
}

fn show(ui: &Ui, plan: &RekeyPlan, text: &mut String) {
    let mut table = Table::new(&["name", "size", "what"]).numbers(&[1]);
    for step in &plan.archives {
        let what = match &step.what {
            Rekey::Keep => "keep: it is right already".to_owned(),
            Rekey::Reencrypt => ui.paint(Tone::Warn, "encrypt for others"),
            Rekey::Encrypt => ui.paint(Tone::Warn, "encrypt"),
            Rekey::Leave { reason } => format!("leave: {reason}"),
        };
        table.row([step.name.clone(), ui::bytes(step.size), what]);
    }
    text.push_str(&table.render());
    for recipient in &plan.recipients {
        text.push_str(&format!(
            "readable afterwards by the owner of {recipient}\n"
        ));
    }
}
