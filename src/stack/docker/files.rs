//! What `k1ops init` writes: which files, what each would become, and writing them without ever
//! taking a user's change away.
//!
//! Beside the files lies a record of what k1ops wrote. A file that is still as it was written may
//! be brought up to date; one that differs from the record was edited, and is kept.

use super::Secrets;
use super::gateway::GatewayFiles;
use super::image::User;
use super::monitoring;
use super::names::Service;
use super::roles::Role;
use super::settings::Settings;
use super::tls::{GATEWAY_KEY, Tls};
use crate::adapters::fs;
use crate::conductor::properties::{self, Properties};
use crate::config::Config;
use crate::error::{Context, Result};
use include_dir::{Dir, include_dir};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

static DEPLOY: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/deploy");

/// The very statements that bring a database up to date, so that they are written once.
static K1_TABLES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/src/store/migrations/postgres");

/// The files that the server's image is built from, beside the JAR.
pub const BUILD_FILES: &[&str] = &[
    "Dockerfile",
    "startup.sh",
    "healthcheck.sh",
    "class-archive.sh",
    "log4j2.xml",
];

/// What is added for several servers.
const SERVERS_FILES: [&str; 3] = [
    "docker-compose.servers.yaml",
    "balancer/haproxy.cfg",
    "balancer/ask.sh",
];

/// What is added in production, beside the certificates.
const PRODUCTION_FILES: [&str; 2] = ["docker-compose.production.yaml", RULES];

/// Who is let in where.
const RULES: &str = "pg_hba.conf";

/// What is added for a gateway, beside its secrets.
const GATEWAY_FILE: &str = "docker-compose.gateway.yaml";

/// The record's name.
const RECORD: &str = ".written.json";

/// A file of the release.
#[must_use]
pub fn embedded(name: &str) -> Option<&'static [u8]> {
    DEPLOY.get_file(name).map(include_dir::File::contents)
}

/// What a file of the release is, or will be once the plan is applied: a user's edited one counts.
#[must_use]
pub fn effective(folder: &Path, name: &str) -> Vec<u8> {
    let ours = embedded(name).unwrap_or_default();
    let Ok(present) = std::fs::read(folder.join(name)) else {
        return ours.to_vec();
    };
    let record = read_record(folder).unwrap_or_default();
    if record.get(name) == Some(&digest(&present)) {
        ours.to_vec()
    } else {
        present
    }
}

/// A file that belongs into the folder of the Compose file.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    name: String,
    contents: Vec<u8>,
    mode: u32,
    pub(super) owner: Option<User>,
    pub(super) secret: bool,
}

impl Wanted {
    pub(super) fn new(name: &str, contents: impl Into<Vec<u8>>, mode: u32) -> Self {
        Self {
            name: name.to_owned(),
            contents: contents.into(),
            mode,
            owner: None,
            secret: false,
        }
    }
}

/// What becomes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It is not there yet.
    Create,
    /// It is as it should be.
    Same,
    /// It is as an earlier k1ops, or an earlier configuration, left it.
    Update,
    /// A user edited it, and it is not what k1ops would write.
    Edited,
}

/// One file of a [`Plan`].
#[derive(Debug, Clone, Serialize)]
pub struct PlannedFile {
    /// Its path.
    pub path: PathBuf,
    /// What becomes of it.
    pub change: Change,
    /// From the present text to k1ops', if they differ and neither is secret.
    pub diff: Option<String>,
    #[serde(skip)]
    wanted: Wanted,
    #[serde(skip)]
    present: Option<Vec<u8>>,
}

/// What would be written. A pure value: making it touches nothing.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// The folder of the Compose file.
    pub folder: PathBuf,
    /// Every file.
    pub files: Vec<PlannedFile>,
}

impl Plan {
    /// Compares what is in `folder` with what the configuration asks for. `secrets` is `None` where
    /// none are made yet; the file that carries them is then left out. `tls` is what production needs,
    /// and `gateway` what a gateway does.
    pub(super) fn make(
        folder: &Path,
        config: &Config,
        settings: &Settings,
        secrets: Option<&Secrets>,
        tls: Option<&Tls>,
        gateway: Option<&GatewayFiles>,
        user: User,
    ) -> Result<Self> {
        let record = read_record(folder)?;
        let authority = tls.map(Tls::authority);
        let mut settings = settings.clone();
        let watching = monitoring::files(folder, &mut settings, secrets, authority, user)?;
        let files = wanted(folder, config, &settings, secrets, tls, gateway, user)
            .into_iter()
            .chain(watching)
            .map(|wanted| planned(folder, wanted, &record))
            .collect::<Result<_>>()?;
        Ok(Self {
            folder: folder.to_owned(),
            files,
        })
    }

