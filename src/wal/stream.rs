//! Receives a server's write-ahead log for as long as it is let, and outlives whatever happens to the
//! connection, the server and its timeline.
//!
//! The server is told of a position only when everything before it is on disk, so that its slot keeps
//! whatever a death of this process could lose. After one, the segment that was being received is
//! received again from its beginning, which the server still has.

use super::history::History;
use super::name::{Segment, parse_lsn, show_lsn};
use super::note::{Lost, Note};
use super::receiving::{Came, Pause, Receiving};
use super::store::{Listing, Store};
use crate::adapters::fs::Lock;
use crate::adapters::postgres::Address;
use crate::adapters::postgres::replication::{Replication, Slot};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use std::path::PathBuf;
use std::time::Duration;

/// The wait before the next attempt, at first.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
/// How long a server may take to take up a connection.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest wait before the next attempt.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// The oldest server whose slots can be read.
const OLDEST_MAJOR: u32 = 15;

/// What to receive, and where it goes.
#[derive(Debug, Clone)]
pub struct StreamOptions {
    /// The stack.
    pub stack: String,
    /// Its server.
    pub address: Address,
    /// The repository's folder.
    pub repository: PathBuf,
    /// The slot.
    pub slot: String,
}

/// The slot of a stack, unless another is asked for.
#[must_use]
pub fn slot_name(stack: &str) -> String {
    let plain = |c: char| match c.to_ascii_lowercase() {
        c if c.is_ascii_alphanumeric() => c,
        _ => '_',
    };
    format!("k1ops_{}", stack.chars().map(plain).collect::<String>())
}

/// How a connection ended, where it did not fail.
enum Ended {
    Interrupted,
    /// The server has recycled what comes next.
    Gone(Segment),
}

