//! How an answer looks to people: which columns a table shows, in which words, and which of them
//! are left out first where there is no room. The same for terminals and pages.

use crate::store::query::{Cell, Column, Question};
use crate::ui::{self, Tone, printable};
use std::time::Duration;

/// More of a value than this is of no use in a table.
const LONGEST: usize = 300;

/// The least that a column which gives way is shown with.
const NARROWEST: usize = 14;

/// The space between two columns.
const GAP: usize = 2;

/// One column of a table for people.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) heading: String,
    /// The positions of the columns that it is made of.
    from: Vec<usize>,
    pub(super) style: Style,
    /// 0 stays; of the others the largest goes first.
    rank: u8,
}

/// How a value is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Text,
    Minute,
    Count,
    /// `completed/total`.
    Of,
    /// Zero is well, all else is not.
    Alarm,
    Number,
    Seconds,
    Bytes,
    Share,
    Status,
    /// `passed`, `failed` or `critical`, from two columns.
    Verdict,
    Trend,
    /// Of a statement of the user's.
    Any,
}

/// What is shown, and what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) text: String,
    pub(super) tone: Option<Tone>,
}

impl View {
    pub(super) fn is_number(&self) -> bool {
        matches!(
            self.style,
            Style::Count
                | Style::Of
                | Style::Alarm
                | Style::Number
                | Style::Seconds
                | Style::Bytes
                | Style::Share
        )
    }

    /// Whether it may be shown in part.
    pub(super) fn gives_way(&self) -> bool {
        matches!(self.style, Style::Text | Style::Any)
    }

    pub(super) fn show(&self, row: &[Cell]) -> Shown {
        let cell = |n: usize| self.from.get(n).and_then(|at| row.get(*at));
        let cell = |n| cell(n).unwrap_or(&Cell::Null);
        let plain = |text| Shown { text, tone: None };
        match (self.style, cell(0)) {
            (Style::Of, part) => plain(format!("{}/{}", whole(part), whole(cell(1)))),
            (Style::Verdict, Cell::Flag(true)) => toned("passed", Tone::Good),
            (Style::Verdict, Cell::Flag(false)) => match cell(1) {
                Cell::Flag(true) => toned("critical", Tone::Bad),
                _ => toned("failed", Tone::Warn),
            },
            (Style::Alarm, Cell::Integer(0)) => plain("0".to_owned()),
            (Style::Alarm, n) => toned(&whole(n), Tone::Bad),
            (Style::Status, Cell::Text(status)) => Shown {
                text: shortened(status),
                tone: tone_of(status),
            },
            (Style::Text | Style::Any, Cell::Null) if self.style == Style::Any => {
                toned("NULL", Tone::Dim)
            }
            (style, cell) => plain(shown(style, cell)),
        }
    }
}

fn toned(text: &str, tone: Tone) -> Shown {
    Shown {
        text: text.to_owned(),
        tone: Some(tone),
    }
}

fn tone_of(status: &str) -> Option<Tone> {
    match status {
        "COMPLETED" => Some(Tone::Good),
        "FAILED" | "FAILED_WITH_TERMINAL_ERROR" | "TIMED_OUT" => Some(Tone::Bad),
        "RUNNING" => Some(Tone::Warn),
        _ => None,
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a count in a column of numbers is shown with four digits"
)]
fn shown(style: Style, cell: &Cell) -> String {
    match (style, cell) {
        (_, Cell::Null) => "-".to_owned(),
        (_, Cell::Trend(values)) => ui::sparkline(values),
        (Style::Minute, Cell::Time(time)) => ui::minute(*time),
        (Style::Seconds, Cell::Number(n)) => seconds(*n),
        (Style::Share, Cell::Number(n)) => format!("{:.0} %", n * 100.0),
        (Style::Bytes, Cell::Integer(n)) => {
            u64::try_from(*n).map_or_else(|_| n.to_string(), ui::bytes)
        }
        (Style::Number, Cell::Number(n)) => ui::number(*n),
        (Style::Number, Cell::Integer(n)) => ui::number(*n as f64),
        (Style::Count, cell) => whole(cell),
        (_, cell) => shortened(&plain(cell)),
    }
}

