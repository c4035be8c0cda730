//! A new host: where a stack that there is nothing of yet is restored to.

use crate::adapters::docker::Engine;
use crate::config::TierChoice;
use crate::error::{Error, Result};
use crate::repository::{Kind, Repository};
use crate::stack::docker::{Secrets, expected_image, plan};
use crate::stack::{Stack, Tier};

/// Whether a stack that has nothing yet should become one of tier 1, since that is what the archive
/// was taken of and nothing in the configuration says otherwise.
pub async fn belongs_in_docker(stack: &Stack, archive: &str) -> Result<bool> {
    let open = matches!(stack.config.tier, TierChoice::Auto | TierChoice::Docker);
    let has_something =
        stack.uses_database_url() || stack.last_tier()?.is_some() || stack.conductor_db().exists();
    if !open || has_something {
        return Ok(false);
    }
    let repository = Repository::of(stack)?;
    let path = repository.find_kind(archive, &stack.name, Some(Kind::Logical))?;
    let tier = repository.open(&path)?.manifest().tier.clone();
    if tier.as_deref() != Some(Tier::Docker.name()) {
        return Ok(false);
    }
    // Without an engine the archive's own mismatch is the better message.
    Ok(Engine::find().await.is_ok())
}

/// The same stack on tier 1. With `set_up`, its files and passwords are made if they are not there;
/// without, they have to be.
pub fn in_docker(stack: &Stack, set_up: bool) -> Result<Stack> {
    let folder = stack.docker_folder();
    if set_up {
        plan(stack, &expected_image(stack), true)?.apply(&[])?;
        stack.remember_tier(Tier::Docker)?;
    } else if !Secrets::exist(&folder) {
        return Err(Error::missing(format!(
            "stack {} is not set up on this host, so there is nothing to plan with",
            stack.name
        ))
        .hint("`k1ops init` sets it up; without --dry-run the restore does so itself."));
    }
    stack.in_docker()
}
