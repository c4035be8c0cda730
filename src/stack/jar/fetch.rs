//! Fetches the boot JAR into the cache: from the mirrors, by `mvn`, from the official release.

use super::boot_jar::{BootJar, Checksum, Wanted, parse_checksum};
use super::maven;
use super::verified::Algorithm;
use crate::adapters::download::{Download, small_text};
use crate::adapters::fs::{Lock, write_atomically};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the project publishes its releases, in Maven's layout.
const OFFICIAL_RELEASES: &str = "https://repo1.maven.org/maven2";

/// How often a lock that another run holds is tried.
const LOCK_POLL: Duration = Duration::from_millis(500);

/// Where the JAR may be fetched from.
#[derive(Debug, Clone)]
pub struct Sources {
    /// Base URLs in Maven's layout, in order.
    pub mirrors: Vec<String>,
    /// The `mvn` command, tried after the mirrors.
    pub mvn: Option<PathBuf>,
    /// The base URL that is tried last.
    pub official: Option<String>,
    /// The first pause after a broken download.
    pub pause: Duration,
}

impl Sources {
    /// The configured mirrors, `mvn` if it is on `PATH`, and the official release.
    #[must_use]
    pub fn configured(mirrors: &[String]) -> Self {
        Self {
            mirrors: mirrors.to_vec(),
            mvn: maven::command(),
            official: Some(OFFICIAL_RELEASES.to_owned()),
            pause: Duration::from_secs(1),
        }
    }
}

