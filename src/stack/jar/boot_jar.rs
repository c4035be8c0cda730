//! Obtains the server's boot JAR: found on this host where it can be, fetched where it must be, and
//! never used unverified.

use super::cache::Cache;
use super::fetch::{Sources, fetch};
use super::maven;
use super::verified::{self, Algorithm};
use crate::config::Server;
use crate::error::{Error, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use std::path::{Path, PathBuf};

/// The JARs whose SHA-256 is known to this version of k1ops.
const KNOWN: &[(&str, &str)] = &[(
    "3.32.1",
    "f3699a34bb72c35c10469a063392e5de4900bc4568c8a4357a711186d6269d3f",
)];

/// A verified boot JAR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootJar {
    /// Where it is.
    pub path: PathBuf,
    /// Conductor's version.
    pub version: String,
    /// Its SHA-256 in hex.
    pub sha256: String,
}

/// The SHA-256 that the JAR of a configuration must have, in hex, as far as it is known.
#[must_use]
pub fn expected_sha256(server: &Server) -> Option<String> {
    let configured = Some(server.jar_sha256.as_str()).filter(|sha256| !sha256.is_empty());
    let known = || {
        KNOWN
            .iter()
            .find(|(version, _)| *version == server.version)
            .map(|(_, sha256)| *sha256)
    };
    configured.or_else(known).map(str::to_lowercase)
}

/// What a JAR must digest to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checksum {
    /// How it is digested.
    pub algorithm: Algorithm,
    /// The digest in hex.
    pub hex: String,
}

/// What is wanted, and where it may be.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// The configuration.
    pub server: &'a Server,
    /// The folder that relative paths of the configuration belong to.
    pub base: &'a Path,
    /// The user's cache.
    pub cache: &'a Cache,
}

impl Wanted<'_> {
    /// Obtains the JAR: the configured one, or else the first verified one of the cache, the local
    /// Maven repository, the mirrors, `mvn`, and the official release.
    pub async fn obtain(&self, events: &Events, interrupt: &Interrupt) -> Result<BootJar> {
        if !self.server.jar.as_os_str().is_empty() {
            return self.the_configured();
        }
        if let Some(jar) = self.on_this_host(events) {
            return Ok(jar);
        }
        let sources = Sources::configured(&self.server.mirrors);
        fetch(self, &sources, events, interrupt).await
    }

    fn the_configured(&self) -> Result<BootJar> {
        let path = self.base.join(&self.server.jar);
        if !path.is_file() {
            return Err(Error::missing(format!(
                "server.jar names {}, which is not there",
                path.display()
            ))
            .hint("Correct server.jar, or remove it so that the JAR is fetched."));
        }
        self.verify(&path, self.expected().as_ref())
    }

    /// The JAR of the cache or of the local Maven repository, which is used where it is.
    pub(super) fn on_this_host(&self, events: &Events) -> Option<BootJar> {
        let cached = self.cache.jar(&self.server.version);
        for path in std::iter::once(cached).chain(maven::local(&self.server.version)) {
            if !path.is_file() {
                continue;
            }
            let expected = self.expected().or_else(|| noted_beside(&path));
            match self.verify(&path, expected.as_ref()) {
                Ok(jar) => return Some(jar),
                Err(error) => events.warning(format!("{error}; it is not used")),
            }
        }
        None
    }

    /// Every file on this host that could be the JAR, in the order in which they would be taken,
    /// with what is wrong with it. Fetches nothing.
    #[must_use]
    pub fn candidates(&self) -> Vec<(PathBuf, Result<BootJar>)> {
        if !self.server.jar.as_os_str().is_empty() {
            return vec![(self.base.join(&self.server.jar), self.the_configured())];
        }
        let cached = self.cache.jar(&self.server.version);
        std::iter::once(cached)
            .chain(maven::local(&self.server.version))
            .filter(|path| path.is_file())
            .map(|path| {
                let expected = self.expected().or_else(|| noted_beside(&path));
                let verified = self.verify(&path, expected.as_ref());
                (path, verified)
            })
            .collect()
    }

    /// The checksum that the configuration or k1ops itself knows.
    pub(super) fn expected(&self) -> Option<Checksum> {
        Some(Checksum {
            algorithm: Algorithm::Sha256,
            hex: expected_sha256(self.server)?,
        })
    }

    /// Checks the JAR at `path` against the checksum it must have.
    pub(super) fn verify(&self, path: &Path, expected: Option<&Checksum>) -> Result<BootJar> {
        let version = &self.server.version;
        let sha256 = verified::digest(self.cache, path, Algorithm::Sha256)?;
        let Some(expected) = expected else {
            return Err(Error::refused(format!(
                "{} cannot be verified: the checksum of Conductor {version} is not known",
                path.display(),
            ))
            .hint(format!(
                "If you trust this file, set server.jar_sha256 = \"{sha256}\"."
            )));
        };
        let digest = verified::digest(self.cache, path, expected.algorithm)?;
        if digest != expected.hex {
            return Err(Error::bad_data(format!(
                "{} is not the JAR of Conductor {version}: its {} is {digest}, expected {}",
                path.display(),
                expected.algorithm.name(),
                expected.hex
            ))
            .hint(
                "Remove the file so that it is fetched again, or set server.jar_sha256 if it is \
                 meant to differ.",
            ));
        }
        Ok(BootJar {
            path: path.to_path_buf(),
            version: version.clone(),
            sha256,
        })
    }
}

/// The checksum in a file beside the JAR, as Maven and this cache keep it.
fn noted_beside(path: &Path) -> Option<Checksum> {
    let algorithms = [(Algorithm::Sha256, "sha256"), (Algorithm::Sha1, "sha1")];
    algorithms.into_iter().find_map(|(algorithm, extension)| {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".");
        beside.push(extension);
        let text = std::fs::read_to_string(PathBuf::from(beside)).ok()?;
        parse_checksum(algorithm, &text)
    })
}

/// The digest in a checksum file, which may name the file behind it.
pub(super) fn parse_checksum(algorithm: Algorithm, text: &str) -> Option<Checksum> {
    let hex = text.split_whitespace().next()?.to_lowercase();
    let digits = match algorithm {
        Algorithm::Sha256 => 64,
        Algorithm::Sha1 => 40,
    };
    let well = hex.len() == digits && hex.bytes().all(|b| b.is_ascii_hexdigit());
    well.then_some(Checksum { algorithm, hex })
}
