//! An answer as a page of its own: figures, a chart, the table. It is one file that asks for
//! nothing from anywhere, light or dark as the reader's system is.

use super::print::Frame;
use super::view::{Shown, Style, View, views};
use crate::store::query::{Cell, Column, Question};
use crate::ui::{self, Tone};
use chrono::{DateTime, Utc};
use maud::{DOCTYPE, Markup, PreEscaped, html};

const CSS: &str = ui::PAGE_CSS;

/// As many bars and lines still say something.
const MOST_IN_A_CHART: usize = 40;

/// The page.
pub(super) fn page(
    frame: &Frame,
    columns: &[Column],
    rows: &[Vec<Cell>],
    truncated: bool,
    now: DateTime<Utc>,
) -> String {
    let title = title(frame.question);
    let answer = Answer {
        question: frame.question,
        columns,
        rows,
        views: views(frame.question, columns),
        noun: frame.rows,
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy"
                    content="default-src 'none'; style-src 'unsafe-inline'";
                title { (title) " · k1ops" }
                style { (PreEscaped(CSS)) }
            }
            body {
                header {
                    h1 { (title) }
                    p { (frame.store) " · " (ui::time(now)) }
                    @if truncated {
                        p { "Only the first " (rows.len()) " rows are shown." }
                    }
                }
                (answer.cards())
                (answer.chart())
                h2 { "All figures" }
                (answer.table())
            }
        }
    };
    page.into_string()
}

fn title(question: Option<Question>) -> &'static str {
    match question {
        Some(Question::Summary) => "Workflow summary",
        Some(Question::Workflows) => "Workflows",
        Some(Question::Gates { .. }) => "Quality gates",
        Some(Question::Metrics) => "Metrics",
        Some(Question::Agents) => "Agents",
        Some(Question::Tasks { .. }) => "Tasks",
        None => "SQL answer",
    }
}

struct Answer<'a> {
    question: Option<Question>,
    columns: &'a [Column],
    rows: &'a [Vec<Cell>],
    views: Vec<View>,
    /// What a row is.
    noun: &'static str,
}

/// One bar of a chart.
struct Bar {
    label: String,
    value: f64,
    shown: String,
    class: &'static str,
}

