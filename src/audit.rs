//! Who changed what, when, and how that ended: one JSON object a line, appended and synced, in the
//! stack's `audit.jsonl`.
//!
//! Each line holds the SHA-256 of its own entry, and the entry that of the line before, so that no
//! line can be changed, taken out or put in without breaking the chain. That the end of the log was
//! cut off can only be seen by whoever has kept a hash of it ([`verify`] takes one).
//!
//! A change has two entries: when it begins and when it ends. One that was killed has the first only.

use crate::adapters::fs::{Lock, sync_folder};
use crate::adapters::host::user_name;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::stack::Stack;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// What stands for the line before the first.
const BEGINNING: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// How long to wait for another process that is writing.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest line; an error's text is cut to fit.
const LONGEST: u64 = 64 << 10;
/// The longest text of an error or an argument, in characters.
const LONGEST_TEXT: usize = 2000;

/// Who did something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// The user's name, or the number where it has none.
    pub user: String,
    /// Who that is after `sudo`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sudo_user: Option<String>,
    /// The host.
    pub host: String,
    /// The process.
    pub pid: u32,
}

/// How something ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The exit code.
    pub exit_code: u8,
    /// Why it failed, if it did.
    pub error: Option<String>,
    /// Seconds it took.
    pub seconds: f64,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number, from 1.
    pub number: u64,
    /// The hash of the line before.
    pub previous: String,
    /// When.
    pub at: DateTime<Utc>,
    /// The same in both entries of a change.
    pub change: Uuid,
    /// Who.
    pub who: Who,
    /// The stack.
    pub stack: String,
    /// The command, word by word, without secrets.
    pub what: Vec<String>,
    /// How it ended; none where it begins.
    pub outcome: Option<Outcome>,
}

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    hash: String,
    #[serde(borrow)]
    entry: &'a RawValue,
}

/// A change that is under way.
#[derive(Debug)]
pub struct Change {
    log: PathBuf,
    id: Uuid,
    stack: String,
    what: Vec<String>,
    began: (DateTime<Utc>, Instant),
    is_noted: bool,
}

impl Change {
    /// Notes that `what` begins. Where the stack has no folder yet, that is noted at the end, if it
    /// has one then: what comes to nothing leaves nothing.
    pub fn begin(stack: &Stack, what: Vec<String>) -> Result<Self> {
        let mut change = Self {
            log: file(stack),
            id: Uuid::new_v4(),
            stack: stack.name.clone(),
            what: what.into_iter().map(|word| shortened(&word)).collect(),
            began: (Utc::now(), Instant::now()),
            is_noted: false,
        };
        change.note_begin(stack)?;
        Ok(change)
    }

    fn note_begin(&mut self, stack: &Stack) -> Result<()> {
        if !self.is_noted && stack.folder.is_dir() {
            self.append(stack, self.began.0, None)?;
            self.is_noted = true;
        }
        Ok(())
    }

    /// Notes how it ended.
    pub fn end(mut self, stack: &Stack, exit_code: u8, error: Option<&Error>) -> Result<()> {
        self.note_begin(stack)?;
        if !self.is_noted {
            return Ok(());
        }
        let outcome = Outcome {
            exit_code,
            error: error.map(|error| shortened(&error.to_string())),
            seconds: self.began.1.elapsed().as_secs_f64(),
        };
        self.append(stack, Utc::now(), Some(outcome))
    }

    fn append(&self, stack: &Stack, at: DateTime<Utc>, outcome: Option<Outcome>) -> Result<()> {
        let _lock = lock(stack)?;
        let cannot = || format!("{} cannot be written", self.log.display());
        let is_new = !self.log.exists();
        let mut log = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.log)
            .context(cannot)?;
        let (number, previous) = match last_line(&mut log, &self.log)? {
            None => (1, BEGINNING.to_owned()),
            Some(line) => {
                let (entry, hash) = read_line(&line).map_err(|why| damaged(&self.log, &why))?;
                (entry.number + 1, hash)
            }
        };
        let entry = Entry {
            number,
            previous,
            at,
            change: self.id,
            who: who(),
            stack: self.stack.clone(),
            what: self.what.clone(),
            outcome,
        };
        log.write_all(&write_line(&entry)?).context(cannot)?;
        log.sync_all().context(cannot)?;
        if is_new {
            sync_folder(&stack.folder)?;
        }
        Ok(())
    }
}

/// A log whose chain holds.
#[derive(Debug, Serialize)]
pub struct Verified {
    /// The log.
    pub log: PathBuf,
    /// Its entries.
    pub entries: u64,
    /// The hash of its last line, to be kept elsewhere and held against the log later.
    pub head: String,
}