    /// The files that a user edited.
    pub fn edited(&self) -> impl Iterator<Item = &PlannedFile> {
        self.files.iter().filter(|f| f.change == Change::Edited)
    }

    /// Whether a file is out of date that nobody edited.
    #[must_use]
    pub fn has_updates(&self) -> bool {
        self.files.iter().any(|file| file.change == Change::Update)
    }

    /// Every file that [`Plan::apply`] writes, its own record among them.
    pub fn paths(&self) -> impl Iterator<Item = PathBuf> {
        let record = self.folder.join(RECORD);
        self.files
            .iter()
            .map(|file| file.path.clone())
            .chain([record])
    }

    /// Whether nothing is to be done.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.files.iter().all(|file| file.change == Change::Same)
    }

    /// Writes what is new or out of date, and of the edited files those that `overwrite` names.
    pub fn apply(&self, overwrite: &[PathBuf]) -> Result<()> {
        let mut record = read_record(&self.folder)?;
        for file in &self.files {
            let write = match file.change {
                Change::Same => false,
                Change::Create | Change::Update => true,
                Change::Edited => overwrite.contains(&file.path),
            };
            if write {
                fs::write_atomically(&file.path, &file.wanted.contents)?;
            }
            if write || file.change == Change::Same {
                set_access(&file.path, &file.wanted)?;
                record.insert(file.wanted.name.clone(), digest(&file.wanted.contents));
            }
        }
        monitoring::open_folders(&self.folder)?;
        let mut text = serde_json::to_vec_pretty(&record).context(|| "the record is not JSON")?;
        text.push(b'\n');
        let path = self.folder.join(RECORD);
        if std::fs::read(&path).ok().as_ref() != Some(&text) {
            fs::write_atomically(&path, &text)?;
        }
        Ok(())
    }

    /// The text that `name` has after [`Plan::apply`] with no file overwritten.
    #[must_use]
    pub fn text_after(&self, name: &str) -> Option<String> {
        let file = self.files.iter().find(|file| file.wanted.name == name)?;
        let contents = match (file.change, &file.present) {
            (Change::Edited, Some(present)) => present,
            _ => &file.wanted.contents,
        };
        String::from_utf8(contents.clone()).ok()
    }
}

fn wanted(
    folder: &Path,
    config: &Config,
    settings: &Settings,
    secrets: Option<&Secrets>,
    tls: Option<&Tls>,
    gateway: Option<&GatewayFiles>,
    user: User,
) -> Vec<Wanted> {
    let compose = embedded("docker-compose.yaml").unwrap_or_default();
    let properties = secrets.map(|secrets| render(&server_properties(config, settings, secrets)));
    let mut settings = settings.clone();
    set_digests(folder, &mut settings, properties.as_deref(), secrets, tls);
    if let Some(gateway) = gateway {
        let told = format!("{}{}", gateway.digest(), tls_digest(tls, Service::Gateway));
        settings.set_digest(Service::Gateway, &digest(told.as_bytes()));
    }
    let mut files = vec![
        Wanted::new("docker-compose.yaml", compose, 0o644),
        // Read by the database's own user when the volume is first filled.
        Wanted::new("init-db.sql", init_sql(), 0o644),
        Wanted::new(".env", settings.render(), 0o600),
    ];
    files.extend(
        BUILD_FILES
            .iter()
            .map(|name| released(&format!("server/{name}"))),
    );
    if settings.servers() > 1 {
        files.extend(SERVERS_FILES.map(released));
    }
    if let Some(text) = properties {
        let mut file = Wanted::new("secrets/conductor.properties", text, 0o600);
        file.owner = Some(user);
        file.secret = true;
        files.push(file);
    }
    if let Some(tls) = tls {
        files.extend(PRODUCTION_FILES.map(released));
        files.extend(tls.files().into_iter().map(|file| {
            let mut wanted = Wanted::new(&file.name, file.contents, file.mode);
            wanted.secret = true;
            // It is read by the container's only process, as this user.
            wanted.owner = (file.name == GATEWAY_KEY).then_some(user);
            wanted
        }));
    }
    if let Some(gateway) = gateway {
        files.extend(of_gateway(gateway, &settings, user));
    }
    files
}

/// The overlay names the service that answers for Conductor, which is not the same in every stack.
fn of_gateway(gateway: &GatewayFiles, settings: &Settings, user: User) -> Vec<Wanted> {
    let overlay = String::from_utf8_lossy(embedded(GATEWAY_FILE).unwrap_or_default());
    let overlay = overlay.replace(Service::Server.key(), settings.upstream().key());
    let mut files = vec![Wanted::new(GATEWAY_FILE, overlay, 0o644)];
    for (name, contents, is_secret) in gateway.files() {
        let mut file = Wanted::new(name, contents, if is_secret { 0o600 } else { 0o444 });
        file.owner = is_secret.then_some(user);
        file.secret = is_secret;
        files.push(file);
    }
    files
}

