//! When: a cron expression or a calendar word, read once and then the same for cron, for systemd and
//! for the daemon.
//!
//! Only what all three mean alike is taken: five fields of numbers, names, ranges, steps and lists,
//! and not a day of the month together with a day of the week.

use crate::error::{Error, Result};
use chrono::{DateTime, Timelike};
use chrono_tz::Tz;
use croner::Cron;
use serde::Serialize;
use std::str::FromStr;

/// The words, and what they stand for.
const WORDS: [(&str, &str); 6] = [
    ("hourly", "0 * * * *"),
    ("daily", "0 0 * * *"),
    ("midnight", "0 0 * * *"),
    ("weekly", "0 0 * * 0"),
    ("monthly", "0 0 1 * *"),
    ("yearly", "0 0 1 1 *"),
];
const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Points of time that come again.
#[derive(Debug, Clone, Serialize)]
#[serde(into = "String")]
pub struct Calendar {
    written: String,
    minutes: Field,
    hours: Field,
    days: Field,
    months: Field,
    weekdays: Field,
    cron: Cron,
}

/// The values of one field; none if it is `*`.
#[derive(Debug, Clone, Default)]
struct Field(Option<Vec<u8>>);

impl From<Calendar> for String {
    fn from(calendar: Calendar) -> Self {
        calendar.written
    }
}

impl std::fmt::Display for Calendar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.written)
    }
}

impl Calendar {
    /// Reads `written`: a word such as `daily`, or five fields as cron has them. Fails with a usage
    /// error.
    pub fn parse(written: &str) -> Result<Self> {
        let written = written.trim().to_lowercase();
        let word = written.strip_prefix('@').unwrap_or(&written);
        let expression = WORDS
            .iter()
            .find_map(|(name, expression)| (*name == word).then_some(*expression))
            .unwrap_or(&written);
        let wrong = |why: &str| {
            Error::usage(format!("{written:?} is no schedule: {why}")).hint(
                "Write five fields as in \"15 3 * * *\" (minute, hour, day, month, day of the \
                 week), or hourly, daily, weekly, monthly or yearly.",
            )
        };
        let fields: Vec<&str> = expression.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(wrong("it has not five fields"));
        };
        let field = |text, least, most, names: &[&str]| {
            Field::parse(text, least, most, names)
                .ok_or_else(|| wrong(&format!("{text:?} does not say from {least} to {most}")))
        };
        let mut calendar = Self {
            minutes: field(minutes, 0, 59, &[])?,
            hours: field(hours, 0, 23, &[])?,
            days: field(days, 1, 31, &[])?,
            months: field(months, 1, 12, &MONTHS)?,
            weekdays: field(weekdays, 0, 7, &DAYS)?.sunday_first(),
            cron: Cron::from_str("* * * * *").map_err(|_| wrong("it cannot be read"))?,
            written: written.clone(),
        };
        if calendar.days.0.is_some() && calendar.weekdays.0.is_some() {
            return Err(wrong(
                "a day of the month and a day of the week together mean another thing to cron than \
                 to systemd",
            ));
        }
        calendar.cron =
            Cron::from_str(&calendar.as_cron()).map_err(|_| wrong("it cannot be read"))?;
        if calendar
            .next_after(DateTime::UNIX_EPOCH.with_timezone(&Tz::UTC))
            .is_none()
        {
            return Err(wrong("there is no such day"));
        }
        Ok(calendar)
    }

    /// The first point after `time`.
    #[must_use]
    pub fn next_after(&self, time: DateTime<Tz>) -> Option<DateTime<Tz>> {
        let whole = time.with_nanosecond(0)?;
        self.cron.find_next_occurrence(&whole, false).ok()
    }

    /// The last point at `time` or before it.
    #[must_use]
    pub fn last_until(&self, time: DateTime<Tz>) -> Option<DateTime<Tz>> {
        let whole = time.with_nanosecond(0)?;
        self.cron.find_previous_occurrence(&whole, true).ok()
    }

    /// The five fields of a crontab.
    #[must_use]
    pub fn as_cron(&self) -> String {
        let fields = [
            &self.minutes,
            &self.hours,
            &self.days,
            &self.months,
            &self.weekdays,
        ];
        fields.map(|field| field.list("*", u8::to_string)).join(" ")
    }

    /// What systemd's `OnCalendar` takes.
    #[must_use]
    pub fn as_on_calendar(&self, zone: Tz) -> String {
        let two = |n: &u8| format!("{n:02}");
        let weekday = |n: &u8| {
            let name = DAYS.get(usize::from(*n)).copied().unwrap_or_default();
            name[..1].to_uppercase() + &name[1..]
        };
        let weekdays = match &self.weekdays.0 {
            None => String::new(),
            Some(_) => self.weekdays.list("", weekday) + " ",
        };
        format!(
            "{weekdays}*-{}-{} {}:{}:00 {}",
            self.months.list("*", two),
            self.days.list("*", two),
            self.hours.list("*", two),
            self.minutes.list("*", two),
            zone.name()
        )
    }
}

