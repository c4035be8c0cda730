//! `k1ops query`: what happened, from the K1 tables, without a database client.

mod html;
mod print;
mod view;
mod when;

use super::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::exit_code::ExitCode;
use crate::repository::Repository;
use crate::store::query::{Archived, Ask, Question, Rows, rows_name};
use crate::store::{Place, Store};
use crate::ui::{self, Ui};
use chrono::{DateTime, Utc};
use print::{Format, Frame, Printer};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

/// How many rows people are shown unless `--limit` says otherwise.
const ROWS_FOR_PEOPLE: u64 = 50;

/// Ask what happened, from the K1 tables
///
/// Answers come from the stack's own store, from the PostgreSQL that database.url names, or with
/// --from out of a backup. A store that an older k1ops or the original init-db.sql made is brought
/// up to date first. Times are UTC; JSON and CSV carry them to the microsecond, as RFC 3339.
#[derive(Debug, clap::Args)]
pub struct QueryArgs {
    #[command(subcommand)]
    asked: Asked,
    #[command(flatten)]
    output: OutputArgs,
}

/// Where the answer comes from and how it is shown.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Answer")]
struct OutputArgs {
    /// Show at most N rows; 0 for all [default: 50 for people, all in JSON, JSON lines and CSV]
    #[arg(long, global = true, value_name = "N")]
    limit: Option<u64>,
    /// The form of the answer [default: table, or json with --json]
    #[arg(long, global = true, value_name = "FORMAT")]
    format: Option<Format>,
    /// The same as --format csv
    #[arg(long, global = true, conflicts_with = "format")]
    csv: bool,
    /// Write the answer as a page with charts into this file
    #[arg(long, global = true, value_name = "FILE", conflicts_with_all = ["format", "csv", "watch"])]
    html: Option<PathBuf>,
    /// Ask the K1 tables of this archive: a name in the repository, a path, or `latest`
    #[arg(long, global = true, value_name = "ARCHIVE")]
    from: Option<String>,
    /// Ask again every so many seconds until Ctrl-C
    #[arg(long, global = true, value_name = "SECONDS", num_args = 0..=1, require_equals = true,
        default_missing_value = "2", value_parser = seconds, conflicts_with = "from")]
    watch: Option<Duration>,
    /// Give up an answer that takes longer; 0 for never
    #[arg(long, global = true, value_name = "SECONDS", default_value = "60",
        value_parser = timeout)]
    timeout: Duration,
}

#[derive(Debug, clap::Subcommand)]
enum Asked {
    /// Show one row a workflow: tasks, quality gates and how long it took
    Summary(WorkflowArgs),
    /// Show who asked for each workflow and how it stands
    Workflows(WorkflowsArgs),
    /// Show quality gates
    Gates(GatesArgs),
    /// Show count, average, percentiles and trend of each task's metrics
    ///
    /// The trend is the average in each of 16 equal spans of time, from the first value to the last.
    Metrics(MetricsArgs),
    /// Show how often each type of agent ran, how that ended and how long it took
    Agents(TasksFilter),
    /// Show the tasks that agents have worked on
    Tasks(TasksArgs),
    /// Show what an SQL statement of your own answers
    ///
    /// The statement can only read: it runs in a read-only transaction of the server, without a
    /// superuser's rights; in SQLite, on a file that is opened for reading and with a guard that
    /// lets nothing else through.
    Sql(SqlArgs),
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Only of this moment or later: 7d, 12h, 2026-11-01 or 2026-11-01T08:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = when::moment)]
    since: Option<DateTime<Utc>>,
    /// Only before this moment
    #[arg(long, value_name = "WHEN", value_parser = when::moment)]
    until: Option<DateTime<Utc>>,
    /// Only of the workflow with this id or Conductor execution id
    #[arg(long, value_name = "ID")]
    workflow: Option<String>,
    /// Only of this task; of workflows: those with a run of it
    #[arg(long, value_name = "ID")]
    task: Option<String>,
    /// Only of workflows from this source, such as MCP
    #[arg(long)]
    source: Option<String>,
    /// Sort by this column of the JSON answer; numbers and times from the largest down
    #[arg(long, value_name = "COLUMN")]
    sort: Option<String>,
    /// Turn the order around
    #[arg(long)]
    reverse: bool,
}

