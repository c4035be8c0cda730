//! Logical backup and restore against a real `PostgreSQL`, with `pg_dump` as the judge.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

#[path = "support/logical.rs"]
mod logical;
mod support;

use k1ops::adapters::postgres::{Session, admin};
use k1ops::archive::{Archive, Manifest};
use k1ops::error::ErrorKind;
use k1ops::event::Events;
use k1ops::interrupt::Interrupt;
use k1ops::restore::postgres as restoring;
use logical::{Beside, assert_same_text, pg_dump, restore, take, take_with};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use support::{ScratchDatabase, scratch_database};

/// A role, dropped together with this value; declare it before the databases that use it.
struct Role(String);

impl Role {
    fn create(of: &str) -> Self {
        let name = format!("k1ops_role_{of}_{}", std::process::id());
        support::on_server(&format!("CREATE ROLE {name} NOLOGIN"));
        Self(name)
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        support::on_server(&format!("DROP ROLE IF EXISTS {}", self.0));
    }
}

/// Rows of a table may come back in another order: each `COPY` block is sorted.
fn sorted_rows(dump: &str) -> String {
    let (mut text, mut rows) = (String::new(), None::<Vec<&str>>);
    for line in dump.lines() {
        match &mut rows {
            Some(block) if line == "\\." => {
                block.sort_unstable();
                text.push_str(&block.join("\n"));
                text.push_str("\n\\.\n");
                rows = None;
            }
            Some(block) => block.push(line),
            None => {
                text.push_str(line);
                text.push('\n');
                if line.starts_with("COPY ") {
                    rows = Some(Vec::new());
                }
            }
        }
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_comes_back_as_pg_dump_sees_it() {
    let role = Role::create("owner");
    let live = scratch_database();
    let session = Session::open(&live.address()).await.unwrap();
    session
        .batch_execute(include_str!("fixtures/everything.sql"))
        .await
        .unwrap();
    let role_name = &role.0;
    let setup = format!(
        "ALTER TABLE task OWNER TO {role_name}; GRANT SELECT ON measured TO {role_name} WITH GRANT OPTION;
         ALTER DATABASE {} SET work_mem TO '7MB'; COMMENT ON DATABASE {} IS 'it''s mine';
         GRANT CREATE ON DATABASE {} TO {role_name};",
        live.name,
        live.name,
        live.name
    );
    session.batch_execute(&setup).await.unwrap();
    drop(session);

    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("a.tar");
    let manifest = take(&live.address(), &place).await;
    let source = manifest.postgres().unwrap();
    assert!(
        source
            .tables
            .iter()
            .any(|t| t.name == "task" && t.digest.rows == 30_000)
    );
    assert_eq!(source.large_objects.count, 2);
    assert!(source.roles.iter().any(|r| r.name == role.0));
    let before = pg_dump(&live.address());

    let beside = Beside::of(&live, "restored");
    let restored = restore(&place, &live.address(), beside.name())
        .await
        .unwrap();
    assert_eq!(restored.rows, manifest.rows());
    let after = pg_dump(&beside.address());
    assert_same_text(&sorted_rows(&before), &sorted_rows(&after));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_table_is_divided_and_nothing_is_lost_or_doubled() {
    let live = scratch_database();
    let session = Session::open(&live.address()).await.unwrap();
    session
        .batch_execute(
            "CREATE TABLE big (id int PRIMARY KEY, pad text);
             INSERT INTO big SELECT i, repeat('x', 1000) || i FROM generate_series(1, 200000) i;
             DELETE FROM big WHERE id % 3 = 0; UPDATE big SET pad = 'short' WHERE id % 5 = 0;",
        )
        .await
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("a.tar");
    let manifest = take(&live.address(), &place).await;
    let table = &manifest.postgres().unwrap().tables[0];
    let counted: i64 = session
        .query_one("SELECT count(*) FROM big", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(i64::try_from(table.digest.rows).unwrap(), counted);
    assert!(table.parts > 3, "{} parts", table.parts);
    let beside = Beside::of(&live, "restored");
    restore(&place, &live.address(), beside.name())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_snapshot_is_one_while_others_write() {
    let live = scratch_database();
    let session = Session::open(&live.address()).await.unwrap();
    session
        .batch_execute(
            "CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL);
             CREATE TABLE history (account int, delta bigint);
             INSERT INTO account SELECT i, 0 FROM generate_series(1, 2000) i;",
        )
        .await
        .unwrap();
    let stop = Interrupt::default();
    let (address, stopped) = (live.address(), stop.clone());
    let writer = tokio::spawn(async move {
        let session = Session::open(&address).await.unwrap();
        let mut count = 0_u64;
        while !stopped.is_raised() {
            let (account, delta) = (1 + count * 7919 % 2000, count % 100);
            let sql = format!(
                "BEGIN; UPDATE account SET balance = balance + {delta} WHERE id = {account};
                 INSERT INTO history VALUES ({account}, {delta}); COMMIT"
            );
            session.batch_execute(&sql).await.unwrap();
            count += 1;
        }
        count
    });
    let folder = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let place = folder.path().join(format!("{round}.tar"));
        take(&live.address(), &place).await;
        let beside = Beside::of(&live, &format!("round{round}"));
        restore(&place, &live.address(), beside.name())
            .await
            .unwrap();
        let restored = Session::open(&beside.address()).await.unwrap();
        let wrong: i64 = restored
            .query_one(
                "SELECT count(*) FROM account a LEFT JOIN
                    (SELECT account, sum(delta) AS s FROM history GROUP BY 1) h ON h.account = a.id
                 WHERE a.balance <> coalesce(h.s, 0)",
                &[],
            )
            .await
            .unwrap()
            .get(0);
        assert_eq!(wrong, 0, "round {round}");
    }
    stop.raise();
    assert!(
        writer.await.unwrap() > 0,
        "nothing was written during the backups"
    );
}

/// A server that brings its schema up to date while the backup begins: the snapshot may not see what
/// the tables have become when they are locked.
#[tokio::test(flavor = "multi_thread")]
async fn tables_that_are_altered_while_the_backup_begins_do_no_harm() {
    let live = scratch_database();
    let session = Session::open(&live.address()).await.unwrap();
    let tables = "CREATE TABLE a AS SELECT 1 AS n; CREATE TABLE b AS SELECT 2 AS n";
    session.batch_execute(tables).await.unwrap();
    let stop = Interrupt::default();
    let (address, stopped) = (live.address(), stop.clone());
    let altering = tokio::spawn(async move {
        let session = Session::open(&address).await.unwrap();
        // Who waits for a lock holds up whoever comes later: this one gives up soon.
        let soon = "SET lock_timeout = '20ms'";
        session.batch_execute(soon).await.unwrap();
        let mut count = 0_u64;
        while !stopped.is_raised() {
            let sql = "ALTER TABLE a ADD COLUMN x int; ALTER TABLE a DROP COLUMN n CASCADE;
                       ALTER TABLE a RENAME COLUMN x TO n";
            count += u64::from(session.batch_execute(sql).await.is_ok());
            tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        }
        count
    });
    let folder = tempfile::tempdir().unwrap();
    for round in 0..5 {
        let place = folder.path().join(format!("{round}.tar"));
        let manifest = take(&live.address(), &place).await;
        assert_eq!(manifest.rows(), 2, "round {round}");
    }
    stop.raise();
    assert!(altering.await.unwrap() > 0, "nothing was altered");
}

/// Whoever wants to alter a table waits for the backup, and our own connections wait behind it: then the one that
/// has the lock reads the table.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_somebody_waits_to_alter_is_read_even_so() {
    let live = scratch_database();
    let session = Session::open(&live.address()).await.unwrap();
    // So large that the small one's turn comes after everybody has locked it.
    let tables = "CREATE TABLE large AS
                      SELECT i, repeat(md5(i::text), 4) AS text FROM generate_series(1, 900000) i;
                  CREATE TABLE small AS SELECT 1 AS n";
    session.batch_execute(tables).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    // The moment is a short one, and a busy host may miss it.
    for round in 0..8 {
        let place = folder.path().join(format!("{round}.tar"));
        let (manifest, waiting) = Box::pin(altered_meanwhile(&live, &place, round)).await;
        assert_eq!(manifest.rows(), 900_001);
        let beside = Beside::of(&live, &format!("altered_{round}"));
        if waiting > 0 {
            restore(&place, &live.address(), beside.name())
                .await
                .unwrap();
            return;
        }
    }
    panic!("nobody ever waited behind the alteration");
}

/// A backup in whose middle the table `small` is altered; also how many sessions were seen to wait for that at once.
async fn altered_meanwhile(live: &ScratchDatabase, place: &Path, round: u32) -> (Manifest, usize) {
    let stop = Interrupt::default();
    let (address, stopped) = (live.address(), stop.clone());
    let altering = tokio::spawn(async move {
        let session = Session::open(&address).await.unwrap();
        // The snapshot's own session, and a pg_dump for each half of the schema.
        let mut seen = BTreeSet::new();
        while seen.len() < 3 && !stopped.is_raised() {
            seen.extend(sessions_on_small(&session, true).await);
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let sql = format!("ALTER TABLE small ADD COLUMN x{round} int");
        session.batch_execute(&sql).await.unwrap();
    });
    let (address, stopped) = (live.address(), stop.clone());
    let looking = tokio::spawn(async move {
        let session = Session::open(&address).await.unwrap();
        let mut most = 0;
        while !stopped.is_raised() {
            most = most.max(sessions_on_small(&session, false).await.len());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        most
    });
    let manifest = take(&live.address(), place).await;
    stop.raise();
    // It was held up by nothing but the backup.
    let limit = std::time::Duration::from_secs(30);
    let altered = tokio::time::timeout(limit, altering).await;
    altered.expect("the table is free again").unwrap();
    (manifest, looking.await.unwrap())
}

/// The sessions that hold, or wait for, the right to read the table `small`.
async fn sessions_on_small(session: &Session, granted: bool) -> Vec<i32> {
    let sql = "SELECT l.pid FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
               WHERE c.relname = 'small' AND l.mode = 'AccessShareLock' AND l.granted = $1
                   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let rows = session.query(sql, &[&granted]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// A `pg_dump` that is the real one with `more` behind its name.
fn acted(folder: &Path, more: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let program = folder.join("pg_dump");
    let script = format!("#!/bin/sh\n/usr/lib/postgresql/15/bin/pg_dump {more}\n");
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    program
}

/// Only a superuser's `pg_dump` has subscriptions; another one's says so, and succeeds.
#[tokio::test(flavor = "multi_thread")]
async fn what_pg_dump_warns_of_is_noted_as_left_out() {
    let live = scratch_database();
    let folder = tempfile::tempdir().unwrap();
    let program = acted(
        folder.path(),
        "\"$@\" && echo 'pg_dump: warning: subscriptions not dumped' >&2",
    );
    let manifest = take_with(&live.address(), &folder.path().join("a.tar"), program).await;
    let left_out: Vec<&str> = manifest.left_out.iter().map(|l| l.what.as_str()).collect();
    let noted = left_out
        .iter()
        .filter(|what| **what == "subscriptions not dumped");
    assert_eq!(noted.count(), 1, "{left_out:?}");
}

/// A server of version 17 is not here, so its `pg_dump` is acted: one of 15 that keeps large objects to itself.
#[tokio::test(flavor = "multi_thread")]
async fn large_objects_that_pg_dump_says_nothing_of_come_back_with_all_that_is_said_of_them() {
    let role = Role::create("reader");
    let live = scratch_database();
    let session = Session::open(&live.address()).await.unwrap();
    let name = &role.0;
    let setup = format!(
        "SELECT lo_from_bytea(7, decode(repeat('00ff10', 400000), 'hex')), lo_from_bytea(8, ''),
                lo_from_bytea(9, 'x'), lo_from_bytea(4000000000, 'y');
         COMMENT ON LARGE OBJECT 7 IS 'it''s; large'; GRANT SELECT ON LARGE OBJECT 7 TO PUBLIC;
         GRANT SELECT, UPDATE ON LARGE OBJECT 8 TO {name} WITH GRANT OPTION;
         ALTER LARGE OBJECT 9 OWNER TO {name}; REVOKE UPDATE ON LARGE OBJECT 9 FROM {name};"
    );
    session.batch_execute(&setup).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let program = acted(folder.path(), "\"$@\" | sed '/lo_create\\|LARGE OBJECT/d'");
    let place = folder.path().join("a.tar");
    take_with(&live.address(), &place, program).await;
    let pre_data = Archive::open(&place)
        .unwrap()
        .read_text("postgres/schema-pre-data.sql");
    assert!(!pre_data.unwrap().contains("lo_create"));

    let beside = Beside::of(&live, "restored");
    restore(&place, &live.address(), beside.name())
        .await
        .unwrap();
    let (before, after) = (pg_dump(&live.address()), pg_dump(&beside.address()));
    assert!(before.contains("ALTER LARGE OBJECT 9 OWNER TO"));
    assert_same_text(&before, &after);
}

/// Where a row belongs by the hash of an enum's value is another partition in every database.
#[tokio::test(flavor = "multi_thread")]
async fn rows_partitioned_by_the_hash_of_an_enum_come_back_wherever_they_belong_now() {
    let live = scratch_database();
    let session = Session::open(&live.address()).await.unwrap();
    let setup = "
        CREATE TYPE e AS ENUM ('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j');
        CREATE SCHEMA \"S s\";
        CREATE TABLE \"S s\".\"T t\" (x e, n int, twice int GENERATED ALWAYS AS (n * 2) STORED, \"t t\" text,
            PRIMARY KEY (x, n)) PARTITION BY HASH (x);
        CREATE TABLE t0 PARTITION OF \"S s\".\"T t\" FOR VALUES WITH (modulus 3, remainder 0);
        CREATE TABLE t1 (\"t t\" text, n int NOT NULL, twice int GENERATED ALWAYS AS (n * 2) STORED, x e NOT NULL);
        ALTER TABLE \"S s\".\"T t\" ATTACH PARTITION t1 FOR VALUES WITH (modulus 3, remainder 1);
        CREATE TABLE t2 PARTITION OF \"S s\".\"T t\" FOR VALUES WITH (modulus 3, remainder 2)
            PARTITION BY RANGE (n);
        CREATE TABLE t2_low PARTITION OF t2 FOR VALUES FROM (MINVALUE) TO (500);
        CREATE TABLE t2_high PARTITION OF t2 DEFAULT;
        CREATE INDEX ON \"S s\".\"T t\" (n);
        INSERT INTO \"S s\".\"T t\" (x, n, \"t t\")
            SELECT (enum_range(NULL::e))[1 + i % 10], i, 'row ' || i FROM generate_series(0, 999) i;
        CREATE TABLE refers (x e, n int, FOREIGN KEY (x, n) REFERENCES \"S s\".\"T t\");
        INSERT INTO refers SELECT x, n FROM \"S s\".\"T t\" WHERE n % 7 = 0;
        CREATE TABLE plain (n int, t text) PARTITION BY HASH (n, t);
        CREATE TABLE plain_0 PARTITION OF plain FOR VALUES WITH (modulus 2, remainder 0);
        CREATE TABLE plain_1 PARTITION OF plain FOR VALUES WITH (modulus 2, remainder 1);
        INSERT INTO plain SELECT i, i FROM generate_series(1, 100) i;";
    session.batch_execute(setup).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("a.tar");
    let manifest = take(&live.address(), &place).await;
    let list = Archive::open(&place)
        .unwrap()
        .read_text("postgres/load.tsv");
    let list = list.unwrap();
    let through_root = "COPY \"S s\".\"T t\" (x, n, \"t t\") FROM STDIN";
    assert!(list.matches(through_root).count() >= 3, "{list}");
    assert!(
        list.contains("COPY \"public\".\"plain_0\" (n, t) FROM STDIN"),
        "{list}"
    );

    let beside = Beside::of(&live, "restored");
    let restored = restore(&place, &live.address(), beside.name()).await;
    assert_eq!(restored.unwrap().rows, manifest.rows());
    let found = "SELECT string_agg(t::text, ',' ORDER BY n) FROM \"S s\".\"T t\" t WHERE x = 'c'";
    assert_eq!(beside.0.column(found), live.column(found));
    // Alone, a partition takes the rows that it had.
    let alone = Beside::of(&live, "alone");
    let archive = Archive::open(&place).unwrap();
    let source = archive.manifest().postgres().unwrap();
    let wanted = ["public.t1".to_owned()];
    let selection = restoring::Selection::of(&archive, source, &wanted).unwrap();
    let (events, interrupt) = (Events::silent(), Interrupt::default());
    let options = restoring::Options { jobs: 3 };
    restoring::restore_selected(
        &archive,
        &live.address(),
        alone.name(),
        &selection,
        &options,
        &events,
        &interrupt,
    )
    .await
    .unwrap();
    let rows = "SELECT count(*) FROM t1";
    assert_eq!(alone.0.column(rows), live.column(rows));
}

/// The server never analyses a partitioned table by itself.
#[tokio::test(flavor = "multi_thread")]
async fn every_table_is_analysed_partitioned_ones_too() {
    let live = scratch_database();
    let session = Session::open(&live.address()).await.unwrap();
    let setup = "
        CREATE SCHEMA \"S s\"; CREATE TABLE plain AS SELECT 1 AS n;
        CREATE TABLE \"S s\".\"T t\" (at date, \"v v\" text) PARTITION BY RANGE (at);
        CREATE TABLE t_1 PARTITION OF \"S s\".\"T t\" FOR VALUES FROM ('2026-01-01') TO ('2026-07-01');
        CREATE TABLE t_2 PARTITION OF \"S s\".\"T t\" DEFAULT PARTITION BY LIST (\"v v\");
        CREATE TABLE t_2_rest PARTITION OF t_2 DEFAULT;
        CREATE INDEX by_word ON t_2_rest (lower(\"v v\"));
        INSERT INTO \"S s\".\"T t\" SELECT date '2026-01-01' + i % 300, i FROM generate_series(1, 999) i;
        CREATE TABLE parent (n int); CREATE TABLE child () INHERITS (parent);
        INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2);";
    session.batch_execute(setup).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("a.tar");
    take(&live.address(), &place).await;
    let beside = Beside::of(&live, "restored");
    restore(&place, &live.address(), beside.name())
        .await
        .unwrap();
    let analysed =
        "SELECT DISTINCT c.relname || CASE WHEN s.stainherit THEN ' with others' ELSE '' END
        FROM pg_statistic s JOIN pg_class c ON c.oid = s.starelid WHERE c.oid >= 16384 ORDER BY 1";
    let expected = [
        "T t with others",
        "child",
        "parent",
        "parent with others",
        "plain",
        "t_1",
        "t_2 with others",
        "t_2_rest",
    ];
    assert_eq!(beside.0.column(analysed), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_archive_leaves_no_database_behind() {
    let live = scratch_database();
    let session = Session::open(&live.address()).await.unwrap();
    session
        .batch_execute(
            "CREATE TABLE t AS SELECT i, md5(i::text) AS m FROM generate_series(1, 5000) i",
        )
        .await
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("a.tar");
    let manifest = take(&live.address(), &place).await;
    let part = manifest
        .members
        .iter()
        .find(|m| m.path.contains("public.t/"))
        .unwrap();
    let mut bytes = std::fs::read(&place).unwrap();
    bytes[usize::try_from(part.offset + part.size / 2).unwrap()] ^= 1;
    std::fs::write(&place, bytes).unwrap();
    let beside = Beside::of(&live, "restored");
    let error = restore(&place, &live.address(), beside.name())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadData, "{error}");
    assert!(
        !admin::database_exists(&live.address(), beside.name())
            .await
            .unwrap()
    );
}
