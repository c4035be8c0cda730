//! `k1ops init`.

use super::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::exit_code::ExitCode;
use crate::stack::docker::{self, Change, Plan, PlannedFile};
use crate::ui::{Tone, Ui};
use std::path::PathBuf;

/// Write what tier 1 is made of to .conductor/docker
///
/// The Compose file, the server's image, the K1 tables, the ports and new passwords. Run again, it
/// brings up to date what is as k1ops wrote it. A file that you edited is never overwritten unasked:
/// its difference is shown, and the answer no keeps it.
#[derive(Debug, clap::Args)]
pub struct InitArgs {
    /// Show what would be written, and write nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

/// Writes the files.
pub(super) fn run(args: &InitArgs, context: &Context) -> Result<ExitCode> {
    let stack = context.stack()?.without_docker_database();
    let image = docker::expected_image(&stack);
    let plan = docker::plan(&stack, &image, !args.dry_run)?;
    let mut kept = Vec::new();
    let mut overwrite = Vec::new();
    for file in plan.edited() {
        context.ui.say(&difference(file));
        if args.dry_run {
            continue;
        }
        let question = format!("Overwrite {} with the one above?", file.path.display());
        match context.ui.confirm(&question) {
            Ok(()) => overwrite.push(file.path.clone()),
            Err(error) if error.kind() == ErrorKind::Refused => kept.push(file.path.clone()),
            Err(error) => return Err(error),
        }
    }
    if !args.dry_run {
        plan.apply(&overwrite)?;
    }
    context.ui.result(&plan, |ui, text| {
        show(&plan, args.dry_run, &kept, ui, text);
    })?;
    match kept.first() {
        None => Ok(ExitCode::Done),
        Some(first) => Err(Error::refused(format!(
            "{} was edited and is kept as it is",
            first.display()
        ))
        .hint("Take over by hand what you want of the difference, or add --yes to overwrite it.")),
    }
}

fn difference(file: &PlannedFile) -> String {
    match &file.diff {
        Some(diff) => format!("{} was edited:\n{diff}", file.path.display()),
        None => format!("{} was edited (it holds secrets)", file.path.display()),
    }
}

fn show(plan: &Plan, dry_run: bool, kept: &[PathBuf], ui: &Ui, text: &mut String) {
    for file in &plan.files {
        let word = match (file.change, dry_run) {
            (Change::Same, _) => continue,
            (Change::Edited, _) if kept.contains(&file.path) => "kept",
            (Change::Edited, true) => "would ask about",
            (Change::Create, true) => "would create",
            (Change::Update, true) => "would update",
            (Change::Create, false) => "created",
            (Change::Update | Change::Edited, false) => "updated",
        };
        text.push_str(&format!(
            "{} {}\n",
            ui.paint(Tone::Dim, &format!("{word:<15}")),
            file.path.display()
        ));
    }
    if plan.is_settled() {
        text.push_str(&format!(
            "Everything in {} is up to date.\n",
            plan.folder.display()
        ));
    } else if !dry_run {
        text.push_str("`k1ops start` brings it up.\n");
    }
}
