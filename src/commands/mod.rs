//! The commands: each parses its arguments, opens what it needs, plans, shows and executes. The
//! work itself lives in the domain. Commands do not import each other.

mod agent;
mod audit;
mod backup;
mod completions;
mod demo;
mod doctor;
mod drill;
mod harden;
mod init;
mod internal;
mod list;
mod logs;
mod man;
mod metrics;
mod notify;
mod prune;
mod query;
mod repo;
mod restore;
mod schedule;
mod start;
mod status;
mod stop;
mod undo;
mod upgrade;
mod validate;
mod verify;
mod wal;
mod worker;
mod workflow;

use crate::adapters::docker::{Elsewhere, use_context};
use crate::audit::Change;
use crate::config::{Loaded, TierChoice, redact_url};
use crate::error::{Context as _, Error, Result};
use crate::event::Events;
use crate::exit_code::ExitCode;
use crate::interrupt::Interrupt;
use crate::repository::CopyReport;
use crate::restore::StartedAgain;
use crate::stack::Stack;
use crate::ui::{self, Tone, Ui};
use serde_json::{Map, Value};
use std::path::Path;

/// What every command is given.
#[derive(Debug)]
pub struct Context {
    /// Where to print.
    pub ui: Ui,
    /// The resolved configuration.
    pub loaded: Loaded,
    /// Why the configuration could not be read, for the one command that goes on all the same.
    pub unreadable: Option<Error>,
    /// Whether the user asked to stop.
    pub interrupt: Interrupt,
}

impl Context {
    /// The stack that the configuration describes.
    pub fn stack(&self) -> Result<Stack> {
        Stack::open(&self.loaded)
    }

    /// Events that the terminal shows.
    #[must_use]
    pub fn events(&self) -> Events {
        self.ui.events()
    }
}

/// The commands, in the order of `--help`.
#[derive(Debug, clap::Subcommand)]
#[allow(missing_docs, reason = "the doc of a command's Args is its help text")]
pub enum Command {
    Init(init::InitArgs),
    Harden(harden::HardenArgs),
    Upgrade(upgrade::UpgradeArgs),
    Start(start::StartArgs),
    Stop(stop::StopArgs),
    Status(status::StatusArgs),
    Logs(logs::LogsArgs),
    Backup(backup::BackupArgs),
    Restore(restore::RestoreArgs),
    List(list::ListArgs),
    Verify(verify::VerifyArgs),
    Prune(prune::PruneArgs),
    Wal(wal::WalArgs),
    Repo(repo::RepoArgs),
    Drill(drill::DrillArgs),
    Undo(undo::UndoArgs),
    Schedule(schedule::ScheduleArgs),
    Notify(notify::NotifyArgs),
    Audit(audit::AuditArgs),
    Metrics(metrics::MetricsArgs),
    Query(query::QueryArgs),
    Doctor(doctor::DoctorArgs),
    Agent(agent::AgentArgs),
    Worker(worker::WorkerArgs),
    Validate(validate::ValidateArgs),
    Workflow(workflow::WorkflowArgs),
    Demo(demo::DemoArgs),
    Completions(completions::CompletionsArgs),
    #[command(name = "__detached", hide = true)]
    Detached(internal::DetachedArgs),
    /// Run programs and end them with everything they started
    #[command(name = "__supervisor", hide = true)]
    Supervisor,
    #[command(name = "__limited", hide = true)]
    Limited(internal::LimitedArgs),
    #[command(name = "__man", hide = true)]
    Man(man::ManArgs),
    #[command(name = "__prepare-fast-start", hide = true)]
    PrepareFastStart(internal::PrepareArgs),
}

impl Command {
    /// The tier that a command's `--tier` asks for.
    #[must_use]
    pub fn tier(&self) -> Option<TierChoice> {
        match self {
            Self::Start(args) => args.tier,
            Self::Demo(args) => args.tier,
            Self::Workflow(args) => args.tier(),
            _ => None,
        }
    }

