//! The gateway before Conductor: who may come through, what its container is told, and how k1ops itself
//! gets past it. Tokens and certificates are made elsewhere.

use super::names::Service;
use crate::adapters::fs;
use crate::adapters::oauth::Asker;
use crate::config::{self, Hidden};
use crate::error::{Context, Error, ErrorKind, Result};
use sha2::{Digest, Sha256};
use std::path::Path;
use toml_edit::{Array, DocumentMut, value};
use uuid::Uuid;

/// What the gateway reads, below the folder of the Compose file.
pub(super) const CONFIGURATION: &str = "secrets/gateway.cfg";
/// The issuer's certificate authority.
pub(super) const ISSUER: &str = "secrets/issuer.crt";

/// Conductor's API, where a login page would help nobody.
const API: [&str; 4] = ["^/api/", "^/actuator/", "^/health", "^/api-docs"];

/// What its files hold.
#[derive(Clone)]
pub(super) struct GatewayFiles {
    configuration: String,
    issuer: String,
}

impl GatewayFiles {
    /// What the gateway of the stack whose Compose file is in `folder` is told; `upstream` is the service
    /// that answers for Conductor.
    pub(super) fn prepare(
        folder: &Path,
        gateway: &config::Gateway,
        base: &Path,
        upstream: Service,
    ) -> Result<Self> {
        let asker = asker(gateway, base)?;
        let cookie = match fs::read_text_if_there(&folder.join(CONFIGURATION))? {
            Some(text) => cookie_secret(&text),
            None => None,
        };
        // Everybody who is logged in would have to do so again if it changed.
        let cookie = cookie.unwrap_or_else(|| Uuid::new_v4().simple().to_string());
        Ok(Self {
            configuration: configuration(&asker, &cookie, upstream),
            issuer: asker.authority.unwrap_or_else(|| {
                "# The issuer is verified by the authorities that the image trusts.\n".to_owned()
            }),
        })
    }

