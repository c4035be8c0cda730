//! The report as a page of its own: verdicts, when each task was done, what the stack used over time,
//! and earlier runs. One file that asks for nothing from anywhere.

use crate::ui;
use crate::validate::{Bar, Comparison, Report, Sample, TestReport, TierReport};
use chrono::{DateTime, Utc};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use std::time::Duration;

const CSS: &str = "
.gantt { display: grid; grid-template-columns: minmax(6rem, 12rem) 1fr auto; gap: .3rem .75rem;
  align-items: center; }
.gantt .label { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.gantt svg { display: block; width: 100%; height: 14px; background: var(--line); border-radius: 3px; }
.gantt .value { color: var(--dim); font-size: .85rem; text-align: right; }
.gantt .of { grid-column: 1 / -1; margin: .7rem 0 0; font-weight: 600; }
.wait { fill: var(--dim); opacity: .45; }
";
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 90.0;

/// The page.
pub(super) fn page(report: &Report, comparison: Option<&Comparison>, earlier: &[Report]) -> String {
    let all = report.passed + report.not_passed;
    let env = &report.environment;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy"
                    content="default-src 'none'; style-src 'unsafe-inline'; img-src data:";
                // Without one the browser asks for it.
                link rel="icon" href="data:,";
                title { "Validation · k1ops" }
                style { (PreEscaped(ui::PAGE_CSS)) (PreEscaped(CSS)) }
            }
            body {
                header {
                    h1 { "Validation" }
                    p {
                        (ui::time(report.started_at)) " · k1ops " (env.k1ops_version)
                        " · Conductor " (env.conductor_version) " · " (env.system) " · "
                        (env.cpus) " CPUs · " (env.jobs) " agents at once"
                    }
                }
                div class="cards" {
                    (card("tests passed", &format!("{}/{all}", report.passed)))
                    (card("pass rate", &format!("{:.0} %", report.pass_rate * 100.0)))
                    (card("took", &took(report.seconds)))
                    (card("tiers", &report.tiers.len().to_string()))
                }
                @if let Some(comparison) = comparison { (compared(comparison)) }
                @for tier in &report.tiers { (section(tier)) }
                (trend(report, earlier))
            }
        }
    };
    page.into_string()
}

fn card(label: &str, value: &str) -> Markup {
    html! { div class="card" { b { (value) } span { (label) } } }
}

fn section(tier: &TierReport) -> Markup {
    html! {
        h2 { "Tier " (tier.tier.number()) " (" (tier.tier.name()) ")" }
        (verdicts(&tier.tests))
        h2 { "Tasks" }
        (gantt(&tier.tests))
        h2 { "Memory and CPU" }
        (usage(&tier.samples))
    }
}

fn verdicts(tests: &[TestReport]) -> Markup {
    html! {
        div class="table" { table {
            thead { tr { th { "test" } th { "result" } th { "what it shows" } th class="n" { "time" }
                th { "figures" } } }
            tbody {
                @for test in tests {
                    @let (class, word) = match (test.passed, test.could_run) {
                        (true, _) => ("good", "passed"),
                        (false, true) => ("bad", "failed"),
                        (false, false) => ("warn", "cannot run"),
                    };
                    tr {
                        td { (test.number) " " (test.name) }
                        td class=(class) { (word) }
                        td title=(test.title) { (test.title) }
                        td class="n" { (took(test.seconds)) }
                        td { (figures(test)) }
                    }
                    @if let Some(why) = &test.why {
                        tr { td {} td class=(class) colspan="4" title=(why) { (why) } }
                    }
                }
            }
        } }
    }
}

fn figures(test: &TestReport) -> String {
    let figures = test.figures.iter().filter_map(|(name, value)| {
        let value = value.as_f64()?;
        let name = name.replace('_', " ");
        Some(match name.strip_suffix(" bytes") {
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "bytes are whole and not negative"
            )]
            Some(name) => format!("{name} {}", ui::bytes(value as u64)),
            None => format!("{name} {}", ui::number((value * 100.0).round() / 100.0)),
        })
    });
    figures.collect::<Vec<_>>().join(" · ")
}

