//! The live stack from the old version to the new one, and back if that fails.
//!
//! The server is stopped, what it left is saved, and only then does the new version touch the data. So
//! nothing that was done before the stop is lost on the way back, whatever the new version has made of
//! the tables.

use super::crash;
use super::journal::{ConfigFile, Journal, Phase};
use super::plan::{Plan, on};
use super::versions::{Versions, with_changes};
use crate::adapters::fs::{self, Lock};
use crate::backup::{self, BackupOptions};
use crate::config::{Encryption, Repository};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use crate::repository::Purpose;
use crate::restore::{self, Part, RestoreOptions, RestoreReport};
use crate::stack::docker::{Deployment, Service};
use crate::stack::{self, Prepare, Stack, StartOptions, StartReport, Tier};
use chrono::Utc;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long whoever works on the data may take, before the old ones are put back.
const OTHERS: Duration = Duration::from_secs(1800);
/// How often to look whether that is over.
const LOOK: Duration = Duration::from_secs(1);

/// How a switch ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The new version runs.
    Upgraded(Running),
    /// The old one runs again, on the data that it left.
    TakenBack(TakenBack),
}

/// A server that runs.
#[derive(Debug)]
pub(super) struct Running {
    pub url: String,
    pub versions: Versions,
}

/// The old version is back.
#[derive(Debug)]
pub(super) struct TakenBack {
    pub versions: Versions,
    /// Why the new one did not come up; none if it was taken back as was asked for.
    pub error: Option<Error>,
    /// Where what the new version left is kept.
    pub kept: Vec<String>,
}

