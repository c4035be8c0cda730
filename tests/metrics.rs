//! `k1ops metrics`, judged by Prometheus itself: its checker of metrics and rules, and a server that
//! scrapes.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

mod patience;
mod scratch;

use patience::until;
use scratch::{Scratch, fill};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Everything that is told of a stack on which everything was done once.
const NAMES: [&str; 18] = [
    "k1ops_archives",
    "k1ops_archives_size_bytes",
    "k1ops_backup_proven_timestamp_seconds",
    "k1ops_backup_rows",
    "k1ops_backup_size_bytes",
    "k1ops_backup_timestamp_seconds",
    "k1ops_copy_archives",
    "k1ops_copy_missing",
    "k1ops_copy_up",
    "k1ops_drill_recovery_seconds",
    "k1ops_drill_success",
    "k1ops_drill_timestamp_seconds",
    "k1ops_repository_free_bytes",
    "k1ops_run_duration_seconds",
    "k1ops_run_good_timestamp_seconds",
    "k1ops_run_success",
    "k1ops_run_timestamp_seconds",
    "k1ops_stack_up",
];

/// What is told besides where the write-ahead log is kept.
const OF_THE_LOG: [&str; 2] = [
    "k1ops_wal_received_timestamp_seconds",
    "k1ops_wal_streaming",
];

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy/monitoring")
        .join(name)
}

/// A stack with a scheduled run and a drill behind it.
fn busy_stack() -> Scratch {
    let scratch = Scratch::new();
    fill(&scratch.db("k1"), 12);
    std::fs::create_dir(scratch.path().join("far")).unwrap();
    let text = "tier = 'jar'\n[metrics]\ntextfile = 'node/k1ops.prom'\n\
        [[repository.copies]]\nname = 'far'\npath = 'far'\n";
    std::fs::write(scratch.path().join("k1ops.toml"), text).unwrap();
    scratch.run(&["schedule", "fire"]).done();
    scratch
}

fn promtool(arguments: &[&str], input: &str) -> String {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}");
    said
}

/// Words that look like the names of our metrics.
fn names_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words
        .filter(|word| word.starts_with("k1ops_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn everything_that_was_done_is_told_and_prometheus_takes_it() {
    let scratch = busy_stack();
    let told = scratch.run(&["metrics"]).done().out;
    assert_eq!(promtool(&["check", "metrics"], &told), "");
    let names: BTreeSet<&str> = told
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split('{').next().unwrap())
        .collect();
    assert_eq!(names, BTreeSet::from(NAMES));
    assert!(
        told.contains("k1ops_backup_rows{stack=\"k1\"} 12.0\n"),
        "{told}"
    );
    assert!(
        told.contains("k1ops_archives{stack=\"k1\",state=\"good\"} 1.0\n"),
        "{told}"
    );
    assert!(
        told.contains("k1ops_run_success{stack=\"k1\"} 1.0\n"),
        "{told}"
    );

    let of_the_copy = |told: &str, name: &str, value: &str| {
        let line = format!("k1ops_copy_{name}{{stack=\"k1\",copy=\"far\"}} {value}\n");
        assert!(told.contains(&line), "{line}{told}");
    };
    of_the_copy(&told, "up", "1.0");
    of_the_copy(&told, "archives", "1.0");
    of_the_copy(&told, "missing", "0.0");

    // The run has left the file for the collector, which is another user.
    let file = scratch.path().join("node/k1ops.prom");
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
    promtool(
        &["check", "metrics"],
        &std::fs::read_to_string(&file).unwrap(),
    );
    std::fs::remove_dir_all(scratch.data()).unwrap();
    scratch.run(&["schedule", "fire"]).failed(3, "no data");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("k1ops_run_success{stack=\"k1\"} 0.0\n"),
        "{text}"
    );
    // What is away has no archives that could be counted.
    std::fs::remove_dir_all(scratch.path().join("far")).unwrap();
    let other = scratch.path().join("other.prom");
    scratch.run(&["metrics", "--output", "other.prom"]).done();
    let told = std::fs::read_to_string(&other).unwrap();
    of_the_copy(&told, "up", "0.0");
    assert!(!told.contains("k1ops_copy_archives"), "{told}");
    let json = scratch.run(&["metrics", "--json"]).done().json();
    assert_eq!(json["stack"], "k1");
}

