//! Backups that read a standby in place of its primary, with real servers: a primary under load and a standby
//! that `pg_basebackup` made.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

#[path = "support/cluster.rs"]
mod cluster;
mod patience;
mod support;

use cluster::{Cluster, as_postgres, program, scratch_folder, succeed};
use k1ops::archive::{Archive, PostgresTable};
use patience::until;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use support::Sandbox;
use tempfile::TempDir;

/// What `pgbench` keeps true in each transaction.
const SUMS: &str = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history),
       (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(delta) FROM pgbench_history),
       (SELECT count(*) FROM pgbench_accounts)";

/// A primary, its standby, and a stack whose backups read the standby.
struct Pair {
    primary: Cluster,
    standby: Cluster,
    sandbox: Sandbox,
    _folder: TempDir,
}

impl Pair {
    fn create(settings_of_standby: &str) -> Self {
        let primary = Cluster::create("", "");
        let folder = scratch_folder();
        let data = folder.path().join("standby");
        succeed(
            as_postgres("pg_basebackup")
                .args(["-h", "127.0.0.1", "-U", "postgres", "--no-sync"])
                .args(["--checkpoint=fast", "--write-recovery-conf", "-p"])
                .arg(primary.port.to_string())
                .arg("--pgdata")
                .arg(&data),
        );
        let file = data.join("postgresql.conf");
        let before = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("{before}\n{settings_of_standby}\n")).unwrap();
        let standby = Cluster::on(&data);
        assert_eq!(standby.sql("SELECT pg_is_in_recovery()"), "t");
        let sandbox = Sandbox::new(&format!(
            "[database]\nurl = {:?}\nstandby = {:?}\npg_dump = \"{}\"\n[backup]\nstandby_lag = 30\n",
            url(primary.port),
            url(standby.port),
            program("pg_dump").display(),
        ));
        Self {
            primary,
            standby,
            sandbox,
            _folder: folder,
        }
    }

    /// A backup that ends well: what it reports, and what it says to people.
    fn back_up(&self, arguments: &[&str], environment: &[(&str, &str)]) -> (Value, String) {
        back_up(&self.sandbox, arguments, environment)
    }

    /// Waits until the standby has everything.
    fn settle(&self) {
        let end = self.primary.sql("SELECT pg_current_wal_lsn()");
        let there = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
        until("the standby has caught up", || {
            self.standby.sql(&there) == "t"
        });
    }
}

fn url(port: u16) -> String {
    format!("postgres://postgres@127.0.0.1:{port}/postgres")
}

fn back_up(sandbox: &Sandbox, arguments: &[&str], environment: &[(&str, &str)]) -> (Value, String) {
    let mut command = sandbox.k1ops(&["backup", "--json"]);
    let output = command
        .args(arguments)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    (serde_json::from_slice(&output.stdout).unwrap(), said)
}

/// What the report says of the standby that was read; null if it was the primary.
fn standby_of(report: &Value) -> &Value {
    &report["sources"][0]["standby"]
}

fn tables(report: &Value) -> Vec<PostgresTable> {
    let archive = Archive::open(Path::new(report["archive"].as_str().unwrap())).unwrap();
    archive.manifest().postgres().unwrap().tables.clone()
}

fn number(text: &str) -> u64 {
    text.parse().unwrap()
}

