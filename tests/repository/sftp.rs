//! Archives on an SFTP server, which is started for a test and ended with it: OpenSSH's sftp-server behind an SSH server
//! of another make. What it holds is looked at on its disk.

use crate::journey::{killed_on_the_way, there_and_back};
use crate::scratch::Scratch;
use crate::servers::program;
use crate::ssh;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A server that knows one key, and a folder on its disk that does not exist yet.
pub struct Sftp {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Sftp {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["host", "user", "stranger"] {
            ssh::make_key(&folder.path().join(name));
        }
        let mut server = Self {
            child: serve(folder.path()),
            port: 0,
            folder,
        };
        server.port = port_of(&mut server.child);
        server.configure("user");
        server
    }

    /// Writes the configuration of `ssh` for a key.
    fn configure(&self, name: &str) {
        ssh::configure(self.folder.path(), self.port, "host", name);
    }

    pub fn stack(&self) -> Scratch {
        let scratch = Scratch::new();
        let config = format!(
            "tier = 'jar'\n[repository]\nurl = 'sftp://k1@127.0.0.1:{}{}/'\ncredentials = 'sftp.env'\n",
            self.port,
            self.place().display()
        );
        std::fs::write(scratch.path().join("k1ops.toml"), config).unwrap();
        let variables = format!(
            "SFTP_SSH_CONFIG={}\n",
            self.folder.path().join("ssh_config").display()
        );
        let file = scratch.path().join("sftp.env");
        std::fs::write(&file, variables).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        scratch
    }

    fn place(&self) -> PathBuf {
        self.folder.path().join("of/k1")
    }

    /// Names of everything in the folder.
    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.place()).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Sftp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve(folder: &Path) -> Child {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sftp_server.py");
    Command::new(program("asyncssh-python"))
        .arg(script)
        .args([folder.join("host"), folder.join("user.pub")])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn port_of(child: &mut Child) -> u16 {
    let mut line = String::new();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    said.read_line(&mut line).unwrap();
    line.trim().parse().unwrap()
}

#[test]
fn a_stack_goes_to_an_sftp_server_and_comes_back() {
    let server = Sftp::start();
    there_and_back(&server.stack(), "sftp://k1@127.0.0.1:", || server.files());
}

#[test]
fn a_key_that_is_not_known_and_a_host_that_is_another_are_refused_by_name() {
    let server = Sftp::start();
    let scratch = server.stack();
    scratch.run(&["list"]).done();
    server.configure("stranger");
    let said = scratch.run(&["list"]).failed(3, "Permission denied");
    assert!(said.err.contains("sftp://k1@127.0.0.1:"), "{}", said.err);

    server.configure("user");
    let of_another = std::fs::read_to_string(server.folder.path().join("stranger.pub")).unwrap();
    std::fs::write(
        server.folder.path().join("known_hosts"),
        format!("[127.0.0.1]:{} {of_another}", server.port),
    )
    .unwrap();
    scratch
        .run(&["list"])
        .failed(3, "Host key verification failed");
}

#[test]
fn an_upload_over_ssh_that_is_killed_is_not_seen_as_an_archive() {
    let server = Sftp::start();
    killed_on_the_way(&server.stack(), || server.files());
}
