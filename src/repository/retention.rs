//! Which archives are kept, as a pure judgement: rules and archives in, a verdict with its reasons
//! for each out. It deletes nothing and reads no file.
//!
//! Whatever the rules say, nothing is deleted that is as new as the newest proven archive, or newer:
//! the last good archive is never given up for one that nobody has tried.

use super::is_ahead;
use crate::config::Keep;
use crate::error::{Error, Result};
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use serde::Serialize;

/// What is to be judged, as far as retention cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The archive's name.
    pub name: String,
    /// When its backup began.
    pub time: DateTime<Utc>,
    /// Its size in bytes.
    pub size: u64,
    /// What it is.
    pub class: Class,
}

/// What an archive is to retention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Class {
    /// A complete backup.
    Backup {
        /// It passed what is asked of a proof.
        proven: bool,
    },
    /// What a restore saved before it replaced it.
    Safety,
    /// No backup, for this reason. It is never deleted: somebody should look at it.
    Odd(String),
}

/// Whether an archive is kept, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The archive's name.
    pub name: String,
    /// When its backup began.
    pub time: DateTime<Utc>,
    /// Its size in bytes.
    pub size: u64,
    /// It is kept.
    pub keep: bool,
    /// Why, one reason a rule.
    pub reasons: Vec<String>,
}

/// Judges `candidates` by `keep`, with days and weeks as they are in `zone`. The answer is newest
/// first. Fails with a usage error on rules that keep nothing.
pub fn judge(
    mut candidates: Vec<Candidate>,
    keep: &Keep,
    zone: Tz,
    now: DateTime<Utc>,
) -> Result<Vec<Verdict>> {
    let within = checked(keep)?;
    candidates.sort_by(|a, b| (b.time, &b.name).cmp(&(a.time, &a.name)));
    for candidate in &mut candidates {
        if is_ahead(candidate.time, now) {
            candidate.class = Class::Odd("it is from the future: a clock was wrong".to_owned());
        }
    }
    let proven = |c: &&Candidate| matches!(c.class, Class::Backup { proven: true });
    let newest_proven = candidates.iter().find(proven).map(|c| c.time);
    let mut rules = Rules::new(keep, within, zone);
    Ok(candidates
        .into_iter()
        .map(|candidate| verdict(candidate, &mut rules, newest_proven))
        .collect())
}

fn verdict(
    candidate: Candidate,
    rules: &mut Rules<'_>,
    newest_proven: Option<DateTime<Utc>>,
) -> Verdict {
    let mut reasons = match &candidate.class {
        Class::Odd(why) => vec![why.clone()],
        Class::Safety => rules.for_safety(),
        Class::Backup { .. } => rules.for_backup(candidate.time),
    };
    let replaced = newest_proven.is_some_and(|proven| candidate.time < proven);
    if reasons.is_empty() && !replaced {
        reasons.push("no newer archive is proven".to_owned());
    }
    let keep = !reasons.is_empty();
    if !keep {
        reasons.push("no rule keeps it".to_owned());
    }
    Verdict {
        name: candidate.name,
        time: candidate.time,
        size: candidate.size,
        keep,
        reasons,
    }
}

/// Insists that something is kept, and answers `within` as a time.
fn checked(keep: &Keep) -> Result<Option<TimeDelta>> {
    let counts = [
        keep.last,
        keep.hourly,
        keep.daily,
        keep.weekly,
        keep.monthly,
        keep.yearly,
    ];
    let within = match keep.within.trim() {
        "" => None,
        text => Some(time_span(text)?),
    };
    if within.is_none() && counts.iter().all(|&count| count == 0) {
        return Err(Error::usage("no rule keeps any archive")
            .hint("Say what to keep, as in `[backup.keep] daily = 7` or --keep-daily 7."));
    }
    Ok(within)
}

fn time_span(text: &str) -> Result<TimeDelta> {
    let span = humantime::parse_duration(text).ok();
    span.and_then(|span| TimeDelta::from_std(span).ok())
        .ok_or_else(|| {
            Error::usage(format!("{text:?} is no span of time to keep archives for"))
                .hint("Write it as in 14d, 6months or 36h.")
        })
}

/// The rules while archives are shown to them, newest first.
struct Rules<'a> {
    keep: &'a Keep,
    within: Option<TimeDelta>,
    zone: Tz,
    newest: Option<DateTime<Utc>>,
    last: u32,
    safety: u32,
    periods: [Period; 5],
}

/// A rule that keeps the newest archive of each of the newest periods that have one.
struct Period {
    name: &'static str,
    /// How a period is written, which also tells it from others.
    format: &'static str,
    left: u32,
    current: String,
}

