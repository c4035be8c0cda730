//! `k1ops status`.

use super::Context;
use crate::adapters::docker::Container;
use crate::adapters::postgres::Session;
use crate::adapters::postgres::standby::position;
use crate::error::{Error, Result};
use crate::exit_code::ExitCode;
use crate::repository::{Kind, Repository};
use crate::restore;
use crate::stack::docker::DockerStatus;
use crate::stack::{LastBackup, RunningServer, ServerStatus, Stack, Status, StoreStatus, status};
use crate::ui::{self, Table, Tone, Ui};
use crate::upgrade;
use crate::wal::note::{self, Incoming};
use serde::Serialize;
use std::time::Duration;

/// How long the server may take to say what it keeps.
const ASKING: Duration = Duration::from_secs(5);

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
        if let Some((is, todo)) = upgrade::unfinished(&stack)? {
            context.events().warning_with_hint(is, todo);
        }
        let shown = Shown {
            wal: incoming(&stack).await?,
            standby: standby(&stack).await?,
            status: &status,
        };
        context.ui.result(&shown, |ui, text| {
            show(&shown, ui, text);
        })?;
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

/// The newest backup of the stack whose manifest is sound: never the safety archive of a restore, which
/// may hold the very damage that was undone, and never one that is dated in the future.
fn last_backup(stack: &Stack) -> Result<Option<LastBackup>> {
    let backups = Repository::of(stack)?.backups_of(&stack.name)?;
    Ok(backups.good.into_iter().find_map(|entry| {
        Some(LastBackup {
            taken_at: entry.time?,
            physical: entry.kind == Some(Kind::Physical),
            path: entry.path,
        })
    }))
}

/// How the write-ahead log comes in, and what the server keeps until it has.
async fn incoming(stack: &Stack) -> Result<Option<Incoming>> {
    let Some(mut incoming) = note::incoming(&stack.log_folder(), &stack.name)? else {
        return Ok(None);
    };
    if let Some(lost) = &incoming.lost {
        let repository = Repository::of(stack)?;
        if repository.has_base_behind(&incoming.system, &lost.until)? {
            incoming.lost = None;
        }
    }
    if let Some(slot) = &incoming.slot
        && stack.uses_database_url()
    {
        let address = stack.database_address()?;
        let asked = tokio::time::timeout(ASKING, note::slot_lag(&address, slot)).await;
        incoming.slot_lag_bytes = asked.ok().and_then(Result::ok).flatten();
    }
    Ok(Some(incoming))
}

/// What `--json` prints.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    status: &'a Status,
    /// The write-ahead log, if it is kept in the repository.
    wal: Option<Incoming>,
    /// The standby that backups read, if there is one.
    standby: Option<Standby>,
}

/// The standby that backups read.
#[derive(Serialize)]
struct Standby {
    server: String,
    /// Bytes of the log that it has not replayed, of those that the primary has.
    behind_bytes: Option<u64>,
    /// Why backups cannot read it now.
    problem: Option<String>,
}

/// How the standby is that backups read.
async fn standby(stack: &Stack) -> Result<Option<Standby>> {
    let Some(address) = stack.standby_address()? else {
        return Ok(None);
    };
    let primary = stack.database_address()?;
    let asking = async {
        let standby = position(&Session::open(&address).await?).await?;
        let primary = position(&Session::open(&primary).await?).await?;
        let behind = standby.behind(&primary);
        Ok::<_, Error>((standby.is_no_standby_of(Some(&primary)), behind))
    };
    let server = address.shown().to_owned();
    let (problem, behind_bytes) = match tokio::time::timeout(ASKING, asking).await {
        Ok(Ok((problem, behind))) => (problem, Some(behind)),
        Ok(Err(error)) => (Some(format!("cannot be asked: {error}")), None),
        Err(_) => (Some("does not answer".to_owned()), None),
    };
    Ok(Some(Standby {
        server,
        behind_bytes,
        problem,
    }))
}

fn shown_standby(standby: &Standby, ui: &Ui) -> String {
    let server = &standby.server;
    match &standby.problem {
        Some(problem) => ui.paint(Tone::Warn, &format!("{server} {problem}")),
        None => format!(
            "{server}, {} behind",
            ui::bytes(standby.behind_bytes.unwrap_or(0))
        ),
    }
}

fn shown_wal(wal: &Incoming, ui: &Ui) -> String {
    let lag = match (&wal.slot, wal.slot_lag_bytes) {
        (Some(slot), Some(bytes)) => format!("; {} wait in slot {slot}", ui::bytes(bytes)),
        _ => String::new(),
    };
    let rpo = wal.rpo_seconds.unwrap_or_default();
    let host = wal.host_rpo_seconds;
    let host = host.map_or_else(String::new, |rpo| format!(", {rpo:.1} s with this host"));
    let would = format!("{rpo:.1} s would be lost with the server now{host}{lag}");
    if let Some(lost) = &wal.lost {
        let segment = &lost.segment;
        let gap = format!("{would}; a gap at {segment}: take a physical backup");
        return ui.paint(Tone::Bad, &gap);
    }
    match (wal.rpo_seconds, wal.streaming) {
        (None, _) => ui.paint(Tone::Warn, &format!("nothing was received yet{lag}")),
        (_, true) => would,
        (_, false) => ui.paint(Tone::Warn, &format!("{would}; nobody receives it")),
    }
}