    /// Whether it changes the stack or its data, so that the audit log is to tell of it.
    fn changes(&self) -> bool {
        match self {
            Self::Init(args) => !args.dry_run,
            Self::Harden(args) => !args.dry_run && !args.firewall,
            Self::Upgrade(args) => !args.dry_run,
            Self::Start(_) | Self::Stop(_) => true,
            Self::Backup(args) => !args.dry_run,
            Self::Restore(args) => !args.dry_run,
            Self::Prune(args) => !args.dry_run,
            Self::Wal(args) => args.changes(),
            Self::Repo(args) => args.changes(),
            Self::Undo(args) => !args.dry_run,
            Self::Schedule(args) => args.changes(),
            Self::Doctor(args) => args.changes(),
            _ => false,
        }
    }

    /// Takes `--config` without a file as the question where each value came from; whether the
    /// command can answer it.
    pub fn asks_for_origins(&mut self) -> bool {
        let Self::Doctor(args) = self else {
            return false;
        };
        args.origins = true;
        true
    }

    /// Whether the command can do with a Docker engine on another host, whose files, ports, networks and
    /// processes are not this host's.
    fn works_elsewhere(&self) -> bool {
        match self {
            Self::Doctor(args) => !args.changes(),
            Self::Harden(args) => !args.firewall,
            _ => true,
        }
    }

    /// Whether the command goes on where the configuration cannot be read.
    #[must_use]
    pub fn bears_bad_config(&self) -> bool {
        matches!(self, Self::Doctor(args) if !args.origins)
    }
}

/// Runs a command, and has the audit log tell of it if it changes anything.
pub async fn run(command: Command, context: Context) -> Result<ExitCode> {
    let named = &context.loaded.config.docker.context;
    if !named.is_empty() {
        use_context(named);
    }
    let _elsewhere = command.works_elsewhere().then(Elsewhere::allow);
    if !command.changes() {
        return Box::pin(dispatch(command, context)).await;
    }
    // Where there is no stack to speak of, the command says why.
    let Ok(stack) = context.stack() else {
        return Box::pin(dispatch(command, context)).await;
    };
    let events = context.events();
    let unnoted = |error: Error| {
        let hint = error.hint_text().unwrap_or("See to it soon.").to_owned();
        events.warning_with_hint(
            format!("the audit log does not tell of this: {error}"),
            hint,
        );
    };
    let change = Change::begin(&stack, words()).map_err(&unnoted).ok();
    let result = Box::pin(dispatch(command, context)).await;
    let code = match &result {
        Ok(code) => *code,
        Err(error) => error.kind().into(),
    };
    if let Some(change) = change {
        let noted = change.end(&stack, code.number(), result.as_ref().err());
        noted.unwrap_or_else(unnoted);
    }
    result
}

/// The command line without the program. Secrets do not belong there, and one in a URL is hidden.
fn words() -> Vec<String> {
    let words = std::env::args_os().skip(1);
    words
        .map(|word| word.to_string_lossy().into_owned())
        .map(|word| {
            if word.contains("://") {
                redact_url(&word)
            } else {
                word
            }
        })
        .collect()
}

