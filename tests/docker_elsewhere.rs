//! A Docker engine on another host: through a real SSH server to the engine of the test bed, where a stack runs, and
//! by TLS to an engine of the test's own, which refuses whoever it does not know.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise, in its helpers as well"
)]

mod bench;
mod elsewhere;
mod patience;

use bench::{Bench, assert_code, assert_says, docker_out, text};
use elsewhere::far::Far;
use elsewhere::{Sshd, is_open, succeed};
use patience::until;
use serde_json::Value;
use std::process::{Command, Output, Stdio};

fn psql(container: &str, database: &str, sql: &str) -> String {
    let run = ["exec", container, "psql", "-X", "-At", "-U", "conductor"];
    docker_out(&[&run[..], &["-d", database, "-c", sql]].concat())
}

fn looks_work(sshd: &Sshd, bench: &Bench) {
    let run = |arguments: &[&str]| -> Output { sshd.k1ops(bench, arguments).output().unwrap() };
    // What looks works, through ports that lead there.
    let output = run(&["status", "--json"]);
    assert_code(&output, 0);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    let engine = status["docker"]["engine"].as_str().unwrap();
    assert!(engine.contains("at ssh://"), "{engine}");
    let url = status["docker"]["url"].as_str().unwrap();
    assert!(url.ends_with(&format!(":{}", bench.port)), "{url}");
    assert_eq!(status["docker"]["health"]["state"], "up", "{status}");
    assert!(
        status["store"]["size_bytes"].as_u64().unwrap() > 1_000_000,
        "{status}"
    );
    assert_says(&run(&["logs", "postgres"]), "database system is ready");
    let doctor = run(&["doctor"]);
    let said = text(&doctor);
    for well in ["conductor,", "postgres,", "redis,", "replication,"] {
        assert!(said.contains(well), "not said: {well}\n{said}");
    }
    assert!(!said.contains("✗"), "{said}");

    assert_code(&run(&["query", "summary"]), 0);
    // A server that lets nobody at sockets has Docker's own way left.
    let strict = Sshd::start("AllowStreamLocalForwarding no");
    let output = strict.k1ops(bench, &["logs", "postgres"]).output().unwrap();
    assert_says(&output, "database system is ready");
    strict.assert_nothing_is_left();
}