/// When each task waited and when it was done, test by test, each on a line of its own.
fn gantt(tests: &[TestReport]) -> Markup {
    html! {
        div class="gantt" {
            @for test in tests.iter().filter(|test| !test.tasks.is_empty()) {
                p class="of" { (test.number) " " (test.name) }
                @let first = test.tasks.iter().map(|bar| bar.scheduled_at).min();
                @let last = test.tasks.iter().map(|bar| bar.ended_at).max();
                @if let (Some(first), Some(last)) = (first, last) {
                    @for bar in &test.tasks { (row(bar, first, last)) }
                }
            }
        }
    }
}

fn row(bar: &Bar, first: DateTime<Utc>, last: DateTime<Utc>) -> Markup {
    let whole = (last - first).as_seconds_f64().max(0.001);
    let at = |moment: DateTime<Utc>| (moment - first).as_seconds_f64() * 100.0 / whole;
    let (from, begun, to) = (at(bar.scheduled_at), at(bar.started_at), at(bar.ended_at));
    let class = if bar.status == "COMPLETED" {
        "fill"
    } else {
        "fill-bad"
    };
    let seconds = (bar.ended_at - bar.started_at).as_seconds_f64();
    let percent = |n: f64| format!("{:.2}%", n.max(0.0));
    html! {
        div class="label" title=(bar.label) { (bar.label) }
        svg role="img" aria-label=(format!("{}: {} after {seconds:.1} s", bar.label, bar.status)) {
            rect class="wait" x=(percent(from)) width=(percent(begun - from)) height="14" {}
            rect class=(class) x=(percent(begun)) width=(percent((to - begun).max(0.3))) height="14" {}
        }
        div class="value" { (format!("{seconds:.1} s")) }
    }
}

fn usage(samples: &[Sample]) -> Markup {
    #[allow(clippy::cast_precision_loss, reason = "the height of a line")]
    let memory: Vec<f64> = samples.iter().map(|s| s.memory_bytes as f64).collect();
    let cpu: Vec<f64> = samples.iter().map(|sample| sample.cpu * 100.0).collect();
    let peak = samples.iter().map(|s| s.memory_bytes).max().unwrap_or(0);
    let most = cpu.iter().copied().fold(0.0, f64::max);
    html! {
        div class="lines" {
            figure { b { "Memory" } (line(&memory)) figcaption { "at most " (ui::bytes(peak)) } }
            figure { b { "CPU" } (line(&cpu)) figcaption { "at most " (format!("{most:.0} %")) " of all CPUs" } }
        }
    }
}

/// A line from zero to the largest value.
fn line(values: &[f64]) -> Markup {
    let most = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    #[allow(clippy::cast_precision_loss, reason = "a place on a line")]
    let step = (WIDTH - 6.0) / values.len().saturating_sub(1).max(1) as f64;
    let points: Vec<String> = std::iter::successors(Some(3.0), |x| Some(x + step))
        .zip(values)
        .map(|(x, value)| format!("{x:.1},{:.1}", HEIGHT - 3.0 - value / most * (HEIGHT - 6.0)))
        .collect();
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) preserveAspectRatio="none" role="img"
            aria-label=(format!("{} values", values.len())) {
            @if points.len() > 1 { polyline points=(points.join(" ")) {} }
            @else if points.len() == 1 { circle cx="3" cy=(HEIGHT / 2.0) r="2.5" {} }
        }
    }
}

fn compared(comparison: &Comparison) -> Markup {
    html! {
        h2 { "Against " (comparison.earlier) }
        @if comparison.regressions.is_empty() { p class="good" { "No regressions." } }
        ul {
            @for regression in &comparison.regressions {
                li class="bad" { (regression.tier.name()) "/" (regression.test) ": " (regression.what) }
            }
            @for mended in &comparison.mended { li class="good" { (mended) ": passes again" } }
        }
    }
}

fn trend(report: &Report, earlier: &[Report]) -> Markup {
    let runs: Vec<&Report> = earlier.iter().chain([report]).collect();
    let rates: Vec<f64> = runs.iter().map(|run| run.pass_rate * 100.0).collect();
    let seconds: Vec<f64> = runs.iter().map(|run| run.seconds).collect();
    html! {
        h2 { "Trend over " (runs.len()) " runs" }
        div class="lines" {
            figure { b { "Pass rate" } (line(&rates))
                figcaption { "now " (format!("{:.0} %", report.pass_rate * 100.0)) } }
            figure { b { "Time" } (line(&seconds)) figcaption { "now " (took(report.seconds)) } }
        }
    }
}

fn took(seconds: f64) -> String {
    ui::duration(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}
