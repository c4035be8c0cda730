//! The channels, each in the words of its far side.

use super::{ATTEMPT, Message, Occasion};
use crate::adapters::http::message_client;
use crate::adapters::mail::Mailer;
use crate::error::{Error, Result};
use backon::{BackoffBuilder, ExponentialBuilder};
use reqwest::{Client, RequestBuilder, StatusCode, Url};
use serde_json::json;
use std::time::Duration;

/// How often a message is tried anew.
const RETRIES: usize = 4;
/// How long before the first of these; each next time twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// One way to tell somebody.
#[derive(Debug)]
pub(super) enum Channel {
    /// A JSON object.
    Webhook(Post),
    /// Slack's incoming webhook.
    Slack(Post),
    /// ntfy's topic, with a token.
    Ntfy(Post, Option<String>),
    /// A ping.
    Healthchecks(Post),
    /// E-mail.
    Email(Mailer),
}

/// Where to post to.
pub(super) struct Post {
    client: Client,
    url: Url,
}

impl std::fmt::Debug for Post {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Why an attempt failed.
struct Failed {
    reason: String,
    for_good: bool,
}

impl Channel {
    pub(super) fn webhook(url: &str) -> Result<Self> {
        Post::new("webhook", url).map(Self::Webhook)
    }

    pub(super) fn slack(url: &str) -> Result<Self> {
        Post::new("slack", url).map(Self::Slack)
    }

    pub(super) fn ntfy(url: &str, token: Option<String>) -> Result<Self> {
        Ok(Self::Ntfy(Post::new("ntfy", url)?, token))
    }

    pub(super) fn healthchecks(url: &str) -> Result<Self> {
        Post::new("healthchecks", url).map(Self::Healthchecks)
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Webhook(_) => "webhook",
            Self::Slack(_) => "slack",
            Self::Ntfy(..) => "ntfy",
            Self::Healthchecks(_) => "healthchecks",
            Self::Email(_) => "email",
        }
    }

    /// Whether it is told of what is as it should be, too.
    pub(super) fn takes_every_event(&self) -> bool {
        matches!(self, Self::Healthchecks(_))
    }

    /// Sends, and tries again what may go away by itself.
    pub(super) async fn send(&self, message: &Message) -> Result<(), String> {
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(FIRST_PAUSE)
            .with_jitter()
            .with_max_times(RETRIES)
            .build();
        loop {
            let Err(failed) = self.attempt(message).await else {
                return Ok(());
            };
            match pauses.next() {
                Some(pause) if !failed.for_good => tokio::time::sleep(pause).await,
                _ => return Err(failed.reason),
            }
        }
    }

    async fn attempt(&self, message: &Message) -> Result<(), Failed> {
        let both = || format!("{}\n{}", message.title, message.text);
        match self {
            Self::Webhook(post) => post.send(post.to().json(message)).await,
            Self::Slack(post) => {
                let text = format!("*{}*\n{}", message.title, message.text);
                post.send(post.to().json(&json!({ "text": text }))).await
            }
            Self::Ntfy(post, token) => {
                let alarm = message.event.is_alarm();
                let mut request = post
                    .to()
                    .header("Title", ascii(&message.title))
                    .header("Priority", if alarm { "high" } else { "default" })
                    .header(
                        "Tags",
                        if alarm {
                            "rotating_light"
                        } else {
                            "white_check_mark"
                        },
                    )
                    .body(message.text.clone());
                if let Some(token) = token {
                    request = request.bearer_auth(token);
                }
                post.send(request).await
            }
            Self::Healthchecks(post) => post.send(post.ping(message.event)?.body(both())).await,
            Self::Email(mailer) => {
                let sent = mailer.send(&message.title, &message.text).await;
                sent.map_err(|refused| Failed {
                    reason: refused.reason,
                    for_good: refused.for_good,
                })
            }
        }
    }
}

impl Post {
    fn new(name: &str, url: &str) -> Result<Self> {
        let url = Url::parse(url.trim())
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"));
        // The address is a secret, so it is not shown.
        let url = url.ok_or_else(|| {
            Error::usage(format!("notify.{name} is no address"))
                .hint("Write it as in https://host/path, or file:PATH for a file that holds it.")
        })?;
        Ok(Self {
            client: message_client(ATTEMPT)?,
            url,
        })
    }

    fn to(&self) -> RequestBuilder {
        self.client.post(self.url.clone())
    }

    /// The address for an event.
    fn ping(&self, event: Occasion) -> Result<RequestBuilder, Failed> {
        let end = match event {
            Occasion::Started => Some("start"),
            Occasion::Failed | Occasion::NoBackup => Some("fail"),
            // A message that is only tried must not pass for a backup.
            Occasion::Test => Some("log"),
            Occasion::Succeeded | Occasion::Recovered => None,
        };
        let mut url = self.url.clone();
        if let Some(end) = end {
            let mut path = url.path_segments_mut().map_err(|()| Failed {
                reason: "its address has no path".to_owned(),
                for_good: true,
            })?;
            path.pop_if_empty().push(end);
        }
        Ok(self.client.post(url))
    }

    async fn send(&self, request: RequestBuilder) -> Result<(), Failed> {
        let response = request.send().await.map_err(|error| Failed {
            for_good: error.is_builder(),
            reason: reason_of(error),
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let may_go_away = status.is_server_error()
            || matches!(
                status,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
            );
        Err(Failed {
            reason: format!("the far side answers {status}"),
            for_good: !may_go_away,
        })
    }
}

/// What went wrong, down to the last cause, without the address.
fn reason_of(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut reason = error.to_string();
    let mut next = std::error::Error::source(&error);
    while let Some(cause) = next {
        reason.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    reason
}

/// A header takes no other characters.
fn ascii(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_ascii() && !c.is_ascii_control() {
                c
            } else {
                '?'
            }
        })
        .collect()
}
