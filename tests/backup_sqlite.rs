//! `k1ops backup`, `list` and `verify` on real SQLite databases, some of them being written.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod scratch;

use k1ops::adapters::fs::Lock;
use k1ops::archive::Archive;
use k1ops::interrupt::Interrupt;
use scratch::{Busy, Scratch, count, dump, fill, integrity};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Unpacks the archive and runs the indented lines of its RESTORE.txt, as a person would.
fn restore_by_hand(archive: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let status = Command::new("tar")
        .arg("xf")
        .arg(archive)
        .current_dir(folder.path())
        .status()
        .unwrap();
    assert!(status.success());
    let text = std::fs::read_to_string(folder.path().join("RESTORE.txt")).unwrap();
    let script: String = text
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .flat_map(|line| [line, "\n"])
        .collect();
    let output = Command::new("sh")
        .arg("-c")
        .arg(&script)
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{script}\n{output:?}");
    folder
}

/// Joins the pages of a database with our own reader.
fn pages(archive: &Archive, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let folder = format!("sqlite/{name}");
    for member in archive.manifest().members_in(&folder) {
        archive
            .reader(member)
            .unwrap()
            .read_to_end(&mut bytes)
            .unwrap();
    }
    bytes
}

#[test]
fn a_backup_is_private_listed_and_whole_and_says_what_next() {
    let scratch = Scratch::filled();
    let said = scratch.run(&["backup"]).done();
    assert!(said.out.contains("restore it with: k1ops restore k1-k1-"));
    assert!(said.out.contains("450 rows"), "{}", said.out);
    let listed = scratch.run(&["list", "--json"]).done().json();
    let entry = &listed["archives"][0];
    assert_eq!(entry["state"], "good");
    assert_eq!(entry["rows"], 450);
    assert_eq!(
        entry["sources"],
        serde_json::json!(["config", "sqlite conductor", "sqlite k1"])
    );
    let path = PathBuf::from(entry["path"].as_str().unwrap());
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let verified = scratch.run(&["verify", "--json"]).done().json();
    assert_eq!(verified["verified"]["depth"], "full");
    assert_eq!(verified["verified"]["rows"], 450);
    let archive = Archive::open(&path).unwrap();
    assert_eq!(archive.manifest().members[1].path, "RESTORE.txt");
}

#[test]
fn a_backup_goes_to_a_bare_name_in_the_folder_one_is_in() {
    let scratch = Scratch::filled();
    scratch.run(&["backup", "--output", "mine.tar"]).done();
    scratch.run(&["verify", "mine.tar"]).done();
}

#[test]
fn restore_txt_gives_the_same_databases_with_tar_and_zstd_or_gzip_alone() {
    let scratch = Scratch::filled();
    for compression in ["zstd", "gzip"] {
        let file = scratch.path().join(format!("{compression}.tar"));
        let file = file.to_str().unwrap();
        let options = ["--output", file, "--compression", compression];
        let said = scratch
            .run(&[["backup"].as_slice(), &options].concat())
            .done();
        assert!(said.out.contains(&format!("k1ops restore {file}")));
        let unpacked = restore_by_hand(Path::new(file));
        for name in ["conductor", "k1"] {
            let copy = unpacked.path().join(format!("{name}.db"));
            assert_eq!(dump(&copy), dump(&scratch.db(name)));
        }
        let config = std::fs::read_to_string(unpacked.path().join("config/k1ops.toml")).unwrap();
        assert!(config.contains("tier = \"jar\""), "{config}");
    }
}

#[test]
fn a_backup_of_a_database_that_is_written_is_of_one_moment() {
    let scratch = Scratch::filled();
    let live = scratch.db("conductor");
    let busy = Busy::on(&live);
    Busy::wait_for(&live, 20);
    let mut before = 0;
    for _ in 0..5 {
        let archive = Archive::open(&scratch.backup()).unwrap();
        let copy = scratch.path().join("copy.db");
        std::fs::write(&copy, pages(&archive, "conductor")).unwrap();
        assert_eq!(integrity(&copy), "ok");
        let connection = k1ops::adapters::sqlite::open_existing(&copy).unwrap();
        let (lefts, rights): (i64, i64) = connection
            .query_row("SELECT sum(left_one), sum(right_one) FROM pair", [], |r| {
                Ok((r.get(0)?, r.get(1)?))
            })
            .unwrap();
        assert_eq!(lefts, rights, "half of a transaction is in the backup");
        let tables =
            k1ops::backup::sqlite::digest_tables(&connection, &Interrupt::default()).unwrap();
        let source = archive.manifest().sqlite().next().unwrap();
        assert_eq!(source.tables, tables);
        assert_eq!(integrity(&copy), "ok");
        let pairs = count(&copy, "pair");
        assert!(pairs > before, "the writer was held up");
        before = pairs;
    }
    let written = busy.stop();
    assert_eq!(count(&live, "pair"), written * 2);
}

