//! Faults of a PostgreSQL by URL, on real servers.

use super::bed::{Bed, Fault, free_port, mode, prove, runtime};
use super::cluster::{Cluster, as_postgres, program, succeed};
use k1ops::adapters::postgres::{Address, Session};
use k1ops::config::Secret;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

const PASSWORD: &str = "correct-horse-battery-staple";

/// The servers of this test, stopped at its end.
static SERVER: OnceLock<Mutex<Option<Cluster>>> = OnceLock::new();

fn server() -> &'static Mutex<Option<Cluster>> {
    SERVER.get_or_init(|| Mutex::new(Some(new_server(""))))
}

pub fn new_server(settings: &str) -> Cluster {
    let hba = "host all k1app 127.0.0.1/32 scram-sha-256\nhost all \"nobody here\" 127.0.0.1/32 scram-sha-256";
    let server = Cluster::create(
        &format!("max_connections = 30\ntimezone = 'UTC'\n{settings}"),
        hba,
    );
    server.sql(&format!("CREATE ROLE k1app LOGIN PASSWORD '{PASSWORD}'"));
    server
}

/// A stack whose data is in a database of its own on the server.
fn bed() -> Bed {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("f{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let server = server().lock().unwrap();
    let server = server.as_ref().unwrap();
    server.sql(&format!("CREATE DATABASE {name} OWNER k1app"));
    let mut bed = Bed::empty();
    url(&mut bed, "k1app", PASSWORD, server.port, &name);
    bed
}

/// Names the database, with its password in a file.
pub fn url(bed: &mut Bed, user: &str, password: &str, port: u16, database: &str) {
    let file = bed.path().join("password");
    std::fs::write(&file, password).unwrap();
    mode(&file, 0o600);
    bed.config(&format!(
        "[database]\nurl = 'postgres://{user}@127.0.0.1:{port}/{database}'\npassword_file = \
         'password'\n"
    ));
}

fn at(bed: &Bed) -> (u16, String) {
    let text = std::fs::read_to_string(bed.path().join("k1ops.toml")).unwrap();
    let (_, rest) = text.split_once("127.0.0.1:").unwrap();
    let (port, rest) = rest.split_once('/').unwrap();
    (
        port.parse().unwrap(),
        rest.split_once('\'').unwrap().0.to_owned(),
    )
}

/// SQL in the bed's database, as the superuser.
fn sql(bed: &Bed, sql: &str) {
    let (port, database) = at(bed);
    succeed(
        Command::new(program("psql"))
            .args([
                "-X",
                "-q",
                "-v",
                "ON_ERROR_STOP=1",
                "-h",
                "127.0.0.1",
                "-U",
                "postgres",
            ])
            .args(["-p", &port.to_string(), "-d", &database, "-c", sql]),
    );
}

/// A server of the bed's own, for what is not one database's alone.
fn own_server(bed: &mut Bed, settings: &str) {
    let server = new_server(settings);
    url(bed, "k1app", PASSWORD, server.port, "postgres");
    bed.keep(server);
}

#[test]
fn faults_of_postgres_are_named() {
    let result = std::panic::catch_unwind(|| prove(FAULTS, bed));
    // Statics are never dropped, and the server must not outlive the test.
    drop(
        server()
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take(),
    );
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

const FAULTS: &[Fault] = &[
    Fault {
        name: "PostgreSQL is down",
        plant: |bed| url(bed, "k1app", PASSWORD, free_port(), "x"),
        check: "postgres",
        severity: "problem",
        says: "does not answer",
        remedy: "systemctl start postgresql",
        code: 3,
    },
    Fault {
        name: "something else than PostgreSQL is at its port",
        plant: |bed| {
            let port = free_port();
            bed.keep(super::bed::Listener::on("127.0.0.1", port, &[]));
            url(bed, "k1app", PASSWORD, port, "x");
        },
        check: "postgres",
        severity: "problem",
        says: "does not answer within 3 s",
        remedy: "pg_isready",
        code: 3,
    },
    Fault {
        name: "a wrong password",
        plant: |bed| {
            let (port, database) = at(bed);
            url(bed, "k1app", "wrong-password-that-is-long", port, &database);
        },
        check: "postgres",
        severity: "problem",
        says: "refused the login",
        remedy: "\\\\password k1app",
        code: 2,
    },
    Fault {
        name: "a user that does not exist",
        plant: |bed| {
            let (port, database) = at(bed);
            url(bed, "nobody%20here", PASSWORD, port, &database);
        },
        check: "postgres",
        severity: "problem",
        says: "refused the login",
        remedy: "psql -h 127.0.0.1",
        code: 2,
    },
    Fault {
        name: "a database that does not exist",
        plant: |bed| {
            let (port, _) = at(bed);
            url(bed, "k1app", PASSWORD, port, "gone");
        },
        check: "postgres",
        severity: "problem",
        says: "database \"gone\" does not exist",
        remedy: "createdb -h 127.0.0.1",
        code: 3,
    },
    Fault {
        name: "a URL of another database system",
        plant: |bed| bed.config("[database]\nurl = 'mysql://u:hush@h/d'\n"),
        check: "postgres",
        severity: "problem",
        says: "does not begin with postgres://",
        remedy: "k1ops doctor --config",
        code: 2,
    },
    Fault {
        name: "a password file that is not there",
        plant: |bed| std::fs::remove_file(bed.path().join("password")).unwrap(),
        check: "postgres",
        severity: "problem",
        says: "password cannot be read",
        remedy: "k1ops doctor --config",
        code: 2,
    },
    Fault {
        name: "almost no connections left",
        plant: |bed| {
            let (port, database) = at(bed);
            let url = format!("postgres://postgres@127.0.0.1:{port}/{database}");
            let address = Address::parse(&Secret::new(url), None).unwrap();
            let runtime = runtime();
            let sessions: Vec<Session> = (0..25)
                .map(|_| runtime.block_on(Session::open(&address)).unwrap())
                .collect();
            bed.keep((sessions, runtime));
        },
        check: "postgres",
        severity: "warning",
        says: "of PostgreSQL's 30 connections are in use",
        remedy: "pg_stat_activity",
        code: 0,
    },
    Fault {
        name: "a replication slot that was left behind",
        plant: |bed| {
            own_server(bed, "");
            sql(
                bed,
                "SELECT pg_create_physical_replication_slot('left_behind', true)",
            );
        },
        check: "replication",
        severity: "warning",
        says: "replication slot left_behind is not used",
        remedy: "pg_drop_replication_slot",
        code: 0,
    },
    Fault {
        name: "transaction numbers that run out",
        plant: |bed| {
            let server = new_server("autovacuum = off\nautovacuum_freeze_max_age = 2000000000");
            age(&server, 1_200_000_000);
            url(bed, "k1app", PASSWORD, server.port, "postgres");
            bed.keep(server);
        },
        check: "wraparound",
        severity: "warning",
        says: "transactions left before it takes no more writes",
        remedy: "vacuumdb -h 127.0.0.1",
        code: 0,
    },
    Fault {
        name: "a bloated queue",
        plant: |bed| {
            sql(
                bed,
                "CREATE TABLE queue_message(queue_name text, message_id text) WITH \
                 (autovacuum_enabled = false); INSERT INTO queue_message SELECT 'q', g::text FROM \
                 generate_series(1, 30000) g; DELETE FROM queue_message;",
            );
        },
        check: "bloat",
        severity: "warning",
        says: "table queue_message is bloated: 30000 dead rows",
        remedy: "VACUUM (ANALYZE)",
        code: 0,
    },
    Fault {
        name: "a migration of Conductor's that failed",
        plant: |bed| {
            sql(
                bed,
                "CREATE TABLE flyway_schema_history(installed_rank int, version text, description \
                 text, success bool); GRANT SELECT ON flyway_schema_history TO k1app; INSERT INTO \
                 flyway_schema_history VALUES (1, '1', 'initial', true), (2, '2', 'queue', false)",
            );
        },
        check: "schema",
        severity: "problem",
        says: "Conductor's migration 2 (queue) has failed",
        remedy: "k1ops restore latest",
        code: 4,
    },
    Fault {
        name: "a database in another time zone",
        plant: |bed| {
            let (_, database) = at(bed);
            sql(
                bed,
                &format!("ALTER DATABASE {database} SET timezone = 'Asia/Tokyo'"),
            );
        },
        check: "clock",
        severity: "warning",
        says: "writes times in the zone Asia/Tokyo",
        remedy: "SET timezone = 'UTC'",
        code: 0,
    },
    Fault {
        name: "a server that lets everybody in",
        plant: |bed| {
            let (port, database) = at(bed);
            bed.config(&format!(
                "[database]\nurl = 'postgres://postgres@127.0.0.1:{port}/{database}'\n"
            ));
        },
        check: "passwords",
        severity: "warning",
        says: "PostgreSQL lets postgres in without a password",
        remedy: "scram-sha-256",
        code: 0,
    },
    Fault {
        name: "a usual password",
        plant: |bed| {
            let (port, database) = at(bed);
            sql(bed, "CREATE ROLE conductor LOGIN PASSWORD 'conductor'");
            url(bed, "conductor", "conductor", port, &database);
        },
        check: "passwords",
        severity: "warning",
        says: "the password of PostgreSQL is the user's name",
        remedy: "openssl rand",
        code: 0,
    },
    Fault {
        name: "a server that listens on all addresses",
        plant: |bed| {
            let open = Open::start();
            url(bed, "k1app", PASSWORD, open.port, "postgres");
            bed.keep(open);
        },
        check: "exposure",
        severity: "warning",
        says: "PostgreSQL listens on all addresses",
        remedy: "ALTER SYSTEM SET listen_addresses",
        code: 0,
    },
    Fault {
        name: "no pg_dump",
        plant: |bed| bed.set("K1OPS_DATABASE_PG_DUMP", "/nowhere/pg_dump"),
        check: "pg_dump",
        severity: "problem",
        says: "pg_dump",
        remedy: "install postgresql-client-15",
        code: 3,
    },
    Fault {
        name: "a password in a file that the group may read",
        plant: |bed| mode(&bed.path().join("password"), 0o640),
        check: "permissions",
        severity: "problem",
        says: "holds a password, and its group may read it",
        remedy: "chmod 600 ",
        code: 1,
    },
    Fault {
        name: "a password in a configuration that everybody may read",
        plant: |bed| {
            let (port, database) = at(bed);
            bed.config(&format!(
                "[database]\nurl = 'postgres://k1app:{PASSWORD}@127.0.0.1:{port}/{database}'\n"
            ));
            mode(&bed.path().join("k1ops.toml"), 0o644);
        },
        check: "permissions",
        severity: "problem",
        says: "k1ops.toml holds a password, and everybody on this host may read it",
        remedy: "chmod 600 ",
        code: 1,
    },
];

/// Sets a server forward by this many transactions, and starts it again.
fn age(server: &Cluster, by: u64) {
    let pg_ctl = |words: &[&str]| {
        let status = as_postgres("pg_ctl")
            .args(words)
            .arg("--pgdata")
            .arg(&server.data)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
    };
    let options = std::fs::read_to_string(server.data.join("postmaster.opts")).unwrap();
    pg_ctl(&["stop", "--wait", "--mode=fast", "--silent"]);
    succeed(
        as_postgres("pg_resetwal")
            .args(["-x", &by.to_string()])
            .arg(&server.data),
    );
    // The commit log of these transactions has to be there: 2^20 of them to a file of 256 KiB.
    let segment = server
        .data
        .join("pg_xact")
        .join(format!("{:04X}", by >> 20));
    std::fs::write(&segment, vec![0; 256 << 10]).unwrap();
    super::cluster::give_to_postgres(&segment);
    let (_, options) = options.split_once("\"-p\"").unwrap();
    let options = format!("-p {}", options.replace('"', ""));
    let log = server.socket_folder().join("log");
    pg_ctl(&[
        "start",
        "--wait",
        "--silent",
        "--options",
        options.trim(),
        "--log",
        log.to_str().unwrap(),
    ]);
}

/// A server that listens on all addresses of this host.
struct Open {
    port: u16,
    folder: tempfile::TempDir,
}

impl Open {
    fn start() -> Self {
        let folder = super::cluster::scratch_folder();
        let data = folder.path().join("data");
        succeed(
            as_postgres("initdb")
                .args([
                    "--auth=trust",
                    "--username=postgres",
                    "--no-sync",
                    "--pgdata",
                ])
                .arg(&data),
        );
        let port = free_port();
        let options = format!(
            "-p {port} -c listen_addresses='*' -c unix_socket_directories={}",
            folder.path().display()
        );
        let log = folder.path().join("log");
        let started = as_postgres("pg_ctl")
            .args([
                "start",
                "--wait",
                "--silent",
                "--options",
                &options,
                "--log",
            ])
            .arg(log)
            .arg("--pgdata")
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status();
        assert!(started.unwrap().success());
        let open = Self { port, folder };
        succeed(
            Command::new(program("psql"))
                .args([
                    "-h",
                    "127.0.0.1",
                    "-U",
                    "postgres",
                    "-p",
                    &port.to_string(),
                    "-c",
                ])
                .arg(format!("CREATE ROLE k1app LOGIN PASSWORD '{PASSWORD}'")),
        );
        open
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let _ = as_postgres("pg_ctl")
            .args(["stop", "--wait", "--mode=immediate", "--silent", "--pgdata"])
            .arg(self.folder.path().join("data"))
            .stdin(Stdio::null())
            .output();
    }
}
