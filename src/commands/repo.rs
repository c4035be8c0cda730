//! `k1ops repo`.

use super::Context;
use crate::backup::jobs;
use crate::error::{Error, Result};
use crate::exit_code::ExitCode;
use crate::repository::{CopyStatus, Rekey, RekeyPlan, Repository};
use crate::ui::{self, Table, Tone, Ui};
use serde::Serialize;
use std::path::Path;

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
    /// Write what the copies of the repository lack
    ///
    /// Each of `[[repository.copies]]` gets every good backup of the stack that it does not have, the
    /// newest first, as `k1ops backup` does it by itself. Run again, it goes on where it was. Exits 7 if a
    /// copy is still behind.
    Copy(CopyArgs),
}

#[derive(Debug, clap::Args)]
struct CopyArgs {
    /// Show what would be copied and copy nothing
    #[arg(long)]
    dry_run: bool,
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
        match &self.asked {
            Asked::Rekey(args) => !args.dry_run,
            Asked::Copy(args) => !args.dry_run,
        }
    }
}

/// Does what is asked.
pub(super) async fn run(args: &RepoArgs, context: &Context) -> Result<ExitCode> {
    match &args.asked {
        Asked::Rekey(args) => rekey(args, context).await,
        Asked::Copy(args) => copy(args, context).await,
    }
}

/// What `copy --json` prints.
#[derive(Serialize)]
struct Copies<'a, T> {
    repository: &'a Path,
    copies: &'a [T],
}

async fn copy(args: &CopyArgs, context: &Context) -> Result<ExitCode> {
    let (stack, ui) = (context.stack()?, &context.ui);
    let repository = Repository::of(&stack)?;
    if repository.copies().is_empty() {
        return Err(Error::usage("no copy of the repository is configured")
            .hint("Name places for copies in [[repository.copies]] of k1ops.toml."));
    }
    let place = repository.place();
    if args.dry_run {
        let copies = repository.copy_status(&stack.name)?;
        let would = Copies {
            repository: place,
            copies: &copies,
        };
        ui.result(&would, |ui, text| show_status(ui, &copies, text))?;
        return Ok(if copies.iter().any(|copy| copy.error.is_some()) {
            ExitCode::Behind
        } else {
            ExitCode::Done
        });
    }
    let (events, interrupt) = (context.events(), &context.interrupt);
    let work = repository.bring_copies_up(&stack.name, &events, interrupt);
    let copies = Box::pin(work).await;
    let done = Copies {
        repository: place,
        copies: &copies,
    };
    ui.result(&done, |ui, text| super::show_copies(ui, &copies, text))?;
    Ok(super::code_of_copies(&copies))
}

fn show_status(ui: &Ui, copies: &[CopyStatus], text: &mut String) {
    for copy in copies {
        text.push_str(&format!(
            "copy {} in {}: {} archives are there\n",
            copy.name,
            copy.place.display(),
            copy.held.len()
        ));
        if let Some(error) = &copy.error {
            let cannot = ui.paint(Tone::Bad, "cannot be looked at");
            text.push_str(&format!("  {cannot}: {error}\n"));
        }
        for step in &copy.missing {
            let (name, size) = (&step.name, ui::bytes(step.size));
            let why = if step.replaces {
                ", in place of a damaged one"
            } else {
                ""
            };
            text.push_str(&format!("  would copy {name} ({size}){why}\n"));
        }
        for name in &copy.differing {
            let other = ui.paint(Tone::Bad, "is not the same there");
            text.push_str(&format!("  {name} {other}, and is left alone\n"));
        }
    }
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
    if count > 0 || !plan.log.is_empty() {
        let mut text = String::new();
        show(ui, &plan, &mut text);
        ui.say(text.trim_end());
        let log = plan.log.len();
        let what = counted(count, log as u64);
        ui.confirm(&format!("Encrypt {what} anew?"))?;
    }
    let (events, interrupt) = (context.events(), &context.interrupt);
    let jobs = jobs(stack.config.backup.jobs);
    let work = repository.execute_rekey(&plan, &access, jobs, &events, interrupt);
    let log_left = Box::pin(work).await?;
    ui.result(&plan, |ui, text| {
        let done = ui.paint(Tone::Good, "encrypted");
        text.push_str(&format!("{done} {count} archives anew\n"));
        if !plan.log.is_empty() {
            let files = plan.log.len() as u64 - log_left;
            text.push_str(&format!(
                "{done} {files} files of the write-ahead log anew\n"
            ));
        }
    })?;
    match (plan.left().count(), log_left) {
        (0, 0) => Ok(ExitCode::Done),
        (left, log_left) => Err(Error::missing(format!(
            "{} could not be encrypted anew; the others are",
            counted(left, log_left)
        ))
        .hint(
            "`k1ops repo rekey --dry-run` says why; name a key that opens them with --identity.",
        )),
    }
}

fn counted(archives: usize, log: u64) -> String {
    match log {
        0 => format!("{archives} archives"),
        log => format!("{archives} archives and {log} files of the write-ahead log"),
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
    if !plan.log.is_empty() {
        let log = plan.log.len();
        text.push_str(&format!(
            "{log} files of the write-ahead log are encrypted anew\n"
        ));
    }
    for recipient in &plan.recipients {
        text.push_str(&format!(
            "readable afterwards by the owner of {recipient}\n"
        ));
    }
}
