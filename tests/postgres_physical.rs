//! Physical backup and restore of real `PostgreSQL` servers, with `pg_verifybackup`, `pg_amcheck`
//! and a server that starts on what was restored as the judges.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/double.rs"]
mod double;
mod support;

use cluster::{Cluster, address_at, as_postgres, program, scratch_folder, succeed};
use double::{Double, Fault};
use futures_util::{StreamExt, pin_mut};
use k1ops::adapters::postgres::Address;
use k1ops::archive::{
    Archive, CodecSettings, Depth, Effort, FORMAT, Header, Manifest, NewMember, PhysicalSource,
    Source, Verified, Writer, verify,
};
use k1ops::backup::physical as backup;
use k1ops::config::Compression;
use k1ops::error::{Error, ErrorKind, Result};
use k1ops::event::Events;
use k1ops::interrupt::Interrupt;
use k1ops::restore::physical as restore;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const VOLUME: &str = "conductor_postgres_data";

fn writer(place: &Path) -> Writer {
    let header = Header {
        format: FORMAT,
        tool: "test".into(),
        stack: "k1".into(),
        started_at: chrono::Utc::now(),
    };
    Writer::create(place, header, CodecSettings::of(Compression::Zstd, 0), 2).unwrap()
}

async fn finish(writer: &Writer, source: PhysicalSource) -> Manifest {
    let manifest = Manifest {
        header: writer.header().clone(),
        finished_at: chrono::Utc::now(),
        tier: None,
        conductor_version: "3.32.1".into(),
        images: std::collections::BTreeMap::new(),
        sources: vec![Source::Physical(source)],
        left_out: vec![],
        members: vec![],
    };
    writer.finish(manifest).await.unwrap()
}

async fn take(address: &Address, place: &Path) -> Result<PhysicalSource> {
    let writer = writer(place);
    let (events, interrupt) = (Events::silent(), Interrupt::default());
    let source = backup::take(&writer, address, VOLUME, &events, &interrupt).await?;
    finish(&writer, source.clone()).await;
    Ok(source)
}

async fn verify_fully(place: &Path) -> Result<Verified> {
    let archive = Archive::open(place)?;
    let (events, interrupt) = (Events::silent(), Interrupt::default());
    verify(&archive, Depth::Full, 2, &events, &interrupt).await
}

async fn restore_into(
    place: &Path,
    data: &Path,
    tablespaces: &[(&Path, &Path)],
) -> Result<restore::Restored> {
    let archive = Archive::open(place)?;
    let source = restore::source(&archive, VOLUME)?.clone();
    let tablespaces: BTreeMap<String, PathBuf> = tablespaces
        .iter()
        .map(|(from, to)| (from.display().to_string(), to.to_path_buf()))
        .collect();
    let options = restore::Options {
        jobs: 2,
        tablespaces,
        recovery: None,
    };
    let (events, interrupt) = (Events::silent(), Interrupt::default());
    restore::restore(&archive, &source, data, &options, &events, &interrupt).await
}

fn verify_backup(data: &Path, arguments: &[&str]) {
    let output = succeed(as_postgres("pg_verifybackup").args(arguments).arg(data));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("backup successfully verified"), "{said}");
}

