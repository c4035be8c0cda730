//! `k1ops workflow`.

mod show;

use super::{Context, read_input};
use crate::agent::{Agents, Recorder};
use crate::conductor::Client;
use crate::config::TierChoice;
use crate::error::{Error, Result};
use crate::exit_code::ExitCode;
use crate::plan::{self, LocalOptions, LocalRun, Plan, WorkflowView, run_locally};
use serde::Serialize;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Run plans and look after workflows
///
/// A plan is a file with tasks, their agents, what they wait for and the gates they have to pass;
/// docs/plans.md describes it. On a server it becomes a workflow that `k1ops worker` works on. With
/// `--tier direct` it runs here, without a server, in the same order and with the same records.
#[derive(Debug, clap::Args)]
pub struct WorkflowArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Run(RunArgs),
    /// Follow a workflow until it has ended
    ///
    /// Exits 1 if it does not complete.
    Watch(IdArgs),
    List(ListArgs),
    /// Show a workflow and its tasks
    Show(IdArgs),
    Retry(RetryArgs),
    Terminate(TerminateArgs),
    Graph(GraphArgs),
}

/// Check a plan, register it and start it
///
/// Prints the workflow's id. With `--wait`, and in tier 3 always, it stays until the end and exits 1
/// if the workflow does not complete.
#[derive(Debug, clap::Args)]
struct RunArgs {
    /// The plan
    #[arg(value_name = "PLAN")]
    plan: PathBuf,
    /// Give the workflow this file's JSON object as its input
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Stay until it has ended
    #[arg(long)]
    wait: bool,
    /// Run it on this tier: `direct` needs no server
    #[arg(long, value_name = "TIER")]
    tier: Option<TierChoice>,
    /// Run this many agents at once (tier 3)
    #[arg(long, value_name = "COUNT", default_value = "4")]
    jobs: NonZeroUsize,
    /// Check the plan, show its order, and change nothing
    #[arg(long)]
    dry_run: bool,
}

// No doc comment: it would stand in place of those of the commands.
#[derive(Debug, clap::Args)]
struct IdArgs {
    /// The workflow's id
    #[arg(value_name = "ID")]
    id: String,
}

