//! The only place that prints. Results go to standard output; progress, warnings, hints and errors
//! go to standard error. With `--json`, standard output carries exactly one object.

mod format;
mod output;
mod progress;
mod sections;
mod table;

pub use format::{bytes, count, duration, minute, number, printable, rate, sparkline, time};
pub use output::Output;
pub use sections::{Entry, Remark, Section};
pub use table::{Table, terminal_width};

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::exit_code::ExitCode;
use progress::Progress;
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::sync::Arc;

/// How pages look, light or dark as the reader's system is.
pub const PAGE_CSS: &str = include_str!("page.css");

/// How much to say on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// Steps, warnings and progress.
    Normal,
    /// The log at `info` too.
    Verbose,
    /// The log at `debug` too.
    Debug,
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ColorChoice {
    /// On a terminal that does not say otherwise (`NO_COLOR`)
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// What a word means, for choosing its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Well.
    Good,
    /// Worth a look.
    Warn,
    /// Wrong.
    Bad,
    /// Less important than the rest.
    Dim,
    /// More important than the rest.
    Strong,
}

/// Prints. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ui(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    json: bool,
    verbosity: Verbosity,
    yes: bool,
    colored: Colored,
    progress: Progress,
}

/// Which of the two streams takes colours.
#[derive(Debug)]
struct Colored {
    out: bool,
    err: bool,
}

