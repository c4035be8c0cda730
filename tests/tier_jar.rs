//! Tier 2 with a real Conductor: start, health, status, stop, and what goes wrong on the way.
//!
//! A start costs half a minute of both CPUs, so the tests that need a running server are few and
//! walk through its life; cargo runs them in turn with one lock.

#![allow(
    clippy::unwrap_used,
    reason = "a test may stop at the first surprise, in its helpers as well"
)]

mod patience;
mod said;

use patience::until;
use said::{assert_code, text};
use serde_json::Value;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// More than one server at a time would only make each slower than its time limit.
static ONE_SERVER: Mutex<()> = Mutex::new(());

fn one_server() -> MutexGuard<'static, ()> {
    ONE_SERVER.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Bench {
    folder: tempfile::TempDir,
    port: u16,
}

impl Bench {
    fn new(settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = k1ops::adapters::port::any_free().unwrap();
        let text = format!("tier = 'jar'\n{settings}\n[ports]\nconductor = {port}\n");
        std::fs::write(folder.path().join("k1ops.toml"), text).unwrap();
        Self { folder, port }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_k1ops"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            // A host without Docker, whatever this one has.
            .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
            // Kept between runs: what was verified and prepared is worth minutes.
            .env(
                "K1OPS_CACHE",
                Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"),
            )
            .env("K1OPS_SERVER_HEALTH_TIMEOUT", "400")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs with `--json`, expects this exit code, and reads the answer.
    fn json(&self, arguments: &[&str], code: i32) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        assert_code(&output, code);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn stack(&self, path: &str) -> PathBuf {
        self.folder.path().join(".conductor").join(path)
    }

    fn state(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.stack("run/server.json")).unwrap()).unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.run(&["stop"]);
    }
}

fn runs(pid: u64) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.starts_with(" Z"))
}

fn signal(child: &Child, name: &str) {
    signal_pid(u64::from(child.id()), name);
}

fn signal_pid(pid: u64, name: &str) {
    let status = Command::new("kill").args([name, &pid.to_string()]).status();
    assert!(status.unwrap().success());
}

