//! Faults of Docker and tier 1, on a real engine. `scripts/testbed env` prints the variables that
//! name the images; without them these tests fail. Everything is made under a prefix of its own and
//! removed again. The one double is a socket that takes a connection and never answers.

use super::bed::{Bed, Fault, free_port, mode, prove, succeed};
use super::patience::until;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

pub fn testbed(part: &str) -> String {
    let name = format!("K1OPS_TESTBED_{part}");
    std::env::var(&name).unwrap_or_else(|_| {
        panic!(
            "{name} is not set: this test needs a real Docker engine and images. Run it through \
             `scripts/test`, or: scripts/testbed && eval \"$(scripts/testbed env)\""
        )
    })
}

/// A stack of tier 1 that was never started, under a prefix of its own.
pub fn bed() -> Bed {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    // Two digits, since what is called like a prefix goes with it: the first is no beginning of the tenth.
    let prefix = format!("k1doc{}n{number:02}", std::process::id());
    let mut bed = Bed::empty();
    bed.whole_config(&format!(
        "tier = 'docker'\n[ports]\nconductor = {}\npostgres = {}\nredis = {}\n[docker]\nprefix = \
         '{prefix}'\npostgres_image = '{}'\nredis_image = '{}'\njava_image = '{}'\n",
        bed.port,
        free_port(),
        free_port(),
        testbed("POSTGRES_IMAGE"),
        testbed("REDIS_IMAGE"),
        testbed("JAVA_IMAGE"),
    ));
    bed.keep(Prefix(prefix));
    bed
}

/// What was made under a prefix, removed when it is dropped.
struct Prefix(String);

impl Drop for Prefix {
    fn drop(&mut self) {
        for (list, remove) in [
            (vec!["ps", "-aq"], vec!["rm", "-f", "-v"]),
            (vec!["volume", "ls", "-q"], vec!["volume", "rm"]),
            (vec!["network", "ls", "-q"], vec!["network", "rm"]),
        ] {
            let filter = format!("name={}", self.0);
            let listed = Command::new("docker")
                .args(list)
                .args(["--filter", &filter])
                .output();
            for id in String::from_utf8(listed.unwrap().stdout).unwrap().lines() {
                let _ = Command::new("docker").args(&remove).arg(id).output();
            }
        }
    }
}

fn docker(words: &[&str]) -> String {
    succeed(Command::new("docker").args(words))
}

fn value(bed: &Bed, key: &str) -> String {
    let text = std::fs::read_to_string(bed.path().join("k1ops.toml")).unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("{key} = ")));
    let (_, value) = line.unwrap().split_once(" = ").unwrap();
    value.trim_matches('\'').to_owned()
}

/// Runs a container under the bed's prefix; answers its name.
pub fn run(bed: &Bed, name: &str, options: &[&str], image: &str, command: &[&str]) -> String {
    let prefix = value(bed, "prefix");
    let name = format!("{prefix}-{name}");
    let network = format!("{prefix}-network");
    if docker(&[
        "network",
        "ls",
        "-q",
        "--filter",
        &format!("name={network}"),
    ])
    .is_empty()
    {
        docker(&["network", "create", &network]);
    }
    let mut words = vec!["run", "-d", "--network", &network, "--name", &name];
    words.extend(options);
    words.push(image);
    words.extend(command);
    docker(&words);
    name
}

/// A Redis that is the stack's, with a line of its configuration.
fn redis(bed: &Bed, line: &str, password: &str) {
    let port = value(bed, "redis");
    let secrets = bed.own("docker/secrets");
    std::fs::create_dir_all(&secrets).unwrap();
    for (file, text) in [
        ("postgres_password", "a-long-password-of-its-own".to_owned()),
        ("redis.conf", format!("requirepass {password}\n")),
    ] {
        std::fs::write(secrets.join(file), text).unwrap();
        mode(&secrets.join(file), 0o600);
    }
    let publish = format!("127.0.0.1:{port}:6379");
    let script =
        format!("printf 'requirepass the-password-that-it-has\\n{line}\\n' | redis-server - ");
    let image = testbed("REDIS_IMAGE");
    let name = run(
        bed,
        "redis",
        &["-p", &publish],
        &image,
        &["sh", "-c", &script],
    );
    until("Redis answers", || {
        let ping = [
            "exec",
            &name,
            "redis-cli",
            "-a",
            "the-password-that-it-has",
            "ping",
        ];
        let said = Command::new("docker").args(ping).output().unwrap();
        said.stdout.starts_with(b"PONG")
    });
}

