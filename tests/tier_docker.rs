//! Tier 1 on a real Docker engine: from nothing to healthy, and what goes wrong on the way.
//!
//! The only doubles are two sockets:
//! one that takes a connection and never answers, for an engine that hangs, and one that passes
//! everything on to the real engine until it dies in the middle.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise, in its helpers as well"
)]

mod bench;

use bench::{
    Bench, assert_code, assert_says, define_workflow, docker_out, is_workflow_there, lines_of,
    testbed, text,
};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// No password is where others can see it, and no port is open to others.
fn assert_safe(bench: &Bench) {
    use std::os::unix::fs::PermissionsExt;
    let secrets = bench.docker_folder().join("secrets");
    for entry in std::fs::read_dir(&secrets).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let password = std::fs::read_to_string(secrets.join("postgres_password")).unwrap();
    let redis = std::fs::read_to_string(secrets.join("redis.conf")).unwrap();
    let redis = redis
        .lines()
        .find(|l| l.starts_with("requirepass "))
        .unwrap();
    let redis = redis.split(' ').next_back().unwrap();
    for name in ["postgres", "redis", "server"] {
        let name = bench.container(name);
        let shown = docker_out(&["inspect", &name]) + &docker_out(&["logs", &name]);
        assert!(
            !shown.contains(&password) && !shown.contains(redis),
            "{name}"
        );
        let inspected: Value = serde_json::from_str(&docker_out(&["inspect", &name])).unwrap();
        let host = &inspected[0]["HostConfig"];
        assert_eq!(host["ReadonlyRootfs"], true, "{name}");
        assert_eq!(host["CapDrop"][0], "ALL", "{name}");
        for bindings in host["PortBindings"].as_object().unwrap().values() {
            assert_eq!(bindings[0]["HostIp"], "127.0.0.1", "{name}");
        }
    }
    let who = docker_out(&["exec", &bench.container("server"), "id", "-u"]);
    assert_ne!(who.trim(), "0");
    for file in [".env", "docker-compose.yaml"] {
        let text = std::fs::read_to_string(bench.docker_folder().join(file)).unwrap();
        assert!(!text.contains(&password), "{file}");
    }
}

#[test]
fn from_nothing_to_healthy_and_a_workflow_outlives_a_stop() {
    let bench = Bench::new();
    let started = bench.json(&["start"], 0);
    assert_eq!(started["tier"], "docker");
    assert_eq!(started["outcome"], "started");
    assert_eq!(started["health"]["state"], "up");
    assert_safe(&bench);
    define_workflow(&bench);

    let status = bench.json(&["status"], 0);
    let services = status["docker"]["services"].as_array().unwrap();
    assert_eq!(services.len(), 3);
    for service in services {
        assert_eq!(service["health"], "healthy");
        assert!(service["usage"]["memory"].as_u64().unwrap() > 1 << 20);
        assert!(service["uptime_seconds"].as_i64().is_some());
    }
    let volumes = status["docker"]["volumes"].as_array().unwrap();
    let data = format!("{}_postgres_data", bench.prefix);
    let data = volumes.iter().find(|v| v["name"] == data.as_str()).unwrap();
    assert!(data["size_bytes"].as_u64().unwrap() > 1 << 20);
    let log = bench.run(&["logs", "server", "--lines", "5"]);
    assert_code(&log, 0);
    assert_eq!(String::from_utf8_lossy(&log.stdout).lines().count(), 5);
    let kept = [&bench.container("server"), "head", "-c", "200"].map(str::to_owned);
    let kept = [&kept[..], &["/app/logs/conductor-server.log".to_owned()]].concat();
    assert!(!lines_of(&["exec"], &kept).is_empty());

    assert_eq!(bench.json(&["start"], 0)["outcome"], "already_running");

    let stopped = bench.json(&["stop"], 0);
    assert_eq!(stopped["containers"][0], bench.container("server").as_str());
    assert_eq!(bench.json(&["status"], 1)["server"]["state"], "stopped");
    assert!(
        bench
            .left()
            .iter()
            .any(|name| name.ends_with("_postgres_data"))
    );

    // Containers can be lost; what is in the volumes is not, nor is it after the password is.
    for name in ["postgres", "redis", "server"] {
        docker_out(&["rm", "-f", &bench.container(name)]);
    }
    std::fs::remove_dir_all(bench.docker_folder().join("secrets")).unwrap();
    bench.json(&["start"], 0);
    assert!(is_workflow_there(&bench));
}

#[test]
fn compose_v1_brings_it_up_as_well() {
    let compose = testbed("COMPOSE_V1");
    let bench = Bench::with(&format!("[docker]\ncompose = '{compose}'"));
    let started = bench.json(&["start"], 0);
    assert_eq!(started["health"]["state"], "up");
    define_workflow(&bench);
    bench.json(&["stop"], 0);
    bench.json(&["start"], 0);
    assert!(is_workflow_there(&bench));
}

