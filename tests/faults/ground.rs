//! A stack that faults are injected into: on `SQLite` files, or on a `PostgreSQL` of its own behind
//! a network of its own.

use crate::cluster::{Cluster, program};
use crate::container::Container;
use crate::content::{self, Content};
use crate::proxy::{Proxy, Weather};
use crate::scratch;
use crate::support::Sandbox;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const TABLES: [&str; 4] = [
    "public.task",
    "public.workflow",
    "external.payload",
    "public.log",
];

const SCHEMA: &str = "
CREATE TABLE workflow(id int PRIMARY KEY, name text UNIQUE, body jsonb);
CREATE TABLE task(id bigserial PRIMARY KEY, workflow int REFERENCES workflow, body text);
CREATE INDEX task_body ON task(md5(body));
CREATE SCHEMA external;
CREATE TABLE external.payload(id int PRIMARY KEY, data bytea);
CREATE TABLE log(at timestamptz DEFAULT '2026-01-01', said text);
INSERT INTO workflow SELECT i, 'workflow ' || i, jsonb_build_object('n', i) FROM generate_series(1, 500) i;
INSERT INTO task(workflow, body) SELECT 1 + i % 500, repeat(md5(i::text), 8) FROM generate_series(1, 6000) i;
INSERT INTO external.payload SELECT i, decode(repeat(md5(i::text), 60), 'hex') FROM generate_series(1, 400) i;
INSERT INTO log(said) SELECT 'line ' || i FROM generate_series(1, 2000) i;";

/// Where the data is.
pub enum Store {
    Sqlite,
    Postgres { server: Server, proxy: Proxy },
}

/// Where a `PostgreSQL` runs.
pub enum Server {
    Process(Cluster),
    Container(Container),
}

impl Server {
    fn port(&self) -> u16 {
        match self {
            Self::Process(cluster) => cluster.port,
            Self::Container(container) => container.port,
        }
    }

    /// After a crash or a kill.
    pub fn start_again(&self) {
        match self {
            Self::Process(cluster) => cluster.start_again(),
            Self::Container(container) => container.start_again(),
        }
    }
}

/// A stack, and what is known of it.
pub struct Ground {
    pub folder: Sandbox,
    pub store: Store,
    /// Good archives by name, and what was in the databases when each was taken.
    pub known: BTreeMap<String, Content>,
    /// How long each operation takes when nobody disturbs it.
    pub pace: BTreeMap<&'static str, Duration>,
    changes: u32,
}

/// What a run came to.
pub struct Ended {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
    pub took: Duration,
}

impl Ended {
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }
}

/// A run of k1ops at work, in a process group of its own.
pub struct Running {
    pub child: Child,
    begun: Instant,
    out: PathBuf,
    err: PathBuf,
}

