//! Why a service did not come up: which one, its last lines, and the likely cause.

use super::Service;
use crate::adapters::docker::Engine;
use crate::error::{Error, ErrorKind};
use crate::stack::jar::causes;

/// How many of the last lines are shown.
const SHOWN: usize = 12;
/// How many are searched for the cause.
const SEARCHED: usize = 200;

struct Cause {
    text: &'static str,
    what: &'static str,
    hint: &'static str,
    kind: ErrorKind,
}

/// What the databases and the engine say when something is wrong, the more telling first.
const CAUSES: &[Cause] = &[
    Cause {
        text: "no space left on device",
        what: "the disk is full",
        hint: "Make room where Docker keeps its volumes (`docker system df`), then start again.",
        kind: ErrorKind::Missing,
    },
    Cause {
        text: "database files are incompatible with server",
        what: "the volume belongs to another major version of PostgreSQL",
        hint: "Set docker.postgres_image to the version that made the volume.",
        kind: ErrorKind::BadData,
    },
    Cause {
        text: "password authentication failed",
        what: "the database was made with another password than the one in docker/secrets",
        hint: "Put the right password into docker/secrets/postgres_password.",
        kind: ErrorKind::Refused,
    },
    Cause {
        text: "could not locate a valid checkpoint record",
        what: "the database's files are damaged",
        hint: "Restore a backup with `k1ops restore latest`.",
        kind: ErrorKind::BadData,
    },
    Cause {
        text: "pg_control",
        what: "the database's volume is not a complete database",
        hint: "Restore a backup with `k1ops restore latest`.",
        kind: ErrorKind::BadData,
    },
    Cause {
        text: "bad file format reading the append only file",
        what: "Redis's append-only file is damaged",
        hint: "Redis holds only locks here: `redis-check-aof --fix` on its volume loses nothing \
               that lasts.",
        kind: ErrorKind::BadData,
    },
    Cause {
        text: "vm.max_map_count",
        what: "the host allows Elasticsearch too few memory maps",
        hint: "Run `sudo sysctl -w vm.max_map_count=262144`.",
        kind: ErrorKind::Missing,
    },
    Cause {
        text: "is not readable for",
        what: "the server may not read its configuration in docker/secrets",
        hint: "Run k1ops as the user that made the stack's folder.",
        kind: ErrorKind::Missing,
    },
    Cause {
        text: "port is already allocated",
        what: "a port was taken in the meantime",
        hint: "Free the port, or set another one under [ports] in k1ops.toml.",
        kind: ErrorKind::Missing,
    },
    Cause {
        text: "address already in use",
        what: "a port was taken in the meantime",
        hint: "Free the port, or set another one under [ports] in k1ops.toml.",
        kind: ErrorKind::Missing,
    },
    Cause {
        text: "is already in use by container",
        what: "a container of that name belongs to something else",
        hint: "Set another docker.prefix, or remove that container.",
        kind: ErrorKind::Missing,
    },
];

/// The error for a service that did not come up; `what` says what was seen of it.
pub async fn service(engine: &Engine, container: &str, service: Service, what: &str) -> Error {
    let words = match engine.last_words(container, SEARCHED).await {
        Ok(words) => words,
        // An engine that is gone is the cause itself.
        Err(error) => return error,
    };
    let checked = engine.container(container).await.ok().flatten();
    let mut shown: Vec<String> = words
        .iter()
        .skip(words.len().saturating_sub(SHOWN))
        .cloned()
        .collect();
    if let Some(said) = checked.as_ref().and_then(|c| c.health_said.as_deref())
        && !said.is_empty()
    {
        shown.push(format!("its health check says: {said}"));
    }
    if let Some(error) = checked.and_then(|container| container.error) {
        shown.push(format!("the engine says: {error}"));
    }
    let mut text = words.join("\n");
    text.push_str(&shown.join("\n"));
    let message = format!("{} ({container}) {what}", service.key());
    let error = match likely(&text, service) {
        Some((kind, cause, hint)) => Error::new(kind, format!("{message}: {cause}")).hint(hint),
        None => Error::failed(message).hint(format!(
            "`docker logs {container}` shows everything that it printed."
        )),
    };
    if shown.is_empty() {
        return error;
    }
    error.because(format!(
        "the last lines of {container}:\n    {}",
        shown.join("\n    ")
    ))
}

/// The same error with its likely cause, if what Compose printed tells one.
pub fn compose(error: Error) -> Error {
    let text = format!("{error}\n{}", error.causes().join("\n"));
    match known(&text) {
        Some(cause) => {
            let causes = error.causes().join("\n    ");
            Error::new(cause.kind, format!("{error}: {}", cause.what))
                .hint(cause.hint)
                .because(causes)
        }
        None => error,
    }
}

fn likely(text: &str, service: Service) -> Option<(ErrorKind, &'static str, &'static str)> {
    if let Some(cause) = known(text) {
        return Some((cause.kind, cause.what, cause.hint));
    }
    if service != Service::Server {
        return None;
    }
    causes::likely(text).map(|cause| (cause.kind, cause.what, cause.hint))
}

fn known(text: &str) -> Option<&'static Cause> {
    let text = text.to_lowercase();
    CAUSES.iter().find(|cause| text.contains(cause.text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_messages_tell_their_cause() {
        let said = "FATAL:  database files are incompatible with server";
        let (kind, what, _) = likely(said, Service::Postgres).unwrap();
        assert_eq!(kind, ErrorKind::BadData);
        assert!(what.contains("another major version"));
        let error = compose(
            Error::failed("`docker compose up` failed")
                .because("Bind for 127.0.0.1:5432 failed: port is already allocated"),
        );
        assert_eq!(error.kind(), ErrorKind::Missing);
        assert!(
            error
                .to_string()
                .ends_with("a port was taken in the meantime")
        );
        assert!(likely("all is well", Service::Redis).is_none());
        let java = "java.lang.OutOfMemoryError: Java heap space";
        assert!(likely(java, Service::Server).is_some());
        assert!(likely(java, Service::Redis).is_none());
    }
}
