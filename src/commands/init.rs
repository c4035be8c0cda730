//! `k1ops init`.

use super::Context;
use crate::config::Profile;
use crate::error::{Error, ErrorKind, Result};
use crate::exit_code::ExitCode;
use crate::harden::{self, ConfigEdit};
use crate::stack::Stack;
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
    /// Make a new stack fit for production; `k1ops harden` does so with one that is there
    #[arg(long, value_name = "PROFILE")]
    profile: Option<Profile>,
}

/// Writes the files.
pub(super) fn run(args: &InitArgs, context: &Context) -> Result<ExitCode> {
    let mut stack = context.stack()?.without_docker_database();
    let edit = match args.profile {
        Some(profile) => new_profile(profile, &stack, context)?,
        None => None,
    };
    if let Some(profile) = args.profile {
        stack.config.docker.profile = profile;
    }
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
        if let Some(edit) = &edit {
            edit.write()?;
        }
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

/// The configuration file with this profile. A stack that is there already is started anew for it,
/// which is not for `init` to do.
fn new_profile(profile: Profile, stack: &Stack, context: &Context) -> Result<Option<ConfigEdit>> {
    let settings = docker::Deployment::of(stack)?.settings;
    let is_there = stack.docker_folder().join(".env").exists();
    if is_there && settings.is_production() != (profile == Profile::Production) {
        return Err(Error::refused(format!(
            "stack {} is there already, in another profile",
            stack.name
        ))
        .hint(
            "`k1ops harden` makes it fit for production; `k1ops harden --undo` takes that back.",
        ));
    }
    harden::with_profile(&context.loaded, profile)
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
