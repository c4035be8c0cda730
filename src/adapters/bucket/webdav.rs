//! A folder on a `WebDAV` server (RFC 4918), as the object store that the rest of this module stands on.
//!
//! A server shows a file while it is being sent. So nothing is sent to its place: it is sent beside it, and
//! moved there when it is whole, which a server does in one step, and with `Overwrite: F` only if nothing is
//! there. That a file is still the one that was seen is asked for in an `If` header of the move; servers that
//! pass over it are found out as those are that know no conditions.

use super::connect::pauses;
use super::streams::{Streams, folders_above, not_offered};
use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path as Key;
use object_store::{
    Attributes, Error, Extensions, GetOptions, GetResult, GetResultPayload, ObjectMeta, PutMode,
    PutPayload, Result, UpdateVersion,
};
use reqwest::header::{
    CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, IF_MATCH, LAST_MODIFIED, RANGE,
};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use std::time::Duration;

/// What it is called in errors.
const STORE: &str = "WebDAV";

/// How long a server may take to move a file, which some do by copying it.
const PATIENCE: Duration = Duration::from_secs(600);

/// What is asked for of each file.
const PROPERTIES: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?><propfind xmlns=\"DAV:\"><prop>\
    <resourcetype/><getcontentlength/><getlastmodified/><getetag/></prop></propfind>";

/// A `WebDAV` server, and who asks. Cheap to clone.
#[derive(Clone)]
pub(super) struct WebDav {
    client: reqwest::Client,
    /// For what cannot be sent twice.
    once: reqwest::Client,
    /// Scheme, host and port.
    server: Url,
    login: Option<(String, String)>,
}

impl std::fmt::Debug for WebDav {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WebDav({})", self.server)
    }
}

impl WebDav {
    /// The server that `url` names. Nothing is asked of it yet.
    pub(super) fn new(
        client: reqwest::Client,
        once: reqwest::Client,
        url: &Url,
        login: Option<(String, String)>,
    ) -> Self {
        let mut server = url.clone();
        server.set_path("/");
        Self {
            client,
            once,
            server,
            login,
        }
    }

    fn url(&self, key: &Key) -> Url {
        let mut url = self.server.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.clear().extend(key.as_ref().split('/'));
        }
        url
    }

    fn request(&self, method: &str, key: &Key) -> RequestBuilder {
        self.request_by(&self.client, method, key)
    }

    fn request_by(&self, client: &reqwest::Client, method: &str, key: &Key) -> RequestBuilder {
        let method = Method::from_bytes(method.as_bytes()).unwrap_or_default();
        let request = client.request(method, self.url(key));
        match &self.login {
            Some((user, password)) => request.basic_auth(user, Some(password)),
            None => request,
        }
    }

    /// Sends something that may be sent again: for a while, if the server is not there or not well.
    async fn send(&self, key: &Key, request: RequestBuilder) -> Result<Response> {
        let mut pauses = pauses();
        loop {
            let again = request.try_clone();
            let sent = match again {
                Some(again) => again.send().await,
                None => return self.send_once(key, request).await,
            };
            let may_pass = match &sent {
                Ok(answer) => answer.status().is_server_error(),
                Err(error) => !error.is_builder(),
            };
            match pauses.next().filter(|_| may_pass) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return answer(key, sent),
            }
        }
    }

    async fn send_once(&self, key: &Key, request: RequestBuilder) -> Result<Response> {
        answer(key, request.send().await)
    }
}

#[async_trait]
impl Streams for WebDav {
    async fn send_stream(&self, key: &Key, pieces: BoxStream<'static, Bytes>) -> Result<()> {
        let body = reqwest::Body::wrap_stream(pieces.map(Ok::<Bytes, std::io::Error>));
        let request = self
            .request_by(&self.once, "PUT", key)
            .header(CONTENT_TYPE, "application/octet-stream");
        self.send_once(key, request.body(body)).await.map(|_| ())
    }