impl Ui {
    /// A `Ui` with the global flags' choices.
    #[must_use]
    pub fn new(json: bool, verbosity: Verbosity, color: ColorChoice, yes: bool) -> Self {
        let colored = |terminal: bool| match color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => {
                terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
            }
        };
        let err = colored(std::io::stderr().is_terminal());
        Self(Arc::new(Inner {
            json,
            verbosity,
            yes,
            colored: Colored {
                out: colored(std::io::stdout().is_terminal()) && !json,
                err,
            },
            progress: Progress::new(verbosity >= Verbosity::Normal),
        }))
    }

    /// Whether the result is to be one JSON object.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.0.json
    }

    /// Whether more than usual is to be said.
    #[must_use]
    pub fn is_verbose(&self) -> bool {
        self.0.verbosity >= Verbosity::Verbose
    }

    /// Whether every question is answered yes.
    #[must_use]
    pub fn assumes_yes(&self) -> bool {
        self.0.yes
    }

    /// Starts the log on standard error: `warn`, or what `-v` and `K1OPS_LOG` ask for.
    pub fn start_logging(&self) {
        let level = match self.0.verbosity {
            Verbosity::Quiet => "error",
            Verbosity::Normal => "warn",
            Verbosity::Verbose => "k1ops=info,warn",
            Verbosity::Debug => "k1ops=debug,info",
        };
        let wanted = std::env::var("K1OPS_LOG").unwrap_or_else(|_| level.to_owned());
        let filter = tracing_subscriber::EnvFilter::new(wanted);
        let progress = self.0.progress.clone();
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(self.0.colored.err)
            .with_writer(move || progress.writer());
        // A second call, as in tests, keeps the first log.
        let _ = log.try_init();
    }

    /// Events that are shown as they come.
    #[must_use]
    pub fn events(&self) -> Events {
        let ui = self.clone();
        Events::new(move |event| ui.show(event))
    }

    fn show(&self, event: Event) {
        match event {
            Event::Started { step } => self.0.progress.started(&step),
            Event::Progress {
                step,
                done,
                total,
                unit,
            } => {
                self.0.progress.progress(&step, done, total, unit);
            }
            Event::Finished { step, detail } => {
                self.0.progress.finished(&step);
                let mark = self.paint_err(Tone::Good, "✓");
                let detail = if detail.is_empty() {
                    detail
                } else {
                    format!(": {detail}")
                };
                self.say(&format!("{mark} {step}{detail}"));
            }
            Event::Warning { message, hint } => {
                let heading = self.paint_err(Tone::Warn, "warning:");
                self.say(&format!("{heading} {message}"));
                if let Some(hint) = hint {
                    self.say(&format!("  {} {hint}", self.paint_err(Tone::Dim, "hint:")));
                }
            }
            Event::Note { message } => self.say(&message),
        }
    }

    /// A line on standard error, unless `--quiet`.
    pub fn say(&self, line: &str) {
        if self.0.verbosity >= Verbosity::Normal {
            self.0.progress.line(line);
        }
    }

    /// The command's result: `value` with `--json`, else what `human` writes.
    pub fn result<T: Serialize>(
        &self,
        value: &T,
        human: impl FnOnce(&Self, &mut String),
    ) -> Result<()> {
        if self.0.json {
            return self.json(value);
        }
        self.0.progress.clear();
        let mut text = String::new();
        human(self, &mut text);
        self.out(&text)
    }

    /// `value` as JSON, for a command whose own flags ask for it.
    pub fn json<T: Serialize>(&self, value: &T) -> Result<()> {
        self.0.progress.clear();
        let text = serde_json::to_string_pretty(value)
            .map_err(|e| Error::failed("the result cannot be written as JSON").because(e))?;
        self.out(&format!("{text}\n"))
    }

    /// A long answer, which takes the place of the progress that was shown.
    #[must_use]
    pub fn output(&self) -> Output {
        self.0.progress.clear();
        Output::default()
    }

    /// Text on standard output as it is. A reader that went away is no error.
    pub fn out(&self, text: &str) -> Result<()> {
        let mut out = std::io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(Error::failed("standard output cannot be written").because(e))
            }
            _ => Ok(()),
        }
    }

    /// Asks a yes-or-no question. Without a terminal, and without `--yes`, refuses.
    pub fn confirm(&self, question: &str) -> Result<()> {
        if self.0.yes {
            return Ok(());
        }
        let refused = || {
            Error::refused(format!("not confirmed: {question}"))
                .hint("Add --yes to go ahead, or --dry-run to see the plan only.")
        };
        if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            return Err(refused());
        }
        self.0.progress.clear();
        let mut err = std::io::stderr().lock();
        let _ = write!(err, "{question} [y/N] ");
        let _ = err.flush();
        let mut answer = String::new();
        std::io::stdin()
            .read_line(&mut answer)
            .map_err(|e| Error::failed("the answer cannot be read").because(e))?;
        match answer.trim().to_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(refused()),
        }
    }

    /// Shows an error and says what to exit with.
    #[must_use]
    pub fn error(&self, error: &Error) -> ExitCode {
        self.0.progress.clear();
        let code = ExitCode::from(error.kind());
        if self.0.json {
            let shown = serde_json::json!({ "error": {
                "kind": error.kind(),
                "exit_code": code.number(),
                "message": error.to_string(),
                "causes": error.causes(),
                "hint": error.hint_text(),
            }});
            let _ = self.out(&format!("{shown:#}\n"));
        }
        let mut text = format!(
            "{} {error}\n",
            self.paint_err(Tone::Bad, heading(error.kind()))
        );
        for cause in error.causes() {
            text.push_str(&format!(
                "  {} {cause}\n",
                self.paint_err(Tone::Dim, "because:")
            ));
        }
        if let Some(hint) = error.hint_text() {
            text.push_str(&format!(
                "  {} {hint}\n",
                self.paint_err(Tone::Dim, "hint:")
            ));
        }
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
        code
    }

    /// Shows what clap says of a command line, and says what to exit with.
    #[must_use]
    pub fn usage(error: &clap::Error) -> ExitCode {
        let _ = error.print();
        if error.use_stderr() {
            ExitCode::Usage
        } else {
            ExitCode::Done
        }
    }

    /// `text` in the colour of `tone`, for standard output.
    #[must_use]
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        paint(self.0.colored.out, tone, text)
    }

    fn paint_err(&self, tone: Tone, text: &str) -> String {
        paint(self.0.colored.err, tone, text)
    }
}

fn heading(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Failed => "error:",
        ErrorKind::Usage => "usage error:",
        ErrorKind::Missing => "missing or in use:",
        ErrorKind::BadData => "bad data:",
        ErrorKind::Locked => "locked:",
        ErrorKind::Refused => "refused:",
        ErrorKind::Behind => "behind:",
        ErrorKind::Interrupted => "interrupted:",
    }
}

fn paint(colored: bool, tone: Tone, text: &str) -> String {
    let code = match tone {
        Tone::Good => "32",
        Tone::Warn => "33",
        Tone::Bad => "31;1",
        Tone::Dim => "2",
        Tone::Strong => "1",
    };
    if colored {
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    } else {
        text.to_owned()
    }
}
