//! `k1ops list`.

use super::Context;
use crate::error::Result;
use crate::exit_code::ExitCode;
use crate::repository::{CopyPlace, Entry, Located, Purpose, Repository, State, locate};
use crate::ui::{self, Table, Tone, Ui};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// List the archives of the repository and its copies, newest first
///
/// `good` means that the archive is complete and its manifest sound; `k1ops verify` reads the rest.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// List what is in this copy of the repository
    #[arg(long, value_name = "NAME")]
    copy: Option<String>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Listing<'a> {
    repository: &'a Path,
    archives: &'a [Entry],
}

/// What it prints where there are copies.
#[derive(Serialize)]
struct Everywhere<'a> {
    repository: &'a Path,
    archives: &'a [Located],
    copies: Vec<CopyListed>,
}

/// A copy, and whether it could be looked at.
#[derive(Serialize)]
struct CopyListed {
    name: String,
    place: PathBuf,
    error: Option<String>,
}

/// Lists.
pub(super) fn run(args: &ListArgs, context: &Context) -> Result<ExitCode> {
    let repository = Repository::of(&context.stack()?)?;
    let repository = match &args.copy {
        Some(copy) => repository.copy(copy)?,
        None => repository,
    };
    if !repository.copies().is_empty() {
        return list_everywhere(&repository, context);
    }
    let archives = repository.list()?;
    let listing = Listing {
        repository: repository.place(),
        archives: &archives,
    };
    context.ui.result(&listing, |ui, text| {
        let rows = archives.iter().map(|entry| (entry, None)).collect();
        show(ui, repository.place(), rows, text);
    })?;
    Ok(ExitCode::Done)
}

/// A copy that cannot be looked at is warned about: what is in the others is listed all the same.
fn list_everywhere(repository: &Repository, context: &Context) -> Result<ExitCode> {
    let (mut copies, mut found) = (Vec::new(), Vec::new());
    let first = repository.list().map_err(|error| {
        let copies: Vec<&str> = repository.copies().iter().map(CopyPlace::name).collect();
        error.hint(format!(
            "`k1ops list --copy NAME` shows what is in a copy: {}.",
            copies.join(", ")
        ))
    })?;
    for copy in repository.copies() {
        let listed = copy.open().and_then(|there| there.list());
        copies.push(CopyListed {
            name: copy.name().to_owned(),
            place: copy.place(),
            error: listed.as_ref().err().map(ToString::to_string),
        });
        match listed {
            Ok(entries) => found.push((copy.name().to_owned(), entries)),
            Err(error) => {
                let message = format!("the copy {} cannot be listed: {error}", copy.name());
                let hint = error.hint_text().unwrap_or_default();
                context.events().warning_with_hint(message, hint);
            }
        }
    }
    let archives = locate(first, &found);
    let listing = Everywhere {
        repository: repository.place(),
        archives: &archives,
        copies,
    };
    context.ui.result(&listing, |ui, text| {
        let row = |located: &Located| located.places.join(", ");
        let rows = archives.iter().map(|a| (&a.entry, Some(row(a)))).collect();
        show(ui, repository.place(), rows, text);
    })?;
    Ok(ExitCode::Done)
}

/// Archives, and where each is if there is more than one place.
fn show(ui: &Ui, place: &Path, rows: Vec<(&Entry, Option<String>)>, text: &mut String) {
    if rows.is_empty() {
        text.push_str(&format!(
            "no archives in {}; make one with: k1ops backup\n",
            place.display()
        ));
        return;
    }
    let mut heads = vec!["name", "stack", "time", "size", "rows", "holds", "state"];
    heads.extend(rows[0].1.is_some().then_some("where"));
    let mut table = Table::new(&heads).numbers(&[3, 4]);
    for (entry, places) in rows {
        let cells = [
            entry.name.clone(),
            entry.stack.clone().unwrap_or_default(),
            entry.time.map(ui::time).unwrap_or_default(),
            ui::bytes(entry.size),
            entry.rows.map(ui::count).unwrap_or_default(),
            entry.sources.join(", "),
            state(ui, entry),
        ];
        table.row(cells.into_iter().chain(places));
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
