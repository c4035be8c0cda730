//! Production with a real Docker engine: a stack is hardened and attacked, and everything that ought to
//! be refused is; nothing that is secret shows anywhere; and backups, restores and drills still work.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise, in its helpers as well"
)]

mod bench;
#[path = "production/roles.rs"]
mod roles;

use bench::{Bench, assert_code, assert_says, define_workflow, docker, is_workflow_there, text};
use k1ops::adapters::certificates;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const CONTAINERS: [&str; 3] = ["postgres", "redis", "server"];

fn secret(bench: &Bench, name: &str) -> String {
    let file = bench.docker_folder().join("secrets").join(name);
    std::fs::read_to_string(file).unwrap().trim().to_owned()
}

fn redis_password(bench: &Bench) -> String {
    let conf = secret(bench, "redis.conf");
    let line = conf.lines().find_map(|l| l.strip_prefix("requirepass "));
    line.unwrap().to_owned()
}

/// What a client that is not k1ops meets. The password goes through the environment.
fn psql(bench: &Bench, password: &str, parameters: &str) -> Output {
    let port = bench.others[0];
    Command::new("psql")
        .args(["-X", "-A", "-t", "-w", "-c", "select 6*7"])
        .arg(format!(
            "host=127.0.0.1 port={port} user=conductor dbname=conductor {parameters}"
        ))
        .env("PGPASSWORD", password)
        .env("LC_ALL", "C")
        .output()
        .unwrap()
}

#[track_caller]
fn refused(output: &Output, words: &str) {
    assert!(!output.status.success(), "let in: {}", text(output));
    assert_says(output, words);
}