#[test]
fn what_a_killed_server_left_in_its_log_is_in_the_backup() {
    let scratch = Scratch::filled();
    // A copy of a database and its log while they are open looks as after kill -9.
    let live = scratch.db("conductor");
    let connection = k1ops::adapters::sqlite::open_or_create(&live).unwrap();
    connection
        .execute_batch("PRAGMA wal_autocheckpoint = 0; INSERT INTO pair VALUES (1, 1), (2, 2)")
        .unwrap();
    let crashed = Scratch::new();
    std::fs::create_dir_all(crashed.data()).unwrap();
    for suffix in ["", "-wal"] {
        let name = format!("conductor.db{suffix}");
        std::fs::copy(scratch.data().join(&name), crashed.data().join(&name)).unwrap();
    }
    let before = crashed.hashes();
    let archive = Archive::open(&crashed.backup()).unwrap();
    let copy = scratch.path().join("copy.db");
    std::fs::write(&copy, pages(&archive, "conductor")).unwrap();
    assert_eq!(count(&copy, "pair"), 2);
    for (path, hash) in before {
        assert_eq!(crashed.hashes()[&path], hash, "a backup changes no data");
    }
}

#[test]
fn the_plan_is_what_is_done_and_does_nothing() {
    let scratch = Scratch::filled();
    let before = scratch.hashes();
    let plan = scratch
        .run(&["backup", "--dry-run", "--json"])
        .done()
        .json();
    assert_eq!(plan["sources"].as_array().unwrap().len(), 3);
    assert_eq!(scratch.hashes(), before);
    assert!(!scratch.backups().exists());
    let said = scratch.run(&["backup", "--dry-run"]).done();
    assert!(said.out.contains("would write"));
}

#[test]
fn nothing_to_back_up_is_said_and_leaves_nothing() {
    let scratch = Scratch::new();
    scratch
        .run(&["backup"])
        .failed(3, "stack k1 has no data to back up");
    assert!(!scratch.backups().exists());
    scratch.run(&["verify"]).failed(3, "no good archive");
    let said = scratch.run(&["list"]).done();
    assert!(said.out.contains("no archives"));
}

#[test]
fn an_output_that_exists_is_never_replaced() {
    let scratch = Scratch::filled();
    let file = scratch.path().join("mine.tar");
    std::fs::write(&file, "precious").unwrap();
    scratch
        .run(&["backup", "--output", "mine.tar"])
        .failed(6, "exists already");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    std::fs::write(scratch.path().join("other.tar.partial"), "half").unwrap();
    scratch
        .run(&["backup", "--output", "other.tar"])
        .failed(6, "other.tar.partial exists");
}

#[test]
fn a_dead_backups_leftover_is_shown_and_removed_by_the_next() {
    let scratch = Scratch::filled();
    std::fs::create_dir_all(scratch.backups()).unwrap();
    let leftover = scratch.backups().join("k1-k1-20200101T000000Z.tar.partial");
    std::fs::write(&leftover, "half").unwrap();
    let listed = scratch.run(&["list", "--json"]).done().json();
    assert_eq!(listed["archives"][0]["state"], "incomplete");
    assert_eq!(listed["archives"][0]["being_written"], false);
    scratch.run(&["verify"]).failed(3, "no good archive");
    let other =
        Lock::exclusive(&scratch.backups().join(".lock"), "backup of another stack").unwrap();
    let listed = scratch.run(&["list", "--json"]).done().json();
    assert_eq!(listed["archives"][0]["being_written"], true);
    scratch
        .run(&["backup"])
        .failed(5, "backup of another stack");
    assert!(leftover.exists());
    drop(other);
    scratch.backup();
    assert!(!leftover.exists());
}

#[test]
fn backups_of_one_second_get_names_of_their_own_and_latest_is_the_newest() {
    let scratch = Scratch::filled();
    let paths: Vec<PathBuf> = (0..4).map(|_| scratch.backup()).collect();
    let mut distinct = paths.clone();
    distinct.dedup();
    assert_eq!(distinct.len(), 4);
    let listed = scratch.run(&["list", "--json"]).done().json();
    let listed: Vec<&str> = listed["archives"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["path"].as_str().unwrap())
        .collect();
    let newest_first: Vec<&str> = paths.iter().rev().map(|p| p.to_str().unwrap()).collect();
    assert_eq!(listed, newest_first);
    let latest = scratch.run(&["verify", "--quick", "--json"]).done().json();
    assert_eq!(latest["path"], newest_first[0]);
    let name = paths[0].file_stem().unwrap().to_str().unwrap();
    let named = scratch.run(&["verify", name, "--json"]).done().json();
    assert_eq!(named["path"], paths[0].to_str().unwrap());
}

