//! Physical backups by command, the write-ahead log in the repository, and the moment between two
//! transactions: `pgbench` writes, real servers judge.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/logged_stack.rs"]
mod logged_stack;
mod support;

use cluster::{Cluster, as_postgres, give_to_postgres, program, succeed};
use logged_stack::{Stack, eventually, now, number, wait_for_promotion, wait_for_rows, walk};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What must be equal in every consistent copy of `pgbench`'s tables.
const SUMS: &str = "
    SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history),
           (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(delta) FROM pgbench_history),
           (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(delta) FROM pgbench_history)";

fn amcheck(copy: &Cluster) {
    succeed(
        Command::new(program("pg_amcheck"))
            .args(["--all", "--install-missing", "-h", "127.0.0.1"])
            .args(["-U", "postgres", "-p", &copy.port.to_string()]),
    );
}

fn verify_backup(data: &Path) {
    let output = succeed(as_postgres("pg_verifybackup").arg(data));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("backup successfully verified"), "{said}");
}

/// The indented lines of RESTORE.txt, with tar and zstd alone.
fn by_hand(stack: &Stack, archive: &str) {
    let folder = stack.path("by hand");
    std::fs::create_dir(&folder).unwrap();
    give_to_postgres(&folder);
    succeed(
        Command::new("tar")
            .arg("-xf")
            .arg(archive)
            .arg("-C")
            .arg(&folder),
    );
    let text = std::fs::read_to_string(folder.join("RESTORE.txt")).unwrap();
    let script: String = text
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .fold(String::new(), |all, line| all + line + "\n");
    succeed(
        Command::new("sh")
            .args(["-c", &script])
            .current_dir(&folder),
    );
    let data = folder.join("pgdata");
    give_to_postgres(&data);
    verify_backup(&data);
}

#[test]
fn a_physical_backup_by_command_is_a_server_again() {
    let stack = Stack::new("");
    let live = &stack.live;
    succeed(&mut live.pgbench(&["--initialize", "--quiet", "--scale=2"]));
    let count = "SELECT count(*) FROM pgbench_history";
    let load = stack.load();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while number(live, count) == 0 {
        assert!(
            std::time::Instant::now() < deadline,
            "pgbench does not write"
        );
    }
    let before = number(live, count);
    let plan = stack.json(&["backup", "--physical", "--dry-run"], 0);
    assert_eq!(plan["sources"][0]["kind"], "physical");
    let report = stack.json(&["backup", "--physical"], 0);
    let after = number(live, count);
    drop(load);
    assert!(after > before, "nothing was written during the backup");
    assert_eq!(report["sources"][0]["what"], "data directory");
    stack.says(&["verify"], 0);
    let listed = stack.json(&["list"], 0);
    assert_eq!(listed["archives"][0]["kind"], "physical");
    let status = stack.json(&["status"], 1);
    assert_eq!(status["last_backup"]["physical"], true);

    // Rows are another kind, and what is restored into the live database stays one of them.
    let said = stack.says(&["restore", "latest", "--yes"], 4);
    assert!(said.contains("--into FOLDER"), "{said}");
    stack.json(&["backup"], 0);
    let plan = stack.json(&["restore", "latest", "--dry-run"], 0);
    assert_eq!(plan["parts"][0]["kind"], "postgres");
    let pruned = stack.json(&["prune", "--keep-last", "1", "--dry-run"], 0);
    assert!(
        pruned["archives"]
            .as_array()
            .unwrap()
            .iter()
            .all(|a| a["keep"] == true),
        "{pruned}"
    );

    let data = stack.path("data");
    let folder = data.display().to_string();
    let into = ["restore", "--into", folder.as_str()];
    let plan = stack.json(&[&into[..], &["--dry-run"]].concat(), 0);
    assert_eq!(plan["archive"], report["archive"]);
    assert!(!data.exists());
    let restored = stack.json(&into, 0);
    assert!(restored["files"].as_u64().unwrap() > 900, "{restored}");
    stack.says(&into, 6);
    verify_backup(&data);
    by_hand(&stack, report["archive"].as_str().unwrap());
    let copy = Cluster::on(&data);
    assert_eq!(copy.sql(SUMS), "t|t|t");
    let rows = number(&copy, count);
    assert!(
        (before..=after).contains(&rows),
        "{before} <= {rows} <= {after}"
    );
    amcheck(&copy);
}

