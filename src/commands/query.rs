//! `k1ops query`: what happened, from the K1 tables, without a database client.

use super::Context;
use crate::error::{Context as _, Error, Result};
use crate::exit_code::ExitCode;
use crate::store::{Place, Store, SummaryFilter, WorkflowSummary};
use crate::ui::{self, Table, Tone, Ui};
use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use serde::Serialize;
use std::time::Duration;

/// How many workflows a table shows unless `--limit` says otherwise.
const ROWS_IN_A_TABLE: u32 = 50;

/// Ask what happened, from the K1 tables
///
/// Answers come from the stack's own store, or from the PostgreSQL that database.url names. A
/// store that an older k1ops or the original init-db.sql made is brought up to date first.
#[derive(Debug, clap::Args)]
pub struct QueryArgs {
    #[command(subcommand)]
    question: Question,
}

#[derive(Debug, clap::Subcommand)]
enum Question {
    Summary(SummaryArgs),
}

/// Show one row a workflow: tasks, quality gates and how long it took
///
/// Newest first. Times are UTC; JSON and CSV carry them to the microsecond, as RFC 3339.
#[derive(Debug, clap::Args)]
struct SummaryArgs {
    /// Show at most N workflows; 0 for all [default: 50 in a table, all in JSON and CSV]
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
    /// Only workflows created since then: 7d, 12h, 2026-11-01 or 2026-11-01T08:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = parse_since)]
    since: Option<DateTime<Utc>>,
    /// Only workflows from this source, such as MCP
    #[arg(long)]
    source: Option<String>,
    /// Only the workflow with this id or Conductor execution id
    #[arg(long, value_name = "ID")]
    workflow: Option<String>,
    /// The form of the answer [default: table, or json with --json]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// The same as --format csv
    #[arg(long, conflicts_with = "format")]
    csv: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Columns for people
    Table,
    /// One object
    Json,
    /// Comma-separated values with a line of headings
    Csv,
}

/// The answer as JSON.
#[derive(Debug, Serialize)]
struct Answer {
    /// Where it comes from.
    store: String,
    /// Whether `--limit` left workflows out.
    truncated: bool,
    workflows: Vec<WorkflowSummary>,
}

/// Answers the question.
pub(super) async fn run(args: QueryArgs, context: &Context) -> Result<ExitCode> {
    let Question::Summary(args) = args.question;
    let interrupt = context.interrupt.clone();
    interrupt.guard(summary(args, context)).await?;
    Ok(ExitCode::Done)
}

async fn summary(args: SummaryArgs, context: &Context) -> Result<()> {
    let format = args.format(&context.ui)?;
    let limit = args
        .limit
        .or_else(|| (format == Format::Table).then_some(ROWS_IN_A_TABLE));
    let filter = args.filter(limit);
    let narrowed = !filter.is_open();
    let place = Place::of(&context.stack()?)?;
    let store = Store::open_for_reading(&place, &context.events()).await?;
    let workflows = store.workflow_summaries(filter).await?;
    let answer = Answer::new(&place, workflows, limit);
    match format {
        Format::Table => context.ui.out(&table(&answer, narrowed, &context.ui))?,
        Format::Json => context.ui.json(&answer)?,
        Format::Csv => context.ui.out(&csv(&answer.workflows)?)?,
    }
    if answer.truncated {
        let shown = answer.workflows.len();
        context.ui.say(&format!(
            "Only the newest {shown} are shown; --limit 0 shows all."
        ));
    }
    Ok(())
}

impl SummaryArgs {
    fn format(&self, ui: &Ui) -> Result<Format> {
        let asked = if self.csv {
            Some(Format::Csv)
        } else {
            self.format
        };
        match (asked, ui.is_json()) {
            (None, false) => Ok(Format::Table),
            (None | Some(Format::Json), true) => Ok(Format::Json),
            (Some(format), false) => Ok(format),
            (Some(_), true) => Err(Error::usage("--json asks for another format than --format")
                .hint("Leave one of the two out.")),
        }
    }

    /// The filter, which asks for one row more than is shown, so that the answer can say so.
    fn filter(self, limit: Option<u32>) -> SummaryFilter {
        SummaryFilter {
            limit: limit.filter(|n| *n > 0).map(|n| n.saturating_add(1)),
            since: self.since,
            source: self.source,
            workflow: self.workflow,
        }
    }
}

impl Answer {
    fn new(place: &Place, mut workflows: Vec<WorkflowSummary>, limit: Option<u32>) -> Self {
        let most = limit
            .filter(|n| *n > 0)
            .and_then(|n| usize::try_from(n).ok())
            .unwrap_or(usize::MAX);
        let truncated = workflows.len() > most;
        workflows.truncate(most);
        Self {
            store: place.shown(),
            truncated,
            workflows,
        }
    }
}

