//! Who is told what. The far sides are doubles: small servers of this test that write down what comes
//! and answer as they are told, since no Slack, ntfy or mail server of others can be asked to fail.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

mod scratch;

use scratch::{Said, Scratch, fill};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request as it came.
#[derive(Debug, Clone, Default)]
struct Asked {
    path: String,
    headers: String,
    body: String,
}

/// A double of every far side that speaks HTTP.
struct FarSide {
    port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    answers: Arc<Mutex<Vec<u16>>>,
}

impl FarSide {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked, answers) = (Arc::default(), Arc::default());
        let (heard, told) = (Arc::clone(&asked), Arc::clone(&answers));
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                answer(stream.unwrap(), &heard, &told);
            }
        });
        Self {
            port,
            asked,
            answers,
        }
    }

    /// What to answer next; after that, 200.
    fn answers(&self, statuses: &[u16]) {
        *self.answers.lock().unwrap() = statuses.iter().rev().copied().collect();
    }

    fn heard(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    /// The paths that were asked for, in any order.
    fn paths(&self) -> Vec<String> {
        let mut paths: Vec<String> = self.heard().into_iter().map(|asked| asked.path).collect();
        paths.sort();
        paths
    }
}

fn answer(stream: TcpStream, asked: &Mutex<Vec<Asked>>, answers: &Mutex<Vec<u16>>) {
    let mut reader = BufReader::new(stream);
    let mut request = Asked::default();
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let lower = line.to_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if request.path.is_empty() {
            request.path.push_str(line.split(' ').nth(1).unwrap());
        } else if line.trim().is_empty() {
            break;
        }
        request.headers.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    request.body = String::from_utf8(body).unwrap();
    asked.lock().unwrap().push(request);
    let status = answers.lock().unwrap().pop().unwrap_or(200);
    let answer =
        format!("HTTP/1.1 {status} As Told\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let _ = reader.get_mut().write_all(answer.as_bytes());
}

/// A double of a mail server without TLS, for one mail.
fn mail_server() -> (u16, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream);
        let mut all = String::new();
        let mut in_mail = false;
        reader.get_mut().write_all(b"220 double\r\n").unwrap();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return all;
            }
            all.push_str(&line);
            let answer = match line.trim_end() {
                "." => "250 taken\r\n",
                _ if in_mail => "",
                "DATA" => "354 go on\r\n",
                "QUIT" => "221 bye\r\n",
                word if word.starts_with("EHLO") => "250-double\r\n250 AUTH PLAIN LOGIN\r\n",
                word if word.starts_with("AUTH") => "235 known\r\n",
                _ => "250 ok\r\n",
            };
            in_mail = (in_mail || line.starts_with("DATA")) && line.trim_end() != ".";
            reader.get_mut().write_all(answer.as_bytes()).unwrap();
        }
    });
    (port, thread)
}

fn stack(config: &str) -> Scratch {
    let scratch = Scratch::new();
    fill(&scratch.db("k1"), 5);
    let text = format!("tier = 'jar'\n[schedule]\ndrill = 'never'\n[notify]\n{config}");
    std::fs::write(scratch.path().join("k1ops.toml"), text).unwrap();
    scratch
}

/// Straight to the doubles, whatever proxy this host is behind.
fn run(scratch: &Scratch, arguments: &[&str]) -> Said {
    scratch.with(
        &[("NO_PROXY", "127.0.0.1"), ("no_proxy", "127.0.0.1")],
        arguments,
    )
}

