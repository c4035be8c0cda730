//! The commands: each parses its arguments, opens what it needs, plans, shows and executes. The
//! work itself lives in the domain. Commands do not import each other.

mod completions;
mod internal;
mod logs;
mod start;
mod status;
mod stop;

use crate::config::{Loaded, TierChoice};
use crate::error::Result;
use crate::event::Events;
use crate::exit_code::ExitCode;
use crate::interrupt::Interrupt;
use crate::stack::Stack;
use crate::ui::Ui;

/// What every command is given.
#[derive(Debug)]
pub struct Context {
    /// Where to print.
    pub ui: Ui,
    /// The resolved configuration.
    pub loaded: Loaded,
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
    Start(start::StartArgs),
    Stop(stop::StopArgs),
    Status(status::StatusArgs),
    Logs(logs::LogsArgs),
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
            _ => None,
        }
    }
}

/// Runs a command.
pub async fn run(command: Command, context: Context) -> Result<ExitCode> {
    match command {
        Command::Start(args) => start::run(&args, &context).await,
        Command::Stop(_) => stop::run(&context).await,
        Command::Status(args) => status::run(&args, &context).await,
        Command::Logs(args) => logs::run(&args, &context).await,
        Command::Detached(args) => internal::detached(&args),
        Command::PrepareFastStart(args) => internal::prepare(args, &context).await,
        Command::Completions(args) => completions::run(&args, &context),
    }
}
