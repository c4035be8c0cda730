//! The roles of PostgreSQL in production: who works by which, what each is refused, and that they come
//! back after everything that could have taken them away.

use super::bench::{Bench, assert_code, docker, docker_out, http, text};
use super::{doctor, found, refused, secret, state};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

const ROLES: [&str; 3] = ["server", "backup", "query"];
const WRITE: &str = "DELETE FROM public.k1_workflow_metadata";
const DENIED: &str = "permission denied";

pub fn passwords(bench: &Bench) -> Vec<String> {
    let file = |role: &&str| format!("postgres_{role}_password");
    let all = ROLES.iter().map(|role| secret(bench, &file(role)));
    all.collect()
}

/// As a role, over the network, with its own password.
fn as_role(bench: &Bench, role: &str, database: &str, statements: &[&str]) -> Output {
    let password = secret(bench, &format!("postgres_{role}_password"));
    with_password(bench, role, &password, database, statements)
}

pub fn with_password(
    bench: &Bench,
    role: &str,
    password: &str,
    database: &str,
    statements: &[&str],
) -> Output {
    let port = bench.others[0];
    let place = format!("host=127.0.0.1 port={port} user=k1_{role} dbname={database}");
    let mut command = Command::new("psql");
    command.args(["-XAtqw", "-v", "ON_ERROR_STOP=1"]);
    for statement in statements {
        command.args(["-c", statement]);
    }
    command
        .arg(format!("{place} sslmode=require"))
        .env("PGPASSWORD", password)
        .env("LC_ALL", "C")
        .output()
        .unwrap()
}

/// As the administrator, inside the container.
fn administer(bench: &Bench, sql: &str) -> String {
    let container = bench.container("postgres");
    let psql = ["psql", "-XAtq", "-U", "conductor", "-d", "conductor"];
    let last = ["-v", "ON_ERROR_STOP=1", "-c", sql];
    docker_out(&[&["exec", &container], psql.as_slice(), &last].concat())
}

/// Conductor's pool, by the roles that it is logged in as.
pub fn roles_of_conductor(bench: &Bench) -> String {
    let sql = "SELECT string_agg(DISTINCT usename, ',') FROM pg_stat_activity
        WHERE application_name = 'PostgreSQL JDBC Driver'";
    administer(bench, sql).trim().to_owned()
}

/// Conductor does its work by a role that owns what it needs, and nothing else.
pub fn conductor_works_by_its_own(bench: &Bench) {
    assert_eq!(roles_of_conductor(bench), "k1_server");
    workflow_runs(bench);
    let strangers = "SELECT string_agg(relname || ' ' || pg_get_userbyid(relowner), ', ')
        FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v', 'S')
        AND (relowner = 'k1_server'::regrole) = (relname ~ '^k1_')";
    assert_eq!(administer(bench, strangers).trim(), "");
    // As a migration does.
    let altered = [
        "ALTER TABLE workflow ADD COLUMN added int",
        "CREATE TABLE made (id int)",
    ];
    assert_code(&as_role(bench, "server", "conductor", &altered), 0);
    let seen = as_role(bench, "query", "conductor", &["SELECT count(*) FROM made"]);
    assert_code(&seen, 0);
    let gone = ["ALTER TABLE workflow DROP COLUMN added", "DROP TABLE made"];
    assert_code(&as_role(bench, "server", "conductor", &gone), 0);
}

/// From its start to its end.
fn workflow_runs(bench: &Bench) {
    let workflow = r#"{"name":"run","version":1,"schemaVersion":2,"ownerEmail":"a@example.org",
        "tasks":[{"name":"set","taskReferenceName":"set","type":"SET_VARIABLE",
                  "inputParameters":{"seen":1}}]}"#;
    http(
        "PUT",
        &bench.url("/api/metadata/workflow"),
        &format!("[{workflow}]"),
    );
    let id = http("POST", &bench.url("/api/workflow/run"), "{}");
    let url = bench.url(&format!("/api/workflow/{}?includeTasks=false", id.trim()));
    let deadline = Instant::now() + Duration::from_secs(60);
    while !http("GET", &url, "").contains("\"COMPLETED\"") {
        assert!(Instant::now() < deadline, "the workflow does not end");
        std::thread::sleep(Duration::from_millis(100));
    }
}