/// A file as the release has it.
fn released(name: &str) -> Wanted {
    let is_script = Path::new(name).extension().is_some_and(|end| end == "sh");
    let mode = if is_script { 0o755 } else { 0o644 };
    Wanted::new(name, embedded(name).unwrap_or_default(), mode)
}

/// Has each container made anew when what is in its secret files has changed.
fn set_digests(
    folder: &Path,
    settings: &mut Settings,
    properties: Option<&str>,
    secrets: Option<&Secrets>,
    tls: Option<&Tls>,
) {
    let of = |service| tls_digest(tls, service);
    if let Some(text) = properties {
        let authority = of(Service::Server);
        let told = format!("{text}{authority}");
        settings.set_digest(Service::Server, &digest(told.as_bytes()));
    }
    if tls.is_some() {
        // A file that is replaced is not the one that a container was given.
        let rules = effective(folder, RULES);
        let told = [of(Service::Postgres).into_bytes(), rules].concat();
        settings.set_digest(Service::Postgres, &digest(&told));
    }
    if let Some(secrets) = secrets {
        let told = format!("{}{}", secrets.redis.expose(), of(Service::Redis));
        settings.set_digest(Service::Redis, &digest(told.as_bytes()));
    }
    if settings.servers() > 1 {
        let told = SERVERS_FILES[1..]
            .iter()
            .map(|name| effective(folder, name));
        settings.set_digest(
            Service::Balancer,
            &digest(&told.collect::<Vec<_>>().concat()),
        );
    }
}

fn tls_digest(tls: Option<&Tls>, service: Service) -> String {
    tls.map_or_else(String::new, |tls| tls.digest(service))
}

fn init_sql() -> String {
    let mut files: Vec<_> = K1_TABLES.files().collect();
    files.sort_by_key(|file| file.path());
    let parts: Vec<&str> = files.iter().filter_map(|f| f.contents_utf8()).collect();
    format!(
        "-- The K1 tables, for a database that is filled for the first time. Written by k1ops, which\n\
         -- brings them up to date by itself; every statement may run again.\n\n{}",
        parts.join("\n")
    )
}

fn server_properties(config: &Config, settings: &Settings, secrets: &Secrets) -> Properties {
    let mut all = properties::basics("0.0.0.0", 8080);
    let (verified, redis) = if settings.is_production() {
        let verified = "?sslmode=verify-full&sslrootcert=/run/secrets/ca.crt";
        (verified, "rediss://redis:6379")
    } else {
        ("", "redis://redis:6379")
    };
    let database = format!("jdbc:postgresql://postgres:5432/conductor{verified}");
    let (role, password) = match secrets.roles.get(&Role::Server) {
        Some(password) => (Role::Server, password),
        None => (Role::Administrator, &secrets.postgres),
    };
    all.extend(properties::postgres(&database, role.name()));
    let locks = Some(secrets.redis.expose());
    all.extend(properties::lock_in_redis(redis, None, locks));
    let mut set = |name: &str, value: &str| all.insert(name.to_owned(), value.to_owned());
    set("spring.datasource.password", password.expose());
    if settings.servers() > 1 {
        for (name, value) in properties::ONE_OF_SEVERAL {
            set(name, value);
        }
    }
    if settings.has_elasticsearch() {
        set("conductor.indexing.type", "elasticsearch");
        set("conductor.elasticsearch.version", "7");
        set("conductor.elasticsearch.url", "http://elasticsearch:9200");
        // A single node is never green for long.
        set("conductor.elasticsearch.clusterHealthColor", "yellow");
    }
    all.extend(config.server.properties.clone());
    all
}

/// In the form of a properties file, where a backslash begins an escape.
fn render(properties: &Properties) -> String {
    let mut text = String::from(
        "# What Conductor is told. Written by k1ops; add to it by `server.properties` in k1ops.toml.\n",
    );
    for (name, value) in properties {
        let value = value.replace('\\', "\\\\").replace('\n', "\\n");
        text.push_str(&format!("{name}={value}\n"));
    }
    text
}

fn planned(
    folder: &Path,
    wanted: Wanted,
    record: &BTreeMap<String, String>,
) -> Result<PlannedFile> {
    let path = folder.join(&wanted.name);
    let present = fs::read_if_there(&path)?;
    let change = match &present {
        None => Change::Create,
        Some(present) if *present == wanted.contents => Change::Same,
        Some(present) if record.get(&wanted.name) == Some(&digest(present)) => Change::Update,
        Some(_) => Change::Edited,
    };
    let differs = matches!(change, Change::Update | Change::Edited);
    let diff = (differs && !wanted.secret)
        .then(|| difference(&wanted, present.as_deref().unwrap_or_default()));
    Ok(PlannedFile {
        path,
        change,
        diff,
        wanted,
        present,
    })
}

