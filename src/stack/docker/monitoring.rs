//! What watches a stack: Prometheus, the exporters that it asks, and Grafana. Which files they read, which
//! passwords they have, and how little of the database they may see. What is worth watching, and what
//! `k1ops metrics` tells, is not known here.

use super::files::{Wanted, effective, embedded};
use super::image::User;
use super::names::Service;
use super::secrets;
use super::settings::Settings;
use super::{Deployment, Secrets};
use crate::adapters::fs;
use crate::adapters::postgres::{Session, server_message, verifier};
use crate::config::Config;
use crate::error::{Context, Error, Result};
use crate::stack::Stack;
use sha2::{Digest, Sha256};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const COMPOSE: &str = "docker-compose.monitoring.yaml";
const COMPOSE_GRAFANA: &str = "docker-compose.grafana.yaml";

/// What Prometheus reads.
const PROMETHEUS: [&str; 3] = [
    "monitoring/prometheus.yml",
    "monitoring/prometheus-alerts.yaml",
    "monitoring/stack-alerts.yaml",
];

/// What Grafana reads.
const GRAFANA: [&str; 6] = [
    "monitoring/grafana/datasources/k1.yaml",
    "monitoring/grafana/dashboards/k1.yaml",
    "monitoring/dashboards/backups.json",
    "monitoring/dashboards/conductor.json",
    "monitoring/dashboards/postgresql.json",
    "monitoring/dashboards/redis.json",
];

/// The certificate authority that exporters verify the stores by.
const AUTHORITY: &str = "monitoring/ca.crt";
/// The folder that node exporter reads. It has to be there before the engine makes it for root.
const TEXTFILES: &str = "monitoring/textfiles";
/// What containers are handed as a whole.
const FOLDERS: [&str; 5] = [
    TEXTFILES,
    "monitoring/dashboards",
    "monitoring/grafana",
    "monitoring/grafana/dashboards",
    "monitoring/grafana/datasources",
];
/// The password of the database's role for monitoring.
const ROLE_PASSWORD: &str = "secrets/monitor_password";
/// Redis's password, as its exporter reads it.
const REDIS_PASSWORD: &str = "secrets/redis_exporter.json";
/// The password of Grafana's user `admin`.
const GRAFANA_PASSWORD: &str = "secrets/grafana_password";

/// The role that the exporter has in the database.
const ROLE: &str = "k1_monitor";

/// What `.env` says of it.
pub(super) fn settings(config: &Config) -> Vec<(String, String)> {
    let told = &config.docker.monitoring;
    let mut values = vec![
        ("K1_PROMETHEUS_IMAGE", told.prometheus_image.clone()),
        ("K1_PROMETHEUS_PORT", config.ports.prometheus.to_string()),
        ("K1_PROMETHEUS_KEEP", told.keep.clone()),
        (
            "K1_POSTGRES_EXPORTER_IMAGE",
            told.postgres_exporter_image.clone(),
        ),
        ("K1_REDIS_EXPORTER_IMAGE", told.redis_exporter_image.clone()),
        ("K1_NODE_EXPORTER_IMAGE", told.node_exporter_image.clone()),
    ];
    if !told.grafana_image.is_empty() {
        values.push(("K1_GRAFANA_IMAGE", told.grafana_image.clone()));
        values.push(("K1_GRAFANA_PORT", config.ports.grafana.to_string()));
    }
    if config.docker.profile == crate::config::Profile::Production {
        let verified = "sslmode=verify-full&sslrootcert=/etc/k1/ca.crt";
        values.push(("K1_MONITOR_POSTGRES_TLS", verified.to_owned()));
        values.push(("K1_MONITOR_REDIS_URL", redis_url(true).to_owned()));
        values.push(("K1_MONITOR_REDIS_CA", "/etc/k1/ca.crt".to_owned()));
    }
    let owned = |(name, value): (&str, String)| (name.to_owned(), value);
    values.into_iter().map(owned).collect()
}

fn redis_url(production: bool) -> &'static str {
    if production {
        "rediss://redis:6379"
    } else {
        "redis://redis:6379"
    }
}

/// The Compose files that it adds.
pub(super) fn compose_files(settings: &Settings) -> Vec<&'static str> {
    let mut files = Vec::new();
    if settings.has_monitoring() {
        files.push(COMPOSE);
        if settings.image(Service::Grafana).is_some() {
            files.push(COMPOSE_GRAFANA);
        }
    }
    files
}

