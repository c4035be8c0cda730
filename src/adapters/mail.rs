//! E-mail by SMTP.

use crate::config::{Email, EmailSecurity};
use crate::error::{Context, Error, Result};
use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::Credentials;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use std::time::Duration;

type Smtp = AsyncSmtpTransport<Tokio1Executor>;

/// A way to a mail server.
pub struct Mailer {
    transport: Smtp,
    from: Mailbox,
    to: Vec<Mailbox>,
}

impl std::fmt::Debug for Mailer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mailer from {} to {:?}", self.from, self.to)
    }
}

/// Why a mail was not taken.
#[derive(Debug)]
pub struct Refused {
    /// What the server or the network said.
    pub reason: String,
    /// Trying again is of no use.
    pub for_good: bool,
}

impl Mailer {
    /// A way to the server that `email` names. Connects to nobody yet.
    pub fn new(email: &Email, password: Option<String>, timeout: Duration) -> Result<Self> {
        let mailbox = |text: &str| -> Result<Mailbox> {
            text.parse().map_err(|error| {
                Error::usage(format!("{text:?} is no e-mail address"))
                    .because(error)
                    .hint("Correct notify.email.to and notify.email.from.")
            })
        };
        let server = email.server.as_str();
        if server.is_empty() {
            return Err(
                Error::usage("notify.email.to is set and notify.email.server is not")
                    .hint("Name the mail server in notify.email.server."),
            );
        }
        let cannot = || format!("mail server {server} cannot be used");
        let mut builder = match email.security {
            EmailSecurity::Tls => Smtp::relay(server).context(cannot)?,
            EmailSecurity::Starttls => Smtp::starttls_relay(server).context(cannot)?,
            EmailSecurity::None => Smtp::builder_dangerous(server),
        };
        if email.port != 0 {
            builder = builder.port(email.port);
        }
        if let Some(password) = password {
            builder = builder.credentials(Credentials::new(email.user.clone(), password));
        }
        let to = email.to.iter().map(|to| mailbox(to));
        Ok(Self {
            from: mailbox(&email.from)?,
            to: to.collect::<Result<_>>()?,
            transport: builder.timeout(Some(timeout)).build(),
        })
    }

    /// Sends a plain text to everybody.
    pub async fn send(&self, subject: &str, text: &str) -> Result<(), Refused> {
        let for_good = |error: lettre::error::Error| Refused {
            reason: error.to_string(),
            for_good: true,
        };
        let mut message = Message::builder().from(self.from.clone()).subject(subject);
        for to in &self.to {
            message = message.to(to.clone());
        }
        let message = message.body(text.to_owned()).map_err(for_good)?;
        match self.transport.send(message).await {
            Ok(_) => Ok(()),
            Err(error) => Err(Refused {
                for_good: error.is_permanent(),
                reason: error.to_string(),
            }),
        }
    }
}