/// Nothing of an archive may be left in `folder`.
fn assert_no_archive(folder: &Path) {
    let left: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A temporary slot goes when the server has noticed that its connection has ended.
#[track_caller]
fn until_no_slot_is_left(live: &Cluster) {
    let slots = "SELECT count(*) FROM pg_replication_slots";
    until_it_says(live, slots, "0", 60, "the slot outlives its connection");
}

/// Asks until the answer is `wanted`, and is `otherwise` after so many seconds.
#[track_caller]
fn until_it_says(live: &Cluster, sql: &str, wanted: &str, seconds: u64, otherwise: &str) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    while live.sql(sql) != wanted {
        assert!(std::time::Instant::now() < deadline, "{otherwise}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_starts_and_is_consistent_three_times() {
    let live = Cluster::create("max_wal_size=64MB\nmin_wal_size=32MB", "");
    succeed(&mut live.pgbench(&["--initialize", "--quiet", "--scale=4"]));
    let mut load = live
        .pgbench(&["--client=4", "--time=3600"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let folder = scratch_folder();
    for round in 0..3 {
        let place = folder.path().join(format!("{round}.tar"));
        let before: u64 = live
            .sql("SELECT count(*) FROM pgbench_history")
            .parse()
            .unwrap();
        let source = take(&live.address("postgres", ""), &place).await.unwrap();
        let after: u64 = live
            .sql("SELECT count(*) FROM pgbench_history")
            .parse()
            .unwrap();
        assert!(after > before, "nothing was written during the backup");
        assert_eq!(
            live.sql("SELECT system_identifier FROM pg_control_system()"),
            source.system_identifier
        );
        until_no_slot_is_left(&live);
        verify_fully(&place).await.unwrap();

        let data = folder.path().join(format!("data{round}"));
        let restored = restore_into(&place, &data, &[]).await.unwrap();
        assert_eq!(restored.files, source.files);
        verify_backup(&data, &[]);
        let copy = Cluster::on(&data);
        let (sums, rows) = (
            copy.sql(
                "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history),
                        (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(delta) FROM pgbench_history),
                        (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(delta) FROM pgbench_history),
                        (SELECT count(*) FROM pgbench_accounts)",
            ),
            copy.sql("SELECT count(*) FROM pgbench_history"),
        );
        assert_eq!(sums, "t|t|t|400000", "round {round}");
        let rows: u64 = rows.parse().unwrap();
        assert!(
            (before..=after).contains(&rows),
            "{before} <= {rows} <= {after}"
        );
        succeed(
            Command::new(program("pg_amcheck"))
                .args([
                    "--all",
                    "--install-missing",
                    "--heapallindexed",
                    "-h",
                    "127.0.0.1",
                ])
                .args(["-U", "postgres", "-p", &copy.port.to_string()]),
        );
    }
    load.kill().unwrap();
    load.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_of_every_kind_work_and_refusals_say_what_to_do() {
    let hba = "
        host replication scrammed 127.0.0.1/32 scram-sha-256
        host replication hashed 127.0.0.1/32 md5
        host replication open 127.0.0.1/32 password
        host replication unlisted 127.0.0.1/32 reject";
    let live = Cluster::create("", hba);
    live.sql(
        "CREATE ROLE scrammed LOGIN REPLICATION PASSWORD 'ri/ght';
         SET password_encryption = 'md5';
         CREATE ROLE hashed LOGIN REPLICATION PASSWORD 'right';
         CREATE ROLE open LOGIN REPLICATION PASSWORD 'right';
         CREATE ROLE unlisted LOGIN REPLICATION;
         CREATE ROLE reader LOGIN",
    );
    encrypt(&live);
    let folder = scratch_folder();
    let mut number = 0;
    let mut next = || {
        number += 1;
        folder.path().join(format!("{number}.tar"))
    };
    let socket = live
        .socket_folder()
        .display()
        .to_string()
        .replace('/', "%2F");
    let port = live.port;
    for url in [
        "scrammed:ri%2Fght@127.0.0.1:PORT/postgres?sslmode=disable",
        "scrammed:ri%2Fght@127.0.0.1:PORT/postgres?sslmode=require&channel_binding=require",
        "hashed:right@127.0.0.1:PORT/postgres?sslmode=disable",
        "open:right@127.0.0.1:PORT/postgres?sslmode=require",
        "postgres@SOCKET:PORT/postgres",
    ] {
        let url = url
            .replace("PORT", &port.to_string())
            .replace("SOCKET", &socket);
        let address = support::address(&format!("postgres://{url}"));
        let place = next();
        take(&address, &place)
            .await
            .unwrap_or_else(|e| panic!("{url}: {e} {:?}", e.causes()));
    }
    for (login, query, kind, hint) in [
        ("scrammed:wrong", "", ErrorKind::Usage, "password"),
        ("hashed:wrong", "", ErrorKind::Usage, "password"),
        ("scrammed", "", ErrorKind::Usage, "password_file"),
        (
            "open:right",
            "?sslmode=disable",
            ErrorKind::Refused,
            "scram-sha-256",
        ),
        ("unlisted", "", ErrorKind::Missing, "pg_hba.conf"),
        ("reader", "", ErrorKind::Missing, "REPLICATION"),
    ] {
        let place = next();
        let error = take(&live.address(login, query), &place).await.unwrap_err();
        assert_refused(&error, kind, hint);
        assert!(!error.to_string().contains("wrong"), "{error}");
        assert!(!place.exists());
    }
    let error = take(&address_at(1, "postgres", ""), &next())
        .await
        .unwrap_err();
    assert_refused(&error, ErrorKind::Missing, "database.url");
}

/// Gives the server a certificate of its own, and TLS.
fn encrypt(live: &Cluster) {
    let (key, certificate) = (live.data.join("server.key"), live.data.join("server.crt"));
    succeed(
        Command::new("openssl")
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            ])
            .args(["-subj", "/CN=localhost", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate),
    );
    cluster::give_to_postgres(&key);
    cluster::give_to_postgres(&certificate);
    live.sql("ALTER SYSTEM SET ssl = on");
    live.sql("SELECT pg_reload_conf()");
    let otherwise = "the server does not take TLS up";
    until_it_says(live, "SHOW ssl", "on", 30, otherwise);
}

fn assert_refused(error: &Error, kind: ErrorKind, hint: &str) {
    assert_eq!(error.kind(), kind, "{error} {:?}", error.causes());
    let said = error.hint_text().unwrap_or_default();
    assert!(said.contains(hint), "{error}: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_replicate_says_what_to_set() {
    let folder = scratch_folder();
    let none = Cluster::create("wal_level=minimal\nmax_wal_senders=0", "");
    let place = folder.path().join("a.tar");
    let error = take(&none.address("postgres", ""), &place)
        .await
        .unwrap_err();
    assert_refused(&error, ErrorKind::Missing, "max_wal_senders");
    assert_no_archive(folder.path());
    drop(none);

    // Without a slot the backup still works, and says what is weaker about it.
    let slotless = Cluster::create("max_replication_slots=0", "");
    let warnings = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let heard = warnings.clone();
    let events = Events::new(move |event| {
        if let k1ops::event::Event::Warning { message, .. } = event {
            heard.lock().unwrap().push(message);
        }
    });
    let writer = writer(&place);
    let address = slotless.address("postgres", "");
    let source = backup::take(&writer, &address, VOLUME, &events, &Interrupt::default())
        .await
        .unwrap();
    finish(&writer, source).await;
    let warnings = warnings.lock().unwrap();
    assert!(
        warnings.iter().any(|w| w.contains("max_replication_slots")),
        "{warnings:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_early_leaves_no_archive() {
    let live = Cluster::create("", "");
    let folder = scratch_folder();
    for fault in [
        Fault::CutAfter(0),
        Fault::CutAfter(9_000_000),
        Fault::EndAfter(9_000_000),
        Fault::NoManifest,
        Fault::NoEndPosition,
    ] {
        let double = Double::of(live.port, fault);
        let place = folder.path().join("a.tar");
        let address = address_at(double.port, "postgres", "?sslmode=disable");
        let error = take(&address, &place).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Failed, "{fault:?}: {error}");
        assert!(
            error.to_string().contains("base backup"),
            "{fault:?}: {error}"
        );
        assert_no_archive(folder.path());
    }
    // What was interrupted leaves no archive either, and no slot on the server.
    let mut double = Double::of(live.port, Fault::StallAfter(9_000_000));
    let writer = writer(&folder.path().join("a.tar"));
    let (events, interrupt) = (Events::silent(), Interrupt::default());
    let address = address_at(double.port, "postgres", "?sslmode=disable");
    let (result, ()) = tokio::join!(
        backup::take(&writer, &address, VOLUME, &events, &interrupt),
        async {
            (&mut double.stalled).await.unwrap();
            assert_eq!(live.sql("SELECT count(*) FROM pg_replication_slots"), "1");
            interrupt.raise();
        }
    );
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Interrupted);
    drop(writer);
    assert_no_archive(folder.path());
    until_no_slot_is_left(&live);
}

#[tokio::test(flavor = "multi_thread")]
async fn tablespaces_go_where_the_user_says() {
    let live = Cluster::create("", "");
    let folder = scratch_folder();
    let old = folder.path().join("old space");
    std::fs::create_dir(&old).unwrap();
    cluster::give_to_postgres(&old);
    live.sql(&format!(
        "CREATE TABLESPACE fast LOCATION '{}'",
        old.display()
    ));
    live.sql(
        "CREATE TABLE t TABLESPACE fast AS SELECT i, md5(i::text) FROM generate_series(1, 50000) i",
    );
    let digest = "SELECT md5(string_agg(md5, '' ORDER BY i)) FROM t";
    let before = live.sql(digest);
    let place = folder.path().join("a.tar");
    let source = take(&live.address("postgres", ""), &place).await.unwrap();
    assert_eq!(source.archives.len(), 2);
    verify_fully(&place).await.unwrap();

    let (data, new) = (folder.path().join("data"), folder.path().join("new space"));
    let error = restore_into(&place, &data, &[]).await.unwrap_err();
    assert_refused(&error, ErrorKind::Refused, "empty folder");
    assert!(error.to_string().contains("old space"), "{error}");
    let error = restore_into(&place, &data, &[(&old, &old)])
        .await
        .unwrap_err();
    assert_refused(&error, ErrorKind::Refused, "another folder");
    let error = restore_into(&place, &data, &[(&old, &data.join("inside"))])
        .await
        .unwrap_err();
    assert_refused(&error, ErrorKind::Usage, "folder of its own");
    assert!(!data.exists());

    restore_into(&place, &data, &[(&old, &new)]).await.unwrap();
    verify_backup(&data, &["--ignore=tablespace_map"]);
    drop(live);
    std::fs::remove_dir_all(&old).unwrap();
    let copy = Cluster::on(&data);
    assert_eq!(copy.sql(digest), before);
}

/// A forgery of a tar.
type Change = fn(&mut Vec<u8>);

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_and_a_failed_restore_leaves_nothing() {
    let live = Cluster::create("", "");
    let folder = scratch_folder();
    let place = folder.path().join("a.tar");
    let source = take(&live.address("postgres", ""), &place).await.unwrap();
    drop(live);
    let archive = Archive::open(&place).unwrap();
    let parts: Vec<_> = archive.manifest().members_in("volumes").cloned().collect();
    let part = parts
        .iter()
        .find(|m| m.path.contains("base/000001"))
        .unwrap();

    // A flipped bit in what is stored.
    let mut bytes = std::fs::read(&place).unwrap();
    bytes[usize::try_from(part.offset + part.size / 2).unwrap()] ^= 1;
    let damaged = folder.path().join("damaged.tar");
    std::fs::write(&damaged, bytes).unwrap();
    let data = folder.path().join("data");
    for error in [
        verify_fully(&damaged).await.unwrap_err(),
        restore_into(&damaged, &data, &[]).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::BadData, "{error}");
        assert!(error.to_string().contains("base/000001"), "{error}");
    }
    assert!(!data.exists());

    // Archives whose every checksum of ours is right, but which are not what the server sent.
    let changes: [(&str, Change); 3] = [
        ("another checksum", |tar| {
            let at = find(tar, "base/1/1259");
            tar[at + 512 + 100] ^= 1;
        }),
        ("is not in the server's manifest", |tar| {
            let at = find(tar, "base/1/1259");
            rename(&mut tar[at..at + 512], "base/1/9999999");
        }),
        ("a path that leads elsewhere", |tar| {
            let at = find(tar, "base/1/1259");
            rename(&mut tar[at..at + 512], "../../escaped");
        }),
    ];
    for (said, change) in changes {
        let forged = folder.path().join("forged.tar");
        forge(&archive, &source, &forged, change).await;
        let errors = [
            verify_fully(&forged).await.unwrap_err(),
            restore_into(&forged, &data, &[]).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::BadData, "{error}");
            assert!(error.to_string().contains(said), "{said}: {error}");
        }
        assert!(!data.exists(), "{said}");
        std::fs::remove_file(&forged).unwrap();
    }

    // A folder that is somebody's is left alone.
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("mine"), "x").unwrap();
    let error = restore_into(&place, &data, &[]).await.unwrap_err();
    assert_refused(&error, ErrorKind::Refused, "another folder");
    assert!(data.join("mine").exists());
}

/// The offset of the header of a file in a tar.
fn find(tar: &[u8], name: &str) -> usize {
    let mut wanted = name.as_bytes().to_vec();
    wanted.push(0);
    (0..tar.len())
        .step_by(512)
        .find(|&at| tar[at..].starts_with(&wanted))
        .unwrap()
}

fn rename(block: &mut [u8], name: &str) {
    let header = tar::Header::from_byte_slice(block);
    let mut header = header.clone();
    header.as_old_mut().name = [0; 100];
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_cksum();
    block.copy_from_slice(header.as_bytes());
}

/// Writes an archive anew, with a change in the tar stream of the data directory.
async fn forge(archive: &Archive, source: &PhysicalSource, place: &Path, change: fn(&mut Vec<u8>)) {
    let writer = writer(place);
    let mut tar = collect(archive, source).await;
    change(&mut tar);
    let manifest = archive.read(&source.manifest_path()).unwrap();
    let base = format!("{}/base", source.folder);
    let parts = tar.chunks(writer.part_size()).zip(0..);
    let parts = parts.map(|(raw, n)| (k1ops::archive::part_path(&base, n), raw.to_vec()));
    for (path, raw) in parts.chain([(source.manifest_path(), manifest)]) {
        let member = NewMember {
            path,
            raw,
            rows: None,
            effort: Effort::Usual,
        };
        writer.add(member).await.unwrap();
    }
    finish(&writer, source.clone()).await;
}

/// The whole tar stream of the data directory.
async fn collect(archive: &Archive, source: &PhysicalSource) -> Vec<u8> {
    let stream = restore::tar_stream(archive, source, "base", 2, &Interrupt::default()).unwrap();
    pin_mut!(stream);
    let mut tar = Vec::new();
    while let Some(piece) = stream.next().await {
        tar.extend_from_slice(&piece.unwrap());
    }
    tar
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_and_the_parts_unpacked_by_hand_are_the_same_data_directory() {
    let live = Cluster::create("", "");
    live.sql("CREATE TABLE t AS SELECT 42 AS answer");
    let folder = scratch_folder();
    let place = folder.path().join("a.tar");
    let source = take(&live.address("postgres", ""), &place).await.unwrap();
    drop(live);
    let archive = Archive::open(&place).unwrap();
    let tar = collect(&archive, &source).await;
    assert_eq!(tar.len() as u64, source.size());

    let script = format!(
        "set -eu; cd '{}'; tar xf a.tar; mkdir -m 700 hand
         zstd -dc volumes/{VOLUME}/base/*.tar.zst > base.tar
         tar xf base.tar -C hand
         zstd -dc volumes/{VOLUME}/backup_manifest.zst > hand/backup_manifest",
        folder.path().display()
    );
    succeed(Command::new("sh").args(["-c", &script]));
    assert!(std::fs::read(folder.path().join("base.tar")).unwrap() == tar);
    let hand = folder.path().join("hand");
    cluster::give_to_postgres(&hand);
    cluster::give_to_postgres(&hand.join("backup_manifest"));
    verify_backup(&hand, &[]);
    assert_eq!(Cluster::on(&hand).sql("SELECT answer FROM t"), "42");
}