#[derive(Debug, clap::Args)]
struct WorkflowArgs {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct WorkflowsArgs {
    #[command(flatten)]
    common: Common,
    /// Only with this status: RUNNING, COMPLETED, FAILED or CANCELED
    #[arg(long)]
    status: Option<String>,
}

#[derive(Debug, clap::Args)]
struct GatesArgs {
    #[command(flatten)]
    common: Common,
    /// Only those that were not passed
    #[arg(long)]
    failed: bool,
    /// Only those that were passed
    #[arg(long, conflicts_with = "failed")]
    passed: bool,
    /// Only those whose failure is critical
    #[arg(long)]
    critical: bool,
}

#[derive(Debug, clap::Args)]
struct MetricsArgs {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct TasksFilter {
    #[command(flatten)]
    common: Common,
    /// Only runs with this status, such as FAILED
    #[arg(long)]
    status: Option<String>,
}

#[derive(Debug, clap::Args)]
struct TasksArgs {
    #[command(flatten)]
    filter: TasksFilter,
    /// With what agents wrote to standard output and standard error
    #[arg(long)]
    logs: bool,
}

#[derive(Debug, clap::Args)]
struct SqlArgs {
    /// The statement
    statement: String,
}

/// What is asked: a question, or a statement.
enum Wanted {
    Question(Ask),
    Sql(String),
}

/// Answers the question.
pub(super) async fn run(args: QueryArgs, context: &Context) -> Result<ExitCode> {
    let format = args.output.format(&context.ui)?;
    let wanted = args.asked.wanted(args.output.limit_for(format))?;
    let query = Query {
        wanted,
        output: args.output,
        format,
        context,
    };
    let interrupt = context.interrupt.clone();
    if let Some(every) = query.output.watch {
        query.watch(every).await?;
    } else {
        interrupt.guard(query.answer()).await?;
    }
    Ok(ExitCode::Done)
}

impl OutputArgs {
    fn format(&self, ui: &Ui) -> Result<Format> {
        let asked = if self.csv {
            Some(Format::Csv)
        } else {
            self.format
        };
        let format = match (asked, ui.is_json()) {
            (None, false) => Format::Table,
            (None | Some(Format::Json), true) => Format::Json,
            (Some(format), false) => format,
            (Some(_), true) => {
                let error = Error::usage("--json asks for another format than --format");
                return Err(error.hint("Leave one of the two out."));
            }
        };
        if self.watch.is_some() && format != Format::Table {
            return Err(Error::usage("--watch shows tables only")
                .hint("Leave --watch out, or the other format."));
        }
        Ok(format)
    }

    /// How many rows are shown at most; `None` for all.
    fn limit_for(&self, format: Format) -> Option<u64> {
        let for_people = matches!(format, Format::Table | Format::Markdown) || self.html.is_some();
        let own = for_people.then_some(ROWS_FOR_PEOPLE);
        self.limit.or(own).filter(|limit| *limit > 0)
    }

