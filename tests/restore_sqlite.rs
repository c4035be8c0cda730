//! `k1ops restore` and `undo` on real SQLite databases.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

mod scratch;

use k1ops::adapters::fs::Lock;
use scratch::{Busy, Scratch, count, dump, fill, integrity};
use std::path::Path;

/// Both databases as text.
fn dumps(scratch: &Scratch) -> [String; 2] {
    ["conductor", "k1"].map(|name| dump(&scratch.db(name)))
}

fn change(scratch: &Scratch) {
    fill(&scratch.db("conductor"), 30);
    let connection = k1ops::adapters::sqlite::open_existing(&scratch.db("k1")).unwrap();
    connection
        .execute_batch("DELETE FROM workflow WHERE id % 2; UPDATE workflow SET name = 'changed'")
        .unwrap();
}

#[test]
fn what_was_lost_comes_back_equal() {
    let scratch = Scratch::filled();
    let before = dumps(&scratch);
    scratch.backup();
    std::fs::remove_dir_all(scratch.data()).unwrap();
    let said = scratch.run(&["restore", "latest", "--json"]).done().json();
    assert_eq!(said["safety_archive"], serde_json::Value::Null);
    assert_eq!(said["parts"][0]["what"], "sqlite conductor");
    assert_eq!(said["parts"][0]["rows"], 400);
    assert_eq!(said["requeue_pending"], true);
    assert_eq!(dumps(&scratch), before);
    assert_eq!(integrity(&scratch.db("conductor")), "ok");
}

#[test]
fn a_restore_asks_keeps_the_old_and_can_be_undone_and_redone() {
    let scratch = Scratch::filled();
    let backed_up = dumps(&scratch);
    scratch.backup();
    change(&scratch);
    let changed = dumps(&scratch);
    let hashes = scratch.hashes();
    scratch
        .run(&["restore", "latest"])
        .failed(6, "not confirmed");
    assert_eq!(scratch.hashes(), hashes, "without a yes nothing changes");
    let said = scratch.run(&["restore", "latest", "--yes"]).done();
    assert!(said.out.contains("the old data is kept"), "{}", said.out);
    assert!(said.out.contains("equal to the backup"), "{}", said.out);
    assert_eq!(dumps(&scratch), backed_up);
    scratch.run(&["undo"]).failed(6, "not confirmed");
    let said = scratch.run(&["undo", "--dry-run"]).done();
    assert!(said.out.contains("comes back from"), "{}", said.out);
    scratch.run(&["undo", "--yes"]).done();
    assert_eq!(dumps(&scratch), changed);
    scratch.run(&["undo", "--yes"]).done();
    assert_eq!(dumps(&scratch), backed_up);
}

#[test]
fn the_safety_archive_holds_what_was_replaced_and_is_not_the_latest() {
    let scratch = Scratch::filled();
    let archive = scratch.backup();
    change(&scratch);
    let changed = dumps(&scratch);
    let said = scratch
        .run(&["restore", "latest", "--yes", "--json"])
        .done()
        .json();
    let safety = said["safety_archive"].as_str().unwrap().to_owned();
    let latest = scratch.run(&["verify", "--json"]).done().json();
    assert_eq!(latest["path"], archive.to_str().unwrap());
    scratch.run(&["undo", "--discard", "--yes"]).done();
    scratch.run(&["undo", "--yes"]).failed(3, "nothing to undo");
    scratch.run(&["restore", &safety, "--yes"]).done();
    assert_eq!(dumps(&scratch), changed);
}

#[test]
fn discarding_deletes_what_is_kept_and_nothing_else() {
    let scratch = Scratch::filled();
    scratch.backup();
    scratch
        .run(&["restore", "latest", "--yes", "--no-safety"])
        .done();
    let live = dumps(&scratch);
    let kept = scratch
        .run(&["undo", "--discard", "--dry-run", "--json"])
        .done()
        .json();
    let place = kept["kept"][0]["places"][0].as_str().unwrap();
    assert!(Path::new(place).exists());
    scratch
        .run(&["undo", "--discard"])
        .failed(6, "not confirmed");
    assert!(Path::new(place).exists());
    scratch.run(&["undo", "--discard", "--yes"]).done();
    assert!(!Path::new(place).exists());
    assert_eq!(dumps(&scratch), live);
    let left = std::fs::read_dir(scratch.data()).unwrap().count();
    assert_eq!(left, 2, "only the two databases are left");
}