fn mode_of(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_server_lives_from_start_to_stop() {
    let _one = one_server();
    let bench = Bench::new("");
    assert_eq!(bench.json(&["status"], 1)["server"]["state"], "stopped");

    let started = bench.json(&["start", "--prepare"], 0);
    assert_eq!(started["outcome"], "started");
    assert_eq!(started["health"]["state"], "up");
    let pid = started["server"]["pid"].as_u64().unwrap();
    assert!(runs(pid));

    let again = bench.json(&["start"], 0);
    assert_eq!(again["outcome"], "already_running");
    assert_eq!(again["server"]["pid"], pid);

    let status = bench.json(&["status"], 0);
    let server = &status["server"];
    assert_eq!(server["state"], "running");
    assert_eq!(server["tier"], "jar");
    assert_eq!(server["pid"], pid);
    assert_eq!(server["port"], bench.port);
    assert_eq!(server["conductor_version"], "3.32.1");
    assert!(server["memory_bytes"].as_u64().unwrap() > 100 << 20);
    assert!(status["store"]["size_bytes"].as_u64().unwrap() > 100_000);
    assert_eq!(mode_of(&bench.stack("data/conductor.db")), 0o600);
    assert_eq!(mode_of(&bench.stack("data")), 0o700);
    let log = text(&bench.run(&["logs", "-n", "1000"]));
    assert!(log.contains("Starting Conductor v3.32.1"), "{log}");

    // Another stack cannot have the port, and is told who has it.
    let other = bench.run(&["start", "--stack", "other"]);
    assert_code(&other, 3);
    assert!(
        text(&other).contains(&format!("taken by java (PID {pid})")),
        "{}",
        text(&other)
    );

    // A server that dies is noticed, and the next start is a fast one.
    signal_pid(pid, "-KILL");
    until("the death is noticed", || {
        bench.json(&["status"], 1)["server"]["state"] == "stale"
    });
    let fast = bench.json(&["start"], 0);
    assert_eq!(fast["outcome"], "started");
    assert_eq!(fast["server"]["mode"], "aot");

    let pid = fast["server"]["pid"].as_u64().unwrap();
    let stopped = bench.json(&["stop"], 0);
    assert_eq!(stopped["outcome"], "stopped");
    assert_eq!(stopped["ending"], "graceful");
    assert!(!runs(pid));
    assert!(TcpListener::bind(("127.0.0.1", bench.port)).is_ok());
    assert_eq!(bench.json(&["stop"], 0)["outcome"], "not_running");
}

#[test]
fn an_interrupted_start_leaves_everything_as_before_and_locks_others_out_meanwhile() {
    let _one = one_server();
    let bench = Bench::new("");
    let start = bench.command(&["start"]).spawn().unwrap();
    until("the server is made", || {
        bench.stack("data/conductor.db").exists()
    });
    let pid = bench.state()["process"]["pid"].as_u64().unwrap();
    assert_code(&bench.run(&["start"]), 5);
    assert!(runs(pid));
    signal(&start, "-INT");
    let output = start.wait_with_output().unwrap();
    assert_code(&output, 130);
    assert!(!runs(pid));
    assert!(!bench.stack("run/server.json").exists());
    assert_eq!(std::fs::read_dir(bench.stack("data")).unwrap().count(), 0);
}

#[test]
fn a_damaged_database_is_named_as_the_cause_and_left_alone() {
    let _one = one_server();
    let bench = Bench::new("");
    std::fs::create_dir_all(bench.stack("data")).unwrap();
    let garbage = "not a database, but long enough to be read as the header of one".repeat(100);
    std::fs::write(bench.stack("data/conductor.db"), &garbage).unwrap();
    let output = bench.run(&["start"]);
    assert_code(&output, 4);
    assert!(
        text(&output).contains("SQLite database is damaged"),
        "{}",
        text(&output)
    );
    assert!(!bench.stack("run/server.json").exists());
    let left = std::fs::read_to_string(bench.stack("data/conductor.db")).unwrap();
    assert_eq!(left, garbage);
}

#[test]
fn a_heap_that_the_jvm_refuses_fails_at_once_with_the_last_lines() {
    let bench = Bench::new("[server]\nheap = 'lots'");
    let output = bench.run(&["start"]);
    assert_code(&output, 2);
    let text = text(&output);
    assert!(text.contains("died while it started"), "{text}");
    assert!(
        text.contains("Invalid maximum heap size: -Xmxlots"),
        "{text}"
    );
    assert!(text.contains("server.heap"), "{text}");
}

#[test]
fn a_java_that_is_too_old_is_refused_before_anything_starts() {
    let bench = Bench::new("[server]\njava = 'old'");
    let home = bench.folder.path().join("old");
    std::fs::create_dir_all(home.join("bin")).unwrap();
    // A stand-in for a Java 17: its release file says all that is looked at.
    std::fs::write(home.join("bin/java"), "").unwrap();
    std::fs::write(home.join("release"), "JAVA_VERSION=\"17.0.1\"\n").unwrap();
    let output = bench.run(&["start"]);
    assert_code(&output, 3);
    assert!(
        text(&output).contains("is Java 17.0.1, but Java 21 or later"),
        "{}",
        text(&output)
    );
    assert!(!bench.stack("run/server.json").exists());
}

#[test]
fn a_taken_port_is_told_before_anything_starts() {
    let bench = Bench::new("");
    let _holder = TcpListener::bind(("127.0.0.1", bench.port)).unwrap();
    let output = bench.run(&["start"]);
    assert_code(&output, 3);
    let text = text(&output);
    let me = format!("(PID {})", std::process::id());
    assert!(text.contains("is taken by") && text.contains(&me), "{text}");
    assert!(text.contains("K1OPS_PORTS_CONDUCTOR="), "{text}");
    assert!(!bench.stack("run/server.json").exists());
}

#[test]
fn a_jar_that_is_not_the_jar_is_refused() {
    let bench = Bench::new("[server]\njar = 'x.jar'");
    std::fs::write(bench.folder.path().join("x.jar"), "PK").unwrap();
    let output = bench.run(&["start"]);
    assert_code(&output, 4);
    assert!(text(&output).contains("SHA-256"), "{}", text(&output));
}

#[test]
fn a_process_that_reuses_the_pid_is_neither_taken_for_the_server_nor_stopped() {
    let bench = Bench::new("");
    let mut stranger = Command::new("sleep").arg("600").spawn().unwrap();
    let state = serde_json::json!({
        "tier": "jar",
        "process": { "pid": stranger.id(), "start_ticks": 1, "boot_id": "another boot" },
        "port": bench.port,
        "conductor_version": "3.32.1",
        "jar": "/x.jar",
        "java_version": "25",
        "java": "/java",
        "mode": "plain",
        "started_at": "2026-01-01T00:00:00Z",
        "store": { "kind": "sqlite", "path": bench.stack("data/conductor.db") },
    });
    std::fs::create_dir_all(bench.stack("run")).unwrap();
    std::fs::write(bench.stack("run/server.json"), state.to_string()).unwrap();
    assert_eq!(bench.json(&["status"], 1)["server"]["state"], "stale");
    let stopped = bench.json(&["stop"], 0);
    assert_eq!(stopped["outcome"], "not_running");
    assert_eq!(stopped["was_stale"], true);
    assert!(runs(u64::from(stranger.id())));
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn the_direct_tier_says_how_to_go_on_and_exits_1() {
    let bench = Bench::new("");
    let report = bench.json(&["start", "--tier", "direct"], 1);
    assert_eq!(report["outcome"], "direct");
    let instructions = report["instructions"].to_string();
    assert!(instructions.contains("k1.db") && instructions.contains("k1ops query summary"));
}
