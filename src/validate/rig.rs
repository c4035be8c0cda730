//! A stack to try things on: in a scratch folder, on scratch ports, under names of its own, driven
//! with the very program that users run.

use super::ValidateOptions;
use super::sample::{SERVICES, Sample, Sampler};
use crate::adapters::docker::{Engine, is_elsewhere};
use crate::adapters::process::{Identity, Signal, own_program};
use crate::conductor::Client;
use crate::config::{Config, Database, Loaded, Repository, Switch, TierChoice};
use crate::error::{Context, Error, Result};
use crate::plan::{Plan, WorkflowView};
use crate::stack::{Remembered, ServerState, Stack, Tier, docker};
use crate::store::Place;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// The guide's orchestration, which the tests take their tasks from.
const PLAN: &str = include_str!("../../examples/orchestration/plan.toml");
const AGENTS: &str = include_str!("../../examples/orchestration/k1ops.toml");
const AGENT: &str = include_str!("../../examples/orchestration/agents/agent.sh");

/// Seconds to wait for a server's health, unless configured.
const HEALTH_TIMEOUT: u64 = 240;
/// How long a workflow of a test may take; the guide gives a task five minutes.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);
/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(100);

/// A stack to try things on.
pub(super) struct Rig {
    pub(super) tier: Tier,
    pub(super) folder: PathBuf,
    pub(super) stack: Stack,
    /// The plan of 22 tasks.
    pub(super) plan: Plan,
    jobs: usize,
    worker: Option<Child>,
    sampler: Option<Sampler>,
    // Last: it goes when all that uses it has gone.
    _scratch: TempDir,
}

/// What the program answered.
pub(super) struct Said {
    pub(super) code: Option<i32>,
    pub(super) json: Value,
    err: String,
}

impl Rig {
    /// A folder with a configuration of its own. Of the user's, only what says how to run servers is
    /// taken over.
    pub(super) fn new(loaded: &Loaded, tier: Tier, options: &ValidateOptions) -> Result<Self> {
        let parent = options.folder.clone().unwrap_or_else(std::env::temp_dir);
        std::fs::create_dir_all(&parent)
            .and_then(|()| parent.canonicalize())
            .context(|| format!("folder {} cannot be used", parent.display()))?;
        let mut scratch = tempfile::Builder::new()
            .prefix("k1ops-validate-")
            .tempdir_in(&parent)
            .context(|| format!("no folder can be created in {}", parent.display()))?;
        scratch.disable_cleanup(options.keep);
        let folder = scratch.path().canonicalize();
        let folder = folder.context(|| "the scratch folder is gone")?;
        let config = config(loaded, tier, &folder)?;
        let scratch_loaded = Loaded {
            home_stack: config.stack.clone(),
            config,
            base: folder.clone(),
            ..loaded.clone()
        };
        let rig = Self {
            tier,
            stack: Stack::open(&scratch_loaded)?,
            plan: Plan::parse(PLAN, "of the example")?,
            folder,
            jobs: options.jobs,
            worker: None,
            sampler: None,
            _scratch: scratch,
        };
        rig.write_files()?;
        Ok(rig)
    }

    fn write_files(&self) -> Result<()> {
        let text = toml::to_string(&self.stack.config)
            .context(|| "the configuration cannot be written as TOML")?;
        std::fs::create_dir_all(self.folder.join("agents"))
            .and_then(|()| std::fs::write(self.folder.join("k1ops.toml"), text))
            .and_then(|()| std::fs::write(self.folder.join("agents/agent.sh"), AGENT))
            .context(|| format!("{} cannot be filled", self.folder.display()))
    }

    /// Starts the stack, and the sampling of what it uses.
    pub(super) async fn bring_up(&mut self) -> Result<()> {
        let mut containers = Vec::new();
        if self.tier != Tier::Direct {
            self.start().await?;
        }
        if self.tier == Tier::Docker && is_elsewhere() {
            tracing::warn!("what the containers use is not measured: they run on another host");
        } else if self.tier == Tier::Docker {
            let engine = Engine::find().await?;
            for name in self.containers()? {
                let container = engine.container(&name).await?;
                containers.extend(container.map(|container| container.id));
            }
        }
        self.sampler = Some(Sampler::start(&self.folder, containers));
        Ok(())
    }

    /// Stops everything and removes what the engine holds of it; answers what was sampled.
    pub(super) async fn take_down(&mut self) -> Vec<Sample> {
        let samples = self.samples();
        self.sampler = None;
        if let Err(error) = self.stop_worker().await {
            tracing::warn!(%error, "the worker was not stopped");
        }
        let stopped = match self.tier {
            Tier::Direct => Ok(()),
            _ => self.k1ops(&["stop"]).await.map(drop),
        };
        let removed = match self.tier {
            Tier::Docker => self.remove_containers().await,
            _ => Ok(()),
        };
        for error in [stopped, removed].into_iter().filter_map(Result::err) {
            tracing::warn!(%error, "something of the scratch stack may be left");
        }
        samples
    }

