//! A stack in a scratch folder, with real SQLite databases, and the real binary run on it.

#![allow(dead_code, reason = "each test file uses its own part of it")]

use assert_cmd::Command;
use rusqlite::Connection;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A stack in a folder that goes away with it.
pub struct Scratch {
    folder: tempfile::TempDir,
}

/// What the binary said.
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Asserts success.
    #[track_caller]
    pub fn done(self) -> Self {
        assert_eq!(self.code, Some(0), "{}\n{}", self.out, self.err);
        self
    }

    /// Asserts an exit code, and something that standard error says.
    #[track_caller]
    pub fn failed(self, code: i32, said: &str) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        assert!(self.err.contains(said), "{said:?} is not in: {}", self.err);
        self
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap()
    }
}

impl Scratch {
    /// An empty stack.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("k1ops.toml"), "tier = 'jar'\n").unwrap();
        Self { folder }
    }

    /// A stack with both databases filled.
    pub fn filled() -> Self {
        let scratch = Self::new();
        fill(&scratch.db("conductor"), 400);
        fill(&scratch.db("k1"), 50);
        scratch
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn own(&self) -> PathBuf {
        self.path().join(".conductor")
    }

    pub fn data(&self) -> PathBuf {
        self.own().join("data")
    }

    pub fn db(&self, name: &str) -> PathBuf {
        self.data().join(format!("{name}.db"))
    }

    pub fn backups(&self) -> PathBuf {
        self.own().join("backups")
    }

    /// Runs k1ops in the folder, with variables set.
    pub fn with(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Said {
        let output = Command::new(env!("CARGO_BIN_EXE_k1ops"))
            .current_dir(self.path())
            // A host without Docker, whatever this one has.
            .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
            .envs(variables.iter().copied())
            .args(arguments)
            .output()
            .unwrap();
        Said {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub fn run(&self, arguments: &[&str]) -> Said {
        self.with(&[], arguments)
    }

    /// Takes a backup; answers its path.
    pub fn backup(&self) -> PathBuf {
        let said = self.run(&["backup", "--json"]).done();
        PathBuf::from(said.json()["archive"].as_str().unwrap())
    }

    /// The hash of every file beneath the stack's folder that could hold data, by path. Lock files
    /// say who held them last, the audit log tells of failures too, and a -shm file is rebuilt by whoever comes first.
    pub fn hashes(&self) -> BTreeMap<PathBuf, String> {
        let mut hashes = BTreeMap::new();
        hash_folder(&self.own(), &mut hashes);
        hashes
    }
}

fn hash_folder(folder: &Path, hashes: &mut BTreeMap<PathBuf, String>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.to_string_lossy().into_owned();
        if path.is_dir() {
            hash_folder(&path, hashes);
        } else if !["lock", "-shm", "/audit.jsonl"]
            .iter()
            .any(|end| name.ends_with(end))
        {
            let content = std::fs::read(&path).unwrap();
            // An empty log is no log.
            if !(content.is_empty() && name.ends_with("-wal")) {
                hashes.insert(path, hex::encode(Sha256::digest(content)));
            }
        }
    }
}

/// Makes a database in WAL mode with every type of value in it.
pub fn fill(path: &Path, rows: u32) {
    let connection = k1ops::adapters::sqlite::open_or_create(path).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE IF NOT EXISTS workflow(id INTEGER PRIMARY KEY, name TEXT, body BLOB, score REAL, note);
             CREATE TABLE IF NOT EXISTS pair(left_one INTEGER, right_one INTEGER);
             CREATE INDEX IF NOT EXISTS by_name ON workflow(name);",
        )
        .unwrap();
    for row in 0..rows {
        insert(&connection, row);
    }
}

fn insert(connection: &Connection, row: u32) {
    let body: Vec<u8> = (0..1500_u32).map(|i| (i * (row + 7) % 251) as u8).collect();
    connection
        .execute(
            "INSERT INTO workflow(name, body, score, note) VALUES (?1, ?2, ?3, NULL)",
            (format!("workflow {row}"), body, f64::from(row) / 3.0),
        )
        .unwrap();
}

/// Every value of every table, for comparing two databases without our own digests.
pub fn dump(path: &Path) -> String {
    let output = std::process::Command::new("sqlite3")
        .arg(path)
        .arg(".dump")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// How many rows a table has.
pub fn count(path: &Path, table: &str) -> i64 {
    let connection = k1ops::adapters::sqlite::open_read_only(path).unwrap();
    connection
        .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| {
            row.get(0)
        })
        .unwrap()
}

/// What SQLite itself says of a database.
pub fn integrity(path: &Path) -> String {
    let connection = k1ops::adapters::sqlite::open_read_only(path).unwrap();
    connection
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap()
}

/// Writes into a database until it is dropped, always both halves of a pair in one transaction.
pub struct Busy {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<i64>>,
}

impl Busy {
    pub fn on(path: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (path, stopped) = (path.to_path_buf(), stop.clone());
        let thread = std::thread::spawn(move || {
            let connection = k1ops::adapters::sqlite::open_or_create(&path).unwrap();
            let mut written = 1;
            while !stopped.load(Ordering::Relaxed) {
                connection.execute_batch("BEGIN IMMEDIATE").unwrap();
                let half = |left: i64, right: i64| {
                    let row = [left, right];
                    connection
                        .execute("INSERT INTO pair VALUES (?1, ?2)", row)
                        .unwrap();
                };
                half(written, 0);
                insert(&connection, 1);
                half(0, written);
                connection.execute_batch("COMMIT").unwrap();
                written += 1;
            }
            written - 1
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// Waits until something more was written.
    pub fn wait_for(path: &Path, pairs: i64) {
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while count(path, "pair") < pairs {
            assert!(std::time::Instant::now() < deadline, "nothing is written");
            std::thread::yield_now();
        }
    }

    /// Stops; answers how many transactions were written.
    pub fn stop(mut self) -> i64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
