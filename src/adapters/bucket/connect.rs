//! From an address and the environment to a store that can be asked.
//!
//! Credentials come from the environment or from a file that only its owner can read, by the names
//! that every other tool uses for them (`AWS_ACCESS_KEY_ID` and so on); never from the address.

use super::object_lock::ObjectLock;
use super::sftp::Sftp;
use super::ssh::Target;
use super::streams::{Streamed, Streams};
use super::webdav::WebDav;
use crate::adapters::http;
use crate::error::{Context, Error, Result};
use backon::BackoffBuilder;
use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{HttpClient, HttpConnector};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::multipart::MultipartStore;
use object_store::path::Path as Key;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Without one of these, an S3 client would go looking for the metadata service of a cloud.
const S3_CREDENTIALS: [&str; 6] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_METADATA_ENDPOINT",
    "AWS_SKIP_SIGNATURE",
];

/// Where a folder in an object store is.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// `s3://BUCKET/FOLDER`, `az://CONTAINER/FOLDER`, `gs://BUCKET/FOLDER`, `https://HOST/FOLDER` or
    /// `sftp://USER@HOST/FOLDER`.
    pub url: String,
    /// The server's address, if it is not the provider's own.
    pub endpoint: String,
    /// The region; empty: what the environment says, or the provider's default.
    pub region: String,
    /// A file of `NAME=VALUE` lines that go before the environment.
    pub credentials: Option<PathBuf>,
    /// Objects that are begun here are locked when they are written.
    pub lock: Option<ObjectLock>,
}

#[derive(Debug)]
pub(super) struct Connected {
    pub(super) address: String,
    pub(super) folder: Key,
    pub(super) objects: Arc<dyn ObjectStore>,
    pub(super) writes: Writes,
    pub(super) lock: Option<ObjectLock>,
    /// Where uploads that were never finished can be listed.
    pub(super) s3: Option<(Arc<AmazonS3>, reqwest::Client)>,
}

/// How something large is written.
#[derive(Debug)]
pub(super) enum Writes {
    /// In parts, that nobody sees before the last.
    Parts(Arc<dyn Parts>),
    /// In one stream, beside its place.
    Stream(Arc<dyn Streams>),
}

/// A store that takes objects in parts.
pub(super) trait Parts: MultipartStore + std::fmt::Debug {}

impl<T: MultipartStore + std::fmt::Debug> Parts for T {}

pub(super) fn connect(settings: &Settings) -> Result<Connected> {
    let url = parse(&settings.url)?;
    let bucket = url.host_str().unwrap_or_default().to_owned();
    let port = url
        .port()
        .map_or_else(String::new, |port| format!(":{port}"));
    let path = url.path();
    let path = path
        .strip_prefix("/~/")
        .filter(|_| url.scheme() == "sftp")
        .unwrap_or(path);
    let folder = path.trim_matches('/').to_owned();
    let user = match url.username() {
        "" => String::new(),
        user => format!("{user}@"),
    };
    let mut address = format!("{}://{user}{bucket}{port}", url.scheme());
    if !folder.is_empty() {
        address = format!("{address}/{folder}");
    }
    let folder = Key::parse(&folder)
        .context(|| format!("repository.url {address} names no folder of a store"))?;
    if settings.lock.is_some() && url.scheme() != "s3" {
        return Err(Error::usage(format!("{address} cannot lock what is in it"))
            .hint("repository.locked_for is for S3 and what speaks its language: take it away."));
    }
    let variables = variables(settings)?;
    let client = http::storage_client()?;
    let cannot = || format!("{address} cannot be set up");
    let plain = Options {
        settings,
        variables: &variables,
        client: &client,
    };
    let (objects, writes, s3): (Arc<dyn ObjectStore>, _, _) = match url.scheme() {
        "s3" => {
            let s3 = Arc::new(plain.s3(&bucket, &address)?.build().context(cannot)?);
            (
                s3.clone(),
                Writes::Parts(s3.clone()),
                Some((s3, client.clone())),
            )
        }
        "az" => {
            let azure = Arc::new(plain.azure(&bucket).build().context(cannot)?);
            (azure.clone(), Writes::Parts(azure), None)
        }
        "http" | "https" => {
            let login = login(&url, &address, &variables)?;
            let server = Arc::new(WebDav::new(
                client.clone(),
                http::single_use_client()?,
                &url,
                login,
            ));
            (
                Arc::new(Streamed(server.clone())),
                Writes::Stream(server),
                None,
            )
        }
        "sftp" => {
            let (target, root) = target(&url, &variables)?;
            let server = Arc::new(Sftp::new(target, root));
            (
                Arc::new(Streamed(server.clone())),
                Writes::Stream(server),
                None,
            )
        }
        _ => {
            let google = Arc::new(plain.google(&bucket).build().context(cannot)?);
            (google.clone(), Writes::Parts(google), None)
        }
    };
    Ok(Connected {
        address,
        folder,
        objects,
        writes,
        lock: settings.lock,
        s3,
    })
}

