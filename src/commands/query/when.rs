//! Moments as people write them.

use crate::error::{Error, Result};
use chrono::{DateTime, NaiveDate, NaiveTime, Utc};

/// A moment, or how long ago it was. Days without a time are midnight in UTC.
pub(super) fn moment(text: &str) -> Result<DateTime<Utc>, String> {
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

/// `--since` must come before `--until`.
pub(super) fn check_order(
    since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
) -> Result<()> {
    match (since, until) {
        (Some(since), Some(until)) if since >= until => Err(Error::usage(
            "--since is not before --until, so nothing can lie between them",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_date_or_how_long_ago() {
        let day = moment("2026-11-01").unwrap();
        assert_eq!(day.to_rfc3339(), "2026-11-01T00:00:00+00:00");
        let zoned = moment("2026-11-01T08:00:00+02:00").unwrap();
        assert_eq!(zoned.to_rfc3339(), "2026-11-01T06:00:00+00:00");
        let week_ago = moment("7d").unwrap();
        assert_eq!((Utc::now() - week_ago).num_hours(), 168);
        for wrong in ["", "yesterday", "7", "-7d", "9999999999999y"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
        assert!(check_order(Some(day), Some(day)).is_err());
        assert!(check_order(Some(zoned), Some(day)).is_err());
        assert!(check_order(Some(day), Some(zoned)).is_ok());
    }
}
