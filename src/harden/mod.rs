//! A stack of tier 1 made fit for production, and back: certificates for its databases, which then
//! speak nothing but TLS, roles with few rights, and new passwords. What that is made of is the
//! stack's to know; here is what changes, in which order, and what is kept of before. The terminal is
//! not known here.

mod firewall;
mod kept;

pub use firewall::{Firewall, firewall};
pub use kept::Kept;

use crate::adapters::docker::Engine;
use crate::adapters::fs::{self, Lock};
use crate::config::{self, Loaded, Origin, Profile};
use crate::error::{Error, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use crate::stack::docker::{self, Change, Role, Secrets, roles, tls};
use crate::stack::{self, Stack, StartOptions};
use chrono::TimeDelta;
use kept::name_of;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Files of the user's own making that hardening can do with.
const MAY_BE_EDITED: [&str; 2] = ["docker-compose.yaml", "init-db.sql"];

/// The configuration file with another profile in it.
#[derive(Debug, Clone, Serialize)]
pub struct ConfigEdit {
    /// The file, which need not be there yet.
    pub path: PathBuf,
    #[serde(skip)]
    text: String,
}

impl ConfigEdit {
    /// Writes it.
    pub fn write(&self) -> Result<()> {
        fs::replace(&self.path, self.text.as_bytes(), 0o644)
    }
}

/// What becomes of the roles with few rights: Conductor's, that of backups and that of questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RolesChange {
    /// They are what they ought to be, as far as can be seen.
    Same,
    /// They are made.
    Create,
    /// They have other rights or passwords than they ought to.
    Mend,
}

/// What would be done. A pure value: making it touches nothing.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// The stack's name.
    pub stack: String,
    /// The configuration file, if it does not say so yet.
    pub config: Option<ConfigEdit>,
    /// Certificates that are made, and why.
    pub certificates: Vec<String>,
    /// Whether `PostgreSQL` and Redis get new passwords.
    pub rotates: bool,
    /// What becomes of the roles of `PostgreSQL`.
    pub roles: RolesChange,
    /// The files of tier 1.
    pub files: docker::Plan,
    /// Whether the stack runs, and is started anew.
    pub restarts: bool,
    #[serde(skip)]
    secrets: Option<Secrets>,
    #[serde(skip)]
    hardened: Stack,
}

impl Plan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.are_files_settled() && self.roles == RolesChange::Same
    }

    /// Whether what runs has to be started anew for it.
    #[must_use]
    pub fn starts_anew(&self) -> bool {
        !self.are_files_settled()
    }

    fn are_files_settled(&self) -> bool {
        let makes_roles = self.roles == RolesChange::Create;
        self.config.is_none() && !self.rotates && !makes_roles && self.files.is_settled()
    }

    /// Whether the gateway before Conductor is new, or is told something else.
    #[must_use]
    pub fn puts_gateway(&self) -> bool {
        let is_it = |path: &Path| path.ends_with("secrets/gateway.cfg");
        changed(self).iter().any(|file| is_it(&file.path))
    }

    fn what(&self) -> Vec<String> {
        let profile = self.config.as_ref().map(|_| "production".to_owned());
        let rotated = self.rotates.then(|| "new passwords".to_owned());
        let made = self.certificates.iter().cloned();
        let gateway = self.puts_gateway().then(|| "the gateway".to_owned());
        let roles = (self.roles != RolesChange::Same).then(|| "the roles of PostgreSQL".to_owned());
        let all = profile.into_iter().chain(made).chain(gateway);
        all.chain(roles).chain(rotated).collect()
    }
}

/// What was done.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What.
    pub what: Vec<String>,
    /// Whether the stack was started anew.
    pub restarted: bool,
}

/// The configuration file with `profile` in it; none if that is what it says.
pub fn with_profile(loaded: &Loaded, profile: Profile) -> Result<Option<ConfigEdit>> {
    if loaded.config.docker.profile == profile {
        return Ok(None);
    }
    if let Some(Origin::Environment(variable)) = loaded.origins.get("docker.profile") {
        return Err(Error::refused(format!(
            "{variable} decides the profile, so that the configuration file would change nothing"
        ))
        .hint(format!("Unset {variable}, or set it yourself.")));
    }
    let path = loaded.place();
    let before = fs::read_text_if_there(&path)?.unwrap_or_default();
    let text = config::with_value(&before, "docker", "profile", name_of(profile), &path)?;
    Ok(Some(ConfigEdit { path, text }))
}

