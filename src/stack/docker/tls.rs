//! The certificates of a production stack: the stack's own authority and what it signed, or those that
//! the user gave. They are prepared as texts; writing them is left to the plan that has all files.

use super::names::Service;
use crate::adapters::certificates::{self, Issued};
use crate::adapters::fs;
use crate::config::GivenTls;
use crate::error::{Context, Error, ErrorKind, Result};
use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// Below the folder of the Compose file.
const FOLDER: &str = "secrets";
/// The authority's certificate, which is no secret: containers of any user read it.
const AUTHORITY: &str = "ca.crt";
/// The authority's private key, which no container is given.
const AUTHORITY_KEY: &str = "ca.key";
/// Before its last days an own certificate is made anew by `k1ops harden`.
pub const RENEW_DAYS: i64 = 30;

/// The private key that belongs to its container's user.
pub(super) const GATEWAY_KEY: &str = "secrets/gateway.key";

/// The services that have a certificate, with a gateway or without.
#[must_use]
pub fn with_certificate(has_gateway: bool) -> Vec<Service> {
    let mut services = vec![Service::Postgres, Service::Redis];
    if has_gateway {
        services.push(Service::Gateway);
    }
    services
}

/// Where the authority's certificate is, below the folder of the Compose file.
#[must_use]
pub fn authority_file(folder: &Path) -> PathBuf {
    folder.join(FOLDER).join(AUTHORITY)
}

/// Where a service's certificate is.
#[must_use]
pub fn certificate_file(folder: &Path, service: Service) -> PathBuf {
    folder.join(FOLDER).join(format!("{}.crt", service.key()))
}

/// All certificates of a stack, and why some of them are new.
#[derive(Debug, Clone)]
pub struct Tls {
    authority: String,
    authority_key: Option<String>,
    servers: Vec<(Service, Issued)>,
    /// What is made anew, and why.
    pub made: Vec<String>,
}

/// A file of the certificates: its name below the Compose file's folder, and its mode.
pub(super) struct TlsFile {
    pub(super) name: String,
    pub(super) contents: String,
    pub(super) mode: u32,
}

impl Tls {
    /// Those of the stack whose Compose file is in `folder`: the user's, else those that are there and
    /// serve for `margin` more, else new ones. Relative paths of `given` belong to `base`.
    pub fn prepare(
        folder: &Path,
        given: &GivenTls,
        base: &Path,
        services: &[Service],
        margin: TimeDelta,
        now: DateTime<Utc>,
    ) -> Result<Self> {
        if *given == GivenTls::default() {
            Self::own(folder, services, margin, now)
        } else {
            Self::given(given, base, services, now)
        }
    }

    fn own(
        folder: &Path,
        services: &[Service],
        margin: TimeDelta,
        now: DateTime<Utc>,
    ) -> Result<Self> {
        let mut made = Vec::new();
        let at = |name: &str| folder.join(FOLDER).join(name);
        let there = pair(&at(AUTHORITY), &at(AUTHORITY_KEY))?;
        let lasts = |own: &Issued| {
            certificates::end_of(&own.certificate).is_ok_and(|end| end > now + margin)
        };
        let authority = if let Some(own) = there.filter(lasts) {
            own
        } else {
            made.push("a certificate authority".to_owned());
            certificates::authority(now)?
        };
        let mut servers = Vec::new();
        for &service in services {
            let names = names_of(service);
            let key = at(&format!("{}.key", service.key()));
            let there = pair(&certificate_file(folder, service), &key)?;
            let why = there.as_ref().map_or_else(
                || Some("there is none".to_owned()),
                |own| {
                    certificates::check(&authority.certificate, own, &names, now + margin)
                        .err()
                        .map(|error| error.to_string())
                },
            );
            let issued = match (there, why) {
                (Some(own), None) => own,
                (_, why) => {
                    let why = why.unwrap_or_default();
                    made.push(format!("a certificate for {} ({why})", service.key()));
                    certificates::server(&authority, &names, now)?
                }
            };
            servers.push((service, issued));
        }
        Ok(Self {
            authority: authority.certificate,
            authority_key: Some(authority.key),
            servers,
            made,
        })
    }

    fn given(
        given: &GivenTls,
        base: &Path,
        services: &[Service],
        now: DateTime<Utc>,
    ) -> Result<Self> {
        let read_one = |path: &Path, key: &str| {
            if path.as_os_str().is_empty() {
                return Err(Error::usage(format!("docker.tls.{key} is not set"))
                    .hint("Set docker.tls.authority, .certificate and .key, or none of them."));
            }
            let path = base.join(path);
            std::fs::read_to_string(&path).context_kind(ErrorKind::Usage, || {
                format!("docker.tls.{key}, {}, cannot be read", path.display())
            })
        };
        let keys: Vec<&str> = services.iter().map(|service| service.key()).collect();
        let authority = read_one(&given.authority, "authority")?;
        let issued = Issued {
            certificate: read_one(&given.certificate, "certificate")?,
            key: read_one(&given.key, "key")?,
        };
        for &service in services {
            certificates::check(&authority, &issued, &names_of(service), now).map_err(|error| {
                Error::usage(format!(
                    "the certificate in docker.tls does not serve {}",
                    service.key()
                ))
                .because(error)
                .hint(format!(
                    "It has to be for {}, localhost and 127.0.0.1, and signed by \
                     docker.tls.authority.",
                    keys.join(", ")
                ))
            })?;
        }
        Ok(Self {
            authority,
            authority_key: None,
            servers: services
                .iter()
                .map(|&service| (service, issued.clone()))
                .collect(),
            made: Vec::new(),
        })
    }

