//! The files that a validation leaves.

use super::html;
use super::not_a_report;
use crate::adapters::fs;
use crate::error::{Context as _, ErrorKind, Result};
use crate::stack::Stack;
use crate::validate::{Comparison, Report, junit};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// As many earlier runs still say something.
const MOST_EARLIER: usize = 30;

/// Where the reports were written.
#[derive(Debug, Serialize)]
pub(super) struct Written {
    /// Everything, with every sample.
    pub(super) metrics: PathBuf,
    /// Without samples.
    pub(super) summary: PathBuf,
    pub(super) junit: PathBuf,
    pub(super) html: PathBuf,
}

/// Reads an earlier report.
pub(super) fn read(path: &Path) -> Result<Report> {
    let text = std::fs::read(path).context_kind(ErrorKind::Usage, || {
        format!("report {} cannot be read", path.display())
    })?;
    serde_json::from_slice(&text).map_err(|error| not_a_report(path, error))
}

/// Writes all reports, the page with the trend over earlier runs.
pub(super) fn write(
    report: &Report,
    comparison: Option<&Comparison>,
    stack: &Stack,
    output: &Path,
) -> Result<Written> {
    let metrics = stack.folder.join("metrics");
    let stamp = report.started_at.format("%Y%m%dT%H%M%S%3fZ");
    let written = Written {
        metrics: metrics.join(format!("validate-{stamp}.json")),
        summary: output.join("validate.json"),
        junit: output.join("validate.xml"),
        html: output.join("validate.html"),
    };
    let earlier = earlier(&metrics);
    let mut summary = report.clone();
    for tier in &mut summary.tiers {
        tier.samples.clear();
    }
    for (path, report) in [(&written.metrics, report), (&written.summary, &summary)] {
        let text = serde_json::to_vec_pretty(report).context(|| "the report is not JSON")?;
        fs::write_atomically(path, &text)?;
    }
    fs::write_atomically(&written.junit, junit(report).as_bytes())?;
    let page = html::page(report, comparison, &earlier);
    fs::write_atomically(&written.html, page.as_bytes())?;
    Ok(written)
}

/// Earlier reports, the oldest first. What is not one, perhaps of another version, is left out.
fn earlier(metrics: &Path) -> Vec<Report> {
    let entries = std::fs::read_dir(metrics).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| !fs::is_half_written(path))
        .collect();
    paths.sort();
    let from = paths.len().saturating_sub(MOST_EARLIER);
    let reports = paths[from..].iter().filter_map(|path| read(path).ok());
    reports.collect()
}
