//! The segments of a store as one chain along a timeline's history: where it has gaps, and which
//! moments it reaches from a base.

use super::history::History;
use super::name::{Segment, parse_lsn, show_lsn};
use super::note::Note;
use super::scan::{Scanner, Stop};
use super::store::{Listing, Store};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::collections::BTreeSet;

/// How much longer a page's header may be than the page is written to.
const PAGE_HEADER: u64 = 40;

/// Segments that are not there, although later ones are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The first of them.
    pub first: String,
    /// The last of them.
    pub last: String,
    /// How many they are.
    pub segments: u64,
}

impl std::fmt::Display for Gap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.segments == 1 {
            return write!(f, "WAL segment {} is missing", self.first);
        }
        let (count, first, last) = (self.segments, &self.first, &self.last);
        write!(f, "{count} WAL segments are missing, {first} to {last}")
    }
}

/// Where the recovery of a server is to stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reached {
    /// Before the first transaction that ended later.
    Time,
    /// Behind the record that begins here: it is the last one there is, and all of it belongs.
    Position(String),
    /// At the end of the base: nothing was written since.
    Base,
}

/// What a moment takes that can be reached.
#[derive(Debug, Clone, Serialize)]
pub struct Reach {
    /// Where to stop.
    pub stop: Reached,
    /// The timeline to follow.
    pub timeline: u32,
    /// The names of the segments that are read, in order.
    pub segments: Vec<String>,
}

/// A data directory that recovery begins with.
#[derive(Debug, Clone, Copy)]
pub struct Base {
    /// The timeline at its end.
    pub timeline: u32,
    /// Where it ends.
    pub end: u64,
}

/// A store seen along one timeline.
#[derive(Debug)]
pub struct Chain<'a> {
    store: &'a Store,
    listing: Listing,
    history: History,
}

impl<'a> Chain<'a> {
    /// Along `timeline`, or the newest one that comes from `base`.
    pub fn from(store: &'a Store, base: Base, timeline: Option<u32>) -> Result<Self> {
        let listing = store.list()?;
        let candidates: BTreeSet<u32> = match timeline {
            Some(timeline) => BTreeSet::from([timeline]),
            None => timelines(&listing).chain([base.timeline]).collect(),
        };
        for &timeline in candidates.iter().rev() {
            let history = history(store, timeline)?;
            if history.holds(base.timeline, base.end) {
                return Ok(Self {
                    store,
                    listing,
                    history,
                });
            }
        }
        let shown = candidates.first().copied().unwrap_or(base.timeline);
        Err(Error::missing(format!(
            "timeline {shown} does not come from {} on timeline {}, where the backup ends",
            show_lsn(base.end),
            base.timeline
        ))
        .hint("Leave --timeline away, or name an archive of before that timeline began."))
    }

    /// The timeline.
    #[must_use]
    pub fn timeline(&self) -> u32 {
        self.history.timeline()
    }

    /// The first segment that recovery needs besides what is in the base itself.
    fn first(&self, base: Base) -> u64 {
        base.end.saturating_sub(1) / self.store.segment_size() + 1
    }

    /// Every segment behind `base` that is complete, and the last one of which a part is there.
    fn numbers(&self, base: Base) -> (BTreeSet<u64>, Option<u64>) {
        let (first, size) = (self.first(base), self.store.segment_size());
        let belongs =
            |s: &&Segment| s.number >= first && self.history.segment(s.number, size) == **s;
        let complete: BTreeSet<u64> = self
            .listing
            .segments
            .keys()
            .filter(belongs)
            .map(|s| s.number)
            .collect();
        let partial = self.listing.partial.iter().filter(belongs);
        let partial = partial.map(|s| s.number).max();
        let last = complete.last().copied();
        (complete, partial.filter(|number| Some(*number) > last))
    }

    /// How many segments are there behind `base`.
    #[must_use]
    pub fn count(&self, base: Base) -> u64 {
        let (numbers, partial) = self.numbers(base);
        numbers.len() as u64 + u64::from(partial.is_some())
    }

    /// What is missing behind `base`.
    #[must_use]
    pub fn gaps(&self, base: Base) -> Vec<Gap> {
        let (numbers, partial) = self.numbers(base);
        let mut expected = self.first(base);
        let mut gaps = Vec::new();
        for number in numbers.into_iter().chain(partial) {
            if number > expected {
                gaps.push(Gap {
                    first: self.name(expected),
                    last: self.name(number - 1),
                    segments: number - expected,
                });
            }
            expected = number + 1;
        }
        gaps
    }

    /// Reads every segment behind `base` and every record in it. Answers how many segments that were, and
    /// what is wrong with those that are not whole.
    pub fn read_all(&self, base: Base, interrupt: &Interrupt) -> Result<(u64, Vec<String>)> {
        let (numbers, partial) = self.numbers(base);
        let (mut scanner, mut read, mut wrong) = (Scanner::default(), 0, Vec::new());
        let mut expected = None;
        for &number in &numbers {
            interrupt.check()?;
            if expected != Some(number) {
                scanner = Scanner::default();
            }
            expected = Some(number + 1);
            if let Err(error) = self.scan(&mut scanner, number) {
                wrong.push(error.to_string());
                scanner = Scanner::default();
            }
            read += 1;
        }
        Ok((read + u64::from(partial.is_some()), wrong))
    }