fn show(shown: &Shown<'_>, ui: &Ui, text: &mut String) {
    let status = shown.status;
    let mut line = |name: &str, value: &str| {
        text.push_str(&format!(
            "{} {value}\n",
            ui.paint(Tone::Dim, &format!("{name:<10}"))
        ));
    };
    line("stack", &status.stack);
    let in_docker = status.docker.as_ref().filter(|docker| docker.is_running());
    match &status.server {
        ServerStatus::Stopped if in_docker.is_some() => {}
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
    if let Some(docker) = in_docker {
        in_containers(docker, ui, &mut line);
    }
    if let Some(problem) = &status.docker_problem {
        line("docker", &ui.paint(Tone::Bad, problem));
    }
    line("store", &store(&status.store));
    if let Some(other) = &status.other_store {
        let other = format!("{}, which is not what runs now", store(other));
        line("also", &ui.paint(Tone::Warn, &other));
    }
    if let Some(backup) = &status.last_backup {
        let taken = ui::time(backup.taken_at);
        let kind = if backup.physical { "physical, " } else { "" };
        line(
            "backup",
            &format!("{taken} ({kind}{})", backup.path.display()),
        );
    } else {
        line(
            "backup",
            &ui.paint(Tone::Warn, "none; make one with: k1ops backup"),
        );
    }
    if let Some(wal) = &shown.wal {
        line("wal", &shown_wal(wal, ui));
    }
    if let Some(standby) = &shown.standby {
        line("standby", &shown_standby(standby, ui));
    }
    if let Some(restore) = &status.unfinished_restore {
        line("restore", &ui.paint(Tone::Bad, restore));
    }
    if in_docker.is_none() {
        line("log", &status.log.display().to_string());
    }
    line("k1ops", status.k1ops_version);
    if let Some(docker) = &status.docker {
        text.push('\n');
        text.push_str(&services(docker, ui).render());
        text.push('\n');
        text.push_str(&volumes(docker).render());
    }
}

fn store(store: &StoreStatus) -> String {
    let size = store
        .size_bytes
        .map_or_else(|| "not there yet".to_owned(), ui::bytes);
    format!("{} ({size})", store.store.place())
}

fn in_containers(docker: &DockerStatus, ui: &Ui, line: &mut impl FnMut(&str, &str)) {
    let health = match &docker.health {
        Some(health) => match health.reason() {
            None if docker.is_healthy() => ui.paint(Tone::Good, "healthy"),
            None => ui.paint(Tone::Warn, "it answers, but a container is not well"),
            Some(reason) => format!("{} {reason}", ui.paint(Tone::Bad, "not healthy:")),
        },
        None => ui.paint(Tone::Bad, "Conductor's container does not run"),
    };
    line("server", &health);
    line("tier", "1 (docker)");
    if let Some(url) = &docker.url {
        line("address", url);
    }
    line("engine", &docker.engine);
    line("project", &docker.project);
}

fn services(docker: &DockerStatus, ui: &Ui) -> Table {
    let headings = [
        "container",
        "state",
        "health",
        "uptime",
        "memory",
        "cpu",
        "ports",
        "image",
    ];
    let mut table = Table::new(&headings).numbers(&[4, 5]);
    for service in &docker.services {
        let container = &service.container;
        let tone = if container.is_healthy() {
            Tone::Good
        } else {
            Tone::Bad
        };
        let uptime = service
            .uptime_seconds
            .map(|s| ui::duration(Duration::from_secs(u64::try_from(s).unwrap_or(0))));
        table.row([
            container.name.clone(),
            state(container),
            ui.paint(tone, health(container)),
            uptime.unwrap_or_else(|| "-".to_owned()),
            service
                .usage
                .map_or_else(|| "-".to_owned(), |usage| ui::bytes(usage.memory)),
            service.usage.map_or_else(
                || "-".to_owned(),
                |usage| format!("{:.1}%", usage.cpu_percent),
            ),
            container.ports.join(" "),
            container.image.clone(),
        ]);
    }
    table
}

/// The engine goes on telling the last health of a container that has ended.
fn health(container: &Container) -> &str {
    match &container.health {
        Some(health) if container.is_running() => health,
        _ => "-",
    }
}

fn state(container: &Container) -> String {
    let mut state = container.state.clone();
    if let Some(code) = container.exit_code {
        state.push_str(&format!(" ({code})"));
    }
    if container.restarts > 0 {
        state.push_str(&format!(", {} restarts", container.restarts));
    }
    state
}

fn volumes(docker: &DockerStatus) -> Table {
    let mut table = Table::new(&["volume", "size"]).numbers(&[1]);
    for volume in &docker.volumes {
        let size = volume.size_bytes.map_or_else(|| "-".to_owned(), ui::bytes);
        table.row([volume.name.clone(), size]);
    }
    table
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
