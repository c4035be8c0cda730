//! A stack on a real Docker Swarm, in an engine and a network namespace of its own: it is deployed with two servers
//! on an empty database, does its work behind the balancer, is backed up by k1ops in a container, and comes
//! back equal in another database.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

mod bench;

use bench::{Bench, as_root, assert_code, docker_out, testbed, text};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Servers start both at once, on a host that may be busy.
const UP: Duration = Duration::from_secs(400);

const KEPT: &str = r#"{"name":"kept","version":1,"schemaVersion":2,"ownerEmail":"a@example.org",
    "tasks":[{"name":"t","taskReferenceName":"t","type":"SIMPLE"}]}"#;

/// What tells two databases apart: each table with its rows, but what PostgreSQL counts.
const DIGEST: &str = r"SELECT string_agg(format('%s %s', table_name, md5(query_to_xml(
        format('SELECT * FROM %I t ORDER BY t::text', table_name), true, true, '')::text)), E'\n'
        ORDER BY table_name)
    FROM information_schema.tables WHERE table_schema = 'public' AND table_type = 'BASE TABLE'";

/// An engine that nobody else uses, and whose network nobody else sees: its rules and bridges must not meet those of
/// this host's engine.
struct Swarm {
    folder: tempfile::TempDir,
    engine: Child,
    pid: String,
}

