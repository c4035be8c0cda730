//! Numbers as people read them. Units are binary for sizes; times are UTC.

use chrono::{DateTime, Utc};
use std::time::Duration;

/// A size: `0 B`, `1.5 MiB`.
#[must_use]
pub fn bytes(n: u64) -> String {
    indicatif::BinaryBytes(n).to_string()
}

/// A count with thousands apart: `1,234,567`.
#[must_use]
pub fn count(n: u64) -> String {
    indicatif::HumanCount(n).to_string()
}

/// A duration: `0.12 s`, `8.1 s`, `3m 05s`, `2h 10m`, `4d 3h`.
#[must_use]
pub fn duration(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0 => format!("{:.2} s", d.as_secs_f64()),
        1..60 => format!("{:.1} s", d.as_secs_f64()),
        60..3_600 => format!("{}m {:02}s", s / 60, s % 60),
        3_600..86_400 => format!("{}h {:02}m", s / 3_600, s % 3_600 / 60),
        _ => format!("{}d {}h", s / 86_400, s % 86_400 / 3_600),
    }
}

/// A rate: `120.4 MiB/s`.
#[must_use]
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::cast_possible_truncation,
    reason = "a rate is shown with four digits"
)]
pub fn rate(n: u64, d: Duration) -> String {
    format!("{}/s", bytes((n as f64 / d.as_secs_f64().max(1e-3)) as u64))
}

/// A moment: `2026-11-23 19:00:00 UTC`.
#[must_use]
pub fn time(t: DateTime<Utc>) -> String {
    t.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// A moment to the minute, for tables: `2026-11-23 19:00`. The heading says that it is UTC.
#[must_use]
pub fn minute(t: DateTime<Utc>) -> String {
    t.format("%Y-%m-%d %H:%M").to_string()
}

/// A number with about four digits that matter: `1,234.5`, `12.34`, `0.01234`, `1.2e-7`.
#[must_use]
pub fn number(n: f64) -> String {
    let size = n.abs();
    if !n.is_finite() {
        return n.to_string();
    }
    if size >= 1e15 || (size < 1e-4 && size > 0.0) {
        return format!("{n:.3e}");
    }
    let decimals = match size {
        s if s >= 1000.0 => 1,
        s if s >= 1.0 => 2,
        s if s >= 0.1 => 3,
        s if s >= 0.01 => 4,
        _ => 6,
    };
    let text = format!("{n:.decimals$}");
    let (whole, rest) = text.split_once('.').unwrap_or((&text, ""));
    let rest = rest.trim_end_matches('0');
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |w| ("-", w));
    let thousands = whole.parse().map_or_else(|_| whole.to_owned(), count);
    let point = if rest.is_empty() { "" } else { "." };
    format!("{sign}{thousands}{point}{rest}")
}

/// Values as bars of eight heights, the smallest lowest; a gap where there is none.
#[must_use]
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a height from 0 to 7"
)]
pub fn sparkline(values: &[Option<f64>]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let finite = values.iter().flatten().filter(|n| n.is_finite());
    let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), n| {
        (low.min(*n), high.max(*n))
    });
    let bar = |n: f64| {
        let share = (n - low) / (high - low);
        // All values are the same: neither low nor high.
        let height = if share.is_finite() { share * 7.0 } else { 3.0 };
        BARS[(height.round() as usize).min(7)]
    };
    let shown = |n: &Option<f64>| n.filter(|n| n.is_finite()).map_or(' ', bar);
    values.iter().map(shown).collect()
}

/// Text from outside, made safe for a terminal: what could move the cursor, change colours, or turn
/// the direction of writing is shown as its escape.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_control() => shown.extend(c.escape_default()),
            // Marks, overrides and isolates of the writing direction, line separators, no-break of
            // zero width.
            '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}'
            | '\u{feff}' => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_what_matters() {
        for (n, shown) in [
            (0.0, "0"),
            (1.0, "1"),
            (-1234.56, "-1,234.6"),
            (1_000_000.0, "1,000,000"),
            (12.345, "12.35"),
            (0.5, "0.5"),
            (0.012_345, "0.0123"),
            (0.000_012, "1.200e-5"),
            (1e300, "1.000e300"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(number(n), shown);
        }
    }

    #[test]
    fn a_sparkline_has_gaps_and_heights() {
        assert_eq!(sparkline(&[Some(0.0), None, Some(7.0), Some(3.5)]), "▁ █▅");
        assert_eq!(sparkline(&[Some(5.0), Some(5.0)]), "▄▄");
        assert_eq!(sparkline(&[Some(f64::NAN), Some(1.0)]), " ▄");
        assert_eq!(sparkline(&[]), "");
    }

    #[test]
    fn terminals_are_not_moved_by_data() {
        assert_eq!(printable("a\u{1b}[2J\n漢\u{9b}"), "a\\u{1b}[2J\\n漢\\u{9b}");
        assert_eq!(printable("a\u{202e}b"), "a\\u{202e}b");
        assert_eq!(printable("ü 👍"), "ü 👍");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1_572_864), "1.50 MiB");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(duration(Duration::from_millis(120)), "0.12 s");
        assert_eq!(duration(Duration::from_millis(8_100)), "8.1 s");
        assert_eq!(duration(Duration::from_secs(185)), "3m 05s");
        assert_eq!(duration(Duration::from_secs(356_400)), "4d 3h");
        assert_eq!(rate(2_097_152, Duration::from_secs(2)), "1.00 MiB/s");
    }
}
