//! The properties a Conductor server is started with. Pure values; who passes them, and how, is
//! not known here.

use std::collections::BTreeMap;
use std::path::Path;

/// Properties by name, sorted.
pub type Properties = BTreeMap<String, String>;

/// What every server of k1ops is started with: one port on `address`, honest health, metrics, and
/// nothing that k1ops does not use.
#[must_use]
pub fn basics(address: &str, port: u16) -> Properties {
    let port = port.to_string();
    properties(&[
        ("server.address", address),
        ("server.port", &port),
        (
            "management.endpoints.web.exposure.include",
            "health,info,prometheus",
        ),
        ("management.endpoint.health.show-details", "always"),
        // Without Elasticsearch its indicator says DOWN, and the whole server with it.
        ("management.health.elasticsearch.enabled", "false"),
        ("conductor.indexing.enabled", "true"),
        // Before 3.22 the Elasticsearch 7 beans come up unless told otherwise.
        ("conductor.elasticsearch.version", "0"),
        ("conductor.app.ownerEmailMandatory", "false"),
        ("conductor.integrations.ai.enabled", "false"),
        ("loadSample", "false"),
        ("spring.main.banner-mode", "off"),
    ])
}

/// Everything in one `SQLite` database, for one server.
#[must_use]
pub fn sqlite(database: &Path) -> Properties {
    let url = format!(
        "jdbc:sqlite:{}?busy_timeout=15000&journal_mode=WAL",
        database.display()
    );
    properties(&[
        ("conductor.db.type", "sqlite"),
        ("conductor.queue.type", "sqlite"),
        ("conductor.indexing.type", "sqlite"),
        ("conductor.workflow-execution-lock.type", "local_only"),
        ("spring.datasource.url", &url),
        // Conductor does not try again on SQLITE_BUSY; one connection cannot be in its own way.
        ("spring.datasource.hikari.maximum-pool-size", "1"),
    ])
}

/// Everything in one `PostgreSQL` database, for one server.
#[must_use]
pub fn postgres(jdbc_url: &str, user: &str) -> Properties {
    properties(&[
        ("conductor.db.type", "postgres"),
        ("conductor.queue.type", "postgres"),
        ("conductor.indexing.type", "postgres"),
        ("conductor.workflow-execution-lock.type", "local_only"),
        ("spring.datasource.url", jdbc_url),
        ("spring.datasource.username", user),
    ])
}

/// The lock on workflows in the Redis at `address` (`redis://HOST:PORT`, or `rediss://` for TLS), which several
/// servers share.
#[must_use]
pub fn lock_in_redis(address: &str, user: Option<&str>, password: Option<&str>) -> Properties {
    let mut lock = properties(&[
        ("conductor.workflow-execution-lock.type", "redis"),
        ("conductor.app.workflowExecutionLockEnabled", "true"),
        ("conductor.redis-lock.serverAddress", address),
    ]);
    let login = [("serverUsername", user), ("serverPassword", password)];
    for (name, value) in login {
        if let Some(value) = value {
            lock.insert(format!("conductor.redis-lock.{name}"), value.to_owned());
        }
    }
    lock
}

/// What is different for a server that is one of several on one database.
pub const ONE_OF_SEVERAL: [(&str, &str); 3] = [
    // A server that is told to stop finishes the requests that it has.
    ("server.shutdown", "graceful"),
    ("spring.lifecycle.timeout-per-shutdown-phase", "20s"),
    // Each keeps task definitions for so long: what one was told, the others know after that.
    ("conductor.postgres.task-def-cache-refresh-interval", "5s"),
];

fn properties(pairs: &[(&str, &str)]) -> Properties {
    pairs
        .iter()
        .map(|&(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}