pub fn what_they_do_not_need_is_refused(bench: &Bench) {
    let turned_off = "SET default_transaction_read_only = off";
    let by = |role: &str, sql: &str| as_role(bench, role, "conductor", &[turned_off, sql]);
    for (role, sql, words) in [
        ("server", "SELECT rolpassword FROM pg_authid", DENIED),
        ("server", "CREATE ROLE mine", DENIED),
        ("server", "ALTER ROLE k1_server CREATEROLE", DENIED),
        (
            "server",
            "ALTER ROLE conductor PASSWORD 'mine'",
            "must be superuser",
        ),
        ("server", "SET ROLE conductor", DENIED),
        (
            "server",
            "COPY (SELECT 1) TO PROGRAM 'true'",
            "must be superuser",
        ),
        ("server", "SELECT pg_read_file('/etc/passwd')", DENIED),
        ("server", "CREATE DATABASE mine", DENIED),
        ("server", "CREATE EXTENSION dblink", DENIED),
        ("server", "SELECT * FROM k1_workflow_metadata", DENIED),
        ("server", WRITE, DENIED),
        ("backup", WRITE, DENIED),
        ("backup", "DELETE FROM workflow", DENIED),
        ("backup", "CREATE TABLE mine (id int)", DENIED),
        ("backup", "CREATE TEMPORARY TABLE mine (id int)", DENIED),
        ("backup", "CREATE ROLE mine", DENIED),
        (
            "backup",
            "COPY (SELECT 1) TO PROGRAM 'true'",
            "must be superuser",
        ),
        ("query", WRITE, DENIED),
        ("query", "DELETE FROM workflow", DENIED),
        ("query", "CREATE TABLE mine (id int)", DENIED),
        ("query", "CREATE TEMPORARY TABLE mine (id int)", DENIED),
        ("query", "SELECT rolpassword FROM pg_authid", DENIED),
        ("query", "SHOW data_directory", "must be superuser"),
        ("query", "SELECT pg_read_file('/etc/passwd')", DENIED),
    ] {
        refused(&by(role, sql), words);
    }
    let write = as_role(bench, "query", "conductor", &[WRITE]);
    refused(&write, "read-only transaction");
    for role in ROLES {
        let other = as_role(bench, role, "postgres", &["SELECT 1"]);
        refused(&other, "pg_hba.conf rejects connection");
        let wrong = with_password(bench, role, "wrong", "conductor", &["SELECT 1"]);
        refused(&wrong, "password authentication failed");
    }
    let query = bench.run(&["query", "sql", "SELECT rolpassword FROM pg_authid"]);
    assert_code(&query, 6);
}

/// What somebody has granted or taken away is found, and mended without a restart and by a start.
pub fn what_was_changed_is_found_and_mended(bench: &Bench) {
    let started = || {
        let format = "--format={{.State.StartedAt}}";
        docker_out(&["inspect", format, &bench.container("server")])
    };
    let before = started();
    administer(bench, "GRANT DELETE ON k1_workflow_metadata TO k1_query");
    administer(bench, "ALTER ROLE k1_server SUPERUSER");
    administer(bench, "ALTER ROLE k1_backup PASSWORD 'else'");
    administer(bench, "ALTER TABLE workflow OWNER TO conductor");
    let report = doctor(bench);
    found(&report, "roles", "k1_query of PostgreSQL can do more");
    found(&report, "roles", "k1_server of PostgreSQL can do more");
    found(&report, "roles", "k1_backup of PostgreSQL is not let in");
    let plan = bench.run(&["harden", "--dry-run"]);
    assert!(
        text(&plan).contains("the roles of PostgreSQL"),
        "{}",
        text(&plan)
    );
    assert_code(&bench.run(&["harden", "--yes"]), 0);
    all_is_well(bench);
    assert_eq!(started(), before, "Conductor was started anew for it");
    administer(bench, "DROP OWNED BY k1_query");
    administer(bench, "ALTER ROLE k1_backup NOLOGIN NOREPLICATION");
    assert_code(&bench.run(&["start"]), 0);
    all_is_well(bench);
    assert_eq!(started(), before, "Conductor was started anew for it");
    assert_eq!(bench.json(&["start"], 0)["outcome"], "already_running");
}

