//! The support archive: what somebody who is to help needs to see, and no secret.

use super::{Patient, Report, Scrubber};
use crate::adapters::docker::Engine;
use crate::config::Explained;
use crate::error::{Context, Error, Result};
use crate::stack::docker::{Secrets, Service};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The most of a log that is taken: its end.
const MOST: u64 = 1 << 20;
/// Lines of a container's log.
const LINES: usize = 1000;
/// Variables that explain how programs behave, by how their names begin.
const VARIABLES: [&str; 16] = [
    "K1OPS_",
    "JAVA",
    "JDK_",
    "MAVEN",
    "DOCKER",
    "COMPOSE",
    "PG",
    "HTTP",
    "HTTPS",
    "NO_PROXY",
    "ALL_PROXY",
    "PATH",
    "HOME",
    "LANG",
    "LC_",
    "TZ",
];

/// What the command adds: the report as it was shown.
#[derive(Debug)]
pub struct Contents<'a> {
    /// The report.
    pub report: &'a Report,
    /// The same as text.
    pub shown: String,
}

/// A support archive that was written.
#[derive(Debug, Clone, Serialize)]
pub struct Bundled {
    /// Where it is.
    pub path: PathBuf,
    /// What is in it.
    pub members: Vec<String>,
    /// Its size in bytes.
    pub size: u64,
}

/// Writes the support archive to `path`, which must not be there yet.
pub async fn write(patient: &Patient, contents: &Contents<'_>, path: &Path) -> Result<Bundled> {
    let scrubber = Scrubber::new(secrets(patient));
    let mut members = of_report(contents)?;
    members.push((
        "config.txt".to_owned(),
        config(&patient.loaded.explained()?),
    ));
    members.push(("environment.txt".to_owned(), environment()));
    members.push(("host.txt".to_owned(), host()));
    members.extend(files(patient));
    if let Ok(archives) = patient.archives() {
        members.push(("archives.json".to_owned(), json(&archives)?));
    }
    if let Some(docker) = patient.docker().await {
        members.push(("docker/containers.json".to_owned(), json(docker.as_ref())?));
        if let Some(engine) = patient.engine_soon().await {
            members.extend(container_logs(patient, &engine).await);
        }
    }
    for (name, text) in &mut members {
        *text = if Path::new(name).extension().is_some_and(|end| end == "json") {
            clean_json(&scrubber, text)
        } else {
            scrubber.clean(text)
        };
    }
    members.insert(0, ("README.txt".to_owned(), read_me(&members)));
    let size = pack(&members, path)?;
    Ok(Bundled {
        path: path.to_path_buf(),
        members: members.into_iter().map(|(name, _)| name).collect(),
        size,
    })
}

type Member = (String, String);

fn of_report(contents: &Contents<'_>) -> Result<Vec<Member>> {
    Ok(vec![
        ("report.txt".to_owned(), contents.shown.clone()),
        ("report.json".to_owned(), json(contents.report)?),
    ])
}

fn json(value: &(impl Serialize + ?Sized)) -> Result<String> {
    serde_json::to_string_pretty(value)
        .context(|| "a part of the archive cannot be written as JSON")
}

/// A value at a time: a pattern that looks across values could break the JSON.
fn clean_json(scrubber: &Scrubber, text: &str) -> String {
    fn clean(scrubber: &Scrubber, value: &mut serde_json::Value, is_secret: bool) {
        match value {
            serde_json::Value::String(text) if is_secret && !text.is_empty() => {
                "***".clone_into(text);
            }
            serde_json::Value::String(text) => *text = scrubber.clean(text),
            serde_json::Value::Array(values) => {
                for value in values {
                    clean(scrubber, value, is_secret);
                }
            }
            serde_json::Value::Object(fields) => {
                for (name, value) in fields {
                    clean(scrubber, value, is_secret || Scrubber::is_secret(name));
                }
            }
            _ => {}
        }
    }
    let Ok(mut value) = serde_json::from_str(text) else {
        return scrubber.clean(text);
    };
    clean(scrubber, &mut value, false);
    serde_json::to_string_pretty(&value).unwrap_or_default()
}

/// Every secret whose value is known, to be found wherever it may have got to.
fn secrets(patient: &Patient) -> Vec<String> {
    let stack = &patient.stack;
    let mut known = Vec::new();
    if let Ok(address) = patient.database() {
        known.extend(address.password());
    }
    let config = &stack.config;
    for (_, url) in config.servers_by_url() {
        if let Some((_, rest)) = url.expose().split_once("://")
            && let Some((user, _)) = rest.rsplit_once('@')
            && let Some((_, password)) = user.split_once(':')
        {
            known.push(password.to_owned());
        }
    }
    let named = [&config.database.password_file, &config.redis.password_file];
    let mut files: Vec<PathBuf> = named.iter().map(|file| stack.base.join(file)).collect();
    let folder = stack.docker_folder().join("secrets");
    files.push(Secrets::postgres_file(&stack.docker_folder()));
    files.extend(
        std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path()),
    );
    for file in files.iter().filter(|file| file.is_file()) {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if !text.trim().contains('\n') && !text.trim().contains(' ') {
            known.push(text.trim().to_owned());
        }
        for line in text.lines() {
            let pair = line.split_once('=').or_else(|| line.trim().split_once(' '));
            if let Some((name, value)) = pair
                && Scrubber::is_secret(name)
            {
                known.push(value.trim().to_owned());
            }
        }
    }
    let notify = &stack.config.notify;
    let told = [
        &stack.config.docker.gateway.client_secret,
        &notify.webhook,
        &notify.slack,
        &notify.ntfy,
        &notify.ntfy_token,
        &notify.healthchecks,
        &notify.email.password,
    ];
    known.extend(
        told.into_iter()
            .filter(|value| value.file().is_none())
            .map(|value| value.expose().to_owned()),
    );
    let properties = stack.config.server.properties.iter();
    known.extend(
        properties
            .filter(|(name, _)| Scrubber::is_secret(name))
            .map(|(_, value)| value.clone()),
    );
    known.extend(
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            // The shell's working folders are called like passwords, and are none.
            .filter(|(name, _)| Scrubber::is_secret(name) && !name.ends_with("PWD"))
            .map(|(_, value)| value),
    );
    known
}

