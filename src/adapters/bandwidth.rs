//! A limit on what is written a second, so that a backup leaves room on the line for others.
//!
//! What is not used is saved up for a moment only (a token bucket): after a pause nothing rushes out.

use super::storage::Sink;
use crate::error::{Error, Result};
use std::io::Write;
use std::time::{Duration, Instant};

/// For how long what was not used may be used later.
const SAVED_UP: Duration = Duration::from_millis(250);

/// How many times a second something is written, so that the line is used evenly.
const PIECES: u64 = 16;

/// The largest piece, in bytes.
const LARGEST: u64 = 1 << 20;

/// Bytes a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bandwidth(u64);

impl Bandwidth {
    /// Reads `20 MB/s`, `512 KiB/s` or `100 Mbit/s`. Empty means that there is no limit.
    pub fn parse(text: &str) -> Result<Option<Self>> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let number = text[..text.len() - unit.len()].parse::<f64>().ok();
        let rate = number.zip(bytes_of(unit.trim()));
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is positive, and a fraction of a byte does not matter"
        )]
        let bytes = rate.map_or(0, |(number, unit)| (number * unit) as u64);
        if bytes == 0 {
            return Err(Error::usage(format!("bandwidth {text:?} is no rate"))
                .hint("Write it as 20 MB/s, 512 KiB/s or 100 Mbit/s."));
        }
        Ok(Some(Self(bytes)))
    }

    /// How much is written at a time.
    fn piece(self) -> usize {
        usize::try_from((self.0 / PIECES).clamp(1, LARGEST)).unwrap_or(1)
    }

    fn time_for(self, bytes: u64) -> Duration {
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(self.0);
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

/// What a unit stands for, in bytes a second.
fn bytes_of(unit: &str) -> Option<f64> {
    Some(match unit.strip_suffix("/s")? {
        "B" => 1.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "KiB" => 1024.0,
        "MiB" => 1_048_576.0,
        "GiB" => 1_073_741_824.0,
        "kbit" | "Kbit" => 1e3 / 8.0,
        "Mbit" => 1e6 / 8.0,
        "Gbit" => 1e9 / 8.0,
        _ => return None,
    })
}

/// Says how long to wait.
#[derive(Debug)]
struct TokenBucket {
    bandwidth: Bandwidth,
    /// Until when the line is taken by what was written.
    taken_until: Instant,
}

impl TokenBucket {
    fn new(bandwidth: Bandwidth, now: Instant) -> Self {
        Self {
            bandwidth,
            taken_until: now,
        }
    }

    /// Takes room for `bytes` that were written `now`; answers how long nothing may be written then.
    fn take(&mut self, bytes: u64, now: Instant) -> Duration {
        let earliest = now.checked_sub(SAVED_UP).unwrap_or(now);
        self.taken_until = self.taken_until.max(earliest) + self.bandwidth.time_for(bytes);
        self.taken_until.saturating_duration_since(now)
    }
}

/// Something that is written no faster than a limit allows.
pub struct Limited {
    sink: Box<dyn Sink>,
    bucket: TokenBucket,
}

impl Limited {
    /// Limits what is written to `sink`.
    #[must_use]
    pub fn new(sink: Box<dyn Sink>, bandwidth: Bandwidth) -> Self {
        Self {
            sink,
            bucket: TokenBucket::new(bandwidth, Instant::now()),
        }
    }
}

impl Write for Limited {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let length = buffer.len().min(self.bucket.bandwidth.piece());
        let written = self.sink.write(&buffer[..length])?;
        std::thread::sleep(self.bucket.take(written as u64, Instant::now()));
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.sink.flush()
    }
}

impl Sink for Limited {
    fn publish(self: Box<Self>) -> Result<()> {
        self.sink.publish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rates_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("20 MB/s", 20_000_000),
            ("1.5MiB/s", 1_572_864),
            (" 512 KiB/s ", 524_288),
            ("100 Mbit/s", 12_500_000),
            ("7 B/s", 7),
        ] {
            assert_eq!(Bandwidth::parse(text).unwrap(), Some(Bandwidth(bytes)));
        }
        assert_eq!(Bandwidth::parse("").unwrap(), None);
        for wrong in [
            "fast",
            "20",
            "20 MB",
            "0 MB/s",
            "-1 MB/s",
            "1.2.3 MB/s",
            "20 mb/s",
        ] {
            let error = Bandwidth::parse(wrong).unwrap_err();
            assert!(error.to_string().contains(wrong), "{error}");
        }
    }

    proptest! {
        /// On a clock of its own: whoever waits as told, and sometimes longer, never writes more in any
        /// span of time than the limit gives, what was saved up, and one piece.
        #[test]
        fn no_span_of_time_gets_more_than_its_share(
            rate in 1_000_u64..50_000_000,
            steps in proptest::collection::vec((1_u64..1000, 0_u64..600), 1..200),
        ) {
            let bandwidth = Bandwidth(rate);
            let begun = Instant::now();
            let (mut bucket, mut now) = (TokenBucket::new(bandwidth, begun), begun);
            let mut written: Vec<(Instant, u64)> = Vec::new();
            for (thousandths, idle) in steps {
                let bytes = bandwidth.piece() as u64 * thousandths / 1000 + 1;
                written.push((now, bytes));
                now += bucket.take(bytes, now) + Duration::from_millis(idle);
            }
            for first in 0..written.len() {
                let mut sum = 0;
                for (at, bytes) in &written[first..] {
                    sum += u128::from(*bytes);
                    let span = (*at - written[first].0 + SAVED_UP).as_nanos();
                    // Time is counted in whole nanoseconds, in which some bytes fit.
                    let most = u128::from(rate) * span / 1_000_000_000 + bandwidth.piece() as u128 + 32;
                    prop_assert!(sum <= most, "{sum} bytes in {span} ns");
                }
            }
        }

        /// And whoever waits just as told is not held up more than the limit asks for.
        #[test]
        fn what_the_limit_gives_is_used(rate in 1_000_u64..50_000_000, pieces in 1_u32..500) {
            let bandwidth = Bandwidth(rate);
            let begun = Instant::now();
            let (mut bucket, mut now) = (TokenBucket::new(bandwidth, begun), begun);
            for _ in 0..pieces {
                now += bucket.take(bandwidth.piece() as u64, now);
            }
            let exact = bandwidth.time_for(bandwidth.piece() as u64) * pieces;
            prop_assert_eq!(now - begun, exact);
        }
    }
}
