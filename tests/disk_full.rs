//! A disk that is really full: backups and restores on a small file system of their own, in a mount
//! namespace that goes away with the shell in it.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod scratch;
mod support;

use scratch::{Scratch, dump};
use std::process::{Command, Stdio};

/// Runs `script` with `K1` as the program, where `small FOLDER SIZE` puts a small disk on a folder.
fn shell(scratch: &Scratch, script: &str) -> String {
    let own = "set -eu
        small() { mkdir -p $1; mount -t tmpfs -o size=$2,mode=0700 none $1; }
        fails() { code=$1; shift; set +e; \"$@\" 2>said; got=$?; set -e; cat said >&2; test $got = $code; }
        nothing() { test -z \"$(find $1 -name '*.tar*')\"; }
        ";
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    let output = command
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg(format!("{own}{script}"))
        .current_dir(scratch.path())
        .env("K1", env!("CARGO_BIN_EXE_k1ops"))
        .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

/// Rows that no compression makes smaller, as `rows` of 10 KB.
fn fill_with_noise(scratch: &Scratch, rows: u32) {
    let connection = k1ops::adapters::sqlite::open_or_create(&scratch.db("k1")).unwrap();
    connection
        .execute_batch(&format!(
            "CREATE TABLE noise(id INTEGER PRIMARY KEY, body BLOB);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
             INSERT INTO noise SELECT i, randomblob(10000) FROM n;"
        ))
        .unwrap();
}

#[test]
fn a_backup_of_sqlite_that_does_not_fit_leaves_everything_as_it_was() {
    let scratch = Scratch::filled();
    fill_with_noise(&scratch, 500);
    let before = dump(&scratch.db("k1"));
    let said = shell(
        &scratch,
        "small .conductor/backups 100k
         fails 3 $K1 backup
         nothing .conductor/backups
         umount .conductor/backups
         small .conductor/backups 3m
         fails 3 $K1 backup
         nothing .conductor/backups
         $K1 list --json | grep '\"archives\": \\[\\]'
         mount -o remount,size=30m .conductor/backups
         $K1 backup
         $K1 verify",
    );
    assert!(said.contains("cannot fit into"), "{said}");
    assert!(said.contains("may take more"), "{said}");
    assert!(said.contains("No space left"), "{said}");
    assert_eq!(dump(&scratch.db("k1")), before);
}

#[test]
fn a_restore_of_sqlite_that_does_not_fit_is_refused_before_anything_is_done() {
    let scratch = Scratch::filled();
    fill_with_noise(&scratch, 500);
    let said = shell(
        &scratch,
        "$K1 backup
         cp -r .conductor/data kept
         small .conductor/data 8m
         cp kept/* .conductor/data/
         fails 3 $K1 restore latest --yes --no-safety
         for file in kept/*.db; do cmp $file .conductor/data/${file##*/}; done
         test -z \"$(ls -d .conductor/data/restore-* 2>/dev/null)\"",
    );
    assert!(said.contains("beside the old"), "{said}");
}

#[test]
fn a_backup_of_postgresql_that_does_not_fit_leaves_everything_as_it_was() {
    let database = support::scratch_database();
    database.run(
        "CREATE TABLE noise AS SELECT i, (SELECT string_agg(md5(random()::text || i || j), '')
            FROM generate_series(1, 250) j) AS body FROM generate_series(1, 1000) i",
    );
    let sum = "SELECT count(*) || md5(string_agg(body, '' ORDER BY i)) FROM noise";
    let before = database.column(sum);
    let scratch = Scratch::new();
    let config = format!("tier = 'jar'\n[database]\nurl = '{}'\n", database.url);
    std::fs::write(scratch.path().join("k1ops.toml"), config).unwrap();
    let said = shell(
        &scratch,
        "small .conductor/backups 100k
         fails 3 $K1 backup
         umount .conductor/backups
         small .conductor/backups 3m
         fails 3 $K1 backup
         nothing .conductor/backups
         mount -o remount,size=50m .conductor/backups
         $K1 backup
         $K1 verify",
    );
    assert!(said.contains("cannot fit into"), "{said}");
    assert!(said.contains("No space left"), "{said}");
    assert_eq!(database.column(sum), before);
}
