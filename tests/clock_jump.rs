//! An archive that a wrong clock dated in the future is the newest backup to nobody.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod scratch;

use chrono::{DateTime, TimeDelta, Utc};
use k1ops::archive::{CodecSettings, FORMAT, Header, Manifest, Writer};
use k1ops::config::Compression;
use scratch::{Scratch, fill};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// A good archive of the stack that says it was begun at `at`.
fn archive(scratch: &Scratch, at: DateTime<Utc>) -> PathBuf {
    let name = format!("k1-k1-{}.tar", at.format("%Y%m%dT%H%M%SZ"));
    std::fs::create_dir_all(scratch.backups()).unwrap();
    let place = scratch.backups().join(name);
    let header = Header {
        format: FORMAT,
        tool: "k1ops test".into(),
        stack: "k1".into(),
        started_at: at,
    };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let settings = CodecSettings::of(Compression::Zstd, 0);
        let writer = Writer::create(&place, header.clone(), settings, 1).unwrap();
        let manifest = Manifest {
            header,
            finished_at: at,
            tier: None,
            conductor_version: "3.32.1".into(),
            sources: vec![],
            left_out: vec![],
            images: std::collections::BTreeMap::new(),
            members: vec![],
        };
        writer.finish(manifest).await.unwrap();
    });
    place
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

fn stack() -> Scratch {
    let scratch = Scratch::new();
    fill(&scratch.db("k1"), 20);
    let config = "tier = 'jar'\n[schedule]\nat = 'hourly'\ndrill = 'never'\n[notify]\nno_backup_hours = 26\n";
    std::fs::write(scratch.path().join("k1ops.toml"), config).unwrap();
    scratch
}

#[test]
fn latest_is_the_newest_that_can_be_and_the_other_is_named() {
    let scratch = stack();
    let ahead = archive(&scratch, Utc::now() + TimeDelta::days(30));
    for arguments in [
        &["restore", "latest", "--dry-run"][..],
        &["verify"],
        &["drill"],
    ] {
        let said = scratch.run(arguments).failed(3, "dated in the future");
        assert!(said.err.contains(name(&ahead)), "{}", said.err);
    }
    let good = scratch.backup();
    let said = scratch.run(&["restore", "latest", "--dry-run", "--json"]);
    assert_eq!(said.json()["archive"], good.to_str().unwrap());
    assert!(said.err.contains(name(&ahead)), "{}", said.err);
    let said = scratch.run(&["verify", "--json"]).done();
    assert!(said.out.contains(name(&good)), "{}", said.out);
    assert!(said.err.contains(name(&ahead)), "{}", said.err);
    scratch.run(&["verify", name(&ahead)]).done();
    // What the clocks of two hosts may differ by is no future.
    let near = archive(&scratch, Utc::now() + TimeDelta::hours(1));
    let said = scratch.run(&["verify", "--json"]).done();
    assert!(said.out.contains(name(&near)), "{}", said.out);
}

#[test]
fn the_alarm_the_metrics_and_the_doctor_go_by_what_was_really_backed_up() {
    let scratch = stack();
    let old = Utc::now() - TimeDelta::days(3);
    archive(&scratch, old);
    let ahead = archive(&scratch, Utc::now() + TimeDelta::days(30));
    let found = scratch.run(&["schedule", "check", "--json"]);
    assert_eq!(found.code, Some(1), "{}", found.out);
    assert_eq!(found.json()["is_stale"], true);
    assert!(found.err.contains(name(&ahead)), "{}", found.err);
    let metrics = scratch.run(&["metrics"]).done().out;
    let stamp = metrics
        .lines()
        .find_map(|line| line.strip_prefix("k1ops_backup_timestamp_seconds{stack=\"k1\"} "))
        .unwrap();
    let stamp: f64 = stamp.parse().unwrap();
    let behind = Duration::from_secs_f64(stamp) < UNIX_EPOCH.elapsed().unwrap();
    assert!(behind, "{metrics}");
    let status = scratch.run(&["status", "--json"]).out;
    assert!(!status.contains(name(&ahead)), "{status}");
    let doctor = scratch.run(&["doctor", "--json"]).out;
    let named = format!("archive {} is dated in the future", name(&ahead));
    assert!(doctor.contains(&named), "{doctor}");
    assert!(
        doctor.contains("the last good backup is 3 days old"),
        "{doctor}"
    );
}

#[test]
fn what_was_missed_is_caught_up_with() {
    let scratch = stack();
    archive(&scratch, Utc::now() - TimeDelta::days(3));
    let ahead = archive(&scratch, Utc::now() + TimeDelta::days(30));
    let said = scratch
        .run(&["schedule", "fire", "--missed", "--json"])
        .done();
    assert_ne!(said.json(), Value::Null, "nothing was missed");
    assert!(said.err.contains(name(&ahead)), "{}", said.err);
    // A run that the same clock dated hides nothing either.
    let record = scratch.own().join("run/schedule.json");
    let mut known: Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    let time = (Utc::now() + TimeDelta::days(30)).to_rfc3339();
    known["runs"][0]["started_at"] = time.into();
    std::fs::write(&record, known.to_string()).unwrap();
    let archive = known["runs"][0]["archive"].as_str().unwrap();
    std::fs::remove_file(scratch.backups().join(archive)).unwrap();
    let said = scratch
        .run(&["schedule", "fire", "--missed", "--json"])
        .done();
    assert_ne!(said.json(), Value::Null, "nothing was missed");
}
