//! Retention: the pure judgement against an oracle of another make, and `k1ops prune` on real
//! archives.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

mod scratch;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use k1ops::backup::{self, BackupOptions};
use k1ops::config::{self, Keep, Overrides};
use k1ops::event::Events;
use k1ops::interrupt::Interrupt;
use k1ops::repository::Purpose;
use k1ops::repository::retention::{Candidate, Class, judge};
use k1ops::stack::Stack;
use proptest::prelude::*;
use scratch::{Scratch, fill};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// What is kept, asked of SQL's window functions instead of a walk from new to old. The zone is
/// five hours east of Greenwich, all year.
const ORACLE: &str = "
WITH local AS (
  SELECT name, time, proven, row_number() OVER (ORDER BY time DESC, name DESC) AS place,
    strftime('%Y-%m-%d %H', time, 'unixepoch', '+5 hours') AS hour,
    strftime('%Y-%m-%d', time, 'unixepoch', '+5 hours') AS day,
    strftime('%G-%V', time, 'unixepoch', '+5 hours') AS week,
    strftime('%Y-%m', time, 'unixepoch', '+5 hours') AS month,
    strftime('%Y', time, 'unixepoch', '+5 hours') AS year
  FROM archive),
ranked AS (
  SELECT *,
    dense_rank() OVER (ORDER BY hour DESC) AS hours, min(place) OVER (PARTITION BY hour) AS of_hour,
    dense_rank() OVER (ORDER BY day DESC) AS days, min(place) OVER (PARTITION BY day) AS of_day,
    dense_rank() OVER (ORDER BY week DESC) AS weeks, min(place) OVER (PARTITION BY week) AS of_week,
    dense_rank() OVER (ORDER BY month DESC) AS months,
    min(place) OVER (PARTITION BY month) AS of_month,
    dense_rank() OVER (ORDER BY year DESC) AS years, min(place) OVER (PARTITION BY year) AS of_year
  FROM local)
SELECT name FROM ranked WHERE place <= :last
  OR (hours <= :hourly AND place = of_hour) OR (days <= :daily AND place = of_day)
  OR (weeks <= :weekly AND place = of_week) OR (months <= :monthly AND place = of_month)
  OR (years <= :yearly AND place = of_year)
  OR time >= (SELECT max(time) FROM archive) - :within
  OR time >= coalesce((SELECT max(time) FROM archive WHERE proven), -1)";

/// The zone that the oracle reckons in; its sign is the other way round by POSIX's custom.
const ZONE: Tz = Tz::Etc__GMTMinus5;