    fn timeout(&self) -> Option<Duration> {
        Some(self.timeout).filter(|timeout| !timeout.is_zero())
    }
}

impl Asked {
    /// The question. It asks for one row more than is shown, so that the answer can say so.
    fn wanted(self, limit: Option<u64>) -> Result<Wanted> {
        let (question, common, status) = match self {
            Self::Sql(args) => return Ok(Wanted::Sql(args.statement)),
            Self::Summary(args) => (Question::Summary, args.common, None),
            Self::Workflows(args) => (Question::Workflows, args.common, args.status),
            Self::Metrics(args) => (Question::Metrics, args.common, None),
            Self::Agents(args) => (Question::Agents, args.common, args.status),
            Self::Tasks(TasksArgs { filter, logs }) => {
                (Question::Tasks { logs }, filter.common, filter.status)
            }
            Self::Gates(args) => {
                let passed = match (args.passed, args.failed) {
                    (false, false) => None,
                    (passed, _) => Some(passed),
                };
                let critical = args.critical;
                (Question::Gates { passed, critical }, args.common, None)
            }
        };
        when::check_order(common.since, common.until)?;
        Ok(Wanted::Question(Ask {
            question,
            since: common.since,
            until: common.until,
            workflow: common.workflow,
            task: common.task,
            source: common.source,
            status,
            limit: limit.map(|n| n.saturating_add(1)),
            sort: common.sort,
            reverse: common.reverse,
        }))
    }
}

/// A question on its way to its answer.
struct Query<'a> {
    wanted: Wanted,
    output: OutputArgs,
    format: Format,
    context: &'a Context,
}

/// Where an answer comes from, open.
struct Opened {
    store: Store,
    shown: String,
    _archived: Option<Archived>,
}

impl Query<'_> {
    async fn answer(&self) -> Result<()> {
        let opened = self.open().await?;
        let mut rows = self.ask(&opened.store).await?;
        let frame = self.frame(&opened);
        if let Some(file) = &self.output.html {
            return self.page(file, frame, rows).await;
        }
        let ui = &self.context.ui;
        let mut output = ui.output();
        let (shown, truncated) = self
            .print(&mut rows, frame, |text| output.write(text))
            .await?;
        output.flush()?;
        if truncated {
            ui.say(&format!(
                "{} are shown; --limit 0 shows all.",
                self.first(shown)
            ));
        }
        Ok(())
    }

    fn first(&self, shown: u64) -> String {
        match &self.wanted {
            Wanted::Question(ask) if ask.sort.is_none() && !ask.reverse && by_time(ask) => {
                format!("Only the newest {shown}")
            }
            _ => format!("Only the first {shown}"),
        }
    }

    /// Shows the answer again and again.
    async fn watch(&self, every: Duration) -> Result<()> {
        let ui = &self.context.ui;
        let interrupt = &self.context.interrupt;
        let clear = if std::io::stdout().is_terminal() {
            "\u{1b}[H\u{1b}[2J\u{1b}[3J"
        } else {
            ""
        };
        let mut answered = false;
        loop {
            let text = match interrupt.guard(self.once()).await {
                Ok(text) => text,
                // Ctrl-C is how one ends it.
                Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
                Err(error) if !answered => return Err(error),
                // A server that is started again comes back.
                Err(error) => format!("{error}\n"),
            };
            answered = true;
            let now = ui::time(Utc::now());
            ui.out(&format!(
                "{clear}{now}, every {}\n\n{text}",
                ui::duration(every)
            ))?;
            tokio::select! {
                () = interrupt.raised() => return Ok(()),
                () = tokio::time::sleep(every) => {}
            }
        }
    }

    async fn once(&self) -> Result<String> {
        let opened = self.open().await?;
        let mut rows = self.ask(&opened.store).await?;
        let mut text = String::new();
        let print = self.print(&mut rows, self.frame(&opened), |piece| {
            text.push_str(piece);
            Ok(true)
        });
        print.await?;
        Ok(text)
    }

    async fn open(&self) -> Result<Opened> {
        let stack = self.context.stack()?;
        let events = self.context.events();
        let Some(wanted) = &self.output.from else {
            let store = Store::open_for_questions(&stack, &events).await?;
            let shown = Place::for_questions(&stack)?.shown();
            return Ok(Opened {
                store,
                shown,
                _archived: None,
            });
        };
        let repository = Repository::of(&stack)?;
        let path = repository.find(wanted, &stack.name)?;
        let archive = repository.open(&path)?;
        let archived = Archived::load(&archive, &events, &self.context.interrupt).await?;
        let store = Store::open_read_only(archived.place()).await?;
        Ok(Opened {
            store,
            shown: path.display().to_string(),
            _archived: Some(archived),
        })
    }

