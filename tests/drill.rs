//! `k1ops drill` with a real Conductor: what passes, what must not, and that nothing is left.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

mod support;

use k1ops::conductor::Client;
use serde_json::{Map, Value, json};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use support::{on_server, scratch_database};

/// More than one bench at a time would only make each slower than its time limit.
static ONE_BENCH: Mutex<()> = Mutex::new(());

/// What a busy host may take for something that usually is there at once.
const PATIENCE: Duration = Duration::from_secs(120);

fn one_bench() -> MutexGuard<'static, ()> {
    ONE_BENCH.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Bench {
    folder: tempfile::TempDir,
    port: u16,
}

impl Bench {
    fn new(settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = k1ops::adapters::port::any_free().unwrap();
        let text = format!("tier = 'jar'\n[ports]\nconductor = {port}\n{settings}");
        std::fs::write(folder.path().join("k1ops.toml"), text).unwrap();
        Self { folder, port }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_k1ops"));
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
            .env("K1OPS_CACHE", cache)
            .env("K1OPS_SERVER_HEALTH_TIMEOUT", "400")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str], code: i32) -> Output {
        let output = self.command(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        output
    }

    fn json(&self, arguments: &[&str], code: i32) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat(), code);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn own(&self, path: &str) -> PathBuf {
        self.folder.path().join(".conductor").join(path)
    }

    fn record(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.own("run/drill.json")).unwrap()).unwrap()
    }

    /// The command lines that name this bench. The first start on a host prepares fast starts in the
    /// background, whose log is the stack's; that is none of a drill's traces.
    fn processes(&self) -> Vec<String> {
        let name = self.folder.path().display().to_string();
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
        let own = lines.filter(|line| line.contains(&name));
        own.filter(|line| !line.contains("__prepare-fast-start"))
            .collect()
    }

    /// Nothing of it runs. What was killed has the time that a busy host needs to take its memory back.
    #[track_caller]
    fn assert_nothing_runs(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.processes().is_empty() {
            assert!(
                Instant::now() < deadline,
                "{:#?} still run",
                self.processes()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A backup, taken while nothing runs.
    fn backup(&self) -> String {
        let archive = self.json(&["backup"], 0)["archive"].clone();
        archive.as_str().unwrap().to_owned()
    }

    /// What of the archive's data `sql` leaves, in a new archive.
    fn plant(&self, sql: &str) -> String {
        let db = rusqlite::Connection::open(self.own("data/conductor.db")).unwrap();
        db.execute_batch(sql).unwrap();
        drop(db);
        self.backup()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.command(&["stop"]).output();
    }
}

/// Workflows of two branches that are joined, of which one calls `address` once a worker has done
/// what comes before.
fn put_to_work(bench: &Bench, address: &str) -> Vec<String> {
    let simple = |name: &str| {
        json!({"name": "drilled", "taskReferenceName": name, "type": "SIMPLE",
            "inputParameters": {}})
    };
    let call = json!({"name": "call", "taskReferenceName": "call", "type": "HTTP",
        "inputParameters": {"http_request": {"uri": address, "method": "GET"}}});
    let fork = json!({"name": "fork", "taskReferenceName": "fork", "type": "FORK_JOIN",
        "forkTasks": [[simple("left"), call], [simple("right")]]});
    let join = json!({"name": "join", "taskReferenceName": "join", "type": "JOIN",
        "joinOn": ["call", "right"]});
    let workflow = json!({"name": "drilled", "version": 1, "schemaVersion": 2,
        "ownerEmail": "a@b.invalid", "tasks": [fork, join, simple("last")]});
    let task = json!([{"name": "drilled", "ownerEmail": "a@b.invalid", "retryCount": 0,
        "timeoutSeconds": 0, "responseTimeoutSeconds": 600}]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = Client::new(format!("http://127.0.0.1:{}", bench.port)).unwrap();
        client.post("/api/metadata/taskdefs", &task).await.unwrap();
        client
            .post("/api/metadata/workflow", &workflow)
            .await
            .unwrap();
        let mut ids = Vec::new();
        for _ in 0..3 {
            let id = client.start_workflow("drilled", 1, "", &Map::new()).await;
            ids.push(id.unwrap());
        }
        // One task is in a worker's hands when the backup is taken.
        let (wait, deadline) = (Duration::from_secs(4), Instant::now() + PATIENCE);
        while client
            .poll_tasks("drilled", "mine", 1, wait)
            .await
            .unwrap()
            .len()
            != 1
        {
            assert!(Instant::now() < deadline, "no task is handed out");
        }
        ids
    })
}

#[test]
fn what_restores_passes_and_what_does_not_is_told_and_nothing_is_left() {
    let _alone = one_bench();
    let bench = Bench::new("");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    bench.run(&["start"], 0);
    let ids = put_to_work(&bench, &address);
    bench.run(&["backup"], 0);
    bench.run(&["stop"], 0);
    let live = std::fs::read(bench.own("data/conductor.db")).unwrap();

    let report = bench.json(&["drill"], 0);
    assert_eq!(report["work"]["running"], 3);
    assert_eq!(report["work"]["was_started"], false);
    let completed = report["work"]["completed"].as_str().unwrap();
    assert!(ids.iter().any(|id| id == completed), "{report}");
    assert!(report["rows"].as_u64().unwrap() > 10);
    let rto = report["rto_seconds"].as_f64().unwrap();
    assert!(rto > report["restore_seconds"].as_f64().unwrap());
    assert!(!bench.own("drills").exists(), "a trace is left");
    bench.assert_nothing_runs();
    assert!(
        listener.accept().is_err(),
        "the scratch server has called somebody"
    );
    assert!(live == std::fs::read(bench.own("data/conductor.db")).unwrap());
    let record = bench.record();
    assert_eq!(
        (&record["passed"], &record["rto_seconds"]),
        (&json!(true), &json!(rto))
    );
    let doctor = bench.command(&["doctor", "--json"]).output().unwrap();
    let doctor = String::from_utf8_lossy(&doctor.stdout);
    assert!(doctor.contains("and recovered the stack in"), "{doctor}");

    // By drill where it is configured.
    let older = bench.backup();
    let newest = bench.backup();
    let mut prune = bench.command(&["prune", "--yes", "--json", "--keep-last", "1"]);
    let pruned = prune.env("K1OPS_BACKUP_PROOF", "drill").output().unwrap();
    let pruned: Value = serde_json::from_slice(&pruned.stdout).unwrap();
    assert_eq!(pruned["deleted"], 0);

    // A flipped bit, of which the manifest knows nothing.
    let mut bytes = std::fs::read(&older).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&older, &bytes).unwrap();
    let refused = bench.json(&["drill", &older], 4);
    assert_eq!(refused["error"]["kind"], "bad_data");
    assert_eq!(bench.record()["passed"], false);
    let doctor = bench.command(&["doctor"]).output().unwrap();
    let doctor = String::from_utf8_lossy(&doctor.stdout);
    assert!(doctor.contains("the last drill has failed"), "{doctor}");
    bench.run(&["drill", "nothing"], 3);
    assert_eq!(bench.record()["archive"].as_str(), older.rsplit('/').next());
    for archive in [&older, &newest] {
        std::fs::remove_file(archive).unwrap();
    }

    kill_a_drill(&bench);
    // It needs not come far: what the last one left goes first.
    bench.run(&["drill", "nothing"], 3);
    assert!(!bench.own("drills").read_dir().unwrap().any(|_| true));
    bench.assert_nothing_runs();

    // Sound to every checksum, and of no use to a server.
    let planted = bench.plant("UPDATE workflow SET json_data = '{\"broken\":'");
    bench.run(&["verify", &planted], 0);
    let refused = bench.json(&["drill", &planted], 4);
    let said = refused["error"]["message"].as_str().unwrap();
    assert!(said.contains("restored data"), "{refused}");
    assert!(bench.record()["reason"].as_str().unwrap().contains(said));
    assert!(!bench.own("drills").exists(), "a trace is left");
    bench.assert_nothing_runs();
}