/// Nothing live needs what was to be deleted: that it cannot be must not cost the next backup.
#[test]
fn kept_data_that_cannot_be_deleted_is_told_of_and_stops_nothing() {
    let scratch = Scratch::filled();
    scratch.backup();
    scratch
        .run(&["restore", "latest", "--yes", "--no-safety"])
        .done();
    let kept = scratch.run(&["undo", "--discard", "--dry-run", "--json"]);
    let kept = kept.done().json();
    let place = Path::new(kept["kept"][0]["places"][0].as_str().unwrap()).to_path_buf();
    let aside = place.with_extension("aside");
    std::fs::rename(&place, &aside).unwrap();
    std::fs::create_dir_all(place.join("in the way")).unwrap();
    let discard = ["undo", "--discard", "--yes"];
    scratch.run(&discard).failed(1, "cannot be");

    let said = scratch.run(&["backup"]).done();
    assert!(
        said.err.contains("kept data that was to be deleted"),
        "{}",
        said.err
    );
    std::fs::remove_dir_all(&place).unwrap();
    std::fs::rename(&aside, &place).unwrap();
    let said = scratch.run(&["backup"]).done();
    assert!(said.err.contains("the rest was deleted"), "{}", said.err);
    assert!(!place.exists());
}

#[test]
fn undoing_a_restore_into_nothing_leaves_nothing_and_can_be_redone() {
    let scratch = Scratch::filled();
    let before = dumps(&scratch);
    scratch.backup();
    std::fs::remove_dir_all(scratch.data()).unwrap();
    scratch.run(&["restore", "latest"]).done();
    scratch.run(&["undo", "--yes"]).done();
    assert!(!scratch.db("conductor").exists());
    scratch.run(&["undo", "--yes"]).done();
    assert_eq!(dumps(&scratch), before);
}

#[test]
fn the_old_log_of_a_killed_server_never_meets_the_new_database() {
    let scratch = Scratch::filled();
    let backed_up = dumps(&scratch);
    scratch.backup();
    // As after kill -9: rows that are in the log only, and nobody who has the database open.
    let copies = tempfile::tempdir().unwrap();
    let suffixes = ["", "-wal"];
    let file = |folder: &Path, suffix: &str| folder.join(format!("conductor.db{suffix}"));
    {
        let live = scratch.db("conductor");
        let connection = k1ops::adapters::sqlite::open_or_create(&live).unwrap();
        connection
            .execute_batch("PRAGMA wal_autocheckpoint = 0; INSERT INTO pair VALUES (7, 7)")
            .unwrap();
        for suffix in suffixes {
            std::fs::copy(file(&scratch.data(), suffix), file(copies.path(), suffix)).unwrap();
        }
    }
    for suffix in suffixes {
        std::fs::copy(file(copies.path(), suffix), file(&scratch.data(), suffix)).unwrap();
    }
    scratch
        .run(&["restore", "latest", "--yes", "--no-safety"])
        .done();
    assert_eq!(dumps(&scratch), backed_up);
    scratch.run(&["undo", "--yes"]).done();
    assert_eq!(
        count(&scratch.db("conductor"), "pair"),
        1,
        "the row that was only in the log came back with it"
    );
}

#[test]
fn the_plan_of_a_dry_run_changes_nothing() {
    let scratch = Scratch::filled();
    scratch.backup();
    let before = scratch.hashes();
    let plan = scratch
        .run(&["restore", "latest", "--dry-run", "--json"])
        .done()
        .json();
    assert_eq!(plan["verified"]["depth"], "full");
    assert_eq!(plan["safety"], "archive");
    assert_eq!(plan["server"], "leave_stopped");
    assert_eq!(plan["parts"].as_array().unwrap().len(), 2);
    let said = scratch.run(&["restore", "latest", "--dry-run"]).done();
    assert!(said.out.contains("replaces, and keeps,"), "{}", said.out);
    assert_eq!(scratch.hashes(), before);
}

