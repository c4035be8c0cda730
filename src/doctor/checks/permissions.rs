//! Files that hold secrets or data are private to their owner, and the owner is this user.

use super::{at_files, word};
use crate::doctor::{Check, Examined, Finding, Fix, Group, Looking, Patient, Severity};
use crate::error::{ErrorKind, Result};
use crate::repository::State;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What anybody but the owner may do.
const OTHERS: u32 = 0o077;

pub(super) struct Permissions;

impl Check for Permissions {
    fn name(&self) -> &'static str {
        "permissions"
    }

    fn group(&self) -> Group {
        Group::Security
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        at_files(patient, look)
    }
}

fn look(patient: &Patient) -> Result<Examined> {
    let mut examined = Examined::default();
    let mut looked_at = 0;
    for path in secrets(patient) {
        if !path.exists() {
            continue;
        }
        looked_at += 1;
        if let Some(finding) = exposed(&path, "holds a password", Severity::Problem) {
            examined.find(finding);
        }
    }
    for entry in patient.archives()? {
        if matches!(entry.state, State::Incomplete { .. }) {
            continue;
        }
        looked_at += 1;
        if let Some(finding) = exposed(
            &entry.path,
            "holds all data of the stack",
            Severity::Warning,
        ) {
            examined.find(finding);
        }
    }
    if let Some(finding) = foreign(&patient.stack.folder) {
        examined.find(finding);
    }
    if examined.findings.is_empty() {
        if looked_at == 0 {
            return Ok(Examined::skipped(
                "there are no secrets and no archives yet",
            ));
        }
        examined.say(format!(
            "{looked_at} files with secrets or data are private"
        ));
    }
    Ok(examined)
}

/// Files that hold a password.
fn secrets(patient: &Patient) -> Vec<PathBuf> {
    let stack = &patient.stack;
    let mut files: Vec<PathBuf> = std::fs::read_dir(stack.docker_folder().join("secrets"))
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        // A certificate is shown to whoever connects.
        .filter(|file| file.extension().is_none_or(|end| end != "crt"))
        .collect();
    let config = &stack.config;
    for named in [&config.database.password_file, &config.redis.password_file] {
        if !named.as_os_str().is_empty() {
            files.push(stack.base.join(named));
        }
    }
    let own = stack.without_docker_database();
    for (_, url) in own.config.servers_by_url() {
        if let Some(file) = &patient.loaded.file
            && url.to_string() != url.expose()
            && std::fs::read_to_string(file).is_ok_and(|text| text.contains(url.expose()))
        {
            files.push(file.clone());
        }
    }
    let secret = &stack.config.docker.gateway.client_secret;
    match (secret.file(), &patient.loaded.file) {
        (Some(named), _) => files.push(stack.base.join(named)),
        (None, Some(file)) if !secret.is_empty() => {
            let holds = std::fs::read_to_string(file);
            if holds.is_ok_and(|text| text.contains(secret.expose())) {
                files.push(file.clone());
            }
        }
        (None, _) => {}
    }
    files.sort();
    files.dedup();
    files
}

/// What others may do with a file.
fn exposed(path: &Path, what: &str, severity: Severity) -> Option<Finding> {
    let meta = std::fs::metadata(path).ok()?;
    let mode = meta.permissions().mode() & 0o7777;
    let shut_in = is_shut_in(path);
    // What containers of another user read, k1ops itself opens so, in a folder that is shut.
    if mode & OTHERS == 0 || (shut_in && mode == 0o444) {
        return None;
    }
    let private = mode & !OTHERS;
    let who = match (mode & 0o007 != 0, shut_in) {
        (_, true) => "whoever gets past its folder",
        (true, false) => "everybody on this host",
        (false, false) => "its group",
    };
    let may = if mode & 0o022 == 0 { "read" } else { "change" };
    Some(
        Finding::problem(
            ErrorKind::Failed,
            format!("{} {what}, and {who} may {may} it", path.display()),
        )
        .as_severe_as(if shut_in { Severity::Warning } else { severity })
        .seen(format!("its permissions are {mode:04o}"))
        .because("it was made, copied or restored by something that does not mind")
        .remedy(format!("chmod {private:o} {}", word(path)))
        .fix(Fix::SetMode {
            path: path.to_path_buf(),
            mode: private,
        }),
    )
}

/// A folder above keeps everybody else out.
fn is_shut_in(path: &Path) -> bool {
    path.ancestors().skip(1).any(|folder| {
        std::fs::metadata(folder)
            .is_ok_and(|meta| meta.is_dir() && meta.permissions().mode() & OTHERS == 0)
    })
}

/// The stack's folder belongs to somebody else.
fn foreign(folder: &Path) -> Option<Finding> {
    let owner = std::fs::metadata(folder).ok()?.uid();
    let user = rustix::process::geteuid();
    if user.is_root() || owner == user.as_raw() {
        return None;
    }
    let name = crate::adapters::port::user_name(owner);
    Some(
        Finding::problem(
            ErrorKind::Missing,
            format!("{} belongs to {name}, not to you", folder.display()),
        )
        .because("k1ops was run as another user before; what it made cannot be changed now")
        .remedy(format!("sudo chown -R $(id -un) {}", word(folder))),
    )
}
