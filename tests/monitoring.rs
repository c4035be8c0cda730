//! A stack that is watched, with a real Docker engine: a real Prometheus reaches everything that it is told
//! to ask, and answers what every panel of every dashboard and every alert asks for.
//!
//! Grafana itself does not run here: no package has it that these tests could use. What it reads is checked by
//! Grafana's own types in `tests/deploy.rs`, and its Compose file by Compose.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

mod bench;

use bench::{
    Bench, assert_code, assert_says, define_two_tasks, docker, docker_out, http, testbed, text,
};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const SETTINGS: &str = "[server]\nheap = '512m'\n";

const WATCHING: [&str; 4] = [
    "postgres-exporter",
    "redis-exporter",
    "node-exporter",
    "prometheus",
];

const JOBS: [&str; 5] = ["conductor", "k1ops", "postgresql", "prometheus", "redis"];

/// Two scrapes, for rates, and what a busy host takes longer.
const SEEN_TWICE: Duration = Duration::from_secs(240);

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy/monitoring")
        .join(name)
}

fn with_monitoring(bench: &Bench, arguments: &[&str]) -> Command {
    let mut command = bench.command(arguments);
    for part in [
        "PROMETHEUS",
        "POSTGRES_EXPORTER",
        "REDIS_EXPORTER",
        "NODE_EXPORTER",
    ] {
        let image = format!("{part}_IMAGE");
        let variable = format!("K1OPS_DOCKER_MONITORING_{image}");
        command.env(variable, testbed(&image));
    }
    command.env("K1OPS_DOCKER_MONITORING_GRAFANA_IMAGE", "");
    command
}

#[test]
fn everything_is_reached_and_every_panel_shows_something() {
    let bench = Bench::with(SETTINGS);
    let run = |arguments: &[&str]| with_monitoring(&bench, arguments).output().unwrap();
    let started = run(&["start", "--with-monitoring"]);
    assert_code(&started, 0);
    let address = format!("http://127.0.0.1:{}", bench.others[2]);
    assert_says(&started, &format!("Prometheus is at {address}"));
    they_are_shut_and_well(&bench);
    work(&bench);
    assert_code(&run(&["schedule", "fire"]), 0);
    assert_code(&run(&["schedule", "check"]), 0);

    let prometheus = Prometheus(address);
    prometheus.reaches(&JOBS);
    prometheus.tells_what_panels_ask();
    prometheus.knows_every_rule(&["prometheus-alerts.yaml", "stack-alerts.yaml"]);
    the_exporters_role_sees_no_row(&bench);

    // It stays without being asked for again, and goes when that is asked for.
    let again = run(&["start", "--json"]);
    assert_code(&again, 0);
    let again: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(again["outcome"], "already_running");
    assert_code(&run(&["start", "--with-monitoring=false"]), 0);
    for name in WATCHING {
        let gone = docker(&["inspect", &bench.container(name)]);
        assert!(!gone.status.success(), "{}", text(&gone));
    }
    let kept = format!("{}_prometheus_data", bench.prefix);
    docker_out(&["volume", "inspect", &kept]);
    assert_code(&run(&["start", "--with-monitoring"]), 0);
    let stopped = bench.json(&["stop"], 0);
    let stopped = stopped["containers"].to_string();
    for name in WATCHING {
        assert!(stopped.contains(&bench.container(name)), "{stopped}");
    }
}

fn they_are_shut_and_well(bench: &Bench) {
    let status = bench.json(&["status"], 0);
    let services = status["docker"]["services"].as_array().unwrap();
    for name in WATCHING {
        let service = services.iter().find(|one| one["service"] == name);
        let service = service.unwrap_or_else(|| panic!("{name}: {services:#?}"));
        assert_eq!(service["health"], "healthy", "{service:#}");
        let ports: Vec<&Value> = service["ports"].as_array().unwrap().iter().collect();
        if name == "prometheus" {
            let port = format!("127.0.0.1:{}->9090/tcp", bench.others[2]);
            assert_eq!(ports, [port.as_str()]);
        } else {
            assert!(ports.is_empty(), "{ports:?}");
        }
        let container = docker_out(&["inspect", &bench.container(name)]);
        let container: Value = serde_json::from_str(&container).unwrap();
        let host = &container[0]["HostConfig"];
        assert_eq!(host["ReadonlyRootfs"], true, "{name}");
        assert_eq!(host["CapDrop"][0], "ALL", "{name}");
        assert!(host["Memory"].as_u64().unwrap() > 0, "{name}");
        let told = container[0]["Config"].to_string();
        for secret in ["monitor_password", "redis_exporter.json"] {
            let file = bench.docker_folder().join("secrets").join(secret);
            let secret = std::fs::read_to_string(file).unwrap();
            assert!(!told.contains(secret.trim()), "{name} shows a secret");
        }
    }
}

