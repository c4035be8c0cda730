//! `k1ops schedule` with a real cron, in a mount namespace of its own so that the host's crontabs
//! are not touched, with systemd's own judgement of the units, and as a daemon.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

mod scratch;

use k1ops::adapters::fs::Lock;
use scratch::{Scratch, fill};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const K1OPS: &str = env!("CARGO_BIN_EXE_k1ops");

fn small(config: &str) -> Scratch {
    let scratch = Scratch::new();
    fill(&scratch.db("k1"), 20);
    configure(&scratch, config);
    scratch
}

fn configure(scratch: &Scratch, config: &str) {
    let text = format!("tier = 'jar'\ntimezone = 'UTC'\n{config}");
    std::fs::write(scratch.path().join("k1ops.toml"), text).unwrap();
}

/// A shell whose crontabs are its own, and gone with it.
fn with_own_crontabs(scratch: &Scratch, script: &str) -> Command {
    let own = "set -eu
        for place in /var/spool/cron/crontabs /run /etc/cron.d; do mount -t tmpfs none $place; done
        mount --bind /dev/null /etc/crontab
        ";
    let root = rustix::process::geteuid().is_root();
    let mut command = Command::new("unshare");
    if !root {
        command.arg("--map-root-user");
    }
    command
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg(format!("{own}{script}"))
        .current_dir(scratch.path())
        .env("K1", K1OPS)
        .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
        .stdin(Stdio::null());
    command
}

fn shell(scratch: &Scratch, script: &str) -> String {
    let output = with_own_crontabs(scratch, script).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}\n{text}\n{said}");
    text
}

#[test]
fn other_entries_stay_to_the_byte_and_removing_leaves_nothing() {
    let scratch = small("[schedule]\nat = '*/10 4 * * mon-fri'\n");
    let other = b"# mine \t\nMAILTO=\"\"\n\n5 4 * * *\techo 100\\% \xff  \n# END\n";
    std::fs::write(scratch.path().join("other"), other).unwrap();
    let more = [&other[..], b"@daily echo later\n"].concat();
    std::fs::write(scratch.path().join("more"), more).unwrap();
    let said = shell(
        &scratch,
        "! $K1 schedule status > status
         $K1 schedule install --dry-run > /dev/null; ! crontab -l 2> /dev/null
         $K1 schedule install > said; $K1 schedule remove >> said
         ! crontab -l 2> /dev/null; $K1 schedule remove | grep -q 'no schedule is installed'
         crontab other
         $K1 schedule install > /dev/null; crontab -l > one
         $K1 schedule install | grep -q 'up to date'; crontab -l | cmp - one
         K1OPS_SCHEDULE_AT=daily $K1 schedule install 2> warned | grep -q changed
         grep -q 'does not see K1OPS_SCHEDULE_AT' warned
         $K1 schedule install > /dev/null; crontab -l | cmp - one
         (crontab -l; echo '@daily echo later') | crontab -
         $K1 schedule install > /dev/null
         $K1 schedule remove > /dev/null; crontab -l | cmp - more
         cat one",
    );
    let line = said
        .lines()
        .find(|line| line.starts_with("0,10,20"))
        .unwrap();
    assert!(
        line.starts_with("0,10,20,30,40,50 4 * * 1,2,3,4,5 cd /"),
        "{line}"
    );
    assert!(line.contains("umask 077") && line.contains("PATH=/usr/local/sbin"));
    assert!(
        line.ends_with(".conductor/logs/schedule.log 2>&1"),
        "{line}"
    );
    let caught_up = said
        .lines()
        .find(|line| line.starts_with("@reboot"))
        .unwrap();
    assert!(caught_up.contains("--missed"));
}

