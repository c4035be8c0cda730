//! A stack of tier 1 on a real Docker engine, under a prefix of its own, that is removed with all
//! that belongs to it when it is dropped.
//!
//! `scripts/testbed env` prints the variables that name the images; `scripts/test` sets them.

#![allow(dead_code, reason = "not every test file uses all of it")]

#[path = "../said/mod.rs"]
mod said;

pub use said::{assert_code, text};

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// More than one server at a time would only make each slower than its time limit.
static ONE_STACK: Mutex<()> = Mutex::new(());

pub fn testbed(part: &str) -> String {
    let name = format!("K1OPS_TESTBED_{part}");
    std::env::var(&name).unwrap_or_else(|_| {
        panic!(
            "{name} is not set: this test needs a real Docker engine and images. Run it through \
             `scripts/test`, or: scripts/testbed && eval \"$(scripts/testbed env)\""
        )
    })
}

pub struct Bench {
    pub folder: tempfile::TempDir,
    pub prefix: String,
    pub port: u16,
    pub others: Vec<u16>,
    _one: MutexGuard<'static, ()>,
}

impl Bench {
    pub fn new() -> Self {
        Self::with("")
    }

    pub fn with(settings: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let bench = Self {
            _one: ONE_STACK.lock().unwrap_or_else(PoisonError::into_inner),
            folder: tempfile::tempdir().unwrap(),
            prefix: format!("k1test{}n{number}", std::process::id()),
            port: free_port(),
            others: vec![free_port(), free_port(), free_port()],
        };
        let text = format!(
            "tier = 'docker'\n{settings}\n[ports]\nconductor = {}\npostgres = {}\nredis = {}\n",
            bench.port, bench.others[0], bench.others[1]
        );
        std::fs::write(bench.folder.path().join("k1ops.toml"), text).unwrap();
        bench
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_k1ops"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env(
                "K1OPS_CACHE",
                Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"),
            )
            .env("K1OPS_DOCKER_PREFIX", &self.prefix)
            .env("K1OPS_DOCKER_POSTGRES_IMAGE", testbed("POSTGRES_IMAGE"))
            .env("K1OPS_DOCKER_REDIS_IMAGE", testbed("REDIS_IMAGE"))
            .env("K1OPS_DOCKER_JAVA_IMAGE", testbed("JAVA_IMAGE"))
            .env("K1OPS_DOCKER_BALANCER_IMAGE", testbed("HAPROXY_IMAGE"))
            .env("K1OPS_DOCKER_GATEWAY_IMAGE", testbed("GATEWAY_IMAGE"))
            .env("K1OPS_PORTS_PROMETHEUS", self.others[2].to_string())
            .env("K1OPS_SERVER_HEALTH_TIMEOUT", "400")
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs with `--json`, expects this exit code, and reads the answer.
    pub fn json(&self, arguments: &[&str], code: i32) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        assert_code(&output, code);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub fn docker_folder(&self) -> PathBuf {
        self.folder.path().join(".conductor/docker")
    }

    pub fn container(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// Containers, volumes and networks under this prefix.
    pub fn left(&self) -> Vec<String> {
        let filter = format!("name={}", self.prefix);
        let format = |column| ["--filter", &filter, "--format", column].map(str::to_owned);
        let mut left = lines_of(&["ps", "-a"], &format("{{.Names}}"));
        left.extend(lines_of(&["volume", "ls"], &format("{{.Name}}")));
        left.extend(lines_of(&["network", "ls"], &format("{{.Name}}")));
        left
    }

    /// Compose does what it has begun when the k1ops that runs it is killed, and ends when it has something to say.
    #[track_caller]
    pub fn until_compose_has_ended(&self) {
        let folder = self.folder.path().canonicalize().unwrap();
        let folder = folder.display().to_string();
        let runs = || {
            let all = std::fs::read_dir("/proc").unwrap().flatten();
            let mut lines =
                all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
            lines.any(|line| {
                let line = String::from_utf8_lossy(&line);
                line.contains("--project-directory") && line.contains(&folder)
            })
        };
        let deadline = Instant::now() + Duration::from_secs(300);
        while runs() {
            assert!(Instant::now() < deadline, "Compose goes on");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for (list, remove) in [
            (vec!["ps", "-aq"], vec!["rm", "-f", "-v"]),
            (vec!["volume", "ls", "-q"], vec!["volume", "rm"]),
            (vec!["network", "ls", "-q"], vec!["network", "rm"]),
        ] {
            let filter = ["--filter".to_owned(), format!("name={}", self.prefix)];
            for id in lines_of(&list, &filter) {
                let _ = docker(&[remove.as_slice(), &[id.as_str()]].concat());
            }
        }
        let images = [format!("{}-server", self.prefix)];
        for id in lines_of(&["images", "-q"], &images) {
            let _ = docker(&["rmi", &id]);
        }
    }
}

/// A command as root: this user, or `sudo` without a password.
pub fn as_root(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["-n", program]);
    command
}

pub fn free_port() -> u16 {
    k1ops::adapters::port::any_free().unwrap()
}

pub fn docker(arguments: &[&str]) -> Output {
    Command::new("docker").args(arguments).output().unwrap()
}

pub fn docker_out(arguments: &[&str]) -> String {
    let output = docker(arguments);
    assert_code(&output, 0);
    String::from_utf8(output.stdout).unwrap()
}

pub fn lines_of(command: &[&str], rest: &[String]) -> Vec<String> {
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    let text = docker_out(&[command, &rest].concat());
    text.lines().map(str::to_owned).collect()
}

#[track_caller]
pub fn assert_says(output: &Output, words: &str) {
    let said = text(output);
    assert!(said.contains(words), "not said: {words}\n{said}");
}

pub fn http(method: &str, url: &str, body: &str) -> String {
    let output = Command::new("curl")
        .args(["-fsS", "-X", method, url, "-d", body])
        .args(["-H", "Content-Type: application/json"])
        .output()
        .unwrap();
    assert_code(&output, 0);
    String::from_utf8(output.stdout).unwrap()
}

pub fn define_workflow(bench: &Bench) {
    let workflow = r#"{"name":"kept","version":1,"schemaVersion":2,"ownerEmail":"a@example.org",
        "tasks":[{"name":"t","taskReferenceName":"t","type":"SIMPLE"}]}"#;
    http("POST", &bench.url("/api/metadata/workflow"), workflow);
}

/// A workflow of two tasks, `first` and `second`, that a test does itself.
pub fn define_two_tasks(bench: &Bench, workflow: &str) {
    let task = |name: &str| {
        format!(
            r#"{{"name":"{name}","ownerEmail":"a@example.org","retryCount":0,
                "timeoutSeconds":3600,"responseTimeoutSeconds":3600}}"#
        )
    };
    let tasks = format!("[{},{}]", task("first"), task("second"));
    http("POST", &bench.url("/api/metadata/taskdefs"), &tasks);
    let definition = format!(
        r#"{{"name":"{workflow}","version":1,"schemaVersion":2,"ownerEmail":"a@example.org",
        "tasks":[{{"name":"first","taskReferenceName":"first","type":"SIMPLE"}},
                 {{"name":"second","taskReferenceName":"second","type":"SIMPLE"}}]}}"#
    );
    http("POST", &bench.url("/api/metadata/workflow"), &definition);
}

pub fn is_workflow_there(bench: &Bench) -> bool {
    let url = bench.url("/api/metadata/workflow/kept");
    Command::new("curl")
        .args(["-fsS", "-o", "/dev/null", &url])
        .status()
        .unwrap()
        .success()
}