/// A value as text that says all of it.
pub(super) fn plain(cell: &Cell) -> String {
    match cell {
        Cell::Null => String::new(),
        Cell::Text(text) | Cell::Json(text) | Cell::Decimal(text) => text.clone(),
        Cell::Integer(n) => n.to_string(),
        Cell::Number(n) => json_number(*n).unwrap_or_else(|| n.to_string()),
        Cell::Flag(flag) => flag.to_string(),
        Cell::Time(time) => time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true),
        Cell::Trend(values) => {
            let one = |n: &Option<f64>| n.and_then(json_number).unwrap_or_default();
            values.iter().map(one).collect::<Vec<_>>().join(" ")
        }
    }
}

/// A number as JSON has it; JSON has none that is not finite.
pub(super) fn json_number(n: f64) -> Option<String> {
    serde_json::Number::from_f64(n).map(|n| n.to_string())
}

fn whole(cell: &Cell) -> String {
    match cell {
        Cell::Integer(n) => match u64::try_from(*n) {
            Ok(n) => ui::count(n),
            Err(_) => n.to_string(),
        },
        Cell::Null => "-".to_owned(),
        other => shortened(&plain(other)),
    }
}

/// A value alone, as a column of this style shows it.
pub(super) fn text(style: Style, cell: &Cell) -> String {
    shown(style, cell)
}

/// Agents on hosts whose clocks differ can end before they began.
fn seconds(seconds: f64) -> String {
    match Duration::try_from_secs_f64(seconds.abs()) {
        Ok(length) if seconds < 0.0 => format!("-{}", ui::duration(length)),
        Ok(length) => ui::duration(length),
        Err(_) => format!("{seconds} s"),
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", printable(&text[..end])),
        None => printable(text),
    }
}