/// List the newest workflows, of the server and of tier 3
#[derive(Debug, clap::Args)]
struct ListArgs {
    /// At most so many
    #[arg(long, value_name = "COUNT", default_value_t = 20,
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

/// Do again what failed, and what depends on it
#[derive(Debug, clap::Args)]
struct RetryArgs {
    /// The workflow's id
    #[arg(value_name = "ID")]
    id: String,
    /// Run this many agents at once (tier 3)
    #[arg(long, value_name = "COUNT", default_value = "4")]
    jobs: NonZeroUsize,
}

/// End a workflow for good, and the agents that work for it
#[derive(Debug, clap::Args)]
struct TerminateArgs {
    /// The workflow's id
    #[arg(value_name = "ID")]
    id: String,
    /// Why
    #[arg(long, value_name = "TEXT", default_value = "terminated by k1ops")]
    reason: String,
}

/// Show the order of a plan's tasks
#[derive(Debug, clap::Args)]
struct GraphArgs {
    /// The plan
    #[arg(value_name = "PLAN")]
    plan: PathBuf,
    /// Print it in Graphviz's language
    #[arg(long)]
    dot: bool,
}

/// What `--json` says where a workflow was acted upon.
#[derive(Debug, Serialize)]
struct Acted {
    workflow_id: String,
    outcome: &'static str,
}

impl WorkflowArgs {
    /// The tier that is asked for.
    pub(super) fn tier(&self) -> Option<TierChoice> {
        match &self.what {
            What::Run(args) => args.tier,
            _ => None,
        }
    }
}

/// Does it.
pub(super) async fn run(args: WorkflowArgs, context: &Context) -> Result<ExitCode> {
    match args.what {
        What::Run(args) => Box::pin(run_plan(&args, context)).await,
        What::Watch(args) => watch(&args.id, context).await,
        What::List(args) => list(&args, context).await,
        What::Show(args) => {
            let view = find(&args.id, context).await?;
            show::view(&view, context)?;
            Ok(ExitCode::Done)
        }
        What::Retry(args) => retry(&args, context).await,
        What::Terminate(args) => terminate(&args, context).await,
        What::Graph(args) => graph(&args, context),
    }
}

async fn run_plan(args: &RunArgs, context: &Context) -> Result<ExitCode> {
    let stack = context.stack()?;
    let agents = Agents::of(&stack)?;
    let plan = Plan::read(&args.plan)?;
    plan.check(&agents)?;
    let input = args.input.as_deref().map(read_input).transpose()?;
    let input = input.unwrap_or_default();
    if args.dry_run {
        show::order(&plan, context)?;
        return Ok(ExitCode::Done);
    }
    let events = context.events();
    if stack.config.tier == TierChoice::Direct {
        let jobs = args.jobs.get();
        return run_here(LocalRun::new(plan, input), &agents, jobs, context).await;
    }
    let client = client(context)?;
    // The store first: a workflow that cannot be recorded is not started.
    let recorder = Recorder::open(&stack, &events).await?;
    let started = async {
        plan::register(&client, &plan, &agents).await?;
        plan::start(&client, &plan, &input, &recorder).await
    };
    let id = context
        .interrupt
        .guard(started)
        .await
        .map_err(unreachable)?;
    if args.wait {
        events.note(format!("workflow {id}"));
        return watch(&id, context).await;
    }
    act(context, &id, "started")
}

async fn run_here(
    run: LocalRun,
    agents: &Agents,
    jobs: usize,
    context: &Context,
) -> Result<ExitCode> {
    let (stack, events) = (context.stack()?, context.events());
    let options = LocalOptions { jobs };
    let running = run_locally(&stack, run, agents, options, &events, &context.interrupt);
    let run = running.await?;
    let view = WorkflowView::from(&run);
    show::view(&view, context)?;
    Ok(if context.interrupt.is_raised() {
        ExitCode::Interrupted
    } else {
        code(&view)
    })
}

async fn watch(id: &str, context: &Context) -> Result<ExitCode> {
    let (client, events) = (client(context)?, context.events());
    let view = plan::watch(&client, id, &events, &context.interrupt).await?;
    show::view(&view, context)?;
    Ok(code(&view))
}

fn code(view: &WorkflowView) -> ExitCode {
    if view.is_completed() {
        ExitCode::Done
    } else {
        ExitCode::Failed
    }
}

async fn list(args: &ListArgs, context: &Context) -> Result<ExitCode> {
    let stack = context.stack()?;
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let local: Vec<WorkflowView> = LocalRun::all(&stack)?
        .iter()
        .map(WorkflowView::from)
        .collect();
    let client = client(context)?;
    let found = context
        .interrupt
        .guard(client.newest_workflows(None, u64::from(args.limit)));
    match found.await {
        Ok(found) => show::list(&found, &local, limit, context)?,
        Err(error) if stack.config.tier == TierChoice::Direct || !local.is_empty() => {
            tracing::info!(%error, "no server is asked");
            show::list(&[], &local, limit, context)?;
        }
        Err(error) => return Err(unreachable(error)),
    }
    Ok(ExitCode::Done)
}

/// A workflow, wherever it ran.
async fn find(id: &str, context: &Context) -> Result<WorkflowView> {
    if let Some(run) = LocalRun::find(&context.stack()?, id)? {
        return Ok(WorkflowView::from(&run));
    }
    let client = client(context)?;
    let workflow = context.interrupt.guard(client.workflow(id)).await;
    Ok(WorkflowView::from(&workflow.map_err(unreachable)?))
}

async fn retry(args: &RetryArgs, context: &Context) -> Result<ExitCode> {
    let stack = context.stack()?;
    if let Some(mut run) = LocalRun::find(&stack, &args.id)? {
        run.prepare_retry()?;
        let agents = Agents::of(&stack)?;
        return run_here(run, &agents, args.jobs.get(), context).await;
    }
    let client = client(context)?;
    let retrying = plan::retry(&client, &args.id, &context.interrupt);
    retrying.await.map_err(unreachable)?;
    act(context, &args.id, "retried")
}

async fn terminate(args: &TerminateArgs, context: &Context) -> Result<ExitCode> {
    let stack = context.stack()?;
    let question = format!("End workflow {} for good?", args.id);
    if let Some(run) = LocalRun::find(&stack, &args.id)? {
        context.ui.confirm(&question)?;
        run.terminate(&stack)?;
        return act(context, &args.id, "terminated");
    }
    let client = client(context)?;
    let workflow = context.interrupt.guard(client.workflow(&args.id)).await;
    let status = workflow.map_err(unreachable)?.status;
    if status.is_final() {
        return Err(Error::refused(format!(
            "workflow {} has ended already: {}",
            args.id,
            status.name()
        )));
    }
    context.ui.confirm(&question)?;
    client.terminate_workflow(&args.id, &args.reason).await?;
    act(context, &args.id, "terminated")
}

fn graph(args: &GraphArgs, context: &Context) -> Result<ExitCode> {
    let plan = Plan::read(&args.plan)?;
    plan.check(&Agents::of(&context.stack()?)?)?;
    if args.dot && !context.ui.is_json() {
        context.ui.out(&plan.to_dot())?;
    } else {
        show::order(&plan, context)?;
    }
    Ok(ExitCode::Done)
}

fn act(context: &Context, id: &str, outcome: &'static str) -> Result<ExitCode> {
    let acted = Acted {
        workflow_id: id.to_owned(),
        outcome,
    };
    context.ui.result(&acted, |_, text| {
        text.push_str(&format!("{id} {outcome}\n"));
        if outcome != "terminated" {
            text.push_str(&format!("  follow it with: k1ops workflow watch {id}\n"));
        }
    })?;
    Ok(ExitCode::Done)
}

fn client(context: &Context) -> Result<Client> {
    context.stack()?.conductor()
}

/// Adds what to do where no server answers.
fn unreachable(error: Error) -> Error {
    if error.hint_text().is_some() {
        return error;
    }
    error.hint("`k1ops start` starts the server; `workflow run --tier direct` needs none.")
}
