//! `k1ops notify`.

use super::Context;
use crate::error::{Error, Result};
use crate::exit_code::ExitCode;
use crate::notify::{Message, Notifier, Occasion};
use crate::ui::Tone;

/// Send a message to everybody whom `[notify]` names, to see that it arrives
///
/// Exits 1 if it does not arrive everywhere.
#[derive(Debug, clap::Args)]
pub struct NotifyArgs {
    /// What to say
    #[arg(default_value = "This is a test: messages arrive.")]
    text: String,
}

/// Sends.
pub(super) async fn run(args: &NotifyArgs, context: &Context) -> Result<ExitCode> {
    let stack = context.stack()?;
    let notifier = Notifier::of(&stack)?;
    if notifier.is_empty() {
        return Err(Error::usage("`[notify]` names nobody")
            .hint("Set notify.webhook, slack, ntfy, healthchecks or email.to in k1ops.toml."));
    }
    let message = Message::new(&stack, Occasion::Test, "a test", &args.text);
    let deliveries = notifier.send(&message, &context.events()).await;
    context.ui.result(&deliveries, |ui, text| {
        for delivery in &deliveries {
            let how = match &delivery.error {
                None => ui.paint(Tone::Good, "arrived"),
                Some(error) => ui.paint(Tone::Bad, error),
            };
            text.push_str(&format!("{:<13} {how}\n", delivery.channel));
        }
    })?;
    Ok(
        if deliveries.iter().all(|delivery| delivery.error.is_none()) {
            ExitCode::Done
        } else {
            ExitCode::Failed
        },
    )
}