    /// The files: name and contents, and whether they are secret.
    pub(super) fn files(&self) -> [(&'static str, &str, bool); 2] {
        [
            (CONFIGURATION, &self.configuration, true),
            (ISSUER, &self.issuer, false),
        ]
    }

    /// What changes whenever the gateway has to be started anew for them.
    pub(super) fn digest(&self) -> String {
        let told = format!("{}{}", self.configuration, self.issuer);
        hex::encode(Sha256::digest(told))
    }
}

/// The configuration of oauth2-proxy.
fn configuration(asker: &Asker, cookie: &str, upstream: Service) -> String {
    let mut told = DocumentMut::new();
    let list = |items: &[&str]| value(items.iter().copied().collect::<Array>());
    told["provider"] = value("oidc");
    told["oidc_issuer_url"] = value(asker.issuer.as_str());
    told["client_id"] = value(asker.client_id.as_str());
    told["client_secret"] = value(asker.client_secret.expose());
    told["code_challenge_method"] = value("S256");
    // Whom the issuer lets have a token for this client or audience may come in; an address of e-mail
    // plays no part in it, and programs have none.
    told["email_domains"] = list(&["*"]);
    told["insecure_oidc_allow_unverified_email"] = value(true);
    told["skip_jwt_bearer_tokens"] = value(true);
    told["bearer_token_login_fallback"] = value(false);
    if !asker.audience.is_empty() {
        told["oidc_extra_audiences"] = list(&[&asker.audience]);
    }
    if asker.authority.is_some() {
        told["provider_ca_files"] = list(&["/run/secrets/issuer.crt"]);
    }
    told["api_routes"] = list(&API);
    told["skip_provider_button"] = value(true);
    told["cookie_name"] = value("__Host-k1");
    told["cookie_secret"] = value(cookie);
    told["cookie_secure"] = value(true);
    told["pass_basic_auth"] = value(false);
    told["reverse_proxy"] = value(false);
    let port = Service::Gateway.inner_port();
    told["https_address"] = value(format!("0.0.0.0:{port}"));
    told["tls_cert_file"] = value("/run/secrets/gateway.crt");
    told["tls_key_file"] = value("/run/secrets/gateway.key");
    told["tls_min_version"] = value("TLS1.2");
    let upstream = format!("http://{}:{}/", upstream.key(), upstream.inner_port());
    told["upstreams"] = list(&[&upstream]);
    format!(
        "# What the gateway is told. Written by k1ops from docker.gateway in k1ops.toml.\n{told}"
    )
}

fn cookie_secret(text: &str) -> Option<String> {
    let told: DocumentMut = text.parse().ok()?;
    told.get("cookie_secret")?.as_str().map(str::to_owned)
}

/// Who asks the issuer for tokens to get past the gateway. Relative paths belong to `base`.
pub(super) fn asker(gateway: &config::Gateway, base: &Path) -> Result<Asker> {
    gateway.check()?;
    Ok(Asker {
        issuer: gateway.issuer.clone(),
        client_id: gateway.client_id.clone(),
        client_secret: secret(&gateway.client_secret, base)?,
        audience: gateway.audience.clone(),
        scope: gateway.scope.clone(),
        authority: authority(&gateway.authority, base)?,
    })
}

fn secret(given: &Hidden, base: &Path) -> Result<Hidden> {
    let text = match given.file() {
        None => given.expose().to_owned(),
        Some(file) => {
            let path = base.join(file);
            let text = std::fs::read_to_string(&path).context_kind(ErrorKind::Usage, || {
                format!(
                    "docker.gateway.client_secret, {}, cannot be read",
                    path.display()
                )
            })?;
            text.trim().to_owned()
        }
    };
    if text.is_empty() {
        return Err(
            Error::usage("docker.gateway.client_secret is not set, or empty")
                .hint("Write it into a file of mode 0600, and set client_secret = \"file:PATH\"."),
        );
    }
    Ok(Hidden::new(text))
}

fn authority(file: &Path, base: &Path) -> Result<Option<String>> {
    if file.as_os_str().is_empty() {
        return Ok(None);
    }
    let path = base.join(file);
    let text = std::fs::read_to_string(&path).context_kind(ErrorKind::Usage, || {
        format!(
            "docker.gateway.authority, {}, cannot be read",
            path.display()
        )
    })?;
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn given() -> config::Gateway {
        config::Gateway {
            issuer: "https://id.example.org/realms/k1".into(),
            client_id: "k1ops".into(),
            client_secret: Hidden::new("hu\"sh\n"),
            audience: "conductor".into(),
            ..config::Gateway::default()
        }
    }

    #[test]
    fn the_cookies_secret_stays_and_whatever_is_given_is_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let prepare = || {
            let nowhere = Path::new("/nowhere");
            GatewayFiles::prepare(folder.path(), &given(), nowhere, Service::Server).unwrap()
        };
        let first = prepare();
        assert_ne!(first.digest(), prepare().digest());
        std::fs::create_dir(folder.path().join("secrets")).unwrap();
        std::fs::write(folder.path().join(CONFIGURATION), &first.configuration).unwrap();
        assert_eq!(first.digest(), prepare().digest());
        let told: DocumentMut = first.configuration.parse().unwrap();
        assert_eq!(told["client_secret"].as_str(), Some("hu\"sh\n"));
        let upstreams = told["upstreams"].to_string();
        assert!(
            upstreams.contains("http://conductor-server:8080/"),
            "{upstreams}"
        );
    }

    #[test]
    fn a_secret_comes_from_its_file_and_has_to_be_there() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("s"), "hush\n").unwrap();
        let mut gateway = given();
        gateway.client_secret = Hidden::new("file:s");
        let asker = asker(&gateway, folder.path()).unwrap();
        assert_eq!(asker.client_secret.expose(), "hush");
        for missing in ["", "file:none"] {
            gateway.client_secret = Hidden::new(missing);
            let error = super::asker(&gateway, folder.path()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{missing}");
        }
        gateway.client_secret = Hidden::new("x");
        gateway.authority = PathBuf::from("none.pem");
        assert!(super::asker(&gateway, folder.path()).is_err());
    }
}
