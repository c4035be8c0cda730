//! What a monitoring system wants to know of a stack and its backups, in the text format of
//! Prometheus. Everything is a gauge that is read anew each time; nothing is counted in memory.
//!
//! A value that is not known has no sample, so that an alert can tell "never" from "long ago".

use crate::adapters::fs;
use crate::drill;
use crate::error::{Context, Result};
use crate::repository::{Entry, Kind, Purpose, Repository, State};
use crate::schedule::{Fate, Run, Runs};
use crate::stack::{self, Stack};
use crate::wal::note;
use chrono::{DateTime, Utc};
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::Serialize;
use std::path::Path;
use std::sync::atomic::AtomicU64;

/// One value.
#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    /// The metric's name.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// A label of its own, beside that of the stack.
    pub label: Option<(&'static str, String)>,
    /// The value, in seconds, bytes or pieces as the name says.
    pub value: f64,
}

/// What is known of one stack at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct Metrics {
    /// The stack.
    pub stack: String,
    /// The values.
    pub samples: Vec<Sample>,
}

/// Looks. Changes nothing.
pub async fn gather(stack: &Stack) -> Result<Metrics> {
    let mut metrics = Metrics {
        stack: stack.name.clone(),
        samples: Vec::new(),
    };
    let up = stack::status(stack)
        .await
        .is_ok_and(|status| status.is_healthy());
    metrics.add(
        "k1ops_stack_up",
        "Whether a server runs and is well",
        truth(up),
    );
    let repository = Repository::of(stack)?;
    metrics.backups(&repository, stack)?;
    metrics.copies(&repository, stack)?;
    metrics.log(stack)?;
    metrics.runs(&Runs::read(stack)?);
    if let Some(record) = drill::read(stack)? {
        metrics.add(
            "k1ops_drill_timestamp_seconds",
            "When the last drill began",
            seconds(record.at),
        );
        metrics.add(
            "k1ops_drill_success",
            "Whether the last drill passed",
            truth(record.passed),
        );
        if let Some(rto) = record.rto_seconds {
            metrics.add(
                "k1ops_drill_recovery_seconds",
                "From the begin of the restore to honest health in the last drill",
                rto,
            );
        }
    }
    Ok(metrics)
}

impl Metrics {
    /// The values as text that Prometheus reads, as `OpenMetrics` with its end.
    pub fn encode(&self) -> Result<String> {
        let mut text = self.as_textfile()?;
        encode_eof(&mut text).context(|| "the metrics cannot be written")?;
        Ok(text)
    }

    /// The same without the end, as node exporter's textfile collector takes it.
    pub fn as_textfile(&self) -> Result<String> {
        let mut registry = Registry::default();
        let of_stack = [("stack".into(), self.stack.clone().into())];
        let registry_of_stack = registry.sub_registry_with_labels(of_stack.into_iter());
        for sample in &self.samples {
            let gauge = Gauge::<f64, AtomicU64>::default();
            gauge.set(sample.value);
            match &sample.label {
                None => registry_of_stack.register(sample.name, sample.help, gauge),
                Some((label, value)) => registry_of_stack
                    .sub_registry_with_label(((*label).into(), value.clone().into()))
                    .register(sample.name, sample.help, gauge),
            }
        }
        let mut text = String::new();
        encode_registry(&mut text, &registry).context(|| "the metrics cannot be written")?;
        Ok(once_described(&text))
    }

    fn add(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.samples.push(Sample {
            name,
            help,
            label: None,
            value,
        });
    }

    fn backups(&mut self, repository: &Repository, stack: &Stack) -> Result<()> {
        let mut archives = repository.list()?;
        archives.retain(|entry| entry.stack.as_deref() == Some(&stack.name));
        for (state, is) in [
            ("good", State::is_good as fn(&State) -> bool),
            ("incomplete", |state| {
                matches!(state, State::Incomplete { .. })
            }),
            ("unreadable", |state| {
                matches!(state, State::Unreadable { .. })
            }),
        ] {
            let count = archives.iter().filter(|entry| is(&entry.state)).count();
            self.samples.push(Sample {
                name: "k1ops_archives",
                help: "Archives in the repository",
                label: Some(("state", state.to_owned())),
                value: number(count as u64),
            });
        }
        self.add(
            "k1ops_archives_size_bytes",
            "All archives of the stack together",
            number(archives.iter().map(|entry| entry.size).sum()),
        );
        if let Some(folder) = stack.repository_folder() {
            self.add(
                "k1ops_repository_free_bytes",
                "What may still be written to the repository's disk",
                number(fs::free_space(&folder)?),
            );
        }
        let now = Utc::now();
        let is_good = |entry: &&Entry| {
            entry.state.is_good() && entry.purpose == Purpose::Backup && !entry.is_ahead(now)
        };
        if let Some(time) = archives.iter().find(is_good).and_then(|newest| newest.time) {
            self.add(
                "k1ops_backup_timestamp_seconds",
                "When the newest good backup was begun",
                seconds(time),
            );
        }
        // A data directory has no rows that could be counted.
        let has_rows = |entry: &&Entry| is_good(entry) && entry.kind == Some(Kind::Logical);
        let newest = archives.iter().find(has_rows);
        if let Some(newest) = newest.or_else(|| archives.iter().find(is_good)) {
            self.newest(newest);
        }
        let mut proven = archives.iter().filter(is_good);
        let kind = stack.config.backup.proof;
        let is_proven = |entry: &&Entry| {
            repository
                .proof(entry)
                .is_ok_and(|p| p.passed(kind).is_some())
        };
        if let Some(time) = proven.find(is_proven).and_then(|entry| entry.time) {
            self.add(
                "k1ops_backup_proven_timestamp_seconds",
                "When the newest backup that is proven was begun",
                seconds(time),
            );
        }
        Ok(())
    }

