//! `k1ops backup`, `restore` and `undo` of a stack on a real PostgreSQL by URL.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

#[path = "support/logical.rs"]
mod logical;
mod support;

use k1ops::restore::crash::{STEPS, VARIABLE};
use std::path::PathBuf;
use std::process::Command;
use support::{Sandbox, ScratchDatabase, on_server, scratch_database};

/// A stack on a filled database. What restores make beside it is dropped with it.
struct Stack {
    sandbox: Sandbox,
    database: ScratchDatabase,
}

impl Stack {
    fn new() -> Self {
        Self::of(scratch_database())
    }

    fn of(database: ScratchDatabase) -> Self {
        database.run(
            "CREATE TABLE task(id bigserial PRIMARY KEY, body text NOT NULL);
             CREATE SCHEMA external;
             CREATE TABLE external.payload(id int PRIMARY KEY, data bytea);
             INSERT INTO task(body) SELECT repeat('ab\t\\', i % 50) FROM generate_series(1, 3000) i;
             INSERT INTO external.payload SELECT i, decode(md5(i::text), 'hex') FROM generate_series(1, 40) i;",
        );
        let config = format!("tier = 'jar'\n[database]\nurl = '{}'\n", database.url);
        Self {
            sandbox: Sandbox::new(&config),
            database,
        }
    }

    fn run(&self, arguments: &[&str]) -> std::process::Output {
        self.sandbox.k1ops(arguments).output().unwrap()
    }