impl Answer<'_> {
    fn cell<'r>(&self, row: &'r [Cell], name: &str) -> &'r Cell {
        let at = self.columns.iter().position(|column| column.name == name);
        at.and_then(|at| row.get(at)).unwrap_or(&Cell::Null)
    }

    fn number(&self, row: &[Cell], name: &str) -> Option<f64> {
        number(self.cell(row, name))
    }

    fn sum(&self, name: &str) -> f64 {
        self.rows
            .iter()
            .filter_map(|row| self.number(row, name))
            .sum()
    }

    fn having(&self, name: &str, wanted: &Cell) -> usize {
        self.rows
            .iter()
            .filter(|row| self.cell(row, name) == wanted)
            .count()
    }

    fn cards(&self) -> Markup {
        let of = |part: &str, whole: &str| {
            format!(
                "{}/{}",
                ui::number(self.sum(part)),
                ui::number(self.sum(whole))
            )
        };
        let with = |name: &str, text: &str| self.having(name, &Cell::Text(text.to_owned()));
        let mut cards: Vec<(&str, String)> = vec![(self.noun, self.rows.len().to_string())];
        match self.question {
            Some(Question::Summary) => {
                cards.push(("tasks completed", of("completed_tasks", "total_tasks")));
                cards.push((
                    "gates passed",
                    of("passed_quality_gates", "total_quality_gates"),
                ));
                cards.push((
                    "critical failures",
                    ui::number(self.sum("critical_failures")),
                ));
            }
            Some(Question::Workflows | Question::Tasks { .. }) => {
                for (status, label) in [
                    ("COMPLETED", "completed"),
                    ("RUNNING", "running"),
                    ("FAILED", "failed"),
                ] {
                    cards.push((label, with("status", status).to_string()));
                }
            }
            Some(Question::Gates { .. }) => {
                let failed = self.having("passed", &Cell::Flag(false));
                cards.push((
                    "passed",
                    self.having("passed", &Cell::Flag(true)).to_string(),
                ));
                cards.push(("failed", failed.to_string()));
            }
            Some(Question::Metrics) => cards.push(("values", ui::number(self.sum("count")))),
            Some(Question::Agents) => {
                cards.push(("runs", ui::number(self.sum("executions"))));
                cards.push(("failed", ui::number(self.sum("failed"))));
            }
            None => {}
        }
        html! {
            div class="cards" {
                @for (label, value) in cards {
                    div class="card" { b { (value) } span { (label) } }
                }
            }
        }
    }

    fn chart(&self) -> Markup {
        let (heading, chart) = match self.question {
            Some(Question::Metrics) => ("Averages over time", self.lines()),
            Some(Question::Agents) => (
                "Average duration",
                self.bars("agent_type", "average_seconds"),
            ),
            Some(Question::Gates { .. }) => ("Checks by gate", self.gates()),
            Some(Question::Workflows) => ("Tasks", self.bars("conductor_execution_id", "tasks")),
            Some(Question::Summary) => (
                "Duration",
                self.bars("conductor_execution_id", "duration_seconds"),
            ),
            Some(Question::Tasks { .. }) => ("Duration", self.bars("task_id", "duration_seconds")),
            None => ("", html! {}),
        };
        html! {
            @if !heading.is_empty() && !self.rows.is_empty() {
                h2 { (heading) }
                (chart)
            }
        }
    }

    fn bars(&self, label: &str, value: &str) -> Markup {
        let style = if value.ends_with("_seconds") {
            Style::Seconds
        } else {
            Style::Number
        };
        let class = |row: &[Cell]| {
            let bad = self.number(row, "failed_tasks").is_some_and(|n| n > 0.0);
            match self.cell(row, "status") {
                Cell::Text(status) if status.starts_with("FAILED") || status == "TIMED_OUT" => {
                    "fill-bad"
                }
                Cell::Text(status) if status == "RUNNING" => "fill-warn",
                _ if bad => "fill-bad",
                _ => "fill",
            }
        };
        let bars = self.rows.iter().take(MOST_IN_A_CHART).map(|row| Bar {
            label: super::view::text(Style::Text, self.cell(row, label)),
            value: self.number(row, value).unwrap_or_default().max(0.0),
            shown: super::view::text(style, self.cell(row, value)),
            class: class(row),
        });
        bars_of(&bars.collect::<Vec<_>>())
    }

    /// How often each gate was passed and not.
    fn gates(&self) -> Markup {
        let mut gates: Vec<(String, [u32; 2])> = Vec::new();
        for row in self.rows {
            let name = super::view::text(Style::Text, self.cell(row, "gate_name"));
            let failed = usize::from(*self.cell(row, "passed") != Cell::Flag(true));
            match gates.iter_mut().find(|(known, _)| *known == name) {
                Some((_, counts)) => counts[failed] += 1,
                None => gates.push((name, [u32::from(failed == 0), u32::from(failed == 1)])),
            }
        }
        gates.sort_by_key(|(_, counts)| std::cmp::Reverse(counts[1]));
        gates.truncate(MOST_IN_A_CHART);
        html! {
            div class="bars" {
                @for (name, [passed, failed]) in &gates {
                    @let share = f64::from(*passed) * 100.0 / f64::from(passed + failed);
                    div class="label" title=(name) { (name) }
                    svg role="img" aria-label=(format!("{passed} passed, {failed} failed")) {
                        rect class="fill-good" width=(format!("{share:.1}%")) height="14" {}
                        rect class="fill-bad" x=(format!("{share:.1}%"))
                            width=(format!("{:.1}%", 100.0 - share)) height="14" {}
                    }
                    div class="value" { (passed) " passed, " (failed) " failed" }
                }
            }
        }
    }

    /// One small chart a metric.
    fn lines(&self) -> Markup {
        html! {
            div class="lines" {
                @for row in self.rows.iter().take(MOST_IN_A_CHART) {
                    @let text = |name| super::view::text(Style::Number, self.cell(row, name));
                    figure {
                        b title=(text("metric_name")) { (text("metric_name")) }
                        figcaption { (text("task_id")) }
                        (line(self.cell(row, "trend"), 300.0, 72.0))
                        figcaption {
                            "average " (text("average")) " · p95 " (text("p95"))
                            @if *self.cell(row, "metric_unit") != Cell::Null {
                                " " (text("metric_unit"))
                            }
                        }
                    }
                }
            }
        }
    }

    fn table(&self) -> Markup {
        html! {
            div class="table" {
                table {
                    thead { tr {
                        @for view in &self.views {
                            th class=[view.is_number().then_some("n")] { (view.heading) }
                        }
                    } }
                    tbody {
                        @for row in self.rows {
                            tr { @for view in &self.views { (self.td(view, row)) } }
                        }
                    }
                }
            }
        }
    }

    fn td(&self, view: &View, row: &[Cell]) -> Markup {
        if view.style == Style::Trend {
            return html! { td { (line(self.cell(row, "trend"), 112.0, 22.0)) } };
        }
        let Shown { text, tone } = view.show(row);
        let tone = tone.map(|tone| match tone {
            Tone::Good => "good",
            Tone::Warn => "warn",
            Tone::Bad => "bad",
            Tone::Dim | Tone::Strong => "dim",
        });
        let number = view.is_number().then_some("n");
        let class = [number, tone]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(" ");
        html! { td class=[(!class.is_empty()).then_some(class)] title=[view.gives_way().then_some(&text)] { (text) } }
    }
}

