//! Archives that are encrypted: by k1ops and by the program `age`, each read by the other.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

mod scratch;

use scratch::{Scratch, dump, fill};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A new pair of keys: the file with the private one, and the public one.
fn keys(folder: &Path, name: &str) -> (PathBuf, String) {
    let file = folder.join(name);
    let made = Command::new("age-keygen").arg("-o").arg(&file).output();
    assert!(made.unwrap().status.success());
    let shown = Command::new("age-keygen").arg("-y").arg(&file).output();
    let public = String::from_utf8(shown.unwrap().stdout).unwrap();
    (file, public.trim().to_owned())
}

fn age(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("age").args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    output.stdout
}

fn names_in(tar: &[u8]) -> Vec<String> {
    let mut child = Command::new("tar")
        .arg("t")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(tar).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn configure(scratch: &Scratch, encryption: &str) {
    let text = format!("tier = 'jar'\n[encryption]\n{encryption}\n");
    std::fs::write(scratch.path().join("k1ops.toml"), text).unwrap();
}

/// More than a chunk of age's and more than a part of ours.
fn filled() -> Scratch {
    let scratch = Scratch::filled();
    fill(&scratch.db("conductor"), 8000);
    scratch
}

fn dumps(scratch: &Scratch) -> [String; 2] {
    ["conductor", "k1"].map(|name| dump(&scratch.db(name)))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn who_writes_cannot_read_and_any_recipient_can() {
    let scratch = filled();
    let (first, public) = keys(scratch.path(), "first.txt");
    let (second, other) = keys(scratch.path(), "second.txt");
    let (stranger, _) = keys(scratch.path(), "stranger.txt");
    std::fs::write(scratch.path().join("more"), format!("# escrow\n{other}\n")).unwrap();
    configure(
        &scratch,
        &format!("recipients = ['{public}']\nrecipients_file = 'more'"),
    );
    let before = dumps(&scratch);
    let archive = scratch.backup();
    assert!(text(&archive).ends_with(".tar.age"));

    let listed = scratch.run(&["list", "--json"]).done().json();
    let entry = &listed["archives"][0];
    assert_eq!(entry["state"], "sealed");
    let mut recipients = [public.as_str(), &other];
    recipients.sort_unstable();
    assert_eq!(entry["recipients"], serde_json::json!(recipients));
    assert_eq!(entry["rows"], serde_json::Value::Null);
    for refused in [
        &["verify"][..],
        &["restore", "latest", "--yes"],
        &["query", "summary", "--from", "latest"],
        &["verify", "--identity", text(&stranger)],
    ] {
        let said = scratch.run(refused).failed(3, "is encrypted");
        assert!(
            said.err.contains(&public) && said.err.contains(&other),
            "{}",
            said.err
        );
    }
    for identity in [&first, &second] {
        let with = ["--identity", text(identity)];
        let run = |arguments: &[&str]| scratch.run(&[arguments, &with].concat()).done();
        run(&["verify", "--quick"]);
        assert_eq!(
            run(&["verify", "--json"]).json()["verified"]["depth"],
            "full"
        );
        assert_eq!(
            run(&["list", "--json"]).json()["archives"][0]["state"],
            "good"
        );
        std::fs::remove_dir_all(scratch.data()).unwrap();
        run(&["restore", "latest", "--yes"]);
        assert_eq!(dumps(&scratch), before);

        let names = names_in(&age(&["-d", "-i", text(identity), text(&archive)]));
        assert_eq!(names.first().unwrap(), "format.json");
        assert_eq!(names.last().unwrap(), "manifest.json");
    }
    let stored = std::fs::read(&archive).unwrap();
    for secret in ["manifest.json", "workflow", "k1ops.toml"] {
        assert!(memchr::memmem::find(&stored, secret.as_bytes()).is_none());
    }
}

#[test]
fn what_age_has_encrypted_is_read_and_restored() {
    let scratch = filled();
    let before = dumps(&scratch);
    let plain = scratch.path().join("plain.tar");
    scratch.run(&["backup", "--output", text(&plain)]).done();
    let (identity, public) = keys(scratch.path(), "key.txt");
    let sealed = scratch.path().join("sealed.tar.age");
    age(&["-r", &public, "-o", text(&sealed), text(&plain)]);
    let said = scratch
        .run(&["verify", text(&sealed)])
        .failed(3, "is encrypted");
    assert!(said.err.contains("does not say whose key"), "{}", said.err);
    let with = ["--identity", text(&identity)];
    scratch
        .run(&[&["verify", text(&sealed)], &with[..]].concat())
        .done();
    std::fs::remove_dir_all(scratch.data()).unwrap();
    let restore = ["restore", text(&sealed), "--yes"];
    scratch.run(&[&restore, &with[..]].concat()).done();
    assert_eq!(dumps(&scratch), before);
}

#[test]
fn a_passphrase_comes_from_a_file_or_the_environment_and_is_never_shown() {
    let scratch = Scratch::filled();
    std::fs::write(scratch.path().join("phrase"), "correct horse hunter2\n").unwrap();
    configure(&scratch, "passphrase = 'file:phrase'");
    let archive = scratch.backup();
    let verified = scratch.run(&["verify", "--json"]).done();
    assert_eq!(verified.json()["sources"][1], "sqlite conductor");
    configure(&scratch, "");
    let said = scratch.run(&["verify"]).failed(3, "is encrypted");
    assert!(
        said.err.contains("K1OPS_ENCRYPTION_PASSPHRASE"),
        "{}",
        said.err
    );
    let variable = "K1OPS_ENCRYPTION_PASSPHRASE";
    scratch
        .with(&[(variable, "correct horse hunter2")], &["verify"])
        .done();
    scratch
        .with(&[(variable, "wrong hunter2")], &["verify"])
        .failed(3, "is encrypted");
    let shown = scratch.with(&[(variable, "hunter2")], &["doctor", "--config"]);
    assert!(!shown.out.contains("hunter2"), "{}", shown.out);
    let plain = scratch.path().join("plain");
    let both = format!(
        "recipients = ['{}']\npassphrase = 'x'",
        keys(&plain_folder(&plain), "k").1
    );
    configure(&scratch, &both);
    scratch.run(&["backup"]).failed(2, "both set");
    assert!(archive.exists());
}

fn plain_folder(path: &Path) -> PathBuf {
    std::fs::create_dir_all(path).unwrap();
    path.to_path_buf()
}

#[test]
fn damage_is_damage_under_encryption_too() {
    let scratch = filled();
    let (identity, public) = keys(scratch.path(), "key.txt");
    configure(
        &scratch,
        &format!("recipients = ['{public}']\nidentity = 'key.txt'"),
    );
    let archive = scratch.backup();
    assert!(identity.exists());
    scratch.run(&["verify"]).done();
    let whole = std::fs::read(&archive).unwrap();
    let check = |bytes: &[u8], place: &str| {
        std::fs::write(&archive, bytes).unwrap();
        let code = scratch.run(&["verify", text(&archive)]).code;
        assert_eq!(code, Some(4), "{place}");
    };
    let middle = whole.len() / 2;
    for place in [300, middle, whole.len() - 20] {
        let mut bent = whole.clone();
        bent[place] ^= 1;
        // Within the header it may be that the key does not fit any more.
        if place > 1000 {
            check(&bent, &format!("bit at {place}"));
        } else {
            std::fs::write(&archive, &bent).unwrap();
            assert_ne!(scratch.run(&["verify", text(&archive)]).code, Some(0));
        }
    }
    check(&whole[..middle], "cut in the middle");
    let chunk = 65_536 + 16;
    let header = whole.len() % chunk;
    check(&whole[..header + chunk], "cut between chunks");
}

#[test]
fn whoever_prunes_needs_no_key() {
    let scratch = Scratch::filled();
    let (_, public) = keys(scratch.path(), "key.txt");
    configure(&scratch, &format!("recipients = ['{public}']"));
    for _ in 0..3 {
        scratch.backup();
    }
    let pruned = scratch.run(&["prune", "--keep-last", "1", "--yes", "--json"]);
    assert_eq!(pruned.done().json()["deleted"], 2);
    assert_eq!(
        scratch.run(&["list", "--json"]).done().json()["archives"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn rekeying_gives_every_archive_to_others_and_loses_none() {
    let scratch = Scratch::filled();
    let before = dumps(&scratch);
    let (first, public) = keys(scratch.path(), "first.txt");
    let (second, other) = keys(scratch.path(), "second.txt");
    scratch
        .run(&["repo", "rekey", "--yes"])
        .failed(2, "no key is configured");
    let plain = scratch.backup();
    configure(&scratch, &format!("recipients = ['{public}']"));
    scratch.backup();
    configure(&scratch, &format!("recipients = ['{other}']"));
    scratch.backup();

    let hashes = scratch.hashes();
    let with = ["--identity", text(&first)];
    let rekey = |more: &[&str]| scratch.run(&[&["repo", "rekey"], more, &with[..]].concat());
    let planned = rekey(&["--dry-run", "--json"]).done().json();
    let action = |place: usize| planned["archives"][place]["action"].clone();
    // Its own key is not among those here, but it is right as it is.
    assert_eq!(
        [action(0), action(1), action(2)],
        ["keep", "reencrypt", "encrypt"]
    );
    rekey(&[]).failed(6, "not confirmed");
    assert_eq!(scratch.hashes(), hashes, "without a yes nothing changes");
    let without = scratch
        .run(&["repo", "rekey", "--yes"])
        .failed(3, "1 archives could not");
    assert!(without.err.contains("--identity"), "{}", without.err);
    assert!(!plain.exists(), "it is replaced by its encrypted copy");
    rekey(&["--yes"]).done();

    let listed = scratch.run(&["list", "--json"]).done().json();
    let archives = listed["archives"].as_array().unwrap();
    assert_eq!(archives.len(), 3);
    for archive in archives {
        assert_eq!(archive["state"], "sealed");
        assert_eq!(archive["recipients"], serde_json::json!([other]));
        let name = archive["name"].as_str().unwrap();
        scratch
            .run(&["verify", name, "--identity", text(&first)])
            .failed(3, "is encrypted");
        scratch
            .run(&["verify", name, "--identity", text(&second)])
            .done();
    }
    std::fs::remove_dir_all(scratch.data()).unwrap();
    let oldest = archives[2]["name"].as_str().unwrap();
    let restore = ["restore", oldest, "--yes", "--identity", text(&second)];
    scratch.run(&restore).done();
    assert_eq!(dumps(&scratch), before);
}
