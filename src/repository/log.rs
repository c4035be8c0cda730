//! The write-ahead log beside the archives: whether it is whole from the oldest physical backup on, and
//! what of it no backup needs any more.

use super::{Entry, Repository, State};
use crate::adapters::fs;
use crate::archive::PhysicalSource;
use crate::error::{Error, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use crate::wal::{Base, Chain, Gap, Segment, Store, parse_lsn};
use serde::Serialize;
use std::path::PathBuf;

/// What was found in the log of one cluster.
#[derive(Debug, Clone, Serialize)]
pub struct LogCheck {
    /// The cluster.
    pub system: String,
    /// The oldest physical backup, from which on it was looked through.
    pub since: String,
    /// The timeline that was followed.
    pub timeline: u32,
    /// Segments that are there.
    pub segments: u64,
    /// What is missing.
    pub gaps: Vec<Gap>,
    /// What is there and not whole.
    pub damaged: Vec<String>,
    /// Every record was read, not only the names.
    pub read: bool,
}

impl LogCheck {
    /// Whether every moment since can be reached.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.gaps.is_empty() && self.damaged.is_empty()
    }
}

/// What becomes of the log of one cluster when archives are pruned.
#[derive(Debug, Clone, Serialize)]
pub struct LogVerdict {
    /// The cluster.
    pub system: String,
    /// Why what is kept is kept.
    pub reason: String,
    /// How many segments stay.
    pub kept: usize,
    /// The files that go, oldest first.
    pub goes: Vec<PathBuf>,
    /// The first segment that goes.
    pub first: Option<String>,
    /// The last segment that goes.
    pub last: Option<String>,
    /// How many bytes that frees.
    pub frees: u64,
    /// The number of the first segment that is needed, if that is known.
    #[serde(skip)]
    pub(super) needed_from: Option<u64>,
}

impl Repository {
    /// Looks through the log of a stack's servers, from the oldest physical backup of each to now.
    pub fn check_log(
        &self,
        stack: &str,
        read: bool,
        interrupt: &Interrupt,
    ) -> Result<Vec<LogCheck>> {
        let mut entries = self.list()?;
        entries.retain(|entry| entry.state.is_good() && entry.stack.as_deref() == Some(stack));
        let mut checks = Vec::new();
        for store in Store::all(self.log_folder(), Some(stack))? {
            let bases = bases_of(&entries, &store);
            let oldest = bases.min_by_key(|(_, base)| parse_lsn(&base.end_lsn));
            let Some((entry, source)) = oldest else {
                continue;
            };
            let base = Base {
                timeline: source.timeline,
                end: position(&source.end_lsn)?,
            };
            let chain = Chain::from(&store, base, None)?;
            let (segments, damaged) = if read {
                chain.read_all(base, interrupt)?
            } else {
                (chain.count(base), Vec::new())
            };
            checks.push(LogCheck {
                system: store.system().to_owned(),
                since: entry.name.clone(),
                timeline: chain.timeline(),
                segments,
                gaps: chain.gaps(base),
                damaged,
                read,
            });
        }
        Ok(checks)
    }

    /// Whether a backup of this cluster ends behind a position, so that it needs nothing before that.
    pub fn has_base_behind(&self, system: &str, lsn: &str) -> Result<bool> {
        let behind = |base: &PhysicalSource| {
            base.system_identifier == system && parse_lsn(&base.end_lsn) > parse_lsn(lsn)
        };
        let entries = self.list()?;
        Ok(entries.iter().flat_map(|entry| &entry.bases).any(behind))
    }

    /// What of the log no backup needs that is kept. `goes` are the archives that do not stay.
    ///
    /// Of a copy, nothing: the log goes on from the archives of the first repository.
    pub(super) fn judge_log(&self, stack: &str, goes: &[&str]) -> Result<Vec<LogVerdict>> {
        if self.is_copy {
            return Ok(Vec::new());
        }
        let mut entries = self.list()?;
        entries.retain(|entry| !goes.contains(&entry.name.as_str()));
        let stores = Store::all(self.log_folder(), Some(stack))?;
        let judged = stores.iter().map(|store| judge(store, &entries, stack));
        judged.collect()
    }

