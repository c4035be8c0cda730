//! Putting a schedule where somebody fires it, and taking it out again.

use super::job::Job;
use super::units::{self, Unit};
use super::{By, crontab as block};
use crate::adapters::fs;
use crate::adapters::{crontab, systemd, time_zone};
use crate::error::{Context, Error, Result};
use crate::stack::Stack;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Who is to fire a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// A systemd timer.
    Systemd,
    /// The user's crontab.
    Cron,
}

impl std::str::FromStr for How {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "systemd" => Ok(Self::Systemd),
            "cron" => Ok(Self::Cron),
            _ => Err("systemd or cron".to_owned()),
        }
    }
}

/// What installing changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// There was no schedule.
    New,
    /// It was another one.
    Changed,
    /// It is there already.
    Same,
}

/// What would be written where.
#[derive(Debug, Clone, Serialize)]
pub struct InstallPlan {
    /// The stack.
    pub stack: String,
    /// Who fires it.
    pub how: How,
    /// When.
    pub at: String,
    /// In which time zone.
    pub time_zone: String,
    /// The next time, without the delay that spreads load.
    pub next: Option<DateTime<Utc>>,
    /// What changes.
    pub change: Change,
    /// The lines for the crontab.
    pub crontab: Option<String>,
    /// The units, by where they go.
    pub units: Vec<(PathBuf, String)>,
    /// Nobody fires it at the moment, and why.
    pub warning: Option<String>,
    /// Why cron is to fire it, on a host with systemd.
    pub not_systemd: Option<NotSystemd>,
    /// What is installed for somebody else, who is not to fire it as well.
    pub replaced: Option<RemovePlan>,
    #[serde(skip)]
    job: Job,
}

/// Why a schedule is not left to systemd, and what would change that.
#[derive(Debug, Clone, Serialize)]
pub struct NotSystemd {
    /// What is the case.
    pub reason: String,
    /// What to run.
    pub remedy: String,
}

/// What is taken out.
#[derive(Debug, Clone, Serialize)]
pub struct RemovePlan {
    /// The stack.
    pub stack: String,
    /// The lines of the crontab that go.
    pub crontab: Option<String>,
    /// The units that go.
    pub units: Vec<PathBuf>,
}

impl RemovePlan {
    /// Nothing is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.crontab.is_none() && self.units.is_empty()
    }
}

/// Notes when and how a schedule was installed: before that, nothing was missed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Installed {
    pub how: How,
    pub at: DateTime<Utc>,
}

impl Installed {
    pub(super) fn read(stack: &Stack) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(Self::file(stack)).ok()?).ok()
    }

    fn write(&self, stack: &Stack) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).context(|| "a note cannot be written")?;
        fs::write_atomically(&Self::file(stack), &text)
    }

    fn file(stack: &Stack) -> PathBuf {
        stack.folder.join("run").join("schedule-installed.json")
    }
}

/// Plans to have `job` fired by `how`, or by the best that the host has.
pub async fn plan_install(job: Job, how: Option<How>) -> Result<InstallPlan> {
    let (how, not_systemd) = chosen(how, &job)?;
    let now = Utc::now().with_timezone(&job.zone);
    let mut plan = InstallPlan {
        stack: job.stack.clone(),
        how,
        at: job.calendar.to_string(),
        time_zone: job.zone.name().to_owned(),
        next: job.calendar.next_after(now).map(|next| next.to_utc()),
        change: Change::New,
        crontab: None,
        units: Vec::new(),
        warning: None,
        not_systemd,
        replaced: None,
        job,
    };
    match how {
        How::Cron => for_cron(&mut plan).await?,
        How::Systemd => for_systemd(&mut plan)?,
    }
    plan.replaced = other_than(how, &plan.job).await?;
    Ok(plan)
}

/// What is installed for somebody else than `how`: two would fire everything twice.
async fn other_than(how: How, job: &Job) -> Result<Option<RemovePlan>> {
    let mut other = match plan_remove(job).await {
        // Who may not have a crontab has none.
        Err(_) if how == How::Systemd => return Ok(None),
        found => found?,
    };
    match how {
        How::Cron => other.crontab = None,
        How::Systemd => other.units.clear(),
    }
    Ok((!other.is_empty()).then_some(other))
}

/// Who is to fire it. A timer that ends at logout would leave the nights without a backup, and without
/// the alarm about that, unseen: it is never installed.
fn chosen(how: Option<How>, job: &Job) -> Result<(How, Option<NotSystemd>)> {
    let wanted = how.map_or_else(best, Ok)?;
    let ends = match wanted {
        How::Systemd => systemd::ends_at_logout(),
        How::Cron => None,
    };
    let Some(ends) = ends else {
        return Ok((wanted, None));
    };
    if how.is_none() && cron_can(job) {
        let (reason, remedy) = (ends.reason(), ends.remedy());
        return Ok((How::Cron, Some(NotSystemd { reason, remedy })));
    }
    Err(
        Error::refused(format!("{}, and backups with them", ends.reason())).hint(format!(
            "Run `{}` and try again, or run a cron and install with `--with cron`.",
            ends.remedy()
        )),
    )
}

fn cron_can(job: &Job) -> bool {
    crontab::is_installed() && crontab::cron_runs() && same_clock(job.zone)
}

fn best() -> Result<How> {
    if crontab::systemd_runs() {
        Ok(How::Systemd)
    } else if crontab::is_installed() {
        Ok(How::Cron)
    } else {
        Err(
            Error::missing("this host has neither systemd nor cron").hint(
                "Run `k1ops schedule run` as a service or a container of its own, or install cron.",
            ),
        )
    }
}

