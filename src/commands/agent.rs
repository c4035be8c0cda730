//! `k1ops agent`.

use super::{Context, read_input};
use crate::agent::{Agents, Assignment, Listed, Outcome, Recorder, Runner, Source};
use crate::error::Result;
use crate::exit_code::ExitCode;
use crate::store::AgentStatus;
use crate::ui::{self, Table, Tone, Ui};
use serde::Serialize;
use serde_json::{Map, Value};
use std::path::PathBuf;
use uuid::Uuid;

/// Run agents directly, without Conductor
///
/// Agents are commands that `[agents.NAME]` in k1ops.toml defines; docs/agents.md has every key.
#[derive(Debug, clap::Args)]
pub struct AgentArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Run(RunArgs),
    List(ListArgs),
}

/// Run one agent now and record what it did
///
/// Shows its output while it works. Exits 1 if it fails, takes too long, reports something that
/// cannot be read, or does not pass a critical gate.
#[derive(Debug, clap::Args)]
struct RunArgs {
    /// The agent
    #[arg(value_name = "NAME")]
    name: String,
    /// The task that it is to do
    #[arg(value_name = "TASK_ID")]
    task_id: String,
    /// Give it this file's JSON object as its input
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Record it under this workflow instead of a new one
    #[arg(long, value_name = "ID")]
    workflow: Option<String>,
}

/// List the agents
#[derive(Debug, clap::Args)]
struct ListArgs {}

/// What `--json` shows of a run.
#[derive(Debug, Serialize)]
struct Shown {
    agent: String,
    task_id: String,
    workflow_id: String,
    execution_id: Uuid,
    status: &'static str,
    failure: Option<String>,
    seconds: f64,
    #[serde(flatten)]
    output: Map<String, Value>,
}

/// Runs or lists.
pub(super) async fn run(args: AgentArgs, context: &Context) -> Result<ExitCode> {
    match args.what {
        What::Run(args) => run_one(args, context).await,
        What::List(ListArgs {}) => list(context),
    }
}

async fn run_one(args: RunArgs, context: &Context) -> Result<ExitCode> {
    let stack = context.stack()?;
    let agents = Agents::of(&stack)?;
    let agent = agents.named(&args.name)?;
    let input = args.input.as_deref().map(read_input).transpose()?;
    let assignment = Assignment {
        workflow_id: args.workflow.unwrap_or_else(|| Uuid::new_v4().to_string()),
        task_id: args.task_id,
        attempt: 1,
        input: input.unwrap_or_default(),
        gates: Vec::new(),
    };
    let recorder = Recorder::open(&stack, &context.events()).await?;
    let source = Source {
        source: "DIRECT".to_owned(),
        metadata: None,
    };
    let mut begun = recorder.begin(&source, agent, &assignment, None).await?;
    let ui = context.ui.clone();
    let lines = move |_, line: &str| ui.say(&ui::printable(line));
    let runner = Runner::default();
    let interrupt = &context.interrupt;
    let run = runner.run(agent, &assignment, &begun.folder, interrupt, &lines);
    let outcome = match run.await {
        Ok(outcome) => outcome,
        Err(error) => {
            recorder.break_off(&mut begun, &error.to_string()).await?;
            Recorder::forget(&begun)?;
            return Err(error);
        }
    };
    recorder.finish(&mut begun, &outcome, None).await?;
    Recorder::forget(&begun)?;
    let shown = Shown {
        agent: agent.name.clone(),
        execution_id: begun.execution(),
        status: outcome.status.name(),
        failure: outcome.failure.clone(),
        seconds: seconds(&outcome),
        output: outcome.output(),
        task_id: assignment.task_id,
        workflow_id: assignment.workflow_id,
    };
    context
        .ui
        .result(&shown, |ui, text| show(ui, &shown, &outcome, text))?;
    Ok(match outcome.status {
        AgentStatus::Completed => ExitCode::Done,
        AgentStatus::Canceled => ExitCode::Interrupted,
        _ => ExitCode::Failed,
    })
}

fn show(ui: &Ui, shown: &Shown, outcome: &Outcome, text: &mut String) {
    let tone = if outcome.is_well() {
        Tone::Good
    } else {
        Tone::Bad
    };
    text.push_str(&format!(
        "{} {} by agent {} in {:.1} s\n",
        ui.paint(tone, shown.status),
        shown.task_id,
        shown.agent,
        shown.seconds
    ));
    if let Some(failure) = &shown.failure {
        text.push_str(&format!("  {}\n", ui::printable(failure)));
    }
    for metric in &outcome.report.metrics {
        let unit = metric.unit.as_deref().unwrap_or_default();
        let value = ui::number(metric.value);
        let line = format!("  {} {value} {unit}", metric.name);
        text.push_str(&format!("{}\n", ui::printable(line.trim_end())));
    }
    for gate in &outcome.report.gates {
        let (tone, word) = if gate.passed {
            (Tone::Good, "passed")
        } else {
            (Tone::Bad, "failed")
        };
        let name = ui::printable(&gate.name);
        text.push_str(&format!("  gate {name}: {}\n", ui.paint(tone, word)));
    }
    if let Some(file) = &outcome.result_file {
        text.push_str(&format!("  result in {}\n", file.display()));
    }
    text.push_str(&format!(
        "  recorded; see it with: k1ops query tasks --workflow {}\n",
        shown.workflow_id
    ));
}

fn seconds(outcome: &Outcome) -> f64 {
    let took = outcome.completed_at - outcome.started_at;
    took.as_seconds_f64()
}

fn list(context: &Context) -> Result<ExitCode> {
    let listed = Agents::of(&context.stack()?)?.listed();
    context.ui.result(&listed, |ui, text| {
        if listed.is_empty() {
            text.push_str("No agents are defined; see [agents.NAME] in docs/agents.md.\n");
            return;
        }
        let mut table = Table::new(&["agent", "tasks", "program", "timeout", "retries"]);
        table = table.numbers(&[3, 4]);
        for agent in &listed {
            table.row(row(ui, agent));
        }
        text.push_str(&table.render());
        text.push('\n');
    })?;
    Ok(ExitCode::Done)
}

fn row(ui: &Ui, agent: &Listed) -> [String; 5] {
    let program = if agent.found {
        agent.program.clone()
    } else {
        ui.paint(Tone::Bad, &format!("{} (not found)", agent.program))
    };
    [
        agent.name.clone(),
        agent.tasks.join(", "),
        program,
        format!("{} s", agent.timeout_seconds),
        agent.retries.to_string(),
    ]
}
