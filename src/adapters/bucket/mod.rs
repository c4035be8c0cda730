//! A folder in an object store: S3 and what speaks its language, Azure Blob Storage, Google Cloud
//! Storage, `WebDAV`, SFTP.
//!
//! Calls block, as those of the file system do, and work from any thread, inside a runtime or not:
//! the requests run on a small runtime of this module's own. Every request is tried again for a
//! while, and none waits for ever.

mod connect;
mod lease;
#[cfg(test)]
mod lossy_store;
mod object_lock;
mod remote;
mod sftp;
mod signed;
mod ssh;
mod stream;
mod streams;
mod unfinished;
mod upload;
mod webdav;

pub use connect::Settings;
pub use lease::Lease;
pub use object_lock::ObjectLock;
pub use remote::Remote;
pub use unfinished::Unfinished;
pub use upload::Upload;

use crate::adapters::storage::Sink;
use crate::error::{Context, Error, ErrorKind, Result};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use connect::{Connected, Writes};
use object_lock::Locking;
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt, PutMode, PutOptions, PutPayload, PutResult, UpdateVersion};
use std::future::Future;
use std::sync::{Arc, OnceLock};
use stream::Streamed;
use tokio::runtime::Runtime;

/// The largest object that is read as a whole.
const SMALL: u64 = 16 << 20;

/// A folder in an object store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bucket(Arc<Connected>);

/// An object of the folder.
#[derive(Debug, Clone)]
pub struct Object {
    /// Its name in the folder.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was written, by the store's clock.
    pub modified: DateTime<Utc>,
    /// Changes with the content.
    tag: Option<String>,
}

impl Bucket {
    /// The folder that `settings` name. Nothing is asked of the store yet.
    pub fn open(settings: &Settings) -> Result<Self> {
        connect::connect(settings).map(|connected| Self(Arc::new(connected)))
    }

    /// Its address, without any secret.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.0.address
    }

    /// Every object directly in the folder.
    pub fn list(&self) -> Result<Vec<Object>> {
        self.list_in("")
    }

    /// Every object directly in a folder below.
    pub fn list_in(&self, folder: &str) -> Result<Vec<Object>> {
        let (this, key) = (self.clone(), self.key(folder));
        let found = wait(async move {
            let store = &this.0.objects;
            store.list_with_delimiter(Some(&key)).await
        })?;
        let found = found.map_err(|error| self.explain("cannot be listed", &error))?;
        let object = |meta: object_store::ObjectMeta| {
            let name = meta.location.filename()?.to_owned();
            Some(Object {
                name,
                size: meta.size,
                modified: meta.last_modified,
                tag: meta.e_tag,
            })
        };
        Ok(found.objects.into_iter().filter_map(object).collect())
    }

    /// What is known of an object; `None` if it is not there.
    pub fn head(&self, name: &str) -> Result<Option<Object>> {
        let (this, key) = (self.clone(), self.key(name));
        match wait(async move { this.0.objects.head(&key).await })? {
            Ok(meta) => Ok(Some(Object {
                name: name.to_owned(),
                size: meta.size,
                modified: meta.last_modified,
                tag: meta.e_tag,
            })),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.explain_object(name, "cannot be looked at", &error)),
        }
    }

    /// The content of a small object; `None` if it is not there.
    pub fn read(&self, name: &str) -> Result<Option<Bytes>> {
        Ok(self.read_tagged(name)?.map(|(bytes, _)| bytes))
    }

    /// Writes a small object in place of what was there; readers see the old or the new.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        self.put(name, content, PutMode::Overwrite)
            .map(|_| ())
            .map_err(|error| self.explain_object(name, "cannot be written", &error))
    }

    /// Removes an object if it is there.
    pub fn remove(&self, name: &str) -> Result<()> {
        let (this, key) = (self.clone(), self.key(name));
        match wait(async move { this.0.objects.delete(&key).await })? {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.explain_object(name, "cannot be removed", &error)),
        }
    }

    /// Begins an object of this name, which must be free unless it is to be replaced. Where a store
    /// shows what is not finished, it is called `partial` meanwhile.
    pub fn begin(&self, name: &str, partial: String, replaces: bool) -> Result<Box<dyn Sink>> {
        if !replaces {
            self.require_free(name)?;
        }
        let sink: Box<dyn Sink> = match &self.0.writes {
            Writes::Parts(store) => {
                Box::new(Upload::begin_object(self, store.clone(), name, replaces))
            }
            Writes::Stream(server) => Box::new(Streamed::begin(
                self,
                server.clone(),
                name,
                partial,
                replaces,
            )?),
        };
        Ok(match self.0.lock {
            Some(lock) => Box::new(Locking {
                sink,
                bucket: self.clone(),
                name: name.to_owned(),
                lock,
            }),
            None => sink,
        })
    }

    fn require_free(&self, name: &str) -> Result<()> {
        match self.head(name)? {
            None => Ok(()),
            Some(_) => Err(Error::refused(format!(
                "{} exists already",
                self.address_of(name)
            ))),
        }
    }

    fn read_tagged(&self, name: &str) -> Result<Option<(Bytes, UpdateVersion)>> {
        let (this, of) = (self.clone(), name.to_owned());
        wait(async move { this.read_tagged_now(&of).await })?
    }

    /// The same on the runtime of the requests, where nothing may wait for them.
    async fn read_tagged_now(&self, name: &str) -> Result<Option<(Bytes, UpdateVersion)>> {
        let got = async {
            let got = self.0.objects.get(&self.key(name)).await?;
            if got.meta.size > SMALL {
                return Ok(None);
            }
            let version = UpdateVersion {
                e_tag: got.meta.e_tag.clone(),
                version: got.meta.version.clone(),
            };
            Ok(Some((got.bytes().await?, version)))
        };
        match got.await {
            Ok(Some(read)) => Ok(Some(read)),
            Ok(None) => Err(Error::bad_data(format!(
                "{} is too large to be a note",
                self.address_of(name)
            ))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.explain_object(name, "cannot be read", &error)),
        }
    }

    fn put(
        &self,
        name: &str,
        content: &[u8],
        mode: PutMode,
    ) -> std::result::Result<PutResult, object_store::Error> {
        let (this, of, content) = (self.clone(), name.to_owned(), content.to_vec());
        wait(async move { this.put_now(&of, &content, mode).await }).unwrap_or_else(|error| {
            Err(object_store::Error::Generic {
                store: "object store",
                source: Box::new(error),
            })
        })
    }

    /// The same on the runtime of the requests.
    async fn put_now(
        &self,
        name: &str,
        content: &[u8],
        mode: PutMode,
    ) -> std::result::Result<PutResult, object_store::Error> {
        let payload = PutPayload::from(content.to_vec());
        let (store, key) = (&self.0.objects, self.key(name));
        store.put_opts(&key, payload, PutOptions::from(mode)).await
    }

    fn key(&self, name: &str) -> Key {
        let mut key = self.0.folder.clone();
        for part in name.split('/').filter(|part| !part.is_empty()) {
            key = key.join(part);
        }
        key
    }

    fn address_of(&self, name: &str) -> String {
        format!("{}/{name}", self.address())
    }

    fn explain_object(&self, name: &str, what: &str, error: &object_store::Error) -> Error {
        explain(&self.address_of(name), what, error)
    }

    fn explain(&self, what: &str, error: &object_store::Error) -> Error {
        explain(self.address(), what, error)
    }
}

