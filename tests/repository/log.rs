//! The write-ahead log where the repository is a store: the host is lost with everything on it, and a moment comes back.

use crate::cluster::{Cluster, give_to_postgres, succeed};
use crate::logged_stack::{Stack, eventually, now, number, wait_for_promotion, wait_for_rows};
use crate::servers::{Counter, Make, Server};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

const COUNT: &str = "SELECT count(*) FROM pgbench_history";

/// Has the stack keep everything on the server.
fn keep_on(server: &Server, stack: &Stack, further: &str) {
    let place = server.place(&stack.path(""));
    give_to_postgres(&stack.path("store.env"));
    let file = stack.path("k1ops.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{config}[repository]\n{place}{further}")).unwrap();
}

/// The encryption of a stack whose key is beside it.
fn encryption(stack: &Stack) -> String {
    let file = stack.path("key.txt");
    let made = Command::new("age-keygen").arg("-o").arg(&file).output();
    let said = String::from_utf8(made.unwrap().stderr).unwrap();
    let public = said.trim().rsplit_once(' ').unwrap().1.to_owned();
    give_to_postgres(&file);
    format!("[encryption]\nrecipients = ['{public}']\nidentity = 'key.txt'\n")
}

/// Has everything encrypted for another key, and loses the old one.
fn change_key(stack: &Stack) {
    let (file, old) = (stack.path("key.txt"), stack.path("old.txt"));
    std::fs::rename(&file, &old).unwrap();
    let before = std::fs::read_to_string(stack.path("k1ops.toml")).unwrap();
    let (rest, _) = before.split_once("[encryption]").unwrap();
    let after = rest.to_owned() + &encryption(stack);
    std::fs::write(stack.path("k1ops.toml"), after).unwrap();
    let both = [&old, &file].map(|file| std::fs::read_to_string(file).unwrap());
    let new = both[1].clone();
    std::fs::write(&file, both.concat()).unwrap();
    let done = stack.json(&["repo", "rekey", "--yes"], 0);
    assert!(!done["log"].as_array().unwrap().is_empty(), "{done}");
    let again = stack.json(&["repo", "rekey", "--yes"], 0);
    assert_eq!(again["log"], serde_json::json!([]));
    std::fs::write(&file, new).unwrap();
    std::fs::remove_file(&old).unwrap();
}

/// Waits until everything before a moment is on the server.
fn wait_until_sent(stack: &Stack, moment: &str) {
    eventually("the log is sent on", || {
        let age = stack.live.sql(&format!(
            "SELECT extract(epoch FROM clock_timestamp() - '{moment}'::timestamptz)"
        ));
        let wal = stack.json(&["status"], 1)["wal"].clone();
        let behind = wal["host_rpo_seconds"].as_f64();
        if behind.is_some_and(|behind| behind < age.parse().unwrap()) {
            Ok(())
        } else {
            Err(format!("{wal} {}", stack.log()))
        }
    });
}

/// The complete segments on the server.
fn segments(server: &Server) -> BTreeSet<String> {
    let name = |object: String| {
        let name = object.rsplit('/').next()?.to_owned();
        let name = name.strip_suffix(".age").unwrap_or(&name);
        let segment = name.strip_suffix(".zst")?;
        (!segment.ends_with(".partial")).then(|| segment.to_owned())
    };
    server.objects().into_iter().filter_map(name).collect()
}

fn a_host_is_lost(make: Make, is_encrypted: bool) {
    let server = Server::start(make);
    let stack = Stack::new("wal_keep_size=0\nmax_wal_size=64MB");
    let further = if is_encrypted {
        encryption(&stack)
    } else {
        String::new()
    };
    keep_on(&server, &stack, &further);
    let streamer = stack.stream_by_slot();
    succeed(
        &mut stack
            .live
            .pgbench(&["--initialize", "--quiet", "--scale=2"]),
    );
    stack.json(&["backup", "--physical"], 0);
    wait_until_sent(&stack, &now(&stack.live));
    let before = segments(&server);

    // The log that only the older backup needed goes, there too.
    stack.live.sql("SELECT pg_switch_wal()");
    stack.json(&["backup", "--physical"], 0);
    stack.json(&["prune", "--keep-last", "1", "--yes"], 0);
    let kept = segments(&server);
    assert!(
        before.iter().any(|name| !kept.contains(name)),
        "{before:?} {kept:?}"
    );

    let load = stack.load();
    wait_for_rows(&stack.live, 1500);
    stack.end(load);
    let rows = number(&stack.live, COUNT);
    let moment = now(&stack.live);
    stack.live.sql("DELETE FROM pgbench_history");
    wait_until_sent(&stack, &moment);

    // Killed, and nothing is left but what somebody has written down: the settings and the keys.
    drop(streamer);
    if is_encrypted {
        change_key(&stack);
    }
    std::fs::remove_dir_all(stack.path(".conductor")).unwrap();
    let kept_in_the_open = server.lines(
        "for o in s3.list_objects_v2(Bucket=bucket, Prefix='of/k1/wal/').get('Contents', []):\n\
         \x20   print(s3.get_object(Bucket=bucket, Key=o['Key'])['Body'].read(18) == b'age-encryption.org')",
    );
    assert!(!kept_in_the_open.is_empty());
    let sealed = if is_encrypted { "True" } else { "False" };
    assert!(kept_in_the_open.iter().all(|is| is == sealed));

    let data = stack.path("data");
    let folder = data.display().to_string();
    stack.says(&["restore", "--to", &moment, "--into", &folder], 0);
    let copy = Cluster::on(&data);
    wait_for_promotion(&copy);
    assert_eq!(number(&copy, COUNT), rows);
}