#[test]
fn rules_and_dashboard_ask_for_what_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("prometheus-alerts.yaml");
    std::fs::copy(deploy("prometheus-alerts.yaml"), &rules).unwrap();
    let tests =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/prometheus-alerts-test.yaml");
    let beside = folder.path().join("test.yaml");
    std::fs::copy(tests, &beside).unwrap();
    assert!(promtool(&["check", "rules", rules.to_str().unwrap()], "").contains("12 rules"));
    promtool(&["test", "rules", beside.to_str().unwrap()], "");
    let known = NAMES.iter().chain(&OF_THE_LOG);
    let known: BTreeSet<String> = known.map(|name| (*name).to_owned()).collect();
    let rules = std::fs::read_to_string(rules).unwrap();
    assert!(names_in(&rules).is_subset(&known), "{:?}", names_in(&rules));
    let dashboard = std::fs::read_to_string(deploy("dashboards/backups.json")).unwrap();
    let shown: Value = serde_json::from_str(&dashboard).unwrap();
    let asked: Vec<&str> = shown["panels"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap())
        .map(|target| target["expr"].as_str().unwrap())
        .collect();
    assert!(asked.len() >= 10);
    let names = names_in(&asked.join(" "));
    assert!(!names.is_empty() && names.is_subset(&known), "{names:?}");
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_real_prometheus_scrapes_it_and_knows_the_alarms() {
    let scratch = busy_stack();
    let mut server = Command::new(env!("CARGO_BIN_EXE_k1ops"));
    server
        .args(["metrics", "serve", "--listen", "127.0.0.1:0"])
        .current_dir(scratch.path())
        .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut server = Running(server.spawn().unwrap());
    let mut first = String::new();
    let mut said = BufReader::new(server.0.stderr.take().unwrap());
    said.read_line(&mut first).unwrap();
    let address = first.trim().rsplit_once("http://").unwrap().1;
    let address = address.trim_end_matches("/metrics").to_owned();
    assert!(get(&address, "/other").contains(" 404 Not Found"));
    scratch
        .run(&["metrics", "serve", "--listen", &address])
        .failed(3, "cannot be used");

    let (prometheus, _own) = prometheus(scratch.path(), &address);
    // A scrape that came too late on a busy host takes everything away until the next one.
    let is_up = "up%7Bjob%3D%22k1ops%22%7D%20%3D%3D%201";
    until("it is up", || count(&ask(&prometheus, is_up)) == 1);
    for name in NAMES {
        let what = format!("{name} is scraped");
        until(&what, || count(&ask(&prometheus, name)) > 0);
    }
    until("the rows are those of the backup", || {
        ask(&prometheus, "k1ops_backup_rows")[0]["value"][1] == "12"
    });
    let rules = get(&prometheus, "/api/v1/rules");
    assert!(rules.contains("K1BackupMissing") && rules.contains("K1DrillFailed"));
    // The stack has no server, which the first evaluation finds.
    let alarm = "ALERTS%7Balertname%3D%22K1StackDown%22%7D";
    until("the alarm is known", || count(&ask(&prometheus, alarm)) > 0);

    let pid = rustix::process::Pid::from_child(&server.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(server.0.wait().unwrap().success());
}

/// A Prometheus that scrapes `address` every few seconds and has our rules, once it has scraped.
fn prometheus(folder: &Path, address: &str) -> (String, Running) {
    let port = k1ops::adapters::port::any_free().unwrap();
    let rules = deploy("prometheus-alerts.yaml").display().to_string();
    let config = format!(
        "global: {{scrape_interval: 3s, evaluation_interval: 1s}}\nrule_files: ['{rules}']\n\
         scrape_configs: [{{job_name: k1ops, static_configs: [{{targets: ['{address}']}}]}}]\n"
    );
    std::fs::write(folder.join("prometheus.yml"), config).unwrap();
    let own = format!("127.0.0.1:{port}");
    let process = Command::new("prometheus")
        .args(["--config.file=prometheus.yml", "--storage.tsdb.path=tsdb"])
        .arg(format!("--web.listen-address={own}"))
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let process = Running(process);
    until("Prometheus has scraped", || {
        TcpStream::connect(&own).is_ok() && count(&ask(&own, "k1ops_stack_up")) > 0
    });
    (own, process)
}

fn ask(prometheus: &str, query: &str) -> Value {
    let answer = get(prometheus, &format!("/api/v1/query?query={query}"));
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    let answer: Value = serde_json::from_str(body).unwrap_or_default();
    let found = answer["data"]["result"].clone();
    if found.is_null() {
        Value::Array(Vec::new())
    } else {
        found
    }
}

fn count(found: &Value) -> usize {
    found.as_array().map_or(0, Vec::len)
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
