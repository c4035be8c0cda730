//! The command line: global flags, the list of commands, and `run`.

use crate::commands::{self, Command, Context};
use crate::config::{self, Overrides};
use crate::error::{Context as _, Error, Result};
use crate::exit_code::ExitCode;
use crate::interrupt::Interrupt;
use crate::ui::{ColorChoice, Ui, Verbosity};
use clap::Parser;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Start, back up, prove and restore a K1 Conductor stack
#[derive(Debug, Parser)]
#[command(
    name = "k1ops",
    version,
    propagate_version = true,
    disable_help_subcommand = true
)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed or only tier 3 is left, 2 wrong usage or \
    configuration, 3 something needed is missing or in use, 4 the data is not what it should be, \
    5 another run holds the lock, 6 refused for safety, 7 done but a copy is behind, 130 interrupted."
)]
pub struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

/// Flags that every command has.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
struct GlobalArgs {
    /// Use this configuration file instead of the nearest k1ops.toml
    #[arg(long, global = true, value_name = "FILE", num_args = 0..=1)]
    // Without a file it is a question that only `k1ops doctor` answers.
    #[allow(
        clippy::option_option,
        reason = "clap tells a flag without a value this way"
    )]
    config: Option<Option<PathBuf>>,
    /// Act on this stack
    #[arg(long, global = true, value_name = "NAME")]
    stack: Option<String>,
    /// Open encrypted archives with the private keys in this file
    #[arg(long, global = true, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Print one JSON object on standard output
    #[arg(long, global = true)]
    json: bool,
    /// Say more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Say only results and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Colour the output
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: ColorChoice,
    /// Answer yes to every question
    #[arg(short, long, global = true)]
    yes: bool,
}

/// Runs k1ops with `args` (the program's name first) and says what to exit with.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return Ui::usage(&error),
    };
    let verbosity = match (cli.global.quiet, cli.global.verbose) {
        (true, _) => Verbosity::Quiet,
        (_, 0) => Verbosity::Normal,
        (_, 1) => Verbosity::Verbose,
        _ => Verbosity::Debug,
    };
    let ui = Ui::new(cli.global.json, verbosity, cli.global.color, cli.global.yes);
    ui.start_logging();
    match execute(cli, &ui) {
        Ok(code) => code,
        Err(error) => ui.error(&error),
    }
}

fn execute(mut cli: Cli, ui: &Ui) -> Result<ExitCode> {
    if cli.global.config == Some(None) && !cli.command.asks_for_origins() {
        return Err(Error::usage("--config needs a file")
            .hint("Name one; `k1ops doctor --config` says where each value came from."));
    }
    let folder = std::env::current_dir().context(|| "the current folder cannot be read")?;
    let overrides = Overrides {
        file: cli.global.config.flatten(),
        stack: cli.global.stack,
        tier: cli.command.tier(),
        identity: cli.global.identity,
    };
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let (loaded, unreadable) = match config::load(&overrides, &environment, &folder) {
        Ok(loaded) => (loaded, None),
        // A doctor looks at what is broken.
        Err(error) if cli.command.bears_bad_config() => {
            let defaults = config::Loaded::defaults(&overrides, &environment, &folder)?;
            (defaults, Some(error))
        }
        Err(error) => return Err(error),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context(|| "the asynchronous runtime cannot be started")?;
    let interrupt = Interrupt::default();
    let context = Context {
        ui: ui.clone(),
        loaded,
        unreadable,
        interrupt: interrupt.clone(),
    };
    let result = runtime.block_on(async {
        // Listened to before the command's first step, and by a task of their own: a command may
        // work for a while before it first waits for anything.
        let signals = Signals::listen()?;
        let gives_up = tokio::spawn(interrupted_twice(signals, interrupt));
        tokio::select! {
            result = commands::run(cli.command, context) => result,
            _ = gives_up => Ok(ExitCode::Interrupted),
        }
    });
    // Blocking work that was abandoned by an interrupt must not hold up the exit.
    runtime.shutdown_timeout(Duration::from_millis(200));
    result
}

/// The signals that ask a command to end.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        let listen_to =
            |kind, name: &str| signal(kind).context(|| format!("{name} cannot be listened to"));
        Ok(Self {
            interrupt: listen_to(SignalKind::interrupt(), "SIGINT")?,
            terminate: listen_to(SignalKind::terminate(), "SIGTERM")?,
            hangup: listen_to(SignalKind::hangup(), "SIGHUP")?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// Raises `interrupt` on the first signal and ends on the second.
async fn interrupted_twice(mut signals: Signals, interrupt: Interrupt) {
    for _ in 0..2 {
        signals.next().await;
        if interrupt.is_raised() {
            break;
        }
        interrupt.raise();
    }
}
