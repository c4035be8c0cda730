//! Reads the write-ahead log record by record: whether it is whole, and when its transactions ended.
//!
//! Every record carries a checksum (CRC-32C) of the server's own, so that what was damaged on its way
//! here is found whoever damaged it. The form is that of servers since `PostgreSQL` 15 on little-endian
//! machines.

use super::name::{Segment, show_lsn};
use crate::error::{Error, Result};
use chrono::{DateTime, TimeDelta, Utc};

/// Bytes in a page, as every build but the most peculiar has them.
const PAGE: usize = 8192;
const SHORT_HEADER: usize = 24;
const LONG_HEADER: usize = 40;
const RECORD_HEADER: usize = 24;
/// The oldest form that is known here: that of `PostgreSQL` 15.
const OLDEST_MAGIC: u16 = 0xD110;
/// The page begins in the middle of a record.
const CONTINUED: u16 = 1;
/// The page has a long header.
const LONG: u16 = 2;
/// The record before was never finished, and what follows takes its place.
const OVERWRITTEN: u16 = 8;
/// A record's length is not trusted: the server itself writes none that is larger.
const LARGEST_RECORD: usize = 1 << 30;
/// The server's epoch, 2000-01-01, in seconds of ours.
const EPOCH: i64 = 946_684_800;

/// What the first page of a segment says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// The cluster's identifier.
    pub system: u64,
    /// The timeline of the page.
    pub timeline: u32,
    /// Where the segment begins.
    pub start: u64,
    /// Bytes in a segment.
    pub size: u64,
}

impl SegmentHeader {
    /// Reads the first page of a segment; `None` if it is none.
    pub(super) fn read(segment: &[u8]) -> Option<Self> {
        let page = PageHeader::read(segment)?;
        let size = u64::from(u32_at(segment, 32)?);
        let sound = page.info & LONG != 0
            && size.is_power_of_two()
            && (1 << 20..=1 << 30).contains(&size)
            && page.address % size == 0
            && u32_at(segment, 36)? as usize == PAGE;
        sound.then_some(Self {
            system: u64_at(segment, 24)?,
            timeline: page.timeline,
            start: page.address,
            size,
        })
    }

    /// Refuses bytes that are not the beginning of `segment` of this cluster.
    pub(super) fn check(
        bytes: &[u8],
        segment: Segment,
        size: u64,
        system: &str,
    ) -> Result<(), String> {
        let Some(header) = Self::read(bytes) else {
            return Err("is no segment of a write-ahead log".to_owned());
        };
        if header.system.to_string() != system {
            return Err(format!("is of the cluster {}", header.system));
        }
        // Its first page may have been written before the timeline changed.
        if header.start != segment.start(size)
            || header.size != size
            || header.timeline > segment.timeline
        {
            let found = Segment::at(header.timeline, header.start, header.size);
            return Err(format!("holds segment {}", found.name(header.size)));
        }
        Ok(())
    }
}

struct PageHeader {
    info: u16,
    timeline: u32,
    address: u64,
    remaining: usize,
}

impl PageHeader {
    fn read(page: &[u8]) -> Option<Self> {
        let magic = u16_at(page, 0)?;
        (magic >= OLDEST_MAGIC && magic >> 8 == OLDEST_MAGIC >> 8).then_some(())?;
        Some(Self {
            info: u16_at(page, 2)?,
            timeline: u32_at(page, 4)?,
            address: u64_at(page, 8)?,
            remaining: u32_at(page, 16)? as usize,
        })
    }

    fn length(&self) -> usize {
        if self.info & LONG == 0 {
            SHORT_HEADER
        } else {
            LONG_HEADER
        }
    }
}

/// How far a segment could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// To its end.
    Whole,
    /// Up to here; what follows is empty, unfinished or damaged.
    At(u64),
}

/// Reads segments one after the other.
#[derive(Debug, Default)]
pub struct Scanner {
    /// The beginning of a record that goes on on the next page, and where it began.
    open: Option<(u64, Vec<u8>)>,
    /// Where the last whole record begins.
    pub last_record: Option<u64>,
    /// When the last transaction ended, by the server's clock.
    pub last_end: Option<DateTime<Utc>>,
    /// The latest such moment.
    pub latest_end: Option<DateTime<Utc>>,
    /// The rest of the segment is empty on purpose.
    switched: bool,
}

impl Scanner {
    /// Reads on in `bytes`, which begin at `start` and follow what was read before.
    pub fn read(&mut self, start: u64, bytes: &[u8]) -> Stop {
        self.switched = false;
        for (page, at) in bytes.chunks(PAGE).zip((start..).step_by(PAGE)) {
            if let Some(end) = self.page(page, at) {
                return Stop::At(end);
            }
            if self.switched {
                break;
            }
        }
        Stop::Whole
    }