#[test]
fn each_channel_is_told_in_its_own_words_and_secrets_stay_secret() {
    let far = FarSide::new();
    let at = format!("http://127.0.0.1:{}", far.port);
    let (mail_port, mail) = mail_server();
    let scratch = stack(&format!(
        "webhook = 'file:webhook.secret'\nslack = '{at}/slack-hush'\nntfy = '{at}/ntfy-hush'\n\
         ntfy_token = 'tk_hush'\nhealthchecks = '{at}/hc-hush/'\n\
         [notify.email]\nto = ['ops@example.invalid']\nfrom = 'k1ops <k1@example.invalid>'\n\
         server = '127.0.0.1'\nport = {mail_port}\nsecurity = 'none'\nuser = 'me'\n\
         password = 'hush-hush'\n"
    ));
    std::fs::write(
        scratch.path().join("webhook.secret"),
        format!("{at}/hook-hush\n"),
    )
    .unwrap();
    let said = run(&scratch, &["notify", "-vv", "Does it arrive?"]).done();
    for text in [&said.out, &said.err] {
        assert!(!text.contains("hush"), "{text}");
    }
    let heard = far.heard();
    let find = |path: &str| heard.iter().find(|asked| asked.path == path).unwrap();
    let hook: Value = serde_json::from_str(&find("/hook-hush").body).unwrap();
    assert_eq!(hook["event"], "test");
    assert_eq!(hook["stack"], "k1");
    assert_eq!(hook["text"], "Does it arrive?");
    let slack: Value = serde_json::from_str(&find("/slack-hush").body).unwrap();
    assert!(slack["text"].as_str().unwrap().contains("Does it arrive?"));
    let ntfy = find("/ntfy-hush");
    let headers = ntfy.headers.to_lowercase();
    assert!(headers.contains("title: k1ops: a test") && headers.contains("priority: default"));
    assert!(
        headers.contains("authorization: bearer tk_hush"),
        "{headers}"
    );
    assert_eq!(ntfy.body, "Does it arrive?");
    assert!(find("/hc-hush/log").body.contains("Does it arrive?"));
    assert_eq!(heard.len(), 4);
    let mail = mail.join().unwrap();
    assert!(mail.contains("RCPT TO:<ops@example.invalid>"), "{mail}");
    assert!(mail.contains("Subject: k1ops: a test") && mail.contains("Does it arrive?"));

    // Neither what is shown nor what is archived has them.
    let shown = run(&scratch, &["doctor", "--config"]).done();
    assert!(!shown.out.contains("hush") && shown.out.contains("file:webhook.secret"));
    let unpacked = std::process::Command::new("tar")
        .args([
            "xOf",
            scratch.backup().to_str().unwrap(),
            "config/k1ops.toml",
        ])
        .output()
        .unwrap();
    let config = String::from_utf8(unpacked.stdout).unwrap();
    assert!(
        config.contains("[notify]") && !config.contains("hush"),
        "{config}"
    );
}

#[test]
fn what_may_go_away_is_tried_again_and_what_will_not_is_not() {
    let far = FarSide::new();
    let hook = format!("webhook = 'http://127.0.0.1:{}/hush'\n", far.port);
    let scratch = stack(&hook);
    far.answers(&[503, 429]);
    run(&scratch, &["notify"]).done();
    assert_eq!(far.heard().len(), 3);
    far.answers(&[404]);
    let said = run(&scratch, &["notify"]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.err.contains("answers 404") && !said.err.contains("hush"),
        "{}",
        said.err
    );
    assert_eq!(far.heard().len(), 1);
    far.answers(&[302]);
    assert_eq!(run(&scratch, &["notify"]).code, Some(1));

    // None that the kernel has just taken back: it may give it to the next who asks.
    let closed = k1ops::adapters::port::any_free().unwrap();
    let nobody = stack(&format!("slack = 'http://127.0.0.1:{closed}/hush'\n"));
    let said = run(&nobody, &["notify", "-vv"]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.err.contains("refused") && !said.err.contains("hush"),
        "{}",
        said.err
    );

    let nobody = stack("");
    run(&nobody, &["notify"]).failed(2, "names nobody");
    let url = format!("http://127.0.0.1:{}/hush", far.port);
    far.heard();
    let told = [
        ("K1OPS_NOTIFY_NTFY", url.as_str()),
        ("NO_PROXY", "127.0.0.1"),
    ];
    nobody.with(&told, &["notify"]).done();
    assert_eq!(
        far.paths(),
        ["/hush"],
        "secrets may come from the environment"
    );
    run(&stack("ntfy = 'hush'\n"), &["notify"]).failed(2, "notify.ntfy is no address");
    run(&stack("slack = 'file:nowhere'\n"), &["notify"]).failed(1, "notify.slack names");
}