fn oracle(archives: &[(i64, bool)], keep: &Keep, within: Option<i64>) -> BTreeSet<String> {
    let db = rusqlite::Connection::open_in_memory().unwrap();
    db.execute_batch("CREATE TABLE archive (name TEXT, time INTEGER, proven INTEGER)")
        .unwrap();
    for (time, proven) in archives {
        let row = (name_of(*time), time, proven);
        db.execute("INSERT INTO archive VALUES (?1, ?2, ?3)", row)
            .unwrap();
    }
    let mut statement = db.prepare(ORACLE).unwrap();
    let parameters = rusqlite::named_params! {
        ":last": keep.last, ":hourly": keep.hourly, ":daily": keep.daily, ":weekly": keep.weekly,
        ":monthly": keep.monthly, ":yearly": keep.yearly, ":within": within.unwrap_or(-1),
    };
    let rows = statement.query_map(parameters, |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

fn name_of(time: i64) -> String {
    format!("a{time:012}")
}

fn kept(archives: &[(i64, bool)], keep: &Keep) -> BTreeSet<String> {
    let candidates = archives.iter().map(|&(time, proven)| Candidate {
        name: name_of(time),
        time: DateTime::from_timestamp(time, 0).unwrap(),
        size: 1,
        class: Class::Backup { proven },
    });
    let now = DateTime::from_timestamp(END, 0).unwrap();
    let verdicts = judge(candidates.collect(), keep, ZONE, now).unwrap();
    let kept = verdicts.into_iter().filter(|verdict| verdict.keep);
    kept.map(|verdict| verdict.name).collect()
}

/// Three years that end on 2026-11-24.
const END: i64 = 1_795_500_000;
const YEARS: i64 = 3 * 365 * 86_400;

fn rules() -> impl Strategy<Value = (Keep, Option<i64>)> {
    let counts = (
        0_u32..6,
        0_u32..30,
        0_u32..20,
        0_u32..60,
        0_u32..40,
        0_u32..5,
    );
    (counts, proptest::option::of(0_i64..400)).prop_map(|(counts, days)| {
        let (last, hourly, daily, weekly, monthly, yearly) = counts;
        let within = days.map_or_else(String::new, |days| format!("{days}d"));
        let mut keep = Keep {
            last,
            hourly,
            daily,
            weekly,
            monthly,
            yearly,
            within,
            safety: 0,
        };
        if days.is_none() && last + hourly + daily + weekly + monthly + yearly == 0 {
            keep.last = 1;
        }
        (keep, days.map(|days| days * 86_400))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Half of the archives are of the last two weeks, where several fall into one hour or day.
    #[test]
    fn fifty_archives_of_three_years_are_judged_as_the_oracle_does(
        old in proptest::collection::btree_set(0..YEARS, 25),
        young in proptest::collection::btree_set(YEARS - 14 * 86_400..YEARS, 25),
        proofs in proptest::collection::vec(proptest::bool::weighted(0.7), 50),
        (keep, within) in rules(),
    ) {
        let times: BTreeSet<i64> = old.into_iter().chain(young).collect();
        let archives: Vec<(i64, bool)> =
            times.into_iter().map(|time| END - YEARS + time).zip(proofs).collect();
        prop_assert_eq!(kept(&archives, &keep), oracle(&archives, &keep, within));
    }
}

#[test]
fn three_years_of_daily_backups_and_prunings_end_as_the_rules_say() {
    let keep = Keep::default();
    let mut archives: Vec<(i64, bool)> = Vec::new();
    for day in 0..3 * 365 {
        archives.push((END - YEARS + day * 86_400, true));
        let wanted = oracle(&archives, &keep, None);
        let found = kept(&archives, &keep);
        assert_eq!(found, wanted, "day {day}");
        archives.retain(|(time, _)| found.contains(&name_of(*time)));
    }
    // 7 days, 5 weeks of which 1 or 2 are among them, 12 months, and the ends of 2 earlier years.
    assert!((20..=27).contains(&archives.len()), "{}", archives.len());
}

/// Real backups of a stack, begun so many days ago.
fn backups(scratch: &Scratch, days_ago: &[i64]) -> Vec<String> {
    let overrides = Overrides::default();
    let loaded = config::load(&overrides, &BTreeMap::new(), scratch.path()).unwrap();
    let stack = Stack::open(&loaded).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    days_ago
        .iter()
        .map(|days| {
            let options = BackupOptions::default();
            let mut plan = backup::plan(&stack, &options, Purpose::Backup).unwrap();
            plan.started_at = Utc::now() - TimeDelta::days(*days);
            let (events, interrupt) = (Events::silent(), Interrupt::default());
            let taking = Box::pin(backup::take(&stack, plan, &events, &interrupt));
            let report = runtime.block_on(taking).unwrap();
            file_name(&report.archive)
        })
        .collect()
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

fn archives(scratch: &Scratch) -> BTreeSet<String> {
    let entries = std::fs::read_dir(scratch.backups()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let tars = paths.filter(|path| path.extension().is_some_and(|end| end == "tar"));
    tars.map(|path| file_name(&path)).collect()
}

fn set<'a>(names: impl IntoIterator<Item = &'a String>) -> BTreeSet<String> {
    names.into_iter().cloned().collect()
}

fn small() -> Scratch {
    let scratch = Scratch::new();
    fill(&scratch.db("k1"), 30);
    scratch
}

#[test]
fn nothing_goes_before_a_newer_archive_is_verified() {
    let scratch = small();
    let names = backups(&scratch, &[3, 2, 1]);
    let prune = ["prune", "--yes", "--keep-last", "1"];
    let said = scratch.run(&prune).done();
    assert!(said.out.contains("deleted 0 archives"), "{}", said.out);
    scratch.run(&["verify", "--quick", "latest"]).done();
    scratch.run(&prune).done();
    assert_eq!(archives(&scratch), set(&names));

    scratch.run(&["verify", &names[1]]).done();
    scratch.run(&[&prune[..], &["--dry-run"]].concat()).done();
    assert_eq!(archives(&scratch), set(&names), "a dry run deletes nothing");
    scratch
        .run(&["prune", "--keep-last", "1"])
        .failed(6, "not confirmed");
    let pruned = scratch
        .run(&[&prune[..], &["--json"]].concat())
        .done()
        .json();
    assert_eq!(pruned["deleted"], 1);
    assert_eq!(
        pruned["archives"][1]["reasons"][0],
        "no newer archive is proven"
    );
    assert_eq!(archives(&scratch), set(&names[1..]));

    // What was found damaged proves nothing, and is nobody's to delete.
    let path = scratch.backups().join(&names[2]);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[3000] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert_ne!(scratch.run(&["verify", "latest"]).code, Some(0));
    scratch.run(&prune).done();
    assert_eq!(archives(&scratch), set(&names[1..]));
}

#[test]
fn a_replaced_file_is_unproven() {
    let scratch = small();
    let names = backups(&scratch, &[3, 2]);
    scratch.run(&["verify", "latest"]).done();
    let newest = scratch.backups().join(&names[1]);
    std::fs::copy(scratch.backups().join(&names[0]), &newest).unwrap();
    scratch.run(&["prune", "--yes", "--keep-last", "1"]).done();
    assert_eq!(archives(&scratch).len(), 2);
}

#[test]
fn a_note_that_was_never_finished_is_removed_by_the_next_backup() {
    let scratch = small();
    backups(&scratch, &[1]);
    scratch.run(&["verify", "latest"]).done();
    let half = scratch.backups().join(".proofs/.k1ops-abc123");
    std::fs::write(&half, "{").unwrap();
    scratch.backup();
    assert!(!half.exists());
    assert_eq!(scratch.run(&["verify", "latest"]).done().code, Some(0));
}

#[test]
fn a_drill_is_asked_for_where_it_is_configured() {
    let scratch = small();
    backups(&scratch, &[3, 2]);
    scratch.run(&["verify", "latest"]).done();
    let by_drill = [("K1OPS_BACKUP_PROOF", "drill")];
    let prune = ["prune", "--yes", "--keep-last", "1"];
    scratch.with(&by_drill, &prune).done();
    assert_eq!(archives(&scratch).len(), 2);
    scratch.run(&prune).done();
    assert_eq!(archives(&scratch).len(), 1);
}

#[test]
fn a_sudden_fall_alarms_until_it_is_over_or_accepted() {
    let scratch = small();
    backups(&scratch, &[9, 8, 7]);
    let prune = ["prune", "--yes", "--keep-last", "1"];
    let lose = |rows: u32| {
        std::fs::remove_file(scratch.db("k1")).unwrap();
        fill(&scratch.db("k1"), rows);
    };
    lose(3);
    // Longer than any median remembers.
    backups(&scratch, &[6, 5, 4, 3, 2, 1]);
    scratch.run(&["verify", "latest"]).done();
    scratch.run(&[&prune[..], &["--dry-run"]].concat()).done();
    scratch.run(&prune).done();
    assert_eq!(archives(&scratch).len(), 1, "the fall was long ago");

    let scratch = small();
    let lose = |rows: u32| {
        std::fs::remove_file(scratch.db("k1")).unwrap();
        fill(&scratch.db("k1"), rows);
    };
    backups(&scratch, &[9, 8, 7]);
    lose(3);
    backups(&scratch, &[6]);
    scratch.run(&["verify", "latest"]).done();
    scratch.run(&prune).failed(4, "has 3 rows");
    backups(&scratch, &[5, 4, 3, 2]);
    scratch.run(&["verify", "latest"]).done();
    scratch.run(&prune).failed(4, "before it were 30 rows");
    let never = [("K1OPS_BACKUP_SHRINK_ALARM", "0")];
    scratch.with(&never, &["prune", "--dry-run"]).done();
    lose(29);
    backups(&scratch, &[1]);
    scratch.run(&["prune", "--dry-run"]).done();
    lose(4);
    let last = backups(&scratch, &[0]);
    scratch.run(&["verify", "latest"]).done();
    scratch.run(&prune).failed(4, "--accept-shrink");
    scratch
        .run(&[&prune[..], &["--accept-shrink"]].concat())
        .done();
    assert_eq!(archives(&scratch), set(&last));
}

#[test]
fn wrong_rules_change_nothing_and_a_running_backup_is_left_alone() {
    let scratch = small();
    backups(&scratch, &[2, 1]);
    scratch
        .run(&["prune", "--keep-last", "0"])
        .failed(2, "no rule keeps any archive");
    scratch
        .run(&["prune", "--keep-within", "soon"])
        .failed(2, "\"soon\" is no span of time");
    let nowhere = [("K1OPS_TIMEZONE", "Mars/Base")];
    scratch
        .with(&nowhere, &["prune"])
        .failed(2, "there is no time zone \"Mars/Base\"");
    let lock = scratch.backups().join(".lock");
    let lock = k1ops::adapters::fs::Lock::exclusive(&lock, "backup of stack k1").unwrap();
    scratch
        .run(&["prune", "--yes"])
        .failed(5, "backup of stack k1");
    drop(lock);
    assert_eq!(archives(&scratch).len(), 2);
}

#[test]
fn a_kill_in_the_middle_leaves_whole_archives_and_the_next_run_goes_on() {
    let scratch = small();
    let days: Vec<i64> = (0..50).rev().collect();
    let names = backups(&scratch, &days);
    scratch.run(&["verify", "latest"]).done();
    let saved = scratch.path().join("saved");
    copy(&scratch.backups(), &saved);
    for attempt in 0.. {
        assert!(attempt < 50, "no kill came in the middle");
        let mut pruning = Command::new(env!("CARGO_BIN_EXE_k1ops"))
            .current_dir(scratch.path())
            .args(["prune", "--yes", "--quiet", "--keep-last", "2"])
            .spawn()
            .unwrap();
        let oldest = scratch.backups().join(&names[0]);
        while oldest.exists() && pruning.try_wait().unwrap().is_none() {
            std::hint::spin_loop();
        }
        pruning.kill().unwrap();
        pruning.wait().unwrap();
        let left = archives(&scratch);
        if left.len() > 2 && left.len() < names.len() {
            assert_eq!(
                left,
                set(&names[names.len() - left.len()..]),
                "oldest first"
            );
            break;
        }
        std::fs::remove_dir_all(scratch.backups()).unwrap();
        copy(&saved, &scratch.backups());
    }
    let listed = scratch.run(&["list", "--json"]).done().json();
    let listed = listed["archives"].as_array().unwrap();
    assert!(listed.iter().all(|entry| entry["state"] == "good"));
    scratch.run(&["prune", "--yes", "--keep-last", "2"]).done();
    assert_eq!(archives(&scratch), set(&names[48..]));
    scratch.run(&["verify", "latest"]).done();
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(status.unwrap().success());
}