    pub(super) fn samples(&self) -> Vec<Sample> {
        self.sampler
            .as_ref()
            .map(Sampler::so_far)
            .unwrap_or_default()
    }

    async fn remove_containers(&self) -> Result<()> {
        let engine = Engine::find().await?;
        let deployment = docker::Deployment::of(&self.stack)?;
        for name in self.containers()? {
            engine.remove_container(&name).await?;
        }
        for service in docker::Service::WITH_VOLUME {
            engine.remove_volume(&deployment.volume(service)).await?;
        }
        docker::remove_unused_files(&engine, &deployment).await?;
        engine.remove_network(&deployment.names.network()).await?;
        match deployment.settings.image(docker::Service::Server) {
            // It was built for this stack alone, whose name is in its tag.
            Some(image) => engine.remove_image(image).await,
            None => Ok(()),
        }
    }

    fn containers(&self) -> Result<Vec<String>> {
        let deployment = docker::Deployment::of(&self.stack)?;
        let names = SERVICES.iter().map(|&s| deployment.names.container(s));
        Ok(names.collect())
    }

    /// Runs the program with `--json`, whatever comes of it.
    pub(super) async fn k1ops(&self, arguments: &[&str]) -> Result<Said> {
        self.k1ops_with(arguments, &[]).await
    }

