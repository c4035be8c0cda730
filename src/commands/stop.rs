//! `k1ops stop`.

use super::Context;
use crate::error::Result;
use crate::exit_code::ExitCode;
use crate::stack::{StopReport, stop};

/// Stop the stack, gracefully, then firmly
///
/// A server that has not ended within `server.stop_timeout` seconds is killed; tier 1's database has
/// two minutes for its checkpoint. No data is deleted, ever. Where nothing runs, says so and exits 0.
#[derive(Debug, clap::Args)]
pub struct StopArgs {}

/// Stops the stack.
pub(super) async fn run(context: &Context) -> Result<ExitCode> {
    let stack = context.stack()?;
    let report = stop(&stack, &context.events()).await?;
    context.ui.result(&report, |_, text| {
        text.push_str(&match &report {
            StopReport::Stopped { pid, seconds, .. } => {
                format!("Stopped the server (PID {pid}) in {seconds:.1} s.\n")
            }
            StopReport::ContainersStopped {
                containers,
                seconds,
            } => format!(
                "Stopped {} in {seconds:.1} s; the volumes keep everything.\n",
                containers.join(", ")
            ),
            StopReport::NotRunning { was_stale: false } => "Nothing runs.\n".to_owned(),
            StopReport::NotRunning { was_stale: true } => {
                "Nothing runs: the server had ended without `k1ops stop`.\n".to_owned()
            }
        });
    })?;
    Ok(ExitCode::Done)
}
