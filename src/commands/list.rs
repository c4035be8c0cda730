//! `k1ops list`.

use super::Context;
use crate::error::Result;
use crate::exit_code::ExitCode;
use crate::repository::{Entry, Purpose, Repository, State};
use crate::ui::{self, Table, Tone, Ui};
use serde::Serialize;
use std::path::Path;

/// List the archives of the repository, newest first
///
/// `good` means that the archive is complete and its manifest sound; `k1ops verify` reads the rest.
#[derive(Debug, clap::Args)]
pub struct ListArgs {}

/// What `--json` prints.
#[derive(Serialize)]
struct Listing<'a> {
    repository: &'a Path,
    archives: &'a [Entry],
}

/// Lists.
pub(super) fn run(_args: &ListArgs, context: &Context) -> Result<ExitCode> {
    let repository = Repository::of(&context.stack()?)?;
    let archives = repository.list()?;
    let listing = Listing {
        repository: repository.place(),
        archives: &archives,
    };
    context
        .ui
        .result(&listing, |ui, text| show(ui, &listing, text))?;
    Ok(ExitCode::Done)
}

fn show(ui: &Ui, listing: &Listing<'_>, text: &mut String) {
    if listing.archives.is_empty() {
        text.push_str(&format!(
            "no archives in {}; make one with: k1ops backup\n",
            listing.repository.display()
        ));
        return;
    }
    let mut table =
        Table::new(&["name", "stack", "time", "size", "rows", "holds", "state"]).numbers(&[3, 4]);
    for entry in listing.archives {
        table.row([
            entry.name.clone(),
            entry.stack.clone().unwrap_or_default(),
            entry.time.map(ui::time).unwrap_or_default(),
            ui::bytes(entry.size),
            entry.rows.map(ui::count).unwrap_or_default(),
            entry.sources.join(", "),
            state(ui, entry),
        ]);
    }
    text.push_str(&table.render());
}

fn state(ui: &Ui, entry: &Entry) -> String {
    match &entry.state {
        State::Good if entry.purpose == Purpose::Safety => {
            format!("{} (before a restore)", ui.paint(Tone::Good, "good"))
        }
        State::Good => ui.paint(Tone::Good, "good"),
        State::Sealed { recipients } => {
            let word = ui.paint(Tone::Dim, "encrypted");
            match recipients.as_slice() {
                [] => word,
                [one] => format!("{word} for {}", short(one)),
                [one, rest @ ..] => format!("{word} for {} and {} more", short(one), rest.len()),
            }
        }
        State::Incomplete {
            being_written: true,
        } => ui.paint(Tone::Dim, "being written"),
        State::Incomplete { .. } => {
            let state = ui.paint(Tone::Warn, "incomplete");
            format!("{state}: its backup died; the next backup removes it")
        }
        State::Unreadable { reason } => {
            format!("{}: {reason}", ui.paint(Tone::Bad, "unreadable"))
        }
    }
}

/// A public key, as far as people tell them apart.
fn short(recipient: &str) -> String {
    let begin: String = recipient.chars().take(12).collect();
    format!("{begin}…")
}
