//! One writer at a time in a folder of an object store, whatever host it is on.
//!
//! The lease is an object that only one can create, and that its holder writes anew all the time.
//! Clocks of several hosts are not compared to take it away: whoever wants it has to have seen for a
//! whole term that nobody renews it. Only a holder of this very host is known to be dead at once.

use super::{Bucket, runtime, wait};
use crate::adapters::process::Identity;
use crate::error::{Context, Error, Result};
use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use object_store::{PutMode, PutResult, UpdateVersion};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::AbortHandle;

/// How long a lease lasts that nobody renews.
const TERM: Duration = Duration::from_secs(60);

/// How often it is renewed.
const RENEWED: Duration = Duration::from_secs(15);

/// How often somebody who waits looks.
const LOOK: Duration = Duration::from_secs(3);

/// How soon a lease is tried for again that is refused and not there.
const AGAIN: Duration = Duration::from_millis(100);

/// How often that may be so before conditions are not believed.
const UNSEEN: u32 = 3;

/// The right to write, until it is dropped or lost.
#[derive(Debug)]
pub struct Lease {
    bucket: Bucket,
    name: String,
    renewing: AbortHandle,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    note: Note,
    version: Mutex<UpdateVersion>,
    is_lost: AtomicBool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Note {
    owner: uuid::Uuid,
    purpose: String,
    host: String,
    /// Boot and process namespace: process numbers mean something to whoever has the same.
    place: String,
    process: Option<Identity>,
    renewals: u64,
}

impl Note {
    fn of_this_process(purpose: &str) -> Self {
        Self {
            owner: uuid::Uuid::new_v4(),
            purpose: purpose.to_owned(),
            host: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
            place: place(),
            process: Identity::of(std::process::id()),
            renewals: 0,
        }
    }

    /// Its holder was a process of this host, and is no more.
    fn is_of_the_dead(&self) -> bool {
        let here = place();
        !here.is_empty()
            && self.place == here
            && self.process.as_ref().is_some_and(|p| !p.is_alive())
    }

    fn holder(&self) -> String {
        let process = self.process.as_ref();
        let pid = process.map_or_else(String::new, |process| format!(" PID {}", process.pid));
        format!("{} ({}{pid})", self.purpose, self.host)
    }

    fn text(&self) -> Result<Vec<u8>> {
        serde_json::to_vec_pretty(self).context(|| "a lease cannot be written")
    }
}

fn place() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let space = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    if boot.is_empty() || space.as_os_str().is_empty() {
        return String::new();
    }
    format!("{} {}", boot.trim(), space.display())
}

/// What stands in a note's place.
struct Found {
    note: Option<Note>,
    version: UpdateVersion,
}

