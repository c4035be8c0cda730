//! Where a database is and how to log in: a URL as `libpq` takes it, and a password from a file.

use super::tls::TlsMode;
use crate::adapters::fs;
use crate::config::{Secret, redact_url};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_postgres::config::{Host, SslMode};

/// A database's address.
#[derive(Clone)]
pub struct Address {
    config: tokio_postgres::Config,
    tls: TlsMode,
    shown: String,
    /// Where it is known to be, if it is reached through another port.
    known_port: Option<u16>,
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Address {
    /// Reads a URL; a password that is not in it is read from `password_file`, if that is set.
    ///
    /// Besides what `tokio_postgres` takes, `sslmode=verify-ca|verify-full` and `sslrootcert=FILE`
    /// are understood. Errors are usage errors and carry no password.
    pub fn parse(url: &Secret, password_file: Option<&Path>) -> Result<Self> {
        let shown = redact_url(url.expose());
        let wrong = |what: &str| {
            Error::usage(format!("database URL {shown} {what}"))
                .hint("Write it as postgres://USER@HOST:PORT/NAME, and the password into database.password_file.")
        };
        if !url.expose().starts_with("postgres://") && !url.expose().starts_with("postgresql://") {
            return Err(wrong("does not begin with postgres://"));
        }
        let (plain, mode, root) = split_tls_parameters(url.expose());
        // The parser's own error may repeat the URL, so it is not passed on.
        let mut config: tokio_postgres::Config =
            plain.parse().map_err(|_| wrong("cannot be read"))?;
        let tls = match mode.as_deref() {
            Some("verify-ca") => TlsMode::VerifyCa(root),
            Some("verify-full") => TlsMode::VerifyFull(root),
            Some(_) | None if root.is_some() => TlsMode::VerifyCa(root),
            _ => TlsMode::Unverified,
        };
        if matches!(mode.as_deref(), Some("verify-ca" | "verify-full")) {
            config.ssl_mode(SslMode::Require);
        }
        if config.get_dbname().is_none() {
            let user = config.get_user().unwrap_or("postgres").to_owned();
            config.dbname(user);
        }
        if config.get_hosts().is_empty() {
            config.host("127.0.0.1");
        }
        if config.get_password().is_none()
            && let Some(file) = password_file.filter(|f| !f.as_os_str().is_empty())
        {
            config.password(fs::read_password(file)?);
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(Duration::from_secs(10));
        }
        config.application_name("k1ops");
        config.keepalives_idle(Duration::from_secs(30));
        Ok(Self {
            config,
            tls,
            shown,
            known_port: None,
        })
    }

    /// The URL of another database on the server that `url` names, with the same login.
    pub fn url_of(url: &Secret, database: &str) -> Result<Secret> {
        let wrong = || Error::usage(format!("database URL {url} cannot be read"));
        let (scheme, rest) = url.expose().split_once("://").ok_or_else(wrong)?;
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, format!("?{query}")),
            None => (rest, String::new()),
        };
        // A password may hold a slash.
        let host = rest.rfind('@').map_or(0, |at| at + 1);
        let end = rest[host..].find('/').map_or(rest.len(), |at| host + at);
        Ok(Secret::new(format!(
            "{scheme}://{}/{database}{query}",
            &rest[..end]
        )))
    }

    /// The same server and login, another database.
    #[must_use]
    pub fn with_database(&self, name: &str) -> Self {
        let mut other = self.clone();
        other.config.dbname(name);
        other.shown = format!("{} (database {name})", self.server_shown());
        other
    }

    /// The database's name.
    #[must_use]
    pub fn database(&self) -> &str {
        self.config.get_dbname().unwrap_or("postgres")
    }

    /// The login's name.
    #[must_use]
    pub fn user(&self) -> &str {
        self.config.get_user().unwrap_or("postgres")
    }

    /// The password, if there is one.
    #[must_use]
    pub fn password(&self) -> Option<String> {
        self.config
            .get_password()
            .map(|p| String::from_utf8_lossy(p).into_owned())
    }

    /// The same with another password.
    #[must_use]
    pub fn with_password(&self, password: &str) -> Self {
        let mut other = self.clone();
        other.config.password(password);
        other
    }

    /// The first host, or the folder of its socket.
    #[must_use]
    pub fn host(&self) -> String {
        match self.config.get_hosts().first() {
            Some(Host::Tcp(host)) => host.clone(),
            Some(Host::Unix(folder)) => folder.display().to_string(),
            None => "127.0.0.1".to_owned(),
        }
    }

    /// The first port, by which the server is known.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.known_port.unwrap_or_else(|| self.real_port())
    }

    /// The port that is connected to.
    fn real_port(&self) -> u16 {
        self.config.get_ports().first().copied().unwrap_or(5432)
    }

    /// The same server, known by another port than the one that leads there for now: what is noted down
    /// about it, and what is shown, has to be right tomorrow.
    #[must_use]
    pub fn known_by_port(mut self, port: u16) -> Self {
        let (real, known) = (format!(":{}", self.real_port()), format!(":{port}"));
        self.shown = self.shown.replacen(&real, &known, 1);
        self.known_port = Some(port);
        self
    }

    /// The URL without its password.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// The environment that makes a program built on `libpq` connect to the same place. The
    /// password goes through the environment, which other users cannot read, never through a
    /// command line.
    #[must_use]
    pub fn libpq_environment(&self) -> Vec<(&'static str, String)> {
        let mut variables = vec![
            ("PGHOST", self.host()),
            ("PGPORT", self.real_port().to_string()),
            ("PGUSER", self.user().to_owned()),
            ("PGDATABASE", self.database().to_owned()),
            ("PGAPPNAME", "k1ops".to_owned()),
            ("PGCONNECT_TIMEOUT", "10".to_owned()),
        ];
        if let Some(numeric) = self.config.get_hostaddrs().first() {
            variables.push(("PGHOSTADDR", numeric.to_string()));
        }
        if let Some(password) = self.password() {
            variables.push(("PGPASSWORD", password));
        }
        let mode = match (&self.tls, self.config.get_ssl_mode()) {
            (TlsMode::VerifyFull(_), _) => "verify-full",
            (TlsMode::VerifyCa(_), _) => "verify-ca",
            (_, SslMode::Disable) => "disable",
            (_, SslMode::Require) => "require",
            _ => "prefer",
        };
        variables.push(("PGSSLMODE", mode.to_owned()));
        if let Some(root) = self.tls.root() {
            variables.push(("PGSSLROOTCERT", root.display().to_string()));
        }
        variables
    }

    /// The JDBC form, without user and password.
    #[must_use]
    pub fn jdbc_url(&self) -> String {
        format!(
            "jdbc:postgresql://{}:{}/{}",
            self.host(),
            self.real_port(),
            self.database()
        )
    }

    pub(super) fn config(&self) -> &tokio_postgres::Config {
        &self.config
    }

    pub(super) fn tls(&self) -> &TlsMode {
        &self.tls
    }

    fn server_shown(&self) -> String {
        format!("{}:{}", self.host(), self.port())
    }
}

