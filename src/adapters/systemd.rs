//! systemd's units and the program that switches them: of the system for root, of the user for
//! everybody else.

use super::crontab::systemd_runs;
use super::host::user_name;
use super::process::output_within;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where logind notes, by name, the users whose own systemd runs from boot on and without a login.
const LINGERING: &str = "/var/lib/systemd/linger";
/// How long systemd may take to answer.
const ANSWER: Duration = Duration::from_secs(30);

/// Whether units belong to the system and not to a user.
#[must_use]
pub fn of_system() -> bool {
    rustix::process::geteuid().is_root()
}

/// A user whose own systemd ends, with every timer in it, when they log out for the last time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndsAtLogout {
    user: String,
}

impl EndsAtLogout {
    /// This user, if that is so. Nothing of that kind is said where no systemd runs at all.
    #[must_use]
    pub fn of_this_user() -> Option<Self> {
        let user = user_name();
        let lingers = Path::new(LINGERING).join(&user).exists();
        (systemd_runs() && !lingers).then_some(Self { user })
    }

    /// What is the case.
    #[must_use]
    pub fn reason(&self) -> String {
        let user = &self.user;
        format!("the timers of {user} end when {user} logs out")
    }

    /// What makes them go on.
    #[must_use]
    pub fn remedy(&self) -> String {
        format!("loginctl enable-linger {}", self.user)
    }
}

/// The same where the units are those of the user: those of the system end with the host only.
#[must_use]
pub fn ends_at_logout() -> Option<EndsAtLogout> {
    if of_system() {
        return None;
    }
    EndsAtLogout::of_this_user()
}

/// Where units go.
pub fn unit_folder() -> Result<PathBuf> {
    if of_system() {
        return Ok(PathBuf::from("/etc/systemd/system"));
    }
    let home = std::env::var_os("HOME")
        .ok_or_else(|| Error::missing("HOME is not set, so there is no place for units"))?;
    Ok(Path::new(&home).join(".config/systemd/user"))
}

/// Has systemd read its units anew.
pub async fn reload() -> Result<()> {
    systemctl(&["daemon-reload"]).await
}

/// Switches a unit on, now and for every boot.
pub async fn enable(unit: &str) -> Result<()> {
    systemctl(&["enable", "--now", unit]).await
}

/// Switches a unit off.
pub async fn disable(unit: &str) -> Result<()> {
    systemctl(&["disable", "--now", unit]).await
}

async fn systemctl(arguments: &[&str]) -> Result<()> {
    let mut all = arguments.to_vec();
    if !of_system() {
        all.insert(0, "--user");
    }
    let command = format!("systemctl {}", all.join(" "));
    match output_within(Path::new("systemctl"), &all, ANSWER).await? {
        Some((true, _)) => Ok(()),
        Some((false, said)) => {
            Err(Error::failed(format!("`{command}` failed: {}", said.trim())).hint(
                "Run it yourself to see more; `k1ops schedule install --with cron` needs no systemd.",
            ))
        }
        None => Err(Error::failed(format!("`{command}` does not end"))),
    }
}