impl Bucket {
    /// Becomes the only holder of the lease `name`, or fails with
    /// [`crate::error::ErrorKind::Locked`] and names the other one.
    pub async fn lease(&self, name: &str, purpose: &str) -> Result<Lease> {
        let note = Note::of_this_process(purpose);
        let text = note.text()?;
        let mut watched: Option<(UpdateVersion, Instant)> = None;
        let (mut mode, mut unseen) = (PutMode::Create, 0);
        loop {
            match self.put(name, &text, mode.clone()) {
                Ok(put) => return self.hold(name, note, put),
                Err(
                    object_store::Error::AlreadyExists { .. }
                    | object_store::Error::Precondition { .. },
                ) => {}
                Err(error) => return Err(self.explain_object(name, "cannot be written", &error)),
            }
            let Some(found) = self.found(name)? else {
                // It was given back in between. Or a store that keeps versions takes the mark of its
                // deletion for the thing itself: then the lease is written as in one that knows no
                // conditions.
                unseen += 1;
                if unseen == UNSEEN {
                    mode = PutMode::Overwrite;
                }
                tokio::time::sleep(AGAIN).await;
                continue;
            };
            let since = match &watched {
                Some((version, since)) if *version == found.version => *since,
                _ => Instant::now(),
            };
            watched = Some((found.version.clone(), since));
            let dead = found.note.as_ref().is_some_and(Note::is_of_the_dead);
            if dead || since.elapsed() >= TERM {
                if let Some(put) = self.take_over(name, &text, found)? {
                    return self.hold(name, note, put);
                }
                continue;
            }
            if self.is_recent(name)? {
                return Err(self.held(name, found.note));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whether somebody holds the lease, as far as can be told at a glance.
    pub fn is_leased(&self, name: &str) -> Result<bool> {
        let Some(found) = self.found(name)? else {
            return Ok(false);
        };
        Ok(!found.note.is_some_and(|note| note.is_of_the_dead()) && self.is_recent(name)?)
    }

    /// Renewed less than a term ago, if the clocks agree. If they do not, whoever wants the lease
    /// watches it, or tries again later.
    fn is_recent(&self, name: &str) -> Result<bool> {
        let term = TimeDelta::from_std(TERM).unwrap_or_default();
        let object = self.head(name)?;
        Ok(object.is_some_and(|object| Utc::now() - object.modified < term))
    }

    fn found(&self, name: &str) -> Result<Option<Found>> {
        let found = self.read_tagged(name)?;
        let read = |(bytes, version): (Bytes, UpdateVersion)| Found {
            note: serde_json::from_slice(&bytes).ok(),
            version,
        };
        Ok(found.map(read))
    }

    fn take_over(&self, name: &str, text: &[u8], found: Found) -> Result<Option<PutResult>> {
        match self.put(name, text, PutMode::Update(found.version)) {
            Ok(put) => Ok(Some(put)),
            // Another was faster.
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. }
                | object_store::Error::NotFound { .. },
            ) => Ok(None),
            Err(error) => Err(self.explain_object(name, "cannot be taken over", &error)),
        }
    }

    fn held(&self, name: &str, note: Option<Note>) -> Error {
        let holder = note.map_or_else(|| "another run".to_owned(), |note| note.holder());
        let address = self.address_of(name);
        Error::locked(format!("{holder} holds the lock {address}")).hint(
            "Wait until it has ended and try again; the lock of a host that died lasts a minute.",
        )
    }

    fn hold(&self, name: &str, note: Note, put: PutResult) -> Result<Lease> {
        // A store that ignores conditions lets two write: the last one has it.
        let found = self.found(name)?;
        let is_ours = |found: &Found| found.note.as_ref().is_some_and(|n| n.owner == note.owner);
        if !found.as_ref().is_some_and(is_ours) {
            return Err(self.held(name, found.and_then(|found| found.note)));
        }
        let state = Arc::new(State {
            note,
            version: Mutex::new(put.into()),
            is_lost: AtomicBool::new(false),
        });
        let renew = renew(self.clone(), name.to_owned(), state.clone());
        Ok(Lease {
            bucket: self.clone(),
            name: name.to_owned(),
            renewing: runtime()?.spawn(renew).abort_handle(),
            state,
        })
    }
}

impl Lease {
    /// Fails if somebody else had to think that this holder is dead.
    pub fn check(&self) -> Result<()> {
        if !self.state.is_lost.load(Ordering::Relaxed) {
            return Ok(());
        }
        let address = self.bucket.address_of(&self.name);
        Err(Error::failed(format!(
            "the lock {address} was lost: it could not be renewed"
        ))
        .hint("The store was out of reach for too long; look at the network and try again."))
    }
}

async fn renew(bucket: Bucket, name: String, state: Arc<State>) {
    let mut note = state.note.clone();
    let mut renewed = Instant::now();
    loop {
        tokio::time::sleep(RENEWED).await;
        note.renewals += 1;
        let (Ok(text), version) = (note.text(), state.version()) else {
            return;
        };
        let (again, key) = (bucket.clone(), bucket.key(&name));
        let options = PutMode::Update(version).into();
        let put = again.0.objects.put_opts(&key, text.into(), options).await;
        match put {
            Ok(put) => {
                *state.lock() = put.into();
                renewed = Instant::now();
            }
            Err(error) => {
                let taken = matches!(
                    error,
                    object_store::Error::Precondition { .. }
                        | object_store::Error::NotFound { .. }
                        | object_store::Error::AlreadyExists { .. }
                );
                if taken || renewed.elapsed() >= TERM {
                    state.is_lost.store(true, Ordering::Relaxed);
                    return;
                }
            }
        }
    }
}

impl State {
    fn lock(&self) -> std::sync::MutexGuard<'_, UpdateVersion> {
        self.version.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn version(&self) -> UpdateVersion {
        self.lock().clone()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewing.abort();
        let owner = self.state.note.owner;
        let is_ours = |found: &Found| found.note.as_ref().is_some_and(|n| n.owner == owner);
        // A lease that cannot be given back ends by itself.
        if self
            .bucket
            .found(&self.name)
            .is_ok_and(|f| f.as_ref().is_some_and(is_ours))
        {
            let (bucket, key) = (self.bucket.clone(), self.bucket.key(&self.name));
            let _ = wait(async move {
                use object_store::ObjectStoreExt;
                bucket.0.objects.delete(&key).await
            });
        }
    }
}