#[test]
fn a_postgres_by_url_is_drilled_beside_the_live_database() {
    let _alone = one_bench();
    let database = scratch_database();
    let bench = Bench::new(&format!("[database]\nurl = '{}'\n", database.url));
    let drill_databases =
        || database.column("SELECT datname FROM pg_database WHERE datname LIKE 'k1ops_drill_%'");
    // What others have left is not this test's to judge.
    for name in drill_databases() {
        on_server(&format!("DROP DATABASE {name}"));
    }
    let live = || database.column("SELECT count(*) FROM workflow_pending");
    bench.run(&["start"], 0);
    put_to_work(&bench, "http://127.0.0.1:9/");
    bench.run(&["backup"], 0);
    let before = live();
    // The live server goes on beside it.
    let report = bench.json(&["drill"], 0);
    assert_eq!(report["work"]["running"], 3);
    assert_eq!(live(), before);
    assert!(drill_databases().is_empty(), "{:?}", drill_databases());
    assert_eq!(bench.record()["passed"], true);

    kill_a_drill(&bench);
    assert_eq!(drill_databases().len(), 1);
    bench.run(&["drill", "nothing"], 3);
    assert!(drill_databases().is_empty());
    assert_eq!(live(), before);
}

/// Kills a drill while its server starts.
fn kill_a_drill(bench: &Bench) {
    let mut drill = bench.command(&["drill", "--quiet"]).spawn().unwrap();
    let server = || {
        let folder = std::fs::read_dir(bench.own("drills")).ok()?.next()?.ok()?;
        std::fs::read(folder.path().join(".conductor/run/server.json")).ok()
    };
    let deadline = Instant::now() + 2 * PATIENCE;
    while server().is_none() {
        assert!(Instant::now() < deadline, "no server is started");
        std::thread::sleep(Duration::from_millis(50));
    }
    drill.kill().unwrap();
    drill.wait().unwrap();
    assert!(bench.own("drills").exists());
}
