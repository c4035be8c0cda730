//! An engine on another host, brought to a socket of this process: whatever speaks Docker's API to that socket,
//! this library or Compose, need not know that the engine is far. Ports that its containers publish there are brought
//! to ports of this host in the same way.
//!
//! A command says by [`Elsewhere::allow`] that it can do with such an engine. Without that it is refused, since the
//! engine's files are not this host's.

mod port;
mod ssh;
mod tls;

use super::{Endpoint, Surroundings};
use crate::error::{Context, Error, Result};
use ssh::Ssh;
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tempfile::TempDir;
use tls::Tls;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Mutex as Turn;
use tokio::task::AbortHandle;

/// A connection to the engine.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// The engine elsewhere that this process may use now.
static ALLOWED: Mutex<Weak<Inner>> = Mutex::new(Weak::new());

/// Leave to use an engine elsewhere. Connections and programs that were started for it end with it.
#[derive(Debug)]
pub struct Elsewhere {
    _inner: Option<Arc<Inner>>,
}

impl Elsewhere {
    /// From now on this process may use the engine that its surroundings name, if that is elsewhere.
    #[must_use]
    pub fn allow() -> Self {
        let named = Surroundings::of_process().endpoints().unwrap_or_default();
        let far = named.into_iter().find(Endpoint::is_elsewhere);
        let inner = far.map(|endpoint| {
            Arc::new(Inner {
                endpoint,
                road: Turn::default(),
                ports: Mutex::default(),
                problem: Arc::default(),
            })
        });
        if let Some(inner) = &inner {
            *lock(&ALLOWED) = Arc::downgrade(inner);
        }
        Self { _inner: inner }
    }
}

/// Whether the engine of this process is on another host.
#[must_use]
pub fn is_elsewhere() -> bool {
    lock(&ALLOWED).upgrade().is_some()
}

/// The port of this host that leads to a port which a container publishes: the same one, unless the engine is
/// elsewhere.
#[must_use]
pub fn port_here(published: u16) -> u16 {
    let Some(inner) = lock(&ALLOWED).upgrade() else {
        return published;
    };
    match inner.port(published) {
        Ok(port) => port,
        Err(error) => {
            // What connects there will be told that nobody answers.
            tracing::warn!(%error, "no port leads to {published} of the engine's host");
            published
        }
    }
}

/// How somebody at this host gets to a port of 127.0.0.1 on the engine's host, if that is another one.
#[must_use]
pub fn way_to(published: u16) -> Option<String> {
    let endpoint = &lock(&ALLOWED).upgrade()?.endpoint;
    let host = &endpoint.host;
    let Some(Place { user, host, port }) = Place::of(endpoint)
        .ok()
        .filter(|_| host.starts_with("ssh://"))
    else {
        return Some("it is on 127.0.0.1 of that host alone".to_owned());
    };
    let user = user.map_or_else(String::new, |user| format!("{user}@"));
    let port = port.map_or_else(String::new, |port| format!(" -p {port}"));
    Some(format!(
        "it is on 127.0.0.1 of that host; from here: ssh -N -L {published}:127.0.0.1:{published}{port} {user}{host}"
    ))
}

/// The socket that leads to the engine at `endpoint`; `None` if this process may not use it.
pub(super) async fn socket_to(endpoint: &Endpoint) -> Result<Option<(PathBuf, Problem)>> {
    let allowed = lock(&ALLOWED).upgrade();
    let Some(inner) = allowed.filter(|inner| inner.endpoint == *endpoint) else {
        return Ok(None);
    };
    let socket = inner.socket().await?;
    Ok(Some((socket, Problem(inner.problem.clone()))))
}

/// What was the matter with the last connection that could not be made.
#[derive(Debug, Clone)]
pub(super) struct Problem(Arc<Mutex<Option<String>>>);

impl Problem {
    pub(super) fn take(&self) -> Option<String> {
        lock(&self.0).take()
    }
}

#[derive(Debug)]
struct Inner {
    endpoint: Endpoint,
    road: Turn<Option<Road>>,
    /// Ports of this host by the ports of the engine's host that they lead to.
    ports: Mutex<HashMap<u16, (u16, Ends)>>,
    problem: Arc<Mutex<Option<String>>>,
}

/// A socket whose connections go to the engine.
#[derive(Debug)]
struct Road {
    folder: TempDir,
    _listening: Ends,
}

impl Road {
    fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }
}

/// Ends a task when it is dropped.
#[derive(Debug)]
struct Ends(AbortHandle);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How the engine is reached.
enum Way {
    Ssh(Ssh),
    Tls(Tls),
}

impl Way {
    async fn open(endpoint: &Endpoint, folder: &Path) -> Result<Self> {
        if endpoint.host.starts_with("ssh://") {
            return Ssh::open(endpoint, folder).await.map(Self::Ssh);
        }
        Tls::open(endpoint).map(Self::Tls)
    }

