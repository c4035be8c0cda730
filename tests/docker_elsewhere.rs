//! A Docker engine on another host: through a real SSH server to the engine of the test bed, where a stack runs, and
//! by TLS to an engine of the test's own, which refuses whoever it does not know.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise, in its helpers as well"
)]

mod bench;

use bench::{Bench, assert_code, assert_says, docker_out, free_port, text};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A command as root: this user, or `sudo` without a password.
fn as_root(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["-n", program]);
    command
}

#[track_caller]
fn succeed(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "not so: {what}");
    }
}

fn is_open(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// OpenSSH's server for this user and one key, and an `ssh` that knows it.
struct Sshd {
    child: Child,
    port: u16,
    folder: TempDir,
}

impl Sshd {
    /// With these lines in its configuration.
    fn start(settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["host", "user", "stranger"] {
            succeed(
                Command::new("ssh-keygen")
                    .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                    .arg(at(name)),
            );
        }
        let port = free_port();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
             StrictModes no\n{settings}\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n",
            at("host").display(),
            at("user.pub").display()
        );
        std::fs::write(at("sshd_config"), config).unwrap();
        if rustix::process::geteuid().is_root() {
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        let log = std::fs::File::create(at("log")).unwrap();
        let child = Command::new(sshd())
            .args(["-D", "-e", "-f"])
            .arg(at("sshd_config"))
            .stderr(log)
            .spawn()
            .unwrap();
        let sshd = Self {
            child,
            port,
            folder,
        };
        sshd.know("host", "user");
        until("sshd listens", || is_open(port));
        sshd
    }

    /// Has `ssh` expect the host key `host`, and show the key `user`.
    fn know(&self, host: &str, user: &str) {
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        let key = std::fs::read_to_string(at(&format!("{host}.pub"))).unwrap();
        let known = format!("[127.0.0.1]:{} {key}", self.port);
        std::fs::write(at("known_hosts"), known).unwrap();
        let config = format!(
            "IdentityFile {}\nIdentitiesOnly yes\nIdentityAgent none\nUserKnownHostsFile {}\n\
             GlobalKnownHostsFile /dev/null\nStrictHostKeyChecking yes\n",
            at(user),
            at("known_hosts")
        );
        std::fs::write(at("ssh_config"), config).unwrap();
        let bin = self.folder.path().join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        let script = format!(
            "#!/bin/sh\nexec /usr/bin/ssh -F {} \"$@\"\n",
            at("ssh_config")
        );
        std::fs::write(bin.join("ssh"), script).unwrap();
        std::fs::set_permissions(bin.join("ssh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// `k1ops` with the engine behind this server, and a folder of its own for what is temporary.
    fn k1ops(&self, bench: &Bench, arguments: &[&str]) -> Command {
        let user = succeed(Command::new("id").arg("-un"));
        let path = std::env::var("PATH").unwrap();
        let bin = self.folder.path().join("bin");
        std::fs::create_dir_all(self.temporary()).unwrap();
        let mut command = bench.command(arguments);
        command
            .env(
                "DOCKER_HOST",
                format!("ssh://{}@127.0.0.1:{}", user.trim(), self.port),
            )
            .env("PATH", format!("{}:{path}", bin.display()))
            .env("TMPDIR", self.temporary());
        command
    }

    fn temporary(&self) -> PathBuf {
        self.folder.path().join("tmp")
    }

    #[track_caller]
    fn assert_nothing_is_left(&self) {
        let left: Vec<_> = std::fs::read_dir(self.temporary())
            .unwrap()
            .flatten()
            .collect();
        assert!(left.is_empty(), "{left:?}");
        let of_us = self.folder.path().display().to_string();
        let ssh = || succeed(Command::new("ps").args(["-eo", "args"]));
        until("no ssh is left", || {
            !ssh()
                .lines()
                .any(|line| line.contains(&of_us) && line.contains("dial-stdio"))
        });
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where `scripts/test` has it, which installs no service.
fn sshd() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join("sshd"))
        .find(|program| program.is_file())
        .unwrap_or_else(|| {
            panic!("sshd is not there: run this test through `scripts/test`, which fetches it")
        })
}

fn psql(container: &str, database: &str, sql: &str) -> String {
    let run = ["exec", container, "psql", "-X", "-At", "-U", "conductor"];
    docker_out(&[&run[..], &["-d", database, "-c", sql]].concat())
}

fn looks_work(sshd: &Sshd, bench: &Bench) {
    let run = |arguments: &[&str]| -> Output { sshd.k1ops(bench, arguments).output().unwrap() };
    // What looks works, through ports that lead there.
    let output = run(&["status", "--json"]);
    assert_code(&output, 0);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    let engine = status["docker"]["engine"].as_str().unwrap();
    assert!(engine.contains("at ssh://"), "{engine}");
    let url = status["docker"]["url"].as_str().unwrap();
    assert!(!url.ends_with(&format!(":{}", bench.port)), "{url}");
    assert!(
        status["store"]["size_bytes"].as_u64().unwrap() > 1_000_000,
        "{status}"
    );
    assert_says(&run(&["logs", "postgres"]), "database system is ready");
    let doctor = run(&["doctor"]);
    let said = text(&doctor);
    for well in ["conductor,", "postgres,", "redis,", "replication,"] {
        assert!(said.contains(well), "not said: {well}\n{said}");
    }
    assert!(!said.contains("✗"), "{said}");

    assert_code(&run(&["query", "summary"]), 0);
    // A server that lets nobody at sockets has Docker's own way left.
    let strict = Sshd::start("AllowStreamLocalForwarding no");
    let output = strict.k1ops(bench, &["logs", "postgres"]).output().unwrap();
    assert_says(&output, "database system is ready");
    strict.assert_nothing_is_left();
}

fn strangers_and_the_killed_leave_nothing(sshd: &Sshd, bench: &Bench) {
    let run = |arguments: &[&str]| -> Output { sshd.k1ops(bench, arguments).output().unwrap() };
    // Strangers on either side.
    sshd.know("stranger", "user");
    assert_says(&run(&["logs", "postgres"]), "Host key verification failed");
    sshd.know("host", "stranger");
    assert_says(&run(&["logs", "postgres"]), "Permission denied");
    sshd.know("host", "user");
    sshd.assert_nothing_is_left();

    // Killed in the midst of it all, nothing stays connected.
    let mut following = sshd
        .k1ops(bench, &["logs", "postgres", "--follow"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let temporary = || std::fs::read_dir(sshd.temporary()).unwrap().count();
    until("it is connected", || temporary() > 0);
    following.kill().unwrap();
    following.wait().unwrap();
    std::fs::remove_dir_all(sshd.temporary()).unwrap();
    std::fs::create_dir_all(sshd.temporary()).unwrap();
    sshd.assert_nothing_is_left();
}

#[test]
fn a_stack_on_another_host_is_looked_at_and_backed_up_through_ssh() {
    let bench = Bench::new();
    assert_code(&bench.run(&["start"]), 0);
    let sshd = Sshd::start("");
    let run = |arguments: &[&str]| -> Output { sshd.k1ops(&bench, arguments).output().unwrap() };
    let container = bench.container("postgres");
    let psql = |sql: &str| psql(&container, "conductor", sql);
    psql("CREATE TABLE kept AS SELECT n, md5(n::text) AS text FROM generate_series(1, 5000) n");
    psql("ALTER SYSTEM SET log_connections = on");
    psql("SELECT pg_reload_conf()");

    looks_work(&sshd, &bench);

    // A backup has rows, the whole cluster and volumes.
    let output = run(&["backup", "--json", "--verify"]);
    assert_code(&output, 0);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let sources = report["sources"].to_string();
    for what in ["postgres_data", "redis_data", "logs"] {
        assert!(sources.contains(what), "{what}: {sources}");
    }
    // The database saw its own container come, by name and password.
    let log = text(&bench::docker(&["logs", &container]));
    let own = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let own = docker_out(&["inspect", "--format", own, &container]);
    assert!(log.contains(&format!("host={} ", own.trim())), "{log}");
    assert!(
        log.contains("replication connection authorized: user=conductor"),
        "{log}"
    );

    // What needs the files of that host is refused, and says what to do.
    for arguments in [&["start"][..], &["stop"], &["restore", "latest", "--yes"]] {
        let output = run(arguments);
        assert_ne!(output.status.code(), Some(0), "{}", text(&output));
        assert_says(&output, "is on another host");
        assert_says(&output, "Run k1ops on that host");
    }
    assert!(is_open(bench.port), "the stack was touched");

    strangers_and_the_killed_leave_nothing(&sshd, &bench);

    // What came through is what was there.
    psql("DROP TABLE kept");
    let name = report["restore_with"].as_str().unwrap();
    let restore = [
        "restore",
        name,
        "--only",
        "postgres:public.kept",
        "--as",
        "rescue",
        "--yes",
    ];
    assert_code(&bench.run(&restore), 0);
    let sum = "SELECT count(*), md5(string_agg(text, '' ORDER BY n)) FROM kept";
    let expected = psql(
        "SELECT 5000, md5(string_agg(md5(n::text), '' ORDER BY n)) FROM generate_series(1, 5000) n",
    );
    assert_eq!(self::psql(&container, "rescue", sum), expected);
}

/// An engine of its own that speaks TLS, with certificates for it and for its users.
struct Far {
    child: Child,
    bridge: String,
    port: u16,
    folder: TempDir,
}

impl Far {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["authority", "other"] {
            authority(&at(name));
        }
        sign(
            &at("authority"),
            &at("engine"),
            "subjectAltName=IP:127.0.0.1",
        );
        for (users, of) in [("known", "authority"), ("stranger", "other")] {
            sign(&at(of), &at(users), "extendedKeyUsage=clientAuth");
            std::fs::copy(at("authority").join("ca.pem"), at(users).join("ca.pem")).unwrap();
        }
        // One who trusts somebody else, and one who shows nothing.
        sign(
            &at("authority"),
            &at("deceived"),
            "extendedKeyUsage=clientAuth",
        );
        std::fs::copy(at("other").join("ca.pem"), at("deceived").join("ca.pem")).unwrap();
        std::fs::create_dir(at("silent")).unwrap();
        std::fs::copy(at("authority").join("ca.pem"), at("silent").join("ca.pem")).unwrap();
        let port = free_port();
        let of = |name: &str| at("engine").join(name).display().to_string();
        // With none, an engine removes `docker0`, which is another one's. The block is for examples.
        let bridge = format!("k1far{}", std::process::id());
        succeed(as_root("ip").args(["link", "add", &bridge, "type", "bridge"]));
        succeed(as_root("ip").args(["addr", "add", "203.0.113.1/30", "dev", &bridge]));
        let child = as_root("dockerd")
            .args(["--bridge", &bridge, "--iptables=false", "--ip6tables=false"])
            .args(["--ip-forward=false", "--ip-masq=false"])
            .args(["--storage-driver=vfs", "--data-root"])
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"))
            .args(["--tlsverify", "--tlscacert"])
            .arg(at("authority").join("ca.pem"))
            .args(["--tlscert", &of("cert.pem"), "--tlskey", &of("key.pem")])
            .args(["--host", &format!("tcp://127.0.0.1:{port}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(at("log")).unwrap())
            .spawn()
            .unwrap();
        let far = Self {
            child,
            bridge,
            port,
            folder,
        };
        until("the engine answers", || {
            is_open(port)
                && std::fs::read_to_string(far.folder.path().join("log"))
                    .unwrap()
                    .contains("API listen")
        });
        far
    }

    /// What `k1ops logs postgres` says to somebody who has these certificates.
    fn logs(&self, who: &str, variables: &[(&str, &str)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_k1ops"));
        command
            .args(["logs", "postgres"])
            .current_dir(self.folder.path())
            .env_remove("DOCKER_CONTEXT")
            .env("DOCKER_HOST", format!("tcp://127.0.0.1:{}", self.port))
            .env("DOCKER_TLS_VERIFY", "1")
            .env("DOCKER_CERT_PATH", self.folder.path().join(who))
            .envs(variables.iter().copied());
        for (name, value) in variables {
            if value.is_empty() {
                command.env_remove(name);
            }
        }
        command.output().unwrap()
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        let pid = std::fs::read_to_string(self.folder.path().join("pid")).unwrap_or_default();
        let _ = as_root("kill").arg(pid.trim()).status();
        let _ = self.child.wait();
        let _ = as_root("ip").args(["link", "del", &self.bridge]).status();
        // Its files are root's.
        let _ = as_root("rm")
            .args(["-rf", "--"])
            .args([
                self.folder.path().join("data"),
                self.folder.path().join("exec"),
            ])
            .status();
    }
}

fn openssl(arguments: &[&str], folder: &Path) {
    succeed(Command::new("openssl").args(arguments).current_dir(folder));
}

fn authority(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    let name = folder.file_name().unwrap().to_string_lossy();
    openssl(
        &[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            &format!("/CN={name}"),
            "-keyout",
            "ca-key.pem",
            "-out",
            "ca.pem",
        ],
        folder,
    );
}

/// A key and a certificate of this authority, with an extension.
fn sign(authority: &Path, folder: &Path, extension: &str) {
    std::fs::create_dir(folder).unwrap();
    std::fs::write(folder.join("extension"), extension).unwrap();
    openssl(
        &[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/CN=somebody",
            "-keyout",
            "key.pem",
            "-out",
            "request.pem",
        ],
        folder,
    );
    let of = |name: &str| authority.join(name).display().to_string();
    openssl(
        &[
            "x509",
            "-req",
            "-in",
            "request.pem",
            "-days",
            "2",
            "-CA",
            &of("ca.pem"),
            "-CAkey",
            &of("ca-key.pem"),
            "-CAcreateserial",
            "-extfile",
            "extension",
            "-out",
            "cert.pem",
        ],
        folder,
    );
}

#[test]
fn an_engine_behind_tls_and_k1ops_know_each_other_or_do_not_speak() {
    let far = Far::start();
    let reached = "there is no container conductor-postgres";
    assert_says(&far.logs("known", &[]), reached);
    for (who, why) in [
        ("deceived", "UnknownIssuer"),
        ("silent", "received fatal alert"),
        ("stranger", "received fatal alert"),
    ] {
        let output = far.logs(who, &[]);
        assert_code(&output, 3);
        assert!(text(&output).contains(why), "{who}: {}", text(&output));
    }
    // By another name than the certificate's; and without TLS.
    let named = format!("tcp://localhost:{}", far.port);
    assert_says(
        &far.logs("known", &[("DOCKER_HOST", &named)]),
        "certificate not valid for name",
    );
    assert_code(&far.logs("known", &[("DOCKER_TLS_VERIFY", "")]), 3);
    let output = far.logs(
        "known",
        &[
            ("DOCKER_TLS_VERIFY", ""),
            ("DOCKER_HOST", "tcp://192.0.2.1:2375"),
        ],
    );
    assert_code(&output, 3);
    assert_says(&output, "without TLS");

    // A context of Docker's own client.
    let config = far.folder.path().join("config").display().to_string();
    let of = |name: &str| {
        far.folder
            .path()
            .join("known")
            .join(name)
            .display()
            .to_string()
    };
    let docker = format!(
        "host=tcp://127.0.0.1:{},ca={},cert={},key={}",
        far.port,
        of("ca.pem"),
        of("cert.pem"),
        of("key.pem")
    );
    succeed(
        Command::new("docker")
            .args(["context", "create", "far", "--docker", &docker])
            .env("DOCKER_CONFIG", &config)
            .env_remove("DOCKER_HOST"),
    );
    let context = [
        ("DOCKER_HOST", ""),
        ("DOCKER_TLS_VERIFY", ""),
        ("DOCKER_CERT_PATH", ""),
        ("DOCKER_CONFIG", &config),
        ("DOCKER_CONTEXT", "far"),
    ];
    assert_says(&far.logs("known", &context), reached);
    let output = far.logs(
        "known",
        &[&context[..4], &[("DOCKER_CONTEXT", "gone")]].concat(),
    );
    assert_says(&output, "\"gone\"");
}