/// Heading, columns, style, rank.
type Row = (&'static str, &'static [&'static str], Style, u8);

const SUMMARY: &[Row] = &[
    ("workflow", &["conductor_execution_id"], Style::Text, 0),
    ("source", &["source"], Style::Text, 3),
    ("created utc", &["created_at"], Style::Minute, 1),
    ("tasks", &["completed_tasks", "total_tasks"], Style::Of, 0),
    ("failed", &["failed_tasks"], Style::Alarm, 0),
    (
        "gates",
        &["passed_quality_gates", "total_quality_gates"],
        Style::Of,
        0,
    ),
    ("critical", &["critical_failures"], Style::Alarm, 0),
    ("duration", &["duration_seconds"], Style::Seconds, 0),
];
const WORKFLOWS: &[Row] = &[
    ("workflow", &["conductor_execution_id"], Style::Text, 0),
    ("status", &["status"], Style::Status, 0),
    ("source", &["source"], Style::Text, 3),
    ("user", &["user_id"], Style::Text, 2),
    ("created utc", &["created_at"], Style::Minute, 0),
    ("updated utc", &["updated_at"], Style::Minute, 5),
    ("tasks", &["tasks"], Style::Count, 0),
    ("running", &["running"], Style::Count, 1),
    ("tags", &["tags"], Style::Text, 4),
];
const GATES: &[Row] = &[
    ("workflow", &["conductor_execution_id"], Style::Text, 2),
    ("task", &["task_id"], Style::Text, 0),
    ("gate", &["gate_name"], Style::Text, 0),
    ("verdict", &["passed", "critical"], Style::Verdict, 0),
    ("actual", &["actual_value"], Style::Number, 0),
    ("threshold", &["gate_threshold"], Style::Number, 0),
    ("checked utc", &["checked_at"], Style::Minute, 1),
    ("details", &["details"], Style::Text, 3),
];
const METRICS: &[Row] = &[
    ("task", &["task_id"], Style::Text, 0),
    ("metric", &["metric_name"], Style::Text, 0),
    ("unit", &["metric_unit"], Style::Text, 3),
    ("count", &["count"], Style::Count, 0),
    ("average", &["average"], Style::Number, 0),
    ("p50", &["p50"], Style::Number, 0),
    ("p95", &["p95"], Style::Number, 0),
    ("min", &["min"], Style::Number, 4),
    ("max", &["max"], Style::Number, 2),
    ("last utc", &["last_recorded_at"], Style::Minute, 5),
    ("trend", &["trend"], Style::Trend, 1),
];
const AGENTS: &[Row] = &[
    ("agent", &["agent_type"], Style::Text, 0),
    ("runs", &["executions"], Style::Count, 0),
    ("failed", &["failed"], Style::Alarm, 0),
    ("running", &["running"], Style::Count, 3),
    ("success", &["success"], Style::Share, 0),
    ("average", &["average_seconds"], Style::Seconds, 0),
    ("p50", &["p50_seconds"], Style::Seconds, 2),
    ("p95", &["p95_seconds"], Style::Seconds, 0),
    ("max", &["max_seconds"], Style::Seconds, 4),
    ("last utc", &["last_started_at"], Style::Minute, 5),
    ("trend", &["trend"], Style::Trend, 1),
];
const TASKS: &[Row] = &[
    ("task", &["task_id"], Style::Text, 0),
    ("agent", &["agent_type"], Style::Text, 0),
    ("status", &["status"], Style::Status, 0),
    ("exit", &["exit_code"], Style::Count, 2),
    ("started utc", &["started_at"], Style::Minute, 0),
    ("duration", &["duration_seconds"], Style::Seconds, 0),
    ("workflow", &["conductor_execution_id"], Style::Text, 1),
    ("stdout", &["stdout_bytes"], Style::Bytes, 4),
    ("stderr", &["stderr_bytes"], Style::Bytes, 3),
];

/// The columns for people. A statement of the user's has those that it answers.
pub(super) fn views(question: Option<Question>, columns: &[Column]) -> Vec<View> {
    let rows = match question {
        Some(Question::Summary) => SUMMARY,
        Some(Question::Workflows) => WORKFLOWS,
        Some(Question::Gates { .. }) => GATES,
        Some(Question::Metrics) => METRICS,
        Some(Question::Agents) => AGENTS,
        Some(Question::Tasks { .. }) => TASKS,
        None => {
            let any = |(at, column): (usize, &Column)| View {
                heading: printable(&column.name),
                from: vec![at],
                style: Style::Any,
                rank: 0,
            };
            return columns.iter().enumerate().map(any).collect();
        }
    };
    let position = |name: &&str| columns.iter().position(|column| column.name == **name);
    rows.iter()
        .map(|(heading, from, style, rank)| View {
            heading: (*heading).to_owned(),
            from: from.iter().filter_map(position).collect(),
            style: *style,
            rank: *rank,
        })
        .collect()
}

/// Rows as a table of at most `width` columns; what has no room is left out, by rank.
pub(super) fn table(
    views: &[View],
    rows: &[Vec<Cell>],
    width: Option<u16>,
    paint: impl Fn(&Shown) -> String,
) -> String {
    let shown: Vec<Vec<Shown>> = rows
        .iter()
        .map(|row| views.iter().map(|view| view.show(row)).collect())
        .collect();
    let needs = Needs::of(views, &shown);
    let kept = match width {
        Some(width) => needs.kept(views, usize::from(width)),
        None => (0..views.len()).collect(),
    };
    let widths = width.map(|width| needs.divide(&kept, usize::from(width)));
    let own = views.iter().all(|view| view.style == Style::Any);
    if own && widths.as_ref().is_some_and(Option::is_none) {
        return records(views, &shown);
    }
    let headings: Vec<&str> = kept.iter().map(|at| views[*at].heading.as_str()).collect();
    let numbers: Vec<usize> = (0..kept.len())
        .filter(|position| views[kept[*position]].is_number())
        .collect();
    let mut table = ui::Table::new(&headings)
        .numbers(&numbers)
        .cut(widths.flatten().as_deref());
    for row in &shown {
        table.row(kept.iter().map(|at| paint(&row[*at])));
    }
    table.render()
}

/// Rows that have too many columns for the terminal: a line a value.
fn records(views: &[View], rows: &[Vec<Shown>]) -> String {
    let widest = views.iter().map(|view| wide(&view.heading)).max();
    let widest = widest.unwrap_or(0);
    let mut text = String::new();
    for row in rows {
        for (view, shown) in views.iter().zip(row) {
            let space = " ".repeat(widest - wide(&view.heading) + GAP);
            text.push_str(&format!("{}{space}{}\n", view.heading, shown.text));
        }
        text.push('\n');
    }
    text
}

fn wide(text: &str) -> usize {
    unicode_width::UnicodeWidthStr::width(text)
}

/// How wide each column wants to be, and must be at least.
struct Needs(Vec<(usize, usize)>);

impl Needs {
    fn of(views: &[View], rows: &[Vec<Shown>]) -> Self {
        let need = |(at, view): (usize, &View)| {
            let heading = wide(&view.heading);
            let values = rows.iter().map(|row| wide(&row[at].text));
            let widest = values.max().unwrap_or(0).max(heading);
            let least = if view.gives_way() {
                widest.min(NARROWEST.max(heading))
            } else {
                widest
            };
            (widest, least)
        };
        Self(views.iter().enumerate().map(need).collect())
    }

    fn least(&self, kept: &[usize]) -> usize {
        let columns: usize = kept.iter().map(|at| self.0[*at].1 + GAP).sum();
        columns.saturating_sub(GAP)
    }

    /// The positions of the columns that there is room for.
    fn kept(&self, views: &[View], width: usize) -> Vec<usize> {
        let mut kept: Vec<usize> = (0..views.len()).collect();
        while self.least(&kept) > width {
            let least = kept.iter().copied().max_by_key(|at| views[*at].rank);
            match least.filter(|at| views[*at].rank > 0) {
                Some(least) => kept.retain(|at| *at != least),
                None => break,
            }
        }
        kept
    }

    /// The columns' widths: what is left over goes, bit by bit, to those that want more. `None` if
    /// there is no room.
    fn divide(&self, kept: &[usize], width: usize) -> Option<Vec<u16>> {
        let mut left = width.checked_sub(self.least(kept))?;
        let mut widths: Vec<usize> = kept.iter().map(|at| self.0[*at].1).collect();
        while left > 0 {
            let wanting: Vec<usize> = (0..kept.len())
                .filter(|n| widths[*n] < self.0[kept[*n]].0)
                .collect();
            if wanting.is_empty() {
                break;
            }
            for n in wanting.into_iter().take(left) {
                widths[n] += 1;
                left -= 1;
            }
        }
        widths.into_iter().map(|w| u16::try_from(w).ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::query::columns;

    const QUESTIONS: [Question; 6] = [
        Question::Summary,
        Question::Workflows,
        Question::Gates {
            passed: None,
            critical: false,
        },
        Question::Metrics,
        Question::Agents,
        Question::Tasks { logs: false },
    ];

    /// A row with long values of the kind that each column holds.
    fn long_row(columns: &[Column]) -> Vec<Cell> {
        use crate::store::query::Kind;
        let cell = |column: &Column| match column.kind {
            Kind::Text | Kind::Id | Kind::Json | Kind::Any => Cell::Text("漢字-value ".repeat(40)),
            Kind::Time => Cell::Time(chrono::DateTime::UNIX_EPOCH),
            Kind::Count | Kind::Bytes => Cell::Integer(123_456),
            Kind::Number | Kind::Seconds => Cell::Number(-123_456.789),
            Kind::Share => Cell::Number(1.0),
            Kind::Flag => Cell::Flag(false),
            Kind::Trend => Cell::Trend([Some(1.0), Some(2.0), None].repeat(5)),
        };
        let mut row: Vec<Cell> = columns.iter().map(cell).collect();
        if let Some(at) = columns.iter().position(|c| c.name == "status") {
            row[at] = Cell::Text("COMPLETED".into());
        }
        row
    }

    #[test]
    fn every_table_fits_its_terminal_a_line_a_row() {
        for question in QUESTIONS {
            let columns = columns(question);
            let views = views(Some(question), &columns);
            assert!(views.iter().all(|view| !view.from.is_empty()));
            for width in [80, 100, 140, 250] {
                let rows = vec![long_row(&columns); 3];
                let text = table(&views, &rows, Some(width), |shown| shown.text.clone());
                assert_eq!(text.lines().count(), 4, "{text}");
                for line in text.lines() {
                    let wide = unicode_width::UnicodeWidthStr::width(line);
                    assert!(wide <= usize::from(width), "{wide} > {width}\n{text}");
                }
            }
        }
    }

    #[test]
    fn without_a_terminal_nothing_is_cut() {
        let columns = columns(Question::Summary);
        let views = views(Some(Question::Summary), &columns);
        let text = table(&views, &[long_row(&columns)], None, |shown| {
            shown.text.clone()
        });
        assert!(text.contains(&"漢字-value ".repeat(20)), "{text}");
    }

    #[test]
    fn durations_may_be_negative() {
        assert_eq!(seconds(-61.0), "-1m 01s");
        assert_eq!(seconds(0.5), "0.50 s");
    }
}
