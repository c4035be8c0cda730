//! systemd's units and the program that switches them: of the system for root, of the user for
//! everybody else.

use super::process::output_within;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long systemd may take to answer.
const ANSWER: Duration = Duration::from_secs(30);

/// Whether units belong to the system and not to a user.
#[must_use]
pub fn of_system() -> bool {
    rustix::process::geteuid().is_root()
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
