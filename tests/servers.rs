//! Several Conductor servers on one database, with a real Docker engine: servers are killed while
//! workflows run, started anew one by one while requests come, and taken away again. No workflow and
//! no task is done twice, and none is lost.
//!
//! `scripts/servers` runs the same longer, and with backups, restores and hardening on such a stack.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test may stop at the first surprise, and tells what it has counted"
)]

mod bench;

use bench::{Bench, assert_code, assert_says, define_workflow, docker, docker_out, http, text};
use k1ops::conductor::Client;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The tasks of each workflow.
const TASKS: [&str; 3] = ["first", "second", "third"];

const SETTINGS: &str = r#"
[server]
heap = "512m"
[agents.step]
shell = 'echo "$K1_WORKFLOW_ID $K1_TASK_ID" >> "$K1_TEST_LINES"'
"#;

/// How much is done.
struct Load {
    workflows: u64,
    /// The time over which they are started, and in which servers are killed.
    time: Duration,
    kills: u64,
    /// The shortest time between two kills.
    every: Duration,
    /// A server is killed when its time has come, also if the other one is not back yet.
    by_the_clock: bool,
}

impl Load {
    fn asked_for() -> Self {
        let seconds = |name: &str, usual| Duration::from_secs(number(name).unwrap_or(usual));
        Self {
            workflows: number("WORKFLOWS").unwrap_or(60),
            time: seconds("SECONDS", 30),
            kills: number("KILLS").unwrap_or(2),
            every: seconds("EVERY", 10),
            by_the_clock: number("BY_THE_CLOCK") == Some(1),
        }
    }
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(format!("K1OPS_TEST_SERVERS_{name}")).ok()?;
    Some(value.parse().unwrap())
}

fn is_long() -> bool {
    number("LONG") == Some(1)
}

#[test]
fn several_servers_carry_on_without_one_of_them() {
    let bench = Bench::with(SETTINGS);
    let started = bench.json(&["start", "--servers", "2"], 0);
    assert_eq!(started["health"]["state"], "up");
    two_stand_behind_a_balancer(&bench);
    define(&bench);
    define_workflow(&bench);
    let worker = Worker::of(&bench);
    servers_die(&bench, &Load::asked_for());
    if is_long() {
        all_servers_die(&bench);
    }
    worker.stop();
    anew_one_by_one(&bench);
    if is_long() {
        what_else_is_done_to_a_stack(&bench);
    }
    back_to_one(&bench);
}

/// The containers of the servers.
fn servers(bench: &Bench) -> Vec<String> {
    let filter = format!("label=com.docker.compose.project={}", bench.prefix);
    let service = "label=com.docker.compose.service=conductor-server";
    let names = docker_out(&[
        "ps",
        "-a",
        "--format",
        "{{.Names}}",
        "--filter",
        &filter,
        "--filter",
        service,
    ]);
    let mut names: Vec<String> = names.lines().map(str::to_owned).collect();
    names.sort();
    names
}

fn two_stand_behind_a_balancer(bench: &Bench) {
    let status = bench.json(&["status"], 0);
    let services = status["docker"]["services"].as_array().unwrap();
    let of = |service: &str| -> Vec<&Value> {
        services
            .iter()
            .filter(|s| s["service"] == service)
            .collect()
    };
    let both = of("conductor-server");
    assert_eq!(both.len(), 2, "{services:#?}");
    for server in both {
        assert_eq!(server["health"], "healthy");
        // They are reached through the balancer alone.
        assert_eq!(server["ports"].as_array().unwrap().len(), 0);
    }
    let balancer = of("balancer")[0];
    let port = format!("127.0.0.1:{}->8080/tcp", bench.port);
    assert_eq!(balancer["ports"][0], port.as_str());
    let host: Value =
        serde_json::from_str(&docker_out(&["inspect", &bench.container("balancer")])).unwrap();
    assert_eq!(host[0]["HostConfig"]["ReadonlyRootfs"], true);
    assert_eq!(host[0]["HostConfig"]["CapDrop"][0], "ALL");
    // Each has connections and a log of its own.
    let sessions = sql(
        bench,
        "SELECT count(DISTINCT client_addr) FROM pg_stat_activity WHERE application_name LIKE '%JDBC%'",
    );
    assert_eq!(sessions, "2");
    let first = &servers(bench)[0];
    let logs = docker_out(&["exec", first, "ls", "/app/logs"]);
    assert!(logs.contains("conductor-server.log") && logs.contains("conductor-server-2.log"));
    let said = bench.run(&["logs", "--lines", "2"]);
    assert_code(&said, 0);
    for server in servers(bench) {
        assert_says(&said, &format!("{server} | "));
    }
    assert_eq!(bench.json(&["start"], 0)["outcome"], "already_running");
    let too_many = bench.run(&["start", "--servers", "9"]);
    assert_code(&too_many, 2);
}

