//! A stream that lies in an archive in parts, read back as one stream, decompressed ahead on
//! several threads.

use super::{Archive, Member};
use crate::error::{Context, Error, Result};
use crate::interrupt::Interrupt;
use std::io::Read;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// No writer makes larger parts; a larger one would break the memory bound.
const LARGEST_PART: u64 = 32 << 20;

/// More threads than one reader can keep busy would only hold memory.
const MOST_LANES: usize = 4;

/// Reads the parts of a stream one after the other. Each is checked against the manifest before any
/// byte of it is given out.
#[derive(Debug)]
pub struct PartsReader {
    /// The parts come from these in turn.
    lanes: Vec<Receiver<Result<Vec<u8>>>>,
    next: usize,
    count: usize,
    current: Vec<u8>,
    at: usize,
    interrupt: Interrupt,
    failure: Option<Error>,
}

/// The member of a stream's part, without the codec's suffix.
#[must_use]
pub fn part_path(folder: &str, part: u32) -> String {
    format!("{folder}/{part:06}.tar")
}

impl PartsReader {
    /// Begins to read the `count` parts in `folder`, on up to `jobs` threads.
    pub fn new(
        archive: &Archive,
        folder: &str,
        count: u32,
        jobs: usize,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let members = ordered(archive, folder, count)?;
        let width = jobs.clamp(1, MOST_LANES).min(members.len().max(1));
        let mut lanes = Vec::with_capacity(width);
        for lane in 0..width {
            let members: Vec<Member> = members.iter().skip(lane).step_by(width).cloned().collect();
            let (parts, received) = sync_channel(1);
            let archive = archive.clone();
            std::thread::Builder::new()
                .name("k1ops-parts".to_owned())
                .spawn(move || decompress(&archive, &members, &parts))
                .context(|| "a decompressing thread cannot be started")?;
            lanes.push(received);
        }
        Ok(Self {
            lanes,
            next: 0,
            count: members.len(),
            current: Vec::new(),
            at: 0,
            interrupt: interrupt.clone(),
            failure: None,
        })
    }

    /// The error behind a failed read, in full; what `Read` answers is only its text.
    pub fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    fn advance(&mut self) -> Result<()> {
        self.interrupt.check()?;
        let lane = &self.lanes[self.next % self.lanes.len()];
        self.current = lane
            .recv()
            .context(|| "a decompressing thread died")
            .and_then(|part| part)?;
        self.next += 1;
        self.at = 0;
        Ok(())
    }
}

impl Read for PartsReader {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        while self.at == self.current.len() {
            if self.next == self.count {
                return Ok(0);
            }
            if let Err(error) = self.advance() {
                let text = error.to_string();
                self.failure.get_or_insert(error);
                return Err(std::io::Error::other(text));
            }
        }
        let length = buf.len().min(self.current.len() - self.at);
        buf[..length].copy_from_slice(&self.current[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

/// The members of `folder` in the order of their numbers, which must be 0 to `count` - 1.
pub(super) fn ordered(archive: &Archive, folder: &str, count: u32) -> Result<Vec<Member>> {
    let mut members: Vec<&Member> = archive.manifest().members_in(folder).collect();
    members.sort_by_key(|m| &m.path);
    let complete = members.len() == count as usize
        && members.iter().zip(0..).all(|(member, part)| {
            member.path.strip_suffix(member.codec.suffix()) == Some(&*part_path(folder, part))
        });
    if !complete {
        return Err(archive.bad(format!("is damaged: parts of {folder} are missing")));
    }
    if let Some(member) = members.iter().find(|m| m.raw_size > LARGEST_PART) {
        return Err(archive.damaged(member, "it is larger than a part may be"));
    }
    Ok(members.into_iter().cloned().collect())
}

/// Decompresses a lane's members until they are done or nobody listens any more.
fn decompress(archive: &Archive, members: &[Member], parts: &SyncSender<Result<Vec<u8>>>) {
    for member in members {
        let part = read_part(archive, member);
        let last = part.is_err();
        if parts.send(part).is_err() || last {
            return;
        }
    }
}

fn read_part(archive: &Archive, member: &Member) -> Result<Vec<u8>> {
    let mut raw = Vec::with_capacity(usize::try_from(member.raw_size).unwrap_or_default());
    archive
        .reader(member)?
        .read_to_end(&mut raw)
        .map_err(|e| archive.cannot_read(member, e))?;
    Ok(raw)
}