#[test]
fn one_part_can_be_restored_alone() {
    let scratch = Scratch::filled();
    let before = dumps(&scratch);
    scratch.backup();
    change(&scratch);
    let changed = dumps(&scratch);
    scratch
        .run(&["restore", "latest", "--yes", "--only", "k1"])
        .done();
    assert_eq!(dumps(&scratch), [changed[0].clone(), before[1].clone()]);
    scratch
        .run(&["restore", "latest", "--yes", "--only", "postgres"])
        .failed(4, "holds nothing of what is to be restored");
    scratch
        .run(&["restore", "latest", "--only", "everything"])
        .failed(2, "is none of postgres");
}

#[test]
fn every_kind_of_damage_is_exit_code_4_and_changes_nothing() {
    let scratch = Scratch::filled();
    let whole = std::fs::read(scratch.backup()).unwrap();
    let file = scratch.path().join("damaged.tar");
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    let mut newer = whole.clone();
    let at = whole.windows(10).position(|w| w == b"\"format\":1");
    newer[at.unwrap() + 9] = b'9';
    let foreign = std::fs::read(scratch.db("k1")).unwrap();
    let before = scratch.hashes();
    let kinds: [(&str, &[u8], &str); 7] = [
        ("truncated", &whole[..whole.len() / 2], "truncated"),
        ("its end cut", &whole[..whole.len() - 512], "truncated"),
        ("bit-flipped", &flipped, "is damaged"),
        ("empty", b"", "is empty"),
        ("a database file", &foreign, "not written by k1ops"),
        ("a dump", b"-- PostgreSQL database dump\n", "is not whole"),
        ("newer", &newer, "has format 9"),
    ];
    for (kind, bytes, said) in kinds {
        std::fs::write(&file, bytes).unwrap();
        for extra in ["--yes", "--dry-run"] {
            scratch
                .run(&["restore", "./damaged.tar", extra])
                .failed(4, said);
            assert_eq!(scratch.hashes(), before, "{kind}");
        }
    }
    scratch
        .run(&["restore", "nosuch", "--yes"])
        .failed(3, "there is no archive");
    assert_eq!(scratch.hashes(), before);
}

#[test]
fn present_data_that_cannot_be_saved_stops_the_restore_unless_told_to_go_on() {
    let scratch = Scratch::filled();
    let good = dumps(&scratch);
    scratch.backup();
    let garbage = vec![9; 8192];
    std::fs::write(scratch.db("k1"), &garbage).unwrap();
    let before = scratch.hashes();
    scratch
        .run(&["restore", "latest", "--yes"])
        .failed(4, "--no-safety");
    assert_eq!(scratch.hashes(), before);
    scratch
        .run(&["restore", "latest", "--yes", "--no-safety"])
        .done();
    assert_eq!(dumps(&scratch), good);
    scratch.run(&["undo", "--yes"]).done();
    assert_eq!(
        std::fs::read(scratch.db("k1")).unwrap(),
        garbage,
        "even garbage comes back to the byte"
    );
}

#[test]
fn a_database_that_somebody_has_open_is_not_pulled_from_under_them() {
    let scratch = Scratch::filled();
    scratch.backup();
    let live = scratch.db("conductor");
    let busy = Busy::on(&live);
    Busy::wait_for(&live, 2);
    let own = std::process::id();
    scratch
        .run(&["restore", "latest", "--yes"])
        .failed(3, &format!("process {own} has"));
    let written = busy.stop();
    assert_eq!(count(&live, "pair"), written * 2, "no row was lost");
    let mut entries = std::fs::read_dir(scratch.data()).unwrap();
    let left = entries.any(|e| {
        e.unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with("restore-")
    });
    assert!(!left, "what was restored beside it is removed");
    scratch.run(&["restore", "latest", "--yes"]).done();
}

