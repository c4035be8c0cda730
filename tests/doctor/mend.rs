//! The four entries of the guide's troubleshooting (a port conflict, PostgreSQL that cannot be
//! reached, Java and the JAR, Docker and memory): the fault named, the remedy applied, the fault
//! gone. And `--fix` and `--kill`, which do that for the user.

use super::bed::{Bed, Listener, free_port_with_its_neighbour, mode_of, succeed};
use super::host::old_java;
use super::patience::until;
use super::postgres::{new_server, url};
use std::process::Command;

const PASSWORD: &str = "correct-horse-battery-staple";

fn remedy_of(finding: &serde_json::Value, begins: &str) -> String {
    let remedies = finding["remedy"].as_array().unwrap();
    let remedy = remedies
        .iter()
        .find(|r| r.as_str().unwrap().starts_with(begins));
    remedy
        .unwrap_or_else(|| panic!("{begins:?} is not in {remedies:?}"))
        .as_str()
        .unwrap()
        .to_owned()
}

/// A variable that a remedy sets, as `export NAME=VALUE` does for a user.
fn export(bed: &mut Bed, remedy: &str) {
    let (name, value) = remedy
        .strip_prefix("export ")
        .unwrap()
        .split_once('=')
        .unwrap();
    bed.unset(name);
    bed.set(name, value);
}

#[test]
fn a_port_conflict_is_mended_by_fix_and_the_file_keeps_its_comments() {
    let mut bed = Bed::healthy();
    // Else a test beside this one may listen where the remedy has just moved to.
    bed.port = free_port_with_its_neighbour();
    let text = format!(
        "# ours\ntier   = 'jar'   # for now\n\n[ports] # local\nconductor =  {}   # the API\n",
        bed.port
    );
    bed.whole_config(&text);
    let _taken = Listener::on("127.0.0.1", bed.port, &[]);
    let finding = bed.doctor();
    let finding = finding.must_find("ports", "is taken by perl");
    assert_eq!(remedy_of(finding, "k1ops"), "k1ops doctor --fix");
    let file = bed.path().join("k1ops.toml");
    let dry = bed.doctor_with(&["--fix", "--dry-run"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    assert_eq!(dry.code, Some(3));
    assert!(
        dry.err.contains("would write ports.conductor = "),
        "{}",
        dry.err
    );

    let fixed = bed.doctor_with(&["--fix"]);
    fixed.must_not_find("ports", "is taken");
    assert_eq!(fixed.code, Some(0), "{}", fixed.titles());
    let port = fixed.json["done"]["fixes"][0]["port"].as_u64().unwrap();
    let now = std::fs::read_to_string(&file).unwrap();
    assert_eq!(now, text.replace(&bed.port.to_string(), &port.to_string()));
    assert_eq!(mode_of(&file), 0o600);
    bed.doctor().must_not_find("ports", "is taken");
}

#[test]
fn a_process_is_ended_only_if_it_is_named_and_in_the_way() {
    let bed = Bed::healthy();
    let mut taken = Listener::on("127.0.0.1", bed.port, &[]);
    let pid = taken.0.id().to_string();
    let refused = bed.run(&["doctor", "--kill", &std::process::id().to_string()]);
    assert_eq!(refused.status.code(), Some(6));
    let dry = bed.doctor_with(&["--kill", &pid, "--dry-run"]);
    assert!(
        dry.err.contains(&format!("would end process {pid}")),
        "{}",
        dry.err
    );
    assert!(taken.0.try_wait().unwrap().is_none());
    // Its parent is this test, which has to see it off before it is gone.
    let waiting = std::thread::spawn(move || taken.0.wait().unwrap());
    let done = bed.doctor_with(&["--kill", &pid]);
    assert!(!waiting.join().unwrap().success());
    done.must_not_find("ports", "is taken");
    assert_eq!(done.code, Some(0), "{}", done.titles());
}

#[test]
fn permissions_are_mended_by_fix() {
    let bed = Bed::healthy();
    let entries = std::fs::read_dir(bed.own("backups")).unwrap();
    let archives: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "tar"))
        .collect();
    for archive in &archives {
        super::bed::mode(archive, 0o644);
    }
    let before = bed.doctor();
    before.must_find("permissions", "holds all data of the stack");
    let strict = bed.doctor_with(&["--strict"]);
    assert_eq!(strict.code, Some(1));
    let after = bed.doctor_with(&["--fix"]);
    after.must_not_find("permissions", "");
    for archive in &archives {
        assert_eq!(mode_of(archive), 0o600);
    }
}

#[test]
fn postgres_that_is_down_answers_again_once_it_is_started() {
    let mut bed = Bed::empty();
    let server = new_server("");
    let (data, port) = (server.data.clone(), server.port);
    url(&mut bed, "k1app", PASSWORD, port, "postgres");
    bed.doctor().must_not_find("postgres", "");
    let pg_ctl = |words: &[&str]| {
        let mut command = super::cluster::as_postgres("pg_ctl");
        command.args(words).arg("--pgdata").arg(&data);
        let quiet = std::process::Stdio::null;
        let status = command
            .stdin(quiet())
            .stdout(quiet())
            .stderr(quiet())
            .status();
        assert!(status.unwrap().success());
    };
    pg_ctl(&["stop", "--wait", "--mode=fast", "--silent"]);
    let down = bed.doctor();
    let finding = down.must_find("postgres", "does not answer");
    assert_eq!(down.code, Some(3));
    let ask = remedy_of(finding, "pg_isready");
    let ready = |expected: bool| {
        let status = Command::new("sh")
            .args(["-c", &ask])
            .output()
            .unwrap()
            .status;
        assert_eq!(status.success(), expected, "{ask}");
    };
    ready(false);
    // What `systemctl start postgresql` does where it is the system's.
    let options = format!(
        "-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={}",
        server.socket_folder().display()
    );
    let log = server.socket_folder().join("log").display().to_string();
    pg_ctl(&[
        "start",
        "--wait",
        "--silent",
        "--options",
        &options,
        "--log",
        &log,
    ]);
    ready(true);
    let up = bed.doctor();
    up.must_not_find("postgres", "");
    assert_eq!(up.json["tally"]["problems"], 0, "{}", up.titles());
}

