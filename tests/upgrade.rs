//! `k1ops upgrade` with real servers of tier 2. Other versions are made of the real JAR: with a migration
//! less, with more of them, and broken. Whatever fails, and wherever k1ops is killed, the old version
//! comes back with every row, and what was running runs on.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise, in its helpers as well"
)]

mod jar;
mod patience;

use jar::{Ground, assert_code, text};
use k1ops::config::Server;
use k1ops::event::Events;
use k1ops::interrupt::Interrupt;
use k1ops::restore::crash::VARIABLE;
use k1ops::stack::jar::boot_jar::Wanted;
use k1ops::stack::jar::cache::Cache;
use k1ops::upgrade::crash::STEPS;
use rusqlite::Connection;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};

/// What the newest schema has, and an older one has not.
const NEWEST: &str = "db/migration_scheduler_sqlite/V2__scheduler_next_run_table.sql";
/// Changes the schema for good, and then fails, but on the live data only: in one go a drill sees nothing.
const LIVE_ONLY: &str = "\
    CREATE TABLE next_version (id INTEGER);
    UPDATE workflow SET json_data = '{}' WHERE \
        (SELECT file FROM pragma_database_list WHERE name = 'main') NOT LIKE '%/drills/%';
    INSERT INTO next_version SELECT CASE WHEN \
        (SELECT file FROM pragma_database_list WHERE name = 'main') LIKE '%/drills/%' \
        THEN 1 ELSE abs(-9223372036854775807 - 1) END;";

/// A JAR and its checksum.
struct Jar {
    path: String,
    sha256: String,
}

impl Jar {
    fn at(path: &Path) -> Self {
        let sum = Command::new("sha256sum").arg(path).output().unwrap();
        assert_code(&sum, 0);
        let sum = text(&sum);
        Self {
            path: path.to_str().unwrap().to_owned(),
            sha256: sum.split(' ').next().unwrap().to_owned(),
        }
    }

    fn changed(&self, place: &Path, changes: &[String]) -> Self {
        let script = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/fixtures/another_version.py"
        );
        let made = Command::new("python3")
            .args([script, &self.path, place.to_str().unwrap()])
            .args(changes)
            .output()
            .unwrap();
        assert_code(&made, 0);
        Self::at(place)
    }

    fn upgrade<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let own = [
            "upgrade",
            "--yes",
            "--jar",
            &self.path,
            "--jar-sha256",
            &self.sha256,
        ];
        [&own, more].concat()
    }
}

fn db(ground: &Ground) -> Connection {
    Connection::open(ground.path(".conductor/data/conductor.db")).unwrap()
}

fn has_table(ground: &Ground, name: &str) -> bool {
    let sql = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?1";
    let found: i64 = db(ground).query_row(sql, [name], |row| row.get(0)).unwrap();
    found == 1
}

/// Every row of the tables that an idle server leaves alone.
fn rows(ground: &Ground) -> Vec<String> {
    let db = db(ground);
    let tables = [
        "workflow",
        "task",
        "meta_workflow_def",
        "meta_task_def",
        "workflow_to_task",
        "workflow_def_to_workflow",
        "flyway_schema_history",
    ];
    let mut all = Vec::new();
    for table in tables {
        let mut statement = db
            .prepare(&format!("SELECT * FROM {table} ORDER BY 1, 2, 3"))
            .unwrap();
        let columns = statement.column_count();
        let mut found = statement.query([]).unwrap();
        while let Some(row) = found.next().unwrap() {
            let values = (0..columns).map(|n| format!("{:?}", row.get_ref(n).unwrap()));
            all.push(format!(
                "{table}: {}",
                values.collect::<Vec<_>>().join(" | ")
            ));
        }
    }
    all
}

fn define(ground: &Ground) {
    let task = json!([{"name": "step", "ownerEmail": "a@example.org", "retryCount": 0,
        "timeoutSeconds": 0, "responseTimeoutSeconds": 3600}]);
    ground.api("POST", "/metadata/taskdefs", &task);
    let steps = ["one", "two"]
        .map(|name| json!({"name": "step", "taskReferenceName": name, "type": "SIMPLE"}));
    let workflow = json!({"name": "upgraded", "version": 1, "schemaVersion": 2,
        "ownerEmail": "a@example.org", "tasks": steps});
    ground.api("POST", "/metadata/workflow", &workflow);
}

/// Starts a workflow and does the first of its two tasks.
fn half_done(ground: &Ground) -> String {
    let id = ground.api("POST", "/workflow/upgraded", &json!({}));
    let id = id.as_str().unwrap().to_owned();
    do_step(ground);
    id
}

fn do_step(ground: &Ground) {
    let path = "/tasks/poll/batch/step?count=1&timeout=1000&workerid=w";
    let mut polled = Value::Null;
    patience::until("a task is handed out", || {
        polled = ground.api("GET", path, &Value::Null);
        polled[0].is_object()
    });
    let result = json!({"workflowInstanceId": polled[0]["workflowInstanceId"],
        "taskId": polled[0]["taskId"], "status": "COMPLETED", "outputData": {}, "workerId": "w"});
    ground.api("POST", "/tasks", &result);
}