    /// Reads a page; answers where it ends before its end.
    fn page(&mut self, page: &[u8], at: u64) -> Option<u64> {
        let Some(header) = PageHeader::read(page).filter(|h| h.address == at) else {
            return Some(self.open.take().map_or(at, |(start, _)| start));
        };
        let mut offset = header.length();
        if header.info & OVERWRITTEN != 0 {
            self.open = None;
        }
        if header.info & CONTINUED != 0 {
            let here = header.remaining.min(page.len().saturating_sub(offset));
            if let Some((start, mut record)) = self.open.take() {
                record.extend_from_slice(page.get(offset..offset + here)?);
                if here < header.remaining {
                    self.open = Some((start, record));
                } else if !self.record(start, &record) {
                    return Some(start);
                }
            }
            offset = aligned(offset + here);
        } else if let Some((start, _)) = self.open.take() {
            return Some(start);
        }
        self.records(page, at, offset)
    }

    fn records(&mut self, page: &[u8], at: u64, mut offset: usize) -> Option<u64> {
        while offset < page.len() && !self.switched {
            let start = at + offset as u64;
            let length = u32_at(page, offset).unwrap_or_default() as usize;
            if !(RECORD_HEADER..=LARGEST_RECORD).contains(&length) {
                return Some(start);
            }
            let Some(record) = page.get(offset..offset + length) else {
                if page.len() < PAGE {
                    return Some(start);
                }
                self.open = Some((start, page[offset..].to_vec()));
                return None;
            };
            if !self.record(start, record) {
                return Some(start);
            }
            offset = aligned(offset + length);
        }
        None
    }

    /// Takes a whole record; whether it is sound.
    fn record(&mut self, start: u64, record: &[u8]) -> bool {
        let (Some(length), Some(stored)) = (u32_at(record, 0), u32_at(record, 20)) else {
            return false;
        };
        let (Some(head), Some(data)) = (record.get(..20), record.get(RECORD_HEADER..)) else {
            return false;
        };
        let sound = length as usize == record.len()
            && crc32c::crc32c_append(crc32c::crc32c(data), head) == stored;
        if !sound {
            return false;
        }
        self.last_record = Some(start);
        match (record[17], record[16]) {
            // XLOG, XLOG_SWITCH
            (0, info) if info & 0xF0 == 0x40 => self.switched = true,
            // XACT: commit, abort, and both of what was prepared
            (1, info) if matches!(info & 0x70, 0x00 | 0x20 | 0x30 | 0x40) => {
                if let Some(time) = end_of_transaction(data) {
                    self.last_end = Some(time);
                    self.latest_end = self.latest_end.max(Some(time));
                }
            }
            _ => {}
        }
        true
    }

    /// Reads a segment that must be whole.
    pub(super) fn read_whole(&mut self, segment: Segment, size: u64, bytes: &[u8]) -> Result<()> {
        match self.read(segment.start(size), bytes) {
            Stop::Whole => Ok(()),
            Stop::At(lsn) => Err(Error::bad_data(format!(
                "WAL segment {} is damaged: there is no sound record at {}",
                segment.name(size),
                show_lsn(lsn)
            ))),
        }
    }
}

/// The moment that begins the main data of a record about the end of a transaction.
fn end_of_transaction(data: &[u8]) -> Option<DateTime<Utc>> {
    let mut at = 0;
    let main = loop {
        match data.get(at)? {
            255 => {
                let length = usize::from(*data.get(at + 1)?);
                break data.len().checked_sub(length)?;
            }
            254 => {
                let length = u32_at(data, at + 1)? as usize;
                break data.len().checked_sub(length)?;
            }
            // An origin of replication, and the transaction above a part of it.
            253 => at += 3,
            252 => at += 5,
            _ => return None,
        }
    };
    let micros = i64::from_le_bytes(data.get(main..main + 8)?.try_into().ok()?);
    server_time(micros)
}

/// A moment as the server counts: microseconds since 2000.
pub(super) fn server_time(micros: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(EPOCH, 0)?.checked_add_signed(TimeDelta::microseconds(micros))
}

fn aligned(offset: usize) -> usize {
    offset.next_multiple_of(8)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Somebody else may have written what is read here.
        #[test]
        fn nothing_that_is_read_can_break_the_reader(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..3 * PAGE),
            start in (0..u64::from(u32::MAX)).prop_map(|n| n * PAGE as u64),
            info in 0..16_u16,
            length in any::<u32>(),
        ) {
            for (page, at) in bytes.chunks_mut(PAGE).zip((start..).step_by(PAGE)) {
                if page.len() > 48 {
                    page[..2].copy_from_slice(&OLDEST_MAGIC.to_le_bytes());
                    page[2..4].copy_from_slice(&info.to_le_bytes());
                    page[8..16].copy_from_slice(&at.to_le_bytes());
                    page[16..20].copy_from_slice(&length.to_le_bytes());
                    page[24..28].copy_from_slice(&(length % 9000).to_le_bytes());
                }
            }
            let _ = SegmentHeader::read(&bytes);
            let _ = Scanner::default().read(start, &bytes);
        }
    }
}