    async fn dial(&self) -> std::io::Result<Box<dyn Stream>> {
        match self {
            Self::Ssh(ssh) => ssh.dial().await,
            Self::Tls(tls) => tls.dial().await,
        }
    }
}

impl Inner {
    /// The socket, made by whoever asks first.
    async fn socket(&self) -> Result<PathBuf> {
        let mut road = self.road.lock().await;
        if let Some(road) = &*road {
            return Ok(road.socket());
        }
        // Its mode is 0700: whoever reaches the socket is root over there.
        let folder = tempfile::Builder::new()
            .prefix("k1ops-docker-")
            .tempdir()
            .context(|| "no folder can be made for the way to the engine")?;
        let way = Arc::new(Way::open(&self.endpoint, folder.path()).await?);
        let socket = folder.path().join("docker.sock");
        let listener = UnixListener::bind(&socket)
            .context(|| format!("{} cannot be made", socket.display()))?;
        let problem = self.problem.clone();
        let listening = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (way, problem) = (way.clone(), problem.clone());
                tokio::spawn(async move {
                    let joined = async {
                        let mut far = way.dial().await?;
                        copy_bidirectional(&mut near, &mut far).await
                    };
                    if let Err(error) = joined.await {
                        tracing::debug!(%error, "a connection to the engine ended");
                        *lock(&problem) = Some(error.to_string());
                    }
                });
            }
        });
        let listening = Ends(listening.abort_handle());
        let made = road.insert(Road {
            folder,
            _listening: listening,
        });
        Ok(made.socket())
    }

    /// A port of this host whose connections go to a port that a container publishes over there.
    fn port(self: &Arc<Self>, published: u16) -> Result<u16> {
        let mut ports = lock(&self.ports);
        if let Some((port, _)) = ports.get(&published) {
            return Ok(*port);
        }
        let cannot = || "no port of this host can be had";
        let listener = std::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            .context(cannot)?;
        listener.set_nonblocking(true).context(cannot)?;
        let port = listener.local_addr().context(cannot)?.port();
        let listener = TcpListener::from_std(listener).context(cannot)?;
        // Weak: a port is no reason to keep the way open.
        let inner = Arc::downgrade(self);
        let listening = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Some(inner) = inner.upgrade() else {
                    return;
                };
                tokio::spawn(async move {
                    let joined = async {
                        let socket = inner.socket().await?;
                        drop(inner);
                        port::join(&socket, published, near).await
                    };
                    if let Err(error) = joined.await {
                        tracing::debug!(%error, "a connection to port {published} over there ended");
                    }
                });
            }
        });
        ports.insert(published, (port, Ends(listening.abort_handle())));
        Ok(port)
    }
}

/// A part of an `ssh://` or `tcp://` address.
struct Place {
    user: Option<String>,
    host: String,
    port: Option<u16>,
}

impl Place {
    fn of(endpoint: &Endpoint) -> Result<Self> {
        let Endpoint { host, named_by, .. } = endpoint;
        let wrong = || {
            Error::usage(format!("{named_by} names {host}, which is no address"))
                .hint("Write ssh://USER@HOST, or tcp://HOST:2376 with TLS.")
        };
        let (_, rest) = host.split_once("://").ok_or_else(wrong)?;
        let rest = rest.trim_end_matches('/');
        let (user, place) = match rest.rsplit_once('@') {
            Some((user, place)) => (Some(user.to_owned()), place),
            None => (None, rest),
        };
        // An IPv6 address is in brackets.
        let (name, port) = match place.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => {
                (name, Some(port.parse().map_err(|_| wrong())?))
            }
            _ => (place, None),
        };
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let plain = |text: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || "._-:%".contains(c);
            !text.is_empty() && !text.starts_with('-') && text.chars().all(known)
        };
        if !plain(name) || user.as_deref().is_some_and(|user| !plain(user)) {
            return Err(wrong());
        }
        Ok(Self {
            user,
            host: name.to_owned(),
            port,
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(host: &str) -> Result<Place> {
        Place::of(&Endpoint::new(host, "DOCKER_HOST"))
    }

    #[test]
    fn addresses_are_taken_apart_and_options_for_ssh_are_none() {
        let found = place("ssh://me@far.example:2222").unwrap();
        assert_eq!(found.user.as_deref(), Some("me"));
        assert_eq!(
            (found.host.as_str(), found.port),
            ("far.example", Some(2222))
        );
        let found = place("tcp://[::1]:2376").unwrap();
        assert_eq!((found.host.as_str(), found.port), ("::1", Some(2376)));
        assert_eq!(place("ssh://far").unwrap().port, None);
        for wrong in [
            "ssh://-oProxyCommand=x",
            "ssh://me@",
            "ssh://far:x",
            "ssh://a b",
        ] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn without_leave_ports_are_what_they_are() {
        assert_eq!(port_here(5432), 5432);
        assert!(!is_elsewhere());
    }
}
