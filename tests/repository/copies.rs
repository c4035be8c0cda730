//! Copies: the same archive in several places, whatever happens to one of them.

use crate::commands::filled;
use crate::killed::{Moment, kill_at_random};
use crate::scratch::{Scratch, dump, fill};
use crate::servers::{MAKES, Make, Server};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Folders beside the stack for copies of these names, and further configuration.
fn configure(scratch: &Scratch, folders: &[&str], more: &str) {
    let mut config = "tier = 'jar'\n".to_owned();
    for name in folders {
        std::fs::create_dir_all(scratch.path().join(name)).unwrap();
        config += &format!("[[repository.copies]]\nname = '{name}'\npath = '{name}'\n");
    }
    std::fs::write(scratch.path().join("k1ops.toml"), config + more).unwrap();
}

fn small() -> Scratch {
    let scratch = Scratch::new();
    fill(&scratch.db("k1"), 30);
    fill(&scratch.db("conductor"), 30);
    scratch
}

fn archives(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = paths
        .filter(|path| path.to_string_lossy().contains(".tar"))
        .collect();
    found.sort();
    found
}

fn names(folder: &Path) -> Vec<String> {
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    archives(folder).iter().map(name).collect()
}

fn digest(file: &Path) -> String {
    hex::encode(Sha256::digest(std::fs::read(file).unwrap()))
}

fn places<'a>(listed: &'a Value, name: &str) -> Vec<&'a str> {
    let archives = listed["archives"].as_array().unwrap();
    let found = archives.iter().find(|a| a["name"] == name).unwrap();
    let places = found["where"].as_array().unwrap();
    places.iter().map(|place| place.as_str().unwrap()).collect()
}

#[test]
fn a_backup_is_in_every_place_to_the_last_byte() {
    for make in MAKES {
        println!("on {make:?}");
        let server = Server::start(make);
        let scratch = Scratch::new();
        filled(&scratch);
        let far = server.place(scratch.path());
        let more = format!("[[repository.copies]]\nname = 'far'\n{far}");
        configure(&scratch, &["near"], &more);
        let said = scratch.run(&["backup", "--json"]).done().json();
        let archive = PathBuf::from(said["archive"].as_str().unwrap());
        let name = archive.file_name().unwrap().to_str().unwrap();
        assert_eq!(said["copies"][0]["copied"][0]["name"], name);
        assert_eq!(said["copies"][1]["missing"].as_array().unwrap().len(), 0);
        let near = scratch.path().join("near").join(name);
        assert_eq!(digest(&near), digest(&archive));
        assert_eq!(server.digest(&format!("of/k1/{name}")), digest(&archive));
        assert_eq!(server.uploads(), [""; 0]);

        let listed = scratch.run(&["list", "--json"]).done().json();
        assert_eq!(places(&listed, name), ["repository", "near", "far"]);
        let table = scratch.run(&["list"]).done().out;
        assert!(table.contains("repository, near, far"), "{table}");
        let of_far = scratch.run(&["list", "--copy", "far", "--json"]).done();
        assert_eq!(of_far.json()["archives"][0]["state"], "good");
        scratch.run(&["verify", "--from-copy", "far"]).done();
        let address = format!("s3://k1-archives/of/k1/{name}");
        scratch.run(&["verify", "--quick", &address]).done();

        let again = scratch.run(&["repo", "copy", "--json"]).done().json();
        for copy in again["copies"].as_array().unwrap() {
            assert_eq!(copy["copied"].as_array().unwrap().len(), 0, "{again}");
        }
    }
}