/// What was halfway comes to its end; answers another one that is halfway.
fn runs_on(ground: &Ground, id: &str) -> String {
    assert_eq!(ground.workflow(id)["status"], "RUNNING");
    do_step(ground);
    ground.ended(id, "COMPLETED");
    half_done(ground)
}

/// The JAR that a stack runs which names none.
fn real_jar() -> Jar {
    let cache = Cache::at(Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
    let wanted = Wanted {
        server: &Server::default(),
        base: Path::new("."),
        cache: &cache,
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (events, interrupt) = (Events::silent(), Interrupt::default());
    let found = runtime.block_on(wanted.obtain(&events, &interrupt));
    Jar::at(&found.unwrap().path)
}

#[track_caller]
fn says(output: &Output, words: &str) {
    let said = text(output);
    assert!(said.contains(words), "not said: {words}\n{said}");
}

/// Runs until it is killed at `step`.
#[track_caller]
fn killed_at(ground: &Ground, step: &str, arguments: &[&str]) {
    assert!(STEPS.contains(&step), "{step} is a step");
    let output = ground
        .command(arguments)
        .env(VARIABLE, step)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), None, "{step}: {}", text(&output));
    let status = ground.run(&["status"]);
    says(&status, "an upgrade was broken off");
    says(&status, "k1ops start");
}

/// Nothing is left of what began, and the stack is as it was.
#[track_caller]
fn as_before(ground: &Ground, before: &Before) {
    assert_eq!(ground.read("k1ops.toml"), before.config);
    assert_eq!(rows(ground), before.rows);
    let status = ground.run(&["status"]);
    assert_code(&status, 0);
    assert!(!text(&status).contains("broken off"), "{}", text(&status));
}

/// A stack, as it has to be again.
struct Before {
    config: String,
    rows: Vec<String>,
}

impl Before {
    fn of(ground: &Ground) -> Self {
        Self {
            config: ground.read("k1ops.toml"),
            rows: rows(ground),
        }
    }
}

#[test]
fn a_stack_is_upgraded_and_whatever_fails_is_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let real = real_jar();
    let place = |name: &str| folder.path().join(name);
    let old = real.changed(&place("old.jar"), &[format!("without={NEWEST}")]);
    let settings = format!(
        "[server]\nfast_start = false # for now\njar = '{}'\njar_sha256 = '{}'\n",
        old.path, old.sha256
    );
    let ground = Ground::new(k1ops::adapters::port::any_free().unwrap(), &settings);
    assert_code(&ground.run(&["start"]), 0);
    assert!(!has_table(&ground, "scheduler_next_run"), "an older schema");
    define(&ground);
    let id = half_done(&ground);

    refused_before_anything(&ground, &real, &place("damaged.jar"));
    let id = to_a_newer_schema(&ground, &id);
    let id = back_from_one_that_fails_live_only(&ground, &real, &place("live.jar"), &id);
    let id = killed_everywhere(&ground, &place("damaged.jar"), &id);
    killed_before_health_and_undone(&ground, &real, &place("newer.jar"), &id);
}

/// What can be known beforehand is told beforehand, and the drill finds what cannot.
fn refused_before_anything(ground: &Ground, real: &Jar, damaged: &Path) {
    let before = Before::of(ground);
    let pid = ground.server_pid();
    let mut start = vec![0; 1 << 20];
    std::io::Read::read_exact(&mut std::fs::File::open(&real.path).unwrap(), &mut start).unwrap();
    std::fs::write(damaged, start).unwrap();
    let damaged = Jar::at(damaged);
    assert_code(&ground.run(&["upgrade"]), 2);
    assert_code(&ground.run(&["upgrade", "--undo"]), 3);
    assert_code(&ground.run(&["upgrade", "--image", "redis=redis:8"]), 2);
    let unverified = ground.run(&["upgrade", "--yes", "--jar", &damaged.path]);
    assert_code(&unverified, 4);
    says(&unverified, "--jar-sha256");
    let unasked: Vec<&str> = damaged
        .upgrade(&[])
        .into_iter()
        .filter(|a| *a != "--yes")
        .collect();
    assert_code(&ground.run(&unasked), 6);
    let plan = ground.json(&damaged.upgrade(&["--dry-run"]), 0);
    assert_eq!(plan["changes"][0]["key"], "server.jar");
    let failed = ground.run(&damaged.upgrade(&[]));
    assert_code(&failed, 4);
    says(
        &failed,
        "does not do on a copy of the data; the stack was not touched",
    );
    says(&failed, "Invalid or corrupt jarfile");
    assert_eq!(ground.server_pid(), pid, "the server was not even stopped");
    as_before(ground, &before);
}

