//! `k1ops audit`.

use super::Context;
use crate::audit::{self, Entry};
use crate::error::Result;
use crate::exit_code::ExitCode;
use crate::ui::{self, Table, Tone, Ui};
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;

/// Show who changed the stack or its data, or check that this was not tampered with
#[derive(Debug, clap::Args)]
pub struct AuditArgs {
    #[command(subcommand)]
    asked: Asked,
}

#[derive(Debug, clap::Subcommand)]
enum Asked {
    /// Show the changes, newest last
    Show(ShowArgs),
    /// Check the chain of hashes from the first entry to the last
    ///
    /// A changed, missing or inserted entry exits 4 and names the line. That the end was cut off shows
    /// only against a hash that was kept elsewhere: keep what this prints, and give it to --expect.
    Verify(VerifyArgs),
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// Show the last N changes; 0 for all
    #[arg(long, value_name = "N", default_value_t = 50)]
    last: usize,
}

#[derive(Debug, clap::Args)]
struct VerifyArgs {
    /// Insist that an entry with this hash is in the log
    #[arg(long, value_name = "HASH")]
    expect: Option<String>,
}

/// Does what is asked.
pub(super) fn run(args: &AuditArgs, context: &Context) -> Result<ExitCode> {
    match &args.asked {
        Asked::Show(args) => show(args, context),
        Asked::Verify(args) => verify(args, context),
    }
}

fn verify(args: &VerifyArgs, context: &Context) -> Result<ExitCode> {
    let verified = audit::verify(&context.stack()?, args.expect.as_deref())?;
    context.ui.result(&verified, |ui, text| {
        text.push_str(&format!(
            "{} {} is whole: {} entries, the last has the hash\n{}\n",
            ui.paint(Tone::Good, "✓"),
            verified.log.display(),
            ui::count(verified.entries),
            verified.head
        ));
    })?;
    Ok(ExitCode::Done)
}

fn show(args: &ShowArgs, context: &Context) -> Result<ExitCode> {
    let changes = changes(audit::entries(&context.stack()?)?);
    let surplus = match args.last {
        0 => 0,
        last => changes.len().saturating_sub(last),
    };
    let changes = &changes[surplus..];
    context
        .ui
        .result(&changes, |ui, text| table(ui, changes, text))?;
    Ok(ExitCode::Done)
}

/// One entry a change: the last that tells of it, with the time at which it began.
fn changes(entries: Vec<Entry>) -> Vec<Entry> {
    let mut places: BTreeMap<Uuid, usize> = BTreeMap::new();
    let mut changes: Vec<Entry> = Vec::new();
    for entry in entries {
        if let Some(&place) = places.get(&entry.change) {
            changes[place].outcome = entry.outcome;
        } else {
            places.insert(entry.change, changes.len());
            changes.push(entry);
        }
    }
    changes
}

fn table(ui: &Ui, changes: &[Entry], text: &mut String) {
    if changes.is_empty() {
        text.push_str("nothing was changed yet\n");
        return;
    }
    let mut table = Table::new(&["time", "who", "what", "took", "result"]);
    for change in changes {
        let sudo = change.who.sudo_user.as_deref();
        let who = sudo.map_or_else(
            || change.who.user.clone(),
            |sudo| format!("{sudo} as {}", change.who.user),
        );
        let (took, result) = match &change.outcome {
            None => (String::new(), ui.paint(Tone::Warn, "did not end")),
            Some(outcome) => (
                ui::duration(Duration::from_secs_f64(outcome.seconds)),
                match &outcome.error {
                    None if outcome.exit_code == 0 => ui.paint(Tone::Good, "done"),
                    None => ui.paint(Tone::Warn, &format!("exit {}", outcome.exit_code)),
                    Some(error) => ui.paint(Tone::Bad, &ui::printable(error)),
                },
            ),
        };
        table.row([
            ui::time(change.at),
            who,
            ui::printable(&change.what.join(" ")),
            took,
            result,
        ]);
    }
    text.push_str(&table.render());
}