/// Reads the whole log and checks its chain; with `expected`, also that this hash is in it.
///
/// Fails with [`ErrorKind::BadData`] and names the line where the chain breaks.
pub fn verify(stack: &Stack, expected: Option<&str>) -> Result<Verified> {
    let log = file(stack);
    let mut is_found = expected.is_none_or(|hash| hash == BEGINNING);
    let mut head = BEGINNING.to_owned();
    let mut entries = 0;
    each(stack, |_, hash| {
        is_found |= expected.is_some_and(|expected| expected.eq_ignore_ascii_case(&hash));
        entries += 1;
        head = hash;
    })?;
    if is_found {
        return Ok(Verified { log, entries, head });
    }
    Err(Error::bad_data(format!(
        "{} has no line with the hash {}: it was cut off or written anew",
        log.display(),
        expected.unwrap_or_default()
    ))
    .hint("Compare it with a copy from a backup of this host."))
}

/// The entries of a log whose chain holds, oldest first.
pub fn entries(stack: &Stack) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    each(stack, |entry, _| entries.push(entry))?;
    Ok(entries)
}

/// Hands out each entry with its hash, and checks the chain on the way.
fn each(stack: &Stack, mut take: impl FnMut(Entry, String)) -> Result<()> {
    let log = file(stack);
    let text = match std::fs::read(&log) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.context(|| format!("{} cannot be read", log.display()))?,
    };
    let mut previous = BEGINNING.to_owned();
    let mut number = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        number += 1;
        let broken = |why: &str| damaged(&log, &format!("line {number}: {why}"));
        // Another process may be writing it at this moment, or have died doing so.
        let Some(line) = line.strip_suffix(b"\n") else {
            return Ok(());
        };
        let (entry, hash) = read_line(line).map_err(|why| broken(&why))?;
        if entry.previous != previous || entry.number != number {
            return Err(broken("it does not follow the line before it"));
        }
        previous.clone_from(&hash);
        take(entry, hash);
    }
    Ok(())
}

fn read_line(line: &[u8]) -> std::result::Result<(Entry, String), String> {
    let not_one = |_| "it is no entry".to_owned();
    let line: Line<'_> = serde_json::from_slice(line).map_err(not_one)?;
    let entry = serde_json::from_str(line.entry.get()).map_err(not_one)?;
    let hash = hash_of(line.entry.get());
    if hash == line.hash {
        Ok((entry, hash))
    } else {
        Err("its hash is wrong: it was changed".to_owned())
    }
}

fn write_line(entry: &Entry) -> Result<Vec<u8>> {
    let cannot = || "an audit entry cannot be written as JSON";
    let text = serde_json::to_string(entry).context(cannot)?;
    let entry: Box<RawValue> = RawValue::from_string(text).context(cannot)?;
    let mut line = serde_json::to_vec(&Line {
        hash: hash_of(entry.get()),
        entry: &entry,
    })
    .context(cannot)?;
    line.push(b'\n');
    Ok(line)
}

fn hash_of(entry: &str) -> String {
    hex::encode(Sha256::digest(entry))
}

/// The last whole line, without its end. What a process that died left of a line behind it is taken
/// off: it was never an entry.
fn last_line(log: &mut File, path: &Path) -> Result<Option<Vec<u8>>> {
    let cannot = || format!("{} cannot be read", path.display());
    let length = log.metadata().context(cannot)?.len();
    let begin = length.saturating_sub(2 * LONGEST);
    log.seek(SeekFrom::Start(begin)).context(cannot)?;
    let mut tail = Vec::new();
    log.read_to_end(&mut tail).context(cannot)?;
    let whole = memchr::memrchr(b'\n', &tail).map_or(0, |end| end + 1);
    if whole < tail.len() {
        log.set_len(begin + whole as u64).context(cannot)?;
        tail.truncate(whole);
    }
    let Some(last) = tail.strip_suffix(b"\n") else {
        return Ok(None);
    };
    let start = memchr::memrchr(b'\n', last).map_or(0, |end| end + 1);
    Ok(Some(last[start..].to_vec()))
}

fn damaged(log: &Path, why: &str) -> Error {
    Error::bad_data(format!(
        "the audit log {} is not whole: {why}",
        log.display()
    ))
    .hint(
        "Somebody or something has changed it. Move it away to go on with a new one, and keep it.",
    )
}

/// One process writes at a time.
fn lock(stack: &Stack) -> Result<Lock> {
    let begun = Instant::now();
    loop {
        match Lock::exclusive(&stack.lock_file("audit"), "writing the audit log") {
            Err(error) if error.kind() == ErrorKind::Locked && begun.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return other,
        }
    }
}

fn who() -> Who {
    Who {
        user: user_name(),
        sudo_user: std::env::var("SUDO_USER").ok(),
        host: rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
        pid: std::process::id(),
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(LONGEST_TEXT).collect()
}

fn file(stack: &Stack) -> PathBuf {
    stack.folder.join("audit.jsonl")
}
