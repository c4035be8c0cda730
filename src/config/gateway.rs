//! `[docker.gateway]`: the login before Conductor's API, and who issues what it asks for.

use super::Hidden;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The gateway before Conductor (production). Without an issuer there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gateway {
    /// The address of the `OpenID` Connect issuer, such as `https://id.example.org/realms/k1`; empty: no
    /// gateway.
    pub issuer: String,
    /// The client that the gateway, k1ops and its workers are at the issuer.
    pub client_id: String,
    /// Its secret, as it is or as `file:PATH`.
    pub client_secret: Hidden,
    /// Whom tokens have to be for, besides the client; empty: the client only.
    pub audience: String,
    /// What k1ops asks the issuer for, besides a token; empty: nothing.
    pub scope: String,
    /// The certificate authority of a private issuer (PEM); empty: one that this host trusts.
    pub authority: PathBuf,
    /// The gateway's image (oauth2-proxy).
    pub image: String,
}

impl Gateway {
    /// Whether there is to be one.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        !self.issuer.is_empty()
    }
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            client_id: String::new(),
            client_secret: Hidden::default(),
            audience: String::new(),
            scope: String::new(),
            authority: PathBuf::new(),
            image: "quay.io/oauth2-proxy/oauth2-proxy:v7.15.6-alpine".to_owned(),
        }
    }
}

impl Gateway {
    /// Fails unless what is set can name an issuer and a client.
    pub fn check(&self) -> Result<()> {
        let wrong = |key: &str, why: &str| Error::usage(format!("docker.gateway.{key} {why}"));
        let is_plain = |text: &str| text.chars().all(|c| c.is_ascii_graphic());
        let url = self.issuer.strip_prefix("https://");
        let host = url.and_then(|rest| rest.split(['/', ':']).next());
        let is_host = host.is_some_and(|host| {
            let inner = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
            host.starts_with(|c: char| c.is_ascii_alphanumeric()) && host.chars().all(inner)
        });
        let is_address = |rest: &str| {
            rest.chars()
                .all(|c| c.is_ascii_alphanumeric() || "-._~/:%".contains(c))
                && !rest.contains("..")
        };
        if !is_host || !url.is_some_and(is_address) {
            return Err(wrong("issuer", "is not the address of an issuer")
                .hint("Write it as in https://id.example.org/realms/k1; it has to be https."));
        }
        if self.client_id.is_empty() || !is_plain(&self.client_id) {
            return Err(wrong("client_id", "is not the name of a client")
                .hint("Set it to the client that the issuer knows k1ops as."));
        }
        if !is_plain(&self.audience) {
            return Err(
                wrong("audience", "is not a name").hint("Use printable ASCII without spaces.")
            );
        }
        if !self.scope.split(' ').all(is_plain) {
            return Err(wrong("scope", "is no list of scopes")
                .hint("Use printable ASCII, with a space between two."));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_is_an_https_address_and_nothing_else() {
        let check = |issuer: &str| {
            Gateway {
                issuer: issuer.to_owned(),
                client_id: "k1ops".to_owned(),
                ..Gateway::default()
            }
            .check()
        };
        for good in [
            "https://id.example.org",
            "https://127.0.0.1:8443/realms/k1/",
        ] {
            check(good).unwrap();
        }
        for bad in [
            "http://id.example.org",
            "https://",
            "https://-oProxyCommand=x/",
            "https://a b/",
            "https://id.example.org/\nupstreams = []",
            "https://u:p@id.example.org/",
            "https://id.example.org/?a=b",
            "https://id.example.org/#x",
            "https://id.example.org/../x",
            "https://id.example.org;rm -rf",
            "https://$(id)/",
        ] {
            let error = check(bad).unwrap_err();
            assert!(error.hint_text().is_some(), "{bad}");
        }
    }
}
