//! The files that hardening replaces, kept for `harden --undo`: copied and synced before the first of
//! them changes. The note that lists them is written last, and is what an undo goes by.

use crate::adapters::fs;
use crate::config::{self, Profile};
use crate::error::{Context, Error, Result};
use crate::stack::Stack;
use crate::stack::docker::{Service, Settings};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The note's name.
const NOTE: &str = "kept.json";
/// So many are kept: old passwords serve nobody but an undo.
const MOST: usize = 3;

/// What one hardening replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// When it was done.
    pub at: DateTime<Utc>,
    /// What it did, for people.
    pub what: Vec<String>,
    /// All files are written. If not, it was broken off, and they are put back.
    pub complete: bool,
    /// Every file.
    pub files: Vec<KeptFile>,
    /// The configuration file and the digest of what it became, to tell whether it was changed since.
    config: Option<(PathBuf, String)>,
    #[serde(skip)]
    folder: PathBuf,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptFile {
    /// Its place.
    pub path: PathBuf,
    /// Its copy's name; none if there was no such file.
    copy: Option<String>,
    mode: u32,
    owner: (u32, u32),
}

fn place(stack: &Stack) -> PathBuf {
    stack.folder.join("hardened")
}

impl Kept {
    /// The newest, if there is one.
    pub fn newest(stack: &Stack) -> Result<Option<Self>> {
        Ok(all(stack)?.pop())
    }

    /// Copies `files`, before anything changes them. `config` is the configuration file with the text
    /// that it is about to have.
    pub(super) fn keep(
        stack: &Stack,
        files: impl IntoIterator<Item = PathBuf>,
        config: Option<(PathBuf, String)>,
        what: Vec<String>,
    ) -> Result<Self> {
        let at = Utc::now();
        let folder = place(stack).join(at.format("%Y%m%dT%H%M%S%3fZ").to_string());
        fs::create_private_folder(&folder)?;
        let files = files
            .into_iter()
            .enumerate()
            .map(|(number, path)| copy(&folder, number, path))
            .collect::<Result<_>>()?;
        let kept = Self {
            at,
            what,
            complete: false,
            files,
            config: config.map(|(path, text)| (path, digest(text.as_bytes()))),
            folder,
        };
        kept.note()?;
        for older in all(stack)?.iter().rev().skip(MOST) {
            older.forget()?;
        }
        Ok(kept)
    }

    /// All files are written.
    pub(super) fn completed(&mut self) -> Result<()> {
        self.complete = true;
        self.note()
    }

    fn note(&self) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).context(|| "the note is not JSON")?;
        fs::write_atomically(&self.folder.join(NOTE), &text)
    }

    /// Puts every file back, and forgets that it was kept.
    ///
    /// A restore that came in between has put new volumes in place of the old ones; those stay.
    pub(super) fn put_back(mut self, stack: &Stack) -> Result<()> {
        // The configuration goes first: with it alone, a start brings all files back to the old profile.
        self.put_config_back()?;
        // Broken off in its middle, the rest is gone on with.
        self.complete = false;
        self.note()?;
        let env = stack.docker_folder().join(".env");
        let live = std::fs::read_to_string(&env).ok();
        for file in self.files.iter().filter(|file| !self.is_config(file)) {
            let Some(mut contents) = file.contents(&self.folder)? else {
                fs::remove_if_there(&file.path)?;
                continue;
            };
            if file.path == env
                && let Some(live) = &live
            {
                contents = with_volumes_of(&contents, live);
            }
            file.write(&contents)?;
        }
        self.forget()
    }

    fn is_config(&self, file: &KeptFile) -> bool {
        self.config
            .as_ref()
            .is_some_and(|(path, _)| *path == file.path)
    }

    fn put_config_back(&self) -> Result<()> {
        let Some((path, written)) = &self.config else {
            return Ok(());
        };
        let Ok(now) = std::fs::read(path) else {
            return Ok(());
        };
        if digest(&now) != *written {
            return set_profile_back(path);
        }
        let Some(file) = self.files.iter().find(|file| self.is_config(file)) else {
            return Ok(());
        };
        match file.contents(&self.folder)? {
            Some(contents) => file.write(&contents),
            None => fs::remove_if_there(path),
        }
    }

    fn forget(&self) -> Result<()> {
        // Without its note a folder is nothing that an undo would go by.
        fs::remove_if_there(&self.folder.join(NOTE))?;
        std::fs::remove_dir_all(&self.folder)
            .context(|| format!("{} cannot be removed", self.folder.display()))
    }
}

impl KeptFile {
    /// What it was; none if there was no such file.
    fn contents(&self, folder: &Path) -> Result<Option<Vec<u8>>> {
        let Some(copy) = &self.copy else {
            return Ok(None);
        };
        let copy = folder.join(copy);
        let contents = std::fs::read(&copy);
        contents
            .map(Some)
            .context(|| format!("{} cannot be read", copy.display()))
    }

