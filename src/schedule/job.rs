//! What is to be run by the clock, from which the crontab's lines and systemd's units are made.

use super::{By, Calendar, calendar_of, jitter_of};
use crate::adapters::process::own_program;
use crate::config::Loaded;
use crate::error::{Error, Result};
use crate::stack::Stack;
use chrono_tz::Tz;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where programs are on every distribution.
const PLAIN_PATH: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];
/// Programs that a backup or a drill runs.
const NEEDED: [&str; 4] = ["docker", "docker-compose", "java", "pg_dump"];

/// A stack's scheduled work.
#[derive(Debug, Clone)]
pub struct Job {
    /// The stack.
    pub stack: String,
    /// The folder that it is run in.
    pub base: PathBuf,
    /// When.
    pub calendar: Calendar,
    /// In which time zone.
    pub zone: Tz,
    /// By how much it may be late on purpose.
    pub jitter: Duration,
    /// What is said while it runs.
    pub log: PathBuf,
    /// Folders that it writes to.
    pub writes_to: Vec<PathBuf>,
    /// Where it finds programs.
    pub path: String,
    program: PathBuf,
    flags: Vec<String>,
}

impl Job {
    /// The work of `stack` as it is configured.
    pub fn of(stack: &Stack, loaded: &Loaded) -> Result<Self> {
        let (calendar, zone) = calendar_of(stack)?;
        let base = std::path::absolute(&stack.base).unwrap_or_else(|_| stack.base.clone());
        let base = base.canonicalize().unwrap_or(base);
        let mut flags = Vec::new();
        if let Some(file) = &loaded.file {
            let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
            flags.extend(["--config".to_owned(), plain(&file)?]);
        }
        if stack.name != loaded.home_stack {
            flags.extend(["--stack".to_owned(), stack.name.clone()]);
        }
        let mut writes_to = vec![base.clone()];
        let repository = stack.repository_folder();
        let copies = &stack.config.repository.copies;
        let copies = copies.iter().filter_map(|copy| {
            let stack = stack.with_repository(copy.alone());
            stack.repository_folder()
        });
        let folders = repository.into_iter().chain(copies);
        writes_to.extend(folders.filter(|folder| !folder.starts_with(&stack.base)));
        let textfile = base.join(&stack.config.metrics.textfile);
        if !textfile.starts_with(&base) {
            writes_to.extend(textfile.parent().map(Path::to_path_buf));
        }
        plain(&base)?;
        let own = stack
            .folder
            .strip_prefix(&stack.base)
            .unwrap_or(&stack.folder);
        Ok(Self {
            stack: stack.name.clone(),
            log: base.join(own).join("logs").join("schedule.log"),
            base,
            calendar,
            zone,
            jitter: jitter_of(stack)?,
            writes_to,
            path: path(),
            program: own_program(),
            flags,
        })
    }

    /// The command that fires a run, word by word, without saying who does.
    #[must_use]
    pub fn fire(&self) -> Vec<String> {
        self.words("fire")
    }

    /// The command that looks whether there is a good backup, each hour.
    #[must_use]
    pub fn check(&self) -> Vec<String> {
        self.words("check")
    }

    /// The minute of the hour at which that is done: not the same for all stacks of a host.
    #[must_use]
    pub fn check_minute(&self) -> u8 {
        let sum = self.base.as_os_str().as_encoded_bytes().iter();
        sum.fold(7, |sum: u8, byte| (sum.wrapping_mul(31) ^ byte) % 60)
    }

    fn words(&self, what: &str) -> Vec<String> {
        let mut words = vec![self.program.display().to_string()];
        words.extend(self.flags.iter().cloned());
        words.extend(["--quiet", "schedule", what].map(str::to_owned));
        words
    }

    /// The same as `by` runs it.
    #[must_use]
    pub fn command(&self, by: By) -> Vec<String> {
        let mut words = self.fire();
        words.extend(["--by", by.name()].map(str::to_owned));
        words
    }
}

/// A path that can stand in a line.
fn plain(path: &Path) -> Result<String> {
    match path.to_str() {
        Some(text) if !text.contains(char::is_control) => Ok(text.to_owned()),
        _ => Err(Error::usage(format!(
            "{} cannot be written into a crontab or a unit",
            path.display()
        ))
        .hint("Move it to a path of ordinary characters.")),
    }
}

/// The usual folders, and those of this `PATH` that hold what a run needs.
fn path() -> String {
    let mut folders: Vec<PathBuf> = PLAIN_PATH.iter().map(PathBuf::from).collect();
    let told = std::env::var_os("PATH").unwrap_or_default();
    for folder in std::env::split_paths(&told) {
        let useful = || NEEDED.iter().any(|name| folder.join(name).is_file());
        if folder.is_absolute() && !folders.contains(&folder) && useful() && plain(&folder).is_ok()
        {
            folders.push(folder);
        }
    }
    let texts: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
    texts.join(":")
}
