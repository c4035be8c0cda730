//! An engine of the test's own that speaks TLS, and certificates.

use super::{is_open, succeed};
use crate::bench::{as_root, free_port};
use crate::patience::until;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

/// An engine of its own that speaks TLS, with certificates for it and for its users.
pub struct Far {
    child: Child,
    bridge: String,
    pub port: u16,
    pub folder: TempDir,
}

impl Far {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["authority", "other"] {
            authority(&at(name));
        }
        sign(
            &at("authority"),
            &at("engine"),
            "subjectAltName=IP:127.0.0.1",
        );
        for (users, of) in [("known", "authority"), ("stranger", "other")] {
            sign(&at(of), &at(users), "extendedKeyUsage=clientAuth");
            std::fs::copy(at("authority").join("ca.pem"), at(users).join("ca.pem")).unwrap();
        }
        // One who trusts somebody else, and one who shows nothing.
        sign(
            &at("authority"),
            &at("deceived"),
            "extendedKeyUsage=clientAuth",
        );
        std::fs::copy(at("other").join("ca.pem"), at("deceived").join("ca.pem")).unwrap();
        std::fs::create_dir(at("silent")).unwrap();
        std::fs::copy(at("authority").join("ca.pem"), at("silent").join("ca.pem")).unwrap();
        let port = free_port();
        let of = |name: &str| at("engine").join(name).display().to_string();
        // With none, an engine removes `docker0`, which is another one's. The block is for examples.
        let bridge = format!("k1far{}", std::process::id());
        succeed(as_root("ip").args(["link", "add", &bridge, "type", "bridge"]));
        succeed(as_root("ip").args(["addr", "add", "203.0.113.1/30", "dev", &bridge]));
        // Older engines keep who they are in that folder, and each is somebody of its own.
        let alone =
            "mkdir -p /etc/docker && mount -t tmpfs none /etc/docker && exec dockerd \"$@\"";
        let child = as_root("unshare")
            .args(["--mount", "sh", "-c", alone, "dockerd"])
            .args(["--bridge", &bridge, "--iptables=false", "--ip6tables=false"])
            .args(["--ip-forward=false", "--ip-masq=false"])
            .args(["--storage-driver=vfs", "--data-root"])
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"))
            .args(["--tlsverify", "--tlscacert"])
            .arg(at("authority").join("ca.pem"))
            .args(["--tlscert", &of("cert.pem"), "--tlskey", &of("key.pem")])
            .args(["--host", &format!("tcp://127.0.0.1:{port}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(at("log")).unwrap())
            .spawn()
            .unwrap();
        let far = Self {
            child,
            bridge,
            port,
            folder,
        };
        until("the engine answers", || {
            is_open(port)
                && std::fs::read_to_string(far.folder.path().join("log"))
                    .unwrap()
                    .contains("API listen")
        });
        far
    }

    /// What `k1ops logs postgres` says to somebody who has these certificates.
    pub fn logs(&self, who: &str, variables: &[(&str, &str)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_k1ops"));
        command
            .args(["logs", "postgres"])
            .current_dir(self.folder.path())
            .env_remove("DOCKER_CONTEXT")
            .env("DOCKER_HOST", format!("tcp://127.0.0.1:{}", self.port))
            .env("DOCKER_TLS_VERIFY", "1")
            .env("DOCKER_CERT_PATH", self.folder.path().join(who))
            .envs(variables.iter().copied());
        for (name, value) in variables {
            if value.is_empty() {
                command.env_remove(name);
            }
        }
        command.output().unwrap()
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        let pid = std::fs::read_to_string(self.folder.path().join("pid")).unwrap_or_default();
        let _ = as_root("kill").arg(pid.trim()).status();
        let _ = self.child.wait();
        let _ = as_root("ip").args(["link", "del", &self.bridge]).status();
        // Its files are root's.
        let _ = as_root("rm")
            .args(["-rf", "--"])
            .args([
                self.folder.path().join("data"),
                self.folder.path().join("exec"),
            ])
            .status();
    }
}

fn openssl(arguments: &[&str], folder: &Path) {
    succeed(Command::new("openssl").args(arguments).current_dir(folder));
}

fn authority(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    let name = folder.file_name().unwrap().to_string_lossy();
    openssl(
        &[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            &format!("/CN={name}"),
            "-keyout",
            "ca-key.pem",
            "-out",
            "ca.pem",
        ],
        folder,
    );
}

/// A key and a certificate of this authority, with an extension.
fn sign(authority: &Path, folder: &Path, extension: &str) {
    std::fs::create_dir(folder).unwrap();
    std::fs::write(folder.join("extension"), extension).unwrap();
    openssl(
        &[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/CN=somebody",
            "-keyout",
            "key.pem",
            "-out",
            "request.pem",
        ],
        folder,
    );
    let of = |name: &str| authority.join(name).display().to_string();
    openssl(
        &[
            "x509",
            "-req",
            "-in",
            "request.pem",
            "-days",
            "2",
            "-CA",
            &of("ca.pem"),
            "-CAkey",
            &of("ca-key.pem"),
            "-CAcreateserial",
            "-extfile",
            "extension",
            "-out",
            "cert.pem",
        ],
        folder,
    );
}
