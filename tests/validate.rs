//! `k1ops validate`: green on a stack that works, and red, test by test, on one that does not.
//!
//! Faults are planted from outside, as they happen to users: files are changed and processes killed
//! while it runs, and a `java` of the test's own starts what else goes wrong beside the real one.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise, in its helpers as well"
)]

mod jar;

use jar::{Ground, assert_code, signal, text};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// More than one server at a time would only make each slower than its limits.
static ONE: Mutex<()> = Mutex::new(());

fn one() -> MutexGuard<'static, ()> {
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A validation in the background, and its scratch folder.
struct Run<'a> {
    ground: &'a Ground,
    child: Child,
}

fn validate<'a>(ground: &'a Ground, only: &str, more: &[&str]) -> Run<'a> {
    std::fs::create_dir_all(ground.path("scratch")).unwrap();
    let fixed = ["validate", "--tier", "jar", "--json", "--folder", "scratch"];
    let only = if only.is_empty() {
        vec![]
    } else {
        vec!["--only", only]
    };
    let child = ground
        .command(&[&fixed[..], &only, more].concat())
        .spawn()
        .unwrap();
    Run { ground, child }
}

impl Run<'_> {
    fn scratch(&self) -> Option<PathBuf> {
        let mut entries = std::fs::read_dir(self.ground.path("scratch")).ok()?;
        Some(entries.next()?.ok()?.path())
    }

    /// Waits for something in the scratch folder, unless the validation ends before.
    #[track_caller]
    fn when(&mut self, what: &str, condition: impl Fn(&Path) -> bool) -> PathBuf {
        loop {
            if let Some(folder) = self.scratch().filter(|folder| condition(folder)) {
                return folder;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended before {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[track_caller]
    fn report(self, code: i32) -> Value {
        let output = self.child.wait_with_output().unwrap();
        assert_code(&output, code);
        let left = std::fs::read_dir(self.ground.path("scratch"))
            .unwrap()
            .count();
        assert_eq!(left, 0, "scratch folders are left");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn test<'a>(report: &'a Value, name: &str) -> &'a Value {
    let tests = report["tiers"][0]["tests"].as_array().unwrap();
    tests.iter().find(|test| test["name"] == name).unwrap()
}

#[track_caller]
fn assert_red(report: &Value, name: &str, why: &str) {
    let test = test(report, name);
    assert_eq!(test["passed"], false, "{test}");
    let said = test["why"].as_str().unwrap();
    assert!(said.contains(why), "{why:?} is not in: {said}");
}

#[test]
fn a_stack_that_works_is_green_and_every_report_is_written() {
    let _one = one();
    let ground = Ground::new(1, "");
    let report = validate(&ground, "", &[]).report(0);
    assert_eq!(report["passed"], 7);
    assert_eq!(report["pass_rate"], 1.0);
    assert!(
        test(&report, "parallel")["figures"]["speedup"]
            .as_f64()
            .unwrap()
            >= 3.0
    );
    assert_eq!(
        test(&report, "resources")["tasks"]
            .as_array()
            .unwrap()
            .len(),
        22
    );
    assert!(report["tiers"][0]["samples"].as_array().unwrap().len() > 20);
    let xml = ground.read("test-results/validate.xml");
    assert_eq!(xml.matches("<testcase ").count(), 7);
    assert!(xml.contains("failures=\"0\"") && !xml.contains("<failure"));
    let page = ground.read("test-results/validate.html");
    assert!(page.contains("task-22") && page.contains("<polyline"));
    assert!(
        !page.contains("http://") && !page.contains("https://"),
        "it asks for nothing"
    );
    assert_compares(&ground, &report);
}

/// Against a report that was better, and against itself.
fn assert_compares(ground: &Ground, report: &Value) {
    let files = std::fs::read_dir(ground.path(".conductor/metrics")).unwrap();
    let kept: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    assert_eq!(kept.len(), 1);
    let mut earlier: Value = serde_json::from_slice(&std::fs::read(&kept[0]).unwrap()).unwrap();
    assert_eq!(earlier["tiers"], report["tiers"]);
    // Tier 3 cannot tell of a server, so persistence does not pass there; it did "then".
    earlier["tiers"][0]["tier"] = "direct".into();
    ground.write("earlier.json", &earlier.to_string());
    let arguments = [
        "validate",
        "--tier",
        "direct",
        "--only",
        "persistence,single",
    ];
    let now = ground.json(
        &[&arguments[..], &["--compare", "earlier.json"]].concat(),
        1,
    );
    let persistence = test(&now, "persistence");
    assert_eq!(persistence["could_run"], false);
    assert!(
        persistence["why"]
            .as_str()
            .unwrap()
            .starts_with("cannot run: tier 3")
    );
    assert_eq!(test(&now, "single")["passed"], true, "{now}");
    let regressions = now["comparison"]["regressions"].as_array().unwrap();
    assert_eq!(regressions.len(), 1, "{regressions:?}");
    assert_eq!(regressions[0]["test"], "persistence");
    ground.write("earlier.json", "{}");
    let output = ground.run(&["validate", "--compare", "earlier.json"]);
    assert_code(&output, 2);
    assert!(text(&output).contains("not a report"));
}

#[test]
fn wiped_data_and_a_dead_worker_are_noticed() {
    let _one = one();
    let ground = Ground::new(1, "");
    let mut run = validate(&ground, "persistence,single", &[]);
    let state = |folder: &Path| folder.join(".conductor/run/server.json");
    let holder = |folder: &Path| {
        let lock = folder.join(".conductor/run/worker.lock");
        let text = std::fs::read_to_string(lock).unwrap_or_default();
        let pid = text.rsplit_once("PID ")?.1.strip_suffix(')')?.parse();
        pid.ok()
    };
    let folder = run.when("the worker", |folder| holder(folder).is_some());
    let first: u32 = holder(&folder).unwrap();
    // Between a stop and a start there is little time. A server that has just been started has not come to its
    // data yet either.
    let server = |folder: &Path| -> Option<Value> {
        let text = std::fs::read(state(folder)).ok()?;
        let state: Value = serde_json::from_slice(&text).ok()?;
        Some(state["process"].clone())
    };
    let stopped = server(&folder);
    run.when("the stop", |folder| server(folder) != stopped);
    for suffix in ["", "-wal", "-shm"] {
        let file = format!(".conductor/data/conductor.db{suffix}");
        let _ = std::fs::remove_file(folder.join(file));
    }
    run.when("the second worker", |folder| {
        holder(folder).is_some_and(|pid| pid != first)
    });
    signal(holder(&folder).unwrap(), "-KILL");
    let report = run.report(1);
    assert_red(
        &report,
        "persistence",
        "after stop and start the workflow is gone",
    );
    assert_red(&report, "single", "the worker has ended");
}

#[test]
fn every_other_fault_is_noticed_and_told_apart() {
    let _one = one();
    // The second stack's server dies at once.
    let dies = "case \"$SPRING_APPLICATION_JSON\" in *stacks/fallback*) exit 1 ;; esac";
    // Where the server is moved to.
    let real = k1ops::adapters::port::any_free().unwrap();
    let java = Java::beside(&format!("{dies}\nexport REAL={real}\n{LIAR_AND_HOG}"));
    let ground = Ground::new(1, &java.setting());
    let only = "fallback,single,chain,parallel,resources,health";
    let mut run = validate(&ground, only, &["--jobs", "1"]);
    let script = |folder: &Path| folder.join("agents/agent.sh");
    let whole = |folder: &Path| {
        let text = std::fs::read_to_string(script(folder)).unwrap_or_default();
        text.contains("made $made")
    };
    let folder = run.when("the agents", whole);
    let honest = std::fs::read_to_string(script(&folder)).unwrap();
    let made = "made=$(printf '%s %s'";
    assert!(honest.contains(made));
    let other = honest.replace(made, "made=$(printf 'x%s %s'");
    std::fs::write(script(&folder), other).unwrap();
    let report = run.report(1);
    assert_red(
        &report,
        "fallback",
        "without Docker, k1ops start ended with",
    );
    assert_red(&report, "single", "another result than the agent made");
    assert_red(&report, "chain", "made something else");
    assert_red(&report, "parallel", "times faster, not 3");
    assert_red(&report, "resources", "GB of memory");
    assert_red(&report, "health", "health does not say so");
    let said = test(&report, "health")["why"].as_str().unwrap();
    assert!(said.contains("k1ops status ends with Some(0)"), "{said}");
}

/// The server is moved to another port; on its own, something answers the questions about health with
/// what the server said when it was well, and hands on everything else. And 1.7 GB are held.
const LIAR_AND_HOG: &str = r#"
export PORT=$(printf %s "$SPRING_APPLICATION_JSON" | python3 -c 'import json, sys; print(json.load(sys.stdin)["server.port"])')
python3 - <<'LIAR' &
import http.server, os, threading, time, urllib.error, urllib.request
real, parent, held = os.environ["REAL"], os.getppid(), bytearray(1_700_000_000)
for at in range(0, len(held), 4096):
    held[at] = 1
known, asked = {}, ("/actuator/health", "/api/metadata/taskdefs")
class Liar(http.server.BaseHTTPRequestHandler):
    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or None
        if self.command == "GET" and self.path in known:
            return self.say(*known[self.path])
        url = f"http://127.0.0.1:{real}{self.path}"
        request = urllib.request.Request(url, body, method=self.command)
        request.add_header("Content-Type", "application/json")
        try:
            got = urllib.request.urlopen(request)
        except urllib.error.HTTPError as error:
            got = error
        except OSError:
            return self.say(503, "text/plain", b"not yet")
        said = (got.status, got.headers.get("Content-Type") or "text/plain", got.read())
        if self.command == "GET" and self.path in asked and got.status == 200:
            known[self.path] = said
        self.say(*said)
    def say(self, code, kind, body):
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_POST = do_PUT = do_DELETE = answer
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Liar)
threading.Thread(target=server.serve_forever, daemon=True).start()
while os.getppid() == parent:
    time.sleep(0.1)
LIAR
SPRING_APPLICATION_JSON=$(printf %s "$SPRING_APPLICATION_JSON" | python3 -c 'import json, os, sys; p = json.load(sys.stdin); p["server.port"] = os.environ["REAL"]; print(json.dumps(p))')
export SPRING_APPLICATION_JSON
"#;

/// A Java home whose `java` does something before it becomes the real one.
struct Java(tempfile::TempDir);

impl Java {
    fn beside(script: &str) -> Self {
        let real = real_java();
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("bin")).unwrap();
        std::fs::copy(real.join("release"), home.path().join("release")).unwrap();
        let java = home.path().join("bin/java");
        let real = real.join("bin/java");
        let text = format!("#!/bin/sh\n{script}\nexec {} \"$@\"\n", real.display());
        std::fs::write(&java, text).unwrap();
        std::fs::set_permissions(&java, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self(home)
    }

    /// Its cache would be one of a Java that is not this one.
    fn setting(&self) -> String {
        format!(
            "[server]\njava = '{}'\nfast_start = false\n",
            self.0.path().display()
        )
    }
}

/// The newest Java of this host that can run the server.
fn real_java() -> PathBuf {
    let home = std::env::var_os("JAVA_HOME").map(PathBuf::from);
    let usual = std::fs::read_dir("/usr/lib/jvm")
        .into_iter()
        .flatten()
        .flatten();
    let homes = home.into_iter().chain(usual.map(|entry| entry.path()));
    let feature = |home: &PathBuf| -> Option<u32> {
        let release = std::fs::read_to_string(home.join("release")).ok()?;
        let version = release.split("JAVA_VERSION=\"").nth(1)?;
        version.split(['.', '"', '-']).next()?.parse().ok()
    };
    let homes = homes.filter(|home| home.join("bin/java").exists());
    let best = homes.max_by_key(|home| feature(home)).unwrap();
    assert!(
        feature(&best) >= Some(21),
        "this test needs Java 21 or later"
    );
    best
}

#[test]
fn an_unknown_test_is_refused_before_anything_starts() {
    let ground = Ground::new(1, "");
    let output = ground.run(&["validate", "--only", "persistance"]);
    assert_code(&output, 2);
    assert!(
        text(&output).contains("persistence, fallback"),
        "{}",
        text(&output)
    );
    assert!(!ground.path("test-results").exists());
}