#[test]
fn a_server_that_dies_is_named_and_nothing_is_left() {
    let bench = Bench::with("[server]\nheap = '1x'");
    let output = bench.run(&["start"]);
    assert_code(&output, 2);
    assert_says(&output, "conductor-server");
    assert_says(&output, "does not accept its memory settings");
    assert_says(&output, "Invalid maximum heap size");
    assert_eq!(bench.left(), [] as [&str; 0]);
}

#[test]
fn a_build_that_fails_shows_its_last_lines_and_an_edited_file_stays() {
    let bench = Bench::new();
    assert_code(&bench.run(&["init"]), 0);
    let dockerfile = bench.docker_folder().join("server/Dockerfile");
    let base = testbed("JAVA_IMAGE");
    let edited = format!("FROM {base}\nRUN echo the last words && exit 7\n");
    std::fs::write(&dockerfile, &edited).unwrap();
    let output = bench.run(&["start"]);
    assert_code(&output, 1);
    assert_says(&output, "the last words");
    assert_says(&output, "returned a non-zero code: 7");
    assert_says(&output, "was edited and is used as it is");
    assert_eq!(bench.left(), [] as [&str; 0]);

    let output = bench.run(&["init"]);
    assert_code(&output, 6);
    assert_says(&output, "-RUN echo the last words");
    assert_eq!(std::fs::read_to_string(&dockerfile).unwrap(), edited);
    assert_code(&bench.run(&["init", "--yes"]), 0);
    assert_ne!(std::fs::read_to_string(&dockerfile).unwrap(), edited);
}

#[test]
fn a_taken_port_is_named_before_anything_is_started() {
    let bench = Bench::new();
    let _holder = TcpListener::bind(("127.0.0.1", bench.others[1])).unwrap();
    let output = bench.run(&["start"]);
    assert_code(&output, 3);
    assert_says(
        &output,
        &format!("port {}, wanted for redis", bench.others[1]),
    );
    assert_says(&output, &format!("PID {}", std::process::id()));
    assert_eq!(bench.left(), [] as [&str; 0]);

    // Left to itself it goes on with what is left, and says why.
    let output = bench
        .command(&["start"])
        .env("K1OPS_TIER", "auto")
        .env("K1OPS_SERVER_JAVA", "/no/such/java")
        .output()
        .unwrap();
    assert_code(&output, 1);
    assert_says(&output, "tier 1 (docker) is passed over: port");
    assert_says(&output, "tier 2 (jar) is passed over");
}

#[test]
fn a_volume_of_another_major_version_is_refused_and_untouched() {
    let bench = Bench::new();
    let volume = format!("{}_postgres_data", bench.prefix);
    docker_out(&["volume", "create", &volume]);
    let mount = format!("{volume}:/var/lib/postgresql/data");
    let image = testbed("POSTGRES_IMAGE");
    let write = "echo 14 > /var/lib/postgresql/data/PG_VERSION";
    let run = ["run", "--rm", "--entrypoint", "sh", "-v", &mount, &image];
    docker_out(&[&run[..], &["-c", write]].concat());
    let output = bench.run(&["start"]);
    assert_code(&output, 4);
    assert_says(&output, "belongs to PostgreSQL 14");
    let read = "cat /var/lib/postgresql/data/PG_VERSION";
    assert_eq!(docker_out(&[&run[..], &["-c", read]].concat()), "14\n");
    assert_eq!(bench.left(), [volume]);
}

/// A volume on a small file system of its own: the database has no room to be made.
#[test]
fn a_full_disk_is_named_and_nothing_is_left() {
    let bench = Bench::new();
    let volume = format!("{}_postgres_data", bench.prefix);
    let small = [
        "--opt",
        "type=tmpfs",
        "--opt",
        "device=tmpfs",
        "--opt",
        "o=size=24m",
    ];
    docker_out(&[&["volume", "create"][..], &small, &[&volume]].concat());
    let output = bench.run(&["start"]);
    assert_code(&output, 3);
    assert_says(&output, "the disk is full");
    assert_eq!(bench.left(), [volume]);
}

