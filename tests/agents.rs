//! Agents run directly: real processes, real limits, real rows.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise, in its helpers as well"
)]

mod patience;
mod said;

use patience::until;
use rusqlite::Connection;
use said::text;
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

struct Ground {
    folder: tempfile::TempDir,
}

impl Ground {
    fn new(agents: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = format!("tier = 'direct'\n{agents}");
        std::fs::write(folder.path().join("k1ops.toml"), text).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_k1ops"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    #[track_caller]
    fn json(&self, arguments: &[&str], code: i32) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(code), "{}", text(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn db(&self) -> Connection {
        Connection::open(self.path(".conductor/data/k1.db")).unwrap()
    }

    fn row(&self, column: &str) -> String {
        let sql = format!("SELECT CAST({column} AS TEXT) FROM k1_agent_executions");
        self.db().query_row(&sql, [], |row| row.get(0)).unwrap()
    }
}

fn runs(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.starts_with(" Z"))
}

#[test]
fn what_an_agent_says_measures_judges_and_makes_is_recorded() {
    let ground = Ground::new(
        r#"[agents.maker]
shell = '''
echo "said by $K1_AGENT for $K1_TASK_ID in $(pwd) try $K1_ATTEMPT"; echo oops >&2
cat "$K1_INPUT" > "$K1_RESULT"
echo '{"metric":"coverage","value":0.93,"unit":"ratio","tags":{"a":1}}' >> "$K1_REPORT"
echo '{"gate":"no findings","passed":true,"critical":true,"threshold":0,"actual":0}' >> "$K1_REPORT"
'''
folder = 'work'
"#,
    );
    std::fs::create_dir(ground.path("work")).unwrap();
    std::fs::write(ground.path("in.json"), r#"{"n": [1, "two"]}"#).unwrap();
    let said = ground.json(&["agent", "run", "maker", "t1", "--input", "in.json"], 0);
    assert_eq!(said["status"], "COMPLETED");
    assert_eq!(said["result"], serde_json::json!({"n": [1, "two"]}));
    assert_eq!(said["metrics"]["coverage"], 0.93);
    assert_eq!(said["gates"][0]["passed"], true);
    let work = ground.path("work").canonicalize().unwrap();
    let expected = format!("said by maker for t1 in {} try 1\n", work.display());
    assert_eq!(ground.row("stdout_log"), expected);
    assert_eq!(ground.row("stderr_log"), "oops\n");
    assert_eq!(ground.row("exit_code"), "0");
    let result = std::fs::read_to_string(ground.row("result_file_path")).unwrap();
    assert_eq!(result, r#"{"n":[1,"two"]}"#);
    let metric: (String, f64, String) = ground
        .db()
        .query_row(
            "SELECT task_id, metric_value, metric_unit FROM k1_execution_metrics",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .unwrap();
    assert_eq!(metric, ("t1".into(), 0.93, "ratio".into()));
    let summary = ground.json(&["query", "summary", "--source", "DIRECT"], 0);
    assert!(
        summary.to_string().contains("\"passed_quality_gates\":1"),
        "{summary}"
    );
}

#[test]
fn a_time_limit_ends_the_agent_and_all_that_it_started_however_it_hides() {
    let ground = Ground::new(
        r"[agents.slow]
shell = '''
sleep 300 & echo $! > child
setsid sh -c 'trap : TERM; echo $$ > hidden; while :; do sleep 1; done' &
trap : TERM
while :; do sleep 1; done
'''
timeout = 5
",
    );
    let said = ground.json(&["agent", "run", "slow", "t"], 1);
    assert_eq!(said["status"], "TIMED_OUT");
    assert_eq!(said["failure"], "agent slow took longer than 5 s");
    assert!(said["seconds"].as_f64().unwrap() < 100.0, "{said}");
    for file in ["child", "hidden"] {
        let pid = std::fs::read_to_string(ground.path(file)).unwrap();
        assert!(!runs(pid.trim()), "{file} {pid} still runs");
    }
    assert_eq!(ground.row("status"), "TIMED_OUT");
}

#[test]
fn what_an_agent_leaves_behind_ends_with_it() {
    let ground =
        Ground::new("[agents.leaver]\nshell = 'setsid sleep 300 & echo $! > child; echo done'\n");
    let begun = Instant::now();
    ground.json(&["agent", "run", "leaver", "t"], 0);
    assert!(begun.elapsed() < Duration::from_secs(100));
    let pid = std::fs::read_to_string(ground.path("child")).unwrap();
    assert!(!runs(pid.trim()));
    assert_eq!(ground.row("stdout_log"), "done\n");
}

#[test]
fn an_agent_does_not_outlive_a_k1ops_that_is_killed() {
    let ground = Ground::new("[agents.slow]\nshell = 'echo $$ > pid; exec sleep 300'\n");
    let mut k1ops = ground
        .command(&["agent", "run", "slow", "t"])
        .spawn()
        .unwrap();
    until("the agent runs", || {
        std::fs::read_to_string(ground.path("pid")).is_ok_and(|pid| pid.ends_with('\n'))
    });
    let pid = std::fs::read_to_string(ground.path("pid")).unwrap();
    assert!(runs(pid.trim()));
    k1ops.kill().unwrap();
    k1ops.wait().unwrap();
    until("the agent has ended too", || !runs(pid.trim()));
}

#[test]
fn an_interrupt_ends_the_agent_and_is_recorded() {
    let ground = Ground::new("[agents.slow]\nshell = 'echo $$ > pid; exec sleep 300'\n");
    let k1ops = ground
        .command(&["agent", "run", "slow", "t"])
        .spawn()
        .unwrap();
    until("the agent runs", || {
        std::fs::read_to_string(ground.path("pid")).is_ok_and(|pid| pid.ends_with('\n'))
    });
    let pid = k1ops.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let output = k1ops.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    let pid = std::fs::read_to_string(ground.path("pid")).unwrap();
    assert!(!runs(pid.trim()));
    assert_eq!(ground.row("status"), "CANCELED");
}

#[test]
fn no_shell_reads_what_is_put_into_arguments() {
    let ground = Ground::new(
        r#"[agents.plain]
command = ["printf", "%s|", "{{input.text}}", "a b", "$HOME", "{{task_id}}"]
env = { GIVEN = "{{input.text}}" }
"#,
    );
    let text = "$(touch evil); `touch evil` 'x' \\\"y {{task_id}}";
    let input = serde_json::json!({ "text": text }).to_string();
    std::fs::write(ground.path("in.json"), input).unwrap();
    ground.json(&["agent", "run", "plain", "t;1", "--input", "in.json"], 0);
    assert_eq!(ground.row("stdout_log"), format!("{text}|a b|$HOME|t;1|"));
    assert!(!ground.path("evil").exists());
    // A value that is not there is no empty argument.
    let said = ground.json(&["agent", "run", "plain", "t"], 1);
    assert!(said["failure"].to_string().contains("input.text"), "{said}");
}

#[test]
fn endless_output_is_kept_within_bounds() {
    let ground = Ground::new(
        "[agents.loud]\nshell = 'echo first; head -c 50000000 /dev/zero; printf \"\\nlast\\n\"'\n",
    );
    let output = ground
        .command(&["agent", "run", "loud", "t", "--json", "--quiet"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    let log = ground.row("stdout_log");
    assert!(log.starts_with("first\n") && log.ends_with("\nlast\n"));
    assert!(log.contains("bytes left out"));
    assert!(log.len() < 500_000, "{}", log.len());
}

#[test]
fn a_report_that_cannot_be_read_fails_the_run_and_says_which_line() {
    let ground = Ground::new(
        r#"[agents.wrong]
shell = '''
echo '{"metric":"good","value":1}' >> "$K1_REPORT"
echo 'metric=bad' >> "$K1_REPORT"
'''
"#,
    );
    let said = ground.json(&["agent", "run", "wrong", "t"], 1);
    assert_eq!(said["status"], "FAILED");
    let failure = said["failure"].as_str().unwrap();
    assert!(
        failure.contains("line 2") && failure.contains("metric=bad"),
        "{failure}"
    );
    // What could be read counts.
    assert_eq!(said["metrics"]["good"], 1.0);
    assert_eq!(ground.row("status"), "FAILED");
}

#[test]
fn a_critical_gate_and_an_exit_code_fail_the_run() {
    let ground = Ground::new(
        r#"[agents.gate]
shell = '''echo '{"gate":"secure","passed":false,"critical":true}' >> "$K1_REPORT"'''
[agents.exit]
shell = 'echo why >&2; exit 7'
[agents.signal]
shell = 'kill -KILL $$'
[agents.absent]
command = ["no-such-program-anywhere"]
"#,
    );
    for (agent, said) in [
        ("gate", "critical gate \"secure\""),
        ("exit", "exited with 7: why"),
        ("signal", "exited with 137"),
        ("absent", "no-such-program-anywhere cannot be started"),
    ] {
        let shown = ground.json(&["agent", "run", agent, "t"], 1);
        let failure = shown["failure"].to_string().replace("\\\"", "\"");
        let log = ground
            .db()
            .query_row(
                "SELECT stderr_log FROM k1_agent_executions ORDER BY started_at DESC LIMIT 1",
                [],
                |row| row.get::<_, String>(0),
            )
            .unwrap();
        assert!(
            failure.contains(said) || log.contains(said),
            "{failure} {log}"
        );
    }
    let listed = ground.json(&["agent", "list"], 0);
    let absent = listed
        .as_array()
        .unwrap()
        .iter()
        .find(|a| a["name"] == "absent");
    assert_eq!(absent.unwrap()["found"], false);
}

#[test]
fn limits_are_those_of_the_agent_alone() {
    let ground = Ground::new(
        "[agents.small]\nshell = 'ulimit -v; ulimit -n; ulimit -t; nice'\nmemory = '256m'\n\
         open_files = 32\ncpu_seconds = 9\nnice = 5\n",
    );
    ground.json(&["agent", "run", "small", "t"], 0);
    assert_eq!(
        ground.row("stdout_log"),
        format!("{}\n32\n9\n5\n", 256 << 10)
    );
}

#[test]
fn wrong_definitions_change_nothing() {
    for (agents, said) in [
        (
            "[agents.a]\nfolder = '.'\n",
            "`agents.a.command` is missing",
        ),
        (
            "[agents.a]\ncommand = ['x']\nshell = 'x'\n",
            "`command` too",
        ),
        ("[agents.a]\ncommand = ['{{foo}}']\n", "{{foo}}"),
        (
            "[agents.a]\ncommand = ['x']\nmemory = 'lots'\n",
            "not a size",
        ),
        (
            "[agents.a]\ncommand = ['x']\ntasks = ['t']\n[agents.b]\ncommand = ['x']\ntasks = ['t']\n",
            "agents a and b both",
        ),
        ("[agents.b]\ncommand = ['x']\n", "agent a is not defined"),
    ] {
        let ground = Ground::new(agents);
        let output = ground.run(&["agent", "run", "a", "t"]);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains(said), "{said}: {}", text(&output));
        assert!(!ground.path(".conductor").exists(), "{said}");
    }
}

/// Agents that run one after another share a supervisor, and nothing else.
#[test]
fn one_agent_after_another_has_its_own_output_and_its_own_end() {
    let ground = Ground::new(
        "[agents.one]\nshell = 'setsid sh -c \"sleep 0.3; echo ghost\" & head -c 100000 /dev/zero | tr \"\\\\0\" a; echo $PPID >&2'\n\
         [agents.two]\nshell = 'sleep 1; echo two; echo $PPID >&2'\n\
         [agents.three]\nshell = 'sleep 60'\ntimeout = 1\n\
         [agents.four]\nshell = 'echo four; echo $PPID >&2'\n",
    );
    let task = |id: &str, after: &str| {
        format!("[[tasks]]\nid = '{id}'\nagent = '{id}'\ndepends_on = [{after}]\n")
    };
    let plan = [
        "name = 'line'\n".to_owned(),
        task("one", ""),
        task("two", "'one'"),
    ]
    .concat();
    let run = |plan: &str, code: i32| {
        std::fs::write(ground.path("plan.toml"), plan).unwrap();
        ground.json(&["workflow", "run", "plan.toml", "--jobs", "1"], code);
    };
    let said = |task: &str, column: &str| -> String {
        let sql = format!("SELECT {column} FROM k1_agent_executions WHERE task_id = '{task}'");
        ground.db().query_row(&sql, [], |row| row.get(0)).unwrap()
    };
    run(&plan, 0);
    // Whole, although it ends without a line break and is larger than a pipe.
    assert_eq!(said("one", "stdout_log").len(), 100_000);
    assert_eq!(said("two", "stdout_log"), "two\n");
    assert_eq!(said("one", "stderr_log"), said("two", "stderr_log"));
    // The supervisor of one that had to be ended ends with it.
    let plan = [
        "name = 'line'\nversion = 2\n".to_owned(),
        task("three", ""),
        task("four", ""),
    ];
    run(&plan.concat(), 1);
    assert_eq!(said("three", "status"), "TIMED_OUT");
}
