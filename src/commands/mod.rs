//! The commands: each parses its arguments, opens what it needs, plans, shows and executes. The
//! work itself lives in the domain. Commands do not import each other.

mod backup;
mod completions;
mod demo;
mod doctor;
mod init;
mod internal;
mod list;
mod logs;
mod query;
mod restore;
mod start;
mod status;
mod stop;
mod undo;
mod verify;

use crate::config::{Loaded, TierChoice};
use crate::error::{Error, Result};
use crate::event::Events;
use crate::exit_code::ExitCode;
use crate::interrupt::Interrupt;
use crate::restore::StartedAgain;
use crate::stack::Stack;
use crate::ui::{Tone, Ui};

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
    Start(start::StartArgs),
    Stop(stop::StopArgs),
    Status(status::StatusArgs),
    Logs(logs::LogsArgs),
    Backup(backup::BackupArgs),
    Restore(restore::RestoreArgs),
    List(list::ListArgs),
    Verify(verify::VerifyArgs),
    Undo(undo::UndoArgs),
    Query(query::QueryArgs),
    Doctor(doctor::DoctorArgs),
    Demo(demo::DemoArgs),
    Completions(completions::CompletionsArgs),
    #[command(name = "__detached", hide = true)]
    Detached(internal::DetachedArgs),
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
            _ => None,
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

    /// Whether the command goes on where the configuration cannot be read.
    #[must_use]
    pub fn bears_bad_config(&self) -> bool {
        matches!(self, Self::Doctor(args) if !args.origins)
    }
}

/// Runs a command.
pub async fn run(command: Command, context: Context) -> Result<ExitCode> {
    match command {
        Command::Init(args) => init::run(&args, &context),
        Command::Start(args) => start::run(&args, &context).await,
        Command::Stop(_) => stop::run(&context).await,
        Command::Status(args) => status::run(&args, &context).await,
        Command::Logs(args) => logs::run(&args, &context).await,
        Command::Backup(args) => backup::run(&args, &context).await,
        Command::Restore(args) => Box::pin(restore::run(&args, &context)).await,
        Command::List(args) => list::run(&args, &context),
        Command::Verify(args) => verify::run(&args, &context).await,
        Command::Undo(args) => undo::run(&args, &context).await,
        Command::Query(args) => query::run(args, &context).await,
        Command::Doctor(args) => doctor::run(args, context).await,
        Command::Demo(args) => demo::run(args, &context).await,
        Command::Completions(args) => completions::run(&args, &context),
        Command::Detached(args) => internal::detached(&args),
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
