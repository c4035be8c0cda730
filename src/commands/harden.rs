//! `k1ops harden`.

use super::Context;
use crate::error::Result;
use crate::exit_code::ExitCode;
use crate::harden::{self, Plan, Report, RolesChange, UndoPlan};
use crate::stack::docker::Change;
use crate::ui::{self, Tone, Ui};

/// Make a stack of tier 1 fit for production
///
/// PostgreSQL and Redis get certificates of the stack's own authority (or those of docker.tls) and
/// speak nothing but TLS from then on; Conductor and k1ops verify them. Conductor, backups and queries
/// each get a role of PostgreSQL that can do no more than they need. Run again, it makes certificates
/// anew that are within 30 days of their end, and mends the roles. With docker.gateway set, a gateway
/// with a login is put before Conductor's API. The files that it replaces are kept for --undo, and are
/// put back by itself if the stack does not come up. A stack that runs is started anew, after a question.
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct HardenArgs {
    /// Show what would be done and change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Also give PostgreSQL and Redis new passwords
    #[arg(long, conflicts_with = "undo")]
    rotate_passwords: bool,
    /// Put back the files that the last run replaced
    #[arg(long)]
    undo: bool,
    /// Show rules for this host's firewall that shut the stack's network, for `nft -f -`; nothing is applied
    #[arg(long, conflicts_with_all = ["undo", "rotate_passwords", "dry_run"])]
    pub(super) firewall: bool,
    /// Whom containers may connect to outside, such as the gateway's issuer: an address or a block (repeatable)
    #[arg(long, value_name = "ADDRESS", requires = "firewall")]
    allow_out: Vec<String>,
}

/// Plans, shows, asks and does.
pub(super) async fn run(args: &HardenArgs, context: &Context) -> Result<ExitCode> {
    if args.firewall {
        let firewall = harden::firewall(&context.stack()?, &args.allow_out).await?;
        context
            .ui
            .result(&firewall, |_, text| text.push_str(&firewall.rules))?;
        return Ok(ExitCode::Done);
    }
    if !args.dry_run {
        harden::recover(&context.stack()?, &context.events())?;
    }
    if args.undo {
        return undo(args, context).await;
    }
    let (ui, events) = (&context.ui, context.events());
    let plan = harden::plan(&context.loaded, args.rotate_passwords).await?;
    if args.dry_run || plan.is_settled() {
        ui.result(&plan, |ui, text| text.push_str(&shown(&plan, ui)))?;
        return Ok(ExitCode::Done);
    }
    ui.say(shown(&plan, ui).trim_end());
    let restart = if plan.restarts && plan.starts_anew() {
        " It is started anew; what workers do meanwhile, they do again."
    } else {
        ""
    };
    ui.confirm(&format!("Harden stack {}?{restart}", plan.stack))?;
    let report = harden::apply(plan, &events, &context.interrupt).await?;
    ui.result(&report, |ui, text| show(&report, "hardened", ui, text))?;
    Ok(ExitCode::Done)
}

async fn undo(args: &HardenArgs, context: &Context) -> Result<ExitCode> {
    let (ui, events) = (&context.ui, context.events());
    let plan = harden::plan_undo(&context.loaded).await?;
    if args.dry_run {
        ui.result(&plan, |_, text| text.push_str(&shown_undo(&plan)))?;
        return Ok(ExitCode::Done);
    }
    ui.say(shown_undo(&plan).trim_end());
    ui.confirm("Put these files back?")?;
    let report = harden::undo(&context.loaded, plan, &events, &context.interrupt).await?;
    ui.result(&report, |ui, text| show(&report, "taken back", ui, text))?;
    Ok(ExitCode::Done)
}

fn shown(plan: &Plan, ui: &Ui) -> String {
    if plan.is_settled() {
        return format!("Stack {} is hardened already.\n", plan.stack);
    }
    let mut text = format!("hardening of stack {}\n", plan.stack);
    let mut line = |word: &str, what: &str| {
        let word = ui.paint(Tone::Dim, &format!("{word:<8}"));
        text.push_str(&format!("  {word} {what}\n"));
    };
    if plan.puts_gateway() {
        line("make", "a gateway with a login before Conductor");
    }
    for made in &plan.certificates {
        line("make", made);
    }
    if plan.roles == RolesChange::Create {
        line(
            "make",
            "roles of PostgreSQL with few rights: Conductor's, backups', queries'",
        );
    } else if plan.roles == RolesChange::Mend {
        line(
            "mend",
            "the roles of PostgreSQL, which have other rights than they ought to",
        );
    }
    if plan.rotates {
        line("change", "the passwords of PostgreSQL and Redis");
    }
    if let Some(edit) = &plan.config {
        let file = edit.path.display();
        line("set", &format!("docker.profile = \"production\" in {file}"));
    }
    for file in harden::changed(plan) {
        let word = if file.change == Change::Create {
            "create"
        } else {
            "update"
        };
        line(word, &file.path.display().to_string());
    }
    if plan.restarts && plan.starts_anew() {
        line("start", "PostgreSQL, Redis and Conductor anew");
    }
    text
}

fn shown_undo(plan: &UndoPlan) -> String {
    let mut text = format!(
        "undo of the hardening of {} ({})\n",
        ui::time(plan.kept.at),
        plan.kept.what.join(", ")
    );
    for file in &plan.kept.files {
        text.push_str(&format!("  {}\n", file.path.display()));
    }
    if plan.restarts {
        text.push_str("  the stack is started anew\n");
    }
    text
}

fn show(report: &Report, verb: &str, ui: &Ui, text: &mut String) {
    let verb = ui.paint(Tone::Good, verb);
    text.push_str(&format!("{verb}: {}\n", report.what.join(", ")));
    text.push_str(if report.restarted {
        "the stack runs; `k1ops doctor --profile production` tries what it refuses\n"
    } else {
        "the next `k1ops start` brings it up so\n"
    });
}