    pub(super) async fn k1ops_with(
        &self,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<Said> {
        let output = self
            .command(arguments)
            .arg("--json")
            .envs(variables.iter().copied())
            .output()
            .await
            .context(|| "k1ops cannot be run")?;
        Ok(Said {
            code: output.status.code(),
            json: serde_json::from_slice(&output.stdout).unwrap_or_default(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(own_program());
        for (name, _) in std::env::vars_os() {
            // All settings are in the file already.
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("K1OPS_") && !matches!(&*name, "K1OPS_CACHE" | "K1OPS_LOG") {
                command.env_remove(name);
            }
        }
        command
            .args(arguments)
            .current_dir(&self.folder)
            // What a test does is not for the terminal's Ctrl-C to break in the middle.
            .process_group(0)
            .stdin(Stdio::null());
        command
    }

    pub(super) async fn start(&self) -> Result<()> {
        self.k1ops(&["start"]).await?.done("start").map(drop)
    }

    pub(super) async fn stop(&self) -> Result<()> {
        self.k1ops(&["stop"]).await?.done("stop").map(drop)
    }

    /// Kills the server, and in tier 1 the database too, as a crash would.
    pub(super) async fn kill(&self) -> Result<()> {
        if self.tier == Tier::Docker {
            return self
                .kill_containers(&[docker::Service::Server, docker::Service::Postgres])
                .await;
        }
        let Remembered::Running(server) = ServerState::read(&self.stack)? else {
            return Err(Error::failed(
                "the server that is to be killed does not run",
            ));
        };
        server.process.signal(Signal::KILL)?;
        server.process.ended_within(Duration::from_secs(10)).await;
        Ok(())
    }

    pub(super) async fn kill_containers(&self, services: &[docker::Service]) -> Result<()> {
        let engine = Engine::find().await?;
        let names = docker::Deployment::of(&self.stack)?.names;
        for &service in services {
            let name = names.container(service);
            engine.stop_container(&name, Duration::ZERO).await?;
        }
        Ok(())
    }

    /// A client for the stack's server.
    pub(super) fn client(&self) -> Result<Client> {
        self.stack.conductor()
    }

    /// The stack's K1 tables.
    pub(super) fn place(&self) -> Result<Place> {
        if self.tier == Tier::Docker {
            return Place::of(&self.stack.in_docker()?);
        }
        Place::of(&self.stack)
    }

    /// Makes sure that a worker runs.
    pub(super) fn ensure_worker(&mut self) -> Result<()> {
        if let Some(worker) = &mut self.worker {
            let ended = worker
                .try_wait()
                .context(|| "the worker cannot be looked at")?;
            return match ended {
                None => Ok(()),
                Some(status) => Err(Error::failed(format!("the worker has ended: {status}"))),
            };
        }
        let log = std::fs::File::create(self.folder.join("worker.log"));
        let log = log.context(|| "the worker's log cannot be written")?;
        let jobs = self.jobs.to_string();
        let worker = self
            .command(&["worker", "--jobs", &jobs, "--grace", "0"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context(|| "the worker cannot be started")?;
        self.worker = Some(worker);
        Ok(())
    }

    /// Tells the worker to stop, which hands back what it has not finished.
    pub(super) async fn stop_worker(&mut self) -> Result<()> {
        let Some(mut worker) = self.worker.take() else {
            return Ok(());
        };
        if let Some(worker) = worker.id().and_then(Identity::of) {
            worker.signal(Signal::TERM)?;
        }
        let ended = tokio::time::timeout(Duration::from_secs(60), worker.wait());
        if ended.await.is_err() {
            worker.kill().await.context(|| "the worker does not end")?;
        }
        Ok(())
    }

    /// Starts a plan on the server; answers the workflow's id.
    pub(super) async fn begin(&self, plan: &Plan, wait: f64) -> Result<String> {
        let said = self.run_plan(plan, wait, &[]).await?.done("workflow run")?;
        let id = said["workflow_id"].as_str().unwrap_or_default();
        Ok(id.to_owned())
    }

    /// Runs a plan to its end, on the server with the worker, or here in tier 3.
    pub(super) async fn run_to_end(&mut self, plan: &Plan, wait: f64) -> Result<WorkflowView> {
        if self.tier == Tier::Direct {
            let jobs = self.jobs.to_string();
            let said = self.run_plan(plan, wait, &["--jobs", &jobs]).await?;
            return view(said.json);
        }
        self.ensure_worker()?;
        let id = self.begin(plan, wait).await?;
        self.ended(&id).await
    }

    async fn run_plan(&self, plan: &Plan, wait: f64, more: &[&str]) -> Result<Said> {
        let name = format!("{}.toml", plan.name);
        let text = toml::to_string(plan).context(|| "the plan is not TOML")?;
        let mut input = Map::new();
        input.insert("wait".to_owned(), wait.into());
        let input = serde_json::to_vec(&input).context(|| "the input is not JSON")?;
        std::fs::write(self.folder.join(&name), text)
            .and_then(|()| std::fs::write(self.folder.join("input.json"), input))
            .context(|| "the plan cannot be written")?;
        let run = ["workflow", "run", &name, "--input", "input.json"];
        self.k1ops(&[&run, more].concat()).await
    }

    /// Waits for a workflow's end; answers how it ended.
    pub(super) async fn ended(&mut self, id: &str) -> Result<WorkflowView> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let workflow = self.client()?.workflow(id).await?;
            if workflow.status.is_final() {
                return Ok(WorkflowView::from(&workflow));
            }
            // Without a worker it would never end.
            self.ensure_worker()?;
            if Instant::now() > deadline {
                return Err(Error::failed(format!(
                    "workflow {id} does not end within {} s",
                    PATIENCE.as_secs()
                )));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until `condition` holds of a workflow.
    pub(super) async fn until(
        &self,
        id: &str,
        what: &str,
        condition: impl Fn(&WorkflowView) -> bool,
    ) -> Result<WorkflowView> {
        let deadline = Instant::now() + PATIENCE;
        let client = self.client()?;
        loop {
            let view = WorkflowView::from(&client.workflow(id).await?);
            if condition(&view) {
                return Ok(view);
            }
            if Instant::now() > deadline || view.is_final() {
                return Err(Error::failed(format!("{what} was waited for in vain")));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for Rig {
    /// Only where the validation was abandoned does a server still run here.
    fn drop(&mut self) {
        if let Some(worker) = self.worker.as_ref().and_then(Child::id) {
            let _ = Identity::of(worker).map(|worker| worker.signal(Signal::KILL));
        }
        if let Ok(Remembered::Running(server)) = ServerState::read(&self.stack) {
            let _ = server.process.signal(Signal::KILL);
        }
    }
}

impl Said {
    /// The answer of a command that must end well.
    pub(super) fn done(self, what: &str) -> Result<Value> {
        if self.code == Some(0) {
            return Ok(self.json);
        }
        let why = self.json["error"]["message"].as_str();
        let why = why.map_or_else(|| self.err.trim().to_owned(), str::to_owned);
        let code = self
            .code
            .map_or("a signal".to_owned(), |code| code.to_string());
        // What is missing keeps a test from running; all else is a failure of what is tested.
        let error = format!("k1ops {what} ended with {code}: {why}");
        Err(if self.code == Some(3) {
            Error::missing(error)
        } else {
            Error::failed(error)
        })
    }
}

fn view(json: Value) -> Result<WorkflowView> {
    if json["error"].is_object() {
        let why = json["error"]["message"].as_str().unwrap_or_default();
        return Err(Error::failed(format!("the plan did not run: {why}")));
    }
    serde_json::from_value(json).context(|| "k1ops workflow run did not answer with a workflow")
}

fn config(loaded: &Loaded, tier: Tier, folder: &Path) -> Result<Config> {
    let example: toml::Table = AGENTS.parse().context(|| "the example cannot be read")?;
    let agents = example.get("agents").cloned();
    let agents = agents.unwrap_or_else(|| toml::Table::new().into());
    let mut config = loaded.config.clone();
    config.agents = agents.try_into().context(|| "the example has no agents")?;
    "validate".clone_into(&mut config.stack);
    config.tier = match tier {
        Tier::Docker => TierChoice::Docker,
        Tier::Jar => TierChoice::Jar,
        Tier::Direct => TierChoice::Direct,
    };
    config.ports = crate::stack::free_ports()?;
    config.docker.monitoring.run = Switch::Off;
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    config.docker.prefix = name.to_lowercase();
    config.repository = Repository::default();
    config.database = Database::default();
    if config.server.health_timeout == 0 {
        config.server.health_timeout = HEALTH_TIMEOUT;
    }
    for program in [&mut config.server.jar, &mut config.server.java] {
        if !program.as_os_str().is_empty() {
            *program = loaded.base.join(&program);
        }
    }
    Ok(config)
}
