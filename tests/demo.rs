//! `k1ops demo`: what it shows, that it leaves nothing behind, also when it is interrupted.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may stop at the first surprise, their helpers too"
)]

mod support;

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::Sandbox;

/// The folders and files in `folder`, by path.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn json_of(output: &std::process::Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!(
            "{error}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

#[test]
fn without_a_server_the_k1_tables_come_back_and_nothing_is_left() {
    // A stack of the user's, which must not be touched.
    let sandbox = Sandbox::new("stack = \"mine\"\n");
    let ground = sandbox.path().join("ground");
    let folder = ground.display().to_string();
    let arguments = ["demo", "--tier", "direct", "--workflows", "6", "--json"];
    let output = sandbox
        .k1ops(&arguments)
        .args(["--folder", &folder])
        .output()
        .unwrap();
    let report = json_of(&output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert_eq!(report["tier"], "direct");
    assert_eq!(report["requeued"], Value::Null);
    assert_eq!(report["left_out"], json!([]));
    // 6 workflows; for each of 9 tasks an execution, a metric and a gate; and the store's own rows.
    assert!(report["compared"]["rows"].as_u64().unwrap() >= 6 + 3 * 9);
    assert_eq!(
        report["summary"],
        json!({
            "workflows": 6, "completed_tasks": 18, "total_tasks": 18,
            "passed_quality_gates": 18, "total_quality_gates": 18
        })
    );
    assert_eq!(entries(&ground), Vec::<PathBuf>::new());
    assert!(!sandbox.path().join(".conductor").exists());
}

#[test]
fn what_is_kept_is_a_stack_that_the_commands_work_on() {
    let sandbox = Sandbox::new("");
    let arguments = [
        "demo",
        "--tier",
        "direct",
        "--workflows",
        "4",
        "--keep",
        "--json",
    ];
    let output = sandbox
        .k1ops(&arguments)
        .args(["--folder", "."])
        .output()
        .unwrap();
    let report = json_of(&output);
    let folder = PathBuf::from(report["folder"].as_str().expect("a folder that was kept"));
    let archives = entries(&folder.join(".conductor/backups"));
    let archive = archives
        .iter()
        .find(|path| path.extension().is_some_and(|e| e == "tar"))
        .expect("an archive");
    let verify = ["verify", &archive.display().to_string()];
    sandbox.k1ops(&verify).assert().success();
}

#[test]
fn a_tier_that_the_demo_cannot_compare_is_refused() {
    let sandbox = Sandbox::new("");
    sandbox
        .k1ops(&["demo", "--tier", "docker"])
        .assert()
        .code(2);
}

#[test]
fn an_interrupted_demo_leaves_neither_server_nor_folder() {
    let sandbox = Sandbox::new("");
    let ground = sandbox.path().join("ground");
    let mut demo = Command::new(env!("CARGO_BIN_EXE_k1ops"))
        .args(["demo", "--tier", "jar", "--folder", "ground"])
        .current_dir(sandbox.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let server = wait_for("a server that is starting", || {
        let folder = std::fs::read_dir(&ground).ok()?.next()?.ok()?.path();
        let text = std::fs::read(folder.join(".conductor/run/server.json")).ok()?;
        serde_json::from_slice::<Value>(&text).ok()?["process"]["pid"].as_u64()
    });
    let terminated = Command::new("kill").arg(demo.id().to_string()).status();
    assert!(terminated.unwrap().success());
    let status = demo.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert_eq!(entries(&ground), Vec::<PathBuf>::new());
    wait_for("the server's end", || {
        std::fs::read_link(format!("/proc/{server}/exe"))
            .is_err()
            .then_some(())
    });
}

/// Looks again and again until there is something.
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} does not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}