async fn dispatch(command: Command, context: Context) -> Result<ExitCode> {
    match command {
        Command::Init(args) => init::run(&args, &context),
        Command::Harden(args) => Box::pin(harden::run(&args, &context)).await,
        Command::Upgrade(args) => Box::pin(upgrade::run(&args, &context)).await,
        Command::Start(args) => start::run(&args, &context).await,
        Command::Stop(_) => stop::run(&context).await,
        Command::Status(args) => status::run(&args, &context).await,
        Command::Logs(args) => logs::run(&args, &context).await,
        Command::Backup(args) => Box::pin(backup::run(&args, &context)).await,
        Command::Restore(args) => Box::pin(restore::run(&args, &context)).await,
        Command::List(args) => list::run(&args, &context),
        Command::Verify(args) => verify::run(&args, &context).await,
        Command::Prune(args) => prune::run(&args, &context).await,
        Command::Wal(args) => Box::pin(wal::run(&args, &context)).await,
        Command::Repo(args) => repo::run(&args, &context).await,
        Command::Drill(args) => Box::pin(drill::run(&args, &context)).await,
        Command::Undo(args) => undo::run(&args, &context).await,
        Command::Schedule(args) => Box::pin(schedule::run(&args, &context)).await,
        Command::Notify(args) => notify::run(&args, &context).await,
        Command::Audit(args) => audit::run(&args, &context),
        Command::Metrics(args) => Box::pin(metrics::run(&args, &context)).await,
        Command::Query(args) => query::run(args, &context).await,
        Command::Doctor(args) => doctor::run(args, context).await,
        Command::Agent(args) => agent::run(args, &context).await,
        Command::Workflow(args) => Box::pin(workflow::run(args, &context)).await,
        Command::Validate(args) => Box::pin(validate::run(args, &context)).await,
        Command::Worker(args) => worker::run(args, &context).await,
        Command::Demo(args) => demo::run(args, &context).await,
        Command::Completions(args) => completions::run(&args, &context),
        Command::Detached(args) => internal::detached(&args),
        Command::Supervisor => internal::supervisor(),
        Command::Man(args) => man::run(&args),
        Command::Limited(args) => internal::limited(&args),
        Command::PrepareFastStart(args) => internal::prepare(args, &context).await,
    }
}

/// What restore and undo both say of the server after the swap.
fn after_swap(ui: &Ui, server: Option<&StartedAgain>, requeue_pending: bool, text: &mut String) {
    if let Some(server) = server {
        let running = ui.paint(Tone::Good, "healthy");
        text.push_str(&format!("  the server is {running} at {}\n", server.url));
        if let Some(counts) = &server.requeued {
            text.push_str(&format!(
                "  {} workflows run, {} of them were stranded and put back to work\n",
                counts.running, counts.requeued
            ));
        }
    } else if requeue_pending {
        text.push_str("  start it with: k1ops start (it puts stranded workflows back to work)\n");
    }
}

/// Tells monitoring systems how the stack is after what a command did. It does not fail by that.
async fn tell_monitoring(stack: &Stack, context: &Context) {
    if let Err(error) = Box::pin(crate::metrics::tell(stack)).await {
        let message = format!("the monitoring system is not told: {error}");
        context.events().warning(message);
    }
}

/// What backup and repo copy both say of the copies.
fn show_copies(ui: &Ui, copies: &[CopyReport], text: &mut String) {
    for copy in copies {
        let (name, place) = (&copy.name, copy.place.display());
        let bytes = ui::bytes(copy.bytes());
        let written = match copy.copied.len() {
            0 => String::new(),
            1 => format!(", 1 archive copied ({bytes})"),
            several => format!(", {several} archives copied ({bytes})"),
        };
        let state = if copy.is_behind() {
            ui.paint(Tone::Warn, "is behind")
        } else {
            ui.paint(Tone::Good, "is up to date")
        };
        text.push_str(&format!("  copy {name} in {place} {state}{written}\n"));
    }
}

/// What a command that copied ends with.
fn code_of_copies(copies: &[CopyReport]) -> ExitCode {
    if copies.iter().any(CopyReport::is_behind) {
        ExitCode::Behind
    } else {
        ExitCode::Done
    }
}

/// What `--input` names: a JSON object for a task or a workflow.
fn read_input(path: &Path) -> Result<Map<String, Value>> {
    let text =
        std::fs::read(path).context(|| format!("input {} cannot be read", path.display()))?;
    serde_json::from_slice(&text).map_err(|error| {
        Error::usage(format!("input {} is not a JSON object", path.display()))
            .hint("It begins with { and ends with }.")
            .because(error)
    })
}
