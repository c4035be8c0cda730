//! An issuer of tokens in a container, for as long as it is held: Keycloak, with the realm of
//! `scripts/testbed.d/issuer`.

use super::bench::{docker, docker_out, free_port, testbed, text};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k1ops::adapters::certificates;
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// The secrets of the realm's clients.
pub const SECRET: &str = "hush-k1ops-7f3a91";
pub const BRIEF: &str = "hush-brief";

pub struct Issuer {
    pub authority: String,
    name: String,
    address: String,
    files: tempfile::TempDir,
}

impl Issuer {
    /// Starts it, and does not wait for it.
    pub fn start() -> Self {
        // Containers and this host reach it by the same address.
        let format = "{{(index .IPAM.Config 0).Gateway}}";
        let host = docker_out(&["network", "inspect", "bridge", "--format", format]);
        let (host, port) = (host.trim().to_owned(), free_port());
        let now = chrono::Utc::now();
        let authority = certificates::authority(now).unwrap();
        let own = certificates::server(&authority, &[&host], now).unwrap();
        let files = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = files.path().join(name);
            std::fs::write(&path, text).unwrap();
            format!("{}:/run/{name}:ro", path.display())
        };
        let address = format!("{host}:{port}");
        let name = format!("k1issuer{}", std::process::id());
        let publish = format!("{address}:8443");
        let (crt, key) = (put("tls.crt", &own.certificate), put("tls.key", &own.key));
        let image = testbed("ISSUER_IMAGE");
        let hostname = format!("--hostname=https://{address}");
        let run = [
            "run", "-d", "--rm", "--name", &name, "-p", &publish, "-v", &crt, "-v", &key,
        ];
        let told = [
            image.as_str(),
            "--https-certificate-file=/run/tls.crt",
            "--https-certificate-key-file=/run/tls.key",
            &hostname,
        ];
        docker_out(&[run.as_slice(), told.as_slice()].concat());
        let issuer = Self {
            authority: authority.certificate,
            name,
            address,
            files,
        };
        std::fs::write(issuer.authority_file(), &issuer.authority).unwrap();
        issuer
    }

    pub fn url(&self) -> String {
        format!("https://{}/realms/k1", self.address)
    }

    pub fn wait(&self) {
        let deadline = Instant::now() + Duration::from_secs(240);
        let path = "/.well-known/openid-configuration";
        while !self.curl(path, &[]).status.success() {
            let said = text(&docker(&["logs", "--tail", "20", &self.name]));
            assert!(
                Instant::now() < deadline,
                "the issuer does not come up: {said}"
            );
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// A token by client credentials.
    pub fn token(&self, client: &str, secret: &str) -> String {
        let user = format!("{client}:{secret}");
        let output = self.curl(
            "/protocol/openid-connect/token",
            &["-u", &user, "-d", "grant_type=client_credentials"],
        );
        let said = text(&output);
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        answer["access_token"]
            .as_str()
            .unwrap_or_else(|| panic!("{said}"))
            .to_owned()
    }

    /// The key that its tokens are verified with, as PEM.
    pub fn public_key(&self) -> String {
        let realm: Value = serde_json::from_slice(&self.curl("", &[]).stdout).unwrap();
        let key = realm["public_key"].as_str().unwrap();
        assert!(STANDARD.decode(key).unwrap().len() > 200);
        let lines: Vec<&str> = key
            .as_bytes()
            .chunks(64)
            .map(|line| std::str::from_utf8(line).unwrap())
            .collect();
        format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            lines.join("\n")
        )
    }

    fn authority_file(&self) -> PathBuf {
        self.files.path().join("authority.pem")
    }

    fn curl(&self, path: &str, arguments: &[&str]) -> Output {
        Command::new("curl")
            .args(["-fsS", "--noproxy", "*", "--max-time", "20", "--cacert"])
            .arg(self.authority_file())
            .args(arguments)
            .arg(format!("{}{path}", self.url()))
            .output()
            .unwrap()
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        let _ = docker(&["rm", "-f", "-v", &self.name]);
    }
}