    #[track_caller]
    fn done(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn sum(&self) -> Vec<String> {
        sum(&self.database)
    }

    /// Databases of this stack besides the live one.
    fn others(&self) -> Vec<String> {
        self.database.column(&format!(
            "SELECT datname FROM pg_database WHERE datname LIKE '{}\\_k1ops\\_%' ORDER BY 1",
            self.database.name
        ))
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // The live one is gone if a test failed in the middle of a swap.
        let pattern = self.database.name.clone();
        let all = ScratchDatabase {
            name: format!("{pattern}_unused"),
            url: support::postgres_url(),
        };
        let names = all.column(&format!(
            "SELECT datname FROM pg_database WHERE datname LIKE '{pattern}\\_k1ops\\_%'"
        ));
        for name in names {
            on_server(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"));
        }
    }
}

/// Every row of every table, in a few words.
fn sum(database: &ScratchDatabase) -> Vec<String> {
    database.column(
        "SELECT count(*) || ' ' || md5(string_agg(t::text, ',' ORDER BY id)) FROM task t
         UNION ALL
         SELECT count(*) || ' ' || md5(string_agg(p::text, ',' ORDER BY id)) FROM external.payload p
         UNION ALL SELECT last_value::text FROM task_id_seq",
    )
}

#[test]
fn a_lost_database_comes_back_and_a_changed_one_can_be_undone() {
    let stack = Stack::new();
    let backed_up = stack.sum();
    let report = stack.done(&["backup", "--json"]);
    assert_eq!(report["rows"], 3040);
    stack
        .database
        .run("DELETE FROM task WHERE id % 3 = 0; INSERT INTO task(body) VALUES ('new')");
    let changed = stack.sum();
    let report = stack.done(&["restore", "latest", "--yes", "--json"]);
    assert!(report["safety_archive"].is_string());
    assert_eq!(stack.sum(), backed_up);
    assert_eq!(stack.others().len(), 1, "the old one is kept");
    stack.done(&["undo", "--yes"]);
    assert_eq!(stack.sum(), changed);
    stack.done(&["undo", "--yes"]);
    assert_eq!(stack.sum(), backed_up);
    stack.done(&["undo", "--discard", "--yes"]);
    assert_eq!(stack.others(), Vec::<String>::new());
    on_server(&format!(
        "DROP DATABASE {} WITH (FORCE)",
        stack.database.name
    ));
    stack.done(&["restore", "latest"]);
    assert_eq!(stack.sum(), backed_up);
}

#[test]
fn sessions_of_others_are_named_and_ended_only_when_asked_for() {
    let stack = Stack::new();
    stack.done(&["backup", "--json"]);
    stack.database.run("DELETE FROM task");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let address = stack.database.address();
    let session = runtime
        .block_on(k1ops::adapters::postgres::Session::open(&address))
        .unwrap();
    let output = stack.run(&["restore", "latest", "--yes", "--no-safety"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("is in use by 1 sessions"), "{said}");
    assert!(said.contains("--terminate-sessions"), "{said}");
    assert_eq!(stack.others(), Vec::<String>::new(), "as before");
    assert!(stack.sum()[0].starts_with("0 ") || stack.sum()[0] == "NULL");
    let force = ["--yes", "--no-safety", "--terminate-sessions"];
    stack.done(&[["restore", "latest"].as_slice(), &force].concat());
    assert!(stack.sum()[0].starts_with("3000 "));
    drop(session);
}

#[test]
fn a_restore_that_dies_anywhere_is_as_before_or_completed_by_the_next_run() {
    let stack = Stack::new();
    let new = stack.sum();
    stack.done(&["backup", "--json"]);
    let mut deaths = 0;
    for step in STEPS {
        stack.database.run("DELETE FROM task WHERE id % 2 = 0");
        let old = stack.sum();
        let output = stack
            .sandbox
            .k1ops(&["restore", "latest", "--yes", "--no-safety"])
            .env(VARIABLE, step)
            .output()
            .unwrap();
        if output.status.code().is_some() {
            assert!(output.status.success(), "{step}: {output:?}");
        } else {
            deaths += 1;
            // Asking what could be discarded is a run like any other.
            stack.done(&["undo", "--discard", "--yes"]);
            let as_before = ["restoring-noted", "restored-beside", "checked"].contains(&step);
            assert_eq!(
                stack.sum(),
                if as_before { old } else { new.clone() },
                "{step}"
            );
        }
        stack.done(&["undo", "--discard", "--yes"]);
        assert_eq!(stack.others(), Vec::<String>::new(), "{step}");
        stack.done(&["restore", "latest", "--yes", "--no-safety"]);
        assert_eq!(stack.sum(), new, "{step}");
        stack.done(&["undo", "--discard", "--yes"]);
    }
    assert_eq!(deaths, 9);
}

/// A database with properties of its own, and rows that another encoding garbles.
fn properties(owner: &str) -> Stack {
    let database = scratch_database();
    let name = &database.name;
    on_server(&format!("DROP DATABASE {name}"));
    on_server(&format!(
        "CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'
         LOCALE_PROVIDER icu ICU_LOCALE 'de-AT'"
    ));
    let stack = Stack::of(database);
    let name = &stack.database.name;
    stack.database.run(&format!(
        "INSERT INTO task(body) VALUES ('zwölf €');
         CREATE TABLE often(id int PRIMARY KEY, every interval);
         INSERT INTO often VALUES (1, '-1 day +02:03:04');
         ALTER DATABASE {name} OWNER TO {owner}; ALTER TABLE often OWNER TO {owner};
         COMMENT ON DATABASE {name} IS 'it''s :mine';
         REVOKE ALL ON DATABASE {name} FROM PUBLIC;
         GRANT CONNECT ON DATABASE {name} TO {owner} WITH GRANT OPTION;
         ALTER DATABASE {name} SET search_path = external, public;
         ALTER DATABASE {name} SET intervalstyle = 'sql_standard';
         ALTER DATABASE {name} SET default_transaction_read_only = on;
         ALTER ROLE {owner} IN DATABASE {name} SET work_mem = '7MB'"
    ));
    stack
}

/// Runs what `RESTORE.txt` says, on a host whose default is another encoding.
fn follow_restore_txt(stack: &Stack, archive: &str, target: &str) {
    let folder = tempfile::tempdir().unwrap();
    let status = Command::new("tar")
        .arg("xf")
        .arg(PathBuf::from(archive))
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
        .args(["-c", &script])
        .envs(stack.database.address().libpq_environment())
        .env("TARGET", target)
        .env("PGCLIENTENCODING", "LATIN1")
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{script}\n{output:?}");
}

/// A role that is dropped after the stack that is declared after it.
struct Owner(String);

impl Drop for Owner {
    fn drop(&mut self) {
        on_server(&format!("DROP ROLE IF EXISTS {}", self.0));
    }
}

#[test]
fn restore_txt_gives_the_same_database_with_tar_zstd_and_psql_alone() {
    let owner = Owner(format!("k1ops_by_hand_{}", std::process::id()));
    on_server(&format!("CREATE ROLE {} NOLOGIN", owner.0));
    let stack = properties(&owner.0);
    let report = stack.done(&["backup", "--json"]);
    // Dropped with the stack, as its name says.
    let target = format!("{}_k1ops_by_hand", stack.database.name);
    follow_restore_txt(&stack, report["archive"].as_str().unwrap(), &target);
    let by_hand = stack.other(&target);
    assert_eq!(sum(&by_hand), stack.sum());
    let often = "SELECT extract(epoch FROM every) FROM often";
    assert_eq!(by_hand.column(often), stack.database.column(often));
    let dump = |database: &ScratchDatabase| {
        let mut text = logical::pg_dump(&database.address());
        // The rows may have another order.
        text.retain(|c| c != '\r');
        let (mut lines, mut in_rows) = (Vec::new(), false);
        for line in text.lines() {
            in_rows = (in_rows || line.starts_with("COPY ")) && line != "\\.";
            lines.push(if in_rows { "" } else { line }.to_owned());
        }
        lines
    };
    assert_eq!(dump(&by_hand), dump(&stack.database));
}

#[test]
fn restore_txt_brings_rows_to_the_partitions_that_their_hash_names() {
    let stack = Stack::new();
    stack.database.run(
        "CREATE TYPE e AS ENUM ('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h');
         CREATE TABLE hashed(x e) PARTITION BY HASH (x);
         CREATE TABLE hashed_0 PARTITION OF hashed FOR VALUES WITH (modulus 2, remainder 0);
         CREATE TABLE hashed_1 PARTITION OF hashed FOR VALUES WITH (modulus 2, remainder 1);
         INSERT INTO hashed SELECT unnest(enum_range(NULL::e))",
    );
    let report = stack.done(&["backup", "--json"]);
    // Dropped with the stack, as its name says.
    let target = format!("{}_k1ops_by_hand", stack.database.name);
    follow_restore_txt(&stack, report["archive"].as_str().unwrap(), &target);
    let by_hand = stack.other(&target);
    let hashed = "SELECT count(*) FROM hashed";
    assert_eq!(by_hand.column(hashed), stack.database.column(hashed));
    assert_eq!(sum(&by_hand), stack.sum());
}

#[test]
fn an_archive_of_a_server_is_no_archive_of_files() {
    let stack = Stack::new();
    let report = stack.done(&["backup", "--json"]);
    let other = Sandbox::new("tier = 'jar'\n");
    let archive = report["archive"].as_str().unwrap();
    let output = other
        .k1ops(&["restore", archive, "--yes"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("holds a PostgreSQL database"), "{said}");
    assert!(!other.path().join(".conductor/data").exists());
}

impl Stack {
    /// A database that was restored under another name.
    fn other(&self, name: &str) -> ScratchDatabase {
        let url = self.database.url.replace(&self.database.name, name);
        let name = name.to_owned();
        ScratchDatabase { name, url }
    }
}

const TABLES: &str = "SELECT relnamespace::regnamespace || '.' || relname FROM pg_class
    WHERE relkind = 'r' AND relnamespace::regnamespace::text IN ('public', 'external') ORDER BY 1";

#[test]
fn one_table_is_restored_beside_the_live_data_with_its_indexes() {
    let stack = Stack::new();
    stack.database.run(
        "CREATE TABLE owner(id int PRIMARY KEY); INSERT INTO owner VALUES (1);
         ALTER TABLE task ADD COLUMN owner int REFERENCES owner DEFAULT 1;
         CREATE INDEX by_body ON task(md5(body)); CREATE VIEW both_of AS SELECT body FROM task, owner;",
    );
    stack.done(&["backup", "--json"]);
    stack.database.run("DELETE FROM task WHERE id > 10");
    let live = stack.sum();
    let name = format!("{}_k1ops_one", stack.database.name);
    let only = ["--only", "postgres:public.task", "--as", &name, "--json"];
    let command = [["restore", "latest"].as_slice(), &only].concat();
    let plan = stack.done(&[command.as_slice(), &["--dry-run"]].concat());
    assert_eq!(plan["rows"], 3000);
    assert_eq!(stack.others(), Vec::<String>::new(), "a plan makes nothing");
    let report = stack.done(&command);
    assert_eq!(
        (&report["tables"], &report["rows"]),
        (&1.into(), &3000.into())
    );
    assert_eq!(stack.others(), [name.as_str()], "nothing else is left");
    assert_eq!(stack.sum(), live, "the live data is not touched");
    let other = stack.other(&name);
    assert_eq!(other.column(TABLES), ["public.task"]);
    assert_eq!(other.column("SELECT count(*) FROM task"), ["3000"]);
    let indexes = "SELECT indexname FROM pg_indexes WHERE tablename = 'task' ORDER BY 1";
    assert_eq!(other.column(indexes), ["by_body", "task_pkey"]);
    // Nothing is overwritten, and there is nothing to take back.
    let again = stack.run(&command);
    assert_eq!(again.status.code(), Some(6), "{again:?}");
    assert_eq!(other.column("SELECT count(*) FROM task"), ["3000"]);
    assert!(!stack.run(&["undo", "--yes"]).status.success());
    on_server(&format!("DROP DATABASE {name}"));
    stack.done(&[
        "restore",
        "latest",
        "--only",
        "postgres:external",
        "--as",
        &name,
    ]);
    assert_eq!(stack.other(&name).column(TABLES), ["external.payload"]);
}

#[test]
fn a_partition_and_a_child_are_restored_without_their_parents() {
    let stack = Stack::new();
    stack.database.run(
        "CREATE TABLE part(id int, t text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
         CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
         CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (10) TO (20);
         INSERT INTO part SELECT i, i FROM generate_series(0, 19) i;
         CREATE TABLE \"Odd name\"(id int); INSERT INTO \"Odd name\" VALUES (1), (2);
         CREATE TABLE child(more int) INHERITS (\"Odd name\"); INSERT INTO child VALUES (3, 4);",
    );
    stack.done(&["backup", "--json"]);
    let name = format!("{}_k1ops_few", stack.database.name);
    stack.database.run("DROP TABLE part, \"Odd name\" CASCADE");
    let only = "postgres:public.part_2,postgres:public.child,postgres:public.Odd name";
    stack.done(&["restore", "latest", "--only", only, "--as", &name]);
    let other = stack.other(&name);
    assert_eq!(
        other.column(TABLES),
        ["public.\"Odd name\"", "public.child", "public.part_2"].map(|n| n.replace('"', ""))
    );
    assert_eq!(other.column("SELECT count(*) FROM part_2"), ["10"]);
    assert_eq!(other.column("SELECT count(*) FROM \"Odd name\""), ["3"]);
}

#[test]
fn what_cannot_be_restored_alone_is_said_before_anything_is_done() {
    let stack = Stack::new();
    stack.done(&["backup", "--json"]);
    for (arguments, said) in [
        (["--only", "postgres:public.task"].as_slice(), "--as"),
        (&["--as", "x"], "--only"),
        (&["--only", "postgres,volumes", "--as", "x"], "one by one"),
        (
            &["--only", "postgres:public.tusk", "--as", "x"],
            "public.task",
        ),
        (&["--only", "volume"], "postgres:SCHEMA"),
        (&["--only", "postgres", "--as", ""], "name of a database"),
    ] {
        let output = stack.run(&[["restore", "latest"].as_slice(), arguments].concat());
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {err}");
        assert!(err.contains(said), "{arguments:?}: {err}");
    }
}

#[test]
fn a_restore_of_one_table_that_dies_leaves_nothing_half_made() {
    let stack = Stack::new();
    stack.done(&["backup", "--json"]);
    let live = stack.sum();
    let name = format!("{}_k1ops_one", stack.database.name);
    for step in ["restoring-noted", "restored-beside", "new-moved"] {
        let only = ["--only", "postgres:public.task", "--as", &name];
        let output = stack
            .sandbox
            .k1ops(&[["restore", "latest"].as_slice(), &only].concat())
            .env(VARIABLE, step)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), None, "{step}: {output:?}");
        // Made by somebody else meanwhile, it is not what the next run removes.
        if step == "restoring-noted" {
            on_server(&format!("CREATE DATABASE {name}"));
        }
        stack.done(&["backup", "--json"]);
        assert_eq!(stack.sum(), live, "{step}");
        let there = if step == "restored-beside" {
            vec![]
        } else {
            vec![name.clone()]
        };
        assert_eq!(stack.others(), there, "{step}");
        on_server(&format!("DROP DATABASE IF EXISTS {name}"));
    }
}

#[test]
fn a_partitioned_table_and_a_view_of_it_come_back_whole() {
    let stack = Stack::new();
    stack.database.run(
        "CREATE SCHEMA s;
         CREATE TABLE s.part(id int, t text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
         CREATE TABLE s.part_1 PARTITION OF s.part FOR VALUES FROM (0) TO (10);
         CREATE TABLE public.part_2 PARTITION OF s.part FOR VALUES FROM (10) TO (20);
         CREATE INDEX by_t ON s.part(t);
         INSERT INTO s.part SELECT i, i FROM generate_series(0, 19) i;
         CREATE MATERIALIZED VIEW s.seen AS SELECT count(*) AS n FROM s.part;
         CREATE MATERIALIZED VIEW s.other AS SELECT count(*) AS n FROM task;",
    );
    stack.done(&["backup", "--json"]);
    let name = format!("{}_k1ops_part", stack.database.name);
    let only = ["--only", "postgres:s.part", "--as", &name, "--json"];
    let report = stack.done(&[["restore", "latest"].as_slice(), &only].concat());
    assert_eq!(
        (&report["tables"], &report["rows"]),
        (&2.into(), &20.into())
    );
    let other = stack.other(&name);
    assert_eq!(other.column("SELECT count(*) FROM s.part"), ["20"]);
    assert_eq!(other.column("SELECT n FROM s.seen"), ["20"]);
    let views = "SELECT matviewname FROM pg_matviews";
    assert_eq!(
        other.column(views),
        ["seen"],
        "one that needs other tables goes"
    );
    let valid = "SELECT bool_and(indisvalid) FROM pg_index WHERE indrelid = 's.part'::regclass";
    assert_eq!(
        other.column(valid),
        ["t"],
        "indexes of partitions are attached"
    );
}

#[test]
fn one_table_is_restored_with_all_that_is_its_own() {
    let stack = Stack::new();
    stack.database.run(
        "CREATE TABLE \"T on\"(id int PRIMARY KEY, a int, \"b.b\" int);
         CREATE TABLE other(id int PRIMARY KEY, a int);
         CREATE RULE \"r ON\" AS ON INSERT TO \"T on\" WHERE new.a > 100 DO INSTEAD NOTHING;
         CREATE RULE copied AS ON INSERT TO \"T on\" DO ALSO INSERT INTO other VALUES (new.id, 1);
         CREATE STATISTICS \"st\"\"at\" (dependencies) ON a, \"b.b\" FROM \"T on\";
         CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
         CREATE TRIGGER \"tr on\" BEFORE UPDATE ON \"T on\" FOR EACH ROW EXECUTE FUNCTION f();
         CREATE POLICY \"p on\" ON \"T on\" USING (true);
         CREATE POLICY looks ON \"T on\" USING (id IN (SELECT id FROM other));
         COMMENT ON RULE \"r ON\" ON \"T on\" IS 'rule';
         COMMENT ON RULE copied ON \"T on\" IS 'not this';
         COMMENT ON STATISTICS \"st\"\"at\" IS 'statistics';
         COMMENT ON TRIGGER \"tr on\" ON \"T on\" IS 'trigger';
         COMMENT ON POLICY \"p on\" ON \"T on\" IS 'policy';
         COMMENT ON CONSTRAINT \"T on_pkey\" ON \"T on\" IS 'constraint';
         CREATE VIEW \"v \" AS SELECT id, a, count(*) FROM \"T on\" GROUP BY id;
         CREATE VIEW others AS SELECT id, a, count(*) FROM other GROUP BY id;
         CREATE VIEW of_others AS SELECT id FROM others;
         CREATE MATERIALIZED VIEW \"m \" AS SELECT id, a, count(*) FROM \"T on\" GROUP BY id;
         CREATE INDEX \"m i\" ON \"m \"(a);
         COMMENT ON COLUMN \"m \".a IS 'column';
         CREATE MATERIALIZED VIEW more AS SELECT * FROM others;
         INSERT INTO \"T on\" VALUES (1, 2, 3);",
    );
    stack.done(&["backup", "--json"]);
    let name = format!("{}_k1ops_own", stack.database.name);
    let only = ["--only", "postgres:public.T on", "--as", &name];
    stack.done(&[["restore", "latest"].as_slice(), &only].concat());
    let other = stack.other(&name);
    let comments = "SELECT description FROM pg_description WHERE description IN ('rule', 'trigger',
        'policy', 'statistics', 'constraint', 'column', 'not this') ORDER BY 1";
    assert_eq!(
        other.column(comments),
        [
            "column",
            "constraint",
            "policy",
            "rule",
            "statistics",
            "trigger"
        ]
    );
    let views = "SELECT relname FROM pg_class WHERE relkind IN ('v', 'm')
        AND relnamespace = 'public'::regnamespace ORDER BY 1";
    assert_eq!(
        other.column(views),
        ["m ", "v "],
        "no placeholder of another one is left"
    );
    assert_eq!(other.column("SELECT a FROM \"v \""), ["2"]);
    assert_eq!(other.column("SELECT a FROM \"m \""), ["2"]);
    let indexed = "SELECT indexname FROM pg_indexes WHERE tablename = 'm '";
    assert_eq!(other.column(indexed), ["m i"]);
    let rules = "SELECT rulename FROM pg_rules WHERE tablename = 'T on'";
    assert_eq!(other.column(rules), ["r ON"]);
    let policies = "SELECT policyname FROM pg_policies";
    assert_eq!(other.column(policies), ["p on"]);
}