fn config(explained: &[Explained]) -> String {
    explained.iter().fold(String::new(), |text, one| {
        let from = one.origin.describe();
        text + &format!("{} = {}    # {from}\n", one.key, one.value)
    })
}

fn environment() -> String {
    let mut lines: Vec<String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| VARIABLES.iter().any(|v| name.to_uppercase().starts_with(v)))
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect();
    lines.sort();
    lines.concat()
}

fn host() -> String {
    let files = [
        "/proc/version",
        "/etc/os-release",
        "/proc/meminfo",
        "/proc/loadavg",
        "/proc/mounts",
    ];
    files.iter().fold(
        format!("k1ops {}\n", env!("CARGO_PKG_VERSION")),
        |text, file| {
            let said = std::fs::read_to_string(file).unwrap_or_default();
            text + &format!("\n== {file}\n{}\n", said.trim_end())
        },
    )
}

/// The stack's own files, its logs' ends, and never what is in `secrets`.
fn files(patient: &Patient) -> Vec<Member> {
    let stack = &patient.stack;
    let mut wanted = vec![
        ("k1ops.toml".to_owned(), patient.config_file()),
        (
            "docker/env.txt".to_owned(),
            stack.docker_folder().join(".env"),
        ),
        (
            "docker/docker-compose.yaml".to_owned(),
            stack.docker_folder().join("docker-compose.yaml"),
        ),
        ("run/server.json".to_owned(), stack.server_state()),
        (
            "run/tier.json".to_owned(),
            stack.folder.join("run/tier.json"),
        ),
    ];
    let logs = stack.folder.join("logs");
    for entry in std::fs::read_dir(logs).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        wanted.push((format!("logs/{name}"), entry.path()));
    }
    wanted.sort();
    wanted
        .into_iter()
        .filter_map(|(name, path)| Some((name, end_of(&path)?)))
        .collect()
}

/// The end of a file, from the beginning of a line.
fn end_of(path: &Path) -> Option<String> {
    let mut file = std::fs::File::open(path).ok()?;
    let meta = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let skipped = meta.len().saturating_sub(MOST);
    file.seek(SeekFrom::Start(skipped)).ok()?;
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Some(if skipped == 0 {
        text
    } else {
        let (_, rest) = text.split_once('\n')?;
        format!("[{skipped} bytes before this are left out]\n{rest}")
    })
}

async fn container_logs(patient: &Patient, engine: &Engine) -> Vec<Member> {
    let Ok(deployment) = patient.deployment() else {
        return Vec::new();
    };
    let mut logs = Vec::new();
    for service in Service::ALL {
        let containers = deployment.containers(engine, service).await;
        for container in containers.unwrap_or_default() {
            if let Ok(words) = engine.last_words(&container.name, LINES).await {
                let name = format!("docker/logs/{}.log", container.name);
                logs.push((name, words.join("\n")));
            }
        }
    }
    logs
}

fn read_me(members: &[Member]) -> String {
    let names = members.iter().fold(String::new(), |text, (name, text_of)| {
        text + &format!("  {name}  ({} bytes)\n", text_of.len())
    });
    format!(
        "What `k1ops doctor --bundle` collected, for whoever is to help.\n\n\
         Passwords, tokens and keys were taken out and stand here as ***. Host names, paths, user\n\
         names and what the server's log says of workflows are still in it: look through it before\n\
         you hand it on.\n\n{names}"
    )
}

/// Writes the members beside `path`, and gives the file its name when all is in it.
fn pack(members: &[Member], path: &Path) -> Result<u64> {
    let cannot = || format!("{} cannot be written", path.display());
    let folder = path.parent().filter(|f| !f.as_os_str().is_empty());
    let file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new("."))).context(cannot)?;
    let mut tar = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    let now = u64::try_from(chrono::Utc::now().timestamp()).unwrap_or(0);
    for (name, text) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now);
        let name = format!("k1ops-doctor/{name}");
        tar.append_data(&mut header, name, text.as_bytes())
            .context(cannot)?;
    }
    let mut file = tar.into_inner().context(cannot)?.finish().context(cannot)?;
    file.flush().context(cannot)?;
    file.as_file().sync_all().context(cannot)?;
    let kept = file.persist_noclobber(path).map_err(|error| {
        if error.error.kind() == std::io::ErrorKind::AlreadyExists {
            Error::refused(format!("{} is there already", path.display()))
                .hint("Name another file, or remove that one.")
        } else {
            Error::failed(cannot()).because(error.error)
        }
    })?;
    Ok(kept.metadata().context(cannot)?.len())
}