    /// Deletes what no backup needs. The archives that needed it are gone already.
    pub(super) fn prune_log(
        &self,
        verdicts: &[LogVerdict],
        events: &Events,
        interrupt: &Interrupt,
    ) -> Result<()> {
        // First there: what is gone here could not be asked for any more.
        let judged = verdicts.iter().any(|verdict| verdict.needed_from.is_some());
        if judged && let Some(elsewhere) = self.log_elsewhere()? {
            elsewhere.prune(verdicts)?;
        }
        let total: usize = verdicts.iter().map(|verdict| verdict.goes.len()).sum();
        if total == 0 {
            return Ok(());
        }
        let step = "deleting the write-ahead log that no backup needs";
        events.started(step);
        for file in verdicts.iter().flat_map(|verdict| &verdict.goes) {
            interrupt.check()?;
            fs::remove_if_there(file)?;
            // It goes with the last file in it.
            if let Some(folder) = file.parent() {
                let _ = std::fs::remove_dir(folder);
            }
        }
        events.finished(step, format!("{total} files"));
        Ok(())
    }
}

/// The data directories of a cluster among archives.
fn bases_of<'a>(
    entries: &'a [Entry],
    store: &'a Store,
) -> impl Iterator<Item = (&'a Entry, &'a PhysicalSource)> {
    entries.iter().flat_map(|entry| {
        let of_cluster = |base: &&PhysicalSource| base.system_identifier == store.system();
        let bases = entry.bases.iter().filter(of_cluster);
        bases.map(move |base| (entry, base))
    })
}

/// An archive of the stack that may go back further than `oldest`, and does not say from where.
fn unknown<'a>(entries: &'a [Entry], stack: &str, oldest: &Entry) -> Option<&'a Entry> {
    entries.iter().find(|entry| {
        let is_shut = matches!(entry.state, State::Sealed { .. } | State::Unreadable { .. });
        let may_be_older = oldest.time.is_none_or(|oldest| {
            let time = entry.time;
            time.is_none_or(|time| time <= oldest)
        });
        is_shut && may_be_older && entry.stack.as_deref().is_none_or(|of| of == stack)
    })
}

fn judge(store: &Store, entries: &[Entry], stack: &str) -> Result<LogVerdict> {
    let (listing, size) = (store.list()?, store.segment_size());
    let mut oldest: Option<(&Entry, u64)> = None;
    for (entry, base) in bases_of(entries, store) {
        let number = position(&base.start_lsn)? / size;
        if oldest.is_none_or(|(_, other)| number < other) {
            oldest = Some((entry, number));
        }
    }
    let mut verdict = LogVerdict {
        system: store.system().to_owned(),
        reason: "no physical backup says what is needed: all of it is kept".to_owned(),
        kept: listing.segments.len(),
        goes: Vec::new(),
        first: None,
        last: None,
        frees: 0,
        needed_from: None,
    };
    let Some((entry, number)) = oldest else {
        return Ok(verdict);
    };
    if let Some(unknown) = unknown(entries, stack, entry) {
        verdict.reason = format!(
            "{} cannot be looked into and may need it: all of it is kept",
            unknown.name
        );
        return Ok(verdict);
    }
    verdict.needed_from = Some(number);
    let is_old = |segment: &Segment| segment.number < number;
    verdict.reason = format!("{} needs it", entry.name);
    for (segment, bytes) in listing.segments.iter().filter(|(s, _)| is_old(s)) {
        verdict.goes.push(store.place(&store.name(*segment))?);
        verdict.frees += bytes;
        verdict.kept -= 1;
        verdict.first.get_or_insert_with(|| store.name(*segment));
        verdict.last = Some(store.name(*segment));
    }
    for segment in listing.partial.iter().filter(|s| is_old(s)) {
        verdict.goes.push(store.partial(*segment)?);
    }
    for name in &listing.further {
        let segment = name.get(..24).and_then(|name| Segment::parse(name, size));
        if segment.as_ref().is_some_and(is_old) {
            verdict.goes.push(store.place(name)?);
        }
    }
    Ok(verdict)
}

fn position(lsn: &str) -> Result<u64> {
    parse_lsn(lsn).ok_or_else(|| {
        Error::bad_data(format!(
            "an archive names {lsn:?}, which is no position of a log"
        ))
    })
}
