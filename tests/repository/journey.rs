//! What is done to a stack on a store of any kind: there and back, and killed on the way. The store is looked at
//! by what knows nothing of k1ops.

use crate::commands::filled;
use crate::killed::kill_at_random;
use crate::scratch::{Scratch, dump};
use std::time::Instant;

/// A backup to a store, everything that can be asked of it there, and a restore of it. `files` names what the
/// store holds of the stack.
pub fn there_and_back(scratch: &Scratch, scheme: &str, files: impl Fn() -> Vec<String>) {
    filled(scratch);
    let before = ["conductor", "k1"].map(|name| dump(&scratch.db(name)));
    let said = scratch.run(&["backup", "--json"]).done().json();
    let archive = said["archive"].as_str().unwrap();
    assert!(archive.starts_with(scheme), "{archive}");
    let name = archive.rsplit_once('/').unwrap().1;
    let mut there = files();
    there.retain(|file| file != ".proofs");
    assert_eq!(
        there,
        [name],
        "neither a lock nor what was sent beside stays"
    );
    let listed = scratch.run(&["list", "--json"]).done().json();
    assert_eq!(listed["archives"][0]["state"], "good");
    scratch.run(&["verify", "latest", "--quick"]).done();
    scratch.run(&["verify"]).done();
    scratch
        .run(&["query", "workflows", "--from", "latest"])
        .done();
    std::fs::remove_dir_all(scratch.data()).unwrap();
    scratch.run(&["restore", "latest", "--yes"]).done();
    assert_eq!(
        ["conductor", "k1"].map(|name| dump(&scratch.db(name))),
        before
    );
}

/// Backups that are killed on the way: none is ever seen as an archive, and the next one leaves nothing of them.
pub fn killed_on_the_way(scratch: &Scratch, files: impl Fn() -> Vec<String>) {
    filled(scratch);
    let begun = Instant::now();
    scratch.run(&["backup"]).done();
    let usual = begun.elapsed();
    kill_at_random(scratch, &["backup"], usual, |_| {
        let listed = scratch.run(&["list", "--json"]).done().json();
        for archive in listed["archives"].as_array().unwrap() {
            let state = archive["state"].as_str().unwrap();
            assert!(["good", "incomplete"].contains(&state), "{archive}");
        }
    });
    scratch.run(&["backup"]).done();
    let files = files();
    let is_left_over = |name: &String| name.ends_with("partial") || name == ".lock";
    assert!(!files.iter().any(is_left_over), "{files:?}");
    let archives: Vec<_> = files.iter().filter(|n| n.starts_with("k1-")).collect();
    assert!(!archives.is_empty());
    for name in archives {
        scratch.run(&["verify", name]).done();
    }
}