pub fn all_is_well(bench: &Bench) {
    let report = doctor(bench);
    let roles = state(&report, "roles");
    assert!(
        roles.starts_with("well"),
        "{roles}: {:#}",
        report["findings"]
    );
    assert_code(&bench.run(&["harden"]), 0);
}

/// Who does what, by the words that show it in the server's log.
const EACH: [(&str, &str); 6] = [
    ("k1_backup", "TO STDOUT"),
    ("k1_backup", "pg_export_snapshot()"),
    ("k1_backup", "LOCK TABLE"),
    ("k1_backup", "BASE_BACKUP"),
    ("k1_query", "6*7"),
    ("k1_server", "queue_message"),
];

/// What each command does, by the server's own log.
pub fn each_command_has_its_role(bench: &Bench, work: impl FnOnce()) {
    administer(bench, "ALTER SYSTEM SET log_line_prefix = '<%u> '");
    administer(bench, "ALTER SYSTEM SET log_statement = 'all'");
    administer(bench, "ALTER SYSTEM SET log_replication_commands = on");
    administer(bench, "SELECT pg_reload_conf()");
    work();
    // What it said last is a moment on its way through the engine.
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut log = server_log(bench);
    while EACH
        .iter()
        .any(|(role, words)| !users(&log, words).contains(role))
        && Instant::now() < deadline
    {
        std::thread::sleep(Duration::from_millis(200));
        log = server_log(bench);
    }
    for setting in [
        "log_line_prefix",
        "log_statement",
        "log_replication_commands",
    ] {
        administer(bench, &format!("ALTER SYSTEM RESET {setting}"));
    }
    administer(bench, "SELECT pg_reload_conf()");
    for (role, words) in EACH {
        let by = users(&log, words);
        assert!(by.contains(&role), "{role} did not: {words}");
        assert!(!by.contains(&"conductor"), "the administrator did: {words}");
    }
}

fn server_log(bench: &Bench) -> String {
    text(&docker(&["logs", &bench.container("postgres")]))
}

/// Who has said these words, by the log.
fn users<'a>(log: &'a str, words: &str) -> Vec<&'a str> {
    log.lines()
        .filter(|line| line.contains(words) && line.contains('<'))
        .filter_map(|line| line.split_once('<')?.1.split_once('>'))
        .map(|(user, _)| user)
        .collect()
}

/// The write-ahead log as it comes in, until somebody is seen to send it.
pub fn log_is_received(bench: &Bench) {
    let mut receiving = bench.command(&["wal", "stream"]).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(180);
    let by = || {
        administer(
            bench,
            "SELECT string_agg(usename, ',') FROM pg_stat_replication",
        )
    };
    let mut seen = by();
    while seen.trim().is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
        seen = by();
    }
    receiving.kill().unwrap();
    receiving.wait().unwrap();
    assert_eq!(seen.trim(), "k1_backup");
    let gone = || administer(bench, "SELECT count(*) FROM pg_stat_replication").trim() == "0";
    while !gone() {
        assert!(Instant::now() < deadline, "the server goes on sending");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_code(&bench.run(&["wal", "drop-slot"]), 0);
}

/// Nothing is left of them.
pub fn they_are_gone(bench: &Bench) {
    let roles = "SELECT count(*) FROM pg_roles WHERE rolname ~ '^k1_'";
    assert_eq!(administer(bench, roles).trim(), "0");
    assert_eq!(roles_of_conductor(bench), "conductor");
    let left = bench
        .docker_folder()
        .join("secrets/postgres_server_password");
    assert!(!left.exists());
    workflow_runs(bench);
}
