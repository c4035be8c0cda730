//! `k1ops doctor` on faults that are really there: each is planted on a stack that is well, seen
//! named with its remedy, and, for what the guide's troubleshooting tells of, mended and seen gone.
//!
//! What is planted is real: processes on ports, PostgreSQL servers that are down, disks that are
//! full, containers that do not run. Doubles stand in only for a Docker engine that hangs and for
//! the `crontab` command, so that no user's own is touched.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests may stop at the first surprise, their helpers too, and say what they saw"
)]

use std::collections::BTreeSet;

mod backups;
mod bed;
mod bundle;
#[path = "../support/cluster.rs"]
mod cluster;
mod conductor;
mod docker;
mod host;
mod mend;
#[path = "../patience/mod.rs"]
mod patience;
mod postgres;
mod security;
#[path = "../support/mod.rs"]
mod support;

#[test]
fn every_check_is_documented_and_no_other() {
    let text = std::fs::read_to_string("docs/doctor.md").unwrap();
    let documented: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .map(|(name, _)| name)
        .collect();
    let checks = k1ops::doctor::registry();
    let known: BTreeSet<&str> = checks.iter().map(|check| check.name()).collect();
    assert_eq!(documented, known);
    assert_eq!(known.len(), checks.len());
    let readme = std::fs::read_to_string("README.md").unwrap();
    assert!(readme.contains(&format!("looks at {} things", checks.len())));
}
