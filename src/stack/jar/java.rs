//! Finds a Java that can run the server: the newest that fits, wherever it usually is.

use crate::adapters::process::output_within;
use crate::error::{Error, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long `java -version` may take before the candidate is given up.
const ASKING: Duration = Duration::from_secs(15);

/// Folders that hold one Java home in each subfolder.
const JVM_FOLDERS: &[&str] = &[
    "/usr/lib/jvm",
    "/usr/lib64/jvm",
    "/usr/java",
    "/usr/local/java",
    "/usr/local/lib/jvm",
    "/opt/java",
    "/opt/jvm",
    "/opt",
    "/usr/local",
    "/Library/Java/JavaVirtualMachines",
];

/// The same, below the user's home.
const JVM_FOLDERS_AT_HOME: &[&str] = &[
    ".sdkman/candidates/java",
    ".jdks",
    ".asdf/installs/java",
    ".local/share/mise/installs/java",
    ".local/share/rtx/installs/java",
    ".jabba/jdk",
    ".jenv/versions",
    ".gradle/jdks",
];

/// A Java runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Java {
    /// Its home.
    pub home: PathBuf,
    /// Its `java`.
    pub binary: PathBuf,
    /// The whole version, such as `25.0.3`.
    pub version: String,
    /// The feature release, such as 25.
    pub feature: u32,
    /// What tells this very build from every other.
    pub build: String,
}

/// The places to look in, taken from the environment once.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// `JAVA_HOME`.
    pub java_home: Option<PathBuf>,
    /// The folders of `PATH`.
    pub path: Vec<PathBuf>,
    /// Folders that hold one Java home in each subfolder.
    pub folders: Vec<PathBuf>,
}

impl Places {
    /// The usual places of this host and user.
    #[must_use]
    pub fn usual() -> Self {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let at_home = home
            .iter()
            .flat_map(|home| JVM_FOLDERS_AT_HOME.iter().map(|f| home.join(f)));
        Self {
            java_home: std::env::var_os("JAVA_HOME")
                .filter(|home| !home.is_empty())
                .map(PathBuf::from),
            path: std::env::var_os("PATH")
                .map(|path| std::env::split_paths(&path).collect())
                .unwrap_or_default(),
            folders: JVM_FOLDERS
                .iter()
                .map(PathBuf::from)
                .chain(at_home)
                .collect(),
        }
    }

    fn candidates(&self) -> Vec<PathBuf> {
        let homes = self.java_home.iter().cloned();
        let on_path = self.path.iter().map(|folder| folder.join("java"));
        let below = self.folders.iter().flat_map(|folder| subfolders(folder));
        let mut seen = BTreeSet::new();
        homes
            .flat_map(|home| binaries_of(&home))
            .chain(on_path)
            .chain(below.flat_map(|home| binaries_of(&home)))
            .filter(|binary| binary.is_file())
            // One Java is often reached by several names.
            .filter(|binary| seen.insert(binary.canonicalize().unwrap_or_else(|_| binary.clone())))
            .collect()
    }
}

/// The Java release that a Conductor version was compiled for.
#[must_use]
pub fn needed_by(conductor: &str) -> u32 {
    let mut parts = conductor.split('.').map(|part| part.parse::<u32>().ok());
    let mut next = || parts.next().flatten();
    match (next(), next(), next()) {
        (Some(major), Some(minor), Some(patch)) if (major, minor, patch) < (3, 21, 23) => 17,
        _ => 21,
    }
}

/// The Java to use: the configured one, or else the newest in `places` that is at least `minimum`.
///
/// When none fits, the error lists what was found and why it does not fit.
pub async fn find(configured: &Path, places: &Places, minimum: u32) -> Result<Java> {
    if !configured.as_os_str().is_empty() {
        return the_configured(configured, minimum).await;
    }
    let mut best: Option<Java> = None;
    let mut rejected = Vec::new();
    for binary in places.candidates() {
        match examine(&binary).await {
            Ok(java) if java.feature < minimum => {
                rejected.push(format!("{} is Java {}", binary.display(), java.version));
            }
            Ok(java) if best.as_ref().is_none_or(|best| java.is_newer_than(best)) => {
                best = Some(java);
            }
            Ok(_) => {}
            Err(reason) => rejected.push(format!("{} {reason}", binary.display())),
        }
    }
    best.ok_or_else(|| {
        let found = if rejected.is_empty() {
            "none is installed".to_owned()
        } else {
            rejected.join("; ")
        };
        missing(
            format!("no Java {minimum} or later was found: {found}"),
            minimum,
        )
    })
}

async fn the_configured(path: &Path, minimum: u32) -> Result<Java> {
    let binary = if path.is_dir() {
        binaries_of(path).into_iter().find(|b| b.is_file())
    } else {
        Some(path.to_path_buf()).filter(|b| b.is_file())
    };
    let binary = binary.ok_or_else(|| {
        missing(
            format!("server.java names {}, where no Java is", path.display()),
            minimum,
        )
    })?;
    let java = examine(&binary).await.map_err(|reason| {
        missing(
            format!("server.java names {}, which {reason}", binary.display()),
            minimum,
        )
    })?;
    if java.feature < minimum {
        return Err(missing(
            format!(
                "server.java names {}, which is Java {}, but Java {minimum} or later is needed",
                binary.display(),
                java.version
            ),
            minimum,
        ));
    }
    Ok(java)
}

fn missing(message: String, minimum: u32) -> Error {
    Error::missing(message).hint(format!(
        "Install a JDK or JRE {minimum} or later (for example Eclipse Temurin), or name one in \
         server.java or JAVA_HOME."
    ))
}