async fn for_cron(plan: &mut InstallPlan) -> Result<()> {
    let job = &plan.job;
    if !same_clock(job.zone) {
        return Err(Error::usage(format!(
            "cron goes by the host's time zone, and the schedule by {}",
            job.zone.name()
        ))
        .hint("Set `timezone` to local, or use a systemd timer or `k1ops schedule run`."));
    }
    let lines = block::block(job)?;
    let now = crontab::read_own().await?.unwrap_or_default();
    plan.change = match block::find(job, &now)? {
        None => Change::New,
        Some(place) if now[place.clone()] == *lines.as_bytes() => Change::Same,
        Some(_) => Change::Changed,
    };
    plan.crontab = Some(lines);
    if !crontab::cron_runs() {
        plan.warning = Some("no cron runs on this host at the moment".to_owned());
    }
    Ok(())
}

fn for_systemd(plan: &mut InstallPlan) -> Result<()> {
    let folder = systemd::unit_folder()?;
    let (mut there, mut same) = (0, 0);
    for Unit { name, text } in units::units(&plan.job, systemd::of_system()) {
        let path = folder.join(&name);
        if let Ok(found) = std::fs::read_to_string(&path) {
            if !found.starts_with(&units::mark(&plan.job)) {
                return Err(Error::refused(format!(
                    "{} is not a unit of this stack's schedule",
                    path.display()
                ))
                .hint("Move it away and try again."));
            }
            there += 1;
            same += usize::from(found == text);
        }
        plan.units.push((path, text));
    }
    plan.change = match (there, same) {
        (0, _) => Change::New,
        (_, 4) => Change::Same,
        _ => Change::Changed,
    };
    if !crontab::systemd_runs() {
        plan.warning = Some("systemd does not run on this host".to_owned());
    }
    Ok(())
}

/// Whether cron's clock shows the same all year as that of `zone`.
fn same_clock(zone: chrono_tz::Tz) -> bool {
    let system = time_zone::of_system();
    let now = Utc::now();
    (0..53).all(|week| {
        let time = now + TimeDelta::weeks(week);
        time.with_timezone(&zone).naive_local() == time.with_timezone(&system).naive_local()
    })
}

/// Executes `plan`.
pub async fn install(stack: &Stack, plan: &InstallPlan) -> Result<()> {
    let logs = plan.job.log.parent().unwrap_or(&plan.job.base);
    fs::create_private_folder(logs)?;
    if let Some(lines) = &plan.crontab {
        let now = crontab::read_own().await?.unwrap_or_default();
        let new = block::with_block(&plan.job, &now, lines)?;
        if new != now {
            crontab::write_own(&new).await?;
        }
    }
    if !plan.units.is_empty() {
        for (path, text) in &plan.units {
            // It holds no secret, and systemd complains of units that it alone may read.
            fs::write_atomically_for_all(path, text.as_bytes())?;
        }
        systemd::reload().await?;
        for timer in units::timer_names(&plan.job) {
            systemd::enable(&timer).await?;
        }
    }
    if let Some(other) = &plan.replaced {
        take_out(&plan.job, other).await?;
    }
    if plan.change != Change::Same || Installed::read(stack).is_none() {
        Installed {
            how: plan.how,
            at: Utc::now(),
        }
        .write(stack)?;
    }
    Ok(())
}

/// Plans to take out whatever of the schedule of `job` is installed.
pub async fn plan_remove(job: &Job) -> Result<RemovePlan> {
    let mut plan = RemovePlan {
        stack: job.stack.clone(),
        crontab: None,
        units: Vec::new(),
    };
    if crontab::is_installed() {
        let now = crontab::read_own().await?.unwrap_or_default();
        if let Some(place) = block::find(job, &now)? {
            plan.crontab = Some(String::from_utf8_lossy(&now[place]).into_owned());
        }
    }
    if let Ok(folder) = systemd::unit_folder() {
        let all = units::units(job, systemd::of_system());
        let paths = all.map(|unit| folder.join(unit.name));
        let ours = |path: &PathBuf| {
            std::fs::read_to_string(path).is_ok_and(|text| text.starts_with(&units::mark(job)))
        };
        plan.units = paths.into_iter().filter(ours).collect();
    }
    Ok(plan)
}

/// Executes `plan`: what is left is as if the schedule had never been there.
pub async fn remove(stack: &Stack, job: &Job, plan: &RemovePlan) -> Result<()> {
    take_out(job, plan).await?;
    fs::remove_if_there(&Installed::file(stack))
}

async fn take_out(job: &Job, plan: &RemovePlan) -> Result<()> {
    if plan.crontab.is_some() {
        let now = crontab::read_own().await?.unwrap_or_default();
        crontab::write_own(&block::without_block(job, &now)?).await?;
    }
    if !plan.units.is_empty() {
        if crontab::systemd_runs() {
            for timer in units::timer_names(job) {
                systemd::disable(&timer).await?;
            }
        }
        for path in &plan.units {
            fs::remove_if_there(path)?;
        }
        if crontab::systemd_runs() {
            systemd::reload().await?;
        }
    }
    Ok(())
}

/// Who fires the schedule of `job` by what is really installed.
pub(super) async fn installed(job: &Job) -> Result<Option<By>> {
    let plan = plan_remove(job).await?;
    Ok(match plan {
        RemovePlan { units, .. } if !units.is_empty() => Some(By::Systemd),
        RemovePlan {
            crontab: Some(_), ..
        } => Some(By::Cron),
        RemovePlan { .. } => None,
    })
}