fn define(bench: &Bench) {
    // A task that was handed out by a server that died at that moment is known to nobody: it is tried
    // again when its time is up, which is soon here.
    let task = r#"[{"name":"step","ownerEmail":"a@example.org","retryCount":9,"retryLogic":"FIXED",
        "retryDelaySeconds":1,"timeoutSeconds":0,"responseTimeoutSeconds":20}]"#;
    http("POST", &bench.url("/api/metadata/taskdefs"), task);
    let tasks = TASKS
        .map(|name| format!(r#"{{"name":"step","taskReferenceName":"{name}","type":"SIMPLE"}}"#));
    let workflow = format!(
        r#"[{{"name":"chain","version":1,"schemaVersion":2,"ownerEmail":"a@example.org","tasks":[{}]}}]"#,
        tasks.join(",")
    );
    http("PUT", &bench.url("/api/metadata/workflow"), &workflow);
}

/// A `k1ops worker` in the background.
struct Worker(Child);

impl Worker {
    fn of(bench: &Bench) -> Self {
        let log = std::fs::File::create(bench.folder.path().join("worker.log")).unwrap();
        let child = bench
            .command(&["worker", "--jobs", "4"])
            .env("K1_TEST_LINES", bench.folder.path().join("lines"))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        Self(child.unwrap())
    }

    fn stop(mut self) {
        assert!(self.0.try_wait().unwrap().is_none(), "the worker has ended");
        let pid = self.0.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads from the API without a break, and counts what was not answered.
struct Reader {
    stop: Arc<AtomicBool>,
    counts: Arc<[AtomicU64; 2]>,
    longest: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl Reader {
    fn of(bench: &Bench) -> Self {
        let (stop, counts) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new([const { AtomicU64::new(0) }; 2]),
        );
        let longest = Arc::new(AtomicU64::new(0));
        let client = Client::new(bench.url("")).unwrap();
        let (own_stop, own_counts, own_longest) = (stop.clone(), counts.clone(), longest.clone());
        let thread = std::thread::spawn(move || {
            runtime().block_on(async {
                let mut well = Instant::now();
                while !own_stop.load(Ordering::Relaxed) {
                    let asked = client.probe("/api/metadata/taskdefs", Duration::from_secs(30));
                    let is_well = matches!(asked.await, Ok((200, _)));
                    own_counts[usize::from(is_well)].fetch_add(1, Ordering::Relaxed);
                    let gap = u64::try_from(well.elapsed().as_millis()).unwrap();
                    own_longest.fetch_max(gap, Ordering::Relaxed);
                    if is_well {
                        well = Instant::now();
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            });
        });
        Self {
            stop,
            counts,
            longest,
            thread,
        }
    }

    /// What was not answered, what was, and the longest time without an answer in seconds.
    fn stop(self) -> (u64, u64, f64) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        let count = |at: usize| self.counts[at].load(Ordering::Relaxed);
        let longest = Duration::from_millis(self.longest.load(Ordering::Relaxed));
        (count(0), count(1), longest.as_secs_f64())
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn servers_die(bench: &Bench, load: &Load) {
    let begun = Instant::now();
    let reader = Reader::of(bench);
    let starter = Starter::of(bench, load);
    let kills = kill_one_after_the_other(bench, load);
    let ids = starter.thread.join().unwrap();
    all_end(bench, &ids, Duration::from_secs(900));
    let took = begun.elapsed().as_secs_f64();
    let (unanswered, answered, longest) = reader.stop();
    eprintln!(
        "{} workflows, {kills} kills, {took:.0} s; of {} reads {unanswered} unanswered, \
         at most {longest:.1} s between two answers",
        load.workflows,
        unanswered + answered,
    );
    assert!(kills > 0);
    each_was_done_once(bench, load.workflows);
    if load.by_the_clock {
        all_healthy(bench);
    } else {
        assert_eq!(unanswered, 0, "a server was there all the time");
    }
}

/// In turn, and unless it goes by the clock none while another one is not back yet.
fn kill_one_after_the_other(bench: &Bench, load: &Load) -> u64 {
    let begun = Instant::now();
    let mut kills = 0;
    while kills < load.kills {
        let all = servers(bench);
        if load.by_the_clock {
            let due = load.every * u32::try_from(kills + 1).unwrap();
            if due > load.time {
                break;
            }
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
        } else {
            std::thread::sleep(load.every);
            all_healthy(bench);
            all_used(bench);
            // The first one is killed however slow the host is.
            if kills > 0 && number("SECONDS").is_some() && begun.elapsed() > load.time {
                break;
            }
        }
        let victim = &all[usize::try_from(kills).unwrap() % all.len()];
        if load.by_the_clock {
            let states: Vec<_> = all.iter().map(|server| health(server)).collect();
            let seconds = begun.elapsed().as_secs();
            eprintln!("{seconds} s: {victim} is killed; {}", states.join(", "));
        }
        kill(victim);
        kills += 1;
    }
    kills
}

/// Nobody is there for a while, and what was begun comes to its end all the same.
fn all_servers_die(bench: &Bench) {
    let load = Load {
        workflows: 20,
        time: Duration::from_secs(10),
        ..Load::asked_for()
    };
    let before = number_of_runs(bench);
    let starter = Starter::named(bench, &load, "both");
    std::thread::sleep(load.time / 2);
    for server in servers(bench) {
        kill(&server);
    }
    let ids = starter.thread.join().unwrap();
    all_end(bench, &ids, Duration::from_secs(900));
    eprintln!(
        "both killed at once: {} workflows, {} runs of agents",
        ids.len(),
        number_of_runs(bench) - before
    );
    assert_eq!(number_of_runs(bench) - before, ids.len() * TASKS.len());
    all_healthy(bench);
}

fn number_of_runs(bench: &Bench) -> usize {
    let lines = std::fs::read_to_string(bench.folder.path().join("lines")).unwrap();
    lines.lines().count()
}

/// Starts workflows, spread over the time in which servers are killed.
struct Starter {
    thread: std::thread::JoinHandle<Vec<String>>,
}

impl Starter {
    fn of(bench: &Bench, load: &Load) -> Self {
        Self::named(bench, load, "run")
    }

    fn named(bench: &Bench, load: &Load, run: &'static str) -> Self {
        let client = Client::new(bench.url("")).unwrap();
        let count = load.workflows;
        let pause = load.time / u32::try_from(count).unwrap();
        let thread = std::thread::spawn(move || {
            runtime().block_on(async {
                let (mut ids, nothing) = (Vec::new(), Map::new());
                for number in 0..count {
                    let name = format!("{run}-{number}");
                    let started = client.start_workflow_once("chain", 1, &name, &nothing);
                    ids.push(started.await.unwrap());
                    tokio::time::sleep(pause).await;
                }
                ids
            })
        });
        Self { thread }
    }
}

/// As a crash would: the engine is not told. `docker kill` would keep it from being started again.
fn kill(container: &str) {
    let pid = docker_out(&["inspect", "--format", "{{.State.Pid}}", container]);
    let pid = pid.trim();
    // Between two starts there is none.
    if pid == "0" {
        return;
    }
    let kill = |command: &str, arguments: &[&str]| {
        let output = Command::new(command)
            .args(arguments)
            .args(["-KILL", pid])
            .output();
        output.is_ok_and(|output| output.status.success())
    };
    assert!(
        kill("kill", &[]) || kill("sudo", &["-n", "kill"]),
        "{container} (PID {pid}) cannot be killed"
    );
}

fn health(container: &str) -> String {
    let said = docker_out(&["inspect", "--format", "{{.State.Health.Status}}", container]);
    said.trim().to_owned()
}

fn all_healthy(bench: &Bench) {
    for server in servers(bench) {
        until_healthy(&server);
    }
}

/// The balancer looks for itself, and may find out a moment later that a server is well again.
fn all_used(bench: &Bench) {
    let (balancer, all) = (bench.container("balancer"), servers(bench).len());
    let ask = ["exec", &balancer, "sh", "/usr/local/etc/haproxy/ask.sh"];
    let begun = Instant::now();
    loop {
        let said = docker_out(&[&ask[..], &["show stat"]].concat());
        let up = said.lines().filter(|line| {
            line.starts_with("conductor,conductor-")
                && line.split(',').nth(17).is_some_and(|s| s.starts_with("UP"))
        });
        if up.count() == all {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{said}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn until_healthy(container: &str) {
    let begun = Instant::now();
    while health(container) != "healthy" {
        assert!(
            begun.elapsed() < Duration::from_secs(400),
            "{container} is not healthy"
        );
        std::thread::sleep(Duration::from_millis(300));
    }
}

fn all_end(bench: &Bench, ids: &[String], limit: Duration) {
    let begun = Instant::now();
    let open = "SELECT count(*) FROM workflow WHERE (correlation_id LIKE 'run-%' OR correlation_id LIKE 'both-%')
        AND json_data::jsonb ->> 'status' = 'RUNNING'";
    while sql(bench, open) != "0" {
        assert!(
            begun.elapsed() < limit,
            "of {} workflows {} do not end: {}",
            ids.len(),
            sql(bench, open),
            sql(
                bench,
                &open.replace("count(*)", "string_agg(workflow_id, ' ')")
            )
        );
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// What the database, the agents' own lines and the K1 tables say.
fn each_was_done_once(bench: &Bench, workflows: u64) {
    let tasks = workflows * TASKS.len() as u64;
    let completed = "SELECT count(*) FROM workflow WHERE correlation_id LIKE 'run-%'
        AND json_data::jsonb ->> 'status' = 'COMPLETED'";
    assert_eq!(sql(bench, completed), workflows.to_string());
    let all = "SELECT count(*) || ' ' || count(DISTINCT correlation_id) FROM workflow
        WHERE correlation_id LIKE 'run-%'";
    assert_eq!(
        sql(bench, all),
        format!("{workflows} {workflows}"),
        "started twice"
    );
    let done =
        "SELECT count(*) || ' ' || count(DISTINCT (json_data::jsonb ->> 'workflowInstanceId',
            json_data::jsonb ->> 'referenceTaskName'))
        FROM task WHERE json_data::jsonb ->> 'status' = 'COMPLETED'
        AND json_data::jsonb ->> 'taskType' = 'step'";
    assert_eq!(
        sql(bench, done),
        format!("{tasks} {tasks}"),
        "recorded twice"
    );
    let lines = std::fs::read_to_string(bench.folder.path().join("lines")).unwrap();
    let mut runs: HashMap<&str, u64> = HashMap::new();
    for line in lines.lines() {
        *runs.entry(line).or_default() += 1;
    }
    let repeated: Vec<_> = runs.iter().filter(|(_, count)| **count > 1).collect();
    let tries = "SELECT count(*) FROM task WHERE json_data::jsonb ->> 'taskType' = 'step'
        AND json_data::jsonb ->> 'status' <> 'COMPLETED'";
    let rows = "SELECT count(*) FROM k1_agent_executions WHERE status = 'COMPLETED'";
    eprintln!(
        "{tasks} tasks: {} runs of agents, {} of them repeated, {} rows of completed runs, \
         {} tries that no worker was told of",
        lines.lines().count(),
        repeated.len(),
        sql(bench, rows),
        sql(bench, tries)
    );
    assert_eq!(runs.len() as u64, tasks);
    assert!(repeated.is_empty(), "agents ran twice: {repeated:?}");
    assert_eq!(sql(bench, rows), tasks.to_string());
}

/// Requests that change something come without a break, each once, and none fails.
fn anew_one_by_one(bench: &Bench) {
    let before = servers(bench)
        .iter()
        .map(|name| docker_out(&["inspect", "--format", "{{.Id}}", name]))
        .collect::<Vec<_>>();
    let reader = Reader::of(bench);
    let stop = Arc::new(AtomicBool::new(false));
    let client = Client::new(bench.url("")).unwrap();
    let own_stop = stop.clone();
    let writer = std::thread::spawn(move || {
        runtime().block_on(async {
            let (mut number, nothing) = (0, Map::new());
            while !own_stop.load(Ordering::Relaxed) {
                let name = format!("kept-{number}");
                let started = client.start_workflow("kept", 1, &name, &nothing);
                started.await.unwrap();
                number += 1;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            number
        })
    });
    let rolled = bench.run(&["start", "--rolling"]);
    stop.store(true, Ordering::Relaxed);
    let written = writer.join().unwrap();
    let (unanswered, answered, longest) = reader.stop();
    assert_code(&rolled, 0);
    eprintln!(
        "rolling: {written} writes and {answered} reads answered, {unanswered} not, \
         at most {longest:.1} s between two answers"
    );
    assert_eq!(unanswered, 0);
    let found = "SELECT count(*) FROM workflow WHERE correlation_id LIKE 'kept-%'";
    assert_eq!(sql(bench, found), written.to_string());
    for server in servers(bench) {
        let id = docker_out(&["inspect", "--format", "{{.Id}}", &server]);
        assert!(!before.contains(&id), "{server} was not started anew");
    }
    bench.json(&["status"], 0);
}

/// What is done to a stack with one server works with several.
fn what_else_is_done_to_a_stack(bench: &Bench) {
    let kept = "SELECT count(*) FROM workflow WHERE correlation_id LIKE 'kept-%'";
    let before = sql(bench, kept);
    assert_code(&bench.run(&["start", "--servers", "3"]), 0);
    assert_eq!(servers(bench).len(), 3);
    assert_code(&bench.run(&["start", "--servers", "2"]), 0);
    assert_eq!(servers(bench).len(), 2);
    assert_eq!(sql(bench, kept), before);

    assert_code(&bench.run(&["backup"]), 0);
    sql(
        bench,
        "DELETE FROM workflow WHERE correlation_id LIKE 'kept-%'",
    );
    let restored = bench.run(&["restore", "latest", "--yes"]);
    assert_code(&restored, 0);
    assert_code(&bench.run(&["start"]), 0);
    assert_eq!(servers(bench).len(), 2);
    assert_eq!(sql(bench, kept), before);
    assert_code(&bench.run(&["undo", "--yes"]), 0);
    assert_code(&bench.run(&["start"]), 0);
    assert_eq!(sql(bench, kept), "0");
    assert_code(&bench.run(&["drill"]), 0);

    assert_code(&bench.run(&["harden", "--yes"]), 0);
    assert_code(&bench.run(&["harden", "--rotate-passwords", "--yes"]), 0);
    assert_eq!(servers(bench).len(), 2);
    bench.json(&["status"], 0);
    let doctor = bench.run(&["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&doctor.stdout).unwrap();
    for check in ["ports", "containers", "exposure", "images", "conductor"] {
        let checks = report["checks"].as_array().unwrap();
        let found = checks.iter().find(|one| one["check"] == check);
        assert!(
            found.is_some_and(|one| one["state"] == "well"),
            "{check}: {found:?} {}",
            report["findings"]
        );
    }
    assert_code(&bench.run(&["harden", "--undo", "--yes"]), 0);
    assert_code(&bench.run(&["stop"]), 0);
    assert_code(&bench.run(&["start"]), 0);
    assert_eq!(servers(bench).len(), 2);
}

fn back_to_one(bench: &Bench) {
    let id = http("POST", &bench.url("/api/workflow/kept"), "{}");
    // As many as there are, unless another number is asked for.
    let one = bench.json(&["start", "--servers", "1"], 0);
    let containers = one["server"]["containers"].to_string();
    assert!(
        containers.contains(&bench.container("server")),
        "{containers}"
    );
    assert_eq!(servers(bench), [bench.container("server")]);
    let gone = docker(&["inspect", &bench.container("balancer")]);
    assert!(!gone.status.success(), "{}", text(&gone));
    let kept = http(
        "GET",
        &bench.url(&format!("/api/workflow/{}", id.trim())),
        "",
    );
    assert!(kept.contains("RUNNING"), "{kept}");
    let refused = bench.run(&["start", "--rolling"]);
    assert_code(&refused, 2);
    let stopped = bench.json(&["stop"], 0);
    assert_eq!(stopped["containers"].as_array().unwrap().len(), 3);
}

fn sql(bench: &Bench, statement: &str) -> String {
    let container = bench.container("postgres");
    let words = [
        "exec",
        &container,
        "psql",
        "-X",
        "-A",
        "-t",
        "-q",
        "-U",
        "conductor",
        "-c",
    ];
    docker_out(&[&words[..], &[statement]].concat())
        .trim()
        .to_owned()
}
