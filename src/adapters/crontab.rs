//! What this host runs by the clock: crontabs and systemd timers. It changes nothing but the
//! crontab of the user, and that as a whole.

use super::process::output_within;
use crate::error::{Context, Error, ErrorKind, Result};
use chrono::{DateTime, Local, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use croner::Cron;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::str::FromStr;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// How long `crontab -l` may take, also on a busy host: what it does not say in time is not there.
const ASKING: Duration = Duration::from_secs(10);

/// A command that is run by the clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scheduled {
    /// Where it is written, such as `/etc/cron.d/k1ops` or `the user's crontab`.
    pub place: String,
    /// When, as it is written there.
    pub when: String,
    /// What is run.
    pub command: String,
    /// systemd runs it, and not cron.
    pub by_systemd: bool,
    /// It is switched on: a systemd timer may be there and not be enabled.
    pub enabled: bool,
    /// When, as the timers that k1ops installs say it for cron, with the time zone.
    pub exactly: Option<(String, Tz)>,
}

impl Scheduled {
    /// When it should have run last before `now`, and how far apart the runs are; none where the
    /// expression is not understood.
    #[must_use]
    pub fn last_due(&self, now: DateTime<Utc>) -> Option<(DateTime<Utc>, TimeDelta)> {
        if let Some((expression, zone)) = &self.exactly {
            return last_two(expression, &now.with_timezone(zone));
        }
        let expression = if self.by_systemd {
            calendar_as_cron(&self.when)?
        } else {
            cron_expression(&self.when)?
        };
        // cron goes by the host's own time zone.
        last_two(&expression, &now.with_timezone(&Local))
    }

    /// The program's path as it is written: the first word that ends in `name`.
    #[must_use]
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        self.command
            .split([' ', '\t', ';', '&', '|', '(', ')'])
            .map(|word| word.trim_matches(['"', '\'']))
            .find(|word| Path::new(word).file_name().is_some_and(|file| file == name))
            .map(PathBuf::from)
    }
}

/// The last time before `now`, and how long before that the one before it was.
fn last_two<Z: TimeZone>(
    expression: &str,
    now: &DateTime<Z>,
) -> Option<(DateTime<Utc>, TimeDelta)> {
    let cron = Cron::from_str(expression).ok()?;
    let last = cron.find_previous_occurrence(now, false).ok()?;
    let before = cron.find_previous_occurrence(&last, false).ok()?;
    Some((last.to_utc(), last - before))
}

/// Every command that mentions `word`, in the crontabs and timers that this user may read.
pub async fn mentioning(word: &str) -> Vec<Scheduled> {
    let mut found = Vec::new();
    if let Ok(Some((true, text))) = output_within(Path::new("crontab"), &["-l"], ASKING).await {
        found.extend(lines(&text, "the user's crontab", false));
    }
    let mut files = vec![PathBuf::from("/etc/crontab")];
    files.extend(files_in(Path::new("/etc/cron.d")));
    for file in files {
        if let Ok(text) = std::fs::read_to_string(&file) {
            found.extend(lines(&text, &file.display().to_string(), true));
        }
    }
    for folder in unit_folders() {
        found.extend(timers(&folder));
    }
    found.retain(|scheduled| scheduled.command.contains(word));
    found
}

/// Whether there is a program to read and write the user's crontab with.
#[must_use]
pub fn is_installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join("crontab").is_file())
}