/// Stops the old version, saves what it left, and starts the new one; or brings the old one back.
pub(super) async fn switch(
    plan: &Plan,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<(Ended, Duration)> {
    let at = Utc::now();
    let mut journal = Journal {
        at,
        phase: Phase::Stopping,
        tier: plan.tier,
        before: plan.before.clone(),
        after: plan.after.clone(),
        config: plan.config.clone(),
        saved: None,
        health_timeout: plan.health_timeout,
        folder: Journal::new_folder(&plan.live, at)?,
    };
    journal.write()?;
    crash::point("upgrade-noted");
    let stopped = Instant::now();
    match save(&plan.live, &journal, events, interrupt).await {
        Ok(saved) => journal.saved = Some(saved),
        Err(error) => {
            events.note("nothing was changed; the server is started again");
            // Interrupted or not: a stack that ran is to run again.
            let again = start(
                &on(plan.tier, &plan.live),
                None,
                events,
                &Interrupt::default(),
            )
            .await;
            journal.forget()?;
            again?;
            return Err(error);
        }
    }
    journal.enter(Phase::Switching)?;
    crash::point("upgrade-saved-noted");
    let ended = forward(&plan.live, journal, events, interrupt).await?;
    Ok((ended, stopped.elapsed()))
}

/// Stops the server and writes what it left into an archive beside the journal: on this host and not
/// encrypted, as the data itself is, so that the way back needs no network and no key.
async fn save(
    live: &Stack,
    journal: &Journal,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<PathBuf> {
    let _server = Lock::exclusive(&live.lock_file("server"), "k1ops upgrade")?;
    stack::stop_server_locked(live, events).await?;
    crash::point("upgrade-stopped");
    let _data = Lock::shared(&live.lock_file("data"))?;
    let mut beside = live.with_repository(Repository {
        path: journal.folder.clone(),
        ..Repository::default()
    });
    beside.config.encryption = Encryption::default();
    let options = BackupOptions {
        verify_fully: true,
        ..BackupOptions::default()
    };
    let plan = backup::plan(&beside, &options, Purpose::Safety)?;
    let report = backup::take(&beside, plan, events, interrupt).await?;
    crash::point("upgrade-saved");
    Ok(report.archive)
}

/// From the moment on at which everything is saved: to the new version, or back.
pub(super) async fn forward(
    live: &Stack,
    mut journal: Journal,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<Ended> {
    match bring_up(live, &journal, events, interrupt).await {
        Ok(url) => {
            journal.enter(Phase::Done)?;
            journal.forget_others(live)?;
            Ok(Ended::Upgraded(Running {
                url,
                versions: journal.after,
            }))
        }
        Err(error) => {
            events.warning(format!(
                "the new version does not come up ({error}); the old one and its data are put back"
            ));
            journal.enter(Phase::Back)?;
            crash::point("upgrade-back-noted");
            let mut back = Box::pin(back(live, journal, events)).await?;
            back.error = Some(error);
            Ok(Ended::TakenBack(back))
        }
    }
}

async fn bring_up(
    live: &Stack,
    journal: &Journal,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<String> {
    journal.config.put_new()?;
    crash::point("upgrade-configured");
    let next = with(&journal.after, live, journal.tier);
    let timeout = journal.health_timeout.map(Duration::from_secs);
    let url = start(&next, timeout, events, interrupt).await?;
    crash::point("upgrade-started");
    Ok(url)
}

/// Puts the old version and the saved data back, and starts it. Goes on where an earlier run of it was
/// broken off. Nothing interrupts it: in its middle the stack is nothing.
pub(super) async fn back(live: &Stack, mut journal: Journal, events: &Events) -> Result<TakenBack> {
    let old = with(&journal.before, live, journal.tier);
    let mut kept = Vec::new();
    if journal.phase == Phase::Back {
        stack::stop(&old.without_docker_database(), events).await?;
        let changes = journal.after.changes_to(&journal.before);
        journal.config.put_back(&changes)?;
        crash::point("upgrade-configured-back");
        kept = put_data_back(&old, &journal, events).await?;
        crash::point("upgrade-data-back");
        // From here on the old version works on its data: putting them back again would lose that.
        journal.enter(Phase::Returned)?;
        crash::point("upgrade-returned-noted");
    }
    let interrupt = Interrupt::default();
    start(&old, None, events, &interrupt)
        .await
        .map_err(|error| {
            Error::new(
                error.kind(),
                "the old version and its data are back, but the server does not start",
            )
            .because(error)
            .hint("`k1ops start` tries again; `k1ops doctor` says what is wrong.")
        })?;
    restore::requeue_pending(&old, events, &interrupt).await?;
    let versions = journal.before.clone();
    journal.forget()?;
    Ok(TakenBack {
        versions,
        error: None,
        kept,
    })
}

async fn put_data_back(old: &Stack, journal: &Journal, events: &Events) -> Result<Vec<String>> {
    let old = match journal.tier {
        // Its files name the old images again.
        Tier::Docker => restore::in_docker(&old.without_docker_database(), true)?,
        Tier::Jar | Tier::Direct => old.clone(),
    };
    let options = way_back(&old, journal)?;
    let restored = restore_when_free(&old, &options, events).await;
    let report = restored.map_err(|error| {
        let folder = journal.folder.display();
        Error::new(error.kind(), "the old data cannot be put back")
            .because(error)
            .hint(format!(
                "`k1ops start` tries again with what is in {folder}. If that is lost, move the folder away and restore a backup."
            ))
    })?;
    let parts = report.parts.into_iter();
    Ok(parts.filter_map(|part| part.kept).collect())
}

/// Fails if what was saved cannot be put back, before anything is stopped for it.
pub(super) async fn check_saved(
    live: &Stack,
    journal: &Journal,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<()> {
    let options = way_back(live, journal)?;
    restore::plan(live, &options, events, interrupt)
        .await
        .map(drop)
}

fn way_back(stack: &Stack, journal: &Journal) -> Result<RestoreOptions> {
    let Some(saved) = &journal.saved else {
        return Err(Error::failed("it is not noted where the data were saved"));
    };
    let parts = parts(stack, journal.tier, &journal.before, &journal.after);
    Ok(RestoreOptions {
        archive: saved.display().to_string(),
        only: parts.into_iter().map(|(_, part)| part).collect(),
        // What is there now is kept all the same.
        no_safety: true,
        // Whoever is still in a database that is given up.
        terminate_sessions: true,
        ..RestoreOptions::default()
    })
}

/// A backup that runs meanwhile ends by itself.
async fn restore_when_free(
    old: &Stack,
    options: &RestoreOptions,
    events: &Events,
) -> Result<RestoreReport> {
    let (begun, interrupt) = (Instant::now(), Interrupt::default());
    loop {
        let restoring = restore::run(old, options, events, &interrupt);
        match Box::pin(restoring).await {
            Err(error) if error.kind() == ErrorKind::Locked && begun.elapsed() < OTHERS => {
                tokio::time::sleep(LOOK).await;
            }
            other => return other,
        }
    }
}

/// The data that the new version may change: Conductor's tables, or the whole volume of a service whose
/// own image changes. What agents record beside the server in tier 2 is none of them.
pub(super) fn parts(
    stack: &Stack,
    tier: Tier,
    before: &Versions,
    after: &Versions,
) -> Vec<(String, Part)> {
    if tier != Tier::Docker {
        let part = if stack.uses_database_url() {
            Part::Postgres
        } else {
            Part::Named("conductor".to_owned())
        };
        return vec![("Conductor's database".to_owned(), part)];
    }
    let names = Deployment::of(stack).map(|deployment| deployment.names);
    let volume = |service: Service| {
        let name = names.as_ref().map(|names| names.volume(service));
        let name = name.unwrap_or_default();
        (format!("volume {name}"), Part::Volume(name))
    };
    let mut parts = Vec::new();
    if before.postgres_image == after.postgres_image {
        parts.push(("database conductor".to_owned(), Part::Postgres));
    } else {
        parts.push(volume(Service::Postgres));
    }
    if before.redis_image != after.redis_image {
        parts.push(volume(Service::Redis));
    }
    if before.elasticsearch_image != after.elasticsearch_image {
        parts.push(volume(Service::Elasticsearch));
    }
    parts
}

fn with(versions: &Versions, live: &Stack, tier: Tier) -> Stack {
    let mut stack = on(tier, live);
    versions.put_into(&mut stack.config);
    stack
}

/// Starts it and waits for honest health; answers its address.
async fn start(
    stack: &Stack,
    health_timeout: Option<Duration>,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<String> {
    let options = StartOptions {
        health_timeout,
        // What makes starts fast is prepared by the next `k1ops start`.
        prepare: Prepare::No,
        ..StartOptions::default()
    };
    let report: StartReport = Box::pin(stack::start(stack, &options, events, interrupt)).await?;
    let well = report.is_well();
    match report.server {
        Some(server) if well => Ok(server.url),
        _ => {
            Err(Error::failed("the server runs and is not healthy").hint("`k1ops logs` says why."))
        }
    }
}

impl ConfigFile {
    fn put_new(&self) -> Result<()> {
        if fs::read_text_if_there(&self.path)?.as_deref() == Some(&self.becomes) {
            return Ok(());
        }
        fs::replace(&self.path, self.becomes.as_bytes(), 0o644)
    }

    /// The file as it was; only the versions in it, if it was changed since.
    fn put_back(&self, changes: &[super::Changed]) -> Result<()> {
        let Some(now) = fs::read_text_if_there(&self.path)? else {
            return Ok(());
        };
        let before = if now == self.becomes {
            self.was.clone()
        } else if Some(&now) == self.was.as_ref() {
            return Ok(());
        } else {
            Some(with_changes(&now, changes, &self.path)?)
        };
        match before {
            Some(text) => fs::replace(&self.path, text.as_bytes(), 0o644),
            None => fs::remove_if_there(&self.path),
        }
    }
}

impl TakenBack {
    /// As the end of a command: the new version's own error, and what became of the stack.
    pub(super) fn into_error(self) -> Error {
        let kept = self.kept.join(", ");
        let hint = format!(
            "The stack runs as before the upgrade, with everything that was done until then. What the new version left is kept: {kept}."
        );
        let Some(error) = self.error else {
            return Error::failed("the upgrade was taken back").hint(hint);
        };
        if error.kind() == ErrorKind::Interrupted {
            return error.hint(hint);
        }
        Error::new(
            error.kind(),
            "the new version does not come up; the old one is back, with its data",
        )
        .because(error)
        .hint(hint)
    }
}
