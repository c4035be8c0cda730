//! Which timelines a server has lived through, and where it left each.

use super::name::{Segment, parse_lsn};
use crate::error::{Error, Result};

/// A timeline and those that it came from, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// Each timeline with the position at which it was left.
    left: Vec<(u32, u64)>,
    /// The timeline itself.
    timeline: u32,
}

impl History {
    /// A timeline that came from nowhere.
    #[must_use]
    pub fn first(timeline: u32) -> Self {
        Self {
            left: Vec::new(),
            timeline,
        }
    }

    /// Reads the history file of `timeline`.
    pub fn parse(timeline: u32, text: &str) -> Result<Self> {
        let bad = || {
            Error::bad_data(format!(
                "the history of timeline {timeline} cannot be understood"
            ))
        };
        let mut left = Vec::new();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.split_whitespace();
            let before = words.next().and_then(|w| w.parse().ok());
            let at = words.next().and_then(parse_lsn);
            left.push((before.ok_or_else(bad)?, at.ok_or_else(bad)?));
        }
        let ascending = left
            .windows(2)
            .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
        if !ascending || left.last().is_some_and(|last| last.0 >= timeline) {
            return Err(bad());
        }
        Ok(Self { left, timeline })
    }

    /// The timeline itself.
    #[must_use]
    pub fn timeline(&self) -> u32 {
        self.timeline
    }

    /// All timelines, newest first, each with the position at which it was left.
    pub fn newest_first(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        let itself = std::iter::once((self.timeline, u64::MAX));
        itself.chain(self.left.iter().rev().copied())
    }

    /// Whether what was written on `timeline` up to `lsn` belongs to it.
    #[must_use]
    pub fn holds(&self, timeline: u32, lsn: u64) -> bool {
        self.newest_first()
            .any(|(t, end)| t == timeline && lsn <= end)
    }

    /// The segment of this number. That in which a timeline was left is whole on the next one only.
    #[must_use]
    pub fn segment(&self, number: u64, size: u64) -> Segment {
        let on = self.left.iter().find(|(_, end)| number < end / size);
        Segment {
            timeline: on.map_or(self.timeline, |(timeline, _)| *timeline),
            number,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_segment_of_a_switch_is_on_the_new_timeline() {
        let text = "1\t0/3000060\tno recovery target specified\n\n2\t0/5000000\tbefore x\n";
        let history = History::parse(3, text).unwrap();
        let size = 16 << 20;
        let on = |number| history.segment(number, size).timeline;
        assert_eq!([on(2), on(3), on(4), on(5), on(9)], [1, 2, 2, 3, 3]);
        assert!(history.holds(1, 0x0300_0060) && !history.holds(1, 0x0300_0061));
        assert!(history.holds(3, 1 << 40) && !history.holds(4, 0));
        assert_eq!(History::first(1).segment(7, size).timeline, 1);
        for wrong in ["x 0/1", "1", "2\t0/5\n1\t0/6", "3\t0/1"] {
            assert!(History::parse(3, wrong).is_err(), "{wrong}");
        }
    }
}