/// The user's crontab to the byte; none if there is none.
pub async fn read_own() -> Result<Option<Vec<u8>>> {
    let cannot = || "the user's crontab cannot be read";
    let mut command = tokio::process::Command::new("crontab");
    // What it says is compared with English.
    command.arg("-l").env("LC_ALL", "C").stdin(Stdio::null());
    let output = command
        .output()
        .await
        .context_kind(ErrorKind::Missing, cannot)?;
    if output.status.success() {
        return Ok(Some(output.stdout));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if says_none(&said) {
        return Ok(None);
    }
    Err(Error::failed(format!("{}: {}", cannot(), said.trim())))
}

/// Whether the user has none, rather than one that cannot be read.
fn says_none(said: &str) -> bool {
    said.lines().any(|line| {
        let line = line.trim();
        let line = line.strip_prefix("crontab: ").unwrap_or(line);
        // BusyBox has no words of its own for it, and is in the folder of the crontabs by then.
        let missing = line.strip_prefix("can't open '");
        let missing = missing.and_then(|rest| rest.strip_suffix("': No such file or directory"));
        line.starts_with("no crontab for ") || missing.is_some_and(|name| !name.contains('/'))
    })
}

/// Replaces the user's crontab. An empty one is removed.
pub async fn write_own(crontab: &[u8]) -> Result<()> {
    let cannot = || "the user's crontab cannot be written";
    let mut command = tokio::process::Command::new("crontab");
    command.arg(if crontab.is_empty() { "-r" } else { "-" });
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().context_kind(ErrorKind::Missing, cannot)?;
    if let Some(mut input) = child.stdin.take() {
        // One that does not read says why below.
        let _ = input.write_all(crontab).await;
    }
    let output = child.wait_with_output().await.context(cannot)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::failed(format!("{}: {}", cannot(), said.trim())))
}

/// Whether something runs that works through crontabs.
#[must_use]
pub fn cron_runs() -> bool {
    let names = [
        "cron",
        "crond",
        "cronie",
        "fcron",
        "dcron",
        "busybox-crond",
        "systemd-cron",
    ];
    let processes = procfs::process::all_processes().into_iter().flatten();
    processes.flatten().any(|process| {
        process
            .stat()
            .is_ok_and(|stat| names.contains(&stat.comm.as_str()))
    })
}

/// Whether systemd is this host's first process.
#[must_use]
pub fn systemd_runs() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// The lines of a crontab. System crontabs name a user between the time and the command.
fn lines(text: &str, place: &str, names_user: bool) -> Vec<Scheduled> {
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        let is_setting = line
            .split_once('=')
            .is_some_and(|(name, _)| !name.trim().contains(' '));
        if line.is_empty() || line.starts_with('#') || is_setting {
            continue;
        }
        let fields = if line.starts_with('@') { 1 } else { 5 };
        let Some((when, mut command)) = split_fields(line, fields) else {
            continue;
        };
        if names_user {
            let Some((_, rest)) = split_fields(command, 1) else {
                continue;
            };
            command = rest;
        }
        found.push(Scheduled {
            place: place.to_owned(),
            when: when.to_owned(),
            command: command.to_owned(),
            by_systemd: false,
            enabled: true,
            exactly: None,
        });
    }
    found
}

/// The first `count` fields of a line, and the rest.
fn split_fields(line: &str, count: usize) -> Option<(&str, &str)> {
    let mut at = 0;
    for _ in 0..count {
        let rest = &line[at..];
        let begin = rest.len() - rest.trim_start().len();
        let length = rest[begin..].find(char::is_whitespace)?;
        at += begin + length;
    }
    Some((line[..at].trim(), line[at..].trim()))
}

/// A crontab's time with the words that croner does not know in numbers.
fn cron_expression(when: &str) -> Option<String> {
    Some(match when {
        "@hourly" => "0 * * * *".to_owned(),
        "@daily" | "@midnight" => "0 0 * * *".to_owned(),
        "@weekly" => "0 0 * * 0".to_owned(),
        "@monthly" => "0 0 1 * *".to_owned(),
        word if word.starts_with('@') => return None,
        other => other.to_owned(),
    })
}

/// The `OnCalendar` expressions that are in use for backups, as a crontab would write them.
fn calendar_as_cron(when: &str) -> Option<String> {
    let word = format!("@{when}");
    if let Some(expression) = cron_expression(&word) {
        return Some(expression);
    }
    let time = when.strip_prefix("*-*-* ").unwrap_or(when);
    let mut parts = time.split(':');
    let (hour, minute) = (parts.next()?, parts.next()?);
    let number = |text: &str| text == "*" || text.parse::<u8>().is_ok();
    (number(hour) && number(minute)).then(|| format!("{minute} {hour} * * *"))
}