impl Field {
    fn parse(text: &str, least: u8, most: u8, names: &[&str]) -> Option<Self> {
        if text == "*" {
            return Some(Self(None));
        }
        let number = |text: &str| -> Option<u8> {
            let by_name = names.iter().position(|name| *name == text);
            // Months are counted from 1, days from 0.
            let value = match by_name {
                Some(place) => u8::try_from(place).ok()? + least,
                None => text.parse().ok()?,
            };
            (least..=most).contains(&value).then_some(value)
        };
        let mut values = Vec::new();
        for item in text.split(',') {
            let (range, step) = match item.split_once('/') {
                Some((range, step)) => (range, step.parse().ok().filter(|step| *step > 0)?),
                None => (item, 1_u8),
            };
            let (from, to) = match range.split_once('-') {
                _ if range == "*" => (least, most),
                Some((from, to)) => (number(from)?, number(to)?),
                // A step needs a range to walk through.
                None if item != range => return None,
                None => (number(range)?, number(range)?),
            };
            if from > to {
                return None;
            }
            values.extend((from..=to).step_by(usize::from(step)));
        }
        values.sort_unstable();
        values.dedup();
        Some(Self(Some(values)))
    }

    /// Sunday is 0 and 7 in a crontab.
    fn sunday_first(mut self) -> Self {
        if let Some(days) = &mut self.0 {
            for day in days.iter_mut() {
                *day %= 7;
            }
            days.sort_unstable();
            days.dedup();
        }
        self
    }

    fn list(&self, all: &str, write: impl Fn(&u8) -> String) -> String {
        match &self.0 {
            None => all.to_owned(),
            Some(values) => values.iter().map(write).collect::<Vec<_>>().join(","),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{TimeZone, Utc};

    #[test]
    fn words_and_expressions_are_the_same_for_cron_and_systemd() {
        for (written, cron, on_calendar) in [
            ("daily", "0 0 * * *", "*-*-* 00:00:00 UTC"),
            ("@weekly", "0 0 * * 0", "Sun *-*-* 00:00:00 UTC"),
            (
                "*/20 3 * * *",
                "0,20,40 3 * * *",
                "*-*-* 03:00,20,40:00 UTC",
            ),
            (
                "15 3 1,15 JAN-mar *",
                "15 3 1,15 1,2,3 *",
                "*-01,02,03-01,15 03:15:00 UTC",
            ),
            (
                "5 4-6 * * Fri-7",
                "5 4,5,6 * * 0,5,6",
                "Sun,Fri,Sat *-*-* 04,05,06:05:00 UTC",
            ),
            (
                "0 1-23/11 * * *",
                "0 1,12,23 * * *",
                "*-*-* 01,12,23:00:00 UTC",
            ),
        ] {
            let calendar = Calendar::parse(written).unwrap();
            assert_eq!(calendar.as_cron(), cron);
            assert_eq!(calendar.as_on_calendar(Tz::UTC), on_calendar);
        }
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for written in [
            "",
            "often",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 8",
            "5/15 * * * *",
            "5-3 * * * *",
            "*/0 * * * *",
            "0 0 30 2 *",
            "0 0 1 * 1",
            "0 0 L * *",
            "0 0 * * 1#2",
            "a-b * * * *",
            "-1 * * * *",
        ] {
            assert!(Calendar::parse(written).is_err(), "{written:?}");
        }
    }

    #[test]
    fn points_are_those_of_the_time_zone_also_where_clocks_are_changed() {
        let calendar = Calendar::parse("30 2 * * *").unwrap();
        let zone = Tz::Europe__Berlin;
        let at = |d, h, m| zone.with_ymd_and_hms(2026, 3, d, h, m, 0).unwrap();
        assert_eq!(calendar.next_after(at(27, 12, 0)).unwrap(), at(28, 2, 30));
        assert_eq!(calendar.last_until(at(28, 2, 30)).unwrap(), at(28, 2, 30));
        // On the 29th there is no half past two: it happens all the same, and once.
        let spring = calendar.next_after(at(28, 2, 30)).unwrap();
        assert!(spring > at(29, 1, 0) && spring <= at(29, 4, 0), "{spring}");
        assert_eq!(calendar.next_after(spring).unwrap(), at(30, 2, 30));
        assert_eq!(
            at(30, 2, 30).with_timezone(&Utc).to_rfc3339(),
            "2026-03-30T00:30:00+00:00"
        );
    }
}