fn strangers_and_the_killed_leave_nothing(sshd: &Sshd, bench: &Bench) {
    let run = |arguments: &[&str]| -> Output { sshd.k1ops(bench, arguments).output().unwrap() };
    // Strangers on either side.
    sshd.know("stranger", "user");
    assert_says(&run(&["logs", "postgres"]), "Host key verification failed");
    sshd.know("host", "stranger");
    assert_says(&run(&["logs", "postgres"]), "Permission denied");
    sshd.know("host", "user");
    sshd.assert_nothing_is_left();

    // Killed in the midst of it all, nothing stays connected.
    let mut following = sshd
        .k1ops(bench, &["logs", "postgres", "--follow"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let temporary = || std::fs::read_dir(sshd.temporary()).unwrap().count();
    until("it is connected", || temporary() > 0);
    following.kill().unwrap();
    following.wait().unwrap();
    sshd.until_no_ssh_is_left();
    std::fs::remove_dir_all(sshd.temporary()).unwrap();
    std::fs::create_dir_all(sshd.temporary()).unwrap();
    sshd.assert_nothing_is_left();
}

#[test]
fn a_stack_on_another_host_is_looked_at_and_backed_up_through_ssh() {
    let bench = Bench::new();
    assert_code(&bench.run(&["start"]), 0);
    let sshd = Sshd::start("");
    let run = |arguments: &[&str]| -> Output { sshd.k1ops(&bench, arguments).output().unwrap() };
    let container = bench.container("postgres");
    let psql = |sql: &str| psql(&container, "conductor", sql);
    psql("CREATE TABLE kept AS SELECT n, md5(n::text) AS text FROM generate_series(1, 5000) n");
    psql("ALTER SYSTEM SET log_connections = on");
    psql("SELECT pg_reload_conf()");

    looks_work(&sshd, &bench);

    // A backup has rows, the whole cluster and volumes.
    let output = run(&["backup", "--json", "--verify"]);
    assert_code(&output, 0);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let sources = report["sources"].to_string();
    for what in ["postgres_data", "redis_data", "logs"] {
        assert!(sources.contains(what), "{what}: {sources}");
    }
    // The database saw its own container come, by name and password.
    let log = text(&bench::docker(&["logs", &container]));
    let own = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let own = docker_out(&["inspect", "--format", own, &container]);
    assert!(log.contains(&format!("host={} ", own.trim())), "{log}");
    assert!(
        log.contains("replication connection authorized: user=conductor"),
        "{log}"
    );

    // What needs the ports, networks or processes of that host is refused, and says what to do.
    for arguments in [&["harden", "--firewall"][..], &["doctor", "--fix"]] {
        let output = run(arguments);
        assert_ne!(output.status.code(), Some(0), "{}", text(&output));
        assert_says(&output, "is on another host");
        assert_says(&output, "Run k1ops on that host");
    }
    assert!(is_open(bench.port), "the stack was touched");

    strangers_and_the_killed_leave_nothing(&sshd, &bench);

    // What came through is what was there.
    psql("DROP TABLE kept");
    let name = report["restore_with"].as_str().unwrap();
    let restore = [
        "restore",
        name,
        "--only",
        "postgres:public.kept",
        "--as",
        "rescue",
        "--yes",
    ];
    assert_code(&bench.run(&restore), 0);
    let sum = "SELECT count(*), md5(string_agg(text, '' ORDER BY n)) FROM kept";
    let expected = psql(
        "SELECT 5000, md5(string_agg(md5(n::text), '' ORDER BY n)) FROM generate_series(1, 5000) n",
    );
    assert_eq!(self::psql(&container, "rescue", sum), expected);
}

#[test]
fn an_engine_behind_tls_and_k1ops_know_each_other_or_do_not_speak() {
    let far = Far::start();
    let reached = "there is no container conductor-postgres";
    assert_says(&far.logs("known", &[]), reached);
    for (who, why) in [
        ("deceived", "UnknownIssuer"),
        ("silent", "received fatal alert"),
        ("stranger", "received fatal alert"),
    ] {
        let output = far.logs(who, &[]);
        assert_code(&output, 3);
        assert!(text(&output).contains(why), "{who}: {}", text(&output));
    }
    // By another name than the certificate's; and without TLS.
    let named = format!("tcp://localhost:{}", far.port);
    assert_says(
        &far.logs("known", &[("DOCKER_HOST", &named)]),
        "certificate not valid for name",
    );
    assert_code(&far.logs("known", &[("DOCKER_TLS_VERIFY", "")]), 3);
    let output = far.logs(
        "known",
        &[
            ("DOCKER_TLS_VERIFY", ""),
            ("DOCKER_HOST", "tcp://192.0.2.1:2375"),
        ],
    );
    assert_code(&output, 3);
    assert_says(&output, "without TLS");

    // A context of Docker's own client.
    let config = far.folder.path().join("config").display().to_string();
    let of = |name: &str| {
        far.folder
            .path()
            .join("known")
            .join(name)
            .display()
            .to_string()
    };
    let docker = format!(
        "host=tcp://127.0.0.1:{},ca={},cert={},key={}",
        far.port,
        of("ca.pem"),
        of("cert.pem"),
        of("key.pem")
    );
    succeed(
        Command::new("docker")
            .args(["context", "create", "far", "--docker", &docker])
            .env("DOCKER_CONFIG", &config)
            .env_remove("DOCKER_HOST"),
    );
    let context = [
        ("DOCKER_HOST", ""),
        ("DOCKER_TLS_VERIFY", ""),
        ("DOCKER_CERT_PATH", ""),
        ("DOCKER_CONFIG", &config),
        ("DOCKER_CONTEXT", "far"),
    ];
    assert_says(&far.logs("known", &context), reached);
    let output = far.logs(
        "known",
        &[&context[..4], &[("DOCKER_CONTEXT", "gone")]].concat(),
    );
    assert_says(&output, "\"gone\"");
}
