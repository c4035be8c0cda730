//! Values that become parts of addresses, file names and what other programs are told: they are what
//! they seem, or the configuration is refused before anything runs.

use super::{Config, Monitoring};
use crate::error::{Error, Result};

/// Fails unless every such value is plain.
pub(super) fn check(config: &Config) -> Result<()> {
    let docker = &config.docker;
    for (key, image) in [
        ("docker.postgres_image", &docker.postgres_image),
        ("docker.redis_image", &docker.redis_image),
        ("docker.elasticsearch_image", &docker.elasticsearch_image),
        ("docker.java_image", &docker.java_image),
        ("docker.balancer_image", &docker.balancer_image),
        ("docker.gateway.image", &docker.gateway.image),
    ] {
        require(is_name(image, "._/:@-"), key, image, "the name of an image")?;
    }
    check_monitoring(&docker.monitoring)?;
    require(
        is_name(&docker.prefix, "._-"),
        "docker.prefix",
        &docker.prefix,
        "a name",
    )?;
    let server = &config.server;
    let is_version = is_name(&server.version, "._-+");
    require(is_version, "server.version", &server.version, "a version")?;
    let is_heap = is_name(&server.heap, "");
    require(is_heap, "server.heap", &server.heap, "a size such as 1g")?;
    for mirror in &server.mirrors {
        let shown = super::redact_url(mirror);
        require(is_address(mirror), "server.mirrors", &shown, "an address")?;
    }
    let copies = config.repository.copies.iter().map(|copy| &copy.url);
    for url in copies.chain([&config.repository.url]) {
        let is_one = url.is_empty() || is_address(url.expose());
        require(is_one, "repository.url", &url.to_string(), "an address")?;
    }
    for (key, url) in config.servers_by_url() {
        let is_one = url.is_empty() || is_address(url.expose());
        require(is_one, key, &url.to_string(), "an address")?;
    }
    if docker.gateway.is_configured() {
        docker.gateway.check()?;
    }
    Ok(())
}

fn check_monitoring(monitoring: &Monitoring) -> Result<()> {
    for (name, image) in monitoring.images() {
        let key = format!("docker.{name}");
        let is_one = is_name(image, "._/:@-");
        require(is_one, &key, image, "the name of an image")?;
    }
    let keep = &monitoring.keep;
    let key = "docker.monitoring.keep";
    require(is_name(keep, ""), key, keep, "a time such as 15d")
}

fn require(is_plain: bool, key: &str, value: &str, what: &str) -> Result<()> {
    if is_plain {
        return Ok(());
    }
    Err(Error::usage(format!("{key} is not {what}: {value:?}")).hint(format!("Correct {key}.")))
}

/// Letters and digits, and what else names of this kind may have, but not first.
fn is_name(text: &str, more: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        && !text.contains("..")
}

/// An address whose user and hosts no program could take for an option or a command.
fn is_address(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else {
        // The driver reads other forms as well, and says what is wrong with them.
        return !text.contains(char::is_control);
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (user, hosts) = rest[..end].rsplit_once('@').unwrap_or(("", &rest[..end]));
    let is_host = |host: &str| {
        !host.starts_with('-')
            && host
                .chars()
                .all(|c| c.is_alphanumeric() || "-._:[]%".contains(c))
    };
    is_name(scheme, "+-.")
        && !text.contains(char::is_control)
        && !user.starts_with('-')
        && hosts.split(',').all(is_host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_usual_is_plain() {
        check(&Config::default()).unwrap();
        for good in [
            "postgres://u:p;$(x)@h1:1,h2/d?sslmode=verify-full",
            "postgres://u@[::1]:5432/d",
            "postgres:///d?host=/run/postgresql",
            "postgres://%2Frun%2Fpostgresql/d",
            "sftp://me@host.example.org:22/folder/a b",
            "s3://bucket/folder",
            "https://me:p@dav.example.org/",
        ] {
            assert!(is_address(good), "{good}");
        }
        for good in ["postgres:15-alpine", "a.example.org:5000/x/y@sha256:00"] {
            assert!(is_name(good, "._/:@-"), "{good}");
        }
    }
}
