//! A real Conductor on a real PostgreSQL: well first, and then with what can happen to it.

use super::bed::Bed;
use super::cluster::{as_postgres, program, succeed};
use super::patience::until;
use super::postgres::{new_server, url};
use std::process::{Command, Stdio};

const PASSWORD: &str = "correct-horse-battery-staple";

fn curl(words: &[&str]) -> String {
    let output = Command::new("curl")
        .arg("-fsS")
        .args(words)
        .output()
        .unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Stops the server when the test ends, however it ends.
struct Stopped<'a>(&'a Bed);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        let _ = self.0.run(&["stop"]);
    }
}

#[test]
fn a_conductor_that_is_well_and_then_is_not() {
    let server = new_server("");
    server.sql("CREATE DATABASE conductor OWNER k1app");
    let mut bed = Bed::empty();
    url(&mut bed, "k1app", PASSWORD, server.port, "conductor");
    bed.set("K1OPS_SERVER_HEALTH_TIMEOUT", "400");
    bed.set("K1OPS_SERVER_FAST_START", "false");
    bed.done(&["start"]);
    let _stopped = Stopped(&bed);
    bed.done(&["backup"]);

    let well = bed.doctor();
    assert_eq!(well.code, Some(0), "{}", well.titles());
    assert_eq!(well.json["tally"]["warnings"], 0, "{}", well.titles());
    println!("a healthy stack took {} s", well.json["seconds"]);

    // Another stack wants the same port, and is told whose it is.
    let other = Bed::empty();
    let port = bed.port;
    other.whole_config(&format!("tier = 'jar'\n[ports]\nconductor = {port}\n"));
    let conflict = other.doctor();
    let base = bed.path().canonicalize().unwrap().display().to_string();
    let finding = conflict.must_find("ports", &format!("another k1ops stack, the one in {base}"));
    let remedies = finding["remedy"].to_string();
    assert!(
        remedies.contains(&format!("k1ops stop --config {base}/k1ops.toml")),
        "{remedies}"
    );

    stranded(&bed, server.port);

    // Its database goes away under it.
    let pg_ctl = |words: &[&str]| {
        let mut command = as_postgres("pg_ctl");
        command.args(words).arg("--pgdata").arg(&server.data);
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
        assert!(status.unwrap().success());
    };
    pg_ctl(&["stop", "--wait", "--mode=immediate", "--silent"]);
    let lying = bed.doctor();
    lying.must_find("conductor", "claims to be healthy and is not");
    lying.must_find("postgres", "does not answer");
    assert_eq!(lying.code, Some(3));
    let options = format!(
        "-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories={}",
        server.port,
        server.socket_folder().display()
    );
    let log = server.socket_folder().join("log").display().to_string();
    pg_ctl(&[
        "start",
        "--wait",
        "--silent",
        "--options",
        &options,
        "--log",
        &log,
    ]);
    until("Conductor has its database again", || {
        bed.doctor().find("conductor", "").is_none()
    });

    // It is killed.
    let status: serde_json::Value =
        serde_json::from_slice(&bed.run(&["status", "--json"]).stdout).unwrap();
    let pid = status["server"]["pid"].to_string();
    assert!(
        Command::new("kill")
            .args(["-KILL", &pid])
            .status()
            .unwrap()
            .success()
    );
    until("the death is noticed", || {
        bed.doctor()
            .find("conductor", "ended without `k1ops stop`")
            .is_some()
    });
}

/// Workflows that lost their place in the queue, and the remedy that the doctor names.
fn stranded(bed: &Bed, port: u16) {
    let sql = |sql: &str| {
        let mut psql = Command::new(program("psql"));
        psql.args([
            "-X",
            "-q",
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
            "-d",
            "conductor",
        ]);
        succeed(psql.args(["-p", &port.to_string(), "-c", sql]));
    };
    let url = |path: &str| format!("http://127.0.0.1:{}/api{path}", bed.port);
    let json = "Content-Type: application/json";
    let workflow = r#"{"name":"kept","version":1,"schemaVersion":2,"ownerEmail":"a@example.org",
        "tasks":[{"name":"t","taskReferenceName":"t","type":"SIMPLE"}]}"#;
    curl(&[
        "-X",
        "POST",
        &url("/metadata/workflow"),
        "-d",
        workflow,
        "-H",
        json,
    ]);
    for _ in 0..3 {
        curl(&["-X", "POST", &url("/workflow/kept"), "-d", "{}", "-H", json]);
    }
    bed.doctor().must_not_find("stranded", "");
    until("two workflows are stranded", || {
        sql(
            "DELETE FROM queue_message WHERE queue_name = '_deciderQueue' AND message_id IN \
             (SELECT workflow_id FROM workflow_pending ORDER BY 1 LIMIT 2)",
        );
        bed.doctor()
            .find("stranded", "2 of 3 running workflows are stranded")
            .is_some()
    });
    let answer = bed.doctor();
    let finding = answer.must_find("stranded", "2 of 3");
    for remedy in finding["remedy"].as_array().unwrap() {
        let said = Command::new("sh")
            .args(["-c", remedy.as_str().unwrap()])
            .output()
            .unwrap();
        assert!(said.stdout.starts_with(b"true."), "{remedy}: {said:?}");
    }
    until("none is stranded", || {
        bed.doctor().find("stranded", "").is_none()
    });
}