#[test]
fn an_engine_that_hangs_is_said_to_hang() {
    let bench = Bench::new();
    let socket = bench.folder.path().join("docker.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let output = bench
        .command(&["start"])
        .env("DOCKER_HOST", format!("unix://{}", socket.display()))
        .output()
        .unwrap();
    assert_code(&output, 3);
    assert_says(&output, "it hangs");
}

/// How an engine ends in the middle of a start.
#[derive(Clone, Copy, PartialEq)]
enum Ending {
    Killed,
    Hanging,
}

/// A socket that passes everything on to the real engine until `POST .../start` was asked of it.
fn dying_engine(socket: &Path, ending: Ending) {
    let listener = UnixListener::bind(socket).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let place = socket.to_owned();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let Ok(client) = client else { return };
            if over.load(Ordering::SeqCst) {
                if ending == Ending::Killed {
                    return;
                }
                // Kept open and never answered.
                std::mem::forget(client);
                continue;
            }
            let engine = UnixStream::connect("/var/run/docker.sock").unwrap();
            pass_on(
                &client,
                &engine,
                Some((over.clone(), ending, place.clone())),
            );
            pass_on(&engine, &client, None);
        }
    });
}

fn pass_on(from: &UnixStream, to: &UnixStream, end: Option<(Arc<AtomicBool>, Ending, PathBuf)>) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    std::thread::spawn(move || {
        let mut part = vec![0; 1 << 16];
        while let Ok(n @ 1..) = from.read(&mut part) {
            let said = String::from_utf8_lossy(&part[..n.min(200)]).into_owned();
            let starts = said.starts_with("POST ")
                && said
                    .lines()
                    .next()
                    .is_some_and(|line| line.contains("/start"));
            if let Some((over, ending, place)) = &end
                && starts
            {
                over.store(true, Ordering::SeqCst);
                match ending {
                    Ending::Killed => {
                        let _ = std::fs::remove_file(place);
                        let _ = UnixStream::connect(place);
                        let _ = from.shutdown(std::net::Shutdown::Both);
                        return;
                    }
                    Ending::Hanging => loop {
                        std::thread::park();
                    },
                }
            }
            if to.write_all(&part[..n]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
}

fn start_on_a_dying_engine(ending: Ending) {
    let bench = Bench::new();
    let socket = bench.folder.path().join("docker.sock");
    dying_engine(&socket, ending);
    let begun = Instant::now();
    let output = bench
        .command(&["start"])
        .env("DOCKER_HOST", format!("unix://{}", socket.display()))
        .output()
        .unwrap();
    assert!(begun.elapsed() < Duration::from_secs(900), "it never ended");
    assert!(
        matches!(output.status.code(), Some(1 | 3)),
        "{}",
        text(&output)
    );
    assert_says(&output, "could not all be taken down");
    // The engine is back, with half a stack: the next start makes it whole.
    assert!(!bench.left().is_empty());
    assert_code(&bench.run(&["start", "--wait=false"]), 0);
    let status = bench.run(&["status", "--json"]);
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    for service in status["docker"]["services"].as_array().unwrap() {
        assert_eq!(service["state"], "running", "{service}");
        assert_eq!(service["restarts"], 0, "{service}");
    }
}

#[test]
fn an_engine_killed_in_the_middle_leaves_what_the_next_start_makes_whole() {
    start_on_a_dying_engine(Ending::Killed);
}

#[test]
fn an_engine_that_hangs_in_the_middle_is_given_up() {
    start_on_a_dying_engine(Ending::Hanging);
}

/// Whoever knows Compose needs no k1ops to run what k1ops has written, and k1ops sees it.
#[test]
fn a_stack_that_plain_compose_has_started_is_seen() {
    let bench = Bench::new();
    bench.json(&["start", "--wait=false"], 0);
    bench.json(&["stop"], 0);
    let folder = bench.docker_folder();
    let compose = |arguments: &[&str]| {
        let output = std::process::Command::new("docker")
            .arg("compose")
            .args(arguments)
            .current_dir(&folder)
            .output()
            .unwrap();
        assert_code(&output, 0);
    };
    compose(&["down"]);
    compose(&["up", "-d"]);
    let status = bench.run(&["status", "--json"]);
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    let services = status["docker"]["services"].as_array().unwrap();
    assert_eq!(services.len(), 3);
    assert!(services.iter().all(|s| s["state"] == "running"), "{status}");
    bench.json(&["backup"], 0);
    bench.json(&["stop"], 0);
    without_its_engine_tier_2_runs_and_says_what_that_means(&bench);
}

fn without_its_engine_tier_2_runs_and_says_what_that_means(bench: &Bench) {
    let run = |arguments: &[&str]| {
        bench
            .command(arguments)
            .env("K1OPS_TIER", "auto")
            .env("K1OPS_SERVER_FAST_START", "false")
            .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
            .output()
            .unwrap()
    };
    let output = run(&["start", "--json"]);
    let status = run(&["status", "--json"]);
    let stopped = run(&["stop"]);
    assert_code(&output, 0);
    let started: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(started["tier"], "jar");
    assert_eq!(started["passed_over"][0]["tier"], "docker");
    assert_says(&output, "/nowhere/docker.sock");
    assert_says(&output, "has a store of its own");
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["store"]["kind"], "sqlite");
    assert_code(&stopped, 0);
}