#[test]
fn damage_is_told_by_verify_and_list_with_exit_code_4() {
    let scratch = Scratch::filled();
    let path = scratch.backup();
    let whole = std::fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    std::fs::write(&path, &flipped).unwrap();
    scratch.run(&["verify"]).failed(4, "is damaged");
    for (bytes, said) in [
        (&whole[..whole.len() / 2], "truncated"),
        (&[][..], "empty"),
        (&[7; 4096][..], "not written by k1ops"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        scratch
            .run(&["verify", path.to_str().unwrap()])
            .failed(4, said);
        let listed = scratch.run(&["list", "--json"]).done().json();
        assert_eq!(listed["archives"][0]["state"], "unreadable");
        let reason = listed["archives"][0]["reason"].as_str().unwrap();
        assert!(reason.contains(said), "{reason}");
    }
}

#[test]
fn a_quick_look_finds_wrong_structure_and_says_what_it_does_not_prove() {
    let scratch = Scratch::filled();
    let path = scratch.backup();
    let whole = std::fs::read(&path).unwrap();
    let quick = scratch.run(&["verify", "--quick", "--json"]).done().json();
    assert_eq!(quick["verified"]["depth"], "quick");
    assert!(quick["unproven"].as_str().unwrap().contains("checksums"));
    let said = scratch.run(&["verify", "--quick"]).done().out;
    assert!(
        said.contains("rows by its manifest") && said.contains("not checked"),
        "{said}"
    );
    // A failure is noted even if a quick look found it; only a full one notes a proof.
    let proven = || {
        let notes = std::fs::read_dir(scratch.backups().join(".proofs"));
        notes.into_iter().flatten().any(|note| {
            let text = std::fs::read_to_string(note.unwrap().path()).unwrap();
            text.contains("\"verified_at\": \"2")
        })
    };
    assert!(!proven(), "a quick look is no proof");

    let archive = Archive::open(&path).unwrap();
    let members = &archive.manifest().members;
    let largest = members.iter().max_by_key(|m| m.size).unwrap();
    let (inside, header) = (largest.offset + largest.size / 2, largest.offset - 500);
    let change = |at: u64| {
        let mut changed = whole.clone();
        changed[usize::try_from(at).unwrap()] ^= 1;
        std::fs::write(&path, &changed).unwrap();
    };
    change(inside);
    scratch.run(&["verify", "--quick"]).done();
    scratch.run(&["verify"]).failed(4, &largest.path);
    change(header);
    scratch.run(&["verify", "--quick"]).failed(4, "tar header");
    let cut = whole.len() - 512;
    std::fs::write(&path, &whole[..cut]).unwrap();
    let file = path.to_str().unwrap();
    scratch
        .run(&["verify", "--quick", file])
        .failed(4, "truncated");
    std::fs::write(&path, &whole).unwrap();
    let full = scratch.run(&["verify", "--json"]).done().json();
    assert!(full["unproven"].is_null());
    assert!(proven(), "a full one is");
}

#[test]
fn a_database_that_is_no_database_fails_and_leaves_no_archive() {
    let scratch = Scratch::filled();
    std::fs::write(scratch.db("k1"), [9; 8192]).unwrap();
    scratch.run(&["backup"]).failed(4, "k1.db");
    assert_eq!(count_files(&scratch.backups()), 0);
    std::fs::remove_file(scratch.db("k1")).unwrap();
    fill(&scratch.db("k1"), 1);
    scratch.backup();
}

fn count_files(folder: &Path) -> usize {
    let files = std::fs::read_dir(folder).into_iter().flatten();
    files
        .filter(|f| {
            !f.as_ref()
                .unwrap()
                .file_name()
                .to_string_lossy()
                .starts_with('.')
        })
        .count()
}

/// A backup that takes every processor from a busy host is felt by all its users.
#[test]
fn a_busy_host_keeps_its_processors_unless_it_is_told_otherwise() {
    let scratch = Scratch::filled();
    let all = std::thread::available_parallelism().unwrap().get();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let jobs = |arguments: &[&str]| {
        let dry_run = ["backup", "--dry-run", "--json"];
        scratch
            .run(&[&dry_run[..], arguments].concat())
            .done()
            .json()["jobs"]
            .clone()
    };
    std::thread::scope(|threads| {
        for _ in 0..all * 2 {
            threads.spawn(|| {
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let (left, told) = (jobs(&[]), jobs(&["--jobs", "5"]));
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(left, 1);
        assert_eq!(told, 5);
    });
    // One thing at a time makes the same archive.
    let said = scratch
        .run(&["backup", "--jobs", "1", "--verify", "--json"])
        .done();
    let place = said.json()["archive"].as_str().unwrap().to_owned();
    scratch.run(&["verify", &place]).done();
}
