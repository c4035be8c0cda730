//! One stream of the write-ahead log: from where the server was asked to begin until the connection, the
//! timeline or the patience ends. It must not know where to begin, or what comes after it.

use super::name::{Segment, show_lsn};
use super::note::Note;
use super::scan::server_time;
use super::store::Store;
use super::writer::SegmentWriter;
use crate::adapters::postgres::replication::{NextTimeline, Sent, WalStream};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use std::time::{Duration, Instant};

/// How often what was received is synced, and the server asked for a sign of life.
const TICK: Duration = Duration::from_secs(1);
/// How often the note is written.
const NOTE: Duration = Duration::from_secs(2);
/// A server that is asked each second and says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(60);

/// Why a stream paused, where it did not fail.
pub(super) enum Pause {
    Interrupted,
    EndOfTimeline(NextTimeline),
    Gone(Segment),
}

/// What came from the server, also where the stream failed afterwards.
#[derive(Debug, Default)]
pub(super) struct Came {
    /// Anything.
    pub(super) word: bool,
    /// Something of the log.
    pub(super) data: bool,
}

/// One stream.
pub(super) struct Receiving<'a> {
    interrupt: &'a Interrupt,
    store: &'a Store,
    stream: WalStream<'a>,
    timeline: u32,
    /// Where it began.
    began: u64,
    /// Where the next byte belongs.
    position: u64,
    /// Up to where everything is on disk.
    safe: u64,
    writer: Option<SegmentWriter<'a>>,
    /// How far the server had got, and when.
    heard: Option<(u64, i64)>,
    /// When it last said that it is there.
    alive: Option<i64>,
    last_word: Instant,
    note: Note,
    noted: Instant,
}

impl<'a> Receiving<'a> {
    pub(super) fn new(
        interrupt: &'a Interrupt,
        store: &'a Store,
        stream: WalStream<'a>,
        note: Note,
        position: u64,
    ) -> Self {
        Self {
            interrupt,
            store,
            stream,
            timeline: note.timeline,
            began: position,
            position,
            safe: position,
            writer: None,
            heard: None,
            alive: None,
            last_word: Instant::now(),
            note,
            noted: Instant::now(),
        }
    }

    /// Receives until something else is to be done.
    pub(super) async fn run(mut self, came: &mut Came) -> Result<Pause> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let interrupt = self.interrupt;
        loop {
            let sent = tokio::select! {
                biased;
                () = interrupt.raised() => {
                    self.settle(false).await?;
                    self.note.write(self.store)?;
                    return Ok(Pause::Interrupted);
                }
                _ = tick.tick() => {
                    self.settle(true).await?;
                    continue;
                }
                sent = self.stream.next() => sent?,
            };
            self.last_word = Instant::now();
            came.word = true;
            match sent {
                Sent::Data {
                    start,
                    server_end,
                    at,
                    bytes,
                } => {
                    came.data = true;
                    self.data(start, &bytes).await?;
                    self.heard = Some((server_end, at));
                }
                Sent::Alive {
                    sent_end,
                    at,
                    reply,
                } => self.alive(sent_end, at, reply).await?,
                Sent::Gone => {
                    return Ok(Pause::Gone(Segment::at(
                        self.timeline,
                        self.position,
                        self.store.segment_size(),
                    )));
                }
                Sent::Done => return self.done().await,
            }
        }
    }

    async fn done(mut self) -> Result<Pause> {
        self.settle(false).await?;
        self.note.write(self.store)?;
        match self.stream.finish().await? {
            Some(next) => Ok(Pause::EndOfTimeline(next)),
            None => Err(
                Error::failed("the server ended the stream of its write-ahead log")
                    .hint("It is being shut down, or somebody ended the session."),
            ),
        }
    }

    async fn data(&mut self, start: u64, mut bytes: &[u8]) -> Result<()> {
        if start != self.position {
            return Err(Error::failed(format!(
                "the server sent its log from {} where {} was to come",
                show_lsn(start),
                show_lsn(self.position)
            )));
        }
        while !bytes.is_empty() {
            let writer = match &mut self.writer {
                Some(writer) => writer,
                none => {
                    let size = self.store.segment_size();
                    let segment = Segment::at(self.timeline, self.position, size);
                    none.insert(SegmentWriter::begin(self.store, segment)?)
                }
            };
            let fits = usize::try_from(writer.room()).map_or(bytes.len(), |r| r.min(bytes.len()));
            let (now, later) = bytes.split_at(fits);
            writer.add(now)?;
            self.position = writer.position();
            bytes = later;
            if writer.room() == 0
                && let Some(full) = self.writer.take()
            {
                full.complete()?;
                self.safe = self.position;
                self.report(false).await?;
            }
        }
        Ok(())
    }

    async fn alive(&mut self, sent_end: u64, at: i64, reply: bool) -> Result<()> {
        // What was committed a moment ago may still be on its way, so that the word before this one
        // is what holds.
        if let Some(before) = self.alive.replace(at)
            && sent_end <= self.position
            && self.heard.is_none_or(|(_, at)| at < before)
        {
            self.heard = Some((sent_end, before));
        }
        if reply {
            self.settle(false).await
        } else {
            Ok(())
        }
    }

    /// Tells the server what is safe. Of where it was asked to begin it learns nothing until it has sent something
    /// from there: it would set the slot to that position even if it has recycled what is there.
    async fn report(&mut self, ask: bool) -> Result<()> {
        let safe = (self.safe > self.began).then_some(self.safe);
        self.stream.report(safe, ask).await
    }

    /// Brings everything to disk, tells the server, and writes the note now and then.
    async fn settle(&mut self, ask: bool) -> Result<()> {
        if self.last_word.elapsed() > SILENCE {
            return Err(Error::failed(format!(
                "the server has said nothing for {} s",
                SILENCE.as_secs()
            )));
        }
        if let Some(writer) = &mut self.writer {
            writer.sync()?;
            self.safe = writer.synced();
        }
        self.report(ask).await?;
        self.note.received = show_lsn(self.safe);
        if let Some((end, at)) = self.heard
            && end <= self.safe
        {
            self.note.complete_until = server_time(at).max(self.note.complete_until);
            self.note.complete_at = show_lsn(self.safe);
        }
        if self.noted.elapsed() >= NOTE {
            self.note.write(self.store)?;
            self.noted = Instant::now();
        }
        Ok(())
    }
}