#[test]
fn mail_is_not_sent_in_the_clear_where_tls_is_asked_for() {
    let (port, mail) = mail_server();
    let scratch = stack(&format!(
        "[notify.email]\nto = ['ops@example.invalid']\nfrom = 'k1@example.invalid'\n\
         server = '127.0.0.1'\nport = {port}\nsecurity = 'starttls'\nuser = 'me'\n\
         password = 'hush'\n"
    ));
    assert_eq!(run(&scratch, &["notify"]).code, Some(1));
    let mail = mail.join().unwrap();
    assert!(!mail.contains("AUTH") && !mail.contains("RCPT"), "{mail}");
}

#[test]
fn runs_tell_of_failure_and_recovery_and_the_ping_of_every_one() {
    let far = FarSide::new();
    let at = format!("http://127.0.0.1:{}", far.port);
    let scratch = stack(&format!(
        "webhook = '{at}/hook'\nhealthchecks = '{at}/ping'\n"
    ));
    let fire = ["schedule", "fire"];
    run(&scratch, &fire).done();
    assert_eq!(far.paths(), ["/ping", "/ping/start"]);

    let saved = scratch.path().join("saved");
    std::fs::rename(scratch.data(), &saved).unwrap();
    run(&scratch, &fire).failed(3, "has no data to back up");
    let heard = far.heard();
    let hook = heard.iter().find(|asked| asked.path == "/hook").unwrap();
    let hook: Value = serde_json::from_str(&hook.body).unwrap();
    assert_eq!(hook["event"], "failed");
    assert!(
        hook["text"]
            .as_str()
            .unwrap()
            .contains("has no data to back up")
    );
    assert!(heard.iter().any(|asked| asked.path == "/ping/fail"));

    std::fs::rename(&saved, scratch.data()).unwrap();
    run(&scratch, &fire).done();
    let heard = far.heard();
    let hook = heard.iter().find(|asked| asked.path == "/hook").unwrap();
    assert!(hook.body.contains("\"recovered\""), "{}", hook.body);
    assert!(heard.iter().any(|asked| asked.path == "/ping"));

    // Not even a lock can be taken.
    let lock = scratch.own().join("run/schedule.lock");
    std::fs::remove_file(&lock).unwrap();
    std::fs::create_dir(&lock).unwrap();
    assert_ne!(run(&scratch, &fire).code, Some(0));
    assert_eq!(far.paths(), ["/hook", "/ping/fail"]);
    std::fs::remove_dir(&lock).unwrap();

    // Nobody can be told, and the backup is good all the same.
    far.answers(&[404, 404]);
    run(&scratch, &fire).done();
    let status = run(&scratch, &["schedule", "status", "--json"]).json();
    assert_eq!(status["last"]["error"], Value::Null);
    assert_eq!(status["last"]["not_told"][0], "healthchecks");
}

#[test]
fn no_good_backup_for_too_long_is_told_once_until_it_is_over() {
    let far = FarSide::new();
    let at = format!("http://127.0.0.1:{}", far.port);
    let scratch = stack(&format!("webhook = '{at}/hook'\nno_backup_hours = 1\n"));
    let check = ["schedule", "check"];
    assert_eq!(run(&scratch, &check).code, Some(1));
    assert!(far.heard()[0].body.contains("there is none at all"));
    assert_eq!(run(&scratch, &check).code, Some(1));
    assert!(far.heard().is_empty(), "told twice");
    let good = scratch.backup();
    run(&scratch, &check).done();
    let heard = far.heard();
    assert!(heard[0].body.contains("\"recovered\""), "{heard:?}");
    run(&scratch, &check).done();
    assert!(far.heard().is_empty(), "told twice");
    std::fs::write(&good, "damaged").unwrap();
    assert_eq!(run(&scratch, &check).code, Some(1));
    assert!(far.heard()[0].body.contains("\"no_backup\""));
}

#[test]
fn a_run_that_ends_the_alarm_says_so_once() {
    let far = FarSide::new();
    let at = format!("http://127.0.0.1:{}", far.port);
    let scratch = stack(&format!("webhook = '{at}/hook'\nno_backup_hours = 1\n"));
    let check = ["schedule", "check"];
    assert_eq!(run(&scratch, &check).code, Some(1));
    far.heard();
    run(&scratch, &["schedule", "fire"]).done();
    let heard = far.heard();
    assert!(heard[0].body.contains("\"recovered\""), "{heard:?}");
    run(&scratch, &check).done();
    assert!(far.heard().is_empty(), "told twice");
}

