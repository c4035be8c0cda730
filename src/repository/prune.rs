//! Deleting what retention gives up, one whole file after the other.
//!
//! A file goes with one call of the system, so that a death in the middle leaves every archive
//! either whole or gone. Where the newest backup is suddenly small, nothing goes at all: the older
//! ones may be the only ones that still hold the data.

use super::retention::{Candidate, Class, Verdict, judge};
use super::{Entry, Kind, LogVerdict, Purpose, Repository, State, WriteAccess};
use crate::adapters::time_zone;
use crate::config::{Keep, ProofKind};
use crate::error::{Context, Error, Result};
use crate::event::{Events, Unit};
use crate::interrupt::Interrupt;
use crate::stack::Stack;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How many earlier backups say what is usual.
const EARLIER: usize = 5;

/// What is asked of a pruning.
#[derive(Debug, Clone)]
pub struct PruneOptions {
    /// The stack whose archives are judged.
    pub stack: String,
    /// The rules.
    pub keep: Keep,
    /// What proves an archive.
    pub proof: ProofKind,
    /// Alarm below this share of the usual size or row count, in percent; 0: never.
    pub shrink_alarm: u8,
    /// Take the newest backup's size and row count as usual from now on.
    pub accept_shrink: bool,
    /// The time zone of days, weeks and months, as the configuration writes it.
    pub timezone: String,
}

impl PruneOptions {
    /// What a stack's configuration asks for.
    #[must_use]
    pub fn of(stack: &Stack) -> Self {
        let backup = &stack.config.backup;
        Self {
            stack: stack.name.clone(),
            keep: backup.keep.clone(),
            proof: backup.proof,
            shrink_alarm: backup.shrink_alarm,
            accept_shrink: false,
            timezone: stack.config.timezone.clone(),
        }
    }
}

/// What would be kept and what would be deleted.
#[derive(Debug, Clone, Serialize)]
pub struct PrunePlan {
    /// The repository.
    pub repository: PathBuf,
    /// The stack.
    pub stack: String,
    /// The time zone of days, weeks and months.
    pub time_zone: String,
    /// The rules.
    pub rules: Keep,
    /// What proves an archive.
    pub proof: ProofKind,
    /// Every archive of the stack, newest first.
    pub archives: Vec<Verdict>,
    /// The write-ahead log of the stack's servers.
    pub wal: Vec<LogVerdict>,
}

impl PrunePlan {
    /// The archives that go, newest first.
    #[must_use]
    pub fn goes(&self) -> impl DoubleEndedIterator<Item = &Verdict> {
        self.archives.iter().filter(|verdict| !verdict.keep)
    }

    /// How many bytes that frees.
    #[must_use]
    pub fn frees(&self) -> u64 {
        let archives: u64 = self.goes().map(|verdict| verdict.size).sum();
        archives + self.wal.iter().map(|log| log.frees).sum::<u64>()
    }

    /// How many files of the write-ahead log go.
    #[must_use]
    pub fn log_files(&self) -> usize {
        self.wal.iter().map(|log| log.goes.len()).sum()
    }
}

/// What is usual, kept for as long as an alarm lasts, and what was accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Usual {
    /// Size in bytes and rows before the fall that is alarmed.
    before: Option<Measure>,
    /// Backups from here on say what is usual.
    accepted_since: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Measure {
    size: u64,
    rows: u64,
}

