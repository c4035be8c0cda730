//! A stack on a server of its own whose log is kept, and what tests of that wait for.

#![allow(dead_code, reason = "each test file uses its own part of it")]

use crate::cluster::{Cluster, give_to_postgres, scratch_folder, succeed};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A stack on a server of its own, and k1ops run by the server's user, as on a host of its own.
pub struct Stack {
    pub live: Cluster,
    folder: TempDir,
}

impl Stack {
    pub fn new(settings: &str) -> Self {
        let live = Cluster::create(settings, "");
        let folder = scratch_folder();
        let config = format!(
            "tier = 'jar'\ntimezone = 'Europe/Berlin'\n[database]\n\
             url = 'postgres://postgres@127.0.0.1:{}/postgres'\n",
            live.port
        );
        let file = folder.path().join("k1ops.toml");
        std::fs::write(&file, config).unwrap();
        give_to_postgres(&file);
        // Where the sources lie, the server's user may not look.
        let program = folder.path().join("k1ops");
        copied_program(&program);
        Self { live, folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn k1ops(&self, arguments: &[&str]) -> Command {
        let mut command = if rustix::process::geteuid().is_root() {
            let mut command = Command::new("setpriv");
            command
                .args(["--reuid=postgres", "--regid=postgres", "--clear-groups"])
                .arg(self.path("k1ops"));
            command
        } else {
            Command::new(self.path("k1ops"))
        };
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("K1OPS_") {
                command.env_remove(name);
            }
        }
        command
            .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
            .env("HOME", self.folder.path())
            .current_dir(self.folder.path())
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// What `--json` prints where the command exits with `code`.
    #[track_caller]
    pub fn json(&self, arguments: &[&str], code: i32) -> Value {
        let output = self.k1ops(arguments).arg("--json").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// What the command says where it exits with `code`.
    #[track_caller]
    pub fn says(&self, arguments: &[&str], code: i32) -> String {
        let output = self.k1ops(arguments).output().unwrap();
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        said
    }

    /// `pgbench` that writes until it is dropped.
    ///
    /// One client: of two, one may have noted the time of its transaction and be held up before that is in the
    /// log, until a later one of the other is.
    pub fn load(&self) -> Load {
        let mut pgbench = self.live.pgbench(&["--client=1", "--time=3600"]);
        pgbench.stdout(Stdio::null()).stderr(Stdio::null());
        Load(pgbench.spawn().unwrap())
    }

    /// Ends the load, and what it was doing: the server may be at its last transaction still.
    pub fn end(&self, load: Load) {
        drop(load);
        eventually("pgbench's sessions have ended", || {
            let left = self
                .live
                .sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'");
            if left == "0" { Ok(()) } else { Err(left) }
        });
    }

    /// `k1ops wal stream`, killed as by `kill -9` when it is dropped.
    pub fn stream(&self) -> Stream {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("stream.log"));
        let mut command = self.k1ops(&["wal", "stream"]);
        command.stdout(Stdio::null()).stderr(log.unwrap());
        Stream(command.spawn().unwrap())
    }

    /// The same, from when the server keeps its log for it.
    pub fn stream_by_slot(&self) -> Stream {
        let streamer = self.stream();
        eventually("the slot is in use", || {
            let active = self
                .live
                .sql("SELECT count(*) FROM pg_replication_slots WHERE active");
            if active == "1" {
                Ok(())
            } else {
                Err(self.log())
            }
        });
        streamer
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("stream.log")).unwrap_or_default()
    }

    /// Waits until the log is here, so that the moment can be planned for.
    pub fn wait_for(&self, moment: &str) -> Value {
        eventually(&format!("{moment} can be restored"), || {
            let arguments = ["restore", "--to", moment, "--dry-run", "--json"];
            let output = self.k1ops(&arguments).output().unwrap();
            if output.status.code() == Some(3) {
                return Err(String::from_utf8_lossy(&output.stderr).into_owned() + &self.log());
            }
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            Ok(serde_json::from_slice(&output.stdout).unwrap())
        })
    }

    /// The segments in the repository, by name.
    pub fn segments(&self) -> Vec<PathBuf> {
        let pattern = self.path(".conductor/backups/wal");
        let mut found: Vec<PathBuf> = walk(&pattern);
        found.retain(|path| path.extension().is_some_and(|e| e == "zst"));
        found.sort();
        found
    }
}

/// By a process of its own: a child of ours that was forked meanwhile would hold a file open that we write,
/// and nobody could run it.
fn copied_program(place: &Path) {
    let mut copy = Command::new("cp");
    succeed(copy.arg("-p").arg(env!("CARGO_BIN_EXE_k1ops")).arg(place));
}

pub fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(walk(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

/// Asks again until there is an answer.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(180);
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(last) if std::time::Instant::now() > deadline => {
                panic!("not in time: {what}: {last}")
            }
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(100)),
        }
    }
}

pub fn wait_for_rows(cluster: &Cluster, least: u64) {
    eventually("rows are written", || {
        let rows = number(cluster, "SELECT count(*) FROM pgbench_history");
        if rows >= least {
            Ok(())
        } else {
            Err(rows.to_string())
        }
    });
}

pub fn wait_for_promotion(cluster: &Cluster) {
    eventually("the server takes writes", || {
        match cluster.sql("SELECT pg_is_in_recovery()").as_str() {
            "f" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
}

pub struct Stream(std::process::Child);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

pub struct Load(std::process::Child);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

pub fn number(cluster: &Cluster, sql: &str) -> u64 {
    cluster.sql(sql).parse().unwrap()
}

pub fn now(cluster: &Cluster) -> String {
    cluster.sql("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || ' UTC'")
}
