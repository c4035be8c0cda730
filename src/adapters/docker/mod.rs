//! A Docker engine (or Podman behind Docker's API): found, asked, and told what to do. It knows
//! containers, images and volumes by name; it does not know what a stack is.
//!
//! Nothing here waits for ever: an engine that hangs is an error that says so.

mod containers;
mod elsewhere;
mod endpoint;
mod files;
mod images;
mod root_entry;
mod volumes;

pub use containers::{Container, Said, Usage};
pub use elsewhere::{Elsewhere, is_elsewhere, port_here, way_to};
pub use endpoint::{Endpoint, Surroundings, use_context};
pub use files::{Filling, OpenVolume, TarStream, Trial, TrialOf};
pub use images::{BuildContext, Image};
pub use volumes::Volume;

use crate::error::{Error, Result};
use bollard::{API_DEFAULT_VERSION, Docker};
use std::future::Future;
use std::io::ErrorKind as Io;
use std::time::Duration;

/// How long an engine may take to say that it is there.
const HELLO: Duration = Duration::from_secs(5);
/// The same, if it is far away.
const HELLO_FAR: Duration = Duration::from_secs(30);
/// How long an engine may take to answer any other question.
const ANSWER: Duration = Duration::from_secs(45);
/// The API of Docker 20.10, the oldest engine that the Compose file was run on.
const OLDEST_API: (u32, u32) = (1, 41);

/// An engine that answers and is new enough. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    pub(super) docker: Docker,
    endpoint: Box<Endpoint>,
    /// Where its API is spoken on this host.
    address: String,
    version: String,
    id: Option<String>,
    podman: bool,
    rootless: bool,
}

impl Engine {
    /// The engine that this process would use, or why there is none.
    pub async fn find() -> Result<Self> {
        Self::find_in(&Surroundings::of_process()).await
    }

    /// The engine that `surroundings` lead to, or why there is none.
    pub async fn find_in(surroundings: &Surroundings) -> Result<Self> {
        let mut reason: Option<(u8, Error)> = None;
        for endpoint in surroundings.endpoints()? {
            match Self::connect(endpoint).await {
                Ok(engine) => return Ok(engine),
                Err(refusal) => {
                    let known = reason.as_ref().map_or(0, |(weight, _)| *weight);
                    if refusal.weight() > known {
                        reason = Some((refusal.weight(), refusal.error));
                    }
                }
            }
        }
        Err(reason.map_or_else(|| nothing_listens(surroundings), |(_, error)| error))
    }

    async fn connect(endpoint: Endpoint) -> std::result::Result<Self, Refusal> {
        let seconds = ANSWER.as_secs();
        let mut far = None;
        let mut address = endpoint.host.clone();
        let docker = if endpoint.is_elsewhere() {
            let way = elsewhere::socket_to(&endpoint).await;
            let Some((socket, problem)) = way.map_err(Refusal::certain)? else {
                return Err(Refusal::certain(elsewhere_only(&endpoint)));
            };
            far = Some(problem);
            address = format!("unix://{}", socket.display());
            Docker::connect_with_unix(&socket.to_string_lossy(), seconds, API_DEFAULT_VERSION)
        } else if let Some(socket) = endpoint.socket() {
            let path = socket.to_string_lossy().into_owned();
            knock(&endpoint).await?;
            Docker::connect_with_unix(&path, seconds, API_DEFAULT_VERSION)
        } else if endpoint.is_loopback_tcp() {
            Docker::connect_with_http(&endpoint.host, seconds, API_DEFAULT_VERSION)
        } else {
            return Err(Refusal::certain(open_to_all(&endpoint)));
        };
        let docker = docker.map_err(|error| Refusal::certain(silent(&endpoint).because(error)))?;
        let patience = if far.is_some() { HELLO_FAR } else { HELLO };
        let asked = tokio::time::timeout(patience, introduce(docker)).await;
        let Ok(answer) = asked else {
            return Err(Refusal::certain(hangs(&endpoint)));
        };
        let (docker, version, info) = answer.map_err(|error| {
            // What was the matter on the way says more than that the way ended.
            let on_the_way = far.and_then(|problem| problem.take());
            let error = on_the_way.unwrap_or_else(|| error.to_string());
            Refusal::certain(silent(&endpoint).because(error))
        })?;
        let api = version.api_version.unwrap_or_default();
        if !new_enough(&api) {
            return Err(Refusal::certain(too_old(
                &endpoint,
                version.version.as_deref(),
            )));
        }
        let options = info.security_options.unwrap_or_default();
        let names = version.components.unwrap_or_default();
        let podman = names.iter().any(|part| part.name.contains("Podman"));
        Ok(Self {
            docker,
            // Podman calls itself something else each time.
            id: info.id.filter(|id| !id.is_empty() && !podman),
            endpoint: Box::new(endpoint),
            address,
            version: version.version.unwrap_or_default(),
            podman,
            rootless: options
                .iter()
                .any(|option| option.contains("rootless") || option.contains("userns")),
        })
    }