    /// What is to be written.
    pub(super) fn files(&self) -> Vec<TlsFile> {
        let file = |name: &str, contents: &str, mode| TlsFile {
            name: format!("{FOLDER}/{name}"),
            contents: contents.to_owned(),
            mode,
        };
        let mut files = vec![file(AUTHORITY, &self.authority, 0o444)];
        if let Some(key) = &self.authority_key {
            files.push(file(AUTHORITY_KEY, key, 0o600));
        }
        for (service, issued) in &self.servers {
            let name = service.key();
            files.push(file(&format!("{name}.crt"), &issued.certificate, 0o444));
            files.push(file(&format!("{name}.key"), &issued.key, 0o600));
        }
        files
    }

    /// The certificate that all others are verified by.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// What changes whenever a service has to be started anew for its certificate.
    pub(super) fn digest(&self, service: Service) -> String {
        let mut digest = Sha256::new();
        digest.update(&self.authority);
        for (_, issued) in self.servers.iter().filter(|(of, _)| *of == service) {
            digest.update(&issued.certificate);
        }
        hex::encode(digest.finalize())
    }
}

/// The names that a service is reached by: from other containers, from this host, from inside.
#[must_use]
pub fn names_of(service: Service) -> [&'static str; 3] {
    [service.key(), "localhost", "127.0.0.1"]
}

fn pair(certificate: &Path, key: &Path) -> Result<Option<Issued>> {
    let certificate = fs::read_text_if_there(certificate)?;
    let key = fs::read_text_if_there(key)?;
    Ok(certificate
        .zip(key)
        .map(|(certificate, key)| Issued { certificate, key }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, tls: &Tls) {
        std::fs::create_dir_all(folder.join(FOLDER)).unwrap();
        for file in tls.files() {
            std::fs::write(folder.join(file.name), file.contents).unwrap();
        }
    }

    #[test]
    fn own_certificates_are_kept_until_they_are_near_their_end() {
        let folder = tempfile::tempdir().unwrap();
        let now = Utc::now();
        let prepare = |margin: i64, at| {
            let given = GivenTls::default();
            let nowhere = Path::new("/nowhere");
            let both = with_certificate(false);
            Tls::prepare(
                folder.path(),
                &given,
                nowhere,
                &both,
                TimeDelta::days(margin),
                at,
            )
            .unwrap()
        };
        let first = prepare(0, now);
        assert_eq!(first.made.len(), 3);
        write(folder.path(), &first);
        let again = prepare(RENEW_DAYS, now);
        assert_eq!(again.made, [""; 0]);
        assert_eq!(again.authority, first.authority);
        let late = now + TimeDelta::days(380);
        assert_eq!(prepare(0, late).made, [""; 0]);
        let renewed = prepare(RENEW_DAYS, late);
        assert_eq!(renewed.made.len(), 2);
        assert_eq!(renewed.authority, first.authority);
        for service in with_certificate(false) {
            assert_ne!(renewed.digest(service), first.digest(service));
        }
    }

    #[test]
    fn a_given_certificate_has_to_serve_both() {
        let folder = tempfile::tempdir().unwrap();
        let now = Utc::now();
        let authority = certificates::authority(now).unwrap();
        let names = ["postgres", "redis", "localhost", "127.0.0.1"];
        let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let given = GivenTls {
            authority: "a".into(),
            certificate: "c".into(),
            key: "k".into(),
        };
        let prepare = |given: &GivenTls| {
            let nowhere = Path::new("/nowhere");
            let both = with_certificate(false);
            Tls::prepare(nowhere, given, folder.path(), &both, TimeDelta::zero(), now)
        };
        put("a", &authority.certificate);
        let good = certificates::server(&authority, &names, now).unwrap();
        put("c", &good.certificate);
        put("k", &good.key);
        let tls = prepare(&given).unwrap();
        assert!(
            tls.files()
                .iter()
                .all(|file| !file.name.ends_with("ca.key"))
        );
        let one = certificates::server(&authority, &names[..1], now).unwrap();
        put("c", &one.certificate);
        put("k", &one.key);
        let error = prepare(&given).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains("does not serve"), "{error}");
        let unset = GivenTls {
            key: PathBuf::new(),
            ..given
        };
        assert!(prepare(&unset).unwrap_err().to_string().contains("tls.key"));
    }
}
