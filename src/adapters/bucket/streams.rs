//! What a server has to be able to do on which a new file is written while its bytes come.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use object_store::path::Path as Key;
use object_store::{PutMode, Result};

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
}

/// Where something small is sent that is to be at `key`.
pub(super) fn beside(key: &Key) -> Key {
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