/// The files of a stack that is watched; none if it is not. `settings` is told what changes with them.
/// Without `secrets`, those are left out that carry any.
pub(super) fn files(
    folder: &Path,
    settings: &mut Settings,
    secrets: Option<&Secrets>,
    authority: Option<&str>,
    user: User,
) -> Result<Vec<Wanted>> {
    if !settings.has_monitoring() {
        return Ok(Vec::new());
    }
    let mut files = vec![released(COMPOSE)];
    files.extend(PROMETHEUS.map(released));
    let has_grafana = settings.image(Service::Grafana).is_some();
    if has_grafana {
        files.push(released(COMPOSE_GRAFANA));
        files.extend(GRAFANA.map(released));
    }
    let authority = authority.unwrap_or("# Nothing is verified: this stack has no TLS.\n");
    files.push(Wanted::new(AUTHORITY, authority, 0o644));
    let about = "k1ops writes k1ops.prom here, and node exporter tells Prometheus what is in it.\n";
    let about_file = format!("{TEXTFILES}/README.txt");
    files.push(Wanted::new(&about_file, about, 0o644));
    let digest = |names: &[&str]| {
        let told = names.iter().map(|name| effective(folder, name));
        hex::encode(Sha256::digest(told.collect::<Vec<_>>().concat()))
    };
    settings.set_digest(Service::Prometheus, &digest(&PROMETHEUS));
    settings.set_digest(Service::Grafana, &digest(&GRAFANA[..2]));
    let Some(secrets) = secrets else {
        return Ok(files);
    };
    let role = kept(folder, ROLE_PASSWORD)?;
    let redis = redis_password_file(settings, secrets);
    for (service, told) in [
        (Service::PostgresExporter, &role),
        (Service::RedisExporter, &redis),
    ] {
        let digest = Sha256::digest(format!("{told}{authority}"));
        settings.set_digest(service, &hex::encode(digest));
    }
    files.push(secret(ROLE_PASSWORD, &role, user));
    files.push(secret(REDIS_PASSWORD, &redis, user));
    if has_grafana {
        let password = kept(folder, GRAFANA_PASSWORD)?;
        files.push(secret(GRAFANA_PASSWORD, &password, user));
    }
    Ok(files)
}

fn released(name: &str) -> Wanted {
    Wanted::new(name, embedded(name).unwrap_or_default(), 0o644)
}

/// Opens the folders that are handed to containers, whose users are none of this host's. The stack's own
/// folder keeps everybody else of this host out.
pub(super) fn open_folders(folder: &Path) -> Result<()> {
    for name in FOLDERS {
        let path = folder.join(name);
        if path.is_dir() {
            let open = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(&path, open)
                .context(|| format!("the mode of {} cannot be set", path.display()))?;
        }
    }
    Ok(())
}

/// The password in a file, or a new one if it is not there yet.
fn kept(folder: &Path, name: &str) -> Result<String> {
    let there = fs::read_text_if_there(&folder.join(name))?;
    Ok(match there.map(|text| text.trim().to_owned()) {
        Some(text) if !text.is_empty() => text,
        _ => secrets::generated(),
    })
}

/// It is read by the container's only process, as this user.
fn secret(name: &str, contents: &str, user: User) -> Wanted {
    let mut file = Wanted::new(name, contents, 0o600);
    file.owner = Some(user);
    file.secret = true;
    file
}

fn redis_password_file(settings: &Settings, secrets: &Secrets) -> String {
    let url = redis_url(settings.is_production());
    serde_json::json!({ url: secrets.redis.expose() }).to_string()
}

/// Makes the database know the exporter's role. It may read what the server tells about itself, and no
/// row of anybody's.
pub(super) async fn let_in(deployment: &Deployment, session: &Session) -> Result<()> {
    let password = fs::read_text_if_there(&deployment.folder.join(ROLE_PASSWORD))?;
    let Some(password) = password.filter(|_| deployment.settings.has_monitoring()) else {
        return Ok(());
    };
    let verifier = verifier(password.trim());
    let sql = format!(
        "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = '{ROLE}') THEN
            CREATE ROLE {ROLE}; END IF; END $$;
         ALTER ROLE {ROLE} LOGIN PASSWORD '{verifier}' CONNECTION LIMIT 5;
         GRANT pg_monitor TO {ROLE}"
    );
    session.batch_execute(&sql).await.map_err(|error| {
        Error::failed(format!(
            "the database's role {ROLE} cannot be made: {}",
            server_message(&error)
        ))
        .hint("Monitoring needs it. `k1ops start --with-monitoring=false` goes without.")
    })
}

/// The file that k1ops tells of backups in, if the stack is watched.
pub fn textfile(stack: &Stack) -> Result<Option<PathBuf>> {
    let deployment = Deployment::of(stack)?;
    let folder = deployment.folder.join(TEXTFILES);
    let is_watched = deployment.settings.has_monitoring() && folder.is_dir();
    Ok(is_watched.then(|| folder.join("k1ops.prom")))
}

/// Where what watches the stack is reached, for whoever started it.
pub(super) fn places(deployment: &Deployment) -> Vec<String> {
    let url = |service: Service| Some(service.url(deployment.settings.port(service)?));
    let file = deployment.folder.join(GRAFANA_PASSWORD);
    let prometheus = url(Service::Prometheus).map(|url| format!("Prometheus is at {url}"));
    let grafana = url(Service::Grafana).map(|url| {
        let file = file.display();
        format!("Grafana is at {url}, for the user admin with the password in {file}")
    });
    prometheus.into_iter().chain(grafana).collect()
}
