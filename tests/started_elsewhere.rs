//! A stack on a Docker engine of another host: started from here with nothing of it over there, restored, told new
//! passwords, killed in between, and not mistaken for one on this host's engine. The way is a real SSH server.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise, in its helpers as well"
)]

mod bench;
mod elsewhere;
mod patience;

use bench::{Bench, assert_code, assert_says, docker, docker_out, lines_of, text};
use elsewhere::Sshd;
use elsewhere::far::Far;
use patience::until;
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Output, Stdio};

/// A stack, and the way to its engine.
struct Place {
    bench: Bench,
    sshd: Sshd,
}

impl Place {
    fn run(&self, arguments: &[&str]) -> Output {
        self.sshd.k1ops(&self.bench, arguments).output().unwrap()
    }

    fn psql(&self, sql: &str) -> String {
        let container = self.bench.container("postgres");
        let run = ["exec", &container, "psql", "-X", "-At", "-U", "conductor"];
        docker_out(&[&run[..], &["-d", "conductor", "-c", sql]].concat())
    }

    /// The volumes that carry files.
    fn carried(&self) -> Vec<String> {
        let filter = format!("label=k1ops.files-of={}", self.bench.prefix);
        let list = ["--filter".to_owned(), filter, "-q".to_owned()];
        lines_of(&["volume", "ls"], &list)
    }

    /// Everything that the engine says of the stack's containers.
    fn inspected(&self) -> String {
        let filter = format!("name={}", self.bench.prefix);
        let ids = lines_of(&["ps", "-aq"], &["--filter".to_owned(), filter]);
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        docker_out(&[&["inspect"], &ids[..]].concat())
    }

    fn password_file(&self) -> PathBuf {
        self.bench.docker_folder().join("secrets/postgres_password")
    }
}

#[test]
fn a_stack_is_started_restored_and_stopped_on_another_host() {
    let place = Place {
        bench: Bench::new(),
        sshd: Sshd::start(""),
    };
    a_start_that_is_killed_goes_on(&place);
    nothing_over_there_is_of_this_host(&place);
    what_is_lost_comes_back(&place);
    new_passwords_take_the_place_of_the_old(&place);
    another_engine_is_not_taken_for_it(&place);
    let output = place.run(&["stop"]);
    assert_code(&output, 0);
    place.sshd.assert_nothing_is_left();
}

/// Killed at the moment that a volume is there, which may be filled, half filled, or empty.
fn a_start_that_is_killed_goes_on(place: &Place) {
    let mut starting = place
        .sshd
        .k1ops(&place.bench, &["start"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("a volume is there", || {
        assert!(starting.try_wait().unwrap().is_none(), "it ended first");
        !place.carried().is_empty()
    });
    starting.kill().unwrap();
    starting.wait().unwrap();
    place.sshd.until_no_ssh_is_left();
    place.bench.until_compose_has_ended();
    std::fs::remove_dir_all(place.sshd.temporary()).unwrap();

    let output = place.run(&["start"]);
    assert_code(&output, 0);
    let port = place.bench.port;
    assert_says(&output, &format!("runs at http://127.0.0.1:{port}"));
    assert_says(&output, &format!("ssh -N -L {port}:127.0.0.1:{port}"));
    let again = place.run(&["start", "--json"]);
    assert_code(&again, 0);
    let again: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(again["outcome"], "already_running");
}

fn nothing_over_there_is_of_this_host(place: &Place) {
    let inspected = place.inspected();
    let found: Value = serde_json::from_str(&inspected).unwrap();
    let found = found.as_array().unwrap();
    assert_eq!(found.len(), 3, "{inspected}");
    for container in found {
        let mounts = container["Mounts"].as_array().unwrap();
        assert!(mounts.iter().any(|mount| mount["Type"] == "volume"));
        let of_here = mounts.iter().find(|mount| mount["Type"] == "bind");
        assert_eq!(of_here, None, "{container}");
    }
    let folder = place.bench.docker_folder().join("secrets");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let redis = read("redis.conf");
    let redis = redis
        .lines()
        .find_map(|line| line.strip_prefix("requirepass "));
    for secret in [read("postgres_password").trim(), redis.unwrap()] {
        assert!(secret.len() > 10 && !inspected.contains(secret));
    }
    // They are nobody's but root's, there as here.
    let server = place.bench.container("postgres");
    let mode = [
        "exec",
        &server,
        "stat",
        "-c",
        "%a",
        "/run/secrets/postgres_password",
    ];
    assert_eq!(docker_out(&mode).trim(), "600");
}

fn what_is_lost_comes_back(place: &Place) {
    place.psql(
        "CREATE TABLE kept AS SELECT n, md5(n::text) AS text FROM generate_series(1, 5000) n",
    );
    let before = place.psql("SELECT count(*), md5(string_agg(text, '' ORDER BY n)) FROM kept");
    assert_code(&place.run(&["backup"]), 0);
    place.psql("DROP TABLE kept");
    let output = place.run(&["restore", "latest", "--yes"]);
    assert_code(&output, 0);
    // What is noted down is right for whoever comes by another way.
    assert_says(&output, &format!("on 127.0.0.1:{}", place.bench.others[0]));
    let sums = "SELECT count(*), md5(string_agg(text, '' ORDER BY n)) FROM kept";
    assert_eq!(place.psql(sums), before);
    assert_code(&place.run(&["undo", "--yes"]), 0);
    assert_eq!(place.psql("SELECT to_regclass('kept') IS NULL").trim(), "t");

    // A volume comes back to the byte, its own folder's owner and times included.
    let volume = format!("volume:{}_redis_data", place.bench.prefix);
    let output = place.run(&["restore", "latest", "--only", &volume, "--yes"]);
    assert_code(&output, 0);
    assert_code(&place.run(&["drill"]), 0);
}

fn new_passwords_take_the_place_of_the_old(place: &Place) {
    let read = || std::fs::read_to_string(place.password_file()).unwrap();
    let (old, volumes) = (read(), place.carried());
    let output = place.run(&["harden", "--rotate-passwords", "--yes"]);
    assert_code(&output, 0);
    assert_ne!(read(), old);
    for volume in place.carried() {
        let mount = format!("{volume}:/x:ro");
        let image = bench::testbed("REDIS_IMAGE");
        let search = [
            "run",
            "--rm",
            "-v",
            &mount,
            &image,
            "grep",
            "-rqF",
            old.trim(),
            "/x",
        ];
        let found = docker(&search);
        assert_eq!(found.status.code(), Some(1), "{volume}: {}", text(&found));
    }
    assert_ne!(place.carried(), volumes);
    assert_code(&place.run(&["query", "summary"]), 0);
}

/// The engine of somebody who forgot to say which one is meant.
fn another_engine_is_not_taken_for_it(place: &Place) {
    let far = Far::start();
    for arguments in [&["start"][..], &["backup"]] {
        let output = place
            .bench
            .command(arguments)
            .env("DOCKER_HOST", format!("tcp://127.0.0.1:{}", far.port))
            .env("DOCKER_TLS_VERIFY", "1")
            .env("DOCKER_CERT_PATH", far.folder.path().join("known"))
            .output()
            .unwrap();
        assert_code(&output, 6);
        assert_says(&output, "at ssh://");
        assert_says(&output, "Set DOCKER_HOST");
    }
    assert_code(&place.run(&["status"]), 0);
}
