//! Writes an archive: members are compressed on all cores and appended by one thread, in bounded
//! memory, to something that gets its name only when it is complete and durable.

use super::buffers::Buffers;
use super::manifest::{Header, Manifest, Member};
use super::{Codec, CodecSettings, Effort, PARTIAL_SUFFIX, RowDigest, tape};
use crate::adapters::storage::{NewFile, Sink, explain_write};
use crate::error::{Context, Error, Result};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// What all parts that are under way may take together, raw and compressed.
const MEMORY: usize = 128 << 20;

/// The largest part.
const LARGEST_PART: usize = 8 << 20;

/// The smallest part, however many cores there are.
const SMALLEST_PART: usize = 1 << 20;

/// A member to be written.
#[derive(Debug)]
pub struct NewMember {
    /// Its path in the tar, without the codec's suffix; at most 90 bytes.
    pub path: String,
    /// Its content.
    pub raw: Vec<u8>,
    /// The digest of its rows, if it holds rows.
    pub rows: Option<RowDigest>,
    /// How much its compression may take.
    pub effort: Effort,
}

/// Writes one archive. Cheap to clone; dropping the last clone before [`Writer::finish`] removes
/// what was written, and waits for that.
#[derive(Debug, Clone)]
pub struct Writer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    header: Header,
    settings: CodecSettings,
    part_size: usize,
    buffers: Arc<Buffers>,
    slots: usize,
    permits: Arc<Semaphore>,
    /// Always there until this is dropped.
    tape: Option<mpsc::Sender<Message>>,
    ended: Mutex<std::sync::mpsc::Receiver<()>>,
    failure: Arc<Mutex<Option<Error>>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.tape = None;
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        // The other end never sends; it goes when the thread has let go of everything.
        let _ = ended.recv();
    }
}

enum Message {
    Append(Box<Stored>, OwnedSemaphorePermit),
    Failed(Error),
    Finish(Box<Manifest>, oneshot::Sender<Result<Manifest>>),
}

struct Stored {
    path: String,
    bytes: Vec<u8>,
    codec: Codec,
    raw_size: u64,
    rows: Option<RowDigest>,
}

impl Writer {
    /// Begins an archive in a file at `place`, which must be free, with up to `jobs` compressing
    /// threads. With one, nothing is read while something is compressed.
    pub fn create(
        place: &Path,
        header: Header,
        settings: CodecSettings,
        jobs: usize,
    ) -> Result<Self> {
        let mut partial = place.as_os_str().to_owned();
        partial.push(PARTIAL_SUFFIX);
        let file = NewFile::create(place, PathBuf::from(partial))?;
        Self::begin(Box::new(file), place, header, settings, jobs)
    }

    /// The same for whatever `sink` is; the user knows it as `place`.
    pub fn begin(
        sink: Box<dyn Sink>,
        place: &Path,
        header: Header,
        settings: CodecSettings,
        jobs: usize,
    ) -> Result<Self> {
        let slots = if jobs > 1 { jobs * 2 } else { 1 };
        // Each slot may hold a part raw and, for a moment, compressed as well.
        let part_size = (MEMORY / (slots * 2)).clamp(SMALLEST_PART, LARGEST_PART);
        // Parts being filled, parts waiting, and a frame for each.
        let frame_size = settings.largest_frame(part_size);
        let buffers = Arc::new(Buffers::new(frame_size, slots * 3));
        let (tape, mut messages) = mpsc::channel(2);
        let (end, ended) = std::sync::mpsc::channel();
        let failure = Arc::new(Mutex::new(None));
        let writer = TapeWriter::begin(sink, &header, buffers.clone())?;
        let failed = failure.clone();
        let shown = place.to_path_buf();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = writer.run(&mut messages, &shown) {
                let error = explain_write(&shown, error);
                failed
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .get_or_insert(error);
            }
            // Only now: whoever finds the channel closed asks for the failure.
            drop(messages);
            drop(end);
        });
        Ok(Self(Arc::new(Shared {
            header,
            settings,
            part_size,
            buffers,
            slots,
            permits: Arc::new(Semaphore::new(slots)),
            tape: Some(tape),
            ended: Mutex::new(ended),
            failure,
        })))
    }

    /// How large a part should be, in raw bytes, to stay within the memory bound.
    #[must_use]
    pub fn part_size(&self) -> usize {
        self.0.part_size
    }

    /// An empty buffer with room for a part; those of members that were appended are used again.
    #[must_use]
    pub fn buffer(&self) -> Vec<u8> {
        self.0.buffers.take()
    }

    /// The codec of compressed members.
    #[must_use]
    pub fn codec(&self) -> Codec {
        self.0.settings.codec
    }

    /// Hands a member over to be compressed and appended. Waits while too much is under way; an
    /// error of earlier members may be reported here or by [`Writer::finish`].
    pub async fn add(&self, member: NewMember) -> Result<()> {
        let permits = self.0.permits.clone();
        let permit = permits
            .acquire_owned()
            .await
            .context(|| "the archive is closed")?;
        let tape = self.tape()?;
        let settings = self.0.settings.with(member.effort);
        let buffers = self.0.buffers.clone();
        tokio::task::spawn_blocking(move || {
            let message = match store(member, settings, &buffers) {
                Ok(stored) => Message::Append(Box::new(stored), permit),
                Err(error) => Message::Failed(error),
            };
            // A closed channel means that the tape has failed, which is reported from there.
            let _ = tape.blocking_send(message);
        });
        if self.0.slots == 1 {
            self.settle().await?;
        }
        Ok(())
    }

    /// Waits until every member that was handed over is appended, so that those handed over next
    /// come after them.
    pub async fn settle(&self) -> Result<()> {
        let slots = u32::try_from(self.0.slots).unwrap_or(u32::MAX);
        let all = self.0.permits.acquire_many(slots).await;
        drop(all.context(|| "the archive is closed")?);
        self.tape().map(|_| ())
    }

    /// Waits for all members, writes the manifest, and gives the archive its name durably.
    /// `complete` is told nothing of members: the writer lists them.
    pub async fn finish(&self, manifest: Manifest) -> Result<Manifest> {
        let slots = u32::try_from(self.0.slots).unwrap_or(u32::MAX);
        let all = self
            .0
            .permits
            .acquire_many(slots)
            .await
            .context(|| "the archive is closed")?;
        let (reply, answer) = oneshot::channel();
        let message = Message::Finish(Box::new(manifest), reply);
        let tape = self.tape()?;
        tape.send(message).await.map_err(|_| self.failure())?;
        let manifest = answer.await.map_err(|_| self.failure())??;
        drop(all);
        Ok(manifest)
    }

    /// Where members go to, unless that has failed or is finished.
    fn tape(&self) -> Result<mpsc::Sender<Message>> {
        let open = self.0.tape.as_ref().filter(|tape| !tape.is_closed());
        open.cloned().ok_or_else(|| self.failure())
    }

    /// What `format.json` says.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.0.header
    }

    fn failure(&self) -> Error {
        let mut failure = self
            .0
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        failure
            .take()
            .unwrap_or_else(|| Error::failed("the archive cannot be written"))
    }
}

