//! Databases of a server as a whole: created, renamed, dropped, and who is connected to them.

use super::{Address, Session, quote_identifier, server_message};
use crate::error::{Error, ErrorKind, Result};
use serde::Serialize;
use std::time::{Duration, Instant};
use tokio_postgres::error::SqlState;

/// How long the server may take to give up creating a database.
const CREATING: Duration = Duration::from_secs(30);

/// A session that is connected to a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SessionInfo {
    /// The server process.
    pub pid: i32,
    /// What the client calls itself.
    pub application: String,
    /// Its role.
    pub user: String,
    /// Where it comes from; empty for a local socket.
    pub client: String,
}

/// What the role or the database that is worked from is set to does not govern this work.
const SETTINGS: &str = "SET default_transaction_read_only = off; SET statement_timeout = 0";

/// A connection to a database of the same server other than `not`, for commands that must not run
/// in the database they act on.
pub async fn maintenance(address: &Address, not: &[&str]) -> Result<Session> {
    let mut last = None;
    for name in ["postgres", "template1", address.database()] {
        if not.contains(&name) {
            continue;
        }
        match Session::open(&address.with_database(name)).await {
            Ok(session) => {
                session
                    .batch_execute(SETTINGS)
                    .await
                    .map_err(|e| explain("work from", name, &e))?;
                return Ok(session);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| Error::missing("the server has no database to work from")))
}

/// Whether the server has a database of this name.
pub async fn database_exists(address: &Address, name: &str) -> Result<bool> {
    let session = maintenance(address, &[]).await?;
    let found = session
        .query_opt("SELECT FROM pg_database WHERE datname = $1", &[&name])
        .await
        .map_err(|e| explain("look for", name, &e))?;
    Ok(found.is_some())
}

/// The names of the server's databases that begin with `prefix`.
pub async fn databases_beginning_with(address: &Address, prefix: &str) -> Result<Vec<String>> {
    let session = maintenance(address, &[]).await?;
    let rows = session
        .query(
            "SELECT datname::text FROM pg_database WHERE starts_with(datname::text, $1)",
            &[&prefix],
        )
        .await
        .map_err(|e| explain("look for", prefix, &e))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Renames a database that nobody is connected to.
pub async fn rename_database(address: &Address, from: &str, to: &str) -> Result<()> {
    let sql = format!(
        "ALTER DATABASE {} RENAME TO {}",
        quote_identifier(from),
        quote_identifier(to)
    );
    execute(address, from, "rename", &sql).await
}

/// Drops a database if it is there, or is just being created, ending its sessions.
pub async fn drop_database(address: &Address, name: &str) -> Result<()> {
    end_creation(address, name).await?;
    let sql = format!(
        "DROP DATABASE IF EXISTS {} WITH (FORCE)",
        quote_identifier(name)
    );
    execute(address, name, "drop", &sql).await
}

/// Ends sessions that are creating the database. A client that went away leaves its server process
/// at it, and a database that appears after it was dropped would stay for ever.
async fn end_creation(address: &Address, name: &str) -> Result<()> {
    let session = maintenance(address, &[name]).await?;
    let creating = format!("CREATE DATABASE {} ", quote_identifier(name));
    let begun = Instant::now();
    loop {
        let row = session
            .query_one(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                 WHERE starts_with(query, $1) AND state = 'active' AND pid <> pg_backend_pid()",
                &[&creating],
            )
            .await
            .map_err(|e| explain("end the creation of", name, &e))?;
        if row.get::<_, i64>(0) == 0 {
            return Ok(());
        }
        if begun.elapsed() > CREATING {
            return Err(Error::new(
                ErrorKind::Missing,
                format!("the server does not stop creating database {name:?}"),
            )
            .hint("Try again when it has."));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Who is connected to a database, besides the server's own processes.
pub async fn sessions(address: &Address, name: &str) -> Result<Vec<SessionInfo>> {
    let session = maintenance(address, &[name]).await?;
    let rows = session
        .query(
            "SELECT pid, coalesce(application_name, ''), coalesce(usename, '')::text,
                    coalesce(client_addr::text, '')
             FROM pg_stat_activity
             WHERE datname = $1 AND backend_type = 'client backend' AND pid <> pg_backend_pid()
             ORDER BY pid",
            &[&name],
        )
        .await
        .map_err(|e| explain("list the sessions of", name, &e))?;
    Ok(rows
        .iter()
        .map(|row| SessionInfo {
            pid: row.get(0),
            application: row.get(1),
            user: row.get(2),
            client: row.get(3),
        })
        .collect())
}

/// Ends all sessions of a database and answers how many there were.
pub async fn terminate_sessions(address: &Address, name: &str) -> Result<u64> {
    let session = maintenance(address, &[name]).await?;
    let row = session
        .query_one(
            "SELECT count(pg_terminate_backend(pid, 5000))
             FROM pg_stat_activity
             WHERE datname = $1 AND backend_type = 'client backend' AND pid <> pg_backend_pid()",
            &[&name],
        )
        .await
        .map_err(|e| explain("end the sessions of", name, &e))?;
    Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or_default())
}

async fn execute(address: &Address, name: &str, verb: &str, sql: &str) -> Result<()> {
    let session = maintenance(address, &[name]).await?;
    session
        .batch_execute(sql)
        .await
        .map_err(|e| explain(verb, name, &e))
}

fn explain(verb: &str, name: &str, error: &tokio_postgres::Error) -> Error {
    let said = server_message(error);
    let message = format!("cannot {verb} database {name:?}: {said}");
    match error.code() {
        Some(code) if *code == SqlState::OBJECT_IN_USE => Error::new(ErrorKind::Missing, message)
            .hint("Stop what is connected to it, or add --terminate-sessions."),
        Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => {
            Error::new(ErrorKind::Missing, message)
                .hint("Use a role that owns the database and has CREATEDB, or a superuser.")
        }
        _ => Error::failed(message),
    }
}
