//! Telling people, and machines that watch over machines, how things ended: by webhook, Slack, ntfy,
//! a ping, and e-mail. Each channel is tried several times, and none keeps the others from being
//! told.
//!
//! Addresses and tokens are secrets. They are in no message, no error and no log.

mod channel;

use crate::adapters::mail::Mailer;
use crate::config::{Hidden, Notify};
use crate::error::{Context, Error, Result};
use crate::event::Events;
use crate::stack::Stack;
use channel::Channel;
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::time::Duration;

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(10);

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Occasion {
    /// A run begins. Only a ping tells of it.
    Started,
    /// A run was good. Only a ping tells of it.
    Succeeded,
    /// A run was good after one that was not.
    Recovered,
    /// A run was not good.
    Failed,
    /// There is no good backup for too long.
    NoBackup,
    /// Somebody tries whether messages arrive.
    Test,
}

impl Occasion {
    /// Somebody should look.
    #[must_use]
    pub fn is_alarm(self) -> bool {
        matches!(self, Self::Failed | Self::NoBackup)
    }

    /// People are told, and not only a ping is sent.
    fn is_for_people(self) -> bool {
        !matches!(self, Self::Started | Self::Succeeded)
    }
}

/// What is told.
#[derive(Debug, Clone, Serialize)]
pub struct Message {
    /// What happened.
    pub event: Occasion,
    /// To which stack.
    pub stack: String,
    /// On which host.
    pub host: String,
    /// When.
    pub at: DateTime<Utc>,
    /// In a line.
    pub title: String,
    /// In some lines.
    pub text: String,
}

impl Message {
    /// A message about `stack` of this moment.
    #[must_use]
    pub fn new(stack: &Stack, event: Occasion, what: &str, text: &str) -> Self {
        let host = rustix::system::uname();
        let host = host.nodename().to_string_lossy().into_owned();
        Self {
            event,
            stack: stack.name.clone(),
            at: Utc::now(),
            title: format!("k1ops: {what} (stack {} on {host})", stack.name),
            text: text.to_owned(),
            host,
        }
    }
}

/// What became of a message on one channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Delivery {
    /// The channel.
    pub channel: &'static str,
    /// Why it did not arrive, if it did not.
    pub error: Option<String>,
}

/// Everybody who is to be told.
#[derive(Debug)]
pub struct Notifier {
    channels: Vec<Channel>,
}

impl Notifier {
    /// Those whom the stack's configuration names. Fails if a secret's file cannot be read, or an
    /// address is none.
    pub fn of(stack: &Stack) -> Result<Self> {
        let notify: &Notify = &stack.config.notify;
        let secret = |name: &str, value: &Hidden| value_of(stack, name, value);
        let mut channels = Vec::new();
        if let Some(url) = secret("webhook", &notify.webhook)? {
            channels.push(Channel::webhook(&url)?);
        }
        if let Some(url) = secret("slack", &notify.slack)? {
            channels.push(Channel::slack(&url)?);
        }
        if let Some(url) = secret("ntfy", &notify.ntfy)? {
            let token = secret("ntfy_token", &notify.ntfy_token)?;
            channels.push(Channel::ntfy(&url, token)?);
        }
        if let Some(url) = secret("healthchecks", &notify.healthchecks)? {
            channels.push(Channel::healthchecks(&url)?);
        }
        if !notify.email.to.is_empty() {
            let password = secret("email.password", &notify.email.password)?;
            let mailer = Mailer::new(&notify.email, password, ATTEMPT)?;
            channels.push(Channel::Email(mailer));
        }
        Ok(Self { channels })
    }

    /// Nobody is to be told.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// Tells everybody whom the occasion concerns, at the same time. What does not arrive is warned
    /// of, and is never a reason for the work itself to fail.
    pub async fn send(&self, message: &Message, events: &Events) -> Vec<Delivery> {
        let concerned = self
            .channels
            .iter()
            .filter(|channel| message.event.is_for_people() || channel.takes_every_event());
        let sending = concerned.map(|channel| async move {
            Delivery {
                channel: channel.name(),
                error: channel.send(message).await.err(),
            }
        });
        let deliveries = futures_util::future::join_all(sending).await;
        for delivery in &deliveries {
            if let Some(error) = &delivery.error {
                events.warning_with_hint(
                    format!(
                        "the message by {} did not arrive: {error}",
                        delivery.channel
                    ),
                    "`k1ops notify` tries it again.",
                );
            }
        }
        deliveries
    }
}

/// A secret that is written out or in a file; none if it is not set.
fn value_of(stack: &Stack, name: &str, value: &Hidden) -> Result<Option<String>> {
    if value.is_empty() {
        return Ok(None);
    }
    let Some(file) = value.file() else {
        return Ok(Some(value.expose().to_owned()));
    };
    let path = stack.base.join(file);
    let text = std::fs::read_to_string(&path).context(|| {
        format!(
            "{}, which notify.{name} names, cannot be read",
            path.display()
        )
    })?;
    match text.trim() {
        "" => Err(Error::usage(format!(
            "{}, which notify.{name} names, is empty",
            path.display()
        ))
        .hint("Write the secret into it, and nothing else.")),
        text => Ok(Some(text.to_owned())),
    }
}