fn table(answer: &Answer, narrowed: bool, ui: &Ui) -> String {
    if answer.workflows.is_empty() {
        let which = if narrowed { " that match" } else { "" };
        return format!("No workflows{which} are recorded in {}.\n", answer.store);
    }
    let headings = [
        "workflow", "source", "created", "tasks", "failed", "gates", "critical", "duration",
    ];
    let mut table = Table::new(&headings).numbers(&[3, 4, 5, 6, 7]);
    for w in &answer.workflows {
        table.row([
            printable(&w.conductor_execution_id),
            w.source.as_deref().map_or_else(dash, printable),
            w.created_at.map_or_else(dash, ui::time),
            format!("{}/{}", w.completed_tasks, w.total_tasks),
            alarming(w.failed_tasks, ui),
            format!("{}/{}", w.passed_quality_gates, w.total_quality_gates),
            alarming(w.critical_failures, ui),
            w.duration_seconds.map_or_else(dash, duration),
        ]);
    }
    table.render()
}

fn dash() -> String {
    "-".to_owned()
}

/// Control characters, which could move the cursor or change colours, as their escapes.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            c if c.is_control() => c.escape_default().to_string(),
            c => c.to_string(),
        })
        .collect()
}

fn alarming(n: i64, ui: &Ui) -> String {
    match n {
        0 => "0".to_owned(),
        n => ui.paint(Tone::Bad, &n.to_string()),
    }
}

/// Agents on hosts whose clocks differ can end before they began.
fn duration(seconds: f64) -> String {
    match Duration::try_from_secs_f64(seconds.abs()) {
        Ok(length) if seconds < 0.0 => format!("-{}", ui::duration(length)),
        Ok(length) => ui::duration(length),
        Err(_) => format!("{seconds} s"),
    }
}

fn csv(workflows: &[WorkflowSummary]) -> Result<String> {
    let cannot = || "the answer cannot be written as CSV";
    let mut writer = csv::WriterBuilder::new()
        .has_headers(false)
        .from_writer(Vec::new());
    // Written apart, so that an empty answer has its headings too.
    writer.write_record(COLUMNS).context(cannot)?;
    for workflow in workflows {
        writer.serialize(workflow).context(cannot)?;
    }
    let text = writer.into_inner().context(cannot)?;
    String::from_utf8(text).context(cannot)
}

/// The view's columns, as [`WorkflowSummary`] has them.
const COLUMNS: [&str; 13] = [
    "workflow_id",
    "conductor_execution_id",
    "created_at",
    "source",
    "total_tasks",
    "completed_tasks",
    "failed_tasks",
    "total_quality_gates",
    "passed_quality_gates",
    "critical_failures",
    "workflow_started",
    "workflow_completed",
    "duration_seconds",
];

/// A moment, or how long ago it was.
fn parse_since(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(moment) = DateTime::parse_from_rfc3339(text) {
        return Ok(moment.to_utc());
    }
    if let Ok(day) = text.parse::<NaiveDate>() {
        return Ok(day.and_time(NaiveTime::MIN).and_utc());
    }
    let ago = humantime::parse_duration(text)
        .map_err(|_| "write how long ago (90m, 12h, 7d) or when (2026-11-01)".to_owned())?;
    chrono::TimeDelta::from_std(ago)
        .ok()
        .and_then(|ago| Utc::now().checked_sub_signed(ago))
        .ok_or_else(|| "that is too long ago".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_moment_a_day_or_how_long_ago() {
        let day = parse_since("2026-11-01").unwrap();
        assert_eq!(day.to_rfc3339(), "2026-11-01T00:00:00+00:00");
        let moment = parse_since("2026-11-01T08:00:00+02:00").unwrap();
        assert_eq!(moment.to_rfc3339(), "2026-11-01T06:00:00+00:00");
        let week_ago = parse_since("7d").unwrap();
        assert_eq!((Utc::now() - week_ago).num_hours(), 168);
        for wrong in ["", "yesterday", "7", "-7d", "9999999999999y"] {
            assert!(parse_since(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn csv_has_the_columns_of_the_row() {
        let row = WorkflowSummary {
            workflow_id: uuid::Uuid::nil(),
            conductor_execution_id: "a,\"b\"\n".into(),
            created_at: None,
            source: None,
            total_tasks: 1,
            completed_tasks: 1,
            failed_tasks: 0,
            total_quality_gates: 0,
            passed_quality_gates: 0,
            critical_failures: 0,
            workflow_started: None,
            workflow_completed: None,
            duration_seconds: Some(0.000_001),
        };
        let serde_json::Value::Object(fields) = serde_json::to_value(&row).unwrap() else {
            panic!("a row is an object")
        };
        assert_eq!(fields.len(), COLUMNS.len());
        assert!(COLUMNS.iter().all(|column| fields.contains_key(*column)));
        let text = csv(&[row]).unwrap();
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let record = reader.records().next().unwrap().unwrap();
        assert_eq!(&record[1], "a,\"b\"\n");
        assert_eq!(record[12].parse::<f64>(), Ok(0.000_001));
        assert!(csv(&[]).unwrap().starts_with("workflow_id,"));
    }

    #[test]
    fn terminals_are_not_moved_by_data() {
        assert_eq!(printable("a\u{1b}[2J\n漢"), "a\\u{1b}[2J\\n漢");
        assert_eq!(duration(-61.0), "-1m 01s");
    }
}
