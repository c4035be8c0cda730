//! Maven on this host: its local repository, and the `mvn` command.

use crate::adapters::process::output_within;
use crate::error::{Error, Result};
use crate::event::Events;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long `mvn` may take for 458 MB on a slow line.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// The artifact's folder and file in Maven's layout, below any repository.
#[must_use]
pub fn layout(version: &str) -> String {
    format!("org/conductoross/conductor-server/{version}/conductor-server-{version}-boot.jar")
}

/// Where the JAR may be in the local repository, most specific first. Nothing says it is there.
#[must_use]
pub fn local(version: &str) -> Vec<PathBuf> {
    let set = |name: &str| std::env::var(name).unwrap_or_default();
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let settings = home
        .as_ref()
        .and_then(|home| std::fs::read_to_string(home.join(".m2/settings.xml")).ok())
        .unwrap_or_default();
    [set("MAVEN_OPTS"), set("MAVEN_ARGS")]
        .iter()
        .filter_map(|options| in_options(options))
        .chain(in_settings(&settings))
        .chain(home.map(|home| home.join(".m2/repository")))
        .map(|repository| repository.join(layout(version)))
        .collect()
}

/// `mvn`, if it is on `PATH`.
#[must_use]
pub fn command() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join("mvn"))
        .find(|mvn| mvn.is_file())
}

/// Has `mvn` fetch the JAR into the local repository.
pub async fn get(mvn: &Path, version: &str, events: &Events) -> Result<()> {
    let step = format!("fetching Conductor {version} with mvn");
    events.started(&step);
    let artifact = format!("-Dartifact=org.conductoross:conductor-server:{version}:jar:boot");
    let arguments = [
        "-B",
        "-q",
        "dependency:get",
        "-Dtransitive=false",
        &artifact,
    ];
    match output_within(mvn, &arguments, PATIENCE).await? {
        Some((true, _)) => {
            events.finished(&step, "");
            Ok(())
        }
        Some((false, said)) => {
            let said = said
                .lines()
                .find(|line| line.contains("ERROR"))
                .unwrap_or("no reason given");
            Err(Error::missing(format!("mvn does not get the JAR: {said}")))
        }
        None => Err(Error::missing(format!(
            "mvn has not got the JAR within {} minutes",
            PATIENCE.as_secs() / 60
        ))),
    }
}

/// `-Dmaven.repo.local=FOLDER` among Maven's options.
fn in_options(options: &str) -> Option<PathBuf> {
    options
        .split_whitespace()
        .find_map(|option| option.strip_prefix("-Dmaven.repo.local="))
        .map(|folder| folder.trim_matches(['"', '\'']).into())
}

/// `<localRepository>` in Maven's settings. One that needs Maven to expand it is left to Maven.
fn in_settings(settings: &str) -> Option<PathBuf> {
    let behind = settings.split_once("<localRepository>")?.1;
    let folder = behind.split_once("</localRepository>")?.0.trim();
    (!folder.contains("${") && !folder.is_empty()).then(|| folder.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_repository_is_read_from_options_and_settings() {
        assert_eq!(
            in_options("-Xmx1g -Dmaven.repo.local=/r -q"),
            Some("/r".into())
        );
        assert_eq!(in_options("-Xmx1g"), None);
        let settings = |folder: &str| {
            in_settings(&format!(
                "<settings><localRepository> {folder} </localRepository></settings>"
            ))
        };
        assert_eq!(settings("/r"), Some("/r".into()));
        assert_eq!(settings("${user.home}/r"), None);
        assert!(layout("1.2").ends_with("/1.2/conductor-server-1.2-boot.jar"));
    }
}
