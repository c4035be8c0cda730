//! What makes a start fast: the extracted JAR, and an archive of loaded classes that is tied to one
//! very JAR and one very Java. It is used when it is complete and as it was built; whenever
//! anything about it is off, the server starts plainly.

use super::boot_jar::BootJar;
use super::cache::Cache;
use super::java::Java;
use super::server::Launch;
use super::verified::Stamp;
use crate::adapters::fs;
use crate::error::{Context, Result};
use crate::stack::state::StartMode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// From this Java on, one training run writes an ahead-of-time cache.
const FIRST_WITH_AOT: u32 = 25;

/// Heaps from here on need wide pointers, which an archive of narrow ones does not fit.
const WIDE_HEAP: u64 = 32 << 30;

/// The place of what makes one JAR on one Java start fast.
#[derive(Debug, Clone)]
pub struct FastStart {
    folder: PathBuf,
    key: String,
    jar_name: OsString,
    kind: StartMode,
}

/// The extracted JAR's files, as they were after extracting. Written last: without it there is
/// none.
#[derive(Debug, Serialize, Deserialize)]
struct Extracted {
    files: BTreeMap<PathBuf, Stamp>,
}

/// The archive, as it was after training. Written last as well.
#[derive(Debug, Serialize, Deserialize)]
struct Trained {
    kind: StartMode,
    java: PathBuf,
    archive: Stamp,
    jar: Stamp,
}

impl FastStart {
    /// The place for this JAR, this Java and this heap.
    #[must_use]
    pub fn of(cache: &Cache, jar: &BootJar, java: &Java, heap: &str) -> Self {
        let mut digest = Sha256::new();
        for part in [
            &java.home.to_string_lossy() as &str,
            &java.version,
            &java.build,
        ] {
            digest.update(part.as_bytes());
            digest.update([0]);
        }
        let wide = heap_bytes(heap).is_some_and(|bytes| bytes >= WIDE_HEAP);
        digest.update([u8::from(wide)]);
        let key = hex::encode(digest.finalize());
        Self {
            folder: cache.fast_start().join(&jar.sha256[..16]),
            key: key[..16].to_owned(),
            jar_name: jar
                .path
                .file_name()
                .unwrap_or("boot.jar".as_ref())
                .to_owned(),
            kind: if java.feature >= FIRST_WITH_AOT {
                StartMode::Aot
            } else {
                StartMode::Cds
            },
        }
    }

    /// How to start fast, as far as it is prepared and intact.
    #[must_use]
    pub fn launch(&self) -> Option<Launch> {
        if self.is_bad() || !self.is_extracted() {
            return None;
        }
        Some(if self.is_trained() {
            Launch {
                mode: self.kind,
                options: vec![self.option(
                    "-XX:AOTCache=",
                    "-XX:SharedArchiveFile=",
                    &self.archive(),
                )],
                jar: self.app_jar(),
            }
        } else {
            Launch {
                mode: StartMode::Extracted,
                options: Vec::new(),
                jar: self.app_jar(),
            }
        })
    }