/// Fetches the JAR from the first source that has a good one. Only one run fetches at a time; the
/// others wait, and then find it.
pub async fn fetch(
    wanted: &Wanted<'_>,
    sources: &Sources,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<BootJar> {
    let lock = wanted.cache.jars()?.join("fetch.lock");
    let _lock = interrupt.guard(lock_when_free(&lock, events)).await?;
    if let Some(jar) = wanted.on_this_host(events) {
        return Ok(jar);
    }
    let version = &wanted.server.version;
    let mut reasons = Vec::new();
    for mirror in &sources.mirrors {
        match attempt(wanted, mirror, sources.pause, events, interrupt).await {
            Ok(jar) => return Ok(jar),
            Err(error) => reasons.push(passed_over(error, events)?),
        }
    }
    if let Some(mvn) = &sources.mvn {
        match interrupt.guard(maven::get(mvn, version, events)).await {
            Ok(()) => match wanted.on_this_host(events) {
                Some(jar) => return Ok(jar),
                None => reasons.push("mvn left no JAR that can be verified".to_owned()),
            },
            Err(error) => reasons.push(passed_over(error, events)?),
        }
    }
    if let Some(official) = &sources.official {
        match attempt(wanted, official, sources.pause, events, interrupt).await {
            Ok(jar) => return Ok(jar),
            Err(error) => reasons.push(passed_over(error, events)?),
        }
    }
    Err(Error::missing(format!(
        "the JAR of Conductor {version} cannot be fetched: {}",
        reasons.join("; ")
    ))
    .hint(
        "Name a JAR in server.jar, or a reachable Maven repository in server.mirrors; its SHA-256 \
         goes into server.jar_sha256 unless k1ops knows the version.",
    ))
}

/// The reason to go on with the next source, unless the user wants to stop.
fn passed_over(error: Error, events: &Events) -> Result<String> {
    if error.kind() == ErrorKind::Interrupted {
        return Err(error);
    }
    let mut reason = error.to_string();
    if let Some(cause) = error.causes().last() {
        reason.push_str(&format!(" ({cause})"));
    }
    events.note(format!("passed over: {reason}"));
    Ok(reason)
}

async fn lock_when_free(path: &Path, events: &Events) -> Result<Lock> {
    let mut said = false;
    loop {
        match Lock::exclusive(path, "k1ops fetching the server's JAR") {
            Err(error) if error.kind() == ErrorKind::Locked => {
                if !said {
                    events.note(format!("waiting: {error}"));
                    said = true;
                }
                tokio::time::sleep(LOCK_POLL).await;
            }
            taken => return taken,
        }
    }
}

/// Downloads from one repository, verifies, and only then gives the JAR its name.
async fn attempt(
    wanted: &Wanted<'_>,
    repository: &str,
    pause: Duration,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<BootJar> {
    let version = &wanted.server.version;
    let url = format!(
        "{}/{}",
        repository.trim_end_matches('/'),
        maven::layout(version)
    );
    let expected = match wanted.expected() {
        Some(expected) => expected,
        None => interrupt.guard(published_checksum(&url)).await?,
    };
    let path = wanted.cache.jar(version);
    let mut partial = path.clone().into_os_string();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let step = format!("fetching Conductor {version}");
    let download = Download::new(&url, &partial, &step)?.pausing(pause);
    events.started(&step);
    interrupt.guard(download.run(events)).await?;
    let jar = match wanted.verify(&partial, Some(&expected)) {
        Ok(jar) => jar,
        Err(error) => {
            download.discard()?;
            let actual = error.to_string();
            return Err(Error::bad_data(format!(
                "{url} served the wrong file: {actual}"
            )));
        }
    };
    let mut beside = path.clone().into_os_string();
    beside.push(".sha256");
    write_atomically(Path::new(&beside), jar.sha256.as_bytes())?;
    download.publish(&path)?;
    events.finished(&step, format!("verified, in {}", path.display()));
    Ok(BootJar { path, ..jar })
}

/// The checksum that a repository publishes beside a file.
async fn published_checksum(url: &str) -> Result<Checksum> {
    let published = [(Algorithm::Sha256, "sha256"), (Algorithm::Sha1, "sha1")];
    for (algorithm, extension) in published {
        let text = small_text(&format!("{url}.{extension}")).await?;
        if let Some(checksum) = text.and_then(|text| parse_checksum(algorithm, &text)) {
            return Ok(checksum);
        }
    }
    Err(Error::refused(format!(
        "{url} cannot be verified: no checksum is published beside it"
    )))
}

#[cfg(test)]
mod tests {
    use super::super::cache::Cache;
    use super::*;
    use crate::adapters::lying_server::{Answer, LyingServer};
    use crate::config::Server;
    use sha2::Digest;

    const CONTENT: &[u8] = b"not really a JAR, but verified like one";

    struct Bench {
        folder: tempfile::TempDir,
        server: Server,
        cache: Cache,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            Self {
                cache: Cache::at(folder.path().join("cache")),
                folder,
                server: Server {
                    version: "0.0.1-test".into(),
                    jar_sha256: hex::encode(sha2::Sha256::digest(CONTENT)),
                    ..Server::default()
                },
            }
        }

        async fn fetch(&self, mirrors: &[&LyingServer]) -> Result<BootJar> {
            let wanted = Wanted {
                server: &self.server,
                base: self.folder.path(),
                cache: &self.cache,
            };
            let sources = Sources {
                mirrors: mirrors.iter().map(|m| m.url("maven2/")).collect(),
                mvn: None,
                official: None,
                pause: Duration::from_millis(1),
            };
            fetch(&wanted, &sources, &Events::silent(), &Interrupt::default()).await
        }

        fn names_in_cache(&self) -> Vec<String> {
            let mut names: Vec<String> = std::fs::read_dir(self.cache.root().join("jars"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter(|name| name != "fetch.lock")
                .collect();
            names.sort();
            names
        }
    }

    #[tokio::test]
    async fn a_wrong_file_is_removed_and_the_next_mirror_is_tried() {
        let bench = Bench::new();
        let wrong = LyingServer::start(b"<html>please log in</html>".to_vec(), vec![]).await;
        let good = LyingServer::start(CONTENT.to_vec(), vec![Answer::CutAfter(7)]).await;
        let jar = bench.fetch(&[&wrong, &good]).await.unwrap();
        assert_eq!(std::fs::read(&jar.path).unwrap(), CONTENT);
        assert_eq!(good.ranges()[1].as_deref(), Some("bytes=7-"));
        let name = "conductor-server-0.0.1-test-boot.jar";
        assert_eq!(
            bench.names_in_cache(),
            [name.to_owned(), format!("{name}.sha256")]
        );
        // From now on the cache has it, and nobody is asked.
        bench.fetch(&[]).await.unwrap();
    }

    #[tokio::test]
    async fn a_wrong_file_alone_leaves_nothing() {
        let bench = Bench::new();
        let wrong = LyingServer::start(b"<html>".to_vec(), vec![]).await;
        let error = bench.fetch(&[&wrong]).await.unwrap_err();
        assert!(
            error.to_string().contains("served the wrong file"),
            "{error}"
        );
        assert_eq!(error.kind(), ErrorKind::Missing);
        assert!(bench.names_in_cache().is_empty());
    }

    #[tokio::test]
    async fn a_broken_download_is_kept_for_the_next_run_but_never_under_the_final_name() {
        let bench = Bench::new();
        let mut answers = vec![Answer::CutAfter(7)];
        answers.extend(vec![Answer::Refuse; 20]);
        let server = LyingServer::start(CONTENT.to_vec(), answers).await;
        bench.fetch(&[&server]).await.unwrap_err();
        let name = "conductor-server-0.0.1-test-boot.jar";
        assert_eq!(
            bench.names_in_cache(),
            [format!("{name}.partial"), format!("{name}.partial.json")]
        );
    }

    #[tokio::test]
    async fn what_cannot_be_verified_is_not_even_fetched() {
        let mut bench = Bench::new();
        bench.server.jar_sha256.clear();
        let server = LyingServer::start(CONTENT.to_vec(), vec![]).await;
        let error = bench.fetch(&[&server]).await.unwrap_err();
        assert!(error.to_string().contains("cannot be verified"), "{error}");
        assert!(server.ranges().is_empty());
    }

    #[tokio::test]
    async fn two_runs_at_once_fetch_once() {
        let bench = Bench::new();
        let server = LyingServer::start(CONTENT.to_vec(), vec![Answer::CutAfter(7)]).await;
        let mirrors = [&server];
        let (one, two) = tokio::join!(bench.fetch(&mirrors), bench.fetch(&mirrors));
        assert_eq!(one.unwrap(), two.unwrap());
        assert_eq!(server.ranges().len(), 2);
    }
}
