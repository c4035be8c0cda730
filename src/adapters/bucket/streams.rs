//! What a server has to be able to do on which a new file is written while its bytes come, and what makes an object
//! store of it. How it is spoken to is not known here.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, Error, Extensions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    UpdateVersion,
};
use std::sync::Arc;

/// How the name of something small begins that is sent beside its place.
const BESIDE: &str = ".k1ops-";

/// A server that takes a file in one stream, and shows it meanwhile: so it is sent beside its place and moved
/// there when it is whole.
#[async_trait]
pub(super) trait Streams: std::fmt::Debug + Send + Sync {
    /// Makes the folder of `key`, and those above it.
    async fn make_folder(&self, key: &Key) -> Result<()>;

    /// Sends a file to `key`, which is beside its place; durable where the server can say so. To drop this
    /// breaks it off before its end.
    async fn send_stream(&self, key: &Key, pieces: BoxStream<'static, Bytes>) -> Result<()>;

    /// Gives a file that was sent its name, in one step.
    async fn put_in_place(&self, from: &Key, to: &Key, mode: &PutMode) -> Result<()>;

    /// Sends something small to `key`, which is beside its place. `NotFound` or `AlreadyExists` say that its folder
    /// is not there.
    async fn send_small(&self, key: &Key, payload: &PutPayload) -> Result<()>;

    /// What is known of a file.
    async fn look(&self, key: &Key) -> Result<ObjectMeta>;

    /// A file, or a part of it.
    async fn get(&self, key: &Key, options: GetOptions) -> Result<GetResult>;

    /// Removes a file.
    async fn remove(&self, key: &Key) -> Result<()>;

    /// The files that are directly in a folder; `NotFound` if it is not there.
    async fn files_in(&self, folder: &Key) -> Result<Vec<ObjectMeta>>;
}

/// Such a server as an object store. Cheap to clone.
#[derive(Debug)]
pub(super) struct Streamed<S>(pub(super) Arc<S>);

impl<S: Streams> std::fmt::Display for Streamed<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[async_trait]
impl<S: Streams + 'static> ObjectStore for Streamed<S> {
    async fn put_opts(
        &self,
        location: &Key,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let server = &self.0;
        if let PutMode::Update(UpdateVersion { e_tag, .. }) = &options.mode
            && server.look(location).await?.e_tag != *e_tag
        {
            return Err(Error::Precondition {
                path: location.to_string(),
                source: "it has changed".into(),
            });
        }
        let beside = beside(location);
        match server.send_small(&beside, &payload).await {
            Err(Error::NotFound { .. } | Error::AlreadyExists { .. }) => {
                server.make_folder(location).await?;
                server.send_small(&beside, &payload).await?;
            }
            other => other?,
        }
        if let Err(error) = server.put_in_place(&beside, location, &options.mode).await {
            let _ = server.remove(&beside).await;
            return Err(error);
        }
        Ok(PutResult {
            e_tag: server.look(location).await?.e_tag,
            version: None,
            extensions: Extensions::default(),
        })
    }

    async fn put_multipart_opts(
        &self,
        _location: &Key,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(not_offered("uploads in parts"))
    }

    async fn get_opts(&self, location: &Key, options: GetOptions) -> Result<GetResult> {
        self.0.get(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Key>>,
    ) -> BoxStream<'static, Result<Key>> {
        let server = self.0.clone();
        let remove = move |key: Result<Key>| {
            let server = server.clone();
            async move {
                let key = key?;
                server.remove(&key).await?;
                Ok(key)
            }
        };
        locations.then(remove).boxed()
    }

    fn list(&self, _prefix: Option<&Key>) -> BoxStream<'static, Result<ObjectMeta>> {
        futures_util::stream::once(async { Err(not_offered("listing of everything below")) })
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> Result<ListResult> {
        let folder = prefix.cloned().unwrap_or_default();
        let objects = match self.0.files_in(&folder).await {
            Ok(objects) => objects,
            // Nothing was ever written there.
            Err(Error::NotFound { .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(ListResult {
            common_prefixes: Vec::new(),
            objects,
            extensions: Extensions::default(),
        })
    }

    async fn copy_opts(&self, _from: &Key, _to: &Key, _options: CopyOptions) -> Result<()> {
        Err(not_offered("copies on the server"))
    }
}

pub(super) fn not_offered(what: &str) -> Error {
    Error::NotSupported {
        source: format!("the server does not offer {what}").into(),
    }
}

/// Where something small is sent that is to be at `key`.
fn beside(key: &Key) -> Key {
    let mut parts: Vec<_> = key.parts().collect();
    let name = parts.pop();
    let name = name.as_ref().map_or("", |name| name.as_ref());
    let beside = format!("{BESIDE}{}-{name}", uuid::Uuid::new_v4().simple());
    parts.into_iter().collect::<Key>().join(beside)
}

/// The folders above `key`, the outermost first.
pub(super) fn folders_above(key: &Key) -> Vec<Key> {
    let parts: Vec<_> = key.parts().collect();
    let mut folder = Key::default();
    let above = parts.iter().take(parts.len().saturating_sub(1));
    above
        .map(|part| {
            folder = folder.clone().join(part.clone());
            folder.clone()
        })
        .collect()
}