/// What Redis answers to these lines in plain text.
fn redis_in_plain(bench: &Bench, lines: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", bench.others[1])).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let _ = stream.write_all(lines.as_bytes());
    let mut answer = Vec::new();
    let mut part = [0; 512];
    while let Ok(n @ 1..) = stream.read(&mut part) {
        answer.extend_from_slice(&part[..n]);
        if answer.ends_with(b"\r\n") {
            break;
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Redis over TLS, from inside its container, where `redis-cli` is.
fn redis_with(bench: &Bench, password: &str) -> String {
    let output = Command::new("docker")
        .args(["exec", "-e", "REDISCLI_AUTH", &bench.container("redis")])
        .args(["redis-cli", "--tls", "--cacert", "/run/secrets/ca.crt"])
        .args(["--no-auth-warning", "ping"])
        .env("REDISCLI_AUTH", password)
        .output()
        .unwrap();
    text(&output)
}

fn doctor(bench: &Bench) -> Value {
    let output = bench.run(&["doctor", "--profile", "production", "--json"]);
    serde_json::from_slice(&output.stdout).unwrap()
}

fn state(report: &Value, check: &str) -> String {
    let checks = report["checks"].as_array().unwrap();
    let found = checks.iter().find(|one| one["check"] == check).unwrap();
    format!("{}: {}", found["state"].as_str().unwrap(), found["said"])
}

#[track_caller]
fn found(report: &Value, check: &str, words: &str) {
    let findings = report["findings"].as_array().unwrap();
    let named = findings
        .iter()
        .any(|one| one["check"] == check && one["title"].as_str().unwrap().contains(words));
    assert!(named, "{check} does not find {words}: {findings:#?}");
}

#[test]
fn a_stack_is_hardened_and_attacked_and_taken_back() {
    let bench = Bench::new();
    assert_code(&bench.run(&["start"]), 0);
    define_workflow(&bench);
    // Held to production, what it is not yet is named.
    let before = doctor(&bench);
    found(&before, "plaintext", "PostgreSQL at port");
    found(&before, "plaintext", "Redis at port");
    found(&before, "roles", "log in as a superuser");

    harden(&bench);
    assert!(is_workflow_there(&bench), "hardening lost what was there");
    attacks_are_refused(&bench);
    roles::conductor_works_by_its_own(&bench);
    roles::what_they_do_not_need_is_refused(&bench);
    roles::what_was_changed_is_found_and_mended(&bench);
    nothing_secret_shows(&bench);
    the_doctor_finds_what_is_planted(&bench);
    passwords_are_rotated(&bench);

    let taken_back = bench.run(&["harden", "--undo", "--yes"]);
    assert_code(&taken_back, 0);
    let taken_back = bench.run(&["harden", "--undo", "--yes"]);
    assert_code(&taken_back, 0);
    assert_code(
        &psql(
            &bench,
            &secret(&bench, "postgres_password"),
            "sslmode=disable",
        ),
        0,
    );
    assert!(!bench.docker_folder().join("secrets/ca.key").exists());
    assert!(is_workflow_there(&bench));
    roles::they_are_gone(&bench);
    let nothing = bench.run(&["harden", "--undo", "--yes"]);
    assert_code(&nothing, 3);
    let toml = std::fs::read_to_string(bench.folder.path().join("k1ops.toml")).unwrap();
    assert!(!toml.contains("production"), "{toml}");
}

/// Killed in its middle first, and then once more to its end.
fn harden(bench: &Bench) {
    let asked = bench.run(&["harden"]);
    assert_code(&asked, 6);
    let plan = bench.run(&["harden", "--dry-run"]);
    assert_code(&plan, 0);
    assert!(!bench.docker_folder().join("secrets/ca.key").exists());
    let mut killed = bench.command(&["harden", "--yes"]).spawn().unwrap();
    let kept = bench.folder.path().join(".conductor/hardened");
    let deadline = Instant::now() + Duration::from_secs(240);
    let is_kept = || {
        let folders = std::fs::read_dir(&kept).into_iter().flatten().flatten();
        folders
            .map(|f| f.path().join("kept.json"))
            .any(|f| f.exists())
    };
    while !is_kept() {
        assert!(Instant::now() < deadline, "nothing is kept");
        std::thread::sleep(Duration::from_millis(5));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    bench.until_compose_has_ended();
    // Neither half: what runs goes on, as it was or hardened.
    assert_code(&bench.run(&["start"]), 0);
    let done = bench.run(&["harden", "--yes"]);
    assert_code(&done, 0);
    assert_says(&done, "hardened");
    // What was shown is what was done.
    let plan = String::from_utf8(plan.stdout).unwrap();
    for file in plan
        .lines()
        .filter_map(|line| line.trim().strip_prefix("create"))
    {
        assert!(Path::new(file.trim()).exists(), "{file} was planned only");
    }
    let again = bench.run(&["harden"]);
    assert_code(&again, 0);
    assert_says(&again, "hardened already");
}

fn attacks_are_refused(bench: &Bench) {
    let password = secret(bench, "postgres_password");
    let authority = bench.docker_folder().join("secrets/ca.crt");
    let verified = format!("sslmode=verify-full sslrootcert='{}'", authority.display());
    let right = psql(bench, &password, &verified);
    assert_code(&right, 0);
    assert_says(&right, "42");
    refused(&psql(bench, &password, "sslmode=disable"), "no encryption");
    for wrong in ["conductor", "postgres", "changeme", "wrong"] {
        refused(
            &psql(bench, wrong, &verified),
            "password authentication failed",
        );
    }
    refused(&psql(bench, "", &verified), "no password supplied");
    // Whoever puts himself between has a certificate of his own.
    let other = tempfile::NamedTempFile::new().unwrap();
    let stranger = certificates::authority(chrono::Utc::now()).unwrap();
    std::fs::write(other.path(), stranger.certificate).unwrap();
    let wrong = format!(
        "sslmode=verify-full sslrootcert='{}'",
        other.path().display()
    );
    refused(&psql(bench, &password, &wrong), "certificate verify failed");
    let conf = "sslmode=require ssl_max_protocol_version=TLSv1.1 ssl_min_protocol_version=TLSv1.1";
    assert!(!psql(bench, &password, conf).status.success());

    let password = redis_password(bench);
    for lines in [
        "PING\r\n".to_owned(),
        format!("AUTH {password}\r\nPING\r\n"),
    ] {
        let answer = redis_in_plain(bench, &lines);
        assert!(
            !answer.contains("+PONG") && !answer.contains("+OK"),
            "{answer}"
        );
        assert!(!answer.contains("NOAUTH"), "it speaks plain text: {answer}");
    }
    assert!(redis_with(bench, &password).contains("PONG"));
    for wrong in ["redis", "wrong"] {
        let said = redis_with(bench, wrong);
        assert!(
            said.contains("WRONGPASS") || said.contains("NOAUTH"),
            "{said}"
        );
    }

    let report = doctor(bench);
    for check in [
        "plaintext",
        "logins",
        "roles",
        "certificates",
        "permissions",
        "exposure",
        "postgres",
        "redis",
    ] {
        let state = state(&report, check);
        assert!(
            state.starts_with("well"),
            "{check} is {state}: {:#}",
            report["findings"]
        );
    }
    // What there is no remedy for here is said.
    found(&report, "api", "without a login");
    found(&report, "digests", "no digest");
}

fn nothing_secret_shows(bench: &Bench) {
    let bundle = bench.folder.path().join("help.tar.gz");
    assert_code(&bench.run(&["backup"]), 0);
    bench.run(&["doctor", "--bundle", bundle.to_str().unwrap()]);
    let mut shown = Vec::new();
    for name in CONTAINERS.map(|name| bench.container(name)) {
        shown.push(("docker inspect", text(&docker(&["inspect", &name]))));
        shown.push(("docker logs", text(&docker(&["logs", &name]))));
        shown.push(("docker top", text(&docker(&["top", &name]))));
    }
    let unpack = |arguments: &[&str], file: &Path| {
        let output = Command::new("tar")
            .args(arguments)
            .arg(file)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    shown.push(("the bundle", unpack(&["-xzOf"], &bundle)));
    let backups = bench.folder.path().join(".conductor/backups");
    for entry in std::fs::read_dir(backups).unwrap().flatten() {
        if entry.path().extension().is_some_and(|end| end == "tar") {
            shown.push(("an archive", unpack(&["-xOf"], &entry.path())));
        }
    }
    let audit = bench.folder.path().join(".conductor/audit.jsonl");
    shown.push(("the audit log", std::fs::read_to_string(audit).unwrap()));
    let status = bench.run(&["status", "--json"]);
    shown.push(("status", text(&status)));
    let mut secrets = vec![secret(bench, "postgres_password"), redis_password(bench)];
    secrets.extend(roles::passwords(bench));
    for key in ["ca.key", "postgres.key", "redis.key"] {
        secrets.push(secret(bench, key).lines().nth(1).unwrap().to_owned());
    }
    for (place, text) in &shown {
        assert!(text.len() > 20, "{place} says nothing");
        for secret in &secrets {
            assert!(!text.contains(secret), "{place} shows a secret");
        }
    }
    for entry in bench
        .docker_folder()
        .join("secrets")
        .read_dir()
        .unwrap()
        .flatten()
    {
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        let public = entry.path().extension().is_some_and(|end| end == "crt");
        let wanted = if public { 0o444 } else { 0o600 };
        assert_eq!(mode, wanted, "{}", entry.path().display());
    }
}

fn the_doctor_finds_what_is_planted(bench: &Bench) {
    let folders = [
        bench.folder.path().to_owned(),
        bench.folder.path().join(".conductor"),
        bench.docker_folder(),
        bench.docker_folder().join("secrets"),
    ];
    let set = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let key = bench.docker_folder().join("secrets/postgres.key");
    for folder in &folders {
        set(folder, 0o755);
    }
    set(&key, 0o644);
    let report = doctor(bench);
    found(&report, "permissions", "everybody on this host may read it");
    set(&key, 0o600);
    for folder in &folders {
        set(folder, 0o700);
    }

    // A certificate near its end: k1ops makes it anew, with the same authority.
    let file = bench.docker_folder().join("secrets/redis.crt");
    let authority = certificates::Issued {
        certificate: secret(bench, "ca.crt"),
        key: secret(bench, "ca.key"),
    };
    let old = chrono::Utc::now() - chrono::TimeDelta::days(380);
    let old = certificates::server(&authority, &["redis", "localhost", "127.0.0.1"], old).unwrap();
    set(&file, 0o644);
    std::fs::write(&file, &old.certificate).unwrap();
    found(
        &doctor(bench),
        "certificates",
        "certificate of Redis ends in",
    );
    let plan = bench.run(&["harden", "--dry-run"]);
    assert_says(&plan, "secrets/redis.crt was edited");
    std::fs::remove_file(&file).unwrap();
    let plan = bench.run(&["harden", "--dry-run"]);
    assert_says(&plan, "a certificate for redis");
}

/// It also brings the certificate back that was removed.
fn passwords_are_rotated(bench: &Bench) {
    let old = (secret(bench, "postgres_password"), redis_password(bench));
    let old_roles = roles::passwords(bench);
    // One that does not come up is put back.
    let failed = bench
        .command(&["harden", "--rotate-passwords", "--yes"])
        .env("K1OPS_SERVER_HEALTH_TIMEOUT", "1")
        .output()
        .unwrap();
    assert!(!failed.status.success(), "{}", text(&failed));
    assert_says(&failed, "is put back");
    assert_eq!(secret(bench, "postgres_password"), old.0);
    assert_eq!(roles::passwords(bench), old_roles);
    let done = bench.run(&["harden", "--rotate-passwords", "--yes"]);
    assert_code(&done, 0);
    assert!(is_workflow_there(bench), "rotating lost what was there");
    let new = (secret(bench, "postgres_password"), redis_password(bench));
    assert_ne!(old.0, new.0);
    assert_ne!(old.1, new.1);
    assert_code(&psql(bench, &new.0, "sslmode=require"), 0);
    refused(
        &psql(bench, &old.0, "sslmode=require"),
        "password authentication failed",
    );
    for (role, old) in ["server", "backup", "query"].iter().zip(&old_roles) {
        assert!(!roles::passwords(bench).contains(old));
        let output = roles::with_password(bench, role, old, "conductor", &["SELECT 1"]);
        refused(&output, "password authentication failed");
    }
    roles::all_is_well(bench);
    assert_eq!(roles::roles_of_conductor(bench), "k1_server");
    assert!(redis_with(bench, &new.1).contains("PONG"));
    assert!(!redis_with(bench, &old.1).contains("PONG"));
    let logs = text(&docker(&["logs", &bench.container("postgres")]));
    assert!(!logs.contains(&new.0));
}

#[test]
fn a_stack_that_begins_in_production_is_backed_up_restored_and_drilled() {
    let bench = Bench::new();
    assert_code(&bench.run(&["init", "--profile", "production"]), 0);
    let other = bench.run(&["init", "--profile", "standard"]);
    assert_code(&other, 6);
    assert_code(&bench.run(&["start"]), 0);
    let again = bench.json(&["start"], 0);
    assert_eq!(again["outcome"], "already_running");
    define_workflow(&bench);
    // What Compose is told by hand is what k1ops tells it.
    let listed = Command::new("docker")
        .args(["compose", "config", "--quiet"])
        .current_dir(bench.docker_folder())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_code(&listed, 0);
    // Its database was empty: all migrations were Conductor's own.
    roles::conductor_works_by_its_own(&bench);
    let mut archive = Value::Null;
    roles::each_command_has_its_role(&bench, || {
        archive = bench.json(&["backup"], 0)["archive"].clone();
        let physical = bench.run(&["backup", "--physical"]);
        assert_code(&physical, 0);
        let query = bench.run(&["query", "sql", "SELECT 6*7 AS answer"]);
        assert_code(&query, 0);
        assert_says(&query, "42");
    });
    roles::log_is_received(&bench);
    let delete = bench.url("/api/metadata/workflow/kept/1");
    let gone = Command::new("curl")
        .args(["-fsS", "-X", "DELETE", &delete])
        .output()
        .unwrap();
    assert_code(&gone, 0);
    assert!(!is_workflow_there(&bench));
    let restored = bench.run(&["restore", archive.as_str().unwrap(), "--yes"]);
    assert_code(&restored, 0);
    assert!(is_workflow_there(&bench));
    roles::all_is_well(&bench);
    roles::conductor_works_by_its_own(&bench);
    let drilled = bench.json(&["drill"], 0);
    assert_eq!(drilled["tier"], "docker");
    let password = secret(&bench, "postgres_password");
    refused(&psql(&bench, &password, "sslmode=disable"), "no encryption");
}
