//! A data directory brought to a moment: the newest physical backup that ended before it, and the
//! write-ahead log from there on.
//!
//! Everything that recovery will read is read before anything is laid down, so that a gap or a moment
//! that cannot be reached is found out while nothing has happened yet.

use super::moment::Moment;
use super::physical::Recovery;
use super::to_folder::{FolderOptions, FolderPlan, planned};
use crate::adapters::process::own_program;
use crate::archive::{Archive, PhysicalSource};
use crate::error::{Context, Error, Result};
use crate::interrupt::Interrupt;
use crate::repository::{Entry, LATEST, Repository};
use crate::stack::Stack;
use crate::wal::{Base, Chain, Reached, Store, parse_lsn};
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::path::Path;

/// What the server does once it has got to the moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AtTarget {
    /// Take writes, on a timeline of its own.
    #[default]
    Promote,
    /// Take questions only, until somebody says `SELECT pg_wal_replay_resume()`.
    Pause,
    /// Stop.
    Shutdown,
}

impl AtTarget {
    /// The server's word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::Pause => "pause",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Which moment, and how.
#[derive(Debug, Clone, Default)]
pub struct TimeOptions {
    /// The moment, as people write it.
    pub to: String,
    /// The timeline to follow; `None`: the newest that the backup leads to.
    pub timeline: Option<u32>,
    /// What the server does then.
    pub at_target: AtTarget,
    /// Put the log into the data directory.
    pub copy_wal: bool,
}

/// How the data directory gets to its moment.
#[derive(Debug, Clone, Serialize)]
pub struct RecoveryPlan {
    /// The moment.
    pub moment: DateTime<Utc>,
    /// As it was said, with its time zone.
    pub shown: String,
    /// When the backup that it begins with had ended.
    pub base_ended: DateTime<Utc>,
    /// Where the server stops.
    pub stop: Reached,
    /// The timeline that it follows.
    pub timeline: u32,
    /// How many segments of the log it reads.
    pub segments: usize,
    /// The first of them.
    pub first: Option<String>,
    /// The last of them.
    pub last: Option<String>,
    /// What the server does then.
    pub at_target: AtTarget,
    /// The log is put into the data directory.
    pub copy_wal: bool,
}

/// Chooses the backup, reads the log, and plans. Without a folder, the data directory goes into one of
/// the stack's own.
pub async fn plan_time(
    stack: &Stack,
    options: &FolderOptions,
    time: &TimeOptions,
    interrupt: &Interrupt,
) -> Result<FolderPlan> {
    let moment = Moment::parse(&time.to, &stack.config.timezone)?;
    let repository = Repository::of(stack)?;
    let archive = choose(&repository, stack, &options.archive, moment.at)?;
    let mut options = options.clone();
    if options.folder.as_os_str().is_empty() {
        let name = moment.at.format("%Y%m%dT%H%M%S%.fZ").to_string();
        options.folder = stack.folder.join("point-in-time").join(name);
    }
    let mut plan = planned(stack, &options, archive)?;
    let (time, interrupt) = (time.clone(), interrupt.clone());
    let (source, folder) = (plan.source.clone(), repository.log_folder().to_path_buf());
    let ended = plan.opened.manifest().finished_at;
    let elsewhere = repository.log_elsewhere()?;
    let reading = tokio::task::spawn_blocking(move || {
        // A host that took over from one that is lost has nothing of it yet.
        if let Some(log) = elsewhere {
            log.fetch(&source.system_identifier, start_of(&source)?)?;
        }
        reach(&folder, &source, moment, ended, &time, &interrupt)
    });
    let (recovery, how) = reading
        .await
        .context(|| "the thread that reads the log died")??;
    plan.recovery = Some(recovery);
    plan.how_to_recover = Some(how);
    Ok(plan)
}

/// The archive that is named, or the newest whose backup ended before the moment.
fn choose(
    repository: &Repository,
    stack: &Stack,
    wanted: &str,
    moment: DateTime<Utc>,
) -> Result<Archive> {
    if wanted != LATEST {
        let archive = repository.open(&repository.find(wanted, &stack.name)?)?;
        let ended = archive.manifest().finished_at;
        if archive.manifest().physical().next().is_some() && ended > moment {
            return Err(Error::refused(format!(
                "the backup in {} ended at {ended}, after that moment",
                archive.path().display()
            ))
            .hint("Leave the archive away: the newest that ended before the moment is taken."));
        }
        return Ok(archive);
    }
    let mut earliest: Option<DateTime<Utc>> = None;
    for entry in repository.list()? {
        if !is_base(&entry, &stack.name) {
            continue;
        }
        let archive = repository.open(&entry.path)?;
        let ended = archive.manifest().finished_at;
        if ended <= moment {
            return Ok(archive);
        }
        earliest = Some(earliest.map_or(ended, |e| e.min(ended)));
    }
    let error = Error::missing(format!(
        "no physical backup of stack {} ended before {moment}",
        stack.name
    ));
    Err(match earliest {
        Some(earliest) => error.hint(format!(
            "The earliest moment that can be restored is {earliest}, when the oldest one had ended."
        )),
        None => {
            error.hint("Take one with `k1ops backup --physical`, and let `k1ops wal stream` run.")
        }
    })
}

fn is_base(entry: &Entry, stack: &str) -> bool {
    entry.is_backup_of(stack) && !entry.bases.is_empty()
}

/// Where the log begins that a data directory needs.
fn start_of(source: &PhysicalSource) -> Result<u64> {
    parse_lsn(&source.start_lsn).ok_or_else(|| {
        Error::bad_data(format!(
            "the archive says that its backup begins at {:?}, which is no position",
            source.start_lsn
        ))
    })
}

/// Where the log of a data directory goes on.
pub(super) fn base_of(source: &PhysicalSource) -> Result<Base> {
    let end = parse_lsn(&source.end_lsn).ok_or_else(|| {
        Error::bad_data(format!(
            "the archive says that its backup ends at {:?}, which is no position",
            source.end_lsn
        ))
    })?;
    Ok(Base {
        timeline: source.timeline,
        end,
    })
}

fn reach(
    repository: &Path,
    source: &PhysicalSource,
    moment: Moment,
    base_ended: DateTime<Utc>,
    options: &TimeOptions,
    interrupt: &Interrupt,
) -> Result<(RecoveryPlan, Recovery)> {
    let system = &source.system_identifier;
    let store = Store::find(repository, system)?.ok_or_else(|| {
        Error::missing(format!(
            "there is no write-ahead log of cluster {system} in {}",
            repository.display()
        ))
        .hint("Let `k1ops wal stream` run from before a backup on; then moments after the backup can be restored.")
    })?;
    let base = base_of(source)?;
    let chain = Chain::from(&store, base, options.timeline)?;
    let reach = chain.reach(base, moment.at, interrupt)?;
    let plan = RecoveryPlan {
        moment: moment.at,
        shown: moment.shown,
        base_ended,
        stop: reach.stop.clone(),
        timeline: reach.timeline,
        segments: reach.segments.len(),
        first: reach.segments.first().cloned(),
        last: reach.segments.last().cloned(),
        at_target: options.at_target,
        copy_wal: options.copy_wal,
    };
    let program = own_program();
    let mut files = reach.segments;
    files.extend((2..=reach.timeline).map(|timeline| format!("{timeline:08X}.history")));
    let recovery = Recovery {
        settings: settings(&plan),
        restore_command: restore_command(&program, repository, system)?,
        program,
        store,
        files,
        copy: options.copy_wal,
    };
    Ok((plan, recovery))
}

/// What the server is told, besides where its log comes from.
fn settings(plan: &RecoveryPlan) -> String {
    let target = match &plan.stop {
        Reached::Time => {
            let moment = plan.moment.format("%Y-%m-%d %H:%M:%S%.6f+00");
            format!("recovery_target_time = '{moment}'")
        }
        Reached::Position(lsn) => format!("recovery_target_lsn = '{lsn}'"),
        Reached::Base => "recovery_target = 'immediate'".to_owned(),
    };
    // A copy that archives would write its own future into the repository of the live server.
    format!(
        "{target}\n\
         recovery_target_inclusive = 'on'\n\
         recovery_target_timeline = '{}'\n\
         recovery_target_action = '{}'\n\
         archive_mode = 'off'\n",
        plan.timeline,
        plan.at_target.word()
    )
}

/// A line of the shell. It reads no configuration: the server's user may not be allowed to.
fn restore_command(program: &Path, repository: &Path, system: &str) -> Result<String> {
    let absolute = std::path::absolute(repository)
        .context(|| format!("{} is no path", repository.display()))?;
    let word = |path: &Path| -> Result<String> {
        let text = path.to_str().filter(|text| !text.contains(['\n', '\r']));
        let text = text.ok_or_else(|| {
            Error::usage(format!("{} cannot be put into a setting", path.display()))
                .hint("Use a path in UTF-8 without line breaks, or add --copy-wal.")
        })?;
        Ok(format!(
            "'{}'",
            text.replace('\'', r"'\''").replace('%', "%%")
        ))
    };
    Ok(format!(
        "{} --config /dev/null wal fetch %f %p --system {system} --repository {}",
        word(program)?,
        word(&absolute)?
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_takes_any_path() {
        let command = restore_command(
            Path::new("/opt/k1 ops/it's"),
            Path::new("/srv/100%"),
            "7000000000000000001",
        )
        .unwrap();
        assert_eq!(
            command,
            r"'/opt/k1 ops/it'\''s' --config /dev/null wal fetch %f %p --system 7000000000000000001 --repository '/srv/100%%'"
        );
    }
}