#[test]
fn a_lost_host_comes_back_to_a_moment() {
    a_host_is_lost(Make::Moto, false);
}

#[test]
fn a_lost_host_comes_back_to_a_moment_from_what_nobody_can_read() {
    a_host_is_lost(Make::Versity, true);
}

/// The stack on another host: its settings and keys, and a folder of its own.
struct SecondHost<'a> {
    stack: &'a Stack,
    folder: PathBuf,
}

impl<'a> SecondHost<'a> {
    fn of(stack: &'a Stack) -> Self {
        let folder = stack.path("second");
        std::fs::create_dir(&folder).unwrap();
        give_to_postgres(&folder);
        for name in ["k1ops.toml", "store.env"] {
            succeed(
                Command::new("cp")
                    .arg("-p")
                    .arg(stack.path(name))
                    .arg(&folder),
            );
        }
        Self { stack, folder }
    }

    #[track_caller]
    fn says(&self, arguments: &[&str]) {
        let output = self
            .stack
            .k1ops(arguments)
            .current_dir(&self.folder)
            .output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
    }

    #[track_caller]
    fn rows_at(&self, moment: &str, name: &str) -> u64 {
        let data = self.folder.join(name);
        let into = data.display().to_string();
        self.says(&["restore", "--to", moment, "--into", &into]);
        let copy = Cluster::on(&data);
        wait_for_promotion(&copy);
        number(&copy, "SELECT count(*) FROM t")
    }

    fn fetched(&self, segment: &str, system: &str) -> Vec<u8> {
        let target = self.folder.join("fetched");
        let place = target.display().to_string();
        self.says(&["wal", "fetch", segment, &place, "--system", system]);
        std::fs::read(target).unwrap()
    }
}

#[test]
fn a_host_that_fetched_a_part_of_a_segment_gets_the_rest_of_it() {
    let server = Server::start(Make::Moto);
    let stack = Stack::new("");
    keep_on(&server, &stack, "");
    let _streamer = stack.stream_by_slot();
    stack.live.sql("CREATE TABLE t(i int)");
    stack.json(&["backup", "--physical"], 0);
    let second = SecondHost::of(&stack);
    let mut segments = BTreeSet::new();
    for rows in 1..=3 {
        stack.live.sql("INSERT INTO t VALUES (1)");
        let moment = now(&stack.live);
        stack
            .live
            .sql("CREATE TABLE IF NOT EXISTS later(); DROP TABLE later");
        wait_until_sent(&stack, &now(&stack.live));
        assert_eq!(second.rows_at(&moment, &format!("data {rows}")), rows);
        let name = "SELECT pg_walfile_name(pg_current_wal_lsn())";
        segments.insert(stack.live.sql(name));
    }
    assert_eq!(
        segments.len(),
        1,
        "all of it is in one segment: {segments:?}"
    );

    // Complete, it is fetched whole, also where a part of it is here.
    let segment = segments.pop_first().unwrap();
    stack.live.sql("INSERT INTO t VALUES (1)");
    stack.live.sql("SELECT pg_switch_wal()");
    stack.live.sql("CREATE TABLE more()");
    eventually("the segment is sent", || {
        let there = self::segments(&server);
        there
            .contains(&segment)
            .then_some(())
            .ok_or(format!("{there:?}"))
    });
    let system = stack
        .live
        .sql("SELECT system_identifier FROM pg_control_system()");
    let whole = std::fs::read(stack.live.data.join("pg_wal").join(&segment)).unwrap();
    assert!(
        second.fetched(&segment, &system) == whole,
        "a part of {segment}"
    );

    // What is here in full is not given up for less.
    server.lines(
        "for o in s3.list_objects_v2(Bucket=bucket, Prefix='of/k1/wal/')['Contents']:\n\
                 \x20   s3.delete_object(Bucket=bucket, Key=o['Key'])",
    );
    assert!(second.fetched(&segment, &system) == whole);
}

