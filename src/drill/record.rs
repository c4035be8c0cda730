//! How the last drill ended, in the stack's `run/drill.json`.

use super::DrillReport;
use crate::adapters::fs;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::stack::{Stack, Tier};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The outcome of a drill.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// When it began.
    pub at: DateTime<Utc>,
    /// The backup brought back a stack that works.
    pub passed: bool,
    /// The archive's name.
    #[serde(default)]
    pub archive: String,
    /// Why it failed.
    pub reason: Option<String>,
    /// The tier that it was restored on.
    pub tier: Option<Tier>,
    /// Seconds from the beginning of the restore to honest health.
    pub rto_seconds: Option<f64>,
    /// Rows that were compared.
    pub rows: Option<u64>,
    /// A workflow that was brought to its end.
    pub completed_workflow: Option<String>,
}

impl Record {
    pub(super) fn passed(at: DateTime<Utc>, report: &DrillReport) -> Self {
        Self {
            at,
            passed: true,
            archive: name_of(&report.archive),
            reason: None,
            tier: Some(report.tier),
            rto_seconds: Some(report.rto_seconds),
            rows: Some(report.rows),
            completed_workflow: report.work.as_ref().map(|work| work.completed.clone()),
        }
    }

    pub(super) fn failed(at: DateTime<Utc>, archive: &Path, error: &Error) -> Self {
        let mut reason = vec![error.to_string()];
        reason.extend(error.causes());
        Self {
            at,
            passed: false,
            archive: name_of(archive),
            reason: Some(reason.join(": ")),
            tier: None,
            rto_seconds: None,
            rows: None,
            completed_workflow: None,
        }
    }

    pub(super) fn write(&self, stack: &Stack) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).context(|| "the drill cannot be recorded")?;
        fs::write_atomically(&file(stack), &text)
    }
}

/// How the last drill of a stack ended, if there was one.
pub fn read(stack: &Stack) -> Result<Option<Record>> {
    let file = file(stack);
    match std::fs::read(&file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context(|| format!("{} cannot be read", file.display())),
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .context_kind(ErrorKind::BadData, || {
                format!("{} is no record", file.display())
            }),
    }
}

fn file(stack: &Stack) -> PathBuf {
    stack.folder.join("run").join("drill.json")
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
