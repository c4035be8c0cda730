//! The main job end to end in a scratch folder: a stack is started and put to work, backed up,
//! destroyed and brought back, and what came back is compared row by row.
//!
//! It plays with the same parts that the commands use. It never touches another stack: folder,
//! ports and names are its own, and go when it ends, however it ends.

mod compare;
mod record;
mod report;
mod stage;
mod workload;

pub use compare::Compared;
pub use record::Summary;
pub use report::{DemoReport, StepTime};

use crate::conductor::{Client, Requeued};
use crate::config::{Loaded, TierChoice};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use crate::stack::{ScratchStack, Stack, Tier};
use compare::Picture;
use report::Clock;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use workload::{Done, TASKS};

/// How the demo is to be played.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// Leave the scratch folder where it is.
    pub keep: bool,
    /// Where to create the scratch folder, if not in the system's temporary folder.
    pub folder: Option<PathBuf>,
    /// How many workflows to run.
    pub workflows: u64,
}

/// How often a backup is taken anew because the server wrote something at that moment.
const ATTEMPTS: u32 = 4;

/// How long to wait for a moment in which nothing is written.
const QUIET_WITHIN: Duration = Duration::from_secs(20);

/// How long nothing must be written before a backup is taken.
const QUIET_FOR: Duration = Duration::from_millis(500);

/// Plays the demo. Whatever happens, the server is stopped and the folder removed.
pub async fn run(
    loaded: &Loaded,
    options: &DemoOptions,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<DemoReport> {
    let parent = options.folder.clone();
    let parent = parent.unwrap_or_else(std::env::temp_dir);
    let mut ground =
        ScratchStack::new(&loaded.config, &loaded.base, "demo", &parent, "k1ops-demo-")?;
    let folder = ground.stack.base.clone();
    events.note(format!("the demo's stack is in {}", folder.display()));
    if options.keep {
        ground.keep();
    }
    let story = Story {
        stack: &ground.stack,
        count: options.workflows,
        events,
        interrupt,
    };
    let played = Box::pin(story.play()).await;
    // Also after a failure or an interrupt, and before the folder with the server's files goes.
    let stopped = stage::stop(&ground.stack, events).await;
    let mut report = played.map_err(|error| explain(error, options.keep, &folder))?;
    stopped?;
    report.folder = options.keep.then_some(folder);
    Ok(report)
}

fn explain(error: Error, kept: bool, folder: &Path) -> Error {
    if error.kind() == ErrorKind::Interrupted {
        return error.hint("The demo's stack is stopped; run the demo again when you are ready.");
    }
    match error.hint_text() {
        Some(_) => error,
        None if kept => error.hint(format!("What there was is in {}.", folder.display())),
        None => error.hint("Run it again with --keep to look at the folder, and -v for the log."),
    }
}

/// One play of the demo.
struct Story<'a> {
    stack: &'a Stack,
    count: u64,
    events: &'a Events,
    interrupt: &'a Interrupt,
}

/// The stack at work, halfway.
struct Halfway {
    ids: record::Ids,
    executions: Vec<String>,
    half: usize,
}

/// What was backed up.
struct BackedUp {
    archive: PathBuf,
    bytes: u64,
    picture: Picture,
    left_out: Vec<String>,
}