#[test]
fn what_cron_cannot_do_is_refused_and_changes_nothing() {
    let scratch = small("");
    let refused = |config: &str, said: &str| {
        configure(&scratch, config);
        let arguments = ["schedule", "install", "--with", "cron"];
        scratch.run(&arguments).failed(2, said);
    };
    refused("[schedule]\nat = 'often'\n", "\"often\" is no schedule");
    refused("[schedule]\nat = '0 0 1 * 1'\n", "day of the week together");
    refused(
        "[schedule]\njitter = 'some'\n",
        "\"some\" is no span of time",
    );
    let text = "tier = 'jar'\ntimezone = 'Pacific/Kiritimati'\n";
    std::fs::write(scratch.path().join("k1ops.toml"), text).unwrap();
    let arguments = ["schedule", "install", "--with", "cron"];
    scratch
        .run(&arguments)
        .failed(2, "cron goes by the host's time zone");
    assert!(!scratch.own().join("logs").exists());
}

#[test]
fn a_real_cron_fires_it_and_status_and_doctor_tell() {
    let scratch = small("[schedule]\nat = '* * * * *'\njitter = ''\n");
    let script = "$K1 schedule install
        cron -f & echo $! > cron.pid
        until grep -q '\"ended_at\": \"' .conductor/run/schedule.json 2> /dev/null; do sleep 0.2; done
        $K1 schedule status --json > status.json
        $K1 doctor --json > doctor.json || true
        kill $(cat cron.pid); wait || true
        ! $K1 schedule status > stopped";
    let mut fired = with_own_crontabs(&scratch, script).spawn().unwrap();
    within(Duration::from_secs(300), || {
        fired.try_wait().unwrap().is_some()
    });
    assert!(fired.wait().unwrap().success());
    let status = json(&scratch.path().join("status.json"));
    assert_eq!(status["fired_by"], "cron");
    assert_eq!(status["is_served"], true);
    assert_eq!(status["result"], "good");
    assert_eq!(status["last"]["by"], "cron");
    assert!(
        status["last"]["archive"]
            .as_str()
            .unwrap()
            .starts_with("k1-k1-")
    );
    let doctor = json(&scratch.path().join("doctor.json")).to_string();
    assert!(
        doctor.contains("* * * * * in the user's crontab"),
        "{doctor}"
    );
    let stopped = std::fs::read_to_string(scratch.path().join("stopped")).unwrap();
    assert!(
        stopped.contains("left to cron, which does not run"),
        "{stopped}"
    );
    let log = scratch.own().join("logs/schedule.log");
    let mode = std::fs::metadata(&log).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("by cron: k1-k1-"), "{log}");
    let proofs = std::fs::read_dir(scratch.backups().join(".proofs")).unwrap();
    assert!(proofs.count() >= 1, "the run has proven its backup");
}

#[test]
fn systemd_takes_the_units_and_means_the_same_by_them() {
    let scratch = small("[schedule]\nat = '7,27 */6 1-7 * *'\n");
    let weird = scratch.path().join("a \"strange\" 100% folder");
    std::fs::create_dir(&weird).unwrap();
    std::fs::copy(scratch.path().join("k1ops.toml"), weird.join("k1ops.toml")).unwrap();
    for folder in [scratch.path(), weird.as_path()] {
        // As root on a host without systemd: a user of this one may not linger.
        let install = "$K1 schedule install --with systemd --dry-run --json";
        let output = with_own_crontabs(&scratch, install)
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
        let units = tempfile::tempdir().unwrap();
        let mut files = Vec::new();
        for unit in plan["units"].as_array().unwrap() {
            let name = Path::new(unit[0].as_str().unwrap()).file_name().unwrap();
            std::fs::write(units.path().join(name), unit[1].as_str().unwrap()).unwrap();
            files.push(units.path().join(name));
        }
        let verified = Command::new("systemd-analyze")
            .arg("verify")
            .args(&files)
            .output();
        let verified = verified.unwrap();
        let said = String::from_utf8_lossy(&verified.stderr);
        assert!(
            verified.status.success() && said.trim().is_empty(),
            "{said}"
        );
        let timer = std::fs::read_to_string(&files[0]).unwrap();
        assert!(timer.contains("Persistent=yes") && timer.contains("RandomizedDelaySec=600"));
        let when = timer
            .lines()
            .find_map(|line| line.strip_prefix("OnCalendar="))
            .unwrap();
        assert_eq!(next_of_systemd(when), plan["next"].as_str().unwrap());
        let exposure = Command::new("systemd-analyze")
            .args(["security", "--offline=yes", "--threshold=50"])
            .arg(&files[1])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&exposure.stdout);
        assert!(exposure.status.success(), "{said}");
    }
}