#[test]
fn a_copy_out_of_reach_leaves_a_good_backup_and_is_made_up_for() {
    let scratch = small();
    configure(&scratch, &["near", "usb"], "");
    let usb = scratch.path().join("usb");
    let away = scratch.path().join("away");
    std::fs::rename(&usb, &away).unwrap();
    let said = scratch.run(&["backup", "--json"]);
    assert_eq!(said.code, Some(7), "{}", said.err);
    assert!(said.err.contains("the copy usb is behind"), "{}", said.err);
    assert!(
        !usb.exists(),
        "a disk that is not mounted is not written beside"
    );
    let archive = PathBuf::from(said.json()["archive"].as_str().unwrap());
    scratch.run(&["verify", "latest"]).done();
    assert_eq!(names(&scratch.path().join("near")).len(), 1);
    scratch.run(&["repo", "copy"]).failed(7, "mkdir -m 700");

    std::fs::rename(&away, &usb).unwrap();
    let dry = scratch.run(&["repo", "copy", "--dry-run", "--json"]).done();
    assert_eq!(
        dry.json()["copies"][1]["missing"].as_array().unwrap().len(),
        1
    );
    assert!(archives(&usb).is_empty(), "a dry run copies nothing");
    let doctor = scratch.run(&["doctor", "--json"]).json();
    let titles: Vec<&str> = doctor["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|finding| finding["title"].as_str())
        .collect();
    assert!(
        titles.contains(&"the copy usb lacks 1 of 1 backups"),
        "{titles:?}"
    );
    scratch.run(&["repo", "copy"]).done();
    assert_eq!(digest(&archives(&usb)[0]), digest(&archive));
    let listed = scratch.run(&["list", "--json"]).done().json();
    let name = archive.file_name().unwrap().to_str().unwrap();
    assert_eq!(places(&listed, name), ["repository", "near", "usb"]);
}

#[test]
fn the_first_repository_is_lost_and_a_copy_brings_everything_back() {
    let server = Server::start(Make::Moto);
    let scratch = small();
    let far = server.place(scratch.path());
    let more = format!("[[repository.copies]]\nname = 'far'\n{far}");
    configure(&scratch, &[], &more);
    let before = ["conductor", "k1"].map(|name| dump(&scratch.db(name)));
    scratch.run(&["backup"]).done();
    std::fs::remove_dir_all(scratch.own()).unwrap();
    let said = scratch.run(&["restore", "latest", "--yes"]);
    let said = said.failed(3, "there is no good archive");
    assert!(said.err.contains("--from-copy far"), "{}", said.err);
    let restore = ["restore", "latest", "--from-copy", "far", "--yes"];
    scratch.run(&restore).done();
    assert_eq!(
        ["conductor", "k1"].map(|name| dump(&scratch.db(name))),
        before
    );
    scratch
        .run(&["restore", "latest", "--from-copy", "fra", "--yes"])
        .failed(2, "there is no copy \"fra\"");
}

#[test]
fn what_was_damaged_is_not_copied_and_a_good_copy_is_left_alone() {
    let scratch = small();
    configure(&scratch, &["near"], "");
    let archive = scratch.backup();
    let before = digest(&archive);
    let mut bytes = std::fs::read(&archive).unwrap();
    bytes[3000] ^= 1;
    std::fs::write(&archive, &bytes).unwrap();
    configure(&scratch, &["near", "new"], "");
    let said = scratch.run(&["repo", "copy"]);
    said.failed(7, "its bytes are not those that were written");
    assert!(archives(&scratch.path().join("new")).is_empty());
    assert_eq!(digest(&archives(&scratch.path().join("near"))[0]), before);
    scratch.run(&["verify", "--from-copy", "near"]).done();

    // The other way round, what is damaged in a copy is replaced.
    let archive = scratch.backup();
    let copy = scratch
        .path()
        .join("near")
        .join(archive.file_name().unwrap());
    std::fs::write(&copy, "junk").unwrap();
    scratch.run(&["repo", "copy"]).done();
    assert_eq!(digest(&copy), digest(&archive));

    // Two that are good and not the same are for somebody to decide.
    let other = archives(&scratch.backups()).remove(0);
    assert_ne!(other, archive);
    std::fs::copy(
        scratch.path().join("near").join(other.file_name().unwrap()),
        &copy,
    )
    .unwrap();
    let said = scratch.run(&["repo", "copy"]);
    said.failed(7, "are not the same there");
    assert_eq!(digest(&copy), before, "it is left alone");
}

#[test]
fn each_copy_is_pruned_by_the_same_rules_and_keeps_its_last() {
    let scratch = small();
    configure(&scratch, &["near", "usb"], "");
    for _ in 0..3 {
        scratch.backup();
    }
    scratch.run(&["verify", "latest"]).done();
    // What was found out reaches the copies with the next copying.
    scratch.run(&["repo", "copy"]).done();
    let [near, usb] = ["near", "usb"].map(|name| scratch.path().join(name));
    let away = scratch.path().join("away");
    std::fs::rename(&usb, &away).unwrap();
    let prune = ["prune", "--keep-last", "1", "--yes"];
    scratch.run(&prune).failed(7, "the copy usb is not pruned");
    assert_eq!(names(&scratch.backups()).len(), 1);
    assert_eq!(names(&near), names(&scratch.backups()));
    assert_eq!(names(&away).len(), 3);
    std::fs::rename(&away, &usb).unwrap();
    let dry = scratch.run(&["prune", "--keep-last", "1", "--dry-run"]);
    assert!(dry.done().out.contains("would delete 2 archives"));
    let said = scratch
        .run(&[&prune[..], &["--json"]].concat())
        .done()
        .json();
    assert_eq!(said["deleted"], 0);
    assert_eq!(said["copies"][1]["deleted"], 2);
    assert_eq!(names(&usb), names(&near));

    // A copy that is all that is left is judged by what it holds itself.
    std::fs::remove_dir_all(scratch.backups()).unwrap();
    scratch.run(&prune).done();
    assert_eq!(names(&usb).len(), 1);
    let listed = scratch.run(&["list", "--json"]).done().json();
    assert_eq!(places(&listed, &names(&usb)[0]), ["near", "usb"]);
}

#[test]
fn a_scheduled_run_alarms_and_does_the_rest_all_the_same() {
    let scratch = small();
    let quiet = "[schedule]\ndrill = 'never'\n";
    configure(&scratch, &["usb"], quiet);
    let usb = scratch.path().join("usb");
    std::fs::remove_dir(&usb).unwrap();
    scratch
        .run(&["schedule", "fire"])
        .failed(7, "the copy usb is behind");
    let record = std::fs::read_to_string(scratch.own().join("run/schedule.json")).unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    let run = &record["runs"][0];
    assert_eq!(run["behind"][0], "usb");
    assert_eq!(run["error"], "the copy usb is behind");
    let listed = scratch.run(&["list", "--json"]).done().json();
    assert_eq!(listed["archives"][0]["state"], "good");
    std::fs::create_dir(&usb).unwrap();
    scratch.run(&["schedule", "fire"]).done();
    assert_eq!(names(&usb).len(), 2);
}

#[test]
fn encrypted_archives_are_copied_without_a_key() {
    let scratch = small();
    let identity = age::x25519::Identity::generate();
    let public = identity.to_public();
    let sealed = format!("[encryption]\nrecipients = ['{public}']\n");
    configure(&scratch, &["near"], &sealed);
    let archive = scratch.backup();
    configure(&scratch, &["near", "new"], &sealed);
    scratch.run(&["repo", "copy"]).done();
    for copy in ["near", "new"] {
        let copy = scratch.path().join(copy);
        assert_eq!(digest(&archives(&copy)[0]), digest(&archive));
    }
}

#[test]
fn wrong_copies_are_refused() {
    let scratch = small();
    for (copies, said) in [
        ("[[repository.copies]]\n", "has no place"),
        (
            "[[repository.copies]]\npath = '.conductor/backups'\n",
            "archives are already",
        ),
        (
            "[[repository.copies]]\nname = 'a'\npath = 'x'\n[[repository.copies]]\nname = 'a'\npath = 'y'\n",
            "is named twice",
        ),
        (
            "[[repository.copies]]\nname = 'a b'\npath = 'x'\n",
            "not usable",
        ),
        (
            "[[repository.copies]]\npath = 'x'\nulr = 's3://b'\n",
            "`ulr`",
        ),
        (
            "[[repository.copies]]\npath = 'x'\nbandwidth = 'fast'\n",
            "is no rate",
        ),
    ] {
        configure(&scratch, &[], copies);
        std::fs::create_dir_all(scratch.path().join("x")).unwrap();
        std::fs::create_dir_all(scratch.backups()).unwrap();
        scratch.run(&["list"]).failed(2, said);
    }
}

#[test]
fn a_run_that_is_killed_leaves_nothing_that_counts_and_the_next_goes_on() {
    for make in MAKES {
        let server = Server::start(make);
        let scratch = Scratch::new();
        filled(&scratch);
        let archive = scratch.backup();
        let name = archive.file_name().unwrap().to_str().unwrap();
        let far = server.place(scratch.path());
        let more = format!("[[repository.copies]]\nname = 'far'\n{far}");
        configure(&scratch, &["near"], &more);
        let near = scratch.path().join("near");
        let begun = Instant::now();
        scratch.run(&["repo", "copy"]).done();
        let usual = begun.elapsed();
        let mut incomplete = 0;
        kill_at_random(&scratch, &["repo", "copy"], usual, |moment| {
            if moment == Moment::Before {
                for file in archives(&near) {
                    std::fs::remove_file(file).unwrap();
                }
                return server.remove(&format!("of/k1/{name}"));
            }
            for copy in ["near", "far"] {
                let listed = scratch.run(&["list", "--copy", copy, "--json"]).done();
                for archive in listed.json()["archives"].as_array().unwrap() {
                    let state = archive["state"].as_str().unwrap();
                    assert!(["good", "incomplete"].contains(&state), "{archive}");
                    incomplete += u32::from(state == "incomplete");
                }
            }
        });
        println!("{make:?}: {incomplete} incomplete were seen");
        scratch.run(&["repo", "copy"]).done();
        assert_eq!(server.uploads(), [""; 0]);
        assert_eq!(names(&near), [name]);
        assert_eq!(digest(&near.join(name)), digest(&archive));
        assert_eq!(server.digest(&format!("of/k1/{name}")), digest(&archive));
    }
}
