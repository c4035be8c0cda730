//! What an upgrade would do, as a value. Making it looks at the stack and changes nothing.

use super::journal::{ConfigFile, Journal};
use super::versions::{Changed, Versions, Wanted, refuse_overridden, with_changes};
use crate::adapters::fs;
use crate::config::{Loaded, TierChoice};
use crate::error::{Error, ErrorKind, Result};
use crate::stack::docker::{self, Deployment, Service};
use crate::stack::jar::boot_jar::{self, expected_sha256};
use crate::stack::jar::cache::Cache;
use crate::stack::{Remembered, ServerState, Stack, Tier, status};
use serde::Serialize;

/// How an upgrade is done.
#[derive(Debug, Clone, Default)]
pub struct UpgradeOptions {
    /// What is asked for.
    pub wanted: Wanted,
    /// Do not try the new version on a copy first.
    pub no_drill: bool,
    /// Seconds that the new version may take to become healthy, if not as configured.
    pub health_timeout: Option<u64>,
}

/// What an upgrade would do.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// The stack.
    pub stack: String,
    /// The tier that it runs on.
    pub tier: Tier,
    /// What changes in the configuration file.
    pub changes: Vec<Changed>,
    /// Whether the new version is tried on a copy first.
    pub drill: bool,
    /// What comes back if the new version fails, besides the old one.
    pub saved: Vec<String>,
    #[serde(skip)]
    pub(super) live: Stack,
    #[serde(skip)]
    pub(super) next: Stack,
    #[serde(skip)]
    pub(super) before: Versions,
    #[serde(skip)]
    pub(super) after: Versions,
    #[serde(skip)]
    pub(super) config: ConfigFile,
    #[serde(skip)]
    pub(super) health_timeout: Option<u64>,
}

impl Plan {
    /// Whether that is what runs already.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.changes.is_empty()
    }
}

/// Plans an upgrade of the stack that `loaded` describes.
pub async fn plan(loaded: &Loaded, options: &UpgradeOptions) -> Result<Plan> {
    let live = Stack::open(loaded)?;
    if Journal::unfinished(&live)?.is_some() {
        return Err(Error::failed("an earlier upgrade was broken off")
            .hint("`k1ops start` finishes it or takes it back, and so does `k1ops upgrade`."));
    }
    let tier = tier_of(&live).await?;
    require_own_file(&live, loaded)?;
    let before = Versions::of(&live.config);
    let after = before.with(&options.wanted);
    let changes = before.changes_to(&after);
    refuse_overridden(loaded, &changes)?;
    refuse_other_tier(tier, &changes)?;
    let mut next = live.clone();
    after.put_into(&mut next.config);
    check_what_is_here(&next, tier).await?;
    let config = config_file(loaded, &changes)?;
    Ok(Plan {
        stack: live.name.clone(),
        tier,
        drill: !options.no_drill,
        saved: saved(tier, &live, &before, &after),
        changes,
        live,
        next,
        before,
        after,
        config,
        health_timeout: options.health_timeout,
    })
}

/// The tier of a stack that works. What does not work beforehand cannot be told from what the new
/// version has broken.
async fn tier_of(live: &Stack) -> Result<Tier> {
    let tier = live.last_tier()?;
    let Some(tier @ (Tier::Docker | Tier::Jar)) = tier else {
        return Err(Error::missing(format!(
            "stack {} has run no server yet that could be upgraded",
            live.name
        ))
        .hint("Name the version in k1ops.toml, and start it with `k1ops start`."));
    };
    if !status(live).await?.is_healthy() {
        return Err(
            Error::missing(format!("stack {} does not run, or is not well", live.name)).hint(
                "An upgrade begins with a stack that works: `k1ops start`; `k1ops doctor` says what is wrong.",
            ),
        );
    }
    require_configured_runs(live, tier)?;
    Ok(tier)
}