    async fn put_in_place(&self, from: &Key, to: &Key, mode: &PutMode) -> Result<()> {
        let destination = self.url(to);
        let mut request = self
            .request_by(&self.once, "MOVE", from)
            .timeout(PATIENCE)
            .header("Destination", destination.as_str())
            .header(
                "Overwrite",
                if *mode == PutMode::Create { "F" } else { "T" },
            );
        if let PutMode::Update(UpdateVersion {
            e_tag: Some(tag), ..
        }) = mode
        {
            // By its path: some servers know themselves by another name.
            request = request.header("If", format!("<{}> ([{tag}])", destination.path()));
        }
        // Not again: that it is gone from here may mean that it has arrived there.
        match self.send_once(to, request).await {
            Err(Error::Precondition { path, source }) if *mode == PutMode::Create => {
                Err(Error::AlreadyExists { path, source })
            }
            other => other.map(|_| ()),
        }
    }

    async fn make_folder(&self, key: &Key) -> Result<()> {
        for folder in folders_above(key) {
            match self.send(&folder, self.request("MKCOL", &folder)).await {
                // It is there, or is not ours to make, such as the one that the server begins with.
                Ok(_) | Err(Error::NotSupported { .. } | Error::PermissionDenied { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn send_small(&self, key: &Key, payload: &PutPayload) -> Result<()> {
        let body: Vec<u8> = payload.iter().flat_map(|bytes| bytes.to_vec()).collect();
        let request = self.request("PUT", key).body(body);
        self.send(key, request).await.map(|_| ())
    }

    async fn look(&self, key: &Key) -> Result<ObjectMeta> {
        let found = self.send(key, self.request("HEAD", key)).await?;
        let size = number(found.headers(), CONTENT_LENGTH.as_str()).unwrap_or_default();
        Ok(meta(key, found.headers(), size))
    }

    async fn get(&self, key: &Key, options: GetOptions) -> Result<GetResult> {
        let method = if options.head { "HEAD" } else { "GET" };
        let mut request = self.request(method, key);
        if let Some(range) = &options.range {
            request = request.header(RANGE, range.to_string());
        }
        if let Some(tag) = &options.if_match {
            request = request.header(IF_MATCH, tag);
        }
        let found = self.send(key, request).await?;
        if options.range.is_some() && found.status() != StatusCode::PARTIAL_CONTENT {
            return Err(not_offered("reading parts of a file"));
        }
        let length = number(found.headers(), CONTENT_LENGTH.as_str()).unwrap_or_default();
        let (start, size) = span(found.headers()).unwrap_or((0, length));
        Ok(GetResult {
            meta: meta(key, found.headers(), size),
            range: start..start + length,
            payload: GetResultPayload::Stream(found.bytes_stream().map_err(generic).boxed()),
            attributes: Attributes::default(),
            extensions: Extensions::default(),
        })
    }

    async fn remove(&self, key: &Key) -> Result<()> {
        self.send(key, self.request("DELETE", key))
            .await
            .map(|_| ())
    }

    async fn files_in(&self, folder: &Key) -> Result<Vec<ObjectMeta>> {
        let request = self
            .request("PROPFIND", folder)
            .header("Depth", "1")
            .header(CONTENT_TYPE, "application/xml")
            .body(PROPERTIES);
        let listing = self.send(folder, request).await?;
        files(
            &listing.text().await.map_err(generic)?,
            &self.server,
            folder,
        )
    }
}

#[derive(Debug, Default, Deserialize)]
struct Listing {
    #[serde(default, rename = "response")]
    entries: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    href: String,
    /// Those that are there, and those that are not.
    #[serde(default, rename = "propstat")]
    found: Vec<Found>,
}

#[derive(Debug, Deserialize)]
struct Found {
    prop: Properties,
}

#[derive(Debug, Default, Deserialize)]
struct Properties {
    resourcetype: Option<Type>,
    getcontentlength: Option<String>,
    getlastmodified: Option<String>,
    getetag: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Type {
    collection: Option<()>,
}

/// The files of a listing that are directly in `folder`.
fn files(listing: &str, server: &Url, folder: &Key) -> Result<Vec<ObjectMeta>> {
    let listing: Listing = quick_xml::de::from_str(listing).map_err(generic)?;
    let file = |entry: Entry| {
        let found = entry.found.into_iter().map(|found| found.prop);
        // Each property is in the one answer that has it.
        let all = found.reduce(|a, b| Properties {
            resourcetype: a.resourcetype.or(b.resourcetype),
            getcontentlength: filled(a.getcontentlength).or(b.getcontentlength),
            getlastmodified: filled(a.getlastmodified).or(b.getlastmodified),
            getetag: filled(a.getetag).or(b.getetag),
        })?;
        if all.resourcetype.is_some_and(|of| of.collection.is_some()) {
            return None;
        }
        let url = server.join(&entry.href).ok()?;
        let location = Key::from_url_path(url.path()).ok()?;
        let parent = location.prefix_match(folder)?.count();
        (parent == 1).then(|| ObjectMeta {
            location,
            last_modified: moment(all.getlastmodified.as_deref()),
            size: all
                .getcontentlength
                .and_then(|size| size.trim().parse().ok())
                .unwrap_or_default(),
            e_tag: filled(all.getetag),
            version: None,
        })
    };
    Ok(listing.entries.into_iter().filter_map(file).collect())
}

fn filled(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.trim().is_empty())
}

/// A server's time; now, if it does not say, so that nothing is taken for forgotten.
fn moment(text: Option<&str>) -> DateTime<Utc> {
    let parsed = text.and_then(|text| DateTime::parse_from_rfc2822(text.trim()).ok());
    parsed.map_or_else(Utc::now, |time| time.to_utc())
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// Where a part begins, and how large the whole is: `bytes 0-99/1234`.
fn span(headers: &HeaderMap) -> Option<(u64, u64)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.parse().ok()?, size.parse().ok()?))
}

fn meta(key: &Key, headers: &HeaderMap, size: u64) -> ObjectMeta {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    ObjectMeta {
        location: key.clone(),
        last_modified: moment(text(LAST_MODIFIED.as_str())),
        size,
        e_tag: text(ETAG.as_str()).map(str::to_owned),
        version: None,
    }
}

fn answer(key: &Key, sent: reqwest::Result<Response>) -> Result<Response> {
    // Addresses are shown by whoever asks, and only once.
    let answer = sent.map_err(|error| generic(error.without_url()))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let (path, source) = (key.to_string(), status.to_string().into());
    Err(match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => Error::NotFound { path, source },
        StatusCode::UNAUTHORIZED => Error::Unauthenticated { path, source },
        StatusCode::FORBIDDEN => Error::PermissionDenied { path, source },
        StatusCode::PRECONDITION_FAILED => Error::Precondition { path, source },
        StatusCode::CONFLICT => Error::AlreadyExists { path, source },
        StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
            Error::NotSupported { source }
        }
        _ => generic(status.to_string()),
    })
}

fn generic(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic {
        store: STORE,
        source: error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = r#"<?xml version="1.0"?><D:multistatus xmlns="DAV:">
        <D:response><D:href>/dav/k1/</D:href>
        <D:propstat><D:prop><live:resourcetype><D:collection/></live:resourcetype></D:prop>
        <D:status>HTTP/1.1 200 OK</D:status></D:propstat>
        <D:propstat><D:prop><D:getcontentlength/></D:prop>
        <D:status>HTTP/1.1 404 Not Found</D:status></D:propstat></D:response>
        <D:response><D:href>https://host/dav/k1/a%20b.tar</D:href><D:propstat><D:prop>
        <live:resourcetype/><live:getcontentlength>12</live:getcontentlength>
        <live:getetag>"x"</live:getetag>
        <live:getlastmodified>Fri, 27 Nov 2026 23:45:54 GMT</live:getlastmodified></D:prop>
        <D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response></D:multistatus>"#;

    #[test]
    fn listings_of_several_makes_are_read() {
        let server = Url::parse("https://host/").unwrap();
        let folder = Key::from("dav/k1");
        // As WsgiDAV, Apache (which has properties of its own prefix) and nginx write it.
        for (prefix, live) in [("ns0:", "ns0:"), ("D:", "lp1:"), ("", "")] {
            let listing = LISTING.replace("D:", prefix).replace("live:", live);
            let found = files(&listing, &server, &folder).unwrap();
            assert_eq!(found.len(), 1, "{listing}");
            assert_eq!(found[0].location.filename(), Some("a b.tar"));
            assert_eq!(found[0].size, 12);
            assert_eq!(found[0].e_tag.as_deref(), Some("\"x\""));
            assert_eq!(
                found[0].last_modified.to_rfc3339(),
                "2026-11-27T23:45:54+00:00"
            );
        }
    }
}