    fn scan(&self, scanner: &mut Scanner, number: u64) -> Result<()> {
        let size = self.store.segment_size();
        let segment = self.history.segment(number, size);
        let contents = self.store.read_segment(segment)?;
        let contents =
            contents.ok_or_else(|| Error::missing(self.gap(number, number).to_string()))?;
        scanner.read_whole(segment, size, &contents)
    }

    /// How to get to the state at `moment`. Reads whatever recovery would read, so that nothing is begun
    /// that cannot be done.
    pub fn reach(&self, base: Base, moment: DateTime<Utc>, interrupt: &Interrupt) -> Result<Reach> {
        let (numbers, partial) = self.numbers(base);
        let mut scanner = Scanner::default();
        let mut reach = Reach {
            stop: Reached::Time,
            timeline: self.timeline(),
            segments: Vec::new(),
        };
        let mut number = self.first(base);
        while numbers.contains(&number) {
            interrupt.check()?;
            self.scan(&mut scanner, number)?;
            reach.segments.push(self.name(number));
            number += 1;
            if scanner.latest_end > Some(moment) {
                return Ok(reach);
            }
        }
        if let Some(&next) = numbers.range(number..).next().or(partial.as_ref())
            && next > number
        {
            return Err(Self::broken(&self.gap(number, next - 1), &scanner));
        }
        let size = self.store.segment_size();
        let mut end = number * size;
        if partial == Some(number)
            && let Some(contents) = self
                .store
                .read_partial(self.history.segment(number, size))?
        {
            reach.segments.push(self.name(number));
            end = match scanner.read(number * size, &contents) {
                Stop::At(lsn) => lsn,
                Stop::Whole => number * size + contents.len() as u64,
            };
            if scanner.latest_end > Some(moment) {
                return Ok(reach);
            }
        }
        let complete = self.complete_until(end);
        if moment > base_or(complete.max(scanner.latest_end)) {
            return Err(self.too_late(moment, complete, &scanner));
        }
        reach.stop = match scanner.last_record {
            Some(record) => Reached::Position(show_lsn(record)),
            None => Reached::Base,
        };
        Ok(reach)
    }

    /// Until when the log is known to hold everything, if it is there up to where that was said of.
    fn complete_until(&self, end: u64) -> Option<DateTime<Utc>> {
        let note = Note::read(self.store)?;
        let at = parse_lsn(&note.complete_at)?;
        let is_there = note.timeline == self.timeline() && at <= end + PAGE_HEADER;
        note.complete_until.filter(|_| is_there)
    }

    fn broken(gap: &Gap, scanner: &Scanner) -> Error {
        let last = scanner.latest_end.map_or_else(
            || "no moment after the backup can be reached".to_owned(),
            |last| {
                format!(
                    "the last moment before it that can be reached is {}",
                    precise(last - chrono::TimeDelta::microseconds(1))
                )
            },
        );
        Error::bad_data(format!("the write-ahead log has a gap: {gap}; {last}")).hint(
            "Name an earlier moment, or an archive that ended after the gap; `k1ops verify` shows all gaps.",
        )
    }

    fn too_late(
        &self,
        moment: DateTime<Utc>,
        complete: Option<DateTime<Utc>>,
        scanner: &Scanner,
    ) -> Error {
        let last = complete
            .max(scanner.latest_end)
            .map_or_else(|| "no moment after the backup".to_owned(), precise);
        Error::missing(format!(
            "{} is beyond the write-ahead log of timeline {}; the last moment that can be reached is {last}",
            precise(moment),
            self.timeline()
        ))
        .hint("Name that moment or an earlier one; `k1ops status` says how the log comes in.")
    }

    fn gap(&self, first: u64, last: u64) -> Gap {
        Gap {
            first: self.name(first),
            last: self.name(last),
            segments: last - first + 1,
        }
    }

    fn name(&self, number: u64) -> String {
        self.store
            .name(self.history.segment(number, self.store.segment_size()))
    }
}

fn base_or(moment: Option<DateTime<Utc>>) -> DateTime<Utc> {
    moment.unwrap_or(DateTime::<Utc>::MIN_UTC)
}

fn precise(moment: DateTime<Utc>) -> String {
    moment.format("%Y-%m-%d %H:%M:%S%.6f UTC").to_string()
}

fn timelines(listing: &Listing) -> impl Iterator<Item = u32> + '_ {
    let segments = listing.segments.keys().chain(&listing.partial);
    segments
        .map(|segment| segment.timeline)
        .chain(listing.histories.iter().copied())
}

/// A timeline whose history is not there is one that nothing is known to lie before.
fn history(store: &Store, timeline: u32) -> Result<History> {
    match store.read(&format!("{timeline:08X}.history"))? {
        Some(text) => History::parse(timeline, &String::from_utf8_lossy(&text)),
        None => Ok(History::first(timeline)),
    }
}