/// Every row that was committed until a moment, with the moment of each.
fn rows_until(moment: &str) -> String {
    format!(
        "SELECT count(*) || ' ' || coalesce(md5(string_agg(h::text || pg_xact_commit_timestamp(xmin), '|'
            ORDER BY pg_xact_commit_timestamp(xmin), h::text)), '')
         FROM pgbench_history h WHERE pg_xact_commit_timestamp(xmin) <= '{moment}'"
    )
}

/// The middle of the longest pause between two transactions among those with these numbers.
fn moment_between(cluster: &Cluster, from: u64, to: u64) -> String {
    cluster.sql(&format!(
        "WITH at AS (SELECT pg_xact_commit_timestamp(xmin) AS t FROM pgbench_history),
              pair AS (SELECT t, lead(t) OVER w AS next, row_number() OVER w AS n FROM at WINDOW w AS (ORDER BY t))
         SELECT to_char((t + (next - t) / 2) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || ' UTC'
         FROM pair WHERE n BETWEEN {from} AND {to} AND next > t ORDER BY next - t DESC LIMIT 1"
    ))
}

#[test]
fn a_moment_between_two_transactions_comes_back() {
    // Without transactions of the server's own: one that ends after a moment decides where that is.
    let mut stack =
        Stack::new("track_commit_timestamp=on\nwal_keep_size=0\nmax_wal_size=64MB\nautovacuum=off");
    let streamer = stack.stream_by_slot();
    let said = stack.says(&["wal", "stream"], 5);
    assert!(said.contains("k1ops wal stream"), "{said}");
    succeed(
        &mut stack
            .live
            .pgbench(&["--initialize", "--quiet", "--scale=2"]),
    );
    stack.json(&["backup", "--physical"], 0);
    let load = stack.load();
    wait_for_rows(&stack.live, 2000);
    // Killed in the middle, again and again; the server writes on, and the next process goes on where
    // that one was.
    drop(streamer);
    let rows = number(&stack.live, "SELECT count(*) FROM pgbench_history");
    for killed in 1..4 {
        let streamer = stack.stream();
        wait_for_rows(&stack.live, rows + killed * 800);
        drop(streamer);
    }
    wait_for_rows(&stack.live, rows + 3000);
    let streamer = stack.stream();
    wait_for_rows(&stack.live, rows + 4500);
    stack.end(load);
    eventually("the recovery point is young", || {
        let wal = stack.json(&["status"], 1)["wal"].clone();
        let young = wal["rpo_seconds"]
            .as_f64()
            .is_some_and(|seconds| seconds < 5.0);
        let lag = wal["slot_lag_bytes"]
            .as_u64()
            .is_some_and(|bytes| bytes < 1 << 20);
        if wal["streaming"] == true && young && lag {
            Ok(())
        } else {
            Err(wal.to_string())
        }
    });
    let checked = stack.json(&["verify"], 0);
    assert!(
        checked["wal"][0]["segments"].as_u64().unwrap() > 2,
        "{checked}"
    );
    let moment = moment_between(&stack.live, rows, rows + 3000);
    let expected = stack.live.sql(&rows_until(&moment));
    eventually("what comes behind the moment is received", || {
        let plan = stack.wait_for(&moment);
        if plan["recovery"]["stop"] == "time" {
            Ok(())
        } else {
            Err(plan.to_string())
        }
    });

    let data = stack.path("data");
    let folder = data.display().to_string();
    stack.says(&["restore", "--to", &moment, "--into", &folder], 0);
    let copy = Cluster::on(&data);
    wait_for_promotion(&copy);
    // So that nothing of the new timeline is recycled before it is received.
    copy.sql("SELECT pg_create_physical_replication_slot('k1ops_k1', true)");
    assert_eq!(copy.sql(&rows_until("infinity")), expected);
    assert_eq!(copy.sql(SUMS), "t|t|t");
    amcheck(&copy);
    drop(copy);

    // Nothing is written any more: all of the log belongs to a moment that is later than its last
    // transaction, and the example of the documentation works without a folder.
    let moment = now(&stack.live);
    let expected = stack.live.sql(&rows_until(&moment));
    let plan = stack.wait_for(&moment);
    assert!(plan["recovery"]["stop"]["position"].is_string(), "{plan}");
    let restored = stack.json(&["restore", "--to", &moment, "--copy-wal"], 0);
    let folder = PathBuf::from(restored["folder"].as_str().unwrap());
    assert!(
        folder.starts_with(stack.path(".conductor/point-in-time")),
        "{restored}"
    );
    let settings = std::fs::read_to_string(folder.join("postgresql.auto.conf")).unwrap();
    assert!(settings.contains("restore_command = 'false'"), "{settings}");
    let copy = Cluster::on(&folder);
    wait_for_promotion(&copy);
    assert_eq!(copy.sql(&rows_until("infinity")), expected);
    drop(copy);

    // A moment that never came, and one before the backup.
    let said = stack.says(&["restore", "--to", "2099-01-01 00:00", "--dry-run"], 3);
    assert!(
        said.contains("the last moment that can be reached is"),
        "{said}"
    );
    let said = stack.says(&["restore", "--to", "2001-01-01 00:00", "--dry-run"], 3);
    assert!(said.contains("earliest moment"), "{said}");

    follow_a_new_timeline(&mut stack, &data);
    drop(streamer);
}

/// The server that was brought back takes the place of the old one, and its log is followed as well.
fn follow_a_new_timeline(stack: &mut Stack, data: &Path) {
    assert!(stack.live.crash().status.success());
    stack.live.data = data.to_path_buf();
    stack.live.start_again();
    let load = stack.load();
    let rows = number(&stack.live, "SELECT count(*) FROM pgbench_history");
    wait_for_rows(&stack.live, rows + 2000);
    stack.end(load);
    let moment = moment_between(&stack.live, rows + 500, rows + 1500);
    let expected = stack.live.sql(&rows_until(&moment));
    let plan = eventually("the new timeline is received", || {
        let plan = stack
            .k1ops(&["restore", "--to", &moment, "--dry-run", "--json"])
            .output();
        let plan: Value = serde_json::from_slice(&plan.unwrap().stdout).unwrap_or_default();
        // Until what comes behind the moment is received as well, the end of the log is where to stop.
        if plan["recovery"]["timeline"] == 2 && plan["recovery"]["stop"] == "time" {
            Ok(plan)
        } else {
            Err(format!("{plan} {}", stack.log()))
        }
    });
    assert_eq!(plan["recovery"]["timeline"], 2, "{plan}");
    let place = stack.path("on timeline 2");
    let folder = place.display().to_string();
    stack.says(&["restore", "--to", &moment, "--into", &folder], 0);
    let copy = Cluster::on(&place);
    wait_for_promotion(&copy);
    assert_eq!(copy.sql(&rows_until("infinity")), expected);
    drop(copy);

    // A segment is lost.
    let segments = stack.segments();
    let lost = &segments[segments.len() - 2];
    let name = lost.file_stem().unwrap().to_str().unwrap().to_owned();
    std::fs::rename(lost, stack.path("lost")).unwrap();
    let said = stack.says(&["verify"], 4);
    assert!(
        said.contains(&format!("gap: WAL segment {name} is missing")),
        "{said}"
    );
    let place = stack.path("never");
    let folder = place.display().to_string();
    let said = stack.says(
        &["restore", "--to", &now(&stack.live), "--into", &folder],
        4,
    );
    assert!(
        said.contains(&name) && said.contains("the last moment before it"),
        "{said}"
    );
    assert!(!place.exists());
}

#[test]
fn the_servers_own_commands_archive_and_old_log_is_pruned() {
    let stack = Stack::new("archive_mode=on");
    let config = stack.path("k1ops.toml").display().to_string();
    let program = stack.path("k1ops").display().to_string();
    stack.live.sql(&format!(
        "ALTER SYSTEM SET archive_command = 'DOCKER_HOST=unix:///nowhere {program} --config {config} wal push %p'"
    ));
    stack.live.sql("SELECT pg_reload_conf()");
    succeed(
        &mut stack
            .live
            .pgbench(&["--initialize", "--quiet", "--scale=1"]),
    );
    let first = stack.json(&["backup", "--physical"], 0);
    archive_one(&stack);
    archive_one(&stack);
    let second = stack.json(&["backup", "--physical"], 0);
    let last = archive_one(&stack);
    let status = stack.json(&["status"], 1);
    assert_eq!(status["wal"]["streaming"], false);
    assert!(
        status["wal"]["rpo_seconds"].as_f64().unwrap() < 60.0,
        "{status}"
    );

    // The same again, as a server that was not told of its success would; and something else.
    let segment = stack.path(&last);
    succeed(
        Command::new("zstd")
            .args(["-q", "-d", "-o"])
            .arg(&segment)
            .arg(find(&stack, &last)),
    );
    let pushed = segment.display().to_string();
    assert_eq!(stack.json(&["wal", "push", &pushed], 0)["stored"], "same");
    let mut contents = std::fs::read(&segment).unwrap();
    contents[100_000] ^= 1;
    std::fs::write(&segment, &contents).unwrap();
    let said = stack.says(&["wal", "push", &pushed], 6);
    assert!(said.contains("other content"), "{said}");
    contents.truncate(1 << 20);
    std::fs::write(&segment, &contents).unwrap();
    stack.says(&["wal", "push", &pushed], 4);
    let fetched = stack.path("fetched");
    let system = stack
        .live
        .sql("SELECT system_identifier FROM pg_control_system()");
    let target = fetched.display().to_string();
    stack.says(&["wal", "fetch", &last, &target, "--system", &system], 0);
    assert_eq!(std::fs::metadata(&fetched).unwrap().len(), 16 << 20);
    stack.says(
        &[
            "wal",
            "fetch",
            "0000000100000000000000FF",
            &target,
            "--system",
            &system,
        ],
        3,
    );
    stack.says(
        &[
            "wal",
            "fetch",
            "../../k1ops.toml",
            &target,
            "--system",
            &system,
        ],
        2,
    );

    assert_eq!(
        stack.json(&["verify"], 0)["wal"][0]["gaps"],
        serde_json::json!([])
    );
    let before = stack.segments().len();
    damage_costs_no_log(&stack, Path::new(first["archive"].as_str().unwrap()));
    let said = stack.says(&["prune", "--keep-last", "1", "--dry-run"], 0);
    assert!(said.contains("no kept backup needs them"), "{said}");
    let pruned = stack.json(&["prune", "--keep-last", "1", "--yes"], 0);
    assert!(
        !Path::new(first["archive"].as_str().unwrap()).exists(),
        "{pruned}"
    );
    assert!(Path::new(second["archive"].as_str().unwrap()).exists());
    let after = stack.segments().len();
    assert!(after < before && after > 1, "{before} {after}");
    stack.says(&["verify"], 0);
    let moment = now(&stack.live);
    stack.live.sql("CREATE TABLE later(i int)");
    archive_one(&stack);
    let plan = stack.json(&["restore", "--to", &moment, "--dry-run"], 0);
    assert_eq!(plan["recovery"]["stop"], "time");

    // A bit that flipped where the segment lies.
    let place = find(&stack, &last);
    let mut stored = std::fs::read(&place).unwrap();
    let middle = stored.len() / 2;
    stored[middle] ^= 1;
    std::fs::write(&place, stored).unwrap();
    let said = stack.says(&["verify"], 4);
    assert!(said.contains(&last) && said.contains("damaged"), "{said}");
    stack.says(&["restore", "--to", &moment, "--dry-run"], 4);
}

/// A backup that cannot be looked into may need all of the log.
fn damage_costs_no_log(stack: &Stack, oldest: &Path) {
    let before = stack.segments();
    let sound = std::fs::read(oldest).unwrap();
    std::fs::write(oldest, [&[b'!'; 512], &sound[512..]].concat()).unwrap();
    let pruned = stack.json(&["prune", "--keep-last", "2", "--yes"], 0);
    let reason = pruned["wal"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("cannot be looked into"), "{pruned}");
    assert_eq!(stack.segments(), before);
    std::fs::write(oldest, sound).unwrap();
}

/// The first thing that it sends is the history of its timeline.
#[test]
fn a_promoted_server_archives_to_where_nothing_is_yet() {
    let stack = Stack::new("archive_mode=on\nrestore_command='false'");
    let config = stack.path("k1ops.toml").display().to_string();
    let program = stack.path("k1ops").display().to_string();
    assert!(stack.live.crash().status.success());
    let signal = stack.live.data.join("recovery.signal");
    std::fs::write(&signal, "").unwrap();
    give_to_postgres(&signal);
    stack.live.start_again();
    wait_for_promotion(&stack.live);
    let history = stack.live.data.join("pg_wal/00000002.history");
    assert!(history.exists());

    // A note of a cluster of which there is nothing here is still refused.
    let alone = stack.path("alone");
    let lonely = alone.join("pg_wal/00000002.history");
    std::fs::create_dir_all(lonely.parent().unwrap()).unwrap();
    std::fs::create_dir_all(alone.join("global")).unwrap();
    std::fs::copy(&history, &lonely).unwrap();
    std::fs::copy(
        stack.live.data.join("global/pg_control"),
        alone.join("global/pg_control"),
    )
    .unwrap();
    succeed(Command::new("chmod").args(["-R", "a+rX"]).arg(&alone));
    let lonely = lonely.display().to_string();
    let said = stack.says(&["wal", "push", &lonely], 3);
    assert!(said.contains("no WAL segment of cluster"), "{said}");

    stack.live.sql(&format!(
        "ALTER SYSTEM SET archive_command = 'DOCKER_HOST=unix:///nowhere {program} --config {config} wal push %p'"
    ));
    stack.live.sql("SELECT pg_reload_conf()");
    let segment = archive_one(&stack);
    assert!(segment.starts_with("00000002"), "{segment}");
    let store = find(&stack, &segment);
    let store = store.parent().unwrap().parent().unwrap();
    assert!(store.join("00000002.history").exists());
}

/// Fills a segment, as far as the server is concerned, and waits until it is archived.
fn archive_one(stack: &Stack) -> String {
    stack.live.sql("CREATE TABLE IF NOT EXISTS filler(i int)");
    stack
        .live
        .sql("INSERT INTO filler SELECT generate_series(1, 1000)");
    let name = stack.live.sql("SELECT pg_walfile_name(pg_switch_wal())");
    eventually("the segment is archived", || {
        let there = walk(&stack.path(".conductor/backups/wal"));
        let there = there
            .iter()
            .any(|path| path.to_string_lossy().ends_with(&format!("{name}.zst")));
        if there {
            Ok(())
        } else {
            Err(stack
                .live
                .sql("SELECT pg_stat_archiver::text FROM pg_stat_archiver"))
        }
    });
    name
}

fn find(stack: &Stack, segment: &str) -> PathBuf {
    let name = format!("{segment}.zst");
    let mut all = stack.segments();
    all.retain(|path| path.ends_with(&name));
    all.pop().unwrap()
}