fn difference(wanted: &Wanted, present: &[u8]) -> String {
    let present = String::from_utf8_lossy(present);
    let ours = String::from_utf8_lossy(&wanted.contents);
    similar::TextDiff::from_lines(present.as_ref(), ours.as_ref())
        .unified_diff()
        .context_radius(2)
        .header(
            &format!("{} (yours)", wanted.name),
            &format!("{} (k1ops')", wanted.name),
        )
        .to_string()
}

/// Gives a file its mode, and its owner where this process may. Reading it back is then up to the
/// containers that it is for.
fn set_access(path: &Path, wanted: &Wanted) -> Result<()> {
    let cannot = || format!("the mode of {} cannot be set", path.display());
    let mode = std::fs::metadata(path)
        .context(cannot)?
        .permissions()
        .mode();
    if mode & 0o777 != wanted.mode {
        let permissions = std::fs::Permissions::from_mode(wanted.mode);
        std::fs::set_permissions(path, permissions).context(cannot)?;
    }
    if let Some(user) = wanted.owner
        && rustix::process::geteuid().is_root()
    {
        std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid)).context(cannot)?;
    }
    Ok(())
}

fn digest(contents: &[u8]) -> String {
    hex::encode(Sha256::digest(contents))
}

fn read_record(folder: &Path) -> Result<BTreeMap<String, String>> {
    let text = fs::read_if_there(&folder.join(RECORD))?.unwrap_or_default();
    // A record that cannot be read makes every file count as edited, which loses nothing.
    Ok(serde_json::from_slice(&text).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::image::ServerImage;
    use super::*;

    fn plan(folder: &Path, config: &Config) -> Plan {
        let secrets = Secrets::ensure(folder, false).unwrap();
        let settings = Settings::of(config, &ServerImage::for_tests());
        let user = User::of_process();
        Plan::make(folder, config, &settings, Some(&secrets), None, None, user).unwrap()
    }

    fn change(plan: &Plan, name: &str) -> Change {
        let file = plan.files.iter().find(|file| file.wanted.name == name);
        file.unwrap().change
    }

    #[test]
    fn what_is_embedded_is_all_there() {
        for name in BUILD_FILES {
            assert!(embedded(&format!("server/{name}")).is_some(), "{name}");
        }
        let all = DEPLOY.get_dir("server").unwrap().files().count();
        assert_eq!(all, BUILD_FILES.len());
    }

    #[test]
    fn writing_twice_changes_nothing_and_edits_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        let first = plan(folder.path(), &config);
        assert!(first.files.iter().all(|f| f.change == Change::Create));
        first.apply(&[]).unwrap();
        assert!(plan(folder.path(), &config).is_settled());

        let compose = folder.path().join("docker-compose.yaml");
        std::fs::write(&compose, "services: {}\n").unwrap();
        config.ports.redis = 7000;
        let second = plan(folder.path(), &config);
        assert_eq!(change(&second, "docker-compose.yaml"), Change::Edited);
        assert_eq!(change(&second, ".env"), Change::Update);
        let diff = second.edited().next().unwrap().diff.clone().unwrap();
        assert!(diff.contains("-services: {}"), "{diff}");
        second.apply(&[]).unwrap();
        assert_eq!(std::fs::read_to_string(&compose).unwrap(), "services: {}\n");
        let env = std::fs::read_to_string(folder.path().join(".env")).unwrap();
        assert!(env.contains("K1_REDIS_PORT=7000"));
        assert_eq!(
            second.text_after("docker-compose.yaml").unwrap(),
            "services: {}\n"
        );

        second.apply(std::slice::from_ref(&compose)).unwrap();
        assert!(plan(folder.path(), &config).is_settled());
    }

    #[test]
    fn the_servers_configuration_is_private_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        plan(folder.path(), &config).apply(&[]).unwrap();
        let file = Secrets::properties_file(folder.path());
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        config.server.properties.insert("a.b".into(), "c".into());
        let second = plan(folder.path(), &config);
        let name = "secrets/conductor.properties";
        assert_eq!(change(&second, name), Change::Update);
        let shown = serde_json::to_string(&second).unwrap();
        let secrets = Secrets::ensure(folder.path(), false).unwrap();
        assert!(!shown.contains(secrets.postgres.expose()));
        assert!(!shown.contains(secrets.redis.expose()));
        assert!(second.text_after(name).unwrap().contains("\na.b=c\n"));
    }
}