    /// Its address on this host, as `DOCKER_HOST` takes it.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.address
    }

    /// For example `Docker 20.10.24 at unix:///var/run/docker.sock`.
    #[must_use]
    pub fn name(&self) -> String {
        let product = if self.podman { "Podman" } else { "Docker" };
        format!("{product} {} at {}", self.version, self.endpoint.host)
    }

    /// What tells it from every other engine, if it says.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The user numbers inside its containers are not those of this host.
    #[must_use]
    pub fn maps_users(&self) -> bool {
        self.rootless
    }

    /// Fails unless the engine still answers, and soon.
    pub async fn must_answer(&self) -> Result<()> {
        match tokio::time::timeout(HELLO, self.docker.ping()).await {
            Ok(answer) => answer.map(drop).map_err(|e| self.refused("answer", e)),
            Err(_) => Err(hangs(&self.endpoint)),
        }
    }

    /// Runs a request that names what it is about, so that its failure says it too.
    async fn ask<T>(
        &self,
        what: &str,
        request: impl Future<Output = std::result::Result<T, bollard::errors::Error>>,
    ) -> Result<T> {
        // Boxed: the library's futures are large, and every caller's would be as large.
        match tokio::time::timeout(ANSWER, Box::pin(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.refused(what, error)),
            Err(_) => Err(hangs(&self.endpoint)),
        }
    }

    /// The same, where "there is no such thing" is an answer.
    async fn ask_maybe<T>(
        &self,
        what: &str,
        request: impl Future<Output = std::result::Result<T, bollard::errors::Error>>,
    ) -> Result<Option<T>> {
        let request = async {
            match request.await {
                Err(bollard::errors::Error::DockerResponseServerError {
                    status_code: 404, ..
                }) => Ok(None),
                other => other.map(Some),
            }
        };
        self.ask(what, request).await
    }

    fn refused(&self, what: &str, error: bollard::errors::Error) -> Error {
        use bollard::errors::Error as Theirs;
        match error {
            Theirs::RequestTimeoutError => hangs(&self.endpoint),
            Theirs::DockerResponseServerError { message, .. }
            | Theirs::DockerStreamError { error: message } => {
                Error::failed(format!("Docker cannot {what}: {}", message.trim()))
            }
            other => Error::missing(format!(
                "Docker at {} went away, asked to {what}",
                self.endpoint.host
            ))
            .hint("See whether the engine still runs: `docker version`.")
            .because(other),
        }
    }
}

/// Why an endpoint is not used, and whether a socket was there at all.
struct Refusal {
    error: Error,
    absent: bool,
}

impl Refusal {
    fn certain(error: Error) -> Self {
        Self {
            error,
            absent: false,
        }
    }

    /// Of several reasons, one about a socket that exists tells more than one that does not.
    fn weight(&self) -> u8 {
        u8::from(!self.absent)
    }
}

async fn introduce(
    docker: Docker,
) -> std::result::Result<
    (
        Docker,
        bollard::models::SystemVersion,
        bollard::models::SystemInfo,
    ),
    bollard::errors::Error,
> {
    let docker = docker.negotiate_version().await?;
    let version = docker.version().await?;
    let info = docker.info().await?;
    Ok((docker, version, info))
}