fn parse(text: &str) -> Result<reqwest::Url> {
    let hint = "Write it as s3://BUCKET/FOLDER, az://CONTAINER/FOLDER, gs://BUCKET/FOLDER, for WebDAV \
                https://HOST/FOLDER, or sftp://USER@HOST/FOLDER.";
    let wrong = |what: &str| Error::usage(format!("repository.url {what}")).hint(hint);
    let url = reqwest::Url::parse(text).map_err(|_| wrong("is not a URL"))?;
    let names_a_user = !url.username().is_empty() && url.scheme() != "sftp";
    if names_a_user || url.password().is_some() || url.query().is_some() {
        return Err(wrong("has more in it than a place").hint(
            "Credentials belong in the environment or in the file that repository.credentials \
             names, and a server's address in repository.endpoint.",
        ));
    }
    if !matches!(url.scheme(), "s3" | "az" | "gs" | "http" | "https" | "sftp") {
        return Err(wrong("is of a kind that is not known"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(wrong("names no bucket or host"));
    }
    Ok(url)
}

/// What the environment and the file of credentials say, by name.
fn variables(settings: &Settings) -> Result<BTreeMap<String, String>> {
    let of_store = |name: &str| {
        ["AWS_", "AZURE_", "GOOGLE_", "WEBDAV_", "SFTP_"]
            .iter()
            .any(|p| name.starts_with(p))
    };
    let mut variables: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| of_store(name))
        .collect();
    let Some(file) = &settings.credentials else {
        return Ok(variables);
    };
    for (number, line) in (1..).zip(read_private(file)?.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line
            .split_once('=')
            .map(|(name, value)| (name.trim(), value.trim()))
            .filter(|(name, _)| of_store(name))
            .ok_or_else(|| {
                Error::usage(format!(
                    "line {number} of {} is not NAME=VALUE",
                    file.display()
                ))
                .hint("Write lines such as AWS_ACCESS_KEY_ID=… and AWS_SECRET_ACCESS_KEY=….")
            })?;
        variables.insert(name.to_owned(), value.to_owned());
    }
    Ok(variables)
}

/// Who asks a `WebDAV` server, if it is to be said. A password goes over the line as it is.
fn login(
    url: &reqwest::Url,
    address: &str,
    variables: &BTreeMap<String, String>,
) -> Result<Option<(String, String)>> {
    let Some(user) = variables.get("WEBDAV_USERNAME") else {
        return Ok(None);
    };
    let is_here = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    if url.scheme() == "http" && !is_here {
        return Err(Error::refused(format!(
            "the password for {address} would go over the network in the clear"
        ))
        .hint("Write the address with https://."));
    }
    let password = variables
        .get("WEBDAV_PASSWORD")
        .cloned()
        .unwrap_or_default();
    Ok(Some((user.clone(), password)))
}

/// Who is asked by `ssh`, and where keys begin: at the root, or after `/~/` in the user's own folder.
fn target(
    url: &reqwest::Url,
    variables: &BTreeMap<String, String>,
) -> Result<(Target, &'static str)> {
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if [host, url.username()]
        .iter()
        .any(|name| name.starts_with('-'))
    {
        return Err(Error::usage(
            "repository.url names a host or a user that begins with `-`",
        ));
    }
    let target = Target {
        host: host.to_owned(),
        user: Some(url.username())
            .filter(|name| !name.is_empty())
            .map(str::to_owned),
        port: url.port(),
        config: variables.get("SFTP_SSH_CONFIG").map(PathBuf::from),
    };
    let is_of_user = url.path().starts_with("/~/");
    Ok((target, if is_of_user { "" } else { "/" }))
}

/// Reads a file that nobody but its owner may read.
fn read_private(file: &Path) -> Result<String> {
    let cannot = || {
        format!(
            "the file {} with the store's credentials cannot be read",
            file.display()
        )
    };
    let mode = std::fs::metadata(file)
        .context(cannot)?
        .permissions()
        .mode();
    if mode & 0o077 != 0 {
        return Err(Error::refused(format!(
            "{} holds credentials and can be read by others",
            file.display()
        ))
        .hint(format!("Take that away with: chmod 600 {}", file.display())));
    }
    std::fs::read_to_string(file).context(cannot)
}

struct Options<'a> {
    settings: &'a Settings,
    variables: &'a BTreeMap<String, String>,
    client: &'a reqwest::Client,
}