impl Repository {
    /// Judges the archives of a stack. With write access, an alarm is remembered.
    ///
    /// Fails with [`crate::error::ErrorKind::BadData`] if the newest backup is suddenly small.
    pub fn plan_prune(
        &self,
        options: &PruneOptions,
        access: Option<&WriteAccess>,
    ) -> Result<PrunePlan> {
        let zone = time_zone::named(&options.timezone)?;
        let mut entries = self.list()?;
        entries.retain(|entry| entry.stack.as_deref() == Some(&options.stack));
        // Neither kind stands in for the other, so each is kept by the rules on its own.
        let (mut candidates, mut physical) = (Vec::new(), Vec::new());
        for entry in &entries {
            let list = match entry.kind {
                Some(Kind::Physical) => &mut physical,
                _ => &mut candidates,
            };
            list.extend(self.candidate(entry, options.proof)?);
        }
        let now = Utc::now();
        let mut archives = judge(candidates, &options.keep, zone, now)?;
        archives.extend(judge(physical, &options.keep, zone, now)?);
        archives.sort_by(|a, b| (b.time, &b.name).cmp(&(a.time, &a.name)));
        self.keep_locked(&mut archives, now)?;
        let goes = archives.iter().filter(|verdict| !verdict.keep);
        let goes: Vec<&str> = goes.map(|verdict| verdict.name.as_str()).collect();
        let wal = self.judge_log(&options.stack, &goes)?;
        self.require_usual_size(&entries, options, access)?;
        Ok(PrunePlan {
            repository: self.place().to_path_buf(),
            stack: options.stack.clone(),
            time_zone: zone.name().to_owned(),
            rules: options.keep.clone(),
            proof: options.proof,
            wal,
            archives,
        })
    }

    /// What is locked would only be hidden.
    fn keep_locked(&self, archives: &mut [Verdict], now: DateTime<Utc>) -> Result<()> {
        for verdict in archives.iter_mut().filter(|verdict| !verdict.keep) {
            let until = self.shelf.locked_until(&verdict.name)?;
            if let Some(until) = until.filter(|until| *until > now) {
                verdict.keep = true;
                let until = until.format("%Y-%m-%d %H:%M UTC");
                verdict.reasons = vec![format!("it is locked until {until}")];
            }
        }
        Ok(())
    }

    /// Deletes what the plan gives up, oldest first. The plan was made under the same lock.
    pub fn execute_prune(
        &self,
        plan: &PrunePlan,
        options: &PruneOptions,
        access: &WriteAccess,
        events: &Events,
        interrupt: &Interrupt,
    ) -> Result<()> {
        if options.accept_shrink {
            self.accept(&options.stack)?;
        }
        let step = "deleting archives";
        let total = plan.goes().count() as u64;
        if total == 0 {
            return self.prune_log(&plan.wal, events, interrupt);
        }
        events.started(step);
        for (done, verdict) in (1..).zip(plan.goes().rev()) {
            interrupt.check()?;
            access.check()?;
            self.shelf.remove(&verdict.name)?;
            // The other way round, a death in between would leave an archive that was good unproven.
            self.forget_proof(&verdict.name)?;
            events.progress(step, done, Some(total), Unit::Items);
        }
        self.shelf.settle()?;
        events.finished(step, format!("{total} archives"));
        self.prune_log(&plan.wal, events, interrupt)
    }

    /// Judges and deletes, as the only writer meanwhile.
    pub async fn prune(
        &self,
        options: &PruneOptions,
        events: &Events,
        interrupt: &Interrupt,
    ) -> Result<PrunePlan> {
        let purpose = format!("prune of stack {}", options.stack);
        let access = self.write_access(&purpose).await?;
        let plan = self.plan_prune(options, Some(&access))?;
        self.execute_prune(&plan, options, &access, events, interrupt)?;
        Ok(plan)
    }

    /// What is to be judged of one file; `None` for what a backup is writing, or left.
    fn candidate(&self, entry: &Entry, kind: ProofKind) -> Result<Option<Candidate>> {
        // No drill is made of the data directory of a server by URL.
        let kind = match entry.kind {
            Some(Kind::Physical) => ProofKind::Verify,
            _ => kind,
        };
        let class = match &entry.state {
            State::Incomplete { .. } => return Ok(None),
            State::Unreadable { reason } => Class::Odd(format!("it is no backup: {reason}")),
            State::Good | State::Sealed { .. } => {
                let proof = self.proof(entry)?;
                match (&proof.failure, entry.purpose) {
                    (Some(failure), _) => Class::Odd(format!("it is no backup: {failure}")),
                    (None, Purpose::Safety) => Class::Safety,
                    (None, Purpose::Backup) => Class::Backup {
                        proven: proof.passed(kind).is_some(),
                    },
                }
            }
        };
        let Some(time) = entry.time else {
            return Ok(None);
        };
        Ok(Some(Candidate {
            name: entry.name.clone(),
            time,
            size: entry.size,
            class,
        }))
    }