impl Story<'_> {
    async fn play(&self) -> Result<DemoReport> {
        let tiers = stage::tiers(self.stack.config.tier)?;
        let mut clock = Clock::new(10, self.events);
        let (tier, client) = clock.time("start the stack", self.start(tiers)).await?;
        let client = client.as_ref();
        // A lesser tier than before would only hide what is wrong.
        let again: &[TierChoice] = match client {
            Some(_) => &[TierChoice::Jar],
            None => &[TierChoice::Direct],
        };
        if client.is_none() {
            self.events.warning_with_hint(
                "no server runs on this tier: the demo shows the K1 tables alone",
                "Install Java 21 or later to see workflows stop and run on.",
            );
        }
        let work = Box::pin(self.work_halfway(client));
        let halfway = clock.time("do half of the work", work).await?;
        let saved = clock.time("back up", self.back_up(tier)).await?;
        let loss = stage::lose(self.stack, self.events);
        let step = match client {
            Some(_) => "kill the server, delete the data",
            None => "delete the data",
        };
        clock.time(step, loss).await?;
        clock.time("restore", self.restore(&saved)).await?;
        let comparison = async { self.compare(tier, &saved) };
        let compared = clock.time("compare every row", comparison).await?;
        self.events.note(compared.to_string());
        clock.time("start again", self.start(again)).await?;
        let rest = Box::pin(self.finish_work(client, &halfway));
        let requeued = clock.time("do the rest of the work", rest).await?;
        let summary = clock.time("query", self.query()).await?;
        clock.time("stop", self.stop()).await?;
        let (steps, seconds) = clock.stop();
        Ok(DemoReport {
            tier,
            archive_bytes: saved.bytes,
            compared,
            left_out: saved.left_out,
            requeued,
            summary,
            steps,
            seconds,
            folder: None,
        })
    }

    /// Starts what the host can start; without a server, `None` stands for the client.
    async fn start(&self, tiers: &[TierChoice]) -> Result<(Tier, Option<Client>)> {
        let tier = stage::start(self.stack, tiers, self.events, self.interrupt).await?;
        if tier == Tier::Direct {
            return Ok((tier, None));
        }
        let port = self.stack.config.ports.conductor;
        let client = Client::new(format!("http://127.0.0.1:{port}"))?;
        Ok((tier, Some(client)))
    }

    /// All first tasks and half of the second ones, so that the backup finds workflows in two
    /// different places of the chain.
    async fn work_halfway(&self, client: Option<&Client>) -> Result<Halfway> {
        let half = usize::try_from(self.count / 2).unwrap_or_default();
        let work = async {
            let executions = match client {
                Some(client) => {
                    workload::register(client).await?;
                    workload::start(client, self.count, self.events).await?
                }
                None => workload::made_up(self.count),
            };
            let ids = record::workflows(self.stack, &executions, self.events).await?;
            let halfway = Halfway {
                ids,
                executions,
                half,
            };
            self.do_tasks(client, &halfway, 0, 0..halfway.executions.len())
                .await?;
            self.do_tasks(client, &halfway, 1, 0..half).await?;
            Ok(halfway)
        };
        self.interrupt.guard(work).await
    }

    /// Requeues what is stranded, and does all that is left.
    async fn finish_work(
        &self,
        client: Option<&Client>,
        halfway: &Halfway,
    ) -> Result<Option<Requeued>> {
        let requeued = match client {
            Some(_) => Some(stage::requeue(self.stack, self.events, self.interrupt).await?),
            None => None,
        };
        let all = halfway.executions.len();
        let work = async {
            self.do_tasks(client, halfway, 1, halfway.half..all).await?;
            self.do_tasks(client, halfway, 2, 0..all).await?;
            match client {
                Some(client) => workload::require_completed(client, &halfway.executions).await,
                None => Ok(()),
            }
        };
        self.interrupt.guard(work).await?;
        Ok(requeued)
    }

    /// As many tasks at one place of the chain as `which` is long, and the K1 rows about them.
    async fn do_tasks(
        &self,
        client: Option<&Client>,
        halfway: &Halfway,
        task: usize,
        which: std::ops::Range<usize>,
    ) -> Result<()> {
        let done: Vec<Done> = match client {
            Some(client) => workload::work(client, task, which.len(), self.events).await?,
            None => workload::alone(&halfway.executions, task, which),
        };
        record::tasks(self.stack, &halfway.ids, &done, self.events).await
    }

    /// Backs up the running stack at a moment in which nothing is written, so that there is
    /// something exact to compare with: what is read before is read again afterwards.
    async fn back_up(&self, tier: Tier) -> Result<BackedUp> {
        let mut attempt = 1;
        loop {
            let mut picture = self.interrupt.guard(self.quiet_picture(tier)).await?;
            let report = stage::back_up(self.stack, self.events, self.interrupt).await?;
            let left_out = picture.differences(&stage::picture(self.stack, tier)?);
            if left_out.is_empty() || attempt == ATTEMPTS {
                picture.forget(&left_out);
                return Ok(BackedUp {
                    archive: report.archive,
                    bytes: report.size,
                    picture,
                    left_out,
                });
            }
            self.events.note(format!(
                "the server wrote to {} meanwhile, so the backup is taken once more",
                left_out.join(", ")
            ));
            attempt += 1;
        }
    }

    /// What the tables hold, once nothing has been written for a moment.
    async fn quiet_picture(&self, tier: Tier) -> Result<Picture> {
        let deadline = Instant::now() + QUIET_WITHIN;
        let mut picture = stage::picture(self.stack, tier)?;
        loop {
            tokio::time::sleep(QUIET_FOR).await;
            let next = stage::picture(self.stack, tier)?;
            if next == picture || Instant::now() > deadline {
                return Ok(next);
            }
            picture = next;
        }
    }

    async fn restore(&self, saved: &BackedUp) -> Result<()> {
        stage::restore(self.stack, &saved.archive, self.events, self.interrupt).await
    }

    fn compare(&self, tier: Tier, saved: &BackedUp) -> Result<Compared> {
        let mut restored = stage::picture(self.stack, tier)?;
        restored.forget(&saved.left_out);
        if !saved.left_out.is_empty() {
            self.events.warning(format!(
                "the server wrote to {} while the backup was taken; there is nothing to compare \
                 them with",
                saved.left_out.join(", ")
            ));
        }
        saved.picture.require_same(&restored)
    }

    /// Asks the view, and insists that nothing is missing from its answer.
    async fn query(&self) -> Result<Summary> {
        let summary = record::summary(self.stack, self.events).await?;
        let tasks = i64::try_from(self.count * TASKS.len() as u64).unwrap_or(i64::MAX);
        let expected = Summary {
            workflows: self.count,
            completed_tasks: tasks,
            total_tasks: tasks,
            passed_quality_gates: tasks,
            total_quality_gates: tasks,
        };
        if summary == expected {
            return Ok(summary);
        }
        Err(Error::bad_data(format!(
            "the K1 tables tell of {} workflows with {} of {} tasks done, not of {} with {tasks}",
            summary.workflows, summary.completed_tasks, summary.total_tasks, self.count
        )))
    }

    async fn stop(&self) -> Result<()> {
        stage::stop(self.stack, self.events).await
    }
}
