//! A real Conductor of tier 2 for a whole test file, and stacks that use it.
//!
//! A start costs half a minute of both CPUs, so a file starts one server and lets its tests share it.

#![allow(dead_code, reason = "each test file uses its own part of it")]

#[path = "../said/mod.rs"]
mod said;

pub use said::{assert_code, text};

use rusqlite::Connection;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A stack in a folder of its own; its server, if it has one, is stopped with it.
pub struct Ground {
    pub folder: tempfile::TempDir,
    pub port: u16,
}

impl Ground {
    /// A stack with these settings, on the port of a server that runs or will run.
    pub fn new(port: u16, settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = format!("tier = 'jar'\n{settings}\n[ports]\nconductor = {port}\n");
        std::fs::write(folder.path().join("k1ops.toml"), text).unwrap();
        Self { folder, port }
    }

    /// A stack with a server of its own, which is started.
    pub fn with_server(settings: &str) -> Self {
        let ground = Self::new(k1ops::adapters::port::any_free().unwrap(), settings);
        ground.start();
        ground
    }

    /// Starts the server; fast as soon as that is prepared, which later files profit from.
    pub fn start(&self) {
        assert_code(&self.run(&["start", "--prepare"]), 0);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
        let mut command = Command::new(env!("CARGO_BIN_EXE_k1ops"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            // A host without Docker, whatever this one has.
            .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
            .env("K1OPS_CACHE", cache)
            .env("K1OPS_SERVER_HEALTH_TIMEOUT", "400")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs with `--json`, expects this exit code, and reads the answer.
    #[track_caller]
    pub fn json(&self, arguments: &[&str], code: i32) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        assert_code(&output, code);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A worker in the background, whose words go to `worker.log`.
    pub fn worker(&self, arguments: &[&str]) -> Worker {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("worker.log"))
            .unwrap();
        let child = self
            .command(&[&["worker"], arguments].concat())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Worker(child)
    }

    /// The server's process.
    pub fn server_pid(&self) -> u32 {
        let state = std::fs::read(self.path(".conductor/run/server.json")).unwrap();
        let state: Value = serde_json::from_slice(&state).unwrap();
        u32::try_from(state["process"]["pid"].as_u64().unwrap()).unwrap()
    }

    pub fn api(&self, method: &str, path: &str, body: &Value) -> Value {
        api(self.port, method, path, body)
    }

    pub fn workflow(&self, id: &str) -> Value {
        let path = format!("/workflow/{id}?includeTasks=true");
        self.api("GET", &path, &Value::Null)
    }

    /// Waits until the workflow has ended; answers it.
    #[track_caller]
    pub fn ended(&self, id: &str, status: &str) -> Value {
        let deadline = Instant::now() + Duration::from_secs(600);
        let mut workflow = self.workflow(id);
        while workflow["status"] == "RUNNING" {
            assert!(
                Instant::now() < deadline,
                "workflow {id} does not end: {}\n{}",
                workflow["tasks"],
                self.read("worker.log")
            );
            std::thread::sleep(Duration::from_millis(50));
            workflow = self.workflow(id);
        }
        assert_eq!(
            workflow["status"],
            status,
            "{}\n{}",
            workflow["reasonForIncompletion"],
            self.read("worker.log")
        );
        workflow
    }

    pub fn k1(&self) -> Connection {
        Connection::open(self.path(".conductor/data/k1.db")).unwrap()
    }

    /// The first column of an answer, as text, in its order.
    pub fn column(&self, sql: &str) -> Vec<String> {
        let db = self.k1();
        let mut statement = db.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| row.get::<_, rusqlite::types::Value>(0));
        rows.unwrap()
            .map(|value| match value.unwrap() {
                rusqlite::types::Value::Text(text) => text,
                rusqlite::types::Value::Integer(n) => n.to_string(),
                other => format!("{other:?}"),
            })
            .collect()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = self.run(&["stop"]);
    }
}

/// A worker process, killed if a test ends early.
pub struct Worker(Child);

impl Worker {
    pub fn signal(&self, name: &str) {
        signal(self.0.id(), name);
    }

    /// Tells it to stop and expects that it does so well.
    #[track_caller]
    pub fn stop(mut self) {
        self.signal("-TERM");
        assert_eq!(self.0.wait().unwrap().code(), Some(0));
    }

    /// Waits for the end of one that was told to stop already.
    #[track_caller]
    pub fn stop_heard(mut self) {
        assert_eq!(self.0.wait().unwrap().code(), Some(0));
    }

    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the server answers, as JSON or text.
pub fn api(port: u16, method: &str, path: &str, body: &Value) -> Value {
    let mut command = Command::new("curl");
    command.args(["-sS", "-X", method, "-H", "Content-Type: application/json"]);
    if !body.is_null() {
        command.args(["-d", &body.to_string()]);
    }
    let url = format!("http://127.0.0.1:{port}/api{path}");
    let output = command.arg(&url).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(&text).unwrap_or(json!(text))
}

pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([name, &pid.to_string()]).status();
    assert!(status.unwrap().success());
}

pub fn runs(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.starts_with(" Z"))
}
