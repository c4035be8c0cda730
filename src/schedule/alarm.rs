//! Who is told of what a scheduled run did, and of runs that did not come.

use super::fire::newest_backup;
use super::record::{Fate, Run};
use crate::adapters::fs;
use crate::error::{Context, Result};
use crate::event::Events;
use crate::notify::{Delivery, Message, Notifier, Occasion};
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

/// When an alarm was raised that still lasts.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Raised {
    stale_told_at: Option<DateTime<Utc>>,
}

/// Tells that a run begins.
pub(super) async fn begun(stack: &Stack, events: &Events) {
    tell(stack, Occasion::Started, "a run begins", "", events).await;
}

/// Tells that a run cannot even begin.
pub(super) async fn unable(stack: &Stack, error: &str, events: &Events) {
    tell(stack, Occasion::Failed, "the backup failed", error, events).await;
}

/// Tells how a run ended, and answers what did not arrive.
pub(super) async fn ended(
    stack: &Stack,
    run: &Run,
    before: Option<Fate>,
    events: &Events,
) -> Vec<String> {
    let was_bad = matches!(before, Some(Fate::Failed | Fate::Died));
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
    let failed = deliveries
        .into_iter()
        .filter(|delivery| delivery.error.is_some());
    failed.map(|delivery| delivery.channel.to_owned()).collect()
}

/// Looks how old the newest good backup is, and tells if it is too old: once, and again each day.
pub async fn check_freshness(stack: &Stack, events: &Events) -> Result<Freshness> {
    let newest = newest_backup(stack);
    let allowed_hours = stack.config.notify.no_backup_hours;
    let allowed = TimeDelta::hours(allowed_hours.into());
    let now = Utc::now();
    // A repository that cannot be read is as good as none.
    let time = newest.as_ref().ok().copied().flatten();
    let is_stale = allowed_hours > 0 && time.is_none_or(|time| now - time > allowed);
    let mut told = Vec::new();
    let raised = raised(stack).stale_told_at;
    if is_stale && raised.is_none_or(|at| now - at >= AGAIN) {
        let text = match (&newest, time) {
            (Err(error), _) => error.to_string(),
            (_, Some(time)) => format!("the newest is of {}", time.format("%Y-%m-%d %H:%M UTC")),
            (_, None) => "there is none at all".to_owned(),
        };
        let what = format!("no good backup for {allowed_hours} hours");
        told = tell(stack, Occasion::NoBackup, &what, &text, events).await;
        remember(stack, Some(now))?;
    } else if !is_stale && raised.is_some() {
        remember(stack, None)?;
    }
    newest?;
    Ok(Freshness {
        newest: time,
        is_stale,
        allowed_hours,
        told,
    })
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

fn remember(stack: &Stack, stale_told_at: Option<DateTime<Utc>>) -> Result<()> {
    let raised = Raised { stale_told_at };
    let text = serde_json::to_vec(&raised).context(|| "an alarm cannot be noted")?;
    fs::write_atomically(&file(stack), &text)
}