fn explain(address: &str, what: &str, error: &object_store::Error) -> Error {
    use object_store::Error as Cause;
    let message = format!("{address} {what}");
    let because = beneath(error);
    match error {
        Cause::NotFound { .. } => Error::missing(message)
            .because(because)
            .hint("Look at repository.url: is the bucket there, and is it spelt like this?"),
        _ if is_refused(error) => Error::missing(message).because(because).hint(
            "Give the credentials of an account that may do this, in the environment or in the \
             file that repository.credentials names.",
        ),
        Cause::AlreadyExists { .. } => {
            Error::refused(format!("{address} exists already")).because(because)
        }
        _ => Error::new(ErrorKind::Failed, message)
            .because(because)
            .hint("Look whether the store can be reached from here, and try again."),
    }
}

/// Whether the store does not let this account do it. A listing tells the status in its text alone.
fn is_refused(error: &object_store::Error) -> bool {
    use object_store::Error as Cause;
    let listing = |status| beneath(error).contains(&format!("status code: {status}"));
    match error {
        Cause::PermissionDenied { .. } | Cause::Unauthenticated { .. } => true,
        Cause::Generic { .. } => listing(401) || listing(403),
        _ => false,
    }
}

/// What lies beneath everything else: every layer above repeats it, at length.
fn beneath(error: &object_store::Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    let text = last.to_string();
    let tagged = |tag: &str| {
        let (_, rest) = text.split_once(&format!("<{tag}>"))?;
        Some(rest.split_once("</")?.0)
    };
    match (
        text.split_once(": <?xml"),
        tagged("Code"),
        tagged("Message"),
    ) {
        (Some((status, _)), Some(code), Some(message)) => format!("{status}: {code}: {message}"),
        _ => text.trim_end_matches([':', ' ', '\n']).to_owned(),
    }
}

/// Runs requests to their end, from whatever thread.
fn wait<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Result<T> {
    let (answer, answered) = std::sync::mpsc::sync_channel(1);
    runtime()?.spawn(async move {
        // Nobody listens any more if the caller's thread died.
        let _ = answer.send(work.await);
    });
    answered
        .recv()
        .context(|| "a request to the object store died")
}

/// Its own, so that blocking callers never wait for a thread that waits for them.
fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<std::io::Result<Runtime>> = OnceLock::new();
    let begun = RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("object-store")
            .enable_all()
            .build()
    });
    begun.as_ref().map_err(|error| {
        Error::failed("requests to an object store cannot be started").because(error.to_string())
    })
}
