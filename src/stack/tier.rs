//! Which tier a stack is started on: the wanted one, or the first that the host can run.

use super::{Stack, Tier, jar};
use crate::config::TierChoice;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use serde::Serialize;

/// A tier that the host cannot run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PassedOver {
    /// The tier.
    pub tier: Tier,
    /// Why.
    pub reason: String,
}

/// A tier that the host can run, with what was found for it.
#[derive(Debug)]
pub enum Chosen {
    /// Tier 2.
    Jar(Box<jar::Ready>),
    /// Tier 3, which needs nothing.
    Direct,
}

/// The tier to start, and those before it.
#[derive(Debug)]
pub struct Choice {
    /// The tier.
    pub chosen: Chosen,
    /// The better ones, in the order they were tried.
    pub passed_over: Vec<PassedOver>,
}

/// Tries the tiers in their order, or the wanted one only.
///
/// A tier is passed over when something it needs is missing. Every other failure, such as a wrong
/// configuration, ends the choice: running something lesser would hide it. A tier that was asked
/// for by name is never replaced by another.
pub async fn choose(stack: &Stack, events: &Events, interrupt: &Interrupt) -> Result<Choice> {
    let order: &[Tier] = match stack.config.tier {
        TierChoice::Auto => &[Tier::Docker, Tier::Jar, Tier::Direct],
        TierChoice::Docker => &[Tier::Docker],
        TierChoice::Jar => &[Tier::Jar],
        TierChoice::Direct => &[Tier::Direct],
    };
    let mut passed_over = Vec::new();
    for &tier in order {
        match attempt(tier, stack, events, interrupt).await {
            Ok(chosen) => {
                return Ok(Choice {
                    chosen,
                    passed_over,
                });
            }
            Err(error) if order.len() > 1 && error.kind() == ErrorKind::Missing => {
                let reason = error.to_string();
                events.note(format!(
                    "tier {} ({}) is passed over: {reason}",
                    tier.number(),
                    tier.name()
                ));
                passed_over.push(PassedOver { tier, reason });
            }
            Err(error) => return Err(error),
        }
    }
    Err(Error::missing("no tier can run on this host"))
}

/// Looks whether the host can run a tier.
async fn attempt(
    tier: Tier,
    stack: &Stack,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<Chosen> {
    match tier {
        Tier::Docker => Err(docker_is_not_available()),
        Tier::Jar => {
            let ready = jar::prepare(stack, events, interrupt).await?;
            Ok(Chosen::Jar(Box::new(ready)))
        }
        Tier::Direct => Ok(Chosen::Direct),
    }
}

fn docker_is_not_available() -> Error {
    Error::missing("this build of k1ops cannot run the Docker tier")
        .hint("Use --tier jar, or --tier auto for the best that is left.")
}
