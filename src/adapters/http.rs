//! HTTP clients: for servers on this host, for the world outside, and for servers that are verified.

use crate::error::{Context, Error, Result};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A client for a server on this host or a private network, by plain HTTP and without a proxy.
///
/// It trusts no certificate authority, which spares reading the host's list at every start.
pub fn local_client(timeout: Duration) -> Result<reqwest::Client> {
    build(
        reqwest::Client::builder().no_proxy().timeout(timeout),
        rustls::RootCertStore::empty(),
    )
}

/// The same for a server that listens on a Unix socket.
pub fn socket_client(socket: &Path, timeout: Duration) -> Result<reqwest::Client> {
    build(
        reqwest::Client::builder()
            .unix_socket(socket)
            .timeout(timeout),
        rustls::RootCertStore::empty(),
    )
}

/// A client that goes out, through the proxy that the environment names, and verifies what it
/// meets against the host's certificate authorities.
pub fn outside_client() -> Result<reqwest::Client> {
    go_out(|client| {
        client
            // A transfer that makes no progress is broken; a slow one is not.
            .read_timeout(Duration::from_secs(30))
    })
}

/// A client for an object store. A part of an archive may take its time on a slow line, and what is
/// asked for must not be answered by another server.
pub fn storage_client() -> Result<reqwest::Client> {
    go_out(|client| {
        client
            .redirect(reqwest::redirect::Policy::none())
            .read_timeout(Duration::from_secs(120))
    })
}

/// A client for what cannot be sent twice: a connection that was kept open may be closed by the server
/// at that very moment, so each request has one of its own. How long one may take is for its sender to say,
/// since an upload hears nothing before its end.
pub fn single_use_client() -> Result<reqwest::Client> {
    go_out(|client| {
        client
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(0)
    })
}

/// A client for short messages to the world outside. It follows no redirect, which would turn what is
/// sent into a question, and answers within `timeout` or fails.
pub fn message_client(timeout: Duration) -> Result<reqwest::Client> {
    go_out(|client| {
        client
            .redirect(reqwest::redirect::Policy::none())
            .timeout(timeout)
    })
}

/// A client for a server that is told secrets: it follows no redirect, speaks https only, and verifies
/// whom it meets against the host's certificate authorities and those of `authority` (PEM).
pub fn secret_client(authority: Option<&str>, timeout: Duration) -> Result<reqwest::Client> {
    build_secret(reqwest::Client::builder(), authority, timeout)
}

/// The same for a server on this host or a private network, without a proxy.
pub fn local_secret_client(authority: Option<&str>, timeout: Duration) -> Result<reqwest::Client> {
    let client = reqwest::Client::builder().no_proxy();
    build_secret(client, authority, timeout)
}

fn build_secret(
    client: reqwest::ClientBuilder,
    authority: Option<&str>,
    timeout: Duration,
) -> Result<reqwest::Client> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let given = CertificateDer::pem_slice_iter(authority.unwrap_or_default().as_bytes());
    for certificate in given {
        let added = certificate
            .ok()
            .and_then(|certificate| roots.add(certificate).ok());
        if added.is_none() {
            return Err(Error::bad_data(
                "the certificate authority is not a PEM file",
            ));
        }
    }
    let client = client
        .user_agent(concat!("k1ops/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .https_only(true)
        .timeout(timeout);
    build(client, roots)
}

/// What all clients that go out have in common.
fn go_out(
    settings: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
) -> Result<reqwest::Client> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let client =
        reqwest::Client::builder().user_agent(concat!("k1ops/", env!("CARGO_PKG_VERSION")));
    build(settings(client), roots)
}

fn build(builder: reqwest::ClientBuilder, roots: rustls::RootCertStore) -> Result<reqwest::Client> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context(|| "TLS cannot be set up")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    builder
        .tls_backend_preconfigured(tls)
        .connect_timeout(Duration::from_secs(10))
        .build()
        .context(|| "the HTTP client cannot be set up")
}
