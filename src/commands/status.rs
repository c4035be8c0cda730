//! `k1ops status`.

use super::Context;
use crate::error::Result;
use crate::exit_code::ExitCode;
use crate::repository::{Entry, Repository};
use crate::restore;
use crate::stack::{LastBackup, RunningServer, ServerStatus, Stack, Status, status};
use crate::ui::{self, Tone, Ui};
use std::time::Duration;

/// How often `--watch` looks.
const WATCH: Duration = Duration::from_secs(2);

/// Show what runs, whether it is well, and where the data is
///
/// Exits 0 if the server is healthy, and 1 if it is not or nothing runs.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Look again every 2 seconds until interrupted
    #[arg(long)]
    watch: bool,
}

/// Shows the status.
pub(super) async fn run(args: &StatusArgs, context: &Context) -> Result<ExitCode> {
    let stack = context.stack()?;
    loop {
        let mut status = status(&stack).await?;
        status.last_backup = last_backup(&stack)?;
        if let Some(unfinished) = restore::unfinished(&stack)? {
            let (is, todo) = unfinished.explain();
            status.unfinished_restore = Some(format!("{is} {todo}"));
            context.events().warning_with_hint(is, todo);
        }
        context
            .ui
            .result(&status, |ui, text| show(&status, ui, text))?;
        let code = if status.is_healthy() {
            ExitCode::Done
        } else {
            ExitCode::Failed
        };
        if !args.watch {
            return Ok(code);
        }
        tokio::select! {
            () = context.interrupt.raised() => return Ok(code),
            () = tokio::time::sleep(WATCH) => {}
        }
        context.ui.out("\n")?;
    }
}

/// The newest archive of the stack whose manifest is sound.
fn last_backup(stack: &Stack) -> Result<Option<LastBackup>> {
    let archives = Repository::new(stack.repository()).list()?;
    let of_stack =
        |entry: &Entry| entry.state.is_good() && entry.stack.as_ref() == Some(&stack.name);
    Ok(archives.into_iter().filter(of_stack).find_map(|entry| {
        let (path, taken_at) = (entry.path, entry.time?);
        Some(LastBackup { path, taken_at })
    }))
}

fn show(status: &Status, ui: &Ui, text: &mut String) {
    let mut line = |name: &str, value: &str| {
        text.push_str(&format!(
            "{} {value}\n",
            ui.paint(Tone::Dim, &format!("{name:<10}"))
        ));
    };
    line("stack", &status.stack);
    match &status.server {
        ServerStatus::Stopped => line("server", "not running"),
        ServerStatus::Stale { pid, started_at } => line(
            "server",
            &ui.paint(
                Tone::Bad,
                &format!(
                    "not running: it was started at {} (PID {pid}) and ended without `k1ops stop`",
                    ui::time(*started_at)
                ),
            ),
        ),
        ServerStatus::Running(server) => running(server, ui, &mut line),
    }
    let size = status
        .store
        .size_bytes
        .map_or_else(|| "not there yet".to_owned(), ui::bytes);
    line("store", &format!("{} ({size})", status.store.store.place()));
    if let Some(backup) = &status.last_backup {
        let taken = ui::time(backup.taken_at);
        line("backup", &format!("{taken} ({})", backup.path.display()));
    } else {
        line(
            "backup",
            &ui.paint(Tone::Warn, "none; make one with: k1ops backup"),
        );
    }
    if let Some(restore) = &status.unfinished_restore {
        line("restore", &ui.paint(Tone::Bad, restore));
    }
    line("log", &status.log.display().to_string());
    line("k1ops", status.k1ops_version);
}

fn running(server: &RunningServer, ui: &Ui, line: &mut impl FnMut(&str, &str)) {
    let health = match server.health.reason() {
        None => ui.paint(Tone::Good, "healthy"),
        Some(reason) => format!("{} {reason}", ui.paint(Tone::Bad, "not healthy:")),
    };
    line("server", &health);
    line(
        "tier",
        &format!("{} ({})", server.tier.number(), server.tier.name()),
    );
    line("address", &server.url);
    let uptime = Duration::from_secs(u64::try_from(server.uptime_seconds).unwrap_or(0));
    line("uptime", &ui::duration(uptime));
    line("PID", &server.pid.to_string());
    if let Some(memory) = server.memory_bytes {
        line("memory", &ui::bytes(memory));
    }
    line(
        "Conductor",
        &format!("{} ({})", server.conductor_version, server.mode.describe()),
    );
    line(
        "Java",
        &format!("{} ({})", server.java_version, server.java.display()),
    );
}