impl Running {
    pub fn is_at_work(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits so long, or until it has ended; `true` if it is still at work.
    pub fn works_for(&mut self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while Instant::now() < until && self.is_at_work() {
            std::thread::sleep(Duration::from_millis(1).min(time));
        }
        self.is_at_work()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end. One that hangs is killed, and its end is then not one of its own.
    pub fn end(mut self) -> Ended {
        let patience = Instant::now() + Duration::from_secs(120);
        while self.is_at_work() {
            if Instant::now() > patience {
                self.signal(rustix::process::Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let status = self.child.wait().unwrap();
        let read = |path: &Path| {
            String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
        };
        Ended {
            status,
            out: read(&self.out),
            err: read(&self.err),
            took: self.begun.elapsed(),
        }
    }
}

impl Ground {
    pub fn sqlite() -> Self {
        let folder = Sandbox::new("tier = 'jar'\n");
        let ground = Self::new(folder, Store::Sqlite);
        for (name, rows) in [("conductor", 300), ("k1", 40)] {
            scratch::fill(&ground.sqlite_file(name), rows);
        }
        ground
    }

    pub fn postgres() -> Self {
        Self::on_server(Server::Process(Cluster::create("", "")))
    }

    pub fn container(image: &str) -> Self {
        Self::on_server(Server::Container(Container::create(image)))
    }

    fn on_server(server: Server) -> Self {
        let proxy = Proxy::before(server.port());
        let url = format!("postgres://postgres@127.0.0.1:{}/faults", proxy.port);
        let folder = Sandbox::new(&format!("tier = 'jar'\n[database]\nurl = '{url}'\n"));
        let ground = Self::new(folder, Store::Postgres { server, proxy });
        ground.psql("postgres", "CREATE DATABASE faults");
        ground.psql("faults", SCHEMA);
        ground
    }

    fn new(folder: Sandbox, store: Store) -> Self {
        Self {
            folder,
            store,
            known: BTreeMap::new(),
            pace: BTreeMap::new(),
            changes: 0,
        }
    }

    pub fn name(&self) -> &'static str {
        match self.store {
            Store::Sqlite => "sqlite",
            Store::Postgres {
                server: Server::Process(_),
                ..
            } => "postgres",
            Store::Postgres { .. } => "container",
        }
    }

    fn sqlite_file(&self, name: &str) -> PathBuf {
        let path = self
            .folder
            .path()
            .join(format!(".conductor/data/{name}.db"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    pub fn backups(&self) -> PathBuf {
        self.folder.path().join(".conductor/backups")
    }

    pub fn proxy(&self) -> &Proxy {
        match &self.store {
            Store::Postgres { proxy, .. } => proxy,
            Store::Sqlite => panic!("an SQLite stack has no network"),
        }
    }

    pub fn server(&self) -> &Server {
        match &self.store {
            Store::Postgres { server, .. } => server,
            Store::Sqlite => panic!("an SQLite stack has no server"),
        }
    }

    pub fn cluster(&self) -> &Cluster {
        match self.server() {
            Server::Process(cluster) => cluster,
            Server::Container(_) => panic!("the processes of a container are its own"),
        }
    }

    /// What `psql` answers, past the network.
    pub fn psql(&self, database: &str, script: &str) -> String {
        let port = self.server().port().to_string();
        let file = self.folder.path().join("script.sql");
        std::fs::write(&file, script).unwrap();
        let output = Command::new(program("psql"))
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1"])
            .args(["-U", "postgres", "-p", &port, "-d", database, "-f"])
            .arg(&file)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What is in the live databases.
    pub fn content(&self) -> Content {
        match &self.store {
            Store::Sqlite => {
                let mut content = content::of_sqlite("conductor", &self.sqlite_file("conductor"));
                content.extend(content::of_sqlite("k1", &self.sqlite_file("k1")));
                content
            }
            Store::Postgres { .. } => {
                content::of_psql(&self.psql("faults", &content::postgres_script(&TABLES)))
            }
        }
    }

    /// Makes the live data differ from all that was.
    pub fn change(&mut self) {
        self.changes += 1;
        let n = self.changes;
        match &self.store {
            Store::Sqlite => {
                for name in ["conductor", "k1"] {
                    let path = self.sqlite_file(name);
                    let connection = k1ops::adapters::sqlite::open_existing(&path).unwrap();
                    let sql = format!(
                        "INSERT INTO pair VALUES ({n}, {n}); DELETE FROM workflow WHERE id % 97 = {n} % 97;"
                    );
                    connection.execute_batch(&sql).unwrap();
                }
            }
            Store::Postgres { .. } => {
                self.psql("faults", &format!(
                    "INSERT INTO log(said) VALUES ('change {n}'); DELETE FROM task WHERE id % 97 = {n} % 97;"
                ));
            }
        }
    }

    /// k1ops with no setting of the caller's.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_k1ops"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("K1OPS_") {
                command.env_remove(name);
            }
        }
        command.current_dir(self.folder.path()).args(arguments);
        command.stdin(Stdio::null()).process_group(0);
        command
    }

    /// Starts a run; what it says goes to files, so that a child that outlives it holds no pipe.
    pub fn start(&self, mut command: Command, name: &str) -> Running {
        let file = |kind: &str| self.folder.path().join(format!("{name}.{kind}"));
        let (out, err) = (file("out"), file("err"));
        command.stdout(File::create(&out).unwrap());
        command.stderr(File::create(&err).unwrap());
        Running {
            begun: Instant::now(),
            child: command.spawn().unwrap(),
            out,
            err,
        }
    }

    /// A run that nobody disturbs.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        self.start(self.command(arguments), "calm").end()
    }

    /// Databases that restores have made and not yet swapped, and files of that kind.
    pub fn unfinished(&self) -> Vec<String> {
        let mut left = Vec::new();
        if let Store::Postgres { .. } = self.store {
            let sql = "SELECT datname FROM pg_database WHERE datname LIKE '%\\_k1ops\\_new\\_%'";
            left.extend(self.psql("postgres", sql).lines().map(str::to_owned));
        }
        let own = self.folder.path().join(".conductor");
        unfinished_files(&own, &mut left);
        left
    }

    /// Databases and folders with kept data.
    pub fn kept(&self) -> usize {
        match self.store {
            Store::Postgres { .. } => {
                let sql =
                    "SELECT datname FROM pg_database WHERE datname LIKE '%\\_k1ops\\_kept\\_%'";
                self.psql("postgres", sql).lines().count()
            }
            Store::Sqlite => {
                let data = self.folder.path().join(".conductor/data");
                let entries = std::fs::read_dir(data).unwrap().flatten();
                entries.filter(|e| e.path().is_dir()).count()
            }
        }
    }
}

fn unfinished_files(folder: &Path, left: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".partial") || name == "new" || name.starts_with(".k1ops-") {
            left.push(path.display().to_string());
        } else if path.is_dir() {
            unfinished_files(&path, left);
        }
    }
}

/// Processes of this group that are still there, told by `/proc`.
pub fn group_members(group: u32) -> Vec<u32> {
    let mut members = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        if fields[0] != "Z" && fields[2].parse() == Ok(group) {
            members.push(pid);
        }
    }
    members
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Store::Postgres { server, proxy } = &self.store {
            proxy.set(Weather::Fair);
            // The cluster stops itself, and wants to be running then.
            if let Server::Process(cluster) = server
                && std::net::TcpStream::connect(("127.0.0.1", cluster.port)).is_err()
            {
                cluster.start_again();
            }
        }
    }
}
