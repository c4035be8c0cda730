//! What several test files stand on: scratch databases on a real PostgreSQL, and scratch folders
//! in which the real binary runs.
//!
//! `K1OPS_TEST_POSTGRES` names a PostgreSQL server by a superuser's URL, such as
//! `postgres://postgres:secret@127.0.0.1:5432/postgres`; `scripts/test` starts one. Without it the
//! tests that need it fail: a skipped test would look like one that passed.

#![allow(dead_code, reason = "each test file uses its own part of this module")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may stop at the first surprise, their helpers too"
)]

use assert_cmd::Command;
use k1ops::adapters::postgres::{Address, Session};
use k1ops::config::Secret;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;

/// The superuser's URL from the environment.
pub fn postgres_url() -> String {
    std::env::var("K1OPS_TEST_POSTGRES").unwrap_or_else(|_| {
        panic!(
            "K1OPS_TEST_POSTGRES is not set: this test needs a real PostgreSQL 15. Run it through \
            `scripts/test`, or set the variable to a superuser's URL such as \
            postgres://postgres:secret@127.0.0.1:5432/postgres"
        )
    })
}

/// An empty database of the test server, dropped together with this value.
#[derive(Debug)]
pub struct ScratchDatabase {
    /// The database's name.
    pub name: String,
    /// The database's URL, password included.
    pub url: String,
}

/// Creates an empty database on the test server.
pub fn scratch_database() -> ScratchDatabase {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("k1ops_test_{}_{number}", std::process::id());
    on_server(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"));
    on_server(&format!(
        "CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'"
    ));
    let server = postgres_url();
    let (base, query) = server.split_once('?').unwrap_or((&server, ""));
    let (base, _) = base.rsplit_once('/').expect("a URL with a database");
    let query = if query.is_empty() {
        String::new()
    } else {
        format!("?{query}")
    };
    let url = format!("{base}/{name}{query}");
    ScratchDatabase { name, url }
}

impl ScratchDatabase {
    /// The database's address.
    pub fn address(&self) -> Address {
        address(&self.url)
    }

    /// Runs SQL statements in the database.
    pub fn run(&self, sql: &str) {
        run_sql(&self.address(), sql);
    }

    /// The first column of every row of a query, as text.
    pub fn column(&self, sql: &str) -> Vec<String> {
        let address = self.address();
        let sql = sql.to_owned();
        elsewhere(async move {
            let session = Session::open(&address).await.unwrap();
            let messages = session.simple_query(&sql).await.unwrap();
            messages
                .iter()
                .filter_map(|message| match message {
                    tokio_postgres::SimpleQueryMessage::Row(row) => {
                        Some(row.get(0).unwrap_or("NULL").to_owned())
                    }
                    _ => None,
                })
                .collect()
        })
    }
}

impl Drop for ScratchDatabase {
    fn drop(&mut self) {
        on_server(&format!(
            "DROP DATABASE IF EXISTS {} WITH (FORCE)",
            self.name
        ));
    }
}

/// Runs SQL statements on the test server as its superuser.
pub fn on_server(sql: &str) {
    run_sql(&address(&postgres_url()), sql);
}

/// The address that a URL names.
pub fn address(url: &str) -> Address {
    Address::parse(&Secret::new(url), None).unwrap()
}

fn run_sql(address: &Address, sql: &str) {
    let (address, sql) = (address.clone(), sql.to_owned());
    elsewhere(async move {
        let session = Session::open(&address).await.unwrap();
        session.batch_execute(&sql).await.unwrap();
    });
}

/// Runs `work` on a thread with a runtime of its own, so that tests may call this from anywhere,
/// from within a runtime and from `drop` too.
fn elsewhere<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(work)
    })
    .join()
    .expect("work in the background")
}

/// A scratch folder with a `k1ops.toml`, in which the real binary runs. Removed when dropped.
#[derive(Debug)]
pub struct Sandbox {
    folder: TempDir,
}

impl Sandbox {
    /// A folder whose `k1ops.toml` holds `config`.
    pub fn new(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("k1ops.toml"), config).unwrap();
        Self { folder }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Where the stack's K1 tables are in tiers 2 and 3.
    pub fn k1_db(&self) -> PathBuf {
        self.path().join(".conductor/data/k1.db")
    }

    /// `k1ops` with these arguments, in this folder, with no setting of the caller's environment.
    pub fn k1ops(&self, arguments: &[&str]) -> Command {
        let mut command = Command::cargo_bin("k1ops").unwrap();
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("K1OPS_") {
                command.env_remove(name);
            }
        }
        command.env("COLUMNS", "120").env_remove("NO_COLOR");
        // A host without Docker, whatever this one has.
        command.env("DOCKER_HOST", "unix:///nowhere/docker.sock");
        command.current_dir(self.path()).args(arguments);
        command
    }
}
