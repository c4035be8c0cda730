//! Who is told of what a scheduled run did, and of runs that did not come.

use super::fire::backups;
use super::record::{Fate, Run, Runs};
use crate::adapters::fs;
use crate::error::{Context, Result};
use crate::event::Events;
use crate::notify::{Delivery, Message, Notifier, Occasion};
use crate::repository::Backups;
use crate::stack::Stack;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// An alarm that lasts is repeated after this.
const AGAIN: TimeDelta = TimeDelta::hours(24);

/// Whether there is a good backup that is young enough.
#[derive(Debug, Clone, Serialize)]
pub struct Freshness {
    /// When the newest good backup was begun.
    pub newest: Option<DateTime<Utc>>,
    /// It is missing, or older than it may be.
    pub is_stale: bool,
    /// Hours that it may be old; 0: any number.
    pub allowed_hours: u32,
    /// Who was told, and whether it arrived.
    pub told: Vec<Delivery>,
}

/// What was told, so that it is told once.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Raised {
    /// When it was told that there is no good backup; none once that is over.
    stale_told_at: Option<DateTime<Utc>>,
    /// When the last run began of which it was told that it was killed.
    #[serde(default)]
    killed_told_of: Option<DateTime<Utc>>,
}

/// Tells that a run begins.
pub(super) async fn begun(stack: &Stack, events: &Events) {
    tell(stack, Occasion::Started, "a run begins", "", events).await;
}

/// Tells that a run cannot even begin.
pub(super) async fn unable(stack: &Stack, error: &str, events: &Events) {
    tell(stack, Occasion::Failed, "the backup failed", error, events).await;
}

/// Tells of the last run if it began and never ended: nobody else could. Once for each; whether it was
/// told now.
pub(super) async fn killed(stack: &Stack, events: &Events) -> Result<bool> {
    let runs = Runs::read(stack)?;
    let Some(run) = runs.last().filter(|run| run.fate() == Fate::Died) else {
        return Ok(false);
    };
    let mut raised = raised(stack);
    if raised.killed_told_of == Some(run.started_at) {
        return Ok(false);
    }
    let began = run.started_at.format("%Y-%m-%d %H:%M UTC");
    let text = format!(
        "the run of {began} was killed before it ended, or the host went down: see its log and the kernel's"
    );
    tell(
        stack,
        Occasion::Failed,
        "the backup did not end",
        &text,
        events,
    )
    .await;
    // Behind the message: told twice is better than not at all.
    raised.killed_told_of = Some(run.started_at);
    remember(stack, &raised)?;
    Ok(true)
}

/// Tells how a run ended, and answers what did not arrive.
pub(super) async fn ended(
    stack: &Stack,
    run: &Run,
    before: Option<Fate>,
    events: &Events,
) -> Vec<String> {
    let mut raised = raised(stack);
    let was_stale = raised.stale_told_at.take().is_some();
    let was_bad = matches!(before, Some(Fate::Failed | Fate::Died)) || was_stale;
    let archive = run.archive.as_deref().unwrap_or("no archive");
    let deliveries = match &run.error {
        Some(error) => {
            let what = if run.behind.is_empty() {
                "the backup failed"
            } else {
                "the backup is good, and not copied everywhere"
            };
            tell(stack, Occasion::Failed, what, error, events).await
        }
        None if was_bad && stack.config.notify.recovery => {
            let what = "backups are good again";
            tell(stack, Occasion::Recovered, what, archive, events).await
        }
        None => {
            tell(
                stack,
                Occasion::Succeeded,
                "the backup is good",
                archive,
                events,
            )
            .await
        }
    };
    // A run that copied only half has a good backup, and the hourly look says that it is over.
    if was_stale
        && run.error.is_none()
        && let Err(error) = remember(stack, &raised)
    {
        events.warning(error.to_string());
    }
    let failed = deliveries
        .into_iter()
        .filter(|delivery| delivery.error.is_some());
    failed.map(|delivery| delivery.channel.to_owned()).collect()
}

/// Looks how old the newest good backup is, and tells if it is too old: once, and again each day, and
/// when that is over. Tells of a run that was killed, too.
pub async fn check_freshness(stack: &Stack, events: &Events) -> Result<Freshness> {
    if let Err(error) = killed(stack, events).await {
        events.warning(error.to_string());
    }
    let backups = backups(stack);
    let allowed_hours = stack.config.notify.no_backup_hours;
    let allowed = TimeDelta::hours(allowed_hours.into());
    let now = Utc::now();
    // A repository that cannot be read is as good as none.
    let time = backups.as_ref().ok().and_then(Backups::newest);
    if let Ok(backups) = &backups {
        backups.warn_of_ahead(events);
    }
    let is_stale = allowed_hours > 0 && time.is_none_or(|time| now - time > allowed);
    let mut told = Vec::new();
    let mut raised = raised(stack);
    let told_at = raised.stale_told_at;
    // A clock that was wrong when it was told last silences nothing.
    if is_stale && told_at.is_none_or(|at| now - at >= AGAIN || at > now) {
        let text = match &backups {
            Err(error) => error.to_string(),
            Ok(backups) => newest_in_words(backups),
        };
        let what = format!("no good backup for {allowed_hours} hours");
        told = tell(stack, Occasion::NoBackup, &what, &text, events).await;
        raised.stale_told_at = Some(now);
        remember(stack, &raised)?;
    } else if !is_stale && told_at.is_some() {
        if let Some(time) = time.filter(|_| stack.config.notify.recovery) {
            let text = format!("the newest is of {}", time.format("%Y-%m-%d %H:%M UTC"));
            let what = "there is a good backup again";
            told = tell(stack, Occasion::Recovered, what, &text, events).await;
        }
        raised.stale_told_at = None;
        remember(stack, &raised)?;
    }
    backups?;
    Ok(Freshness {
        newest: time,
        is_stale,
        allowed_hours,
        told,
    })
}

/// What there is where no backup is young enough.
fn newest_in_words(backups: &Backups) -> String {
    let mut text = match backups.newest() {
        Some(time) => format!("the newest is of {}", time.format("%Y-%m-%d %H:%M UTC")),
        None => "there is none at all".to_owned(),
    };
    if let Some(names) = backups.names_ahead() {
        text.push_str(&format!(
            "; dated in the future, so that its age is not known: {names}"
        ));
    }
    text
}

async fn tell(
    stack: &Stack,
    occasion: Occasion,
    what: &str,
    text: &str,
    events: &Events,
) -> Vec<Delivery> {
    match Notifier::of(stack) {
        Ok(notifier) => {
            let message = Message::new(stack, occasion, what, text);
            notifier.send(&message, events).await
        }
        Err(error) => {
            events.warning(format!("nobody can be told: {error}"));
            vec![Delivery {
                channel: "every channel",
                error: Some(error.to_string()),
            }]
        }
    }
}

fn file(stack: &Stack) -> PathBuf {
    stack.folder.join("run").join("alarm.json")
}

fn raised(stack: &Stack) -> Raised {
    let text = std::fs::read(file(stack)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

fn remember(stack: &Stack, raised: &Raised) -> Result<()> {
    let text = serde_json::to_vec(raised).context(|| "an alarm cannot be noted")?;
    fs::write_atomically(&file(stack), &text)
}