/// Receives until it is interrupted. Fails only where another attempt would fail too.
pub async fn stream(options: &StreamOptions, events: &Events, interrupt: &Interrupt) -> Result<()> {
    let mut receiver = Receiver {
        options,
        events,
        interrupt,
        locked: None,
        lost: None,
        gone: None,
        went_well: false,
    };
    let mut wait = SHORTEST_WAIT;
    loop {
        let error = match receiver.connect().await {
            Ok(Ended::Interrupted) => return Ok(()),
            Ok(Ended::Gone(segment)) => {
                let is_next = receiver.gone.is_none();
                receiver.skip_gap(segment);
                if is_next {
                    continue;
                }
                Error::failed("the server has nothing of what a new slot begins with")
                    .hint("Somebody removed files of its pg_wal; it makes new ones with the next checkpoint.")
            }
            Err(error) if interrupt.is_raised() || error.kind() == ErrorKind::Interrupted => {
                return Ok(());
            }
            Err(error) if !matches!(error.kind(), ErrorKind::Failed | ErrorKind::Missing) => {
                return Err(error);
            }
            Err(error) => error,
        };
        if std::mem::take(&mut receiver.went_well) {
            wait = SHORTEST_WAIT;
        }
        let hint = error.hint_text().unwrap_or("The server's log may say why.");
        events.warning_with_hint(
            format!("{error}; trying again in {} s", wait.as_secs()),
            hint,
        );
        tokio::select! {
            () = interrupt.raised() => return Ok(()),
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// What outlives a connection.
struct Receiver<'a> {
    options: &'a StreamOptions,
    events: &'a Events,
    interrupt: &'a Interrupt,
    /// The store, which nobody else may receive into.
    locked: Option<(Store, Lock)>,
    /// What the server had recycled before it was received.
    lost: Option<Lost>,
    /// The segment that was just found to be recycled: begin where the slot begins, not where the store ends.
    gone: Option<Segment>,
    went_well: bool,
}

impl Receiver<'_> {
    fn skip_gap(&mut self, segment: Segment) {
        let name = self
            .locked
            .as_ref()
            .map(|(store, _)| store.name(segment))
            .unwrap_or_default();
        self.events.warning_with_hint(
            format!("the server has recycled WAL segment {name} before it was received: there is a gap"),
            "Take a physical backup now: `k1ops backup --physical`. No moment between the gap and that backup can be restored.",
        );
        self.lost = Some(Lost {
            segment: name,
            until: String::new(),
        });
        self.gone = Some(segment);
    }

    async fn connect(&mut self) -> Result<Ended> {
        let opening = Replication::open(&self.options.address, self.events);
        let opened = self.interrupt.guard(async {
            tokio::time::timeout(PATIENCE, opening)
                .await
                .unwrap_or_else(|_| {
                    Err(Error::missing(format!(
                        "PostgreSQL at {} does not answer",
                        self.options.address.shown()
                    )))
                })
        });
        let mut server = opened.await?;
        check_major(&server)?;
        let system = server.identify().await?;
        let size = server.wal_segment_size().await?;
        self.lock(&system.identifier, size).await?;
        let Some((store, _)) = &self.locked else {
            return Err(Error::failed("there is no store to receive into"));
        };
        let store = store.clone();
        let slot = self.slot(&mut server, size).await?;
        let mut history = history(&mut server, &store, system.timeline).await?;
        let (mut timeline, mut position) = self.begin(&mut server, &store, &history, &slot).await?;
        if let Some(lost) = self.lost.as_mut().filter(|_| self.gone.is_some()) {
            lost.until = show_lsn(position);
        }
        loop {
            let from = show_lsn(position);
            self.events.note(format!(
                "receiving the write-ahead log from {from} on timeline {timeline}"
            ));
            let stream = server.stream_wal(&self.options.slot, &from, timeline);
            let stream = stream.await?;
            let note = self.note(&store, timeline, position);
            note.write(&store)?;
            let receiving = Receiving::new(self.interrupt, &store, stream, note, position);
            let mut came = Came::default();
            let paused = receiving.run(&mut came).await;
            self.went_well |= came.word;
            if came.data {
                self.gone = None;
            }
            let next = match paused? {
                Pause::Interrupted => return Ok(Ended::Interrupted),
                Pause::Gone(segment) => return Ok(Ended::Gone(segment)),
                Pause::EndOfTimeline(next) => next,
            };
            let start = parse_lsn(&next.start)
                .ok_or_else(|| Error::failed("the server names no beginning of its timeline"))?;
            timeline = next.timeline;
            history = self::history(&mut server, &store, timeline).await?;
            position = history.segment(start / size, size).start(size);
            self.events
                .note(format!("the server is on timeline {timeline} now"));
        }
    }

    async fn lock(&mut self, system: &str, size: u64) -> Result<()> {
        if let Some((store, _)) = &self.locked {
            if store.system() == system {
                return Ok(());
            }
            return Err(Error::refused(format!(
                "the server at {} was the cluster {} and is {system} now",
                self.options.address.shown(),
                store.system()
            ))
            .hint(
                "If that is meant, start `k1ops wal stream` again, and take a physical backup.",
            ));
        }
        let store = Store::make(&self.options.repository, system, size, &self.options.stack)?;
        let lock = store.lock_for_long().await?;
        store.remove_leftovers()?;
        self.lost = Note::read(&store).and_then(|note| note.lost);
        self.locked = Some((store, lock));
        Ok(())
    }

    /// The slot, made if it is not there, and made anew if what it begins with is gone.
    async fn slot(&self, server: &mut Replication, size: u64) -> Result<Slot> {
        let name = &self.options.slot;
        match server.slot(name).await? {
            Some(slot) if self.is_kept(&slot, size) => return Ok(slot),
            Some(_) => server.drop_slot(name).await?,
            None => {}
        }
        server.create_slot(name).await?;
        self.events.note(format!(
            "made the replication slot {name}: from now on the server keeps what is not received yet"
        ));
        let made = server.slot(name).await?;
        made.ok_or_else(|| Error::failed(format!("the replication slot {name} is gone again")))
    }

    /// Whether the server still has what the slot begins with. A slot can be set back to what is recycled, by
    /// a receiver that reports where it began before the server looks for that; and the server gives up on
    /// a slot that would fill its disk.
    fn is_kept(&self, slot: &Slot, size: u64) -> bool {
        let restart = slot.restart.as_deref().and_then(parse_lsn);
        let is_gone = |at: u64| self.gone.is_some_and(|gone| at / size <= gone.number);
        restart.is_some_and(|at| !is_gone(at))
    }

    fn note(&self, store: &Store, timeline: u32, position: u64) -> Note {
        let before = Note::read(store);
        Note {
            stack: self.options.stack.clone(),
            slot: self.options.slot.clone(),
            timeline,
            received: show_lsn(position),
            complete_until: before.as_ref().and_then(|note| note.complete_until),
            complete_at: before.map_or_else(String::new, |note| note.complete_at),
            lost: self.lost.clone(),
        }
    }

    /// Where to begin: behind what is there, or where the slot begins.
    async fn begin(
        &self,
        server: &mut Replication,
        store: &Store,
        history: &History,
        slot: &Slot,
    ) -> Result<(u32, u64)> {
        let size = store.segment_size();
        let listing = store.list()?;
        if self.gone.is_none()
            && let Some(there) = resume(&listing, history, size)
        {
            return Ok(there);
        }
        let (timeline, position) = match &slot.restart {
            Some(restart) => (slot.timeline.unwrap_or(history.timeline()), restart.clone()),
            None => (history.timeline(), server.current_position().await?),
        };
        let position = parse_lsn(&position)
            .ok_or_else(|| Error::failed("the server's position cannot be understood"))?;
        Ok((timeline, position / size * size))
    }
}

/// Where the log goes on behind what is there, along the server's own history.
fn resume(listing: &Listing, history: &History, size: u64) -> Option<(u32, u64)> {
    let mut newer = None;
    for (timeline, end) in history.newest_first() {
        let last = end / size;
        let on = |s: &&Segment| s.timeline == timeline;
        let complete = listing.segments.keys().filter(on);
        let complete = complete.filter(|s| s.number < last).max();
        let partial = listing.partial.iter().filter(on);
        let partial = partial.filter(|s| s.number <= last).max();
        let position = match (complete, partial) {
            (Some(whole), Some(part)) if part > whole => part.start(size),
            (Some(whole), _) => whole.next().start(size),
            (None, Some(part)) => part.start(size),
            (None, None) => {
                newer = Some(timeline);
                continue;
            }
        };
        return Some(match newer {
            Some(newer) if position >= end => (newer, last * size),
            _ => (timeline, position),
        });
    }
    None
}

fn check_major(server: &Replication) -> Result<()> {
    if server.major_version()? >= OLDEST_MAJOR {
        return Ok(());
    }
    let version = server.server_version();
    Err(Error::usage(format!(
        "the server has version {version}; its log is received from PostgreSQL {OLDEST_MAJOR} on"
    ))
    .hint("Upgrade the server."))
}

/// The history of a timeline, which goes into the store.
async fn history(server: &mut Replication, store: &Store, timeline: u32) -> Result<History> {
    if timeline <= 1 {
        return Ok(History::first(timeline));
    }
    let text = server.timeline_history(timeline).await?;
    store.put(&format!("{timeline:08X}.history"), text.as_bytes())?;
    History::parse(timeline, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 16 << 20;

    fn listing(complete: &[(u32, u64)], partial: &[(u32, u64)]) -> Listing {
        let segment = |&(timeline, number): &(u32, u64)| Segment { timeline, number };
        Listing {
            segments: complete.iter().map(|s| (segment(s), 1)).collect(),
            partial: partial.iter().map(segment).collect(),
            ..Listing::default()
        }
    }

    #[test]
    fn it_goes_on_behind_what_is_there_along_the_servers_history() {
        let first = History::first(1);
        let at = |listing: &Listing, history: &History| {
            resume(listing, history, SIZE).map(|(timeline, position)| (timeline, position / SIZE))
        };
        assert_eq!(at(&listing(&[], &[]), &first), None);
        assert_eq!(at(&listing(&[(1, 3), (1, 4)], &[]), &first), Some((1, 5)));
        assert_eq!(at(&listing(&[(1, 3)], &[(1, 4)]), &first), Some((1, 4)));
        assert_eq!(at(&listing(&[(1, 4)], &[(1, 2)]), &first), Some((1, 5)));
        assert_eq!(at(&listing(&[], &[(1, 4)]), &first), Some((1, 4)));

        // Left in the middle of segment 5, after which the old server wrote on in vain.
        let left = format!("1\t{}\tx", show_lsn(5 * SIZE + 100));
        let second = History::parse(2, &left).unwrap();
        assert_eq!(at(&listing(&[(1, 3)], &[(1, 4)]), &second), Some((1, 4)));
        assert_eq!(at(&listing(&[(1, 4)], &[(1, 5)]), &second), Some((1, 5)));
        assert_eq!(at(&listing(&[(1, 8)], &[(1, 9)]), &second), None);
        assert_eq!(at(&listing(&[(1, 4), (1, 8)], &[]), &second), Some((1, 5)));
        assert_eq!(at(&listing(&[(1, 8), (2, 5)], &[]), &second), Some((2, 6)));
        let even = format!("1\t{}\tx", show_lsn(5 * SIZE));
        let even = History::parse(2, &even).unwrap();
        assert_eq!(at(&listing(&[(1, 4)], &[]), &even), Some((2, 5)));
    }

    #[test]
    fn a_slot_has_a_name_that_servers_take() {
        assert_eq!(slot_name("K1-prod.2"), "k1ops_k1_prod_2");
    }
}