#[test]
fn one_run_at_a_time() {
    let scratch = Scratch::filled();
    scratch.backup();
    let before = scratch.hashes();
    let lock = scratch.own().join("run/data.lock");
    let other = Lock::exclusive(&lock, "the other restore").unwrap();
    for arguments in [
        ["restore", "latest", "--yes"].as_slice(),
        &["undo", "--yes"],
        &["backup"],
    ] {
        scratch.run(arguments).failed(5, "the other restore");
    }
    drop(other);
    assert_eq!(scratch.hashes(), before);
    let _reader = Lock::shared(&lock).unwrap();
    scratch.run(&["restore", "latest", "--yes"]).failed(5, "");
    scratch.run(&["backup"]).done();
}

#[test]
fn an_archive_of_files_is_no_archive_of_a_server() {
    let scratch = Scratch::filled();
    scratch.backup();
    let before = scratch.hashes();
    let url = "postgres://nobody@127.0.0.1:1/nothing";
    let variables = [("K1OPS_DATABASE_URL", url)];
    scratch
        .with(&variables, &["restore", "latest", "--yes"])
        .failed(4, "keeps its data in PostgreSQL");
    assert_eq!(scratch.hashes(), before);
}

#[test]
fn a_table_or_a_database_comes_back_into_a_file_of_its_own() {
    let scratch = Scratch::filled();
    let connection = k1ops::adapters::sqlite::open_existing(&scratch.db("conductor")).unwrap();
    connection
        .execute_batch(
            "CREATE VIEW named AS SELECT name FROM workflow;
             CREATE TRIGGER t AFTER INSERT ON workflow BEGIN INSERT INTO pair VALUES (1, 2); END;",
        )
        .unwrap();
    drop(connection);
    let whole = dump(&scratch.db("conductor"));
    let archive = scratch.backup();
    let archive = archive.to_str().unwrap();
    change(&scratch);
    let live = dumps(&scratch);
    let (one, all) = (scratch.path().join("one.db"), scratch.path().join("all.db"));
    let (one_name, all_name) = (one.to_str().unwrap(), all.to_str().unwrap());
    let table = [
        "restore",
        archive,
        "--only",
        "conductor:workflow",
        "--as",
        one_name,
    ];
    let plan = scratch
        .run(&[&table[..], &["--dry-run", "--json"]].concat())
        .done()
        .json();
    assert_eq!((plan["rows"].as_u64(), one.exists()), (Some(400), false));
    // Killed at any point, nothing half made stays.
    for step in ["restoring-noted", "restored-beside"] {
        let said = scratch.with(&[(k1ops::restore::crash::VARIABLE, step)], &table);
        assert_eq!(said.code, None, "{step}");
        scratch.backup();
        assert_eq!(hidden(scratch.path()), 0, "{step}");
    }
    scratch.run(&table).done();
    assert_eq!(count(&one, "workflow"), 400);
    assert_eq!(integrity(&one), "ok");
    let made = k1ops::adapters::sqlite::open_read_only(&one).unwrap();
    let names = "SELECT group_concat(name) FROM (SELECT name FROM sqlite_schema ORDER BY name)";
    let names: String = made.query_row(names, [], |row| row.get(0)).unwrap();
    assert_eq!(names, "by_name,workflow");
    scratch.run(&table).failed(6, "there already");
    scratch
        .run(&["restore", archive, "--only", "conductor", "--as", all_name])
        .done();
    assert_eq!(dump(&all), whole);
    assert_eq!(hidden(scratch.path()), 0);
    assert_eq!(dumps(&scratch), live, "what is live is not touched");
    for (only, said) in [
        ("conductor:workfow", "conductor:workflow"),
        ("sqlite", "holds more"),
    ] {
        let file = scratch.path().join("no.db");
        let arguments = [
            "restore",
            archive,
            "--only",
            only,
            "--as",
            file.to_str().unwrap(),
        ];
        scratch.run(&arguments).failed(2, said);
    }
    scratch
        .run(&["restore", archive, "--only", "conductor:workflow"])
        .failed(2, "--as");
}

/// Folders of a restore's own.
fn hidden(folder: &Path) -> usize {
    std::fs::read_dir(folder)
        .unwrap()
        .filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with(".k1ops-")
        })
        .count()
}
