//! Where a Docker engine may be listening: what the user named, or the usual sockets.

use crate::error::{Context, Error, Result};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// An address and who named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// For example `unix:///var/run/docker.sock`, as `DOCKER_HOST` takes it.
    pub host: String,
    /// For example `DOCKER_HOST` or `the default socket`.
    pub named_by: String,
    /// The folder of `ca.pem`, `cert.pem` and `key.pem`, if TLS is to be spoken.
    pub tls: Option<PathBuf>,
}

impl Endpoint {
    pub(super) fn new(host: impl Into<String>, named_by: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            named_by: named_by.into(),
            tls: None,
        }
    }

    /// Whether it is on another host, or is to be treated so: what is reached by SSH or TLS, even at an address of this
    /// host, may have other files and ports.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        self.host.starts_with("ssh://") || self.tls.is_some()
    }

    /// The socket's path, if it is a Unix socket.
    #[must_use]
    pub fn socket(&self) -> Option<&Path> {
        self.host.strip_prefix("unix://").map(Path::new)
    }

    /// Whether it is TCP to this very host.
    #[must_use]
    pub fn is_loopback_tcp(&self) -> bool {
        let Some(address) = self
            .host
            .strip_prefix("tcp://")
            .or_else(|| self.host.strip_prefix("http://"))
        else {
            return false;
        };
        let name = address.rsplit_once(':').map_or(address, |(name, _)| name);
        let name = name.trim_start_matches('[').trim_end_matches(']');
        name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

/// The context that the configuration names.
static CONTEXT: OnceLock<String> = OnceLock::new();

/// Has this process use the engine of a Docker context, whatever its environment says. The first one stays.
pub fn use_context(name: &str) {
    let _ = CONTEXT.set(name.to_owned());
}

/// What of the environment and the home folder decides where Docker is.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// `DOCKER_*`, `HOME`, `XDG_RUNTIME_DIR` and `PATH`.
    pub variables: BTreeMap<String, String>,
    /// The sockets of the whole host, in the order in which they are tried.
    pub system_sockets: Vec<(PathBuf, &'static str)>,
}

impl Surroundings {
    /// Those of this process.
    #[must_use]
    pub fn of_process() -> Self {
        let own = Self::of_environment();
        match CONTEXT.get() {
            Some(context) => own.with_context(context),
            None => own,
        }
    }

    /// The same for somebody who asks for this context, which is more than a variable that is set.
    fn with_context(mut self, name: &str) -> Self {
        self.variables.remove("DOCKER_HOST");
        self.variables
            .insert("DOCKER_CONTEXT".to_owned(), name.to_owned());
        self
    }

    fn of_environment() -> Self {
        let names = [
            "DOCKER_HOST",
            "DOCKER_CONTEXT",
            "DOCKER_CONFIG",
            "DOCKER_CERT_PATH",
            "DOCKER_TLS_VERIFY",
            "HOME",
            "XDG_RUNTIME_DIR",
            "PATH",
        ];
        let variables = names
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)))
            .filter(|(_, value)| !value.is_empty())
            .collect();
        Self {
            variables,
            system_sockets: vec![
                (PathBuf::from("/var/run/docker.sock"), "the default socket"),
                (
                    PathBuf::from("/run/podman/podman.sock"),
                    "Podman's system socket",
                ),
            ],
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// Where to look, in order. What the user named is the only place looked at.
    pub fn endpoints(&self) -> Result<Vec<Endpoint>> {
        if let Some(host) = self.get("DOCKER_HOST") {
            let tls = self.get("DOCKER_TLS_VERIFY").and_then(|_| {
                let named = self.get("DOCKER_CERT_PATH").map(PathBuf::from);
                named.or_else(|| self.folder())
            });
            let tcp = host.starts_with("tcp://") || host.starts_with("https://");
            return Ok(vec![Endpoint {
                tls: tls.filter(|_| tcp),
                ..Endpoint::new(host, "DOCKER_HOST")
            }]);
        }
        if let Some(context) = self.context()? {
            return Ok(vec![context]);
        }
        Ok(self.usual())
    }

    /// Whether a program of this name is on `PATH`.
    #[must_use]
    pub fn has_program(&self, name: &str) -> bool {
        self.get("PATH").is_some_and(|path| {
            std::env::split_paths(path).any(|folder| folder.join(name).is_file())
        })
    }

    fn usual(&self) -> Vec<Endpoint> {
        let mut endpoints = Vec::new();
        let mut add = |path: PathBuf, named_by: &str| {
            endpoints.push(Endpoint::new(
                format!("unix://{}", path.display()),
                named_by,
            ));
        };
        let runtime = self.get("XDG_RUNTIME_DIR").map(Path::new);
        let home = self.get("HOME").map(Path::new);
        for (path, named_by) in &self.system_sockets {
            if named_by.starts_with("Podman")
                && let Some(runtime) = runtime
            {
                add(
                    runtime.join("podman/podman.sock"),
                    "Podman's socket of this user",
                );
            }
            add(path.clone(), named_by);
            if !named_by.starts_with("Podman") {
                if let Some(runtime) = runtime {
                    add(
                        runtime.join("docker.sock"),
                        "the rootless socket of this user",
                    );
                }
                if let Some(home) = home {
                    add(home.join(".docker/run/docker.sock"), "Docker Desktop");
                    add(home.join(".docker/desktop/docker.sock"), "Docker Desktop");
                }
            }
        }
        endpoints
    }

    /// The Docker client's own folder.
    fn folder(&self) -> Option<PathBuf> {
        let named = self.get("DOCKER_CONFIG").map(PathBuf::from);
        named.or_else(|| Some(Path::new(self.get("HOME")?).join(".docker")))
    }

    /// The endpoint of the Docker client's current context, unless that is the default one.
    fn context(&self) -> Result<Option<Endpoint>> {
        let Some(folder) = self.folder() else {
            return Ok(None);
        };
        let named = match self.get("DOCKER_CONTEXT") {
            Some(name) => Some(name.to_owned()),
            None => current_context(&folder.join("config.json")),
        };
        let Some(name) = named.filter(|name| name != "default") else {
            return Ok(None);
        };
        let digest = hex::encode(Sha256::digest(name.as_bytes()));
        let file = folder.join("contexts/meta").join(&digest).join("meta.json");
        let unusable = || format!("the Docker context {name:?} is named, but cannot be read");
        let text = std::fs::read_to_string(&file).map_err(|error| {
            Error::missing(unusable())
                .hint("Choose another one with `docker context use`, or set DOCKER_HOST.")
                .because(error)
        })?;
        let meta: serde_json::Value = serde_json::from_str(&text).context(unusable)?;
        let host = meta["Endpoints"]["docker"]["Host"].as_str();
        let host = host.ok_or_else(|| Error::missing(unusable()))?;
        let named_by = format!("the Docker context {name:?}");
        if meta["Endpoints"]["docker"]["SkipTLSVerify"] == true {
            return Err(
                Error::refused(format!("{named_by} does not verify its engine"))
                    .hint("Make it anew with the engine's certificate authority (ca=FILE)."),
            );
        }
        let tls = folder.join("contexts/tls").join(digest).join("docker");
        Ok(Some(Endpoint {
            tls: tls.is_dir().then_some(tls),
            ..Endpoint::new(host, named_by)
        }))
    }
}