#[test]
fn a_wrong_password_is_mended_by_the_right_one() {
    let mut bed = Bed::empty();
    let server = new_server("");
    url(
        &mut bed,
        "k1app",
        "not-the-right-one",
        server.port,
        "postgres",
    );
    let wrong = bed.doctor();
    let finding = wrong.must_find("postgres", "refused the login");
    remedy_of(finding, "psql -h 127.0.0.1");
    // `\password` as in the remedy, without a terminal.
    server.sql("ALTER ROLE k1app PASSWORD 'not-the-right-one'");
    bed.doctor().must_not_find("postgres", "");
}

#[test]
fn a_java_that_is_too_old_is_mended_by_another_one() {
    let mut bed = Bed::healthy();
    let java = old_java(&bed);
    bed.set("K1OPS_SERVER_JAVA", &java.display().to_string());
    let old = bed.doctor();
    old.must_find("java", "is Java 17");
    assert_eq!(old.code, Some(3));
    bed.unset("K1OPS_SERVER_JAVA");
    bed.doctor().must_not_find("java", "");
}

#[test]
fn a_damaged_jar_is_removed_by_the_remedy() {
    let mut bed = Bed::healthy();
    let cache = bed.path().join("cache");
    std::fs::create_dir_all(cache.join("jars")).unwrap();
    let jar = cache.join("jars/conductor-server-3.32.1-boot.jar");
    std::fs::write(&jar, "not all of it").unwrap();
    bed.set("K1OPS_CACHE", &cache.display().to_string());
    let damaged = bed.doctor();
    let finding = damaged.must_find("jar", "is not the JAR of Conductor 3.32.1");
    assert_eq!(damaged.code, Some(4));
    let remedy = remedy_of(finding, "rm ");
    let (remove, _) = remedy.split_once(" && k1ops start").unwrap();
    succeed(Command::new("sh").args(["-c", remove]));
    assert!(!jar.exists());
    bed.doctor().must_not_find("jar", "is not the JAR");
}

#[test]
fn too_large_a_heap_is_mended_by_the_remedy() {
    let mut bed = Bed::healthy();
    bed.set("K1OPS_SERVER_HEAP", "9999g");
    let large = bed.doctor();
    let finding = large.must_find("memory", "of memory, and the host has");
    let remedy = remedy_of(finding, "export ");
    export(&mut bed, &remedy);
    bed.doctor().must_not_find("memory", "and the host has");
}

#[test]
fn an_engine_that_is_not_there_is_mended_by_one_that_is() {
    let mut bed = super::docker::bed();
    bed.set("DOCKER_HOST", "unix:///nowhere/docker.sock");
    let without = bed.doctor();
    without.must_find("docker", "Docker");
    assert_eq!(without.code, Some(3));
    bed.unset("DOCKER_HOST");
    let with = bed.doctor();
    with.must_not_find("docker", "");
    assert_eq!(with.json["tally"]["problems"], 0, "{}", with.titles());
}

#[test]
fn a_container_on_the_port_is_stopped_by_the_remedy() {
    let bed = super::docker::bed();
    let publish = format!("127.0.0.1:{}:80", bed.port);
    let image = super::docker::testbed("REDIS_IMAGE");
    let command = ["sleep", "600"];
    let name = super::docker::run(&bed, "other", &["-p", &publish], &image, &command);
    let taken = bed.doctor();
    let finding = taken.must_find("ports", &format!("is taken by container {name}"));
    let remedy = remedy_of(finding, "docker stop");
    succeed(Command::new("sh").args(["-c", &remedy.replace("stop", "stop -t 0")]));
    until("the port is free", || {
        bed.doctor().find("ports", "is taken").is_none()
    });
}

#[test]
fn the_origin_of_every_value_is_told_and_no_secret() {
    let mut bed = Bed::healthy();
    bed.config("[database]\nurl = 'postgres://u:planted-hush@h/d'\n[server.properties]\n'x.password' = 'planted-hush'\n");
    bed.set("K1OPS_SERVER_HEAP", "2g");
    let said = bed.done(&["doctor", "--config", "--json"]);
    assert!(!said.contains("planted-hush"), "{said}");
    let json: serde_json::Value = serde_json::from_str(&said).unwrap();
    let values = json["values"].as_array().unwrap();
    let origin = |key: &str| {
        let one = values.iter().find(|value| value["key"] == key).unwrap();
        (
            one["value"].as_str().unwrap().to_owned(),
            one["origin"]["from"].clone(),
        )
    };
    assert_eq!(
        origin("server.heap"),
        ("\"2g\"".into(), "environment".into())
    );
    assert_eq!(origin("tier"), ("\"jar\"".into(), "file".into()));
    assert_eq!(origin("ports.redis"), ("6379".into(), "default".into()));
    assert_eq!(origin("database.url").0, "\"postgres://u:***@h/d\"");
    assert!(
        bed.done(&["doctor", "--origins"])
            .contains("K1OPS_SERVER_HEAP")
    );
    assert_eq!(bed.run(&["status", "--config"]).status.code(), Some(2));
}