#[test]
fn a_backup_of_a_standby_has_what_the_primary_had() {
    let pair = Pair::create("");
    let (primary, standby) = (&pair.primary, &pair.standby);
    succeed(&mut primary.pgbench(&["--initialize", "--quiet", "--scale=2"]));
    primary.sql(
        "CREATE UNLOGGED TABLE fleeting AS SELECT generate_series(1, 100) AS n;
         CREATE SEQUENCE counted; SELECT nextval('counted');
         SELECT lo_from_bytea(0, 'large')",
    );
    let mut load = primary
        .pgbench(&["--client=2", "--time=3600"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let read = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'pgbench_accounts'";
    let scans = primary.sql(read);
    let rows = "SELECT count(*) FROM pgbench_history";
    until("there is load", || number(&primary.sql(rows)) > 50);

    // Rows, under load.
    let before = number(&primary.sql(rows));
    let (report, said) = pair.back_up(&[], &[]);
    let after = number(&primary.sql(rows));
    assert!(said.contains("reading the standby"), "{said}");
    let facts = standby_of(&report);
    assert!(facts["caught_up_ms"].is_u64(), "{report}");
    assert_eq!(
        facts["system_identifier"].as_str().unwrap(),
        primary.sql("SELECT system_identifier FROM pg_control_system()")
    );
    let left_out = report["left_out"].to_string();
    assert!(
        left_out.contains("unlogged table public.fleeting"),
        "{left_out}"
    );
    let history = tables(&report);
    let history = history
        .iter()
        .find(|t| t.name == "pgbench_history")
        .unwrap();
    let taken = history.digest.rows;
    assert!(
        (before..=after).contains(&taken),
        "{before} <= {taken} <= {after}"
    );

    // The whole server, under load.
    let before = number(&primary.sql(rows));
    let (whole, _) = pair.back_up(&["--physical"], &[]);
    let after = number(&primary.sql(rows));
    assert!(standby_of(&whole)["replayed_lsn"].is_string(), "{whole}");
    assert_eq!(primary.sql(read), scans, "the primary was read");
    load.kill().unwrap();
    load.wait().unwrap();
    let left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'";
    until("its last transactions have ended", || {
        primary.sql(left) == "0"
    });

    // At rest, both servers give the same rows.
    let of_standby = at_rest(&pair);
    let (of_primary, _) = pair.back_up(&[], &[("K1OPS_DATABASE_STANDBY", "")]);
    assert!(standby_of(&of_primary).is_null());
    let mut expected = tables(&of_primary);
    expected.retain(|table| table.name != "fleeting");
    let digests = |tables: &[PostgresTable]| -> Vec<_> {
        tables.iter().map(|t| (t.name.clone(), t.digest)).collect()
    };
    assert_eq!(digests(&tables(&of_standby)), digests(&expected));
    assert_eq!(expected.len(), 4);

    let data = restored_whole(&pair, &whole);
    let copy = Cluster::on(&data);
    assert_eq!(copy.sql("SELECT pg_is_in_recovery()"), "f");
    assert_eq!(copy.sql(SUMS), "t|t|200000");
    let taken = number(&copy.sql(rows));
    assert!(
        (before..=after).contains(&taken),
        "{before} <= {taken} <= {after}"
    );

    // The rows that were taken under load, into the primary, which the standby follows.
    let name = report["restore_with"].as_str().unwrap();
    let restoring = pair
        .sandbox
        .k1ops(&["restore", name, "--yes"])
        .output()
        .unwrap();
    assert!(restoring.status.success(), "{restoring:?}");
    assert_eq!(primary.sql(SUMS), "t|t|200000");
    assert_eq!(number(&primary.sql(rows)), history.digest.rows);
    assert_eq!(primary.sql("SELECT count(*) FROM fleeting"), "0");
    assert_eq!(
        primary.sql("SELECT lo_get(oid) FROM pg_largeobject_metadata"),
        "\\x6c61726765"
    );
    pair.settle();
    assert_eq!(standby.sql(SUMS), "t|t|200000");
}

/// A backup of the standby while it has everything. A primary at rest writes into its log every few seconds as
/// well, and the standby has that a moment later.
fn at_rest(pair: &Pair) -> Value {
    let mut report = Value::Null;
    until("the standby has everything", || {
        pair.settle();
        report = pair.back_up(&["--verify"], &[]).0;
        standby_of(&report)["behind_bytes"] == 0
    });
    report
}

/// The data directory of a physical archive, verified and restored by k1ops and verified by the server's own
/// program.
fn restored_whole(pair: &Pair, whole: &Value) -> PathBuf {
    let name = whole["restore_with"].as_str().unwrap();
    for arguments in [
        vec!["verify", name],
        vec!["restore", name, "--into", "copy", "--yes"],
    ] {
        let output = pair.sandbox.k1ops(&arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    let data = pair.sandbox.path().join("copy");
    assert!(!data.join("standby.signal").exists());
    std::fs::set_permissions(pair.sandbox.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    succeed(as_postgres("pg_verifybackup").arg(&data));
    data
}

#[test]
fn a_standby_that_is_not_fit_is_not_read_and_everybody_says_so() {
    let pair = Pair::create("");
    let (primary, standby) = (&pair.primary, &pair.standby);
    primary.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n");
    pair.settle();
    let ask = |arguments: &[&str], environment: &[(&str, &str)]| {
        let mut command = pair.sandbox.k1ops(arguments);
        let output = command.envs(environment.iter().copied()).output().unwrap();
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    };
    let doctor = ["doctor"];
    until("the standby is told to have everything", || {
        ask(&["status"], &[]).contains(" 0 B behind")
    });
    let advice = ask(&doctor, &[]);
    assert!(advice.contains("hot_standby_feedback = on"), "{advice}");
    assert!(ask(&["backup", "--dry-run"], &[]).contains("read from its standby"));

    let unfit = |environment: &[(&str, &str)], why: &str, also_asked: bool| {
        let (report, said) = pair.back_up(&[], environment);
        assert!(
            said.contains(why) && said.contains("reads the primary"),
            "{said}"
        );
        assert!(standby_of(&report).is_null(), "{report}");
        assert_eq!(
            report["rows"],
            primary
                .sql("SELECT count(*) FROM t")
                .parse::<u64>()
                .unwrap()
        );
        if also_asked {
            let (status, doctor) = (ask(&["status"], environment), ask(&doctor, environment));
            assert!(status.contains(why), "{status}");
            assert!(doctor.contains(why), "{doctor}");
        }
    };

    // It lags, and goes on lagging.
    standby.sql("SELECT pg_wal_replay_pause()");
    primary.sql("INSERT INTO t SELECT generate_series(1, 1000)");
    unfit(
        &[("K1OPS_BACKUP_STANDBY_LAG", "1")],
        "its replay is paused",
        false,
    );
    assert!(ask(&doctor, &[]).contains("it is paused"));
    assert!(!ask(&["status"], &[]).contains(" 0 B behind"));
    standby.sql("SELECT pg_wal_replay_resume()");
    let (report, _) = pair.back_up(&[], &[]);
    assert!(
        standby_of(&report).is_object(),
        "it has caught up: {report}"
    );

    // It is another cluster, or nobody.
    let other = Cluster::create("", "");
    unfit(
        &[("K1OPS_DATABASE_STANDBY", &url(other.port))],
        "belongs to another cluster",
        true,
    );
    drop(other);
    unfit(
        &[("K1OPS_DATABASE_STANDBY", &url(1))],
        "does not answer",
        true,
    );

    // It is of another database, which is a mistake and no state of a server.
    let wrong = url(standby.port).replace("/postgres", "/template1");
    let said = ask(&["backup"], &[("K1OPS_DATABASE_STANDBY", &wrong)]);
    assert!(said.contains("names database \"template1\""), "{said}");

    // The log has not what a physical backup of a standby needs.
    primary.sql("ALTER SYSTEM SET full_page_writes = off");
    primary.sql("SELECT pg_reload_conf()");
    until("it is off", || {
        primary.sql("SHOW full_page_writes") == "off"
    });
    primary.sql("CHECKPOINT; INSERT INTO t VALUES (0); DELETE FROM t WHERE n = 0; CHECKPOINT");
    pair.settle();
    let (report, said) = pair.back_up(&["--physical"], &[]);
    assert!(
        said.contains("Set full_page_writes = on on the primary"),
        "{said}"
    );
    assert!(standby_of(&report).is_null(), "{report}");
    assert!(ask(&doctor, &[]).contains("full_page_writes is off"));

    // The primary is gone: what the standby has is worth having.
    primary.crash();
    let (report, said) = pair.back_up(&[], &[]);
    assert!(said.contains("cannot be told"), "{said}");
    assert!(standby_of(&report)["replayed_lsn"].is_string(), "{report}");
    assert!(standby_of(&report)["behind_bytes"].is_null(), "{report}");
    assert_eq!(report["rows"], 2000);
    primary.start_again();

    // A standby that is named as if it were the primary can be backed up too.
    let alone = [
        ("K1OPS_DATABASE_URL", url(standby.port)),
        ("K1OPS_DATABASE_STANDBY", String::new()),
    ];
    let alone: Vec<_> = alone
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let (report, _) = pair.back_up(&[], &alone);
    assert!(standby_of(&report)["replayed_lsn"].is_string(), "{report}");

    // It is promoted: from then on the two servers part.
    standby.sql("SELECT pg_promote()");
    standby.sql("DELETE FROM t");
    unfit(&[], "is no standby", true);
}

/// A `pg_dump` that first makes the primary remove rows which the backup's snapshot still sees, and waits until the
/// standby has had to replay that.
fn meddling_pg_dump(pair: &Pair) -> PathBuf {
    let place = pair.sandbox.path().join("pg_dump");
    let psql = format!(
        "{} -X -A -t -q -h 127.0.0.1 -U postgres -d postgres -p",
        program("psql").display()
    );
    let (primary, standby) = (pair.primary.port, pair.standby.port);
    let text = format!(
        "#!/bin/sh
case \"$*\" in *--section=pre-data*)
    {psql} {primary} -c 'DELETE FROM t WHERE n % 2 = 0' -c 'VACUUM t'
    end=$({psql} {primary} -c 'SELECT pg_current_wal_lsn()')
    until [ \"$({psql} {standby} -c \"SELECT pg_last_wal_replay_lsn() >= '$end'\")\" = t ]; do :; done
esac
exec {} \"$@\"
",
        program("pg_dump").display()
    );
    std::fs::write(&place, text).unwrap();
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o755)).unwrap();
    place
}

#[test]
fn a_reader_that_is_in_the_way_of_the_replay_goes_to_the_primary() {
    let pair = Pair::create("max_standby_streaming_delay = 0\nhot_standby_feedback = off");
    let (primary, standby) = (&pair.primary, &pair.standby);
    primary.sql(
        "CREATE TABLE t WITH (autovacuum_enabled = off) AS SELECT generate_series(1, 20000) AS n",
    );
    pair.settle();
    let pg_dump = meddling_pg_dump(&pair).display().to_string();
    let meddled = ("K1OPS_DATABASE_PG_DUMP", pg_dump.as_str());
    let (report, said) = pair.back_up(&[], &[meddled]);
    assert!(said.contains("could not be read to the end"), "{said}");
    assert!(said.contains("hot_standby_feedback = on"), "{said}");
    assert!(standby_of(&report).is_null(), "{report}");
    assert_eq!(report["rows"], 10000, "the primary's rows");
    let place = pair.sandbox.path().join("elsewhere.tar");
    let (again, said) = {
        primary.sql("INSERT INTO t SELECT generate_series(1, 20000)");
        pair.settle();
        pair.back_up(&["--output", place.to_str().unwrap()], &[meddled])
    };
    assert!(said.contains("could not be read to the end"), "{said}");
    assert_eq!(again["archive"], place.to_str().unwrap());
    let conflicts = "SELECT sum(confl_snapshot) > 0 FROM pg_stat_database_conflicts";
    until("there was a conflict", || standby.sql(conflicts) == "t");

    // With no primary to go to, the error says what to do.
    primary.sql("INSERT INTO t SELECT generate_series(1, 20000)");
    pair.settle();
    let output = pair
        .sandbox
        .k1ops(&["backup"])
        .env("K1OPS_DATABASE_URL", url(standby.port))
        .env("K1OPS_DATABASE_STANDBY", "")
        .env(meddled.0, meddled.1)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("hot_standby_feedback = on"), "{said}");
    let list = pair.sandbox.k1ops(&["list", "--json"]).output().unwrap();
    let list: Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!(list["archives"].as_array().unwrap().len(), 1, "{list}");
}