impl Options<'_> {
    fn s3(&self, bucket: &str, address: &str) -> Result<AmazonS3Builder> {
        if !S3_CREDENTIALS
            .iter()
            .any(|name| self.variables.contains_key(*name))
        {
            return Err(
                Error::missing(format!("there are no credentials for {address}")).hint(
                    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write them to a file of \
                     mode 0600 that repository.credentials names.",
                ),
            );
        }
        let mut builder = AmazonS3Builder::new().with_allow_http(true);
        for (key, value) in self.keys() {
            builder = builder.with_config(key, value);
        }
        builder = builder.with_bucket_name(bucket).with_retry(retries());
        if !self.settings.endpoint.is_empty() {
            builder = builder.with_endpoint(&self.settings.endpoint);
        }
        if !self.settings.region.is_empty() {
            builder = builder.with_region(&self.settings.region);
        }
        if self.settings.lock.is_some() {
            // Where a bucket locks by itself, it takes nothing without.
            builder = builder.with_checksum_algorithm(Checksum::SHA256);
        }
        Ok(builder.with_http_connector(self.connector()))
    }

    fn azure(&self, container: &str) -> MicrosoftAzureBuilder {
        let mut builder = MicrosoftAzureBuilder::new().with_allow_http(true);
        for (key, value) in self.keys() {
            builder = builder.with_config(key, value);
        }
        builder = builder.with_container_name(container).with_retry(retries());
        if !self.settings.endpoint.is_empty() {
            builder = builder.with_endpoint(self.settings.endpoint.clone());
        }
        builder.with_http_connector(self.connector())
    }

    fn google(&self, bucket: &str) -> GoogleCloudStorageBuilder {
        let mut builder = GoogleCloudStorageBuilder::new();
        for (key, value) in self.keys() {
            builder = builder.with_config(key, value);
        }
        if !self.settings.endpoint.is_empty() {
            builder = builder.with_base_url(&self.settings.endpoint);
        }
        builder
            .with_bucket_name(bucket)
            .with_retry(retries())
            .with_http_connector(self.connector())
    }

    /// The variables that a store knows; others are for other programs.
    fn keys<K: std::str::FromStr>(&self) -> impl Iterator<Item = (K, String)> {
        self.variables.iter().filter_map(|(name, value)| {
            let key = name.to_ascii_lowercase().parse().ok()?;
            Some((key, value.clone()))
        })
    }

    fn connector(&self) -> Connector {
        Connector(self.client.clone())
    }
}

/// A request that fails is tried again for a minute: long enough for a server that restarts, short
/// enough for whoever waits.
fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(200),
            max_backoff: Duration::from_secs(10),
            base: 2.0,
        },
        max_retries: 8,
        retry_timeout: Duration::from_secs(60),
    }
}

/// The same for what is asked here rather than by a client of a store.
pub(super) fn pauses() -> backon::ExponentialBackoff {
    let patience = retries();
    backon::ExponentialBuilder::default()
        .with_min_delay(patience.backoff.init_backoff)
        .with_max_delay(patience.backoff.max_backoff)
        .with_max_times(patience.max_retries)
        .build()
}

/// Hands out the house's own client, with its idea of TLS and of patience.
#[derive(Debug)]
struct Connector(reqwest::Client);

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_secrets_and_of_other_kinds_are_refused_without_showing_them() {
        for bad in [
            "s3://key:hunter2@bucket/x",
            "s3://bucket/x?sig=hunter2",
            "ftp://hunter2/x",
            "hunter2",
            "s3:///hunter2",
        ] {
            let error = parse(bad).unwrap_err();
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        parse("s3://bucket").unwrap();
    }

    #[test]
    fn a_file_of_credentials_is_private_and_says_nothing_in_errors() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys");
        let settings = Settings {
            credentials: Some(file.clone()),
            ..Settings::default()
        };
        let write = |text: &str, mode: u32| {
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        write("AWS_ACCESS_KEY_ID=a\n", 0o644);
        variables(&settings).unwrap_err();
        write(
            "# of the backup\n\nAWS_ACCESS_KEY_ID = a\nAWS_SECRET_ACCESS_KEY=b=c\n",
            0o600,
        );
        let found = variables(&settings).unwrap();
        assert_eq!(found["AWS_ACCESS_KEY_ID"], "a");
        assert_eq!(found["AWS_SECRET_ACCESS_KEY"], "b=c");
        write("hunter2\n", 0o600);
        let error = variables(&settings).unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
}