impl Java {
    fn is_newer_than(&self, other: &Self) -> bool {
        let numbers = |java: &Self| -> Vec<u32> {
            java.version
                .split(|c: char| !c.is_ascii_digit())
                .filter_map(|part| part.parse().ok())
                .collect()
        };
        numbers(self) > numbers(other)
    }
}

/// What Java `binary` is: by its `release` file, which costs no start of a JVM, or by asking it.
async fn examine(binary: &Path) -> Result<Java, String> {
    let real = binary
        .canonicalize()
        .map_err(|e| format!("cannot be read: {e}"))?;
    let home = real.parent().and_then(Path::parent);
    if let Some(home) = home
        && let Ok(release) = std::fs::read_to_string(home.join("release"))
        && let Some(version) = field(&release, "JAVA_VERSION")
        && let Some(feature) = feature_of(&version)
    {
        return Ok(Java {
            home: home.to_path_buf(),
            binary: real,
            version,
            feature,
            build: release,
        });
    }
    ask(binary).await
}

async fn ask(binary: &Path) -> Result<Java, String> {
    let asked = output_within(binary, &["-XshowSettings:properties", "-version"], ASKING).await;
    let (well, text) = asked
        .map_err(|_| "cannot be run".to_owned())?
        .ok_or_else(|| "does not answer".to_owned())?;
    let property = |name: &str| {
        text.lines().find_map(|line| {
            let (key, value) = line.split_once('=')?;
            (key.trim() == name).then(|| value.trim().to_owned())
        })
    };
    let known = property("java.version")
        .zip(property("java.home"))
        .filter(|_| well);
    let (version, home) = known.ok_or_else(|| "does not say its version".to_owned())?;
    let feature = feature_of(&version).ok_or_else(|| format!("has the version {version}"))?;
    let home = PathBuf::from(home);
    // Behind a version manager's shim is a program that can be named directly.
    let direct = home.join("bin/java");
    Ok(Java {
        binary: if direct.is_file() {
            direct
        } else {
            binary.to_path_buf()
        },
        home,
        version,
        feature,
        build: ["java.runtime.version", "java.vm.version", "java.vendor"]
            .into_iter()
            .filter_map(property)
            .collect::<Vec<_>>()
            .join(" "),
    })
}

/// `NAME="value"` in a `release` file.
fn field(release: &str, name: &str) -> Option<String> {
    release.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key == name).then(|| value.trim().trim_matches('"').to_owned())
    })
}

/// 8 for `1.8.0_402`, 21 for `21.0.2` and `21-ea`.
fn feature_of(version: &str) -> Option<u32> {
    let version = version.strip_prefix("1.").unwrap_or(version);
    let digits = version.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

fn binaries_of(home: &Path) -> Vec<PathBuf> {
    vec![home.join("bin/java"), home.join("Contents/Home/bin/java")]
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A home whose `java` is a script: a stand-in, since not every Java can be installed here.
    fn home(folder: &Path, name: &str, release: Option<&str>, says: &str) -> PathBuf {
        let home = folder.join(name);
        std::fs::create_dir_all(home.join("bin")).unwrap();
        let binary = home.join("bin/java");
        std::fs::write(&binary, format!("#!/bin/sh\n{says}\n")).unwrap();
        std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).unwrap();
        if let Some(release) = release {
            std::fs::write(home.join("release"), release).unwrap();
        }
        home
    }

    fn places(folder: &Path) -> Places {
        Places {
            folders: vec![folder.to_path_buf()],
            ..Places::default()
        }
    }

    #[tokio::test]
    async fn the_newest_that_fits_is_taken_without_starting_it() {
        let folder = tempfile::tempdir().unwrap();
        let touch = format!("touch {}", folder.path().join("started").display());
        home(
            folder.path(),
            "a",
            Some("JAVA_VERSION=\"1.8.0_402\"\n"),
            &touch,
        );
        home(
            folder.path(),
            "b",
            Some("JAVA_VERSION=\"21.0.9\"\n"),
            &touch,
        );
        home(
            folder.path(),
            "c",
            Some("JAVA_VERSION=\"25.0.10\"\n"),
            &touch,
        );
        home(
            folder.path(),
            "d",
            Some("JAVA_VERSION=\"25.0.9\"\n"),
            &touch,
        );
        let java = find(Path::new(""), &places(folder.path()), 21)
            .await
            .unwrap();
        assert_eq!((java.version.as_str(), java.feature), ("25.0.10", 25));
        assert!(!folder.path().join("started").exists());
    }

    #[tokio::test]
    async fn what_does_not_fit_is_listed_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        home(
            folder.path(),
            "old",
            Some("JAVA_VERSION=\"17.0.1\"\n"),
            "exit 0",
        );
        home(folder.path(), "broken", None, "exit 3");
        let error = find(Path::new(""), &places(folder.path()), 21)
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains("is Java 17.0.1"), "{text}");
        assert!(text.contains("does not say its version"), "{text}");
        assert_eq!(error.kind(), crate::error::ErrorKind::Missing);
    }

    #[tokio::test]
    async fn a_java_without_a_release_file_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        let says = "echo '    java.home = /nowhere' >&2; echo '    java.version = 22-ea' >&2";
        let home = home(folder.path(), "x", None, says);
        for configured in [home.clone(), home.join("bin/java")] {
            let java = find(&configured, &Places::default(), 21).await.unwrap();
            assert_eq!((java.feature, java.binary), (22, home.join("bin/java")));
        }
        let error = find(&home, &Places::default(), 24).await.unwrap_err();
        assert!(error.to_string().contains("is Java 22-ea, but Java 24"));
    }

    #[test]
    fn what_a_version_needs_is_known() {
        for (version, needed) in [("3.21.22", 17), ("3.21.23", 21), ("3.32.1", 21), ("x", 21)] {
            assert_eq!(needed_by(version), needed, "{version}");
        }
    }
}