/// Timers of a user who is not root end with the last logout unless the user lingers. The user is
/// `daemon`, whom every host has, in a namespace of its own with its own processes: whether a cron runs
/// is not left to this host.
#[test]
fn a_user_whose_timers_end_at_logout_gets_cron_or_is_told() {
    let scratch = small("[schedule]\nat = '*/10 4 * * *'\n");
    let run = |script: &str| {
        let own =
            "mount -t tmpfs none /var/lib; mkdir -p /run/systemd/system /var/lib/systemd/linger
            as='unshare --user --map-user=1'; export HOME=$PWD/home; mkdir -p $HOME
            linger=/var/lib/systemd/linger/daemon
            ";
        std::fs::write(
            scratch.path().join("script"),
            format!("set -eu; mount -t proc none /proc\n{script}"),
        )
        .unwrap();
        shell(
            &scratch,
            &format!("{own} export as linger; unshare --pid --fork --kill-child sh script"),
        )
    };
    run("
        install='schedule install --dry-run --json'
        ! $as $K1 $install 2> no_cron
        grep -q 'the timers of daemon end when daemon logs out' no_cron
        grep -q 'loginctl enable-linger daemon' no_cron
        $as $K1 schedule install --dry-run --with cron > /dev/null 2>&1
        cron -f & cron=$!
        until grep -qx cron /proc/$cron/comm; do sleep 0.05; done
        $as $K1 $install > by_cron 2> why
        grep -q '\"how\": \"cron\"' by_cron
        grep -q 'the timers of daemon end when daemon logs out' why
        grep -q 'loginctl enable-linger daemon' why
        ! $as $K1 $install --with systemd 2> asked
        grep -q 'loginctl enable-linger daemon' asked
        touch $linger
        $as $K1 $install > by_systemd 2> quiet
        grep -q '\"how\": \"systemd\"' by_systemd; if grep -q linger quiet; then exit 1; fi
        kill $cron");
    // As a timer that was installed while the user lingered, or by an older k1ops.
    let plan = json(&scratch.path().join("by_systemd"));
    let units = scratch.path().join("home/.config/systemd/user");
    std::fs::create_dir_all(units.join("timers.target.wants")).unwrap();
    for unit in plan["units"].as_array().unwrap() {
        let path = Path::new(unit[0].as_str().unwrap());
        assert!(path.starts_with(&units), "{}", path.display());
        std::fs::write(path, unit[1].as_str().unwrap()).unwrap();
        let link = units
            .join("timers.target.wants")
            .join(path.file_name().unwrap());
        std::os::unix::fs::symlink(path, link).unwrap();
    }
    run("
        ! $as $K1 schedule status --json > unserved
        ! $as $K1 schedule status > told
        $as $K1 doctor --json > doctor || true
        touch $linger
        $as $K1 schedule status --json > served || true
        $as $K1 doctor --json > doctor_after || true");
    assert_eq!(
        json(&scratch.path().join("unserved"))["fired_by"],
        "systemd"
    );
    assert_eq!(json(&scratch.path().join("unserved"))["is_served"], false);
    assert_eq!(json(&scratch.path().join("served"))["is_served"], true);
    let said = |name: &str| std::fs::read_to_string(scratch.path().join(name)).unwrap();
    let advice = "loginctl enable-linger daemon";
    assert!(said("told").contains(advice), "{}", said("told"));
    assert!(said("doctor").contains(advice), "{}", said("doctor"));
    assert!(!said("doctor_after").contains(advice));
}

/// When systemd would fire next, written as JSON has it.
fn next_of_systemd(when: &str) -> String {
    let output = Command::new("systemd-analyze")
        .args(["calendar", when])
        .env("TZ", "UTC")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Next elapse: "));
    let time = line
        .unwrap_or_else(|| panic!("{text}"))
        .trim_end_matches(" UTC");
    let (_, time) = time.split_once(' ').unwrap();
    time.replace(' ', "T") + "Z"
}

#[test]
fn runs_do_not_overlap_wait_for_others_and_are_recorded_however_they_end() {
    let scratch = small("");
    let runs = || json(&scratch.own().join("run/schedule.json"))["runs"].clone();
    std::fs::create_dir_all(scratch.own().join("run")).unwrap();
    let held =
        Lock::exclusive(&scratch.own().join("run/schedule.lock"), "a scheduled run").unwrap();
    scratch
        .run(&["schedule", "fire"])
        .failed(5, "a scheduled run");
    drop(held);

    // Somebody backs up by hand meanwhile.
    let lock = scratch.backups().join(".lock");
    let held = Lock::exclusive(&lock, "backup of stack k1").unwrap();
    let mut waiting = fire(&scratch);
    within(Duration::from_secs(120), || {
        scratch.own().join("run/schedule.json").exists()
    });
    drop(held);
    assert!(waiting.wait().unwrap().success());
    assert_eq!(runs()[0]["error"], Value::Null);

    let held = Lock::exclusive(&lock, "backup of stack k1").unwrap();
    let mut killed = fire(&scratch);
    within(Duration::from_secs(120), || {
        runs().as_array().unwrap().len() == 2
    });
    killed.kill().unwrap();
    killed.wait().unwrap();
    drop(held);
    let status = scratch.run(&["schedule", "status", "--json"]);
    assert_eq!(status.code, Some(1));
    assert_eq!(status.json()["result"], "died");
    assert_eq!(status.json()["fired_by"], Value::Null);

    std::fs::remove_dir_all(scratch.data()).unwrap();
    scratch
        .run(&["schedule", "fire"])
        .failed(3, "has no data to back up");
    let last = &runs()[2];
    assert!(
        last["error"]
            .as_str()
            .unwrap()
            .contains("no data to back up")
    );
    assert_eq!(last["archive"], Value::Null);
}

fn fire(scratch: &Scratch) -> Child {
    Command::new(K1OPS)
        .args(["--quiet", "schedule", "fire"])
        .current_dir(scratch.path())
        .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
        .spawn()
        .unwrap()
}

#[test]
fn the_daemon_catches_up_once_runs_alone_and_ends_when_asked() {
    let scratch = small("[schedule]\nat = 'yearly'\n");
    scratch.run(&["schedule", "fire"]).done();
    // That was long ago.
    let record = scratch.own().join("run/schedule.json");
    let mut known = json(&record);
    known["runs"][0]["started_at"] = "2020-01-01T00:00:00Z".into();
    known["runs"][0]["archive"] = Value::Null;
    std::fs::write(&record, known.to_string()).unwrap();
    for entry in std::fs::read_dir(scratch.backups()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::remove_file(path).unwrap();
        }
    }
    let mut daemon = Command::new(K1OPS)
        .args(["schedule", "run"])
        .current_dir(scratch.path())
        .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    within(Duration::from_secs(180), || {
        let runs = &json(&record)["runs"];
        runs[1]["ended_at"].is_string()
    });
    assert_eq!(json(&record)["runs"][1]["by"], "daemon");
    scratch
        .run(&["schedule", "run"])
        .failed(5, "k1ops schedule run");
    let status = scratch.run(&["schedule", "status", "--json"]).done().json();
    assert_eq!(status["fired_by"], "daemon");
    let said = scratch.run(&["schedule", "fire", "--missed"]).done();
    assert!(said.out.contains("nothing was missed"), "{}", said.out);
    let pid = rustix::process::Pid::from_child(&daemon);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(daemon.wait().unwrap().success());
    let out = std::io::read_to_string(daemon.stdout.take().unwrap()).unwrap();
    assert_eq!(out.lines().last(), Some("ended after 1 runs"));
}

fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|_| "{}".to_owned());
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{}: {text}", path.display()))
}

#[track_caller]
fn within(time: Duration, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + time;
    while !holds() {
        assert!(Instant::now() < deadline, "it does not come to that");
        std::thread::sleep(Duration::from_millis(50));
    }
}