    /// Whether there is nothing left to prepare.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_extracted() && self.is_trained()
    }

    /// Whether a fast start failed with it.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        self.bad_path().exists()
    }

    /// Remembers that a fast start failed with it, so that none is tried again.
    pub fn mark_bad(&self, reason: &str) -> Result<()> {
        fs::remove_if_there(&self.trained_path())?;
        fs::write_atomically(&self.bad_path(), reason.as_bytes())
    }

    /// Gives it another chance, to be built anew.
    pub(super) fn forgive(&self) -> Result<()> {
        if !self.is_bad() {
            return Ok(());
        }
        fs::remove_if_there(&self.trained_path())?;
        fs::remove_if_there(&self.extracted_path())?;
        fs::remove_if_there(&self.bad_path())
    }

    /// The folder of everything that belongs to the JAR.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the JAR is extracted to.
    pub(super) fn app(&self) -> PathBuf {
        self.folder.join("app")
    }

    /// The extracted JAR.
    pub(super) fn app_jar(&self) -> PathBuf {
        self.app().join(&self.jar_name)
    }

    /// The archive of loaded classes.
    pub(super) fn archive(&self) -> PathBuf {
        self.folder.join(format!("{}.archive", self.key))
    }

    /// How a server is started that is to write an archive when it ends.
    pub(super) fn training(&self, archive: &Path) -> Launch {
        let option = self.option("-XX:AOTCacheOutput=", "-XX:ArchiveClassesAtExit=", archive);
        Launch {
            mode: self.kind,
            options: vec![option],
            jar: self.app_jar(),
        }
    }

    fn option(&self, aot: &str, cds: &str, file: &Path) -> OsString {
        let name = if self.kind == StartMode::Aot {
            aot
        } else {
            cds
        };
        let mut option = OsString::from(name);
        option.push(file);
        option
    }

    fn extracted_path(&self) -> PathBuf {
        self.folder.join("app.json")
    }

    fn trained_path(&self) -> PathBuf {
        self.folder.join(format!("{}.json", self.key))
    }

    fn bad_path(&self) -> PathBuf {
        self.folder.join(format!("{}.bad", self.key))
    }

    /// Whether the JAR is extracted and none of its files has changed since.
    #[must_use]
    pub fn is_extracted(&self) -> bool {
        let Some(noted) = read::<Extracted>(&self.extracted_path()) else {
            return false;
        };
        let app = self.app();
        let as_noted = |(path, stamp): (&PathBuf, &Stamp)| {
            Stamp::of(&app.join(path)).is_ok_and(|now| now == *stamp)
        };
        noted.files.contains_key(Path::new(&self.jar_name)) && noted.files.iter().all(as_noted)
    }

    fn is_trained(&self) -> bool {
        let is = |path: &Path, stamp: &Stamp| Stamp::of(path).is_ok_and(|now| now == *stamp);
        read::<Trained>(&self.trained_path()).is_some_and(|noted| {
            noted.kind == self.kind
                && is(&self.archive(), &noted.archive)
                // The JVM refuses an archive whose JAR was written again, and says so in its log
                // only.
                && is(&self.app_jar(), &noted.jar)
        })
    }

    /// Notes that the JAR is extracted, once all of it is on the disk.
    pub(super) fn note_extracted(&self) -> Result<()> {
        let app = self.app();
        let mut files = BTreeMap::new();
        collect(&app, &app, &mut files)?;
        self.note(&self.extracted_path(), &Extracted { files })
    }

    /// Notes that the archive is complete, once all of it is on the disk.
    pub(super) fn note_trained(&self, java: &Path) -> Result<()> {
        let trained = Trained {
            kind: self.kind,
            java: java.to_path_buf(),
            archive: Stamp::of(&self.archive())?,
            jar: Stamp::of(&self.app_jar())?,
        };
        self.note(&self.trained_path(), &trained)?;
        self.remove_outlived(java)
    }

    fn note(&self, path: &Path, what: &impl Serialize) -> Result<()> {
        fs::sync_file_system(&self.folder)?;
        let text = serde_json::to_vec(what)
            .context(|| format!("{} cannot be written as JSON", path.display()))?;
        fs::write_atomically(path, &text)
    }

    /// Removes the archives of the builds of Java that this one has replaced where they were.
    fn remove_outlived(&self, java: &Path) -> Result<()> {
        let cannot = || format!("folder {} cannot be read", self.folder.display());
        for entry in std::fs::read_dir(&self.folder).context(cannot)? {
            let note = entry.context(cannot)?.path();
            let of_this_java = note.extension().is_some_and(|e| e == "json")
                && read::<Trained>(&note).is_some_and(|noted| noted.java == java);
            if of_this_java && note != self.trained_path() {
                fs::remove_if_there(&note)?;
                fs::remove_if_there(&note.with_extension("archive"))?;
            }
        }
        Ok(())
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<PathBuf, Stamp>) -> Result<()> {
    let cannot = || format!("folder {} cannot be read", folder.display());
    for entry in std::fs::read_dir(folder).context(cannot)? {
        let path = entry.context(cannot)?.path();
        if path.is_dir() {
            collect(root, &path, files)?;
        } else if let Ok(name) = path.strip_prefix(root) {
            files.insert(name.to_path_buf(), Stamp::of(&path)?);
        }
    }
    Ok(())
}

