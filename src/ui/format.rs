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

#[cfg(test)]
mod tests {
    use super::*;

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