fn to_a_newer_schema(ground: &Ground, id: &str) -> String {
    // From here on starts are fast.
    let config = ground
        .read("k1ops.toml")
        .replace("fast_start = false", "fast_start = true");
    ground.write("k1ops.toml", &config);
    let before = rows(ground);
    let done = ground.json(&["upgrade", "--yes", "--server-version", "3.32.1"], 0);
    assert!(done["drill"]["rows"].as_u64().unwrap() > 0, "{done}");
    assert_eq!(done["drill"]["work"]["was_started"], false, "{done}");
    assert!(has_table(ground, "scheduler_next_run"), "the newer schema");
    assert_eq!(rows(ground), before);
    let config = ground.read("k1ops.toml");
    assert!(config.contains("fast_start = true # for now\n"), "{config}");
    assert!(config.contains("jar = \"\"\n"), "{config}");
    ground.start();
    let again = ground.json(&["upgrade", "--yes", "--server-version", "3.32.1"], 0);
    assert_eq!(again["changes"], json!([]), "that runs already");
    runs_on(ground, id)
}

fn back_from_one_that_fails_live_only(
    ground: &Ground,
    real: &Jar,
    place: &Path,
    id: &str,
) -> String {
    let next = real.changed(
        place,
        &[
            "with=db/migration_sqlite/V901__next.sql=ALTER TABLE poll_data ADD COLUMN next TEXT;"
                .into(),
            format!("with=db/migration_sqlite/V902__live_only.sql={LIVE_ONLY}"),
            "with=db/migration_sqlite/V902__live_only.sql.conf=executeInTransaction=false".into(),
        ],
    );
    let before = Before::of(ground);
    let failed = ground.run(&next.upgrade(&[]));
    assert_code(&failed, 1);
    says(&failed, "completing a workflow");
    says(&failed, "the server died while it started");
    says(
        &failed,
        "the new version does not come up; the old one is back, with its data",
    );
    as_before(ground, &before);
    assert!(!has_table(ground, "next_version"));
    // It had changed what the old version would not have started on, and that is kept.
    let kept = left_by_the_new_version(ground);
    let sql = "SELECT count(*) FROM workflow WHERE json_data = '{}'";
    let spoilt: i64 = kept.query_row(sql, [], |row| row.get(0)).unwrap();
    assert!(spoilt > 0, "the data were changed");
    runs_on(ground, id)
}

/// The database that the last restore has put aside.
fn left_by_the_new_version(ground: &Ground) -> Connection {
    let data = std::fs::read_dir(ground.path(".conductor/data")).unwrap();
    let kept = data.map(|entry| entry.unwrap().path().join("kept/conductor.db"));
    let newest = kept.filter(|path| path.exists()).max().unwrap();
    Connection::open(newest).unwrap()
}

/// One upgrade, killed, and whoever puts it right killed as well, at each step.
fn killed_everywhere(ground: &Ground, damaged: &Path, id: &str) -> String {
    let damaged = Jar::at(damaged);
    let upgrade = damaged.upgrade(&["--no-drill"]);
    let before = Before::of(ground);
    for step in ["upgrade-noted", "upgrade-stopped", "upgrade-saved"] {
        killed_at(ground, step, &upgrade);
        assert_code(&ground.run(&["start"]), 0);
        as_before(ground, &before);
    }
    killed_at(ground, "upgrade-saved-noted", &upgrade);
    let locked = ground.run(&["restore", "latest", "--yes"]);
    assert_code(&locked, 5);
    for step in [
        "upgrade-configured",
        "upgrade-back-noted",
        "upgrade-configured-back",
        "upgrade-data-back",
        "upgrade-returned-noted",
    ] {
        killed_at(ground, step, &["start"]);
    }
    assert_code(&ground.run(&["start"]), 0);
    as_before(ground, &before);
    runs_on(ground, id)
}

/// Killed when the new version runs already: it stays. Undone, the old schema is back.
fn killed_before_health_and_undone(ground: &Ground, real: &Jar, place: &Path, id: &str) {
    let sql = "CREATE TABLE next_version (id INTEGER);";
    let newer = real.changed(
        place,
        &[format!("with=db/migration_sqlite/V901__next.sql={sql}")],
    );
    let before = Before::of(ground);
    killed_at(ground, "upgrade-started", &newer.upgrade(&["--no-drill"]));
    let pid = ground.server_pid();
    let started = ground.run(&["start"]);
    assert_code(&started, 0);
    says(&started, "it is finished now");
    assert_eq!(ground.server_pid(), pid);
    assert!(has_table(ground, "next_version"));
    assert!(ground.read("k1ops.toml").contains("newer.jar"));
    let halfway = runs_on(ground, id);
    assert_code(&ground.run(&["upgrade", "--undo", "--yes"]), 0);
    assert!(!has_table(ground, "next_version"));
    as_before(ground, &before);
    // What was done since is not there, and is kept.
    assert_ne!(ground.workflow(&halfway)["status"], "RUNNING");
    assert_eq!(ground.workflow(id)["status"], "RUNNING");
    let sql = "SELECT count(*) FROM workflow WHERE workflow_id = ?1";
    let kept = left_by_the_new_version(ground);
    let there: i64 = kept.query_row(sql, [&halfway], |row| row.get(0)).unwrap();
    assert_eq!(there, 1);
    runs_on(ground, id);
}