impl Swarm {
    fn begin() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("k1swarm")
            .tempdir()
            .unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("engine.json"), "{}").unwrap();
        let log = std::fs::File::create(path("engine.log")).unwrap();
        let started = format!(
            "ip link set lo up && exec dockerd --bridge none --config-file {} --data-root {} \
             --exec-root {} --pidfile {} --host unix://{}",
            path("engine.json"),
            path("data"),
            path("exec"),
            path("engine.pid"),
            path("engine.sock"),
        );
        let engine = as_root("unshare")
            .args(["--net", "sh", "-c", &started])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut swarm = Self {
            folder,
            engine,
            pid: String::new(),
        };
        let begun = Instant::now();
        while !swarm.docker(&["version"]).status.success() {
            let log = std::fs::read_to_string(swarm.path("engine.log")).unwrap();
            assert!(begun.elapsed() < Duration::from_secs(240), "{log}");
            std::thread::sleep(Duration::from_millis(200));
        }
        let pid = std::fs::read_to_string(swarm.path("engine.pid")).unwrap();
        pid.trim().clone_into(&mut swarm.pid);
        swarm.out(&["swarm", "init", "--advertise-addr", "127.0.0.1"]);
        swarm
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let socket = format!("unix://{}", self.path("engine.sock").display());
        let mut command = Command::new("docker");
        if !rustix::process::geteuid().is_root() {
            command = as_root("docker");
        }
        command.args(["--host", &socket]).args(arguments);
        command
    }

    fn docker(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn out(&self, arguments: &[&str]) -> String {
        let output = self.docker(arguments);
        assert_code(&output, 0);
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn load(&self, images: &[&str]) {
        let mut saved = Command::new("docker")
            .arg("save")
            .args(images)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut load = self.command(&["load", "--quiet"]);
        let loaded = load.stdin(saved.stdout.take().unwrap()).output().unwrap();
        assert_code(&loaded, 0);
        assert!(saved.wait().unwrap().success());
    }

    fn secret(&self, name: &str, value: &str) {
        let file = self.path("secret");
        std::fs::write(&file, value).unwrap();
        self.out(&["secret", "create", name, file.to_str().unwrap()]);
        std::fs::remove_file(file).unwrap();
    }

    /// The container of a service, of several one.
    fn container(&self, service: &str) -> String {
        let filter = format!("name=k1_{service}.");
        let found = self.out(&["ps", "-q", "--filter", &filter]);
        let first = found.lines().next();
        first
            .unwrap_or_else(|| panic!("{}", self.tasks()))
            .to_owned()
    }

    fn tasks(&self) -> String {
        let format = "{{.Name}} {{.CurrentState}} {{.Error}}";
        text(&self.docker(&["stack", "ps", "k1", "--no-trunc", "--format", format]))
    }

    fn until_all_run(&self) {
        let begun = Instant::now();
        let format = "{{.Name}} {{.Replicas}}";
        loop {
            let said = self.out(&["stack", "services", "k1", "--format", format]);
            let runs = |line: &str| {
                let (has, wanted) = line.rsplit_once(' ').unwrap().1.split_once('/').unwrap();
                has == wanted
            };
            if said.lines().count() == 5 && said.lines().all(runs) && self.answers() {
                return;
            }
            assert!(begun.elapsed() < UP, "{said}\n{}", self.tasks());
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// The balancer looks at the servers by itself, and lets nobody through to one before it was found well.
    fn answers(&self) -> bool {
        let asked = self.asked("GET", "/api/metadata/taskdefs", "");
        asked.status.success()
    }

    /// Asks Conductor at the port that the balancer is published at, as this host would.
    fn asked(&self, method: &str, path: &str, body: &str) -> Output {
        let url = format!("http://127.0.0.1:28080{path}");
        let network = format!("--net=/proc/{}/ns/net", self.pid);
        as_root("nsenter")
            .args([
                &network,
                "curl",
                "-fsS",
                "--noproxy",
                "*",
                "-X",
                method,
                &url,
            ])
            .args(["-H", "Content-Type: application/json", "-d", body])
            .output()
            .unwrap()
    }

    /// The same, where it has to be answered well.
    fn http(&self, method: &str, path: &str, body: &str) -> String {
        let output = self.asked(method, path, body);
        assert_code(&output, 0);
        String::from_utf8(output.stdout).unwrap()
    }

    fn sql(&self, database: &str, statement: &str) -> String {
        let postgres = self.container("postgres");
        let psql = [
            "psql",
            "-XqAt",
            "-U",
            "conductor",
            "-d",
            database,
            "-c",
            statement,
        ];
        self.out(&[&["exec", postgres.as_str()][..], &psql].concat())
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        let _ = self.docker(&["stack", "rm", "k1"]);
        for id in text(&self.docker(&["ps", "-aq"])).lines() {
            let _ = self.docker(&["rm", "-f", "-v", id]);
        }
        let _ = self.docker(&["swarm", "leave", "--force"]);
        if !self.pid.is_empty() {
            let _ = as_root("kill").arg(&self.pid).status();
        }
        let _ = self.engine.wait();
        // What the engine wrote may belong to root.
        let folder = self.folder.path().display().to_string();
        let _ = as_root("rm")
            .args(["-rf", "--one-file-system", &folder])
            .status();
    }
}

/// Images of the shared engine that are this test's alone, until it ends.
struct Image(String);

impl Image {
    /// k1ops as `deploy/Dockerfile` packs it, on a base that has PostgreSQL's programs.
    fn of_k1ops(folder: &Path, name: &str) -> Self {
        let strip = Command::new("strip")
            .args(["-o", folder.join("k1ops").to_str().unwrap()])
            .arg(env!("CARGO_BIN_EXE_k1ops"))
            .status();
        assert!(strip.unwrap().success());
        let recipe = format!(
            "FROM {}\nRUN useradd --system --uid 10002 --home-dir /var/lib/k1ops k1ops \\\n \
             && install -d -o k1ops /var/lib/k1ops\nCOPY k1ops /usr/bin/k1ops\nUSER k1ops\n\
             WORKDIR /var/lib/k1ops\nENTRYPOINT [\"k1ops\"]\n",
            testbed("POSTGRES_IMAGE")
        );
        std::fs::write(folder.join("Dockerfile"), recipe).unwrap();
        let built = Command::new("docker")
            .args(["build", "-q", "--network", "none", "-t", name])
            .arg(folder)
            .env("DOCKER_BUILDKIT", "0")
            .output()
            .unwrap();
        assert_code(&built, 0);
        Self(name.to_owned())
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = bench::docker(&["rmi", &self.0]);
    }
}

#[test]
fn a_stack_on_a_swarm_works_and_its_backup_comes_back_equal() {
    // The server's image is built as every stack's is.
    let bench = Bench::with("[server]\nheap = '512m'\n");
    assert_code(&bench.run(&["start", "--wait=false"]), 0);
    assert_code(&bench.run(&["stop"]), 0);
    let format = "{{.Repository}}:{{.Tag}}";
    let server = format!("{}-server", bench.prefix);
    let server = docker_out(&["images", "--format", format, &server]);
    let folder = tempfile::tempdir().unwrap();
    let k1ops = Image::of_k1ops(folder.path(), &format!("{}-k1ops:test", bench.prefix));

    let swarm = Swarm::begin();
    let images = [
        ("K1_SERVER_IMAGE", server.trim().to_owned()),
        ("K1_POSTGRES_IMAGE", testbed("POSTGRES_IMAGE")),
        ("K1_REDIS_IMAGE", testbed("REDIS_IMAGE")),
        ("K1_BALANCER_IMAGE", testbed("HAPROXY_IMAGE")),
        ("K1_K1OPS_IMAGE", k1ops.0.clone()),
    ];
    swarm.load(&images.each_ref().map(|(_, image)| image.as_str()));
    let node = swarm.out(&["node", "ls", "-q"]);
    swarm.out(&["node", "update", "--label-add", "k1.data=true", &node]);
    swarm.secret("k1_postgres_password", "aPostgresPassword7");
    swarm.secret("k1_redis_password", "aRedisPassword7");
    let stack = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/swarm");
    let file = |name: &str| stack.join(name).display().to_string();
    let (all, publish) = (file("k1-stack.yaml"), file("k1-publish.yaml"));
    let deployed = swarm
        .command(&["stack", "deploy", "--resolve-image", "never"])
        .args(["-c", &all, "-c", &publish, "k1"])
        .envs(images)
        .env("K1_SERVER_HEAP", "512m")
        .env("K1_CONDUCTOR_PORT", "28080")
        .output()
        .unwrap();
    assert_code(&deployed, 0);
    swarm.until_all_run();

    swarm.http("POST", "/api/metadata/workflow", KEPT);
    for _ in 0..5 {
        swarm.http("POST", "/api/workflow/kept", "{}");
    }
    is_shut(&swarm);
    comes_back_equal(&swarm);
}

fn is_shut(swarm: &Swarm) {
    let services = swarm.out(&["service", "ls", "-q"]);
    for service in services.lines() {
        let service: Value =
            serde_json::from_str(&swarm.out(&["service", "inspect", service])).unwrap();
        let told = service.to_string();
        assert!(!told.contains("Password7"), "a secret is shown: {told}");
        let name = &service[0]["Spec"]["Name"];
        let container = &service[0]["Spec"]["TaskTemplate"]["ContainerSpec"];
        assert_eq!(container["CapabilityDrop"][0], "ALL", "{name}");
        assert!(
            name == "k1_conductor-server" || container["ReadOnly"] == true,
            "{name}"
        );
        let published = &service[0]["Endpoint"]["Spec"]["Ports"];
        assert!(
            published.is_null() || name == "k1_balancer",
            "{name} {published}"
        );
    }
}

fn comes_back_equal(swarm: &Swarm) {
    let k1ops = swarm.container("k1ops");
    let count = "SELECT count(*) FROM workflow";
    assert_eq!(swarm.sql("conductor", count), "5");
    let backup = swarm.out(&["exec", &k1ops, "k1ops", "backup", "--json"]);
    let backup: Value = serde_json::from_str(&backup).unwrap();
    assert!(backup.to_string().contains("postgres"), "{backup}");
    swarm.sql("conductor", "CREATE DATABASE second");
    let url = "K1OPS_DATABASE_URL=postgres://conductor@postgres:5432/second";
    let restore = ["k1ops", "restore", "latest", "--yes"];
    let restored = swarm.docker(&[&["exec", "-e", url, &k1ops][..], &restore].concat());
    assert_code(&restored, 0);
    assert!(
        text(&restored).contains("equal to the backup"),
        "{}",
        text(&restored)
    );
    assert_eq!(swarm.sql("second", count), "5");
    let (live, second) = (swarm.sql("conductor", DIGEST), swarm.sql("second", DIGEST));
    // What users put there; the servers go on writing into other tables by themselves.
    for of in [
        "workflow ",
        "meta_workflow_def ",
        "workflow_def_to_workflow ",
    ] {
        let rows = |text: &str| {
            text.lines()
                .find(|line| line.starts_with(of))
                .map(str::to_owned)
        };
        assert!(rows(&live).is_some(), "{of} {live}");
        assert_eq!(rows(&live), rows(&second), "{of}");
    }
}
