//! Archives on a `WebDAV` server, which is started for a test and ended with it. What it holds is looked at on
//! its disk.

use crate::journey::{killed_on_the_way, there_and_back};
use crate::scratch::Scratch;
use crate::servers::{free_port, program};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const USER: &str = "k1";
const PASSWORD: &str = "k1-test-hunter2";

/// A server with an empty folder, and one below that does not exist yet.
pub struct Dav {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Dav {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let port = free_port();
        let config = serde_json::json!({
            "host": "127.0.0.1",
            "port": port,
            "provider_mapping": { "/dav": root },
            "http_authenticator": {
                "accept_basic": true, "accept_digest": false, "default_to_digest": false
            },
            "simple_dc": { "user_mapping": { "*": { USER: { "password": PASSWORD } } } },
            "verbose": 1,
        });
        let file = folder.path().join("wsgidav.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let child = Command::new(program("wsgidav"))
            .arg("--config")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Self {
            child,
            port,
            folder,
        };
        let deadline = Instant::now() + Duration::from_secs(240);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = server.child.try_wait().unwrap();
            assert!(ended.is_none(), "wsgidav has ended: {ended:?}");
            assert!(Instant::now() < deadline, "wsgidav does not listen");
            std::thread::yield_now();
        }
        server
    }

    pub fn stack(&self) -> Scratch {
        let scratch = Scratch::new();
        let config = format!(
            "tier = 'jar'\n[repository]\nurl = 'http://127.0.0.1:{}/dav/of/k1/'\n\
             credentials = 'dav.env'\n",
            self.port
        );
        std::fs::write(scratch.path().join("k1ops.toml"), config).unwrap();
        let login = format!("WEBDAV_USERNAME={USER}\nWEBDAV_PASSWORD={PASSWORD}\n");
        let file = scratch.path().join("dav.env");
        std::fs::write(&file, login).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        scratch
    }

    /// Names of everything in the folder.
    pub fn files(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.folder.path().join("root/of/k1")) else {
            return Vec::new();
        };
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<String> = entries
            .map(|entry| name(entry).to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Dav {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_stack_goes_to_a_webdav_server_and_comes_back() {
    let server = Dav::start();
    there_and_back(&server.stack(), "http://127.0.0.1:", || server.files());
}

#[test]
fn a_wrong_password_is_refused_without_being_shown() {
    let server = Dav::start();
    let scratch = server.stack();
    scratch.run(&["list"]).done();
    let login = format!("WEBDAV_USERNAME={USER}\nWEBDAV_PASSWORD=hunter3\n");
    std::fs::write(scratch.path().join("dav.env"), login).unwrap();
    let said = scratch.run(&["list"]).failed(3, "Give the credentials");
    assert!(!said.err.contains("hunter"), "{}", said.err);
    let config =
        "tier = 'jar'\n[repository]\nurl = 'http://example.org/dav'\ncredentials = 'dav.env'\n";
    std::fs::write(scratch.path().join("k1ops.toml"), config).unwrap();
    scratch.run(&["list"]).failed(6, "in the clear");
}

#[test]
fn an_upload_that_is_killed_is_not_seen_as_an_archive() {
    let server = Dav::start();
    killed_on_the_way(&server.stack(), || server.files());
}