/// Connects to the socket once, since only the system call says *why* it cannot be done.
async fn knock(endpoint: &Endpoint) -> std::result::Result<(), Refusal> {
    let Some(socket) = endpoint.socket() else {
        return Ok(());
    };
    let connecting = tokio::net::UnixStream::connect(socket);
    let Ok(connected) = tokio::time::timeout(HELLO, connecting).await else {
        return Err(Refusal::certain(hangs(endpoint)));
    };
    let Err(error) = connected else {
        return Ok(());
    };
    let Endpoint { host, named_by, .. } = endpoint;
    let absent = error.kind() == Io::NotFound && !is_named(named_by);
    let refusal = match error.kind() {
        Io::PermissionDenied => Error::missing(format!(
            "Docker at {host} ({named_by}) refuses this user: permission denied"
        ))
        .hint("Add the user to the group `docker` and log in again, or run k1ops with sudo."),
        _ => Error::missing(format!(
            "Docker at {host} ({named_by}) is not running: {error}"
        ))
        .hint("Start it, for example with `sudo systemctl start docker`."),
    };
    Err(Refusal {
        error: refusal,
        absent,
    })
}

/// A place that the user named is spoken of even when nothing is there.
fn is_named(named_by: &str) -> bool {
    named_by == "DOCKER_HOST" || named_by.starts_with("the Docker context")
}

fn nothing_listens(surroundings: &Surroundings) -> Error {
    let there = ["dockerd", "podman", "docker"]
        .into_iter()
        .find(|name| surroundings.has_program(name));
    match there {
        Some(name) => Error::missing(format!(
            "Docker is not running: `{name}` is installed, but no engine listens on a usual socket"
        ))
        .hint("Start it, for example with `sudo systemctl start docker`, or set DOCKER_HOST."),
        None => Error::missing("Docker is not installed")
            .hint("Install Docker 20.10 or later, or Podman with its socket enabled."),
    }
}

fn hangs(endpoint: &Endpoint) -> Error {
    Error::missing(format!(
        "Docker at {} ({}) does not answer: it hangs",
        endpoint.host, endpoint.named_by
    ))
    .hint("Restart the engine, for example with `sudo systemctl restart docker`.")
}

fn silent(endpoint: &Endpoint) -> Error {
    Error::missing(format!(
        "Docker at {} ({}) does not answer as Docker does",
        endpoint.host, endpoint.named_by
    ))
    .hint("See what `docker version` says.")
}

fn elsewhere_only(endpoint: &Endpoint) -> Error {
    Error::missing(format!(
        "Docker at {} ({}) is on another host: its ports and files are not this host's",
        endpoint.host, endpoint.named_by
    ))
    .hint("Run k1ops on that host for this. A local engine: `docker context use default`.")
}

fn open_to_all(endpoint: &Endpoint) -> Error {
    Error::missing(format!(
        "Docker at {} ({}) is on another host, and is spoken to without TLS",
        endpoint.host, endpoint.named_by
    ))
    .hint("Whoever reaches such an engine is root over there. Use ssh://USER@HOST, or TLS with DOCKER_TLS_VERIFY=1.")
}

fn too_old(endpoint: &Endpoint, version: Option<&str>) -> Error {
    Error::missing(format!(
        "Docker {} at {} is too old",
        version.unwrap_or("(unknown version)"),
        endpoint.host
    ))
    .hint("Update it to 20.10 or later.")
}

fn new_enough(api: &str) -> bool {
    let mut parts = api.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= OLDEST_API
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn only(socket: PathBuf) -> Surroundings {
        Surroundings {
            system_sockets: vec![(socket, "the default socket")],
            ..Surroundings::default()
        }
    }

    async fn reason(surroundings: &Surroundings) -> String {
        let error = Engine::find_in(surroundings).await.unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::Missing);
        error.to_string()
    }

    #[tokio::test]
    async fn each_reason_for_no_engine_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        assert_eq!(
            reason(&only(socket.clone())).await,
            "Docker is not installed"
        );
        // A socket file whose listener has gone is what a stopped engine leaves.
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let said = reason(&only(socket.clone())).await;
        assert!(said.contains("is not running"), "{said}");
        let far = Surroundings {
            variables: [("DOCKER_HOST".to_owned(), "ssh://me@far".to_owned())].into(),
            ..Surroundings::default()
        };
        assert!(reason(&far).await.contains("is on another host"));
    }

    /// The listener is a double of an engine that hangs: it takes the connection and says nothing.
    #[tokio::test(start_paused = true)]
    async fn an_engine_that_never_answers_is_said_to_hang() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let said = reason(&only(socket)).await;
        assert!(said.contains("it hangs"), "{said}");
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(new_enough("1.41") && new_enough("1.50") && new_enough("2.0"));
        assert!(!new_enough("1.40") && !new_enough("1.5") && !new_enough(""));
    }
}
