//! A moment as people write it, in a time zone that is named or configured.

use crate::adapters::time_zone;
use crate::error::{Error, Result};
use chrono::{DateTime, LocalResult, NaiveDateTime, TimeZone, Utc};
use chrono_tz::Tz;

/// Without an offset.
const PLAIN: [&str; 4] = [
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%dT%H:%M",
];

/// With one.
const WITH_OFFSET: [&str; 4] = [
    "%Y-%m-%d %H:%M:%S%.f%#z",
    "%Y-%m-%d %H:%M%#z",
    "%Y-%m-%dT%H:%M:%S%.f%#z",
    "%Y-%m-%dT%H:%M%#z",
];

/// A moment, and the time zone that it was said in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// The moment.
    pub at: DateTime<Utc>,
    /// As it is shown, with the time zone's name.
    pub shown: String,
}

impl Moment {
    /// Reads `2026-11-23 19:00`, with seconds and their fraction if need be, and with an offset, `Z` or the
    /// name of a time zone behind it; without, it is in the zone that the configuration names.
    pub fn parse(text: &str, configured: &str) -> Result<Self> {
        let text = text.trim();
        let utc = text.strip_suffix('Z').map(|t| format!("{t}+00:00"));
        let with_offset = utc.as_deref().unwrap_or(text);
        for format in WITH_OFFSET {
            let found = DateTime::parse_from_str(with_offset, format);
            // A blank before the offset is as good.
            let found = found
                .or_else(|_| DateTime::parse_from_str(with_offset, &format.replace("%#z", " %#z")));
            if let Ok(found) = found {
                return Ok(Self {
                    at: found.to_utc(),
                    shown: found.format("%Y-%m-%d %H:%M:%S%.f %:z").to_string(),
                });
            }
        }
        let (plain, zone) = match text.rsplit_once(' ') {
            Some((plain, zone)) if zone.starts_with(|c: char| c.is_alphabetic()) => {
                (plain.trim_end(), zone)
            }
            _ => (text, configured),
        };
        let zone = time_zone::named(zone)?;
        let local = PLAIN
            .iter()
            .find_map(|format| NaiveDateTime::parse_from_str(plain, format).ok());
        let local = local.ok_or_else(|| {
            Error::usage(format!("{text:?} is no moment")).hint(
                "Write it as in \"2026-11-23 19:00\", with seconds if need be, and with a time zone such as UTC, +01:00 or Europe/Berlin behind it if it is not the configured one.",
            )
        })?;
        Self::in_zone(local, zone)
    }

    fn in_zone(local: NaiveDateTime, zone: Tz) -> Result<Self> {
        let offset = |hint: &str| format!("Write the offset behind it, as in \"{hint}\".");
        match zone.from_local_datetime(&local) {
            LocalResult::Single(at) => Ok(Self {
                at: at.to_utc(),
                shown: format!("{local} {} ({})", at.format("%:z"), zone.name()),
            }),
            LocalResult::Ambiguous(one, other) => Err(Error::usage(format!(
                "{local} was there twice in {}: the clock was put back",
                zone.name()
            ))
            .hint(offset(&format!(
                "{local} {}\" or \"{local} {}",
                one.format("%:z"),
                other.format("%:z")
            )))),
            LocalResult::None => Err(Error::usage(format!(
                "{local} was never there in {}: the clock was put forward",
                zone.name()
            ))
            .hint(offset(&format!("{local} +00:00")))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_in_the_zone_that_is_named_or_configured() {
        let utc = |text: &str| Moment::parse(text, "Europe/Berlin").unwrap().at.to_string();
        assert_eq!(utc("2026-11-23 19:00"), "2026-11-23 18:00:00 UTC");
        assert_eq!(utc("2026-07-23 19:00:05.25"), "2026-07-23 17:00:05.250 UTC");
        for same in [
            "2026-11-23T19:00:00+01:00",
            "2026-11-23 19:00+01",
            "2026-11-23 18:00 UTC",
            "2026-11-23 18:00Z",
            "2026-11-23T18:00:00Z",
            "2026-11-23 13:00 America/New_York",
            " 2026-11-23 19:00 +01:00 ",
        ] {
            assert_eq!(utc(same), "2026-11-23 18:00:00 UTC", "{same}");
        }
        let shown = Moment::parse("2026-11-23 19:00", "Europe/Berlin")
            .unwrap()
            .shown;
        assert_eq!(shown, "2026-11-23 19:00:00 +01:00 (Europe/Berlin)");
    }

    #[test]
    fn what_is_no_moment_or_two_is_refused() {
        let refused = |text: &str| {
            let error = Moment::parse(text, "Europe/Berlin").unwrap_err();
            format!("{error} {}", error.hint_text().unwrap_or_default())
        };
        let twice = refused("2026-10-25 02:30");
        assert!(
            twice.contains("+02:00") && twice.contains("+01:00"),
            "{twice}"
        );
        assert!(refused("2026-03-29 02:30").contains("never there"));
        assert!(refused("2026-11-23").contains("19:00"));
        assert!(refused("2026-11-23 19:00 Mars/Base").contains("Mars/Base"));
        assert!(refused("yesterday").contains("yesterday"));
    }
}