/// The bytes of `512m`, `1g` and the like; `None` for what only the JVM can judge.
fn heap_bytes(heap: &str) -> Option<u64> {
    let heap = heap.trim().to_lowercase();
    let digits = heap.trim_end_matches(['k', 'm', 'g', 't']);
    let shift = match &heap[digits.len()..] {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        _folder: tempfile::TempDir,
        cache: Cache,
        jar: BootJar,
        java: Java,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            Self {
                cache: Cache::at(folder.path().to_path_buf()),
                _folder: folder,
                jar: BootJar {
                    path: "/somewhere/boot.jar".into(),
                    version: "1".into(),
                    sha256: "0123456789abcdef0123".into(),
                },
                java: Java {
                    home: "/java".into(),
                    binary: "/java/bin/java".into(),
                    version: "25.0.3".into(),
                    feature: 25,
                    build: "one".into(),
                },
            }
        }

        fn place(&self) -> FastStart {
            FastStart::of(&self.cache, &self.jar, &self.java, "1g")
        }

        fn extract(&self) -> FastStart {
            let place = self.place();
            std::fs::create_dir_all(place.app().join("lib")).unwrap();
            std::fs::write(place.app_jar(), "main").unwrap();
            std::fs::write(place.app().join("lib/a.jar"), "library").unwrap();
            place.note_extracted().unwrap();
            place
        }

        fn train(&self) -> FastStart {
            let place = self.extract();
            std::fs::write(place.archive(), "classes").unwrap();
            place.note_trained(&self.java.binary).unwrap();
            place
        }
    }

    fn mode(place: &FastStart) -> Option<StartMode> {
        place.launch().map(|launch| launch.mode)
    }

    #[test]
    fn only_what_is_complete_and_intact_is_used() {
        let bench = Bench::new();
        assert_eq!(mode(&bench.place()), None);
        assert_eq!(mode(&bench.extract()), Some(StartMode::Extracted));
        let place = bench.train();
        assert_eq!(mode(&place), Some(StartMode::Aot));
        assert!(place.is_complete());
        std::fs::write(place.archive(), "CLASSES").unwrap();
        assert_eq!(mode(&place), Some(StartMode::Extracted));
        std::fs::write(place.app().join("lib/a.jar"), "another").unwrap();
        assert_eq!(mode(&place), None);
        std::fs::write(bench.train().extracted_path(), "{").unwrap();
        assert_eq!(mode(&place), None);
    }

    #[test]
    fn another_java_jar_or_pointer_width_has_a_place_of_its_own() {
        let mut bench = Bench::new();
        let first = bench.train();
        let wide = FastStart::of(&bench.cache, &bench.jar, &bench.java, "48g");
        assert_eq!(mode(&wide), Some(StartMode::Extracted));
        let larger = FastStart::of(&bench.cache, &bench.jar, &bench.java, "2g");
        assert_eq!(mode(&larger), Some(StartMode::Aot));
        bench.java.build = "two".into();
        assert_eq!(mode(&bench.place()), Some(StartMode::Extracted));
        // The new build replaced the old one where it was, so the old archive is of no more use.
        bench.train();
        assert_eq!(mode(&bench.place()), Some(StartMode::Aot));
        assert!(!first.archive().exists());
        bench.jar.sha256 = "fedcba9876543210fedc".into();
        assert_eq!(mode(&bench.place()), None);
    }

    #[test]
    fn what_is_marked_bad_is_not_used_until_it_is_forgiven_and_built_anew() {
        let bench = Bench::new();
        let place = bench.train();
        place.mark_bad("it crashed").unwrap();
        assert_eq!(mode(&place), None);
        place.forgive().unwrap();
        assert_eq!(mode(&place), None);
        assert_eq!(mode(&bench.train()), Some(StartMode::Aot));
    }

    #[test]
    fn heaps_are_read_as_the_jvm_reads_them() {
        for (text, bytes) in [
            ("1g", Some(1 << 30)),
            ("512M", Some(512 << 20)),
            ("1024", Some(1024)),
            ("lots", None),
            ("g", None),
            ("", None),
        ] {
            assert_eq!(heap_bytes(text), bytes, "{text}");
        }
    }
}