fn current_context(config: &Path) -> Option<String> {
    let text = std::fs::read_to_string(config).ok()?;
    let config: serde_json::Value = serde_json::from_str(&text).ok()?;
    let name = config["currentContext"].as_str()?;
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surroundings(pairs: &[(&str, &str)]) -> Surroundings {
        Surroundings {
            variables: pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            ..Surroundings::of_process()
        }
    }

    #[test]
    fn a_context_that_is_asked_for_beats_the_environment() {
        let found = surroundings(&[("DOCKER_HOST", "tcp://10.0.0.1:2375"), ("HOME", "/nowhere")]);
        let error = found.with_context("db").endpoints().unwrap_err();
        assert!(error.to_string().contains("context \"db\""), "{error}");
    }

    #[test]
    fn docker_host_is_the_only_place_when_it_is_set() {
        let found = surroundings(&[("DOCKER_HOST", "tcp://10.0.0.1:2375"), ("HOME", "/h")])
            .endpoints()
            .unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].named_by, "DOCKER_HOST");
        assert!(!found[0].is_loopback_tcp());
        assert!(Endpoint::new("tcp://127.0.0.1:1", "").is_loopback_tcp());
        assert!(Endpoint::new("tcp://[::1]:1", "").is_loopback_tcp());
    }

    #[test]
    fn the_current_context_of_the_client_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        let meta = folder
            .path()
            .join("contexts/meta")
            .join(hex::encode(Sha256::digest(b"far")));
        std::fs::create_dir_all(&meta).unwrap();
        std::fs::write(
            meta.join("meta.json"),
            r#"{"Name":"far","Endpoints":{"docker":{"Host":"ssh://me@far"}}}"#,
        )
        .unwrap();
        std::fs::write(
            folder.path().join("config.json"),
            r#"{"currentContext":"far"}"#,
        )
        .unwrap();
        let found = surroundings(&[("DOCKER_CONFIG", home)])
            .endpoints()
            .unwrap();
        assert_eq!(
            found,
            [Endpoint::new("ssh://me@far", "the Docker context \"far\"")]
        );
        let other = surroundings(&[("DOCKER_CONFIG", home), ("DOCKER_CONTEXT", "gone")]);
        let error = other.endpoints().unwrap_err();
        assert!(error.to_string().contains("\"gone\""), "{error}");
    }

    #[test]
    fn without_a_word_the_usual_sockets_are_tried_in_order() {
        let found = surroundings(&[("XDG_RUNTIME_DIR", "/run/user/7")])
            .endpoints()
            .unwrap();
        let hosts: Vec<_> = found.iter().map(|e| e.host.as_str()).collect();
        assert_eq!(
            hosts,
            [
                "unix:///var/run/docker.sock",
                "unix:///run/user/7/docker.sock",
                "unix:///run/user/7/podman/podman.sock",
                "unix:///run/podman/podman.sock",
            ]
        );
    }
}