/// Workflows that end, and one that fails.
fn work(bench: &Bench) {
    define_two_tasks(bench, "pair");
    for _ in 0..3 {
        http("POST", &bench.url("/api/workflow/pair"), "{}");
    }
    for status in ["COMPLETED", "FAILED"] {
        let task = handed_out(bench, "first");
        let done = serde_json::json!({
            "taskId": task["taskId"],
            "workflowInstanceId": task["workflowInstanceId"],
            "status": status,
        });
        http("POST", &bench.url("/api/tasks"), &done.to_string());
    }
}

fn handed_out(bench: &Bench, kind: &str) -> Value {
    let deadline = Instant::now() + Duration::from_secs(120);
    let poll = bench.url(&format!("/api/tasks/poll/{kind}?workerid=test"));
    loop {
        // Nothing is said where none is there yet.
        if let Ok(task) = serde_json::from_str(&http("GET", &poll, "")) {
            return task;
        }
        assert!(Instant::now() < deadline, "no task {kind} is handed out");
        std::thread::sleep(Duration::from_millis(100));
    }
}

struct Prometheus(String);

impl Prometheus {
    fn get(&self, path: &str, query: &[(&str, &str)]) -> Value {
        let mut command = Command::new("curl");
        command.args(["-fsS", "--noproxy", "*", "-G"]);
        command.arg(format!("{}{path}", self.0));
        for (name, value) in query {
            command
                .arg("--data-urlencode")
                .arg(format!("{name}={value}"));
        }
        let output = command.output().unwrap();
        assert_code(&output, 0);
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        answer["data"].clone()
    }

