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
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio_postgres::error::SqlState;

/// How long a server may take to let somebody in, once it has taken up the connection.
const LET_IN: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 60 });

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
        let config = address.config();
        // The configured limit ends when a socket is connected, which a server that hangs does as well.
        let each = config.get_connect_timeout().copied().unwrap_or_default();
        let places = u32::try_from(config.get_hosts().len()).unwrap_or(1);
        let limit = each.saturating_mul(places).saturating_add(LET_IN);
        let connected = tokio::time::timeout(limit, Box::pin(config.connect(tls))).await;
        let connected = connected.map_err(|_| says_nothing(address, limit))?;
        let (client, connection) = connected.map_err(|error| explain_connect(address, error))?;
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

fn says_nothing(address: &Address, limit: Duration) -> Error {
    Error::missing(format!(
        "PostgreSQL at {} takes up connections and has let nobody in for {} s",
        address.shown(),
        limit.as_secs()
    ))
    .hint("The server hangs, or what listens there is none. Its log and the load of its host may say why.")
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

    /// A double: a real server hangs only where its host does.
    #[tokio::test]
    async fn a_server_that_takes_up_a_connection_and_says_nothing_is_given_up() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = silent.local_addr().unwrap().port();
        let url = format!("postgres://k1@127.0.0.1:{port}/k1?connect_timeout=1&sslmode=disable");
        let address = Address::parse(&crate::config::Secret::new(url), None).unwrap();
        let opening = tokio::time::timeout(Duration::from_secs(60), Session::open(&address));
        let error = opening.await.expect("it gives up by itself").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Missing);
        assert!(
            error.to_string().contains("has let nobody in for 2 s"),
            "{error}"
        );
    }
}