/// A run that waits for the repository, which `held` keeps from it.
fn fire(scratch: &Scratch) -> std::process::Child {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_k1ops"));
    command.args(["--quiet", "schedule", "fire"]);
    spawn(scratch, &mut command)
}

fn spawn(scratch: &Scratch, command: &mut std::process::Command) -> std::process::Child {
    let command = command.current_dir(scratch.path());
    let command = command.env("DOCKER_HOST", "unix:///nowhere/docker.sock");
    let command = command.env("NO_PROXY", "127.0.0.1");
    command.env("no_proxy", "127.0.0.1").spawn().unwrap()
}

#[track_caller]
fn within(seconds: u64, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    while !holds() {
        assert!(
            std::time::Instant::now() < deadline,
            "it does not come to that"
        );
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// The runs that are recorded.
fn runs(scratch: &Scratch) -> Vec<Value> {
    let text = std::fs::read_to_string(scratch.own().join("run/schedule.json"));
    let runs: Value = serde_json::from_str(&text.unwrap_or_default()).unwrap_or_default();
    runs["runs"].as_array().cloned().unwrap_or_default()
}

#[test]
fn a_run_that_was_killed_is_told_of_by_whoever_looks_next_and_once() {
    let far = FarSide::new();
    let scratch = stack(&format!("webhook = 'http://127.0.0.1:{}/hook'\n", far.port));
    scratch.backup();
    let repository = scratch.backups().join(".lock");
    let kill_one = |before: usize| {
        let held = k1ops::adapters::fs::Lock::exclusive(&repository, "a test").unwrap();
        let mut killed = fire(&scratch);
        within(120, || runs(&scratch).len() > before);
        killed.kill().unwrap();
        killed.wait().unwrap();
        drop(held);
    };
    kill_one(0);
    let check = ["schedule", "check"];
    run(&scratch, &check).done();
    let heard = far.heard();
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert!(heard[0].body.contains("\"failed\""), "{heard:?}");
    assert!(heard[0].body.contains("was killed"), "{heard:?}");
    run(&scratch, &check).done();
    assert!(far.heard().is_empty(), "told twice");

    // Without an hourly look, the next run tells, and that it is over.
    kill_one(1);
    run(&scratch, &["schedule", "fire"]).done();
    let heard = far.heard();
    assert_eq!(heard.len(), 2, "{heard:?}");
    assert!(heard[0].body.contains("\"failed\""), "{heard:?}");
    assert!(heard[1].body.contains("\"recovered\""), "{heard:?}");
}

#[test]
fn the_daemon_tells_of_a_run_that_was_killed() {
    let far = FarSide::new();
    let scratch = stack(&format!("webhook = 'http://127.0.0.1:{}/hook'\n", far.port));
    run(&scratch, &["schedule", "fire"]).done();
    // That was long ago, so that the daemon has one to make up for.
    let record = scratch.own().join("run/schedule.json");
    let mut known = runs(&scratch);
    known[0]["started_at"] = "2020-01-01T00:00:00Z".into();
    known[0]["archive"] = Value::Null;
    std::fs::write(&record, serde_json::json!({ "runs": known }).to_string()).unwrap();
    for entry in std::fs::read_dir(scratch.backups()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::remove_file(path).unwrap();
        }
    }
    let repository = scratch.backups().join(".lock");
    let held = k1ops::adapters::fs::Lock::exclusive(&repository, "a test").unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_k1ops"));
    let mut daemon = spawn(&scratch, command.args(["--quiet", "schedule", "run"]));
    within(120, || runs(&scratch).len() == 2);
    let pid = runs(&scratch)[1]["process"]["pid"].as_i64().unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let mut heard = Vec::new();
    within(60, || {
        heard.extend(far.heard());
        !heard.is_empty()
    });
    drop(held);
    let pid = rustix::process::Pid::from_child(&daemon);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    daemon.wait().unwrap();
    assert!(heard[0].body.contains("\"failed\""), "{heard:?}");
    assert!(heard[0].body.contains("was killed"), "{heard:?}");
}