    /// What the copies of the repository hold. One that is away has no archives that could be counted.
    fn copies(&mut self, repository: &Repository, stack: &Stack) -> Result<()> {
        if repository.copies().is_empty() {
            return Ok(());
        }
        for copy in repository.copy_status(&stack.name)? {
            let mut add = |name, help, value| {
                self.samples.push(Sample {
                    name,
                    help,
                    label: Some(("copy", copy.name.clone())),
                    value,
                });
            };
            add(
                "k1ops_copy_up",
                "Whether the copy of the repository can be looked at",
                truth(copy.error.is_none()),
            );
            if copy.error.is_none() {
                let lacking = copy.missing.len() + copy.differing.len();
                add(
                    "k1ops_copy_archives",
                    "Archives that the copy holds as the repository does",
                    number(copy.held.len() as u64),
                );
                add(
                    "k1ops_copy_missing",
                    "Archives that the copy lacks, or has otherwise",
                    number(lacking as u64),
                );
            }
        }
        Ok(())
    }

    fn log(&mut self, stack: &Stack) -> Result<()> {
        let Some(log) = note::incoming(&stack.log_folder(), &stack.name)? else {
            return Ok(());
        };
        if let Some(until) = log.received_until {
            self.add(
                "k1ops_wal_received_timestamp_seconds",
                "Until when all of the write-ahead log is in the repository",
                seconds(until),
            );
        }
        self.add(
            "k1ops_wal_streaming",
            "Whether a process receives the write-ahead log",
            truth(log.streaming),
        );
        Ok(())
    }

    fn newest(&mut self, newest: &Entry) {
        self.add(
            "k1ops_backup_size_bytes",
            "The size of the newest good backup",
            number(newest.size),
        );
        if let Some(rows) = newest.rows {
            self.add(
                "k1ops_backup_rows",
                "Rows in the newest good backup",
                number(rows),
            );
        }
    }

    fn runs(&mut self, runs: &Runs) {
        let ended = |run: &&Run| run.fate() != Fate::Running;
        if let Some(last) = runs.runs.iter().rfind(ended) {
            self.add(
                "k1ops_run_timestamp_seconds",
                "When the last scheduled run began",
                seconds(last.started_at),
            );
            self.add(
                "k1ops_run_success",
                "Whether the last scheduled run was good",
                truth(last.fate() == Fate::Good),
            );
            if let Some(ended_at) = last.ended_at {
                self.add(
                    "k1ops_run_duration_seconds",
                    "How long the last scheduled run took",
                    seconds(ended_at) - seconds(last.started_at),
                );
            }
        }
        if let Some(good) = runs.last_good() {
            self.add(
                "k1ops_run_good_timestamp_seconds",
                "When the last good scheduled run began",
                seconds(good.started_at),
            );
        }
    }
}

/// Writes the metrics for node exporter's textfile collector, which sees the old file or the new one.
pub async fn write_textfile(stack: &Stack, file: &Path) -> Result<Metrics> {
    let metrics = gather(stack).await?;
    fs::write_atomically_for_all(file, metrics.as_textfile()?.as_bytes())?;
    Ok(metrics)
}

/// Tells the monitoring systems that there are, each in its file: the one that is configured, and the
/// stack's own. Fails in the end if one could not be told.
pub async fn tell(stack: &Stack) -> Result<()> {
    let configured = &stack.config.metrics.textfile;
    let configured = (!configured.as_os_str().is_empty()).then(|| stack.base.join(configured));
    let own = stack::docker::monitoring::textfile(stack)?;
    let mut told = Ok(());
    for file in configured.iter().chain(&own) {
        told = told.and(write_textfile(stack, file).await.map(drop));
    }
    told
}

/// A metric that has several label values is described before the first of them only.
fn once_described(text: &str) -> String {
    let mut seen = std::collections::HashSet::new();
    let fresh = |line: &&str| !line.starts_with('#') || seen.insert((*line).to_owned());
    text.split_inclusive('\n').filter(fresh).collect()
}

fn truth(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "Prometheus has no other numbers, and loses nothing below 2^53"
)]
fn number(value: u64) -> f64 {
    value as f64
}

#[allow(
    clippy::cast_precision_loss,
    reason = "milliseconds since 1970 are far below 2^53"
)]
fn seconds(time: DateTime<Utc>) -> f64 {
    time.timestamp_millis() as f64 / 1000.0
}