/// Plans the hardening of the stack that `loaded` describes.
pub async fn plan(loaded: &Loaded, rotate: bool) -> Result<Plan> {
    let live = Stack::open(loaded)?.without_docker_database();
    if !live.docker_folder().join(".env").exists() {
        return Err(
            Error::missing(format!("stack {} has no tier 1 on this host", live.name)).hint(
                "`k1ops init --profile production` makes one that is hardened from the start.",
            ),
        );
    }
    if Kept::newest(&live)?.is_some_and(|kept| !kept.complete) {
        return Err(Error::failed("an earlier hardening was broken off")
            .hint("`k1ops start` puts back what it had replaced, and so does `k1ops harden`."));
    }
    let config = with_profile(loaded, Profile::Production)?;
    let mut hardened = live.clone();
    hardened.config.docker.profile = Profile::Production;
    let settings = docker::Deployment::of(&live)?.settings;
    hardened.config.docker.elasticsearch |= settings.has_elasticsearch();
    let folder = hardened.docker_folder();
    let present = Secrets::exist(&folder)
        .then(|| Secrets::planned(&folder, true))
        .transpose()?;
    let has_password = |role: Role| role.password_file(&folder).exists();
    let has_roles = Role::LIMITED.into_iter().all(has_password);
    let secrets = match &present {
        _ if rotate => Some(Secrets::generated()),
        Some(present) if !has_roles => Some(present.clone()),
        _ => None,
    };
    let certificates = docker::certificates(&hardened, TimeDelta::days(tls::RENEW_DAYS))?;
    let image = docker::expected_image(&hardened);
    let used = secrets.as_ref().or(present.as_ref());
    let files = docker::plan_with(&hardened, &image, used, certificates.as_ref())?;
    refuse_edited(&files)?;
    let restarts = runs(&live).await?;
    let roles = match has_roles {
        false => RolesChange::Create,
        true if restarts && need_mending(&live).await => RolesChange::Mend,
        true => RolesChange::Same,
    };
    Ok(Plan {
        stack: live.name.clone(),
        config,
        certificates: certificates.map(|tls| tls.made).unwrap_or_default(),
        rotates: rotate,
        roles,
        files,
        restarts,
        secrets,
        hardened,
    })
}

fn refuse_edited(files: &docker::Plan) -> Result<()> {
    let is_in_the_way = |path: &Path| {
        let name = path.strip_prefix(&files.folder).unwrap_or(path);
        !MAY_BE_EDITED.iter().any(|&may| name == Path::new(may))
    };
    let edited = files.edited().find(|file| is_in_the_way(&file.path));
    match edited {
        None => Ok(()),
        Some(file) => Err(Error::refused(format!(
            "{} was edited, and hardening has to change it",
            file.path.display()
        ))
        .hint("`k1ops init` shows the difference and asks whether to bring it up to date.")),
    }
}

/// Whether the roles are not what they ought to be. A database that does not answer is for the start.
async fn need_mending(stack: &Stack) -> bool {
    roles::need_mending(stack).await.unwrap_or_else(|error| {
        tracing::debug!(%error, "the roles cannot be looked at");
        false
    })
}

/// Whether anything of tier 1 runs.
async fn runs(stack: &Stack) -> Result<bool> {
    let engine = match Engine::find().await {
        Ok(engine) => engine,
        // Without an engine nothing of it runs; the next start finds the new files.
        Err(error) => {
            tracing::debug!(%error, "there is no engine to ask");
            return Ok(false);
        }
    };
    let status = docker::status(stack, &engine, false).await?;
    Ok(status.is_running())
}

/// Does what is planned. If the stack does not come up with it, all is put back and it is started as
/// it was.
pub async fn apply(plan: Plan, events: &Events, interrupt: &Interrupt) -> Result<Report> {
    let stack = plan.hardened.clone();
    let what = plan.what();
    if plan.are_files_settled() {
        // Rights are in the database, where there is nothing to keep and nothing to start anew.
        roles::mend(&stack, events).await?;
        return Ok(Report {
            what,
            restarted: false,
        });
    }
    let kept = write(&plan, &what)?;
    if !plan.restarts {
        return Ok(Report {
            what,
            restarted: false,
        });
    }
    match Box::pin(start(&stack, events, interrupt)).await {
        Ok(()) => Ok(Report {
            what,
            restarted: true,
        }),
        Err(error) => {
            events.warning("the stack does not come up with this; what was there is put back");
            let before = before(&stack, kept)?;
            // Interrupted or not: a stack that ran is to run again.
            let again = Box::pin(start(&before, events, &Interrupt::default())).await;
            if let Err(again) = again {
                events.warning_with_hint(
                    format!("the stack does not come up as it was, either: {again}"),
                    "`k1ops start` tries again; `k1ops doctor` says what is wrong.",
                );
            }
            Err(error)
        }
    }
}

