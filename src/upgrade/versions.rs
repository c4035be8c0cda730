//! Which version of each part of a stack the configuration names, and which is asked for instead. What
//! is done to get there is not known here.

use crate::config::{Config, Loaded, Origin, with_value};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A part of tier 1 that has an image of its own, or is built on one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageOf {
    /// The database.
    Postgres,
    /// The locks.
    Redis,
    /// The search index.
    Elasticsearch,
    /// The Java that the server's image begins with.
    Java,
}

/// An image that is to take the place of another: `postgres=postgres:15.9-alpine`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewImage {
    of: ImageOf,
    image: String,
}

impl FromStr for NewImage {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::usage(format!(
                "{text:?} does not name an image of postgres, redis, elasticsearch or java"
            ))
            .hint("Write it as in postgres=postgres:15.9-alpine.")
        };
        let (part, image) = text.split_once('=').ok_or_else(wrong)?;
        let of = match part {
            "postgres" => ImageOf::Postgres,
            "redis" => ImageOf::Redis,
            "elasticsearch" => ImageOf::Elasticsearch,
            "java" => ImageOf::Java,
            _ => return Err(wrong()),
        };
        if image.is_empty() || image.contains(char::is_whitespace) {
            return Err(wrong());
        }
        Ok(Self {
            of,
            image: image.to_owned(),
        })
    }
}

/// What is asked for; what is not named stays.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// A boot JAR of the server.
    pub jar: Option<PathBuf>,
    /// Its SHA-256 in hex.
    pub jar_sha256: Option<String>,
    /// Conductor's version.
    pub server_version: Option<String>,
    /// Images of tier 1.
    pub images: Vec<NewImage>,
}

/// Every setting that says what runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// `server.version`.
    pub server: String,
    /// `server.jar`.
    pub jar: PathBuf,
    /// `server.jar_sha256`.
    pub jar_sha256: String,
    /// `docker.postgres_image`.
    pub postgres_image: String,
    /// `docker.redis_image`.
    pub redis_image: String,
    /// `docker.elasticsearch_image`.
    pub elasticsearch_image: String,
    /// `docker.java_image`.
    pub java_image: String,
}

/// One setting that changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// Such as `server.version`.
    pub key: String,
    /// What it says now; empty: nothing.
    pub from: String,
    /// What it is going to say.
    pub to: String,
    #[serde(skip)]
    table: &'static str,
    #[serde(skip)]
    name: &'static str,
}

impl Versions {
    /// Those that the configuration names.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let (server, docker) = (config.server.clone(), config.docker.clone());
        Self {
            server: server.version,
            jar: server.jar,
            jar_sha256: server.jar_sha256,
            postgres_image: docker.postgres_image,
            redis_image: docker.redis_image,
            elasticsearch_image: docker.elasticsearch_image,
            java_image: docker.java_image,
        }
    }

    /// Has `config` name these.
    pub fn put_into(&self, config: &mut Config) {
        let versions = self.clone();
        config.server.version = versions.server;
        config.server.jar = versions.jar;
        config.server.jar_sha256 = versions.jar_sha256;
        config.docker.postgres_image = versions.postgres_image;
        config.docker.redis_image = versions.redis_image;
        config.docker.elasticsearch_image = versions.elasticsearch_image;
        config.docker.java_image = versions.java_image;
    }

    /// The same with what is asked for. A JAR and its checksum belong to one version: they go with it.
    #[must_use]
    pub fn with(&self, wanted: &Wanted) -> Self {
        let mut versions = self.clone();
        if wanted.jar.is_some() || wanted.server_version.is_some() {
            versions.jar = wanted.jar.clone().unwrap_or_default();
            versions.jar_sha256 = wanted.jar_sha256.clone().unwrap_or_default();
        }
        if let Some(version) = &wanted.server_version {
            versions.server.clone_from(version);
        }
        for NewImage { of, image } in &wanted.images {
            let place = match of {
                ImageOf::Postgres => &mut versions.postgres_image,
                ImageOf::Redis => &mut versions.redis_image,
                ImageOf::Elasticsearch => &mut versions.elasticsearch_image,
                ImageOf::Java => &mut versions.java_image,
            };
            place.clone_from(image);
        }
        versions
    }

    fn settings(&self) -> [(&'static str, &'static str, String); 7] {
        let jar = self.jar.to_string_lossy().into_owned();
        [
            ("server", "version", self.server.clone()),
            ("server", "jar", jar),
            ("server", "jar_sha256", self.jar_sha256.clone()),
            ("docker", "postgres_image", self.postgres_image.clone()),
            ("docker", "redis_image", self.redis_image.clone()),
            (
                "docker",
                "elasticsearch_image",
                self.elasticsearch_image.clone(),
            ),
            ("docker", "java_image", self.java_image.clone()),
        ]
    }

    /// What is different in `next`.
    #[must_use]
    pub fn changes_to(&self, next: &Self) -> Vec<Changed> {
        let both = self.settings().into_iter().zip(next.settings());
        both.filter(|(from, to)| from != to)
            .map(|((table, name, from), (_, _, to))| Changed {
                key: format!("{table}.{name}"),
                from,
                to,
                table,
                name,
            })
            .collect()
    }
}

/// The text of a configuration file with `changes` in it.
pub(super) fn with_changes(text: &str, changes: &[Changed], file: &Path) -> Result<String> {
    changes.iter().try_fold(text.to_owned(), |text, change| {
        with_value(&text, change.table, change.name, &change.to, file)
    })
}

/// What the environment sets, the file cannot change.
pub(super) fn refuse_overridden(loaded: &Loaded, changes: &[Changed]) -> Result<()> {
    for change in changes {
        if let Some(Origin::Environment(variable)) = loaded.origins.get(&change.key) {
            return Err(Error::refused(format!(
                "{variable} decides {}, so that the configuration file would change nothing",
                change.key
            ))
            .hint(format!("Unset {variable}.")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_version_takes_the_jar_of_the_old_one_away() {
        let mut config = Config::default();
        config.server.jar = "old.jar".into();
        config.server.jar_sha256 = "aa".into();
        let before = Versions::of(&config);
        let wanted = Wanted {
            server_version: Some("4.0.0".into()),
            images: vec!["redis=redis:7.4".parse().unwrap()],
            ..Wanted::default()
        };
        let after = before.with(&wanted);
        let changes = before.changes_to(&after);
        let keys: Vec<&str> = changes.iter().map(|c| c.key.as_str()).collect();
        let expected = [
            "server.version",
            "server.jar",
            "server.jar_sha256",
            "docker.redis_image",
        ];
        assert_eq!(keys, expected);
        let text = "# mine\n[server]\nversion = '3.32.1' # pinned\njar = 'old.jar'\nheap = '2g'\n";
        let next = with_changes(text, &changes, Path::new("k1ops.toml")).unwrap();
        assert!(next.contains("version = \"4.0.0\" # pinned"), "{next}");
        assert!(next.contains("heap = '2g'"), "{next}");
        after.put_into(&mut config);
        assert_eq!(Versions::of(&config), after);
        assert!(after.changes_to(&after).is_empty());
    }

    #[test]
    fn images_are_named_by_their_part() {
        for wrong in ["postgres", "mysql=x", "redis=", "redis=a b"] {
            assert!(wrong.parse::<NewImage>().is_err(), "{wrong}");
        }
        let image: NewImage = "java=eclipse-temurin:25-jre".parse().unwrap();
        assert_eq!(image.of, ImageOf::Java);
    }
}