#[test]
fn faults_of_docker_are_named() {
    prove(FAULTS, bed);
}

const FAULTS: &[Fault] = &[
    Fault {
        name: "no engine at DOCKER_HOST",
        plant: |bed| bed.set("DOCKER_HOST", "unix:///nowhere/docker.sock"),
        check: "docker",
        severity: "problem",
        says: "Docker",
        remedy: "docker version",
        code: 3,
    },
    Fault {
        name: "an engine that hangs",
        plant: |bed| {
            let socket = bed.path().join("stuck.sock");
            bed.keep(UnixListener::bind(&socket).unwrap());
            bed.set("DOCKER_HOST", &format!("unix://{}", socket.display()));
        },
        check: "docker",
        severity: "problem",
        says: "stuck.sock",
        remedy: "docker version",
        code: 3,
    },
    Fault {
        name: "no Compose",
        plant: |bed| bed.set("K1OPS_DOCKER_COMPOSE", "no-such-compose"),
        check: "compose",
        severity: "problem",
        says: "`no-such-compose` is not a Docker Compose that runs here",
        remedy: "docker-compose-plugin",
        code: 3,
    },
    Fault {
        name: "a Compose that is too old",
        plant: |bed| {
            bed.program("old-compose", "echo 1.24.0");
            bed.set("K1OPS_DOCKER_COMPOSE", "old-compose");
        },
        check: "compose",
        severity: "problem",
        says: "1.24.0 is too old",
        remedy: "1.28 or later",
        code: 3,
    },
    Fault {
        name: "a container on the port",
        plant: |bed| {
            let publish = format!("127.0.0.1:{}:80", bed.port);
            let label = "com.docker.compose.project=blog";
            let image = testbed("REDIS_IMAGE");
            let options = ["-p", &publish, "--label", label];
            run(bed, "other", &options, &image, &["sleep", "600"]);
        },
        check: "ports",
        severity: "problem",
        says: "-other of Compose project blog",
        remedy: "docker stop ",
        code: 3,
    },
    Fault {
        name: "another k1ops stack's container on the port",
        plant: |bed| {
            let publish = format!("127.0.0.1:{}:8080", bed.port);
            let folder = "/srv/elsewhere/.conductor/docker";
            let label = format!("com.docker.compose.project.working_dir={folder}");
            let image = testbed("REDIS_IMAGE");
            let options = ["-p", &publish, "--label", &label];
            run(bed, "theirs", &options, &image, &["sleep", "600"]);
        },
        check: "ports",
        severity: "problem",
        says: "another k1ops stack, the one in /srv/elsewhere",
        remedy: "k1ops stop --config /srv/elsewhere/k1ops.toml",
        code: 3,
    },
    Fault {
        name: "two services on one port",
        plant: |bed| {
            let redis = value(bed, "redis");
            bed.set("K1OPS_PORTS_POSTGRES", &redis);
        },
        check: "ports",
        severity: "problem",
        says: "ports.postgres and ports.redis are both",
        remedy: "export K1OPS_PORTS_REDIS=",
        code: 2,
    },
    Fault {
        name: "an image that is not there",
        plant: |bed| bed.set("K1OPS_DOCKER_REDIS_IMAGE", "k1ops-testbed/never-made:1"),
        check: "images",
        severity: "note",
        says: "2 images are not on this engine yet",
        remedy: "k1ops start",
        code: 0,
    },
    Fault {
        name: "the kernel's limit of memory maps",
        plant: |bed| {
            bed.set("K1OPS_DOCKER_ELASTICSEARCH", "true");
            bed.keep(MapCount::lowered());
        },
        check: "kernel",
        severity: "problem",
        says: "and Elasticsearch needs 262144",
        remedy: "sudo sysctl -w vm.max_map_count=262144",
        code: 3,
    },
    Fault {
        name: "a volume of another PostgreSQL",
        plant: |bed| {
            let volume = format!("{}_postgres_data", value(bed, "prefix"));
            let mount = format!("{volume}:/data");
            let image = testbed("REDIS_IMAGE");
            let script = "echo 14 > /data/PG_VERSION";
            docker(&[
                "run",
                "--rm",
                "--network",
                "none",
                "-v",
                &mount,
                &image,
                "sh",
                "-c",
                script,
            ]);
        },
        check: "volume",
        severity: "problem",
        says: "is of PostgreSQL 14, and image",
        remedy: "export K1OPS_DOCKER_POSTGRES_IMAGE=postgres:14-alpine",
        code: 4,
    },
    Fault {
        name: "a Redis that throws locks away",
        plant: |bed| {
            redis(
                bed,
                "maxmemory-policy allkeys-lru",
                "the-password-that-it-has",
            );
        },
        check: "redis",
        severity: "problem",
        says: "throws keys away when memory is short (allkeys-lru)",
        remedy: "CONFIG SET maxmemory-policy noeviction",
        code: 2,
    },
    Fault {
        name: "a Redis with another password",
        plant: |bed| redis(bed, "", "the-password-that-is-configured"),
        check: "redis",
        severity: "problem",
        says: "refuses the password",
        remedy: "docker restart ",
        code: 2,
    },
    Fault {
        name: "a container that ended while others run",
        plant: |bed| {
            let image = testbed("REDIS_IMAGE");
            run(bed, "server", &[], &image, &["sleep", "600"]);
            let name = run(bed, "redis", &[], &image, &["sh", "-c", "exit 3"]);
            until("it ends", || {
                docker(&["inspect", "-f", "{{.State.Status}}", &name]).starts_with("exited")
            });
        },
        check: "containers",
        severity: "problem",
        says: "-redis does not run (exited), while others of the stack do",
        remedy: "docker logs --tail 50 ",
        code: 1,
    },
    Fault {
        name: "a container that is not well",
        plant: |bed| {
            let image = testbed("REDIS_IMAGE");
            let check = [
                "--health-cmd",
                "exit 1",
                "--health-interval",
                "1s",
                "--health-retries",
                "1",
            ];
            let name = run(bed, "redis", &check, &image, &["sleep", "600"]);
            until("it is unhealthy", || {
                docker(&["inspect", "-f", "{{.State.Health.Status}}", &name])
                    .starts_with("unhealthy")
            });
        },
        check: "containers",
        severity: "problem",
        says: "-redis runs but is unhealthy",
        remedy: "docker logs --tail 50 ",
        code: super::bed::ANY_PROBLEM,
    },
    Fault {
        name: "a container that is started over and over",
        plant: |bed| {
            let image = testbed("REDIS_IMAGE");
            let name = run(
                bed,
                "redis",
                &["--restart", "always"],
                &image,
                &["sh", "-c", "exit 1"],
            );
            // Its pauses grow: by then one is of 13 s, in which a busy host has looked as well.
            until("it was restarted", || {
                let format = "{{.State.Status}} {{.RestartCount}}";
                let said = docker(&["inspect", "-f", format, &name]);
                let (state, count) = said.trim().split_once(' ').unwrap();
                state == "restarting" && count.parse::<u32>().unwrap() >= 7
            });
        },
        check: "containers",
        severity: "problem",
        says: "-redis is restarted over and over",
        remedy: "docker logs --tail 50 ",
        code: 1,
    },
    Fault {
        name: "a port that is open to the world",
        plant: |bed| {
            let publish = format!("0.0.0.0:{}:6379", value(bed, "redis"));
            let image = testbed("REDIS_IMAGE");
            run(bed, "redis", &["-p", &publish], &image, &["sleep", "600"]);
        },
        check: "exposure",
        severity: "problem",
        says: "is open to other hosts",
        remedy: "Write 127.0.0.1: before the port",
        code: super::bed::ANY_PROBLEM,
    },
    Fault {
        name: "a container in another time zone",
        plant: |bed| {
            let image = testbed("REDIS_IMAGE");
            run(
                bed,
                "server",
                &["-e", "TZ=JST-9"],
                &image,
                &["sleep", "600"],
            );
        },
        check: "clock",
        severity: "warning",
        says: "-server runs in the zone +0900",
        remedy: "Remove TZ",
        code: 0,
    },
];

/// The kernel's limit, too low for Elasticsearch, and as before when it is dropped.
struct MapCount(Option<u64>);

impl MapCount {
    fn lowered() -> Self {
        let name = "/proc/sys/vm/max_map_count";
        let now: u64 = std::fs::read_to_string(name)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        if now < 262_144 {
            return Self(None);
        }
        Self::set(65530);
        Self(Some(now))
    }

    fn set(value: u64) {
        let setting = format!("vm.max_map_count={value}");
        succeed(&mut super::bed::as_root(&["sysctl", "-q", "-w", &setting]));
    }
}

impl Drop for MapCount {
    fn drop(&mut self) {
        if let Some(before) = self.0 {
            Self::set(before);
        }
    }
}
