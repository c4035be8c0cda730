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
use object_store::{PutMode, UpdateVersion};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::AbortHandle;

/// How long a lease lasts that nobody renews.
const TERM: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 60 });

/// How often it is renewed.
const RENEWED: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 15_000 });

/// How long a renewal may take, so that it can be tried again before the term is over.
const RENEWAL: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 15 });

/// How soon one is tried again that was not answered.
const UNANSWERED: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 3000 });

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
    held: Mutex<Held>,
    is_lost: AtomicBool,
}

/// What is in the store of ours, and since when it is known to be there.
#[derive(Debug, Clone)]
struct Held {
    version: UpdateVersion,
    renewed: Instant,
}

/// What came of an attempt to renew.
enum Renewed {
    Yes,
    /// Somebody else has it.
    Lost,
    /// That is not known.
    Unanswered,
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

impl Found {
    fn of((bytes, version): (Bytes, UpdateVersion)) -> Self {
        Self {
            note: serde_json::from_slice(&bytes).ok(),
            version,
        }
    }

    fn is_of(&self, owner: uuid::Uuid) -> bool {
        self.note.as_ref().is_some_and(|note| note.owner == owner)
    }
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
            let begun = Instant::now();
            let failed = match self.put(name, &text, mode.clone()) {
                Ok(put) => return self.hold(name, note, put.into(), begun),
                Err(error) => error,
            };
            let found = if is_refused(&failed) {
                self.found(name)?
            } else {
                let found = self.found_soon(name);
                if !found.as_ref().is_some_and(|found| found.is_of(note.owner)) {
                    return Err(self.explain_object(name, "cannot be written", &failed));
                }
                found
            };
            let Some(found) = found else {
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
            if found.is_of(note.owner) {
                // It was written, and the answer got lost: what refuses it now is itself.
                return self.hold(name, note, found.version, begun);
            }
            let since = match &watched {
                Some((version, since)) if *version == found.version => *since,
                _ => Instant::now(),
            };
            watched = Some((found.version.clone(), since));
            let dead = found.note.as_ref().is_some_and(Note::is_of_the_dead);
            if dead || since.elapsed() >= TERM {
                let begun = Instant::now();
                if let Some(version) = self.take_over(name, &text, found)? {
                    return self.hold(name, note, version, begun);
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
        Ok(self.read_tagged(name)?.map(Found::of))
    }

    /// The same from a store that has just failed: it is not waited for once more.
    fn found_soon(&self, name: &str) -> Option<Found> {
        let (this, of) = (self.clone(), name.to_owned());
        let read = async move {
            let read = tokio::time::timeout(RENEWAL, this.read_tagged_now(&of));
            read.await.ok()?.ok()?
        };
        wait(read).ok()?.map(Found::of)
    }

    fn take_over(&self, name: &str, text: &[u8], found: Found) -> Result<Option<UpdateVersion>> {
        match self.put(name, text, PutMode::Update(found.version)) {
            Ok(put) => Ok(Some(put.into())),
            // Another was faster.
            Err(error) if is_refused(&error) => Ok(None),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
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

    fn hold(
        &self,
        name: &str,
        note: Note,
        version: UpdateVersion,
        renewed: Instant,
    ) -> Result<Lease> {
        // A store that ignores conditions lets two write: the last one has it.
        let found = self.found(name)?;
        if !found.as_ref().is_some_and(|found| found.is_of(note.owner)) {
            return Err(self.held(name, found.and_then(|found| found.note)));
        }
        let state = Arc::new(State {
            note,
            held: Mutex::new(Held { version, renewed }),
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
    /// Fails if somebody else had to think that this holder is dead: also while a renewal is under way.
    pub fn check(&self) -> Result<()> {
        let is_over = self.state.held().renewed.elapsed() >= TERM;
        if !is_over && !self.state.is_lost.load(Ordering::Relaxed) {
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
    // It may have been tried for long until there was an answer.
    let mut pause = RENEWED.saturating_sub(state.held().renewed.elapsed());
    loop {
        tokio::time::sleep(pause).await;
        note.renewals += 1;
        let Ok(text) = note.text() else {
            return;
        };
        pause = match renew_once(&bucket, &name, &state, &text).await {
            Renewed::Yes => RENEWED,
            Renewed::Unanswered if state.held().renewed.elapsed() < TERM => UNANSWERED,
            Renewed::Unanswered | Renewed::Lost => {
                state.is_lost.store(true, Ordering::Relaxed);
                return;
            }
        };
    }
}

/// Writes the note anew. One that is not the one that was written last may still be ours: a write whose
/// answer got lost.
async fn renew_once(bucket: &Bucket, name: &str, state: &State, text: &[u8]) -> Renewed {
    let begun = Instant::now();
    let put = bucket.put_now(name, text, PutMode::Update(state.held().version));
    let failed = match tokio::time::timeout(RENEWAL, put).await {
        Ok(Ok(put)) => {
            *state.lock() = Held {
                version: put.into(),
                renewed: begun,
            };
            return Renewed::Yes;
        }
        Ok(Err(error)) => error,
        Err(_) => return Renewed::Unanswered,
    };
    if matches!(failed, object_store::Error::NotFound { .. }) {
        return Renewed::Lost;
    }
    if !is_refused(&failed) {
        return Renewed::Unanswered;
    }
    let found = tokio::time::timeout(RENEWAL, bucket.read_tagged_now(name)).await;
    match found {
        Ok(Ok(found)) => match found.map(Found::of) {
            Some(found) if found.is_of(state.note.owner) => {
                // When it was written is not known, so that it does not count as renewed yet.
                state.lock().version = found.version;
                Renewed::Unanswered
            }
            _ => Renewed::Lost,
        },
        Ok(Err(_)) | Err(_) => Renewed::Unanswered,
    }
}

/// Whether something else is there than what a write was to replace.
fn is_refused(error: &object_store::Error) -> bool {
    matches!(
        error,
        object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }
    )
}

impl State {
    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> Held {
        self.lock().clone()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewing.abort();
        let is_ours = |found: &Found| found.is_of(self.state.note.owner);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::bucket::Settings;
    use crate::adapters::bucket::lossy_store::{Loss, LossyStore};

    const NAME: &str = "lock.json";

    fn bucket(folder: &std::path::Path, store: &LossyStore) -> Bucket {
        let keys = folder.join("keys");
        crate::adapters::fs::write_atomically(
            &keys,
            b"AWS_ACCESS_KEY_ID=a\nAWS_SECRET_ACCESS_KEY=b\n",
        )
        .unwrap();
        Bucket::open(&Settings {
            url: "s3://bucket/folder".to_owned(),
            endpoint: store.endpoint(),
            region: "here".to_owned(),
            credentials: Some(keys),
            lock: None,
        })
        .unwrap()
    }

    async fn until(what: impl Fn() -> bool) {
        let begun = Instant::now();
        while !what() {
            assert!(begun.elapsed() < Duration::from_secs(20), "it never came");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_lease_whose_own_making_was_not_answered_is_ours() {
        for loss in [Loss::Busy, Loss::Answer] {
            let folder = tempfile::tempdir().unwrap();
            let store = LossyStore::start();
            let bucket = bucket(folder.path(), &store);
            store.lose([loss]);
            let lease = bucket.lease(NAME, "k1ops backup").await;
            let lease = lease.unwrap_or_else(|error| panic!("{loss:?}: {error}"));
            let writes = store.writes();
            until(|| store.writes() > writes + 2).await;
            lease.check().unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_lease_whose_renewal_was_not_answered_goes_on() {
        for loss in [Loss::Busy, Loss::Answer] {
            let folder = tempfile::tempdir().unwrap();
            let store = LossyStore::start();
            let bucket = bucket(folder.path(), &store);
            let lease = bucket.lease(NAME, "k1ops backup").await.unwrap();
            store.lose([loss]);
            let writes = store.writes();
            until(|| store.writes() > writes + 3).await;
            lease.check().unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_lease_that_somebody_else_took_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let store = LossyStore::start();
        let bucket = bucket(folder.path(), &store);
        let lease = bucket.lease(NAME, "k1ops backup").await.unwrap();
        let other = Note::of_this_process("k1ops prune");
        bucket.write(NAME, &other.text().unwrap()).unwrap();
        until(|| lease.check().is_err()).await;
        let held = bucket.lease(NAME, "k1ops list").await.unwrap_err();
        assert!(held.to_string().contains("k1ops prune"), "{held}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_lease_is_not_believed_past_its_term_while_a_renewal_hangs() {
        let folder = tempfile::tempdir().unwrap();
        let store = LossyStore::start();
        let bucket = bucket(folder.path(), &store);
        let lease = bucket.lease(NAME, "k1ops backup").await.unwrap();
        store.hang();
        until(|| lease.check().is_err()).await;
        store.go_on();
    }
}