fn unit_folders() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let mut folders: Vec<PathBuf> = ["/etc/systemd/system", "/usr/lib/systemd/system"]
        .iter()
        .map(PathBuf::from)
        .collect();
    folders.extend(home.map(|home| home.join(".config/systemd/user")));
    folders
}

/// The timers in a folder of units, with what their services run.
fn timers(folder: &Path) -> Vec<Scheduled> {
    let mut found = Vec::new();
    for timer in files_in(folder) {
        if timer.extension().is_none_or(|end| end != "timer") {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(&timer) else {
            continue;
        };
        let service = setting(&text, "Unit")
            .map_or_else(|| timer.with_extension("service"), |unit| folder.join(unit));
        let command = std::fs::read_to_string(service)
            .ok()
            .and_then(|text| in_folder(&text));
        let Some(command) = command else {
            continue;
        };
        let name = timer.file_name().unwrap_or_default();
        found.push(Scheduled {
            when: setting(&text, "OnCalendar").unwrap_or_default(),
            command,
            exactly: setting(&text, "Cron")
                .zip(setting(&text, "TimeZone").and_then(|zone| zone.parse().ok())),
            by_systemd: true,
            enabled: folder
                .join("timers.target.wants")
                .join(name)
                .symlink_metadata()
                .is_ok(),
            place: timer.display().to_string(),
        });
    }
    found
}

/// What a service runs, as a shell would be told.
fn in_folder(service: &str) -> Option<String> {
    let command = setting(service, "ExecStart")?;
    Some(match setting(service, "WorkingDirectory") {
        Some(folder) => format!("cd {folder} && {command}"),
        None => command,
    })
}

fn setting(unit: &str, name: &str) -> Option<String> {
    unit.lines()
        .find_map(|line| {
            line.trim()
                .strip_prefix(name)?
                .trim_start()
                .strip_prefix('=')
        })
        .map(|value| value.trim().to_owned())
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crontabs_are_read_as_cron_does() {
        let text = "# c\nMAILTO=x\n15 3 * * *  cd /srv && /usr/bin/k1ops backup >>log 2>&1\n\
                    @daily k1ops list\n";
        let found = lines(text, "p", false);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].when, "15 3 * * *");
        assert_eq!(found[0].program("k1ops"), Some("/usr/bin/k1ops".into()));
        assert_eq!(found[1].command, "k1ops list");
        let of_system = lines("0 1 * * * root k1ops backup\n", "p", true);
        assert_eq!(of_system[0].command, "k1ops backup");
    }

    #[test]
    fn a_crontab_that_cannot_be_read_is_not_taken_for_none() {
        for none in [
            "no crontab for root\n",
            "crontab: no crontab for k1\n",
            "crontab: can't open 'root': No such file or directory\n",
        ] {
            assert!(says_none(none), "{none}");
        }
        for there in [
            "",
            "crontab: can't open 'root': Permission denied\n",
            "crontab: can't open '/etc/passwd': No such file or directory\n",
            "root: can't open your crontab file.\n",
            "tabs/root: Input/output error\n",
        ] {
            assert!(!says_none(there), "{there}");
        }
    }

    #[test]
    fn the_last_run_that_was_due_is_known() {
        let now = Utc::now();
        for (when, by_systemd, hours) in [("@hourly", false, 1), ("daily", true, 24)] {
            let scheduled = Scheduled {
                place: String::new(),
                when: when.to_owned(),
                command: String::new(),
                by_systemd,
                enabled: true,
                exactly: None,
            };
            let (last, apart) = scheduled.last_due(now).unwrap();
            assert!(
                last < now && now - last <= TimeDelta::hours(hours),
                "{when}"
            );
            assert!((apart.num_hours() - hours).abs() <= 1, "{when}");
        }
        assert_eq!(calendar_as_cron("*-*-* 03:15:00").unwrap(), "15 03 * * *");
        assert_eq!(calendar_as_cron("Mon..Fri 12"), None);
    }
}