    /// Every target is up, and there is one of each job at least.
    fn reaches(&self, jobs: &[&str]) {
        let begun = Instant::now();
        loop {
            let data = self.get("/api/v1/targets", &[]);
            let targets = data["activeTargets"].as_array().unwrap();
            let job = |target: &Value| target["labels"]["job"].as_str().unwrap().to_owned();
            let mut up: Vec<String> = targets
                .iter()
                .filter(|target| target["health"] == "up")
                .map(job)
                .collect();
            up.sort();
            up.dedup();
            if up == jobs && targets.iter().all(|target| target["health"] == "up") {
                return;
            }
            assert!(begun.elapsed() < SEEN_TWICE, "not up: {targets:#?}");
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    fn tells_what_panels_ask(&self) {
        let begun = Instant::now();
        let mut open = panels();
        assert!(open.len() > 60, "{}", open.len());
        while !open.is_empty() {
            open.retain(|(_, expression)| !self.has(expression));
            assert!(
                begun.elapsed() < SEEN_TWICE,
                "panels without a sample: {open:#?}"
            );
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    fn has(&self, expression: &str) -> bool {
        let data = self.get("/api/v1/query", &[("query", expression)]);
        !data["result"].as_array().unwrap().is_empty()
    }

    fn knows_every_rule(&self, files: &[&str]) {
        let data = self.get("/api/v1/rules", &[]);
        let groups = data["groups"].as_array().unwrap();
        let rules: Vec<&Value> = groups
            .iter()
            .flat_map(|group| group["rules"].as_array().unwrap())
            .collect();
        let written = files.iter().map(|file| {
            let text = std::fs::read_to_string(deploy(file)).unwrap();
            text.matches("- alert: ").count()
        });
        assert_eq!(rules.len(), written.sum::<usize>());
        let wrong = rules.iter().filter(|rule| rule["health"] == "err");
        assert_eq!(wrong.count(), 0, "{rules:#?}");
        let is_alarm =
            |rule: &&&Value| rule["state"] == "firing" && rule["labels"]["severity"] == "critical";
        let firing: Vec<&&Value> = rules.iter().filter(is_alarm).collect();
        assert!(firing.is_empty(), "a stack that is well: {firing:#?}");
    }
}

/// Title and expression of each panel, with Grafana's variables as they are for a short range. What of
/// the write-ahead log is told, is told where it is streamed; here it is not.
fn panels() -> Vec<(String, String)> {
    let files = std::fs::read_dir(deploy("dashboards")).unwrap();
    let mut panels = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let dashboard: Value = serde_json::from_str(&text).unwrap();
        for panel in dashboard["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().unwrap() {
                let title = format!("{}: {}", dashboard["title"], panel["title"]);
                let asked = target["expr"].as_str().unwrap();
                let asked = asked
                    .replace("$__rate_interval", "1m")
                    .replace("$stack", ".*");
                assert!(
                    !asked.contains('$'),
                    "a variable that is not known: {asked}"
                );
                panels.push((title, asked));
            }
        }
    }
    panels.retain(|(_, asked)| !asked.contains("k1ops_wal_"));
    panels
}

fn the_exporters_role_sees_no_row(bench: &Bench) {
    let file = bench.docker_folder().join("secrets/monitor_password");
    let password = std::fs::read_to_string(file).unwrap();
    let psql = |sql: &str| {
        Command::new("psql")
            .args(["-X", "-A", "-t", "-c", sql])
            .arg(format!(
                "postgres://k1_monitor@127.0.0.1:{}/conductor",
                bench.others[0]
            ))
            .env("PGPASSWORD", password.trim())
            .output()
            .unwrap()
    };
    let looks = psql("SELECT count(*) > 0 FROM pg_stat_activity WHERE state IS NOT NULL");
    assert_code(&looks, 0);
    assert_says(&looks, "t");
    for sql in [
        "SELECT count(*) FROM workflow",
        "SELECT count(*) FROM k1_agent_executions",
        "CREATE TABLE mine (i int)",
        "SELECT pg_read_file('/etc/passwd')",
    ] {
        assert_says(&psql(sql), "permission denied");
    }
}

/// Grafana's Compose file, judged by Compose, and that everything is there which it hands Grafana.
#[test]
fn grafana_is_described_as_shut_as_the_rest() {
    let bench = Bench::with("[docker.monitoring]\nrun = 'on'\n");
    assert_code(&bench.run(&["init"]), 0);
    let folder = bench.docker_folder();
    let output = Command::new("docker")
        .args(["compose", "config", "--format", "json"])
        .current_dir(&folder)
        .output()
        .unwrap();
    assert_code(&output, 0);
    let config: Value = serde_json::from_slice(&output.stdout).unwrap();
    let grafana = &config["services"]["grafana"];
    assert_eq!(grafana["image"], "grafana/grafana:12.2.0");
    assert_eq!(grafana["read_only"], true);
    assert_eq!(grafana["cap_drop"][0], "ALL");
    assert_eq!(grafana["ports"][0]["host_ip"], "127.0.0.1");
    let mounted = grafana["volumes"].as_array().unwrap().iter();
    let mounted: Vec<&str> = mounted
        .filter(|one| one["type"] == "bind")
        .map(|one| one["source"].as_str().unwrap())
        .collect();
    assert_eq!(mounted.len(), 2);
    for path in mounted {
        assert!(Path::new(path).is_dir(), "{path}");
    }
    for file in [
        "grafana/datasources/k1.yaml",
        "grafana/dashboards/k1.yaml",
        "dashboards/backups.json",
        "dashboards/conductor.json",
        "dashboards/postgresql.json",
        "dashboards/redis.json",
    ] {
        let written = std::fs::read(folder.join("monitoring").join(file)).unwrap();
        let ours = std::fs::read(deploy(file)).unwrap();
        assert!(written == ours, "{file} is another one");
    }
    for service in WATCHING {
        let file = config["services"][service]["environment"].to_string();
        assert!(!file.contains("PASSWORD\""), "{file}");
    }
}
