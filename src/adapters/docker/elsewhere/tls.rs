//! The way by TLS: the engine shows a certificate of the user's authority, and k1ops one of the user's own.

use super::{Endpoint, Place, Stream};
use crate::error::{Context, Error, ErrorKind, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The usual port of an engine that speaks TLS.
const PORT: u16 = 2376;
/// How long it may take to take a connection.
const CONNECT: Duration = Duration::from_secs(20);

/// Where to, and how to know each other.
pub(super) struct Tls {
    host: String,
    port: u16,
    name: ServerName<'static>,
    connector: TlsConnector,
}

impl Tls {
    /// Reads the certificates. Nothing is connected yet.
    pub(super) fn open(endpoint: &Endpoint) -> Result<Self> {
        let place = Place::of(endpoint)?;
        let name = ServerName::try_from(place.host.clone())
            .context_kind(ErrorKind::Usage, || format!("{} is no host", place.host))?;
        let folder = endpoint.tls.as_deref().ok_or_else(|| {
            Error::missing(format!("{} is reached without TLS", endpoint.host))
                .hint("Set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH, or use ssh://.")
        })?;
        Ok(Self {
            port: place.port.unwrap_or(PORT),
            host: place.host,
            name,
            connector: TlsConnector::from(Arc::new(client(folder)?)),
        })
    }

    pub(super) async fn dial(&self) -> std::io::Result<Box<dyn Stream>> {
        let connecting = async {
            let tcp = TcpStream::connect((self.host.as_str(), self.port)).await?;
            tcp.set_nodelay(true)?;
            self.connector.connect(self.name.clone(), tcp).await
        };
        match tokio::time::timeout(CONNECT, connecting).await {
            Ok(stream) => Ok(Box::new(stream?)),
            Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
        }
    }
}

/// `ca.pem`, `cert.pem` and `key.pem`, as Docker's own client has them. Without the first, authorities that this
/// host trusts are asked; without the others, no certificate is shown.
fn client(folder: &Path) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context(|| "TLS cannot be set up")?
        .with_root_certificates(roots(&folder.join("ca.pem"))?);
    let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    if !certificate.exists() && !key.exists() {
        return Ok(builder.with_no_client_auth());
    }
    let chain = certificates(&certificate)?;
    let secret = PrivateKeyDer::from_pem_file(&key).map_err(|error| unreadable(&key, &error))?;
    builder
        .with_client_auth_cert(chain, secret)
        .context_kind(ErrorKind::Usage, || {
            format!(
                "{} and {} do not belong together",
                certificate.display(),
                key.display()
            )
        })
}

fn roots(file: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    if !file.exists() {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(roots);
    }
    for certificate in certificates(file)? {
        let cannot = || format!("{} is no certificate authority", file.display());
        roots
            .add(certificate)
            .context_kind(ErrorKind::Usage, cannot)?;
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable(file, &error))
}

fn unreadable(file: &Path, error: &rustls::pki_types::pem::Error) -> Error {
    Error::usage(format!("{} cannot be read", file.display()))
        .because(error.to_string())
        .hint("DOCKER_CERT_PATH, or the Docker context, needs ca.pem, cert.pem and key.pem.")
}