#[test]
fn a_segment_that_the_server_archives_is_safe_when_it_is_in_the_store() {
    let server = Server::start(Make::Versity);
    let stack = Stack::new("archive_mode=on");
    keep_on(&server, &stack, "");
    let (program, config) = (stack.path("k1ops"), stack.path("k1ops.toml"));
    let (program, config) = (program.display(), config.display());
    stack.live.sql(&format!(
        "ALTER SYSTEM SET archive_command = 'DOCKER_HOST=unix:///nowhere {program} --config {config} wal push %p'"
    ));
    stack.live.sql("SELECT pg_reload_conf()");
    stack.live.sql("CREATE TABLE t AS SELECT 1");
    let name = stack
        .live
        .sql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    stack.live.sql("SELECT pg_switch_wal()");
    eventually("the segment is archived", || {
        let archived = stack
            .live
            .sql("SELECT last_archived_wal FROM pg_stat_archiver");
        if archived >= name {
            Ok(())
        } else {
            Err(archived)
        }
    });
    assert!(segments(&server).contains(&name));
    // Where it is not here any more, the server gets it from there.
    std::fs::remove_dir_all(stack.path(".conductor/backups/wal")).unwrap();
    let system = stack
        .live
        .sql("SELECT system_identifier FROM pg_control_system()");
    let target = stack.path("fetched").display().to_string();
    stack.json(&["wal", "fetch", &name, &target, "--system", &system], 0);
    assert_eq!(std::fs::metadata(&target).unwrap().len(), 16 << 20);
}

#[test]
fn a_table_comes_back_without_the_rest_of_the_archive() {
    let server = Server::start(Make::Moto);
    let counter = Counter::before(server.port());
    let stack = Stack::new("");
    keep_on(&server, &stack, "");
    let file = stack.path("k1ops.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    let [direct, by_counter] = [server.port(), counter.port].map(|port| format!(":{port}'"));
    std::fs::write(&file, config.replace(&direct, &by_counter)).unwrap();
    // Much that does not compress, and a little.
    stack.live.sql(
        "CREATE TABLE much AS SELECT concat(gen_random_uuid(), gen_random_uuid(), gen_random_uuid())
             FROM generate_series(1, 200000);
         CREATE TABLE little AS SELECT generate_series(1, 100) AS i",
    );
    let said = stack.json(&["backup"], 0);
    let size = said["size"].as_u64().unwrap();
    counter.taken();
    let only = ["--only", "postgres:public.little", "--as", "beside"];
    let restored = stack.json(&[&["restore", "latest"], &only[..]].concat(), 0);
    let taken = counter.taken();
    assert_eq!(restored["rows"], 100, "{restored}");
    assert!(taken < size / 4, "{taken} of {size}");
}

#[test]
fn what_a_copy_lacks_costs_none_of_the_log() {
    let server = Server::start(Make::Moto);
    let stack = Stack::new("");
    let place = server.place(&stack.path(""));
    give_to_postgres(&stack.path("store.env"));
    let file = stack.path("k1ops.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    let copy = format!("[[repository.copies]]\nname = 'far'\n{place}");
    std::fs::write(&file, config + &copy).unwrap();
    let streamer = stack.stream_by_slot();
    let first = stack.json(&["backup", "--physical"], 0);
    stack.live.sql("SELECT pg_switch_wal()");
    stack.live.sql("CREATE TABLE later AS SELECT 1 AS i");
    stack.json(&["backup", "--physical"], 0);
    drop(streamer);
    // What no backup needs goes.
    stack.json(&["prune", "--keep-last", "2", "--yes"], 0);
    let first = Path::new(first["archive"].as_str().unwrap());
    let name = first.file_name().unwrap().to_str().unwrap();
    let gone = server.lines(&format!(
        "for o in s3.list_objects_v2(Bucket=bucket)['Contents']:\n\
         \x20   if o['Key'].endswith('{name}'):\n\
         \x20       s3.delete_object(Bucket=bucket, Key=o['Key']); print(o['Key'])"
    ));
    assert_eq!(gone.len(), 1, "{gone:?}");
    let before = stack.segments();
    assert!(before.len() > 1);
    stack.json(&["prune", "--keep-last", "2", "--yes"], 0);
    assert_eq!(stack.segments(), before);
}