impl<'a> Rules<'a> {
    fn new(keep: &'a Keep, within: Option<TimeDelta>, zone: Tz) -> Self {
        let period = |name, format, left| Period {
            name,
            format,
            left,
            current: String::new(),
        };
        Self {
            keep,
            within,
            zone,
            newest: None,
            last: 0,
            safety: 0,
            // An hour that the clock shows twice is two hours.
            periods: [
                period("hourly", "%Y-%m-%d %H:00 %z", keep.hourly),
                period("daily", "%Y-%m-%d", keep.daily),
                period("weekly", "%G-W%V", keep.weekly),
                period("monthly", "%Y-%m", keep.monthly),
                period("yearly", "%Y", keep.yearly),
            ],
        }
    }

    fn for_backup(&mut self, time: DateTime<Utc>) -> Vec<String> {
        let mut reasons = Vec::new();
        let newest = *self.newest.get_or_insert(time);
        self.last += 1;
        if self.last <= self.keep.last {
            reasons.push(format!("last {}", self.last));
        }
        for period in &mut self.periods {
            let shown = time
                .with_timezone(&self.zone)
                .format(period.format)
                .to_string();
            if period.left > 0 && shown != period.current {
                reasons.push(format!("{} {shown}", period.name));
                period.left -= 1;
                period.current = shown;
            }
        }
        if self.within.is_some_and(|within| newest - time <= within) {
            reasons.push(format!("within {}", self.keep.within.trim()));
        }
        reasons
    }

    fn for_safety(&mut self) -> Vec<String> {
        self.safety += 1;
        if self.safety <= self.keep.safety {
            vec![format!("safety {}", self.safety)]
        } else {
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn backup(time: &str, proven: bool) -> Candidate {
        Candidate {
            name: time.to_owned(),
            time: at(time),
            size: 1,
            class: Class::Backup { proven },
        }
    }

    fn none() -> Keep {
        Keep {
            last: 0,
            daily: 0,
            weekly: 0,
            monthly: 0,
            yearly: 0,
            safety: 0,
            ..Keep::default()
        }
    }

    fn deleted(candidates: Vec<Candidate>, keep: &Keep, zone: Tz) -> Vec<String> {
        let verdicts = judge(candidates, keep, zone, at("2026-12-01T00:00:00Z")).unwrap();
        let gone = verdicts.into_iter().filter(|verdict| !verdict.keep);
        gone.map(|verdict| verdict.name).collect()
    }

    #[test]
    fn days_are_those_of_the_time_zone() {
        let two = || {
            vec![
                backup("2026-06-01T21:30:00Z", true),
                backup("2026-06-01T22:30:00Z", true),
            ]
        };
        let keep = Keep { daily: 9, ..none() };
        assert_eq!(deleted(two(), &keep, Tz::UTC), ["2026-06-01T21:30:00Z"]);
        assert!(deleted(two(), &keep, Tz::Europe__Berlin).is_empty());
    }

    #[test]
    fn the_hour_that_comes_twice_is_two_hours() {
        let two = vec![
            backup("2026-10-25T00:30:00Z", true),
            backup("2026-10-25T01:30:00Z", true),
        ];
        let keep = Keep {
            hourly: 9,
            ..none()
        };
        assert!(deleted(two, &keep, Tz::Europe__Berlin).is_empty());
    }

    #[test]
    fn nothing_as_new_as_the_newest_proven_one_is_deleted() {
        let keep = Keep { last: 1, ..none() };
        let three = |proven: [bool; 3]| {
            vec![
                backup("2026-06-03T00:00:00Z", proven[2]),
                backup("2026-06-01T00:00:00Z", proven[0]),
                backup("2026-06-02T00:00:00Z", proven[1]),
            ]
        };
        let gone = |proven| deleted(three(proven), &keep, Tz::UTC).len();
        assert_eq!(gone([true, false, false]), 0);
        assert_eq!(gone([true, true, false]), 1);
        assert_eq!(gone([false, true, true]), 2);
        assert_eq!(gone([false, false, false]), 0);
    }

    #[test]
    fn odd_files_stay_and_count_for_no_rule() {
        let keep = Keep { last: 1, ..none() };
        let mut future = backup("2027-06-03T00:00:00Z", true);
        let mut odd = backup("2026-06-04T00:00:00Z", true);
        odd.class = Class::Odd("damaged".to_owned());
        let good = backup("2026-06-01T00:00:00Z", true);
        let all = vec![future.clone(), odd, good];
        assert!(deleted(all, &keep, Tz::UTC).is_empty());
        future.time = at("2026-12-01T01:00:00Z");
        let old = backup("2026-06-01T00:00:00Z", true);
        assert_eq!(deleted(vec![future, old], &keep, Tz::UTC).len(), 1);
    }

    #[test]
    fn rules_that_keep_nothing_and_spans_that_are_none_are_refused() {
        let now = at("2026-12-01T00:00:00Z");
        assert!(judge(Vec::new(), &none(), Tz::UTC, now).is_err());
        let keep = Keep {
            within: "soon".to_owned(),
            ..none()
        };
        assert!(judge(Vec::new(), &keep, Tz::UTC, now).is_err());
    }
}
