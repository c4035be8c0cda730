//! A Redis server, asked what it is set to. Nothing is written to it.

use crate::adapters::fs;
use crate::config::{Secret, redact_url};
use crate::error::{Context, Error, ErrorKind, Result};
use redis::{
    AsyncConnectionConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo,
    TlsCertificates,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// What a Redis server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Its version.
    pub version: String,
    /// What it does when memory is short, such as `noeviction`.
    pub eviction: String,
    /// How many keys it has thrown away for want of memory.
    pub evicted: u64,
    /// Whether the last write to disk went well.
    pub saves: bool,
}

/// A server somewhere, and how to log in.
pub struct Address {
    information: ConnectionInfo,
    shown: String,
}

impl Address {
    /// Reads `redis://USER@HOST:PORT` or `rediss://…`; a password that is not in it is read from `password_file`,
    /// if that is set. Errors are usage errors and carry no password.
    pub fn parse(url: &Secret, password_file: Option<&Path>) -> Result<Self> {
        let shown = redact_url(url.expose());
        let is_known = ["redis://", "rediss://"]
            .iter()
            .any(|scheme| url.expose().starts_with(scheme));
        // The parser's own error may repeat the URL, so it is not passed on.
        let parsed = url.expose().into_connection_info().ok();
        let mut information = parsed.filter(|_| is_known).ok_or_else(|| {
            Error::usage(format!("Redis URL {shown} cannot be read")).hint(
                "Write it as redis://HOST:PORT, or rediss:// for TLS, and the password into \
                 redis.password_file.",
            )
        })?;
        if information.redis_settings().password().is_none()
            && let Some(file) = password_file.filter(|f| !f.as_os_str().is_empty())
        {
            let settings = information.redis_settings().clone();
            let settings = settings.set_password(fs::read_password(file)?);
            information = information.set_redis_settings(settings);
        }
        Ok(Self { information, shown })
    }

    /// Without a login, as `redis://HOST:PORT`.
    #[must_use]
    pub fn server(&self) -> String {
        match self.information.addr() {
            ConnectionAddr::TcpTls { host, port, .. } => format!("rediss://{host}:{port}"),
            ConnectionAddr::Tcp(host, port) => format!("redis://{host}:{port}"),
            other => other.to_string(),
        }
    }

    /// Who logs in.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.information.redis_settings().username()
    }

    /// By what.
    #[must_use]
    pub fn password(&self) -> Option<&str> {
        self.information.redis_settings().password()
    }

    /// Fails if the server does not let this login in within `timeout`.
    pub async fn greet(&self, timeout: Duration) -> Result<()> {
        let shown = &self.shown;
        let greeting = async {
            let client = redis::Client::open(self.information.clone())?;
            let mut connection = client.get_multiplexed_async_connection().await?;
            redis::cmd("PING")
                .query_async::<String>(&mut connection)
                .await
        };
        let hint = "Correct redis.url and redis.password_file, or start that server.";
        match tokio::time::timeout(timeout, greeting).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(explain(shown, error).hint(hint)),
            Err(_) => Err(Error::missing(format!(
                "Redis at {shown} takes longer than {:.1} s to answer",
                timeout.as_secs_f64()
            ))
            .hint(hint)),
        }
    }
}

/// Asks the server at 127.0.0.1:`port`, which may take `timeout`.
///
/// With `authority`, the server has to speak TLS and to prove that it is 127.0.0.1 by a certificate of
/// that authority.
pub async fn ask(
    port: u16,
    password: Option<&str>,
    authority: Option<&Path>,
    timeout: Duration,
) -> Result<About> {
    let asking = asked(port, password, authority);
    match tokio::time::timeout(timeout, asking).await {
        Ok(about) => about,
        Err(_) => Err(Error::missing(format!(
            "Redis at 127.0.0.1:{port} takes longer than {:.1} s to answer",
            timeout.as_secs_f64()
        ))),
    }
}

async fn asked(port: u16, password: Option<&str>, authority: Option<&Path>) -> Result<About> {
    let client = client(port, password, authority)?;
    let mut connection = client
        // The caller's limit is the only one: a busy host is no reason to call Redis silent.
        .get_multiplexed_async_connection_with_config(
            &AsyncConnectionConfig::new()
                .set_connection_timeout(None)
                .set_response_timeout(None),
        )
        .await
        .map_err(|error| explain(&here(port), error))?;
    let info: String = redis::cmd("INFO")
        .query_async(&mut connection)
        .await
        .map_err(|error| explain(&here(port), error))?;
    let settings: BTreeMap<String, String> = redis::cmd("CONFIG")
        .arg("GET")
        .arg("maxmemory-policy")
        .query_async(&mut connection)
        .await
        .map_err(|error| explain(&here(port), error))?;
    let field = |name: &str| {
        info.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    Ok(About {
        version: field("redis_version"),
        eviction: settings
            .get("maxmemory-policy")
            .cloned()
            .unwrap_or_default(),
        evicted: field("evicted_keys").parse().unwrap_or(0),
        saves: field("rdb_last_bgsave_status") != "err" && field("aof_last_write_status") != "err",
    })
}

fn client(port: u16, password: Option<&str>, authority: Option<&Path>) -> Result<redis::Client> {
    let cannot = || format!("Redis at 127.0.0.1:{port} cannot be addressed");
    let Some(file) = authority else {
        let address = ConnectionAddr::Tcp("127.0.0.1".to_owned(), port);
        return redis::Client::open(information(address, password)?).context(cannot);
    };
    let address = ConnectionAddr::TcpTls {
        host: "127.0.0.1".to_owned(),
        port,
        insecure: false,
        tls_params: None,
    };
    let root_cert = std::fs::read(file).context_kind(ErrorKind::Usage, || {
        format!("certificate authority {} cannot be read", file.display())
    })?;
    let trusted = TlsCertificates {
        client_tls: None,
        root_cert: Some(root_cert),
    };
    redis::Client::build_with_tls(information(address, password)?, trusted).context(cannot)
}

fn information(address: ConnectionAddr, password: Option<&str>) -> Result<ConnectionInfo> {
    let mut settings = RedisConnectionInfo::default();
    if let Some(password) = password {
        settings = settings.set_password(password);
    }
    Ok(address
        .into_connection_info()
        .context(|| "the address of Redis cannot be read")?
        .set_redis_settings(settings))
}

fn here(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

fn explain(server: &str, error: redis::RedisError) -> Error {
    let text = error.to_string();
    let refused = [
        "WRONGPASS",
        "NOAUTH",
        "AuthenticationFailed",
        "authentication",
        "invalid password",
    ];
    if refused.iter().any(|word| text.contains(word)) {
        return Error::new(
            ErrorKind::Usage,
            format!("Redis at {server} refuses the password"),
        )
        .because(error);
    }
    Error::missing(format!("Redis at {server} does not answer")).because(error)
}
