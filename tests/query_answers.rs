//! `k1ops query` against what others say of the same data: the guide's own SQL run by psql and
//! sqlite3, the live store against its backup, a page against the JSON answer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may stop at the first surprise, their helpers too"
)]

mod support;

use chrono::{DateTime, TimeDelta, Utc};
use k1ops::event::Events;
use k1ops::store::{
    AgentFinish, AgentStart, AgentStatus, NewGate, NewMetric, NewWorkflow, Place, Store,
};
use predicates::prelude::*;
use std::collections::BTreeMap;
use std::process::Command;
use support::{Sandbox, ScratchDatabase, scratch_database};

/// A value that would clear the screen, turn the line around, end a cell and begin a tag.
const HOSTILE: &str = "\u{1b}[2J\u{202e}a|b<script>alert(1)</script>\n=1+1,\"q\"";

/// Where the K1 tables are in a test, and a client of that database to compare with.
enum Side {
    Postgres(Sandbox, ScratchDatabase),
    Sqlite(Sandbox),
}

impl Side {
    fn both() -> [Self; 2] {
        let database = scratch_database();
        let sandbox = Sandbox::new(&format!("[database]\nurl = '{}'\n", database.url));
        [
            Self::Postgres(sandbox, database),
            Self::Sqlite(Sandbox::new("")),
        ]
    }

    fn sandbox(&self) -> &Sandbox {
        match self {
            Self::Postgres(sandbox, _) | Self::Sqlite(sandbox) => sandbox,
        }
    }

    fn place(&self) -> Place {
        match self {
            Self::Postgres(_, database) => Place::Postgres(Box::new(database.address())),
            Self::Sqlite(sandbox) => Place::Sqlite(sandbox.k1_db()),
        }
    }

