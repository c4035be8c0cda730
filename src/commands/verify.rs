//! `k1ops verify`.

use super::Context;
use crate::archive::{Archive, Depth, Verified, verify};
use crate::backup::jobs;
use crate::error::Result;
use crate::exit_code::ExitCode;
use crate::repository::{Entry, LATEST, Repository};
use crate::ui::{self, Tone};
use serde::Serialize;

/// Check that an archive is what was written
///
/// Reads every byte, checksum, frame and row; an archive that differs in one bit is refused with
/// exit code 4.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// A name in the repository, a path, or `latest`
    #[arg(default_value = LATEST)]
    archive: String,
    /// Check the structure only, which reads little
    #[arg(long)]
    quick: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Checked {
    #[serde(flatten)]
    archive: Entry,
    verified: Verified,
}

/// Verifies.
pub(super) async fn run(args: &VerifyArgs, context: &Context) -> Result<ExitCode> {
    let stack = context.stack()?;
    let path = Repository::new(stack.repository()).find(&args.archive, &stack.name)?;
    let archive = Archive::open(&path)?;
    let depth = if args.quick {
        Depth::Quick
    } else {
        Depth::Full
    };
    let jobs = jobs(stack.config.backup.jobs);
    let verified = verify(&archive, depth, jobs, &context.events(), &context.interrupt).await?;
    let checked = Checked {
        archive: Entry::of(&archive),
        verified,
    };
    context.ui.result(&checked, |ui, text| {
        let verified = &checked.verified;
        let what = match verified.depth {
            Depth::Full => "is whole to the last bit",
            Depth::Quick => "has a sound structure",
        };
        text.push_str(&format!(
            "{} {} {what}\n  {} members, {} rows, {} in {} of archive, {}\n",
            ui.paint(Tone::Good, "✓"),
            path.display(),
            ui::count(verified.members),
            ui::count(verified.rows),
            ui::bytes(verified.raw_bytes),
            ui::bytes(verified.stored_bytes),
            ui::duration(verified.took()),
        ));
        if verified.depth == Depth::Quick {
            text.push_str("  without --quick, its content is checked too\n");
        }
    })?;
    Ok(ExitCode::Done)
}