    fn require_usual_size(
        &self,
        entries: &[Entry],
        options: &PruneOptions,
        access: Option<&WriteAccess>,
    ) -> Result<()> {
        let good: Vec<&Entry> = good(entries).collect();
        let Some((newest, earlier)) = good.split_first() else {
            return Ok(());
        };
        if options.shrink_alarm == 0 || options.accept_shrink {
            return Ok(());
        }
        let usual = self.usual(&options.stack)?;
        let before = usual.before.or_else(|| {
            let since = earlier
                .iter()
                .filter(|entry| entry.time >= usual.accepted_since);
            median(&since.copied().take(EARLIER).collect::<Vec<_>>())
        });
        let (Some(before), now) = (before, measure(newest)) else {
            return Ok(());
        };
        let percent = u64::from(options.shrink_alarm);
        let fell = |before: u64, now: u64| {
            u128::from(now) * 100 < u128::from(before) * u128::from(percent)
        };
        // Rows of an archive whose key is elsewhere are not known.
        let fewer_rows = newest.rows.is_some() && fell(before.rows, now.rows);
        let alarmed = fell(before.size, now.size) || fewer_rows;
        // An alarm is not got used to: what was usual before it stays the measure until the data
        // is back, or somebody says that this is how it should be.
        let kept = alarmed.then_some(before);
        if access.is_some() && usual.before != kept {
            self.remember_usual(
                &options.stack,
                &Usual {
                    before: kept,
                    ..usual
                },
            )?;
        }
        if !alarmed {
            return Ok(());
        }
        Err(Error::bad_data(format!(
            "nothing is pruned: the newest backup {} has {} rows in {} bytes, and before it were \
             {} rows in {} bytes",
            newest.name, now.rows, now.size, before.rows, before.size
        ))
        .hint(
            "Find out where the data went; if this is how it should be, run `k1ops prune \
             --accept-shrink`.",
        ))
    }

    fn accept(&self, stack: &str) -> Result<()> {
        let entries = self.list()?;
        let newest = good(&entries).find(|entry| entry.stack.as_deref() == Some(stack));
        let accepted_since = newest.and_then(|entry| entry.time);
        self.remember_usual(
            stack,
            &Usual {
                before: None,
                accepted_since,
            },
        )
    }

    fn usual(&self, stack: &str) -> Result<Usual> {
        let text = self.shelf.note(&usual_file(stack))?;
        let read = |text: Vec<u8>| serde_json::from_slice(&text).unwrap_or_default();
        Ok(text.map(read).unwrap_or_default())
    }

    fn remember_usual(&self, stack: &str, usual: &Usual) -> Result<()> {
        let text = serde_json::to_vec_pretty(usual).context(|| "a note cannot be written")?;
        self.shelf.write_note(&usual_file(stack), &text)
    }
}

fn usual_file(stack: &str) -> String {
    format!(".usual-size-{stack}.json")
}

/// The good backups that are told by rows, if there are any: the size of a data directory says little.
fn good(entries: &[Entry]) -> impl Iterator<Item = &Entry> {
    let now = Utc::now();
    let is_good = move |entry: &&Entry| {
        entry.state.is_good() && entry.purpose == Purpose::Backup && !entry.is_ahead(now)
    };
    let logical = |entry: &Entry| entry.kind == Some(Kind::Logical);
    let any_logical = entries.iter().any(|e| is_good(&e) && logical(e));
    entries
        .iter()
        .filter(move |entry| is_good(entry) && (logical(entry) || !any_logical))
}

fn measure(entry: &Entry) -> Measure {
    Measure {
        size: entry.size,
        rows: entry.rows.unwrap_or_default(),
    }
}

fn median(entries: &[&Entry]) -> Option<Measure> {
    let middle = |of: fn(Measure) -> u64| {
        let mut values: Vec<u64> = entries.iter().map(|entry| of(measure(entry))).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied()
    };
    Some(Measure {
        size: middle(|m| m.size)?,
        rows: middle(|m| m.rows)?,
    })
}