/// Writes all files, each beside its place and then in it, after those that are there were kept.
fn write(plan: &Plan, what: &[String]) -> Result<Kept> {
    let stack = &plan.hardened;
    let _lock = Lock::exclusive(&stack.lock_file("server"), "k1ops harden")?;
    let folder = stack.docker_folder();
    let config = plan.config.as_ref();
    let files = config
        .map(|edit| edit.path.clone())
        .into_iter()
        .chain(plan.files.paths())
        .chain(Secrets::files(&folder));
    let told = config.map(|edit| (edit.path.clone(), edit.text.clone()));
    let mut kept = Kept::keep(stack, files, told, what.to_vec())?;
    if let Some(secrets) = &plan.secrets {
        secrets.write(&folder)?;
    }
    plan.files.apply(&[])?;
    kept.completed()?;
    // Last: without it every start goes by the old profile, and brings all files back to that.
    if let Some(edit) = config {
        edit.write()?;
    }
    Ok(kept)
}

/// Puts back what a hardening, or an undo of one, had replaced that was killed before all was written:
/// half of each would be neither.
pub fn recover(stack: &Stack, events: &Events) -> Result<()> {
    if Kept::newest(stack)?.is_none_or(|kept| kept.complete) {
        return Ok(());
    }
    let _lock = Lock::exclusive(&stack.lock_file("server"), "k1ops harden")?;
    // Whoever had the lock until now may have come to its end.
    let Some(kept) = Kept::newest(stack)?.filter(|kept| !kept.complete) else {
        return Ok(());
    };
    kept.put_back(stack)?;
    events.note("a hardening was broken off; the files that it had replaced are put back");
    Ok(())
}

async fn start(stack: &Stack, events: &Events, interrupt: &Interrupt) -> Result<()> {
    let mut stack = stack.clone();
    stack.config.tier = config::TierChoice::Docker;
    let options = StartOptions::default();
    stack::start(&stack, &options, events, interrupt)
        .await
        .map(drop)
}

/// Puts back what was kept; answers the stack as it was.
fn before(stack: &Stack, kept: Kept) -> Result<Stack> {
    let _lock = Lock::exclusive(&stack.lock_file("server"), "k1ops harden --undo")?;
    kept.put_back(stack)?;
    let mut before = stack.clone();
    let settings = docker::Deployment::of(stack)?.settings;
    before.config.docker.profile = if settings.is_production() {
        Profile::Production
    } else {
        Profile::Standard
    };
    if !settings.has_gateway() {
        before.config.docker.gateway = config::Gateway::default();
    }
    Ok(before)
}

/// What an undo would do.
#[derive(Debug, Serialize)]
pub struct UndoPlan {
    /// What is undone.
    pub kept: Kept,
    /// Whether the stack runs, and is started anew.
    pub restarts: bool,
}

/// Plans taking the last hardening back.
pub async fn plan_undo(loaded: &Loaded) -> Result<UndoPlan> {
    let stack = Stack::open(loaded)?.without_docker_database();
    let Some(kept) = Kept::newest(&stack)? else {
        return Err(Error::missing(format!(
            "stack {} was not hardened, or that was taken back already",
            stack.name
        ))
        .hint("Nothing is to be undone."));
    };
    let restarts = runs(&stack).await?;
    Ok(UndoPlan { kept, restarts })
}

/// Takes the last hardening back.
pub async fn undo(
    loaded: &Loaded,
    plan: UndoPlan,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<Report> {
    let stack = Stack::open(loaded)?.without_docker_database();
    let what = plan.kept.what.clone();
    let before = before(&stack, plan.kept)?;
    let docker = &before.config.docker;
    let is_still_told = loaded.config.docker.gateway.is_configured();
    if is_still_told && docker.profile == Profile::Production && !docker.gateway.is_configured() {
        events.warning_with_hint(
            "docker.gateway is still set, and the next start brings the gateway back",
            "Remove it from k1ops.toml to do without.",
        );
    }
    if plan.restarts {
        Box::pin(start(&before, events, interrupt)).await?;
    }
    Ok(Report {
        what,
        restarted: plan.restarts,
    })
}

/// The files that are written.
#[must_use]
pub fn changed(plan: &Plan) -> Vec<&docker::PlannedFile> {
    let files = plan.files.files.iter();
    files
        .filter(|file| !matches!(file.change, Change::Same | Change::Edited))
        .collect()
}