fn number(cell: &Cell) -> Option<f64> {
    #[allow(clippy::cast_precision_loss, reason = "a bar's length")]
    match cell {
        Cell::Integer(n) => Some(*n as f64),
        Cell::Number(n) if n.is_finite() => Some(*n),
        _ => None,
    }
}

fn bars_of(bars: &[Bar]) -> Markup {
    let longest = bars.iter().map(|bar| bar.value).fold(0.0, f64::max);
    html! {
        div class="bars" {
            @for bar in bars {
                @let share = if longest > 0.0 { bar.value * 100.0 / longest } else { 0.0 };
                div class="label" title=(bar.label) { (bar.label) }
                svg role="img" aria-label=(bar.shown) {
                    rect class=(bar.class) width=(format!("{share:.1}%")) height="14" {}
                }
                div class="value" { (bar.shown) }
            }
        }
    }
}

/// A line through the spans that have a value.
fn line(trend: &Cell, width: f64, height: f64) -> Markup {
    let values: &[Option<f64>] = match trend {
        Cell::Trend(values) => values,
        _ => &[],
    };
    let known: Vec<(u32, f64)> = (0..)
        .zip(values)
        .filter_map(|(at, value)| Some((at, value.filter(|n| n.is_finite())?)))
        .collect();
    let (low, high) = known
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), (_, n)| {
            (low.min(*n), high.max(*n))
        });
    let spans = u32::try_from(values.len().saturating_sub(1))
        .unwrap_or(1)
        .max(1);
    let point = |(at, n): &(u32, f64)| {
        let across = f64::from(*at) / f64::from(spans);
        let up = if high > low {
            (n - low) / (high - low)
        } else {
            0.5
        };
        (
            3.0 + across * (width - 6.0),
            height - 3.0 - up * (height - 6.0),
        )
    };
    let points: Vec<(f64, f64)> = known.iter().map(point).collect();
    let path: Vec<String> = points
        .iter()
        .map(|(x, y)| format!("{x:.1},{y:.1}"))
        .collect();
    let label = match (known.first(), known.last()) {
        (Some((_, first)), Some((_, last))) => {
            format!("from {} to {}", ui::number(*first), ui::number(*last))
        }
        _ => "no values".to_owned(),
    };
    html! {
        svg viewBox=(format!("0 0 {width} {height}")) preserveAspectRatio="none" role="img"
            aria-label=(label) {
            @if points.len() == 1 {
                circle cx=(points[0].0) cy=(points[0].1) r="2.5" {}
            } @else if !points.is_empty() {
                polyline points=(path.join(" ")) {}
            }
        }
    }
}
