//! `k1ops verify`.

use super::Context;
use crate::archive::{Archive, Depth, Verified, verify};
use crate::backup::jobs;
use crate::config::ProofKind;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::exit_code::ExitCode;
use crate::repository::{Entry, LATEST, LogCheck, Repository};
use crate::ui::{self, Tone, Ui};
use serde::Serialize;

/// Check that an archive is what was written
///
/// Reads every byte, checksum, frame and row; an archive that differs in one bit is refused with
/// exit code 4. With --quick it reads the manifest and the members' headers: that finds an archive
/// that is cut off, has something missing, or was put together wrongly, and does not find a wrong
/// byte inside a member. Without a name, or with that of a
/// physical backup, the write-ahead log is checked as well: from the oldest physical backup to now no
/// segment may be missing or damaged.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// A name in the repository, a path, or `latest`
    #[arg(default_value = LATEST)]
    archive: String,
    /// Check the one in this copy of the repository
    #[arg(long, value_name = "NAME")]
    from_copy: Option<String>,
    /// Check names, sizes, layout and manifest only, which reads little and proves little
    #[arg(long)]
    quick: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Checked {
    #[serde(flatten)]
    archive: Entry,
    verified: Verified,
    /// Of a quick check: what it says nothing about.
    #[serde(skip_serializing_if = "Option::is_none")]
    unproven: Option<&'static str>,
    /// The write-ahead log from the oldest physical backup on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    wal: Vec<LogCheck>,
}

/// A quick check does not open members, so it must not sound as if it had.
const UNPROVEN: &str = "content: checksums, compressed frames and rows were not read";

/// Verifies.
pub(super) async fn run(args: &VerifyArgs, context: &Context) -> Result<ExitCode> {
    let stack = context.stack()?;
    let repository = Repository::of(&stack)?;
    let path = match &args.from_copy {
        Some(copy) => repository.find_in_copy(copy, &args.archive, &stack.name, None)?,
        None => repository.find(&args.archive, &stack.name)?,
    };
    if args.archive == LATEST {
        repository.warn_of_ahead(&stack.name, &context.events());
    }
    let archive = repository.open(&path)?;
    let depth = if args.quick {
        Depth::Quick
    } else {
        Depth::Full
    };
    let jobs = jobs(stack.config.backup.jobs);
    let events = context.events();
    let verified = verify(&archive, depth, jobs, &events, &context.interrupt).await;
    // Others may be allowed to read a repository that they may not write to.
    if let Err(error) = note(&repository, &archive, depth, verified.as_ref()) {
        events.warning(format!("what was found out is not kept: {error}"));
    }
    let verified = verified?;
    let is_base = archive.manifest().physical().next().is_some();
    // The log is not copied.
    let wal = if args.from_copy.is_none() && (args.archive == LATEST || is_base) {
        let (name, interrupt) = (stack.name.clone(), context.interrupt.clone());
        let checking = tokio::task::spawn_blocking(move || {
            repository.check_log(&name, depth == Depth::Full, &interrupt)
        });
        checking
            .await
            .context(|| "the thread that reads the write-ahead log died")??
    } else {
        Vec::new()
    };
    let whole = wal.iter().all(LogCheck::is_whole);
    let checked = Checked {
        archive: Entry::of(&archive),
        unproven: (verified.depth == Depth::Quick).then_some(UNPROVEN),
        verified,
        wal,
    };
    context.ui.result(&checked, |ui, text| {
        let verified = &checked.verified;
        let (what, rows) = match verified.depth {
            Depth::Full => ("is whole to the last bit", "rows"),
            Depth::Pieces | Depth::Quick => ("has a sound structure", "rows by its manifest"),
        };
        text.push_str(&format!(
            "{} {} {what}\n  {} members, {} {rows}, {} in {} of archive, {}\n",
            ui.paint(Tone::Good, "✓"),
            path.display(),
            ui::count(verified.members),
            ui::count(verified.rows),
            ui::bytes(verified.raw_bytes),
            ui::bytes(verified.stored_bytes),
            ui::duration(verified.took()),
        ));
        if let Some(unproven) = checked.unproven {
            text.push_str(&format!(
                "  not checked: its {unproven}; without --quick they are\n"
            ));
        }
        for log in &checked.wal {
            show_log(ui, log, text);
        }
    })?;
    Ok(if whole {
        ExitCode::Done
    } else {
        ErrorKind::BadData.into()
    })
}

fn show_log(ui: &Ui, log: &LogCheck, text: &mut String) {
    let sign = if log.is_whole() {
        ui.paint(Tone::Good, "✓")
    } else {
        ui.paint(Tone::Bad, "✗")
    };
    let what = match (log.is_whole(), log.read) {
        (true, true) => "is whole to the last record",
        (true, false) => "has no gap",
        (false, _) => "is not whole",
    };
    text.push_str(&format!(
        "{sign} the write-ahead log of timeline {} since {} {what}\n  {} segments\n",
        log.timeline,
        log.since,
        ui::count(log.segments),
    ));
    for gap in &log.gaps {
        text.push_str(&format!("  gap: {gap}\n"));
    }
    for damaged in &log.damaged {
        text.push_str(&format!("  {damaged}\n"));
    }
    if !log.is_whole() {
        text.push_str("  no moment behind it can be restored from a backup before it; take one now: k1ops backup --physical\n");
    }
}

/// Keeps what was found out, which `k1ops prune` asks for.
fn note(
    repository: &Repository,
    archive: &Archive,
    depth: Depth,
    verified: Result<&Verified, &Error>,
) -> Result<()> {
    match verified {
        Ok(_) if depth == Depth::Full => repository.note_proof(archive, ProofKind::Verify),
        Err(error) if error.kind() == ErrorKind::BadData => {
            repository.note_failure(archive, &error.to_string())
        }
        _ => Ok(()),
    }
}
