//! Servers of several hosts on one PostgreSQL and one Redis, which are nobody's own: both are named by URL. The hosts
//! are two stacks of tier 2 in folders of their own on this machine.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise, in its helpers as well"
)]

mod jar;
mod patience;
#[path = "support/mod.rs"]
mod support;

use jar::{Ground, assert_code, signal, text};
use k1ops::adapters::port::any_free;
use patience::until;
use serde_json::{Value, json};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

const PASSWORD: &str = "k1-test-hunter2";

/// A Redis with a password, ended with the test.
struct Redis {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Redis {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = any_free().unwrap();
        let settings = format!("port {port}\nbind 127.0.0.1\nsave \"\"\nrequirepass {PASSWORD}\n");
        let file = folder.path().join("redis.conf");
        std::fs::write(&file, settings).unwrap();
        let child = Command::new("redis-server")
            .arg(&file)
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        until("Redis listens", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self {
            child,
            port,
            _folder: folder,
        }
    }

    fn asked(&self, question: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .args(question)
            .env("REDISCLI_AUTH", PASSWORD)
            .output()
            .unwrap();
        assert_code(&output, 0);
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A host of its own, as far as its stack can tell.
fn host(settings: &str, password: &str) -> Ground {
    let ground = Ground::new(any_free().unwrap(), settings);
    let file = ground.path("redis.password");
    std::fs::write(&file, password).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    ground
}

#[test]
fn servers_of_two_hosts_share_a_database_and_a_lock() {
    let (database, redis) = (support::scratch_database(), Redis::start());
    let both = format!(
        "[server]\nheap = '512m'\n[database]\nurl = '{}'\n\
         [redis]\nurl = 'redis://127.0.0.1:{}'\npassword_file = 'redis.password'",
        database.url, redis.port
    );
    a_wrong_password_and_a_missing_database_are_said_at_once(&both, redis.port);

    let hosts = [host(&both, PASSWORD), host(&both, PASSWORD)];
    in_turn(&hosts);
    let report = hosts[0].run(&["doctor", "-v", "--json"]);
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let redis_is = checks
        .iter()
        .find(|check| check["check"] == "redis")
        .unwrap();
    assert!(
        redis_is["said"].to_string().contains("lets k1ops in"),
        "{redis_is}"
    );
    let name = defined(&hosts[0]);
    let id = hosts[0].api("POST", &format!("/workflow/{name}"), &json!({}));
    let id = id.as_str().unwrap();
    complete(&hosts[1], id, "first");
    let calls = redis.asked(&["INFO", "commandstats"]);
    assert!(calls.contains("cmdstat_eval"), "no lock was taken: {calls}");

    // One host is lost; what it had begun is ended by the other.
    signal(hosts[0].server_pid(), "-KILL");
    complete(&hosts[1], id, "second");
    hosts[1].ended(id, "COMPLETED");
    assert_code(&hosts[1].run(&["backup", "--verify"]), 0);
    assert_code(&hosts[1].run(&["status"]), 0);
    assert_code(&hosts[0].run(&["status"]), 1);
}

fn a_wrong_password_and_a_missing_database_are_said_at_once(settings: &str, port: u16) {
    let stranger = host(settings, "hunter3");
    let refused = stranger.run(&["start"]);
    assert_code(&refused, 2);
    let said = text(&refused);
    assert!(
        said.contains("refuses the password") && !said.contains("hunter3"),
        "{said}"
    );
    let alone = host(&format!("[redis]\nurl = 'redis://127.0.0.1:{port}'"), "");
    let refused = alone.run(&["start"]);
    assert_code(&refused, 2);
    assert!(
        text(&refused).contains("for one server"),
        "{}",
        text(&refused)
    );
}

/// Both are started at once, and none before the other one is well: the first brings the database up to date.
fn in_turn(hosts: &[Ground; 2]) {
    let mut starts = hosts
        .each_ref()
        .map(|host| host.command(&["start"]).spawn().unwrap());
    let mut well = [None, None];
    until("both are well", || {
        for (place, seen) in well.iter_mut().enumerate() {
            if seen.is_none() && is_well(&hosts[place]) {
                *seen = Some(chrono::Utc::now());
            }
        }
        let mut ends = starts.iter_mut().map(|start| start.try_wait().unwrap());
        let has_failed = ends.any(|end| end.is_some_and(|end| !end.success()));
        has_failed || well.iter().all(Option::is_some)
    });
    for start in starts {
        assert_code(&start.wait_with_output().unwrap(), 0);
    }
    let begun = hosts.each_ref().map(|host| {
        let state: Value = serde_json::from_str(&host.read(".conductor/run/server.json")).unwrap();
        let at = state["started_at"].as_str().unwrap().to_owned();
        at.parse::<chrono::DateTime<chrono::Utc>>().unwrap()
    });
    let [first, second] = if begun[0] < begun[1] { [0, 1] } else { [1, 0] };
    let first_is_well = well[first].unwrap();
    // It is seen here a moment after it is so, and k1ops of the second host waits for that of the first to see it too.
    let overlap = first_is_well - begun[second];
    assert!(overlap < chrono::TimeDelta::seconds(5), "{overlap}");
}

/// Its server answers from its database. What does not come soon is asked for again.
fn is_well(host: &Ground) -> bool {
    let url = format!("http://127.0.0.1:{}/api/metadata/taskdefs", host.port);
    let curl = ["-fsS", "--noproxy", "*", "--max-time", "2", &url];
    let asked = Command::new("curl").args(curl).output().unwrap();
    asked.status.success()
}

fn defined(host: &Ground) -> &'static str {
    let task = |name: &str| {
        json!({"name": name, "ownerEmail": "a@example.org", "retryCount": 0,
        "timeoutSeconds": 3600, "responseTimeoutSeconds": 3600})
    };
    host.api(
        "POST",
        "/metadata/taskdefs",
        &json!([task("first"), task("second")]),
    );
    let step = |name: &str| json!({"name": name, "taskReferenceName": name, "type": "SIMPLE"});
    let workflow = json!({"name": "shared", "version": 1, "schemaVersion": 2,
        "ownerEmail": "a@example.org", "tasks": [step("first"), step("second")]});
    host.api("POST", "/metadata/workflow", &workflow);
    "shared"
}

/// Does a task as a worker of this host would.
fn complete(host: &Ground, workflow: &str, task: &str) {
    let mut given = Value::Null;
    until("the task is handed out", || {
        given = host.api("GET", &format!("/tasks/poll/{task}"), &Value::Null);
        given["workflowInstanceId"] == workflow
    });
    let result = json!({"workflowInstanceId": workflow, "taskId": given["taskId"],
        "status": "COMPLETED", "outputData": {}});
    host.api("POST", "/tasks", &result);
}
