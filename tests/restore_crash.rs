//! `k1ops restore` and `undo`, killed at every step: the old data is there or the new is complete,
//! and the next run just works.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

mod scratch;

use k1ops::restore::crash::{STEPS, VARIABLE};
use scratch::{Scratch, dump, fill, integrity};

fn dumps(scratch: &Scratch) -> [String; 2] {
    ["conductor", "k1"].map(|name| dump(&scratch.db(name)))
}

/// Old data that differs from what is in the archive; answers what was backed up and what is there.
fn prepared() -> (Scratch, [String; 2], [String; 2]) {
    let scratch = Scratch::filled();
    let new = dumps(&scratch);
    scratch.backup();
    fill(&scratch.db("conductor"), 17);
    fill(&scratch.db("k1"), 3);
    let old = dumps(&scratch);
    (scratch, old, new)
}

/// Kills `arguments` at `step`; `false` if the run never came there.
fn kill_at(scratch: &Scratch, step: &str, arguments: &[&str]) -> bool {
    let said = scratch.with(&[(VARIABLE, step)], arguments);
    match said.code {
        None => true,
        Some(0) => false,
        Some(code) => panic!("{step}: exit {code}: {}", said.err),
    }
}

/// Steps with the visits that two databases make of some of them.
fn steps() -> Vec<String> {
    STEPS
        .iter()
        .flat_map(|step| [(*step).to_owned(), format!("{step}:2")])
        .collect()
}

/// No half-made file is left beside the live ones.
fn assert_tidy(scratch: &Scratch, step: &str) {
    for entry in std::fs::read_dir(scratch.data()).unwrap() {
        let path = entry.unwrap().path();
        let new = path.join("new");
        assert!(!new.exists(), "{step}: {} is left", new.display());
    }
}

#[test]
fn a_restore_that_dies_anywhere_is_as_before_or_completed_by_the_next_run() {
    let mut died = Vec::new();
    for step in steps() {
        let (scratch, old, new) = prepared();
        if !kill_at(&scratch, &step, &["restore", "latest", "--yes"]) {
            continue;
        }
        died.push(step.clone());
        let status = scratch.run(&["status"]);
        // The last note is written: from then on nothing is unfinished.
        let finished = step == "done-noted";
        let told = status.err.contains("died");
        assert_eq!(told, !finished, "{step}: {}", status.err);
        // The next run, whatever it is, puts it right first.
        scratch.run(&["backup"]).done();
        let now = dumps(&scratch);
        let before_the_swap = ["restoring-noted", "restored-beside", "checked"];
        if before_the_swap.iter().any(|s| step.starts_with(s)) {
            assert_eq!(now, old, "{step}");
        } else {
            assert_eq!(now, new, "{step}");
        }
        assert_tidy(&scratch, &step);
        assert!(!scratch.run(&["status"]).err.contains("died"), "{step}");
        // And the job itself can be done.
        let first = scratch.run(&["list", "--json"]).done().json();
        let archives = first["archives"].as_array().unwrap();
        let oldest = archives.last().unwrap()["name"].as_str().unwrap();
        scratch.run(&["restore", oldest, "--yes"]).done();
        assert_eq!(dumps(&scratch), new, "{step}");
        assert_eq!(integrity(&scratch.db("conductor")), "ok", "{step}");
    }
    let expected = [
        "restoring-noted",
        "restored-beside",
        "restored-beside:2",
        "checked",
        "swapping-noted",
        "old-moved",
        "old-moved:2",
        "sidecars-moved",
        "sidecars-moved:2",
        "old-noted",
        "old-noted:2",
        "new-moved",
        "new-moved:2",
        "swapped-noted",
        "done-noted",
    ];
    assert_eq!(died, expected, "every step without a server was died at");
}

#[test]
fn an_undo_that_dies_anywhere_loses_neither_side() {
    let mut deaths = 0;
    for step in steps() {
        let (scratch, old, new) = prepared();
        scratch
            .run(&["restore", "latest", "--yes", "--no-safety"])
            .done();
        if !kill_at(&scratch, &step, &["undo", "--yes"]) {
            continue;
        }
        deaths += 1;
        scratch.run(&["backup"]).done();
        let now = dumps(&scratch);
        assert!(now == old || now == new, "{step}: a mixture");
        let was_undone = now == old;
        assert!(was_undone, "{step}: its swap had begun");
        scratch.run(&["undo", "--yes"]).done();
        assert_eq!(dumps(&scratch), new, "{step}: the other side");
    }
    assert!(deaths >= 11, "{deaths}");
}

#[test]
fn a_recovery_that_dies_is_finished_by_the_one_after() {
    for (first, second) in [
        ("checked", "abandoned-half"),
        ("swapping-noted", "old-moved"),
        ("old-moved", "sidecars-moved"),
        ("sidecars-moved", "old-noted"),
        ("old-noted", "new-moved"),
        ("new-moved", "old-moved"),
        ("old-moved:2", "new-moved:2"),
        ("new-moved:2", "swapped-noted"),
    ] {
        let (scratch, old, new) = prepared();
        let restore = ["restore", "latest", "--yes"];
        assert!(kill_at(&scratch, first, &restore), "{first}");
        assert!(kill_at(&scratch, second, &["backup"]), "{first}, {second}");
        scratch.run(&["backup"]).done();
        let expected = if first == "checked" { old } else { new };
        assert_eq!(dumps(&scratch), expected, "{first}, {second}");
        assert_tidy(&scratch, first);
    }
}

#[test]
fn deleting_what_is_kept_survives_a_death_of_the_restore_before_it() {
    let (scratch, _, new) = prepared();
    assert!(kill_at(
        &scratch,
        "swapped-noted",
        &["restore", "latest", "--yes"]
    ));
    scratch.run(&["undo", "--discard", "--yes"]).done();
    assert_eq!(dumps(&scratch), new);
    assert_eq!(std::fs::read_dir(scratch.data()).unwrap().count(), 2);
}

#[test]
fn live_data_stays_where_it_is_if_what_was_to_replace_it_is_gone() {
    let (scratch, old, _) = prepared();
    let restore = ["restore", "latest", "--yes", "--no-safety"];
    assert!(kill_at(&scratch, "swapping-noted", &restore));
    for entry in std::fs::read_dir(scratch.data()).unwrap() {
        let new = entry.unwrap().path().join("new");
        if new.exists() {
            std::fs::remove_dir_all(new).unwrap();
        }
    }
    scratch.run(&["backup"]).done();
    assert_eq!(dumps(&scratch), old);
    assert!(!scratch.run(&["status"]).err.contains("died"));
}

#[test]
fn a_note_whose_writer_died_is_removed_by_the_next_run() {
    let (scratch, ..) = prepared();
    let folder = scratch.own().join("restores/20260101t000000z");
    std::fs::create_dir_all(&folder).unwrap();
    let half = folder.join(".k1ops-half");
    std::fs::write(&half, "{").unwrap();
    scratch.run(&["backup"]).done();
    assert!(!half.exists());
}