/// What comes back on a failure is what the configuration names: it has to be what runs.
fn require_configured_runs(live: &Stack, tier: Tier) -> Result<()> {
    let (server, images) = (&live.config.server, &live.config.docker);
    let other = match tier {
        Tier::Docker => {
            let settings = Deployment::of(live)?.settings;
            let image = docker::expected_image(live).tag;
            let known = expected_sha256(server).is_some();
            let named = [
                (Service::Server, image.as_str(), known),
                (Service::Postgres, &images.postgres_image, true),
                (Service::Redis, &images.redis_image, true),
            ];
            let mut others = named.into_iter().filter(|(service, image, known)| {
                *known && settings.image(*service).is_some_and(|runs| runs != *image)
            });
            others.next().map(|(_, image, _)| image.to_owned())
        }
        Tier::Jar | Tier::Direct => match ServerState::read(live)? {
            Remembered::Running(state) if state.conductor_version != server.version => {
                Some(format!("Conductor {}", server.version))
            }
            _ => None,
        },
    };
    match other {
        None => Ok(()),
        Some(named) => Err(Error::refused(format!(
            "the configuration names {named}, which is not what runs"
        ))
        .hint(
            "Put k1ops.toml back to what runs, and name what is new to `k1ops upgrade`: it changes \
             the file itself, and back again if need be.",
        )),
    }
}

/// Stacks that share a file share the versions in it.
fn require_own_file(live: &Stack, loaded: &Loaded) -> Result<()> {
    if live.name == loaded.home_stack {
        return Ok(());
    }
    Err(Error::refused(format!(
        "the configuration file is that of stack {}, and names the versions of {} as well",
        loaded.home_stack, live.name
    ))
    .hint(format!(
        "Give {} a file of its own, and name it with --config.",
        live.name
    )))
}

fn refuse_other_tier(tier: Tier, changes: &[Changed]) -> Result<()> {
    let images = |change: &&Changed| change.key.starts_with("docker.");
    match changes.iter().find(images) {
        Some(change) if tier != Tier::Docker => Err(Error::usage(format!(
            "{} is of tier 1, and this stack runs on tier {}",
            change.key,
            tier.number()
        ))
        .hint("Name a JAR with --jar, or a version with --server-version.")),
        _ => Ok(()),
    }
}

/// Looks at the JAR and the images as far as they are on this host; what is not is fetched later.
async fn check_what_is_here(next: &Stack, tier: Tier) -> Result<()> {
    let server = &next.config.server;
    if !server.jar.as_os_str().is_empty() {
        let cache = Cache::open()?;
        let wanted = boot_jar::Wanted {
            server,
            base: &next.base,
            cache: &cache,
        };
        for (_, verified) in wanted.candidates() {
            verified.map_err(|error| {
                let sum = "Name its checksum with --jar-sha256; `sha256sum FILE` prints it.";
                match error.kind() {
                    ErrorKind::BadData | ErrorKind::Refused => error.hint(sum),
                    _ => error,
                }
            })?;
        }
    }
    if tier == Tier::Docker {
        docker::check_database_image(next)
            .await
            .map_err(of_major_version)?;
    }
    Ok(())
}

/// Files of one major version of `PostgreSQL` are nothing to the next; rows are.
pub(super) fn of_major_version(error: Error) -> Error {
    if error.kind() != ErrorKind::BadData {
        return error;
    }
    Error::refused("an upgrade does not change the major version of PostgreSQL")
        .because(error)
        .hint(
            "Its rows go into a new stack: back up, set the new docker.postgres_image and another \
             docker.prefix in the k1ops.toml of another folder, and run `k1ops restore ARCHIVE` there.",
        )
}

fn config_file(loaded: &Loaded, changes: &[Changed]) -> Result<ConfigFile> {
    let path = loaded.place();
    let was = fs::read_text_if_there(&path)?;
    let becomes = with_changes(was.as_deref().unwrap_or_default(), changes, &path)?;
    Ok(ConfigFile { path, was, becomes })
}

/// Which data the new version may change, in words.
fn saved(tier: Tier, live: &Stack, before: &Versions, after: &Versions) -> Vec<String> {
    match tier {
        Tier::Docker => super::switch::parts(live, tier, before, after)
            .iter()
            .map(|(what, _)| what.clone())
            .collect(),
        Tier::Jar | Tier::Direct if live.uses_database_url() => {
            vec![format!("database {}", live.config.database.url)]
        }
        Tier::Jar | Tier::Direct => vec![live.conductor_db().display().to_string()],
    }
}

/// The same stack, and no other tier if its own fails: that one has other data.
pub(super) fn on(tier: Tier, stack: &Stack) -> Stack {
    let mut stack = stack.clone();
    stack.config.tier = match tier {
        Tier::Docker => TierChoice::Docker,
        Tier::Jar => TierChoice::Jar,
        Tier::Direct => TierChoice::Direct,
    };
    stack
}
