//! What was done when: the bars of a Gantt chart.

use crate::plan::WorkflowView;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// One task on the time line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bar {
    /// What it is called.
    pub label: String,
    /// How it ended.
    pub status: String,
    /// When it could begin.
    pub scheduled_at: DateTime<Utc>,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: DateTime<Utc>,
}

/// The tasks of a workflow that have ended.
pub(super) fn bars(view: &WorkflowView) -> Vec<Bar> {
    let tasks = view.tasks.iter();
    tasks
        .filter_map(|task| {
            Some(Bar {
                label: task.id.clone(),
                status: task.status.clone(),
                scheduled_at: task.scheduled_at?,
                started_at: task.started_at?,
                ended_at: task.ended_at?,
            })
        })
        .collect()
}
