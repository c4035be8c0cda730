//! Certificates: an authority of one's own, certificates for servers, and whether one that is there
//! still serves. Pure work on PEM texts; where they are kept, and for whom, is not known here.

use crate::error::{Context, Error, ErrorKind, Result};
use chrono::{DateTime, Datelike, TimeDelta, Utc};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, RootCertStore};
use std::sync::Arc;
use std::time::Duration;
use x509_cert::der::Decode;

/// The authority's name. It is the same in every stack: what tells authorities apart is their key.
const AUTHORITY: &str = "k1ops stack authority";
/// Days that an authority serves: workers elsewhere have its certificate, so it should outlive them.
const AUTHORITY_DAYS: i64 = 3650;
/// Days that a server's certificate serves.
const SERVER_DAYS: i64 = 398;

/// A certificate and its private key, both as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate, with those between it and the authority if there are any.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued")
            .field("certificate", &self.certificate)
            .field("key", &"***")
            .finish()
    }
}

/// A new authority.
pub fn authority(now: DateTime<Utc>) -> Result<Issued> {
    let cannot = || "a certificate authority cannot be made";
    let key = KeyPair::generate().context(cannot)?;
    let certificate = authority_parameters(now)
        .self_signed(&key)
        .context(cannot)?;
    Ok(Issued {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

/// A new certificate for a server that is reached by `names`, of which addresses are some.
pub fn server(authority: &Issued, names: &[&str], now: DateTime<Utc>) -> Result<Issued> {
    let first = names.first().copied().unwrap_or("localhost");
    let cannot = || format!("a certificate for {first} cannot be made");
    let issuer_key = KeyPair::from_pem(&authority.key).context(cannot)?;
    let issuer = Issuer::new(authority_parameters(now), issuer_key);
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut wanted = CertificateParams::new(names).context(cannot)?;
    wanted.distinguished_name.remove(DnType::CommonName);
    wanted.distinguished_name.push(DnType::CommonName, first);
    wanted.use_authority_key_identifier_extension = true;
    wanted.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    wanted.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    valid(&mut wanted, now, SERVER_DAYS);
    let key = KeyPair::generate().context(cannot)?;
    let certificate = wanted.signed_by(&key, &issuer).context(cannot)?;
    Ok(Issued {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

fn authority_parameters(now: DateTime<Utc>) -> CertificateParams {
    let mut wanted = CertificateParams::default();
    wanted.distinguished_name.remove(DnType::CommonName);
    wanted
        .distinguished_name
        .push(DnType::CommonName, AUTHORITY);
    // It signs servers, and no further authorities.
    wanted.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    wanted.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid(&mut wanted, now, AUTHORITY_DAYS);
    wanted
}

/// From the day before, since clocks differ, for so many days.
fn valid(wanted: &mut CertificateParams, now: DateTime<Utc>, days: i64) {
    let on = |at: DateTime<Utc>| {
        let (month, day) = (at.month(), at.day());
        // Months and days always fit.
        rcgen::date_time_ymd(
            at.year(),
            u8::try_from(month).unwrap_or(1),
            u8::try_from(day).unwrap_or(1),
        )
    };
    wanted.not_before = on(now - TimeDelta::days(1));
    wanted.not_after = on(now + TimeDelta::days(days));
}

/// When a certificate ends.
pub fn end_of(certificate: &str) -> Result<DateTime<Utc>> {
    let cannot = || "the certificate cannot be read";
    let chain = chain(certificate)?;
    let first = chain.first().ok_or_else(|| Error::bad_data(cannot()))?;
    let read = x509_cert::Certificate::from_der(first).context_kind(ErrorKind::BadData, cannot)?;
    let end = read.tbs_certificate.validity.not_after.to_system_time();
    Ok(DateTime::from(end))
}

/// Fails unless `given` proves each of `names` to who trusts `authority`, and still does at `at`.
pub fn check(authority: &str, given: &Issued, names: &[&str], at: DateTime<Utc>) -> Result<()> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let wrong = |error: rustls::Error| Error::bad_data(reason(&error));
    let mut roots = RootCertStore::empty();
    for certificate in chain(authority)? {
        roots.add(certificate).map_err(wrong)?;
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .context_kind(ErrorKind::BadData, || "there is no authority")?;
    let chain = chain(&given.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(given.key.as_bytes())
        // The parser's own words could repeat what it read.
        .map_err(|_| Error::bad_data("the private key is not a PEM file"))?;
    CertifiedKey::from_der(chain.clone(), key, &provider).map_err(wrong)?;
    let Some((first, between)) = chain.split_first() else {
        return Err(Error::bad_data("the certificate is not a PEM file"));
    };
    let seconds = u64::try_from(at.timestamp()).unwrap_or_default();
    let at = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    for &name in names {
        let server = ServerName::try_from(name).context(|| format!("{name} is not a name"))?;
        use_verifier(&verifier, first, between, &server, at)
            .map_err(|error| Error::bad_data(format!("{} ({name})", reason(&error))))?;
    }
    Ok(())
}

fn use_verifier(
    verifier: &WebPkiServerVerifier,
    first: &CertificateDer<'_>,
    between: &[CertificateDer<'_>],
    server: &ServerName<'_>,
    at: UnixTime,
) -> std::result::Result<(), rustls::Error> {
    use rustls::client::danger::ServerCertVerifier;
    verifier
        .verify_server_cert(first, between, server, &[], at)
        .map(drop)
}

fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<std::result::Result<_, _>>()
        .map_err(|_| Error::bad_data("the certificate is not a PEM file"))
}

/// What is wrong, for people.
fn reason(error: &rustls::Error) -> String {
    let rustls::Error::InvalidCertificate(wrong) = error else {
        return match error {
            rustls::Error::InconsistentKeys(_) => {
                "the private key is not that of the certificate".to_owned()
            }
            other => other.to_string(),
        };
    };
    match wrong {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the certificate has ended, or is about to".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the certificate is not for this name".to_owned()
        }
        // Another authority of k1ops has the same name, and another key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the certificate was not signed by this authority".to_owned()
        }
        other => format!("the certificate does not serve: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 3] = ["postgres", "localhost", "127.0.0.1"];

    #[test]
    fn a_certificate_serves_its_names_its_authority_and_its_time() {
        let now = Utc::now();
        let own = authority(now).unwrap();
        let made = server(&own, &NAMES, now).unwrap();
        check(&own.certificate, &made, &NAMES, now).unwrap();
        let end = end_of(&made.certificate).unwrap();
        assert!((396..=398).contains(&(end - now).num_days()), "{end}");
        assert!((end_of(&own.certificate).unwrap() - now).num_days() > 3600);
        let said = |authority: &str, given: &Issued, names: &[&str], at| {
            check(authority, given, names, at).unwrap_err().to_string()
        };
        let late = said(&own.certificate, &made, &NAMES, end + TimeDelta::days(1));
        assert!(late.contains("has ended"), "{late}");
        let name = said(&own.certificate, &made, &["redis"], now);
        assert!(name.contains("not for this name (redis)"), "{name}");
        let other = authority(now).unwrap();
        let stranger = said(&other.certificate, &made, &NAMES, now);
        assert!(stranger.contains("not signed"), "{stranger}");
        let mixed = Issued {
            key: own.key.clone(),
            ..made.clone()
        };
        let mixed = said(&own.certificate, &mixed, &NAMES, now);
        assert!(mixed.contains("not that of the certificate"), "{mixed}");
        assert!(!format!("{made:?}").contains("PRIVATE"));
    }
}
