//! The audit log, as the commands write it and as `k1ops audit` reads it.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod scratch;

use scratch::Scratch;
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn log(scratch: &Scratch) -> PathBuf {
    scratch.own().join("audit.jsonl")
}

fn lines(scratch: &Scratch) -> Vec<String> {
    let text = std::fs::read_to_string(log(scratch)).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn what_changes_is_told_of_and_what_only_looks_is_not() {
    let scratch = Scratch::filled();
    scratch.run(&["backup"]).done();
    for looks in [
        "list",
        "verify",
        "status",
        "backup --dry-run",
        "prune --dry-run",
    ] {
        let words: Vec<&str> = looks.split(' ').collect();
        scratch.run(&words);
    }
    scratch
        .run(&["restore", "latest"])
        .failed(6, "not confirmed");
    let url = "postgres://me:hush@nowhere/db";
    scratch
        .run(&["restore", "--yes", url])
        .failed(3, "there is no archive");
    let shown = scratch.run(&["audit", "show", "--json"]).done().json();
    let shown = shown.as_array().unwrap();
    let what = |place: usize| shown[place]["what"].as_array().unwrap();
    assert_eq!(shown.len(), 3);
    assert_eq!(*what(0), ["backup"]);
    assert_eq!(shown[0]["outcome"]["exit_code"], 0);
    assert_eq!(shown[1]["outcome"]["exit_code"], 6);
    assert_eq!(what(2)[2], "postgres://me:***@nowhere/db");
    assert!(
        shown[2]["outcome"]["error"]
            .as_str()
            .unwrap()
            .contains("there is no archive")
    );
    let user = Command::new("id").arg("-un").output().unwrap().stdout;
    let user = String::from_utf8(user).unwrap();
    assert_eq!(shown[0]["who"]["user"], user.trim());
    let table = scratch.run(&["audit", "show", "--last", "1"]).done();
    assert!(table.out.contains("there is no archive") && !table.out.contains("not confirmed"));
}

#[test]
fn every_kind_of_tampering_breaks_the_chain() {
    let scratch = Scratch::filled();
    for _ in 0..3 {
        scratch.run(&["backup"]).done();
    }
    let whole = lines(&scratch);
    assert_eq!(whole.len(), 6);
    let verified = scratch.run(&["audit", "verify", "--json"]).done().json();
    assert_eq!(verified["entries"], 6);
    let head = verified["head"].as_str().unwrap();
    let write = |lines: &[String]| std::fs::write(log(&scratch), lines.join("\n") + "\n").unwrap();
    let verify = ["audit", "verify"];

    let mut changed = whole.clone();
    changed[2] = changed[2].replacen("\"backup\"", "\"stop\"", 1);
    write(&changed);
    scratch.run(&verify).failed(4, "line 3: its hash is wrong");

    // Whoever also mends the hash breaks the line behind it.
    let entry = changed[2].split_once("\"entry\":").unwrap().1;
    let entry = entry.strip_suffix('}').unwrap();
    let hash = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(entry));
    changed[2] = format!("{{\"hash\":\"{hash}\",\"entry\":{entry}}}");
    write(&changed);
    scratch.run(&verify).failed(4, "line 4: it does not follow");

    let mut missing = whole.clone();
    missing.remove(1);
    write(&missing);
    scratch.run(&verify).failed(4, "line 2: it does not follow");
    let mut twice = whole.clone();
    twice.insert(3, whole[2].clone());
    write(&twice);
    scratch.run(&verify).failed(4, "line 4: it does not follow");
    write(&[&whole[..], &["{}".to_owned()]].concat());
    scratch.run(&verify).failed(4, "line 7: it is no entry");
    let said = scratch.run(&["backup"]).done();
    assert!(
        said.err.contains("the audit log does not tell of this"),
        "{}",
        said.err
    );

    // A cut end shows against a hash that was kept.
    write(&whole[..4]);
    scratch.run(&verify).done();
    scratch
        .run(&["audit", "verify", "--expect", head])
        .failed(4, "no line with the hash");
    write(&whole);
    scratch.run(&["audit", "verify", "--expect", head]).done();
}

#[test]
fn half_a_line_is_taken_off_and_a_killed_change_shows() {
    let scratch = Scratch::filled();
    scratch.run(&["backup"]).done();
    let mut text = std::fs::read(log(&scratch)).unwrap();
    let whole = text.len();
    text.extend_from_within(..whole / 3);
    std::fs::write(log(&scratch), &text).unwrap();
    scratch.run(&["audit", "verify"]).done();
    let lock = scratch.own().join("run/schedule.lock");
    let held = k1ops::adapters::fs::Lock::exclusive(&scratch.backups().join(".lock"), "x").unwrap();
    assert!(!lock.exists());
    let mut killed = Command::new(env!("CARGO_BIN_EXE_k1ops"))
        .args(["schedule", "fire"])
        .current_dir(scratch.path())
        .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    while !lock.exists() {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    drop(held);
    scratch.run(&["backup"]).done();
    let verified = scratch.run(&["audit", "verify", "--json"]).done().json();
    assert_eq!(verified["entries"], 5);
    let shown = scratch.run(&["audit", "show"]).done();
    assert!(shown.out.contains("did not end"), "{}", shown.out);
}

#[test]
fn many_processes_write_one_chain() {
    let scratch = Scratch::filled();
    std::fs::create_dir_all(scratch.own()).unwrap();
    // Each is refused or has nothing to do, which is quick, and is told of twice.
    let children: Vec<_> = (0..24)
        .map(|_| {
            Command::new(env!("CARGO_BIN_EXE_k1ops"))
                .args(["--quiet", "prune"])
                .current_dir(scratch.path())
                .stderr(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        child.wait().unwrap();
    }
    let verified = scratch.run(&["audit", "verify", "--json"]).done().json();
    assert_eq!(verified["entries"], 48);
    let numbers: Vec<Value> = lines(&scratch)
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["entry"]["number"].clone())
        .collect();
    assert!((1..=48).eq(numbers.iter().map(|number| number.as_u64().unwrap())));
}