    /// The rows of a statement, as CSV with headings, by the database's own client.
    fn client(&self, sql: &str) -> String {
        let output = match self {
            Self::Postgres(_, database) => Command::new("psql")
                .args([&database.url, "--csv", "--no-psqlrc", "-c", sql])
                .env("PGTZ", "Asia/Kathmandu")
                .output(),
            Self::Sqlite(sandbox) => Command::new("sqlite3")
                .args(["-csv", "-header"])
                .arg(sandbox.k1_db())
                .arg(sql)
                .output(),
        };
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

/// Twelve workflows with everything.
fn fill(place: &Place) {
    block_on(async {
        let store = Store::open(place, &Events::silent()).await.unwrap();
        let begin: DateTime<Utc> = "2026-03-29T00:30:00.5Z".parse().unwrap();
        for n in 0..12_u32 {
            let time = begin + TimeDelta::minutes(i64::from(n) * 17);
            let mut workflow = NewWorkflow::new(format!("exec-{n}"));
            workflow.created_at = time;
            workflow.user_id = (n % 3 > 0).then(|| "Zoë 漢字".to_owned());
            workflow.tags = Some(serde_json::json!({"n": n, "text": HOSTILE}));
            let id = store.record_workflow(workflow).await.unwrap();
            for task in ["build", "test", HOSTILE] {
                let mut start = AgentStart::new(id, task, "coder");
                start.started_at = time;
                let run = store.start_agent_execution(start).await.unwrap();
                let status = [AgentStatus::Completed, AgentStatus::Failed];
                let mut finish = AgentFinish::new(status[usize::from(n % 4 == 0)]);
                finish.completed_at = time + TimeDelta::milliseconds(i64::from(n) * 1234 + 1);
                finish.stdout_log = Some("long ".repeat(5000));
                store.finish_agent_execution(run, finish).await.unwrap();
                let mut gate = NewGate::new(id, task, "coverage", n % 3 > 0);
                gate.critical = n % 2 == 0;
                gate.threshold = Some(80.0);
                gate.actual = Some(f64::from(n) + 0.1);
                gate.checked_at = time;
                store.record_gate(gate).await.unwrap();
                for value in [0.1, 1.0 / 3.0, f64::from(n) * 1e6] {
                    let mut metric = NewMetric::new(id, "seconds", value);
                    metric.task_id = (task != "test").then(|| task.to_owned());
                    metric.recorded_at = time;
                    metric.unit = Some("s".into());
                    store.record_metric(metric).await.unwrap();
                }
            }
        }
    });
}

fn stdout(sandbox: &Sandbox, arguments: &[&str]) -> String {
    let output = sandbox
        .k1ops(arguments)
        .assert()
        .code(0)
        .get_output()
        .clone();
    String::from_utf8(output.stdout).unwrap()
}

fn json(sandbox: &Sandbox, arguments: &[&str]) -> serde_json::Value {
    serde_json::from_str(&stdout(sandbox, arguments)).unwrap()
}

/// CSV as rows by name, each value in one spelling: the two sides write moments, truth and digits
/// differently.
fn rows(csv: &str, only: Option<&[String]>) -> (Vec<String>, Vec<BTreeMap<String, String>>) {
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let names: Vec<String> = reader
        .headers()
        .unwrap()
        .iter()
        .map(str::to_owned)
        .collect();
    let rows = reader.records().map(|record| {
        let record = record.unwrap();
        let fields = names.iter().cloned().zip(record.iter().map(spelling));
        let wanted = |name: &String| only.is_none_or(|only| only.contains(name));
        fields.filter(|(name, _)| wanted(name)).collect()
    });
    let rows = rows.collect();
    (names, rows)
}

fn spelling(text: &str) -> String {
    let bare = text.trim_end_matches('Z').replacen(' ', "T", 1);
    if let Ok(moment) = bare.parse::<chrono::NaiveDateTime>() {
        return moment.to_string();
    }
    match text {
        "t" | "true" => return spelling("1"),
        "f" | "false" => return spelling("0"),
        _ => {}
    }
    if let Ok(number) = text.parse::<f64>() {
        return format!("{number:.9e}");
    }
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(value) => value.to_string(),
        Err(_) => text.to_owned(),
    }
}

#[test]
fn the_guides_recipes_have_a_command_each_with_the_same_rows() {
    for side in Side::both() {
        fill(&side.place());
        for (recipe, command, ordered) in [
            (
                "SELECT * FROM k1_workflow_summary ORDER BY created_at DESC LIMIT 10",
                &["query", "summary", "--limit", "10", "--csv"][..],
                true,
            ),
            (
                "SELECT * FROM k1_quality_gates WHERE passed = false",
                &["query", "gates", "--failed", "--csv"],
                false,
            ),
            (
                "SELECT task_id, metric_name, AVG(metric_value) AS average
                FROM k1_execution_metrics GROUP BY task_id, metric_name",
                &["query", "metrics", "--csv"],
                false,
            ),
        ] {
            let (names, mut wanted) = rows(&side.client(recipe), None);
            let answer = stdout(side.sandbox(), command);
            let (_, mut found) = rows(&answer, Some(&names));
            if !ordered {
                wanted.sort();
                found.sort();
            }
            assert!(!wanted.is_empty());
            assert_eq!(found, wanted, "{command:?}");
        }
    }
}

const QUESTIONS: [&[&str]; 8] = [
    &["summary"],
    &["workflows", "--status", "FAILED"],
    &["gates", "--failed", "--critical"],
    &["metrics"],
    &[
        "metrics",
        "--task",
        "build",
        "--since",
        "2026-03-29T02:00:00+01:00",
    ],
    &["agents"],
    &["tasks", "--logs", "--workflow", "exec-4"],
    &[
        "sql",
        "SELECT task_id, count(*) AS n FROM k1_quality_gates GROUP BY 1 ORDER BY 1",
    ],
];

#[test]
fn an_archive_answers_as_the_store_does_and_leaves_nothing_behind() {
    for side in Side::both() {
        fill(&side.place());
        let sandbox = side.sandbox();
        sandbox.k1ops(&["backup"]).assert().code(0);
        let temporary = tempfile::tempdir().unwrap();
        for question in QUESTIONS {
            let mut live = vec!["query"];
            live.extend(question);
            live.push("--json");
            let mut expected = json(sandbox, &live);
            let output = sandbox
                .k1ops(&[&live[..], &["--from", "latest"]].concat())
                .env("TMPDIR", temporary.path())
                .assert()
                .code(0)
                .get_output()
                .clone();
            let mut found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            let store = found["store"].take();
            assert!(store.as_str().unwrap().contains(".tar"), "{store}");
            expected["store"].take();
            assert_eq!(found, expected, "{question:?}");
        }
        assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
    }
}

#[test]
fn an_archive_without_k1_tables_is_said_to_be_one() {
    let sandbox = Sandbox::new("");
    let conductor = sandbox.path().join(".conductor/data/conductor.db");
    let db = k1ops::adapters::sqlite::open_or_create(&conductor).unwrap();
    db.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)")
        .unwrap();
    drop(db);
    sandbox.k1ops(&["backup"]).assert().code(0);
    sandbox
        .k1ops(&["query", "summary", "--from", "latest"])
        .assert()
        .code(3)
        .stderr(predicate::str::contains("no K1 tables"));
    sandbox
        .k1ops(&["query", "summary", "--from", "nosuch"])
        .assert()
        .code(3)
        .stderr(predicate::str::contains("no archive"));
}