/// Takes out what `tokio_postgres` does not know: `verify-*` modes and `sslrootcert`.
fn split_tls_parameters(url: &str) -> (String, Option<String>, Option<PathBuf>) {
    let Some((base, query)) = url.split_once('?') else {
        return (url.to_owned(), None, None);
    };
    let (mut mode, mut root, mut kept) = (None, None, Vec::new());
    for pair in query.split('&') {
        match pair.split_once('=') {
            Some(("sslmode", value)) => {
                mode = Some(value.to_owned());
                if !value.starts_with("verify-") {
                    kept.push(pair);
                }
            }
            Some(("sslrootcert", value)) => {
                let file = percent_encoding::percent_decode_str(value).decode_utf8_lossy();
                root = Some(PathBuf::from(file.as_ref()));
            }
            _ => kept.push(pair),
        }
    }
    (
        if kept.is_empty() {
            base.to_owned()
        } else {
            format!("{base}?{}", kept.join("&"))
        },
        mode,
        root,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn parse(url: &str) -> Result<Address> {
        Address::parse(&Secret::new(url), None)
    }

    #[test]
    fn the_url_of_another_database_keeps_server_login_and_parameters() {
        for (url, other) in [
            (
                "postgres://u:p@h:1/d?sslmode=require",
                "postgres://u:p@h:1/x?sslmode=require",
            ),
            ("postgres://u:a/b@h/d", "postgres://u:a/b@h/x"),
            ("postgres://h", "postgres://h/x"),
        ] {
            let found = Address::url_of(&Secret::new(url), "x").unwrap();
            assert_eq!(found.expose(), other);
        }
        assert!(Address::url_of(&Secret::new("host=h"), "x").is_err());
    }

    #[test]
    fn urls_are_read_and_never_shown_with_a_password() {
        let address =
            parse("postgres://u:p%40w@h:5/d?sslmode=verify-full&sslrootcert=/ca.pem").unwrap();
        assert_eq!(
            (address.user(), address.database(), address.port()),
            ("u", "d", 5)
        );
        assert_eq!(address.password().as_deref(), Some("p@w"));
        assert!(!format!("{address:?}").contains("p%40w"));
        let file = "/a b/c&d?e%f+g.pem";
        let url = format!(
            "postgres://u@h/d?sslmode=verify-full&sslrootcert={}",
            crate::adapters::postgres::url_encoded(file)
        );
        let found = parse(&url).unwrap().libpq_environment();
        assert!(found.contains(&("PGSSLROOTCERT", file.to_owned())));
        let environment = address.libpq_environment();
        assert!(environment.contains(&("PGSSLMODE", "verify-full".to_owned())));
        assert!(environment.contains(&("PGSSLROOTCERT", "/ca.pem".to_owned())));
    }

    #[test]
    fn a_server_behind_another_port_is_known_by_its_own() {
        let address = parse("postgres://u@127.0.0.1:40001/d").unwrap();
        let address = address.known_by_port(5432);
        assert_eq!(address.port(), 5432);
        assert_eq!(address.shown(), "postgres://u@127.0.0.1:5432/d");
        let other = address.with_database("e");
        assert_eq!(other.shown(), "127.0.0.1:5432 (database e)");
        let environment = other.libpq_environment();
        assert!(environment.contains(&("PGPORT", "40001".to_owned())));
    }

    #[test]
    fn wrong_urls_are_usage_errors_without_the_password() {
        for url in [
            "mysql://u:hush@h/d",
            "postgres://u:hush@h:notaport/d",
            "postgres://u:hush@h/d?nosuch=1",
        ] {
            let error = parse(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{url}");
            assert!(
                !format!("{error} {:?}", error.causes()).contains("hush"),
                "{error}"
            );
        }
    }
}