    async fn ask<'s>(&self, store: &'s Store) -> Result<Rows<'s>> {
        let timeout = self.output.timeout();
        match &self.wanted {
            Wanted::Question(ask) => store.ask(ask, timeout).await,
            Wanted::Sql(sql) => store.ask_sql(sql, timeout).await,
        }
    }

    fn frame(&self, opened: &Opened) -> Frame {
        let (question, narrowed) = match &self.wanted {
            Wanted::Question(ask) => (Some(ask.question), ask.is_narrowed()),
            Wanted::Sql(_) => (None, false),
        };
        Frame {
            store: opened.shown.clone(),
            question,
            rows: question.map_or("rows", rows_name),
            narrowed,
        }
    }

    /// Hands the answer's text to `write` until it has enough; answers how many rows that were, and
    /// whether there are more.
    async fn print(
        &self,
        rows: &mut Rows<'_>,
        frame: Frame,
        mut write: impl FnMut(&str) -> Result<bool>,
    ) -> Result<(u64, bool)> {
        let limit = self.limit();
        let mut printer = Printer::new(self.format, frame, rows.columns(), &self.context.ui);
        let (mut shown, mut truncated) = (0, false);
        let mut open = write(&printer.begin()?)?;
        while open && let Some(row) = rows.next().await? {
            if limit.is_some_and(|limit| shown >= limit) {
                truncated = true;
                break;
            }
            shown += 1;
            open = write(&printer.row(row)?)?;
        }
        write(&printer.end(truncated))?;
        Ok((shown, truncated))
    }

    /// A statement of the user's has the limit that it says itself.
    fn limit(&self) -> Option<u64> {
        match self.wanted {
            Wanted::Sql(_) if self.output.html.is_none() => self.output.limit.filter(|n| *n > 0),
            _ => self.output.limit_for(self.format),
        }
    }

    async fn page(&self, file: &std::path::Path, frame: Frame, mut rows: Rows<'_>) -> Result<()> {
        let limit = self.limit();
        let columns = rows.columns().to_vec();
        let (mut all, mut truncated) = (Vec::new(), false);
        while let Some(row) = rows.next().await? {
            if limit.is_some_and(|limit| all.len() as u64 >= limit) {
                truncated = true;
                break;
            }
            all.push(row);
        }
        let page = html::page(&frame, &columns, &all, truncated, Utc::now());
        crate::adapters::fs::write_atomically(file, page.as_bytes())?;
        let written = serde_json::json!({
            "html": file, "store": frame.store, "rows": all.len(), "truncated": truncated,
        });
        self.context.ui.result(&written, |_, text| {
            let rows = ui::count(all.len() as u64);
            text.push_str(&format!("wrote {} ({rows} rows)\n", file.display()));
        })
    }
}

/// Whether the question's own order is by time.
fn by_time(ask: &Ask) -> bool {
    !matches!(ask.question, Question::Metrics | Question::Agents)
}

fn seconds(text: &str) -> Result<Duration, String> {
    let parsed = text
        .parse()
        .ok()
        .and_then(|s| Duration::try_from_secs_f64(s).ok());
    parsed
        .filter(|d| *d >= Duration::from_millis(100))
        .ok_or_else(|| "write seconds, at least 0.1".to_owned())
}

fn timeout(text: &str) -> Result<Duration, String> {
    let parsed = text
        .parse()
        .ok()
        .and_then(|s| Duration::try_from_secs_f64(s).ok());
    parsed.ok_or_else(|| "write seconds".to_owned())
}
