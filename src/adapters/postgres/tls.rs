//! TLS towards `PostgreSQL`, with `libpq`'s meaning of the modes.

use crate::error::{Context, Error, ErrorKind, Result};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_postgres_rustls::MakeRustlsConnect;

/// How the server's certificate is checked, if TLS is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TlsMode {
    /// Not at all, as `libpq`'s `prefer` and `require`.
    Unverified,
    /// Against an authority, whatever the host's name.
    VerifyCa(Option<PathBuf>),
    /// Against an authority and the host's name.
    VerifyFull(Option<PathBuf>),
}

impl TlsMode {
    pub(super) fn root(&self) -> Option<&Path> {
        match self {
            Self::Unverified => None,
            Self::VerifyCa(root) | Self::VerifyFull(root) => root.as_deref(),
        }
    }
}

pub(super) fn connector(mode: &TlsMode) -> Result<MakeRustlsConnect> {
    Ok(MakeRustlsConnect::new(client(mode)?))
}

pub(super) fn client(mode: &TlsMode) -> Result<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .context(|| "TLS cannot be set up")?;
    let verifier: Arc<dyn ServerCertVerifier> = match mode {
        TlsMode::Unverified => Arc::new(AnyCertificate(provider)),
        TlsMode::VerifyCa(root) => Arc::new(AnyName(authority(root.as_deref(), provider)?)),
        TlsMode::VerifyFull(root) => authority(root.as_deref(), provider)?,
    };
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

fn authority(
    root: Option<&Path>,
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>> {
    let mut roots = RootCertStore::empty();
    match root {
        Some(file) => {
            let cannot = || format!("certificate authority {} cannot be read", file.display());
            let certificates = CertificateDer::pem_file_iter(file)
                .map_err(|e| Error::new(ErrorKind::Usage, cannot()).because(e.to_string()))?;
            for certificate in certificates {
                let certificate = certificate
                    .map_err(|e| Error::new(ErrorKind::Usage, cannot()).because(e.to_string()))?;
                roots
                    .add(certificate)
                    .context_kind(ErrorKind::Usage, cannot)?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .context_kind(
            ErrorKind::Usage,
            || "no certificate authority is known to verify with",
        )
}

/// Checks signatures but not who signed, as `libpq` does below `verify-ca`.
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Checks everything but the name, as `libpq`'s `verify-ca`.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self
            .0
            .verify_server_cert(end_entity, intermediates, name, ocsp, now)
        {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