#[test]
fn values_from_outside_neither_move_the_terminal_nor_break_a_format() {
    let side = Side::Sqlite(Sandbox::new(""));
    fill(&side.place());
    let sandbox = side.sandbox();
    let tasks = ["query", "tasks", "--workflow", "exec-1"];
    let with = |more: &[&str]| stdout(sandbox, &[&tasks[..], more].concat());
    let table = with(&["--color", "always"]);
    assert!(!table.contains("\u{1b}[2J") && !table.contains('\u{202e}'));
    assert!(table.contains("\\u{1b}[2J\\u{202e}a|b"), "{table}");
    assert_eq!(table.lines().count(), 4);
    assert!(table.contains("24.41 KiB"), "{table}");

    let markdown = with(&["--format", "markdown"]);
    assert_eq!(markdown.lines().count(), 5);
    assert!(markdown.contains("a\\|b&lt;script>"), "{markdown}");

    let (_, records) = rows(&with(&["--csv"]), None);
    assert!(records.iter().any(|record| record["task_id"] == HOSTILE));
    let lines = with(&["--format", "jsonl"]);
    let values = lines.lines().map(|line| {
        let object: serde_json::Value = serde_json::from_str(line).unwrap();
        object["task_id"].as_str().unwrap().to_owned()
    });
    assert!(values.collect::<Vec<_>>().contains(&HOSTILE.to_owned()));
}

#[test]
fn a_page_stands_alone_and_has_the_same_figures() {
    let side = Side::Sqlite(Sandbox::new(""));
    fill(&side.place());
    let sandbox = side.sandbox();
    for question in QUESTIONS {
        let arguments = [&["query"], question, &["--html", "page.html"]].concat();
        let said = stdout(sandbox, &arguments);
        assert!(said.starts_with("wrote page.html"), "{said}");
        let page = std::fs::read_to_string(sandbox.path().join("page.html")).unwrap();
        balanced(&page);
        let low = page.to_lowercase();
        for outside in [
            "http:", "https:", "src=", "href=", "url(", "@import", "<script",
        ] {
            assert!(!low.contains(outside), "{outside} in {page}");
        }
        assert!(low.contains("prefers-color-scheme: dark"));
        // A line of the table for every row of the answer.
        let answer = json(sandbox, &[&["query"], question, &["--json"]].concat());
        let rows = answer.as_object().unwrap().values();
        let rows = rows
            .filter_map(|value| value.as_array())
            .next_back()
            .unwrap();
        assert_eq!(page.matches("<tr>").count(), rows.len() + 1, "{question:?}");
    }
    let page = std::fs::read_to_string(sandbox.path().join("page.html")).unwrap();
    assert!(page.contains(">12</td>"), "{page}");
    assert!(page.contains("&lt;script&gt;"), "{page}");
}

/// Every element that is begun is ended, in order.
fn balanced(page: &str) {
    let mut open = Vec::new();
    let style = page.find("</style>").unwrap();
    let body = [&page[..page.find("<style>").unwrap()], &page[style + 8..]].concat();
    for tag in body.split('<').skip(1) {
        let name: String = tag
            .chars()
            .take_while(|c| !c.is_whitespace() && *c != '>')
            .collect();
        match name.as_str() {
            "!DOCTYPE" | "meta" => {}
            ended if ended.starts_with('/') => {
                assert_eq!(open.pop().as_deref(), Some(&ended[1..]), "{page}");
            }
            _ => open.push(name),
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn watching_ends_well_when_it_is_asked_to() {
    use std::io::{BufRead, BufReader};
    let side = Side::Sqlite(Sandbox::new(""));
    fill(&side.place());
    let mut child = Command::new(env!("CARGO_BIN_EXE_k1ops"))
        .current_dir(side.sandbox().path())
        .args(["query", "summary", "--watch=0.1", "--limit", "1"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let answers = |line: &std::io::Result<String>| line.as_ref().unwrap().starts_with("exec-11");
    assert!(
        lines.by_ref().filter(answers).nth(2).is_some(),
        "three answers"
    );
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    drop(lines);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    side.sandbox()
        .k1ops(&["query", "summary", "--watch", "--json"])
        .assert()
        .code(2);
}
