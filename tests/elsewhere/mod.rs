//! Ways to an engine on another host: an SSH server of the test's own before the engine of the test bed, and an engine
//! that speaks TLS.

#![allow(dead_code, reason = "each test uses a part of it")]

pub mod far;
#[path = "../ssh/mod.rs"]
mod ssh;

use crate::bench::{Bench, free_port, text};
use crate::patience::until;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

#[track_caller]
pub fn succeed(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

pub fn is_open(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// OpenSSH's server for this user and one key, and an `ssh` that knows it.
pub struct Sshd {
    child: Child,
    port: u16,
    folder: TempDir,
}

impl Sshd {
    /// With these lines in its configuration.
    pub fn start(settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["host", "user", "stranger"] {
            ssh::make_key(&at(name));
        }
        let port = free_port();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
             StrictModes no\n{settings}\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n",
            at("host").display(),
            at("user.pub").display()
        );
        std::fs::write(at("sshd_config"), config).unwrap();
        if rustix::process::geteuid().is_root() {
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        let log = std::fs::File::create(at("log")).unwrap();
        let child = Command::new(sshd())
            .args(["-D", "-e", "-f"])
            .arg(at("sshd_config"))
            .stderr(log)
            .spawn()
            .unwrap();
        let sshd = Self {
            child,
            port,
            folder,
        };
        sshd.know("host", "user");
        until("sshd listens", || is_open(port));
        sshd
    }

    /// Has `ssh` expect the host key `host`, and show the key `user`.
    pub fn know(&self, host: &str, user: &str) {
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        ssh::configure(self.folder.path(), self.port, host, user);
        let bin = self.folder.path().join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        let script = format!(
            "#!/bin/sh\nexec /usr/bin/ssh -F {} \"$@\"\n",
            at("ssh_config")
        );
        std::fs::write(bin.join("ssh"), script).unwrap();
        std::fs::set_permissions(bin.join("ssh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// `k1ops` with the engine behind this server, and a folder of its own for what is temporary.
    pub fn k1ops(&self, bench: &Bench, arguments: &[&str]) -> Command {
        let user = succeed(Command::new("id").arg("-un"));
        let path = std::env::var("PATH").unwrap();
        let bin = self.folder.path().join("bin");
        std::fs::create_dir_all(self.temporary()).unwrap();
        let mut command = bench.command(arguments);
        command
            .env(
                "DOCKER_HOST",
                format!("ssh://{}@127.0.0.1:{}", user.trim(), self.port),
            )
            .env("PATH", format!("{}:{path}", bin.display()))
            .env("TMPDIR", self.temporary());
        command
    }

    pub fn temporary(&self) -> PathBuf {
        self.folder.path().join("tmp")
    }

    #[track_caller]
    pub fn assert_nothing_is_left(&self) {
        let left: Vec<_> = std::fs::read_dir(self.temporary())
            .unwrap()
            .flatten()
            .collect();
        assert!(left.is_empty(), "{left:?}");
        self.until_no_ssh_is_left();
    }

    /// Of a k1ops that was killed too: one that was about to connect makes its socket before it ends.
    #[track_caller]
    pub fn until_no_ssh_is_left(&self) {
        let of_us = self.folder.path().display().to_string();
        let ssh = || succeed(Command::new("ps").args(["-eo", "args"]));
        until("no ssh is left", || {
            !ssh()
                .lines()
                .any(|line| line.contains(&of_us) && line.contains("dial-stdio"))
        });
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where `scripts/test` has it, which installs no service.
fn sshd() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join("sshd"))
        .find(|program| program.is_file())
        .unwrap_or_else(|| {
            panic!("sshd is not there: run this test through `scripts/test`, which fetches it")
        })
}
