//! How workflows and plans are shown.

use super::super::Context;
use crate::conductor::FoundWorkflow;
use crate::error::Result;
use crate::plan::{Plan, TaskView, WorkflowView};
use crate::ui::{self, Table, Tone, Ui};
use serde::Serialize;
use std::time::Duration;

/// One workflow with its tasks.
pub(super) fn view(view: &WorkflowView, context: &Context) -> Result<()> {
    context.ui.result(view, |ui, text| {
        let tasks = &view.tasks;
        let done = tasks.iter().filter(|task| task.status == "COMPLETED");
        text.push_str(&format!(
            "{} {} ({}): {} of {} begun tasks completed\n",
            ui.paint(tone(&view.status), &view.status),
            view.name,
            view.workflow_id,
            done.count(),
            tasks.len()
        ));
        if let Some(reason) = &view.reason {
            text.push_str(&format!("  {}\n", ui::printable(reason)));
        }
        let mut table = Table::new(&["task", "agent", "status", "try", "started", "took"]);
        table = table.numbers(&[3, 5]);
        for task in tasks {
            table.row(row(ui, task));
        }
        text.push_str(&table.render());
        text.push('\n');
    })
}

fn row(ui: &Ui, task: &TaskView) -> [String; 6] {
    let took = task.seconds().filter(|s| s.is_finite() && *s >= 0.0);
    [
        task.id.clone(),
        task.agent.clone(),
        ui.paint(tone(&task.status), &task.status),
        task.attempt.to_string(),
        task.started_at.map(ui::time).unwrap_or_default(),
        took.map(|s| ui::duration(Duration::from_secs_f64(s)))
            .unwrap_or_default(),
    ]
}

fn tone(status: &str) -> Tone {
    match status {
        "COMPLETED" => Tone::Good,
        "RUNNING" | "IN_PROGRESS" | "SCHEDULED" | "PAUSED" => Tone::Warn,
        _ => Tone::Bad,
    }
}

#[derive(Debug, Serialize)]
struct Listed {
    workflow_id: String,
    name: String,
    status: String,
    started_at: Option<String>,
    ended_at: Option<String>,
    /// `server`, or `direct` for tier 3.
    place: &'static str,
}

/// Workflows of the server and of tier 3, the newest first.
pub(super) fn list(
    found: &[FoundWorkflow],
    local: &[WorkflowView],
    limit: usize,
    context: &Context,
) -> Result<()> {
    let of_server = found.iter().map(|workflow| Listed {
        workflow_id: workflow.workflow_id.clone(),
        name: workflow.workflow_type.clone(),
        status: workflow.status.name().to_owned(),
        started_at: workflow.start_time.clone(),
        ended_at: workflow.end_time.clone(),
        place: "server",
    });
    let moment =
        |at: chrono::DateTime<chrono::Utc>| at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    let of_here = local.iter().map(|view| Listed {
        workflow_id: view.workflow_id.clone(),
        name: view.name.clone(),
        status: view.status.clone(),
        started_at: view.started_at.map(moment),
        ended_at: view.ended_at.map(moment),
        place: "direct",
    });
    let mut all: Vec<Listed> = of_server.chain(of_here).collect();
    all.sort_by(|a, b| b.started_at.cmp(&a.started_at));
    all.truncate(limit);
    context.ui.result(&all, |ui, text| {
        if all.is_empty() {
            text.push_str("No workflows yet; `k1ops workflow run PLAN` starts one.\n");
            return;
        }
        let mut table = Table::new(&["workflow", "name", "status", "started", "where"]);
        for one in &all {
            table.row([
                one.workflow_id.clone(),
                ui::printable(&one.name),
                ui.paint(tone(&one.status), &one.status),
                one.started_at.clone().unwrap_or_default(),
                one.place.to_owned(),
            ]);
        }
        text.push_str(&table.render());
        text.push('\n');
    })
}

#[derive(Debug, Serialize)]
struct Order<'a> {
    name: &'a str,
    version: u32,
    tasks: Vec<Ordered<'a>>,
}

#[derive(Debug, Serialize)]
struct Ordered<'a> {
    id: &'a str,
    title: &'a str,
    agent: &'a str,
    depends_on: &'a [String],
    /// How many tasks at least have to end before, one after the other.
    level: usize,
    gates: usize,
}

/// A plan's tasks in the order in which they can begin.
pub(super) fn order(plan: &Plan, context: &Context) -> Result<()> {
    let levels = plan.levels();
    let tasks = plan.in_order().into_iter().map(|task| Ordered {
        id: &task.id,
        title: &task.title,
        agent: &task.agent,
        depends_on: &task.depends_on,
        level: levels.get(task.id.as_str()).copied().unwrap_or_default(),
        gates: task.gates.len(),
    });
    let order = Order {
        name: &plan.name,
        version: plan.version,
        tasks: tasks.collect(),
    };
    context.ui.result(&order, |_, text| {
        let (name, count) = (order.name, order.tasks.len());
        text.push_str(&format!(
            "{name} version {}: {count} tasks\n",
            order.version
        ));
        let headings = ["level", "task", "title", "agent", "waits for", "gates"];
        let mut table = Table::new(&headings).numbers(&[0, 5]);
        for task in &order.tasks {
            table.row([
                task.level.to_string(),
                task.id.to_owned(),
                ui::printable(task.title),
                task.agent.to_owned(),
                task.depends_on.join(", "),
                task.gates.to_string(),
            ]);
        }
        text.push_str(&table.render());
        text.push('\n');
    })
}
