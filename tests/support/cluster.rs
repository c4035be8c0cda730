//! PostgreSQL 15 servers of a test's own, in scratch folders, on free ports.
//!
//! `initdb` and the server refuse to run as root, so that there they run as the user `postgres`.

#![allow(dead_code, reason = "each test file uses its own part of this module")]

use k1ops::adapters::postgres::Address;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// Where the server's programs are.
pub fn program(name: &str) -> PathBuf {
    let folder = std::env::var_os("K1OPS_TEST_POSTGRES_BIN").map_or_else(
        || PathBuf::from("/usr/lib/postgresql/15/bin"),
        PathBuf::from,
    );
    let program = folder.join(name);
    assert!(
        program.is_file(),
        "{} is not there: this test needs the programs of PostgreSQL 15 (on Debian: apt-get install postgresql-15), \
         or K1OPS_TEST_POSTGRES_BIN must name their folder",
        program.display()
    );
    program
}

/// A program of the server's, run as somebody who may run it.
pub fn as_postgres(name: &str) -> Command {
    let program = program(name);
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=postgres", "--regid=postgres", "--clear-groups"])
        .arg(program);
    command.current_dir("/");
    command
}

/// The output of a command that must end well.
pub fn succeed(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// A scratch folder that the server's user may use.
pub fn scratch_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    give_to_postgres(folder.path());
    folder
}

/// Makes the server's user the owner.
pub fn give_to_postgres(path: &Path) {
    if rustix::process::geteuid().is_root() {
        let id = |flag: &str| {
            let output = succeed(Command::new("id").args([flag, "postgres"]));
            String::from_utf8(output.stdout)
                .unwrap()
                .trim()
                .parse()
                .unwrap()
        };
        chown(path, Some(id("-u")), Some(id("-g"))).unwrap();
    }
}

/// A running server, stopped together with this value.
pub struct Cluster {
    pub data: PathBuf,
    pub port: u16,
    folder: TempDir,
}

impl Cluster {
    /// A new cluster with these lines at the end of `postgresql.conf` and at the top of
    /// `pg_hba.conf`.
    pub fn create(settings: &str, hba: &str) -> Self {
        let folder = scratch_folder();
        let data = folder.path().join("data");
        succeed(
            as_postgres("initdb")
                .args(["--auth=trust", "--username=postgres", "--no-sync"])
                .args(["--encoding=UTF8", "--locale=C.UTF-8", "--pgdata"])
                .arg(&data),
        );
        append(&data.join("postgresql.conf"), settings);
        let rules = std::fs::read_to_string(data.join("pg_hba.conf")).unwrap();
        overwrite(&data.join("pg_hba.conf"), &format!("{hba}\n{rules}"));
        Self::start(folder, data)
    }

    /// A server on a data directory that is there already.
    pub fn on(data: &Path) -> Self {
        Self::start(scratch_folder(), data.to_path_buf())
    }

    fn start(folder: TempDir, data: PathBuf) -> Self {
        let port = k1ops::adapters::port::any_free().unwrap();
        let cluster = Self { data, port, folder };
        cluster.start_again();
        cluster
    }

    /// Starts the server on the port that it has had.
    pub fn start_again(&self) {
        let port = self.port;
        let options = format!(
            "-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={} -c fsync=off \
             -c shared_buffers=32MB",
            self.folder.path().display()
        );
        let log = self.folder.path().join("log");
        let started = as_postgres("pg_ctl")
            .args([
                "start",
                "--wait",
                "--timeout=60",
                "--silent",
                "--options",
                &options,
            ])
            .arg("--log")
            .arg(&log)
            .arg("--pgdata")
            .arg(&self.data)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        assert!(started.success(), "the server does not start:\n{}", said());
    }

    /// Stops the server as a crash would.
    pub fn crash(&self) -> Output {
        as_postgres("pg_ctl")
            .args(["stop", "--wait", "--mode=immediate", "--silent", "--pgdata"])
            .arg(&self.data)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Its address for a user, with what follows the database's name in the URL.
    pub fn address(&self, user: &str, query: &str) -> Address {
        address_at(self.port, user, query)
    }

    /// The folder of its Unix socket.
    pub fn socket_folder(&self) -> &Path {
        self.folder.path()
    }

    /// What `psql` answers to SQL as the superuser.
    pub fn sql(&self, sql: &str) -> String {
        let output = succeed(
            Command::new(program("psql"))
                .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"])
                .args([
                    "-h",
                    "127.0.0.1",
                    "-U",
                    "postgres",
                    "-d",
                    "postgres",
                    "-c",
                    sql,
                ])
                .args(["-p", &self.port.to_string()]),
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// `pgbench` with these arguments.
    pub fn pgbench(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("pgbench"));
        command
            .args([
                "-h",
                "127.0.0.1",
                "-U",
                "postgres",
                "-p",
                &self.port.to_string(),
            ])
            .args(arguments)
            .arg("postgres");
        command.stdin(Stdio::null());
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let stopped = self.crash();
        if !std::thread::panicking() {
            assert!(stopped.status.success(), "{stopped:?}");
        }
    }
}

/// The address of a server, or of a double of one, on this port.
pub fn address_at(port: u16, user: &str, query: &str) -> Address {
    crate::support::address(&format!(
        "postgres://{user}@127.0.0.1:{port}/postgres{query}"
    ))
}

/// Adds text to a file that the server's user owns.
fn append(path: &Path, text: &str) {
    let before = std::fs::read_to_string(path).unwrap();
    overwrite(path, &format!("{before}\n{text}\n"));
}

fn overwrite(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}