fn store(member: NewMember, settings: CodecSettings, buffers: &Buffers) -> Result<Stored> {
    let raw_size = member.raw.len() as u64;
    let bytes = if settings.codec == Codec::None {
        member.raw
    } else {
        let frame = settings.compress_into(buffers.take(), &member.raw)?;
        buffers.give_back(member.raw);
        frame
    };
    let path = format!("{}{}", member.path, settings.codec.suffix());
    Ok(Stored {
        path,
        bytes,
        codec: settings.codec,
        raw_size,
        rows: member.rows,
    })
}

/// The one thread that appends.
struct TapeWriter {
    sink: Box<dyn Sink>,
    offset: u64,
    mtime: u64,
    members: Vec<Member>,
    buffers: Arc<Buffers>,
}

impl TapeWriter {
    fn begin(sink: Box<dyn Sink>, header: &Header, buffers: Arc<Buffers>) -> Result<Self> {
        let mtime = u64::try_from(header.started_at.timestamp()).unwrap_or_default();
        let mut tape = Self {
            sink,
            offset: 0,
            mtime,
            members: Vec::new(),
            buffers,
        };
        let json = serde_json::to_vec(header).context(|| "format.json cannot be written")?;
        tape.append(Stored {
            path: "format.json".to_owned(),
            raw_size: json.len() as u64,
            bytes: json,
            codec: Codec::None,
            rows: None,
        })?;
        Ok(tape)
    }

    /// Appends what comes until the end is to be written. How that went goes to whoever asked for it.
    fn run(mut self, messages: &mut mpsc::Receiver<Message>, place: &Path) -> Result<()> {
        while let Some(message) = messages.blocking_recv() {
            match message {
                Message::Append(stored, permit) => {
                    self.append(*stored)?;
                    drop(permit);
                }
                Message::Failed(error) => return Err(error),
                Message::Finish(manifest, reply) => {
                    let closed = self.close(*manifest);
                    let closed = closed.map_err(|error| explain_write(place, error));
                    // Nobody listens any more if the command was interrupted.
                    let _ = reply.send(closed);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn append(&mut self, stored: Stored) -> Result<()> {
        debug_assert!(stored.path.len() <= tape::LONGEST_NAME, "{}", stored.path);
        let sha256 = hex::encode(Sha256::digest(&stored.bytes));
        let offset = self.write(&stored.path, &stored.bytes)?;
        self.members.push(Member {
            path: stored.path,
            offset,
            size: stored.bytes.len() as u64,
            sha256,
            codec: stored.codec,
            raw_size: stored.raw_size,
            rows: stored.rows,
        });
        self.buffers.give_back(stored.bytes);
        Ok(())
    }

    /// Writes header, content and padding; answers where the content begins.
    fn write(&mut self, path: &str, content: &[u8]) -> Result<u64> {
        let size = content.len() as u64;
        let header = tape::header(path, size, self.mtime)?;
        let padding = [0; tape::BLOCK_LEN];
        let padding = &padding[..usize::try_from(tape::padded(size) - size).unwrap_or_default()];
        for bytes in [header.as_bytes().as_slice(), content, padding] {
            self.sink
                .write_all(bytes)
                .context(|| format!("member {path} cannot be written"))?;
        }
        let begins = self.offset + tape::BLOCK;
        self.offset = begins + tape::padded(size);
        Ok(begins)
    }

    fn close(mut self, mut manifest: Manifest) -> Result<Manifest> {
        manifest.members = std::mem::take(&mut self.members);
        manifest.finished_at = chrono::Utc::now();
        self.write("manifest.json", &manifest.seal()?)?;
        let end = [0; tape::END_LEN];
        self.sink
            .write_all(&end)
            .context(|| "the end of the archive cannot be written")?;
        self.sink.publish()?;
        Ok(manifest)
    }
}
