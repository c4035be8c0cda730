//! Connects to the address's hosts, over TCP or a local socket, with TLS where it is wanted.

use super::wire::Transport;
use crate::adapters::postgres::{Address, tls};
use crate::error::{Error, Result};
use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use sha2::{Digest, Sha256, Sha384, Sha512};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::config::{Host, SslMode};
use tokio_rustls::client::TlsStream;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::der::oid::db::rfc5912;

/// An open connection, before anything was said on it.
pub(super) struct Connected {
    pub(super) stream: Box<dyn Transport>,
    /// Whether the connection is encrypted.
    pub(super) encrypted: bool,
    /// What ties a login to this TLS connection (RFC 5929, `tls-server-end-point`).
    pub(super) end_point: Option<Vec<u8>>,
}

impl Connected {
    fn plain(stream: impl Transport + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            encrypted: false,
            end_point: None,
        }
    }
}

/// Connects to the first host that answers.
pub(super) async fn connect(address: &Address) -> Result<Connected> {
    let config = address.config();
    let ports = config.get_ports();
    let mut last = None;
    for (index, host) in config.get_hosts().iter().enumerate() {
        let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
        let numeric = config.get_hostaddrs().get(index).map(ToString::to_string);
        match connect_to(address, host, numeric.as_deref(), port).await {
            Ok(connected) => return Ok(connected),
            Err(error) => last = Some(error),
        }
    }
    let cause = last.unwrap_or_else(|| io::Error::other("no host is named"));
    Err(unreachable(address, cause))
}

/// The error of a server that does not answer.
pub(super) fn unreachable(address: &Address, cause: io::Error) -> Error {
    Error::missing(format!("PostgreSQL at {} does not answer", address.shown()))
        .because(cause)
        .hint("Check that the server runs and that host and port in database.url are right.")
}

async fn connect_to(
    address: &Address,
    host: &Host,
    numeric: Option<&str>,
    port: u16,
) -> io::Result<Connected> {
    match host {
        Host::Unix(folder) => {
            let socket = folder.join(format!(".s.PGSQL.{port}"));
            Ok(Connected::plain(UnixStream::connect(socket).await?))
        }
        Host::Tcp(name) => {
            let stream = TcpStream::connect((numeric.unwrap_or(name), port)).await?;
            stream.set_nodelay(true)?;
            // A backup waits minutes for a checkpoint; a host that died meanwhile must be noticed.
            rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
            let idle = address.config().get_keepalives_idle();
            rustix::net::sockopt::set_tcp_keepidle(&stream, idle)?;
            encrypt(address, name, stream).await
        }
    }
}

/// Asks for TLS as `sslmode` says.
async fn encrypt(address: &Address, host: &str, mut stream: TcpStream) -> io::Result<Connected> {
    let mode = address.config().get_ssl_mode();
    if mode == SslMode::Disable {
        return Ok(Connected::plain(stream));
    }
    let mut request = bytes::BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await?;
    // Exactly one byte is read here: whatever followed it in the clear would otherwise be taken
    // for something that came encrypted.
    if stream.read_u8().await? != b'S' {
        if mode == SslMode::Prefer {
            return Ok(Connected::plain(stream));
        }
        return Err(io::Error::other("the server does not offer TLS"));
    }
    let config = tls::client(address.tls()).map_err(io::Error::other)?;
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?;
    Ok(Connected {
        end_point: end_point(&stream),
        encrypted: true,
        stream: Box::new(stream),
    })
}

/// The digest of the server's certificate, with the hash function of its own signature.
fn end_point(stream: &TlsStream<TcpStream>) -> Option<Vec<u8>> {
    let der = stream.get_ref().1.peer_certificates()?.first()?;
    let certificate = Certificate::from_der(der).ok()?;
    match certificate.signature_algorithm.oid {
        // RFC 5929 replaces SHA-1 with SHA-256.
        rfc5912::SHA_1_WITH_RSA_ENCRYPTION
        | rfc5912::SHA_256_WITH_RSA_ENCRYPTION
        | rfc5912::ECDSA_WITH_SHA_256 => Some(Sha256::digest(der).to_vec()),
        rfc5912::SHA_384_WITH_RSA_ENCRYPTION | rfc5912::ECDSA_WITH_SHA_384 => {
            Some(Sha384::digest(der).to_vec())
        }
        rfc5912::SHA_512_WITH_RSA_ENCRYPTION => Some(Sha512::digest(der).to_vec()),
        _ => None,
    }
}