    fn write(&self, contents: &[u8]) -> Result<()> {
        fs::write_atomically(&self.path, contents)?;
        let cannot = || format!("the mode of {} cannot be set", self.path.display());
        let mode = std::fs::Permissions::from_mode(self.mode);
        std::fs::set_permissions(&self.path, mode).context(cannot)?;
        if rustix::process::geteuid().is_root() {
            let (user, group) = self.owner;
            std::os::unix::fs::chown(&self.path, Some(user), Some(group)).context(cannot)?;
        }
        Ok(())
    }
}

fn copy(folder: &Path, number: usize, path: PathBuf) -> Result<KeptFile> {
    let Some(contents) = fs::read_if_there(&path)? else {
        return Ok(KeptFile {
            path,
            copy: None,
            mode: 0o600,
            owner: (0, 0),
        });
    };
    let meta = std::fs::metadata(&path).context(|| format!("{} cannot be read", path.display()))?;
    let name = format!("{number}");
    fs::write_atomically(&folder.join(&name), &contents)?;
    Ok(KeptFile {
        path,
        copy: Some(name),
        mode: meta.permissions().mode() & 0o7777,
        owner: (meta.uid(), meta.gid()),
    })
}

fn digest(contents: &[u8]) -> String {
    hex::encode(Sha256::digest(contents))
}

fn with_volumes_of(env: &[u8], live: &str) -> Vec<u8> {
    let live = Settings::parse(live);
    let mut text = String::from_utf8_lossy(env).into_owned();
    for service in Service::WITH_VOLUME {
        if let Some(volume) = live.volume(service) {
            text = Settings::text_with_volume(&text, service, volume);
        }
    }
    text.into_bytes()
}

/// The user has changed more in the configuration since: only this one value goes back.
fn set_profile_back(path: &Path) -> Result<()> {
    let text =
        std::fs::read_to_string(path).context(|| format!("{} cannot be read", path.display()))?;
    let standard = name_of(Profile::Standard);
    let before = config::with_value(&text, "docker", "profile", standard, path)?;
    if before == text || !text.contains(name_of(Profile::Production)) {
        return Ok(());
    }
    fs::replace(path, before.as_bytes(), 0o644)
}

pub(super) fn name_of(profile: Profile) -> &'static str {
    match profile {
        Profile::Standard => "standard",
        Profile::Production => "production",
    }
}

/// All that are kept, the oldest first.
fn all(stack: &Stack) -> Result<Vec<Kept>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(place(stack))
        .into_iter()
        .flatten()
        .flatten()
    {
        let folder = entry.path();
        let note = folder.join(NOTE);
        let Ok(text) = std::fs::read(&note) else {
            // It was cut short before anything had changed.
            continue;
        };
        let mut kept: Kept = serde_json::from_slice(&text).map_err(|error| {
            Error::bad_data(format!("{} cannot be read", note.display()))
                .because(error)
                .hint("Move its folder away; the hardening that it tells of cannot be undone.")
        })?;
        kept.folder = folder;
        found.push(kept);
    }
    found.sort_by_key(|kept| kept.at);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn files_come_back_as_they_were_but_for_what_changed_since() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path();
        let stack = Stack {
            name: "k1".into(),
            config: Config::default(),
            base: base.into(),
            folder: base.join(".conductor"),
        };
        let (config, env) = (base.join("k1ops.toml"), stack.docker_folder().join(".env"));
        let new = stack.docker_folder().join("new");
        std::fs::create_dir_all(stack.docker_folder()).unwrap();
        std::fs::write(&config, "# mine\n[docker]\nprefix = 'a'\n").unwrap();
        std::fs::write(&env, "K1_REDIS_VOLUME=old\nX=1\n").unwrap();
        std::fs::set_permissions(&env, std::fs::Permissions::from_mode(0o640)).unwrap();
        let hardened = "# mine\n[docker]\nprefix = 'a'\nprofile = 'production'\n";
        let files = [config.clone(), env.clone(), new.clone()];
        let told = Some((config.clone(), hardened.to_owned()));
        let mut kept = Kept::keep(&stack, files, told, Vec::new()).unwrap();
        assert!(!Kept::newest(&stack).unwrap().unwrap().complete);
        kept.completed().unwrap();
        // Hardened, then restored into another volume, and the user changed the configuration.
        std::fs::write(
            &env,
            "K1_REDIS_VOLUME=restored\nX=2\nK1_PROFILE=production\n",
        )
        .unwrap();
        std::fs::write(&new, "").unwrap();
        std::fs::write(&config, format!("{hardened}elasticsearch = false\n")).unwrap();
        let kept = Kept::newest(&stack).unwrap().unwrap();
        assert!(kept.complete);
        kept.put_back(&stack).unwrap();
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        assert_eq!(read(&env), "K1_REDIS_VOLUME=restored\nX=1\n");
        let mode = std::fs::metadata(&env).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert!(!new.exists());
        let wanted = hardened.replace("'production'", "\"standard\"") + "elasticsearch = false\n";
        assert_eq!(read(&config), wanted);
        assert_eq!(Kept::newest(&stack).unwrap(), None);
    }
}
