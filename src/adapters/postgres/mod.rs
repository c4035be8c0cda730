//! `PostgreSQL` by URL: addresses, connections, TLS, the replication protocol, and the server's own
//! `pg_dump`.

mod address;
pub mod admin;
pub mod dump;
pub mod pg_restore;
pub mod replication;
pub mod room;
pub mod standby;
mod tls;

pub use address::Address;

use crate::error::{Context, Error, ErrorKind, Result};
use std::ops::{Deref, DerefMut};
use tokio::task::AbortHandle;
use tokio_postgres::error::SqlState;

/// What has to be escaped in a URL's query, and no harm is done if it is.
const IN_A_QUERY: percent_encoding::AsciiSet = percent_encoding::NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'.')
    .remove(b'_')
    .remove(b'-');

/// One connection. Dropping it closes the connection at once, and the server rolls back whatever
/// was open in it.
#[derive(Debug)]
pub struct Session {
    client: tokio_postgres::Client,
    driver: AbortHandle,
}

impl Session {
    /// Connects to the address's database.
    pub async fn open(address: &Address) -> Result<Self> {
        let tls = tls::connector(address.tls())?;
        let (client, connection) = address
            .config()
            .connect(tls)
            .await
            .map_err(|error| explain_connect(address, error))?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a database connection ended");
            }
        })
        .abort_handle();
        Ok(Self { client, driver })
    }

    /// The major version of the server, such as 15.
    pub async fn major_version(&self) -> Result<u32> {
        let row = self
            .client
            .query_one(
                "SELECT current_setting('server_version_num')::int / 10000",
                &[],
            )
            .await
            .context(|| "the server's version cannot be read")?;
        u32::try_from(row.get::<_, i32>(0)).context(|| "the server's version is not a version")
    }
}

impl Deref for Session {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &Self::Target {
        &self.client
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.client
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// What a server stores of a password, so that the password itself need not be said to it.
#[must_use]
pub fn verifier(password: &str) -> String {
    postgres_protocol::password::scram_sha_256(password.as_bytes())
}

/// `text` as a value in a URL's query.
#[must_use]
pub fn url_encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, &IN_A_QUERY).to_string()
}

/// `name` as an SQL identifier, always quoted.
#[must_use]
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `text` as an SQL string literal under `standard_conforming_strings`.
#[must_use]
pub fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// What the server said, with its detail and hint, for people.
#[must_use]
pub fn server_message(error: &tokio_postgres::Error) -> String {
    let Some(db) = error.as_db_error() else {
        return error.to_string();
    };
    let mut text = format!("{}: {}", db.severity(), db.message());
    for extra in [db.detail(), db.hint()].into_iter().flatten() {
        text.push_str(&format!(" ({extra})"));
    }
    text
}

fn explain_connect(address: &Address, error: tokio_postgres::Error) -> Error {
    let place = address.shown();
    let Some(code) = error.code() else {
        return Error::missing(format!("PostgreSQL at {place} does not answer"))
            .because(error)
            .hint("Check that the server runs and that host and port in database.url are right.");
    };
    let said = server_message(&error);
    if *code == SqlState::INVALID_CATALOG_NAME {
        return Error::missing(format!(
            "database {:?} does not exist at {place}",
            address.database()
        ))
        .hint("Correct the database's name in database.url, or restore a backup to create it.");
    }
    if *code == SqlState::INVALID_PASSWORD || *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION
    {
        return Error::new(
            ErrorKind::Usage,
            format!("PostgreSQL at {place} refused the login: {said}"),
        )
        .hint("Correct user or password in database.url or database.password_file.");
    }
    Error::missing(format!(
        "PostgreSQL at {place} refused the connection: {said}"
    ))
    .hint("Try again when the server is ready; its own log says more.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_survives_quotes() {
        assert_eq!(quote_identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(quote_literal("a'b"), "'a''b'");
    }
}
