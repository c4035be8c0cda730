//! The image of the Conductor server: what it is made of, and making it.

use super::{diagnose, files};
use crate::adapters::docker::{BuildContext, Engine};
use crate::config::Config;
use crate::error::{Context, Result};
use crate::event::Events;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The JAR's name in the build context.
const JAR: &str = "conductor-server.jar";
/// The user in the image if k1ops runs as root, which may give files to anybody.
const DEFAULT_USER: User = User {
    uid: 10001,
    gid: 10001,
};

/// Who the server runs as. The file that configures it is private to this user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
}

impl User {
    /// The user that can read, inside a container, what this process may make private to it: this
    /// very user, unless that is root, which no server should be.
    #[must_use]
    pub fn of_process() -> Self {
        let uid = rustix::process::geteuid();
        if uid.is_root() {
            return DEFAULT_USER;
        }
        Self {
            uid: uid.as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }
    }
}

/// What the server's image is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerImage {
    /// Its name and tag; the tag says what is in it.
    pub tag: String,
    /// The Java image it begins with.
    pub java_image: String,
    /// The JAR's digest.
    pub jar_sha256: String,
    /// Who the server runs as.
    pub user: User,
    /// Whether it is trained to start fast.
    pub class_archive: bool,
}

impl ServerImage {
    /// The image for a configuration and a JAR. Its tag changes with everything that goes into it,
    /// so that an image that is there is the right one.
    #[must_use]
    pub fn of(config: &Config, jar_sha256: &str, user: User, folder: &Path) -> Self {
        let class_archive = config.server.fast_start;
        let mut digest = Sha256::new();
        for name in files::BUILD_FILES {
            digest.update(files::effective(folder, &format!("server/{name}")));
            digest.update([0]);
        }
        digest.update(format!(
            "{jar_sha256} {} {}:{} {class_archive}",
            config.docker.java_image, user.uid, user.gid
        ));
        let digest = hex::encode(digest.finalize());
        Self {
            tag: format!(
                "{}-server:{}-{}",
                config.docker.prefix.to_lowercase(),
                config.server.version,
                &digest[..12]
            ),
            java_image: config.docker.java_image.clone(),
            jar_sha256: jar_sha256.to_owned(),
            user,
            class_archive,
        }
    }

    /// Makes the image unless the engine has it. `pull` fetches the Java image anew and builds in
    /// any case.
    pub async fn ensure(
        &self,
        engine: &Engine,
        folder: &Path,
        jar: &Path,
        pull: bool,
        events: &Events,
    ) -> Result<()> {
        if !pull && engine.image(&self.tag).await?.is_some() {
            return Ok(());
        }
        ensure_pulled(engine, &self.java_image, pull, events).await?;
        let folder = folder.join("server");
        put_jar(jar, &folder.join(JAR))?;
        let mut files: Vec<(String, PathBuf)> = files::BUILD_FILES
            .iter()
            .map(|&name| (name.to_owned(), folder.join(name)))
            .collect();
        files.push((JAR.to_owned(), folder.join(JAR)));
        engine
            .build(
                BuildContext {
                    files,
                    args: self.arguments(),
                    labels: HashMap::from([("k1ops.server".to_owned(), self.tag.clone())]),
                    tag: self.tag.clone(),
                },
                events,
            )
            .await
            .map_err(diagnose::compose)
    }

    fn arguments(&self) -> HashMap<String, String> {
        HashMap::from([
            ("JAVA_IMAGE".to_owned(), self.java_image.clone()),
            ("JAR_SHA256".to_owned(), self.jar_sha256.clone()),
            ("APP_UID".to_owned(), self.user.uid.to_string()),
            ("APP_GID".to_owned(), self.user.gid.to_string()),
            (
                "CLASS_ARCHIVE".to_owned(),
                u8::from(self.class_archive).to_string(),
            ),
        ])
    }

    #[cfg(test)]
    pub(super) fn for_tests() -> Self {
        Self::of(
            &Config::default(),
            "00",
            DEFAULT_USER,
            Path::new("/nowhere"),
        )
    }
}

/// Fetches an image if the engine does not have it, or in any case if `anew`.
///
/// An image that cannot be fetched anew, but is there, will do.
pub async fn ensure_pulled(
    engine: &Engine,
    image: &str,
    anew: bool,
    events: &Events,
) -> Result<()> {
    let there = engine.image(image).await?.is_some();
    if there && !anew {
        return Ok(());
    }
    match engine.pull(image, events).await {
        Err(error) if there => {
            events.warning(format!("{error}; the one that is there is used"));
            Ok(())
        }
        other => other,
    }
}

/// Puts the verified JAR into the build context: another name of the same file where the file
/// system can do that, else a copy.
fn put_jar(jar: &Path, place: &Path) -> Result<()> {
    let cannot = || format!("{} cannot be put to {}", jar.display(), place.display());
    let folder = crate::adapters::fs::folder_of(place);
    crate::adapters::fs::create_private_folder(folder)?;
    let partial = folder.join(".conductor-server.jar.partial");
    crate::adapters::fs::remove_if_there(&partial)?;
    if std::fs::hard_link(jar, &partial).is_err() {
        std::fs::copy(jar, &partial).context(cannot)?;
    }
    std::fs::rename(&partial, place).context(cannot)?;
    // Renaming onto another name of the same file does nothing and leaves both.
    crate::adapters::fs::remove_if_there(&partial)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_says_what_is_in_the_image() {
        let nowhere = Path::new("/nowhere");
        let config = Config::default();
        let one = ServerImage::of(&config, "aa", DEFAULT_USER, nowhere);
        assert!(one.tag.starts_with("conductor-server:3.32.1-"));
        assert_eq!(one, ServerImage::of(&config, "aa", DEFAULT_USER, nowhere));
        let other = User { uid: 7, gid: 7 };
        let mut java = config.clone();
        java.docker.java_image = "java:25".into();
        for changed in [
            ServerImage::of(&config, "bb", DEFAULT_USER, nowhere),
            ServerImage::of(&config, "aa", other, nowhere),
            ServerImage::of(&java, "aa", DEFAULT_USER, nowhere),
        ] {
            assert_ne!(one.tag, changed.tag);
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("server")).unwrap();
        std::fs::write(folder.path().join("server/Dockerfile"), "FROM x").unwrap();
        let edited = ServerImage::of(&config, "aa", DEFAULT_USER, folder.path());
        assert_ne!(one.tag, edited.tag);
    }

    #[test]
    fn the_jar_is_put_there_twice_without_harm() {
        let folder = tempfile::tempdir().unwrap();
        let jar = folder.path().join("a.jar");
        std::fs::write(&jar, "jar").unwrap();
        let place = folder.path().join("server").join(JAR);
        for _ in 0..2 {
            put_jar(&jar, &place).unwrap();
            assert_eq!(std::fs::read_to_string(&place).unwrap(), "jar");
            let names = std::fs::read_dir(place.parent().unwrap()).unwrap().count();
            assert_eq!(names, 1);
        }
    }
}
