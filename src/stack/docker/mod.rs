//! Tier 1: `PostgreSQL`, Redis, optionally Elasticsearch, and Conductor as containers of one Compose
//! project. It drives Docker and Compose through their adapters; backing up and restoring what is
//! in the volumes is not known here.

mod balancer;
mod carried;
mod database;
mod diagnose;
pub mod files;
mod gateway;
mod home;
mod image;
mod journal;
pub mod monitoring;
mod names;
mod preflight;
pub mod roles;
mod secrets;
mod servers;
mod services;
mod settings;
pub mod snapshot;
mod start;
mod status;
mod stop;
pub mod tls;
pub mod trial;
mod undo;
mod wait;

pub use carried::remove_unused as remove_unused_files;
pub use files::{Change, Plan, PlannedFile};
pub use image::{ServerImage, User};
pub use names::{Names, Service};
pub use roles::Role;
pub use secrets::Secrets;
pub use services::{Lent, lend_database};
pub use settings::Settings;
pub use start::{DockerOptions, Started, check_database_image, get_images, start};
pub use status::{DockerStatus, ServiceStatus, VolumeStatus, status};
pub use stop::{server_runs, stop, stop_server, stop_services};
pub use tls::Tls;

use super::Stack;
use super::jar::boot_jar::{self, BootJar, Wanted};
use super::jar::cache::Cache;
use crate::adapters::compose::{Compose, Project};
use crate::adapters::docker::{Container, Engine, port_here};
use crate::adapters::fs;
use crate::adapters::oauth::Tokens;
use crate::conductor::Client;
use crate::config::{self, Database, Profile, Switch};
use crate::error::{Context, Error, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use chrono::{TimeDelta, Utc};
use gateway::GatewayFiles;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What this tier needs of the host, found and verified.
#[derive(Debug)]
pub struct Ready {
    engine: Engine,
    compose: Compose,
    jar: BootJar,
}

/// Finds the engine, Compose and the server's JAR. An error of the kind `Missing` says why the tier
/// is not for this host.
pub async fn prepare(stack: &Stack, events: &Events, interrupt: &Interrupt) -> Result<Ready> {
    if stack.uses_database_url() {
        return Err(Error::missing(
            "database.url is set, and tier 1 keeps its data in a PostgreSQL of its own",
        )
        .hint("Remove database.url to use tier 1, or use --tier jar."));
    }
    if !stack.config.redis.url.is_empty() {
        return Err(Error::missing(
            "redis.url is set, and tier 1 keeps its locks in a Redis of its own",
        )
        .hint("Remove redis.url to use tier 1, or set database.url too and use --tier jar."));
    }
    let engine = interrupt.guard(Engine::find()).await?;
    let compose = interrupt
        .guard(Compose::find(&stack.config.docker.compose, engine.host()))
        .await?;
    tracing::info!(engine = %engine.name(), compose = %compose.name(), "Docker found");
    let cache = Cache::open()?;
    let wanted = Wanted {
        server: &stack.config.server,
        base: &stack.base,
        cache: &cache,
    };
    let jar = wanted.obtain(events, interrupt).await?;
    Ok(Ready {
        engine,
        compose,
        jar,
    })
}

/// The stack as it is described on this host.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// The folder of the Compose file.
    pub folder: PathBuf,
    /// What the Compose file is told.
    pub settings: Settings,
    /// The names of its parts.
    pub names: Names,
    /// Who lets k1ops past the gateway, if there is one.
    login: Login,
}

/// What is configured for getting past a gateway, read only when it is needed.
#[derive(Debug, Clone)]
struct Login {
    gateway: config::Gateway,
    given: PathBuf,
    base: PathBuf,
}

impl Deployment {
    /// What the files on disk say; what the configuration says where there are none yet.
    pub fn of(stack: &Stack) -> Result<Self> {
        let folder = stack.docker_folder();
        let settings = match read_env(&folder)? {
            Some(settings) => settings,
            None => Settings::of(&stack.config, &expected_image(stack)),
        };
        Ok(Self::with(stack, folder, settings))
    }

    fn with(stack: &Stack, folder: PathBuf, settings: Settings) -> Self {
        let docker = &stack.config.docker;
        let prefix = settings.get("K1_PREFIX").unwrap_or(&docker.prefix);
        Self {
            names: Names::new(prefix),
            settings,
            folder,
            login: Login {
                gateway: docker.gateway.clone(),
                given: docker.tls.authority.clone(),
                base: stack.base.clone(),
            },
        }
    }

    /// What the files on disk will say after the next start.
    fn planned(stack: &Stack, image: &ServerImage) -> Result<Self> {
        let folder = stack.docker_folder();
        let live = read_env(&folder)?;
        let mut config = stack.config.clone();
        if config.docker.servers == 0 {
            config.docker.servers = live.as_ref().map_or(1, Settings::servers);
        }
        if config.docker.monitoring.run == Switch::Auto
            && live.as_ref().is_some_and(Settings::has_monitoring)
        {
            config.docker.monitoring.run = Switch::On;
        }
        servers::check(&config)?;
        let mut settings = Settings::of(&config, image);
        if let Some(live) = live {
            settings = settings.with_volumes_of(&live);
        }
        Ok(Self::with(stack, folder, settings))
    }

    /// The volume that a service keeps its data (or its log) in now.
    #[must_use]
    pub fn volume(&self, service: Service) -> String {
        self.settings
            .volume(service)
            .map_or_else(|| self.names.volume(service), str::to_owned)
    }

    /// Makes `volume` the one that a service uses from its next start on, in one step.
    pub fn set_volume(stack: &Stack, service: Service, volume: &str) -> Result<()> {
        let path = stack.docker_folder().join(".env");
        let text = std::fs::read_to_string(&path)
            .context(|| format!("{} cannot be read", path.display()))?;
        let changed = Settings::text_with_volume(&text, service, volume);
        crate::adapters::fs::write_atomically(&path, changed.as_bytes())
    }

    /// The Compose project.
    #[must_use]
    pub fn project(&self) -> Project {
        let mut profiles = Vec::new();
        if self.settings.has_elasticsearch() {
            profiles.push(Service::Elasticsearch.key().to_owned());
        }
        Project {
            name: self.names.prefix().to_owned(),
            folder: self.folder.clone(),
            files: self
                .settings
                .compose_files()
                .into_iter()
                .map(str::to_owned)
                .collect(),
            profiles,
        }
    }

    /// Whether a container of one of these names is this stack's: made from its own Compose file,
    /// or by somebody's plain Compose, but not by another stack of k1ops.
    #[must_use]
    pub fn owns(&self, container: &Container) -> bool {
        let Some(folder) = &container.project_folder else {
            return true;
        };
        self.is_made_of_own_file(container)
            || !(folder.ends_with("docker") && folder.iter().any(|part| part == ".conductor"))
    }

    fn is_made_of_own_file(&self, container: &Container) -> bool {
        let same = |a: &Path, b: &Path| match (a.canonicalize(), b.canonicalize()) {
            (Ok(a), Ok(b)) => a == b,
            _ => a == b,
        };
        // A folder that is gone was moved, perhaps to here.
        let is_own = |folder: &PathBuf| same(folder, &self.folder) || !folder.exists();
        container.project_folder.as_ref().is_some_and(is_own)
    }

    /// The container of a service, if it is there and this stack's; of several servers one that runs.
    pub async fn container(&self, engine: &Engine, service: Service) -> Result<Option<Container>> {
        let mut all = self.containers(engine, service).await?;
        all.sort_by_key(|container| !container.is_running());
        Ok(all.into_iter().next())
    }

    /// All containers of a service that are there and this stack's. Only servers are ever several.
    pub async fn containers(&self, engine: &Engine, service: Service) -> Result<Vec<Container>> {
        let mut found: Vec<Container> = engine
            .container(&self.names.container(service))
            .await?
            .into_iter()
            .filter(|container| self.owns(container))
            .collect();
        if service == Service::Server {
            let project = self.names.prefix();
            for one in engine.containers_of(project, service.key()).await? {
                // A name alone can be anybody's; these are known by the Compose file alone.
                let is_own = self.is_made_of_own_file(&one);
                if is_own && found.iter().all(|other| other.id != one.id) {
                    found.push(one);
                }
            }
        }
        found.sort_by(|a, b| natural(&a.name).cmp(&natural(&b.name)));
        Ok(found)
    }

    /// The images of the services, as far as the engine has them: each by its tag, and by a
    /// registry's digest or else its own ID.
    pub async fn images(&self, engine: &Engine) -> Result<BTreeMap<String, String>> {
        let mut images = BTreeMap::new();
        for service in self.settings.services() {
            let tag = self.settings.image(service).unwrap_or_default();
            if let Some(image) = engine.image(tag).await? {
                let digest = image.digests.first().unwrap_or(&image.id);
                images.insert(service.key().to_owned(), format!("{tag} {digest}"));
            }
        }
        Ok(images)
    }

    /// An image that the engine has, to make containers of that are never started.
    pub async fn image_at_hand(&self, engine: &Engine) -> Result<String> {
        let names = ["K1_POSTGRES_IMAGE", "K1_REDIS_IMAGE", "K1_SERVER_IMAGE"];
        for name in names.iter().filter_map(|name| self.settings.get(name)) {
            if engine.image(name).await?.is_some() {
                return Ok(name.to_owned());
            }
        }
        Err(
            Error::missing("none of the stack's images is on this engine")
                .hint("`k1ops start` fetches them."),
        )
    }

    /// Where this process reaches Conductor.
    #[must_use]
    pub fn url(&self) -> String {
        let front = self.settings.front();
        front.url(port_here(self.settings.port(front).unwrap_or(8080)))
    }

    /// Conductor's address on the engine's host, which a report can name.
    #[must_use]
    pub fn published_url(&self) -> String {
        let front = self.settings.front();
        front.url(self.settings.port(front).unwrap_or(8080))
    }

    /// A client for Conductor at this stack's address.
    pub fn client(&self) -> Result<Client> {
        self.client_at(&self.url())
    }

    /// A client for Conductor at `url`. Nothing but a gateway speaks https, and only there a token is
    /// shown.
    pub fn client_at(&self, url: &str) -> Result<Client> {
        let Login {
            gateway,
            given,
            base,
        } = &self.login;
        if !url.starts_with("https://") {
            return Client::new(url);
        }
        if !gateway.is_configured() {
            return Err(Error::usage(format!(
                "there is a gateway before Conductor at {url}, and docker.gateway is not set"
            ))
            .hint("Set docker.gateway in k1ops.toml as it is where the stack was started."));
        }
        let own = self.authority().filter(|file| file.exists());
        let given = (!given.as_os_str().is_empty()).then(|| base.join(given));
        let read = |file: PathBuf| {
            std::fs::read_to_string(&file).context(|| format!("{} cannot be read", file.display()))
        };
        let authority = own.or(given).map(read).transpose()?;
        Client::behind_gateway(url, authority.as_deref(), Arc::new(self.tokens()?))
    }

    /// Tokens that the gateway asks for.
    pub fn tokens(&self) -> Result<Tokens> {
        let Login { gateway, base, .. } = &self.login;
        Tokens::of(gateway::asker(gateway, base)?)
    }
}

/// Plans what `k1ops init` writes, making passwords if `make_secrets`.
pub fn plan(stack: &Stack, image: &ServerImage, make_secrets: bool) -> Result<Plan> {
    let folder = stack.docker_folder();
    let with_roles = stack.config.docker.profile == Profile::Production;
    let secrets = if make_secrets {
        Some(Secrets::ensure(&folder, with_roles)?)
    } else if Secrets::exist(&folder) {
        Some(Secrets::planned(&folder, with_roles)?)
    } else {
        None
    };
    let tls = certificates(stack, TimeDelta::zero())?;
    plan_with(stack, image, secrets.as_ref(), tls.as_ref())
}

/// The certificates of a stack in production: those that are there if they serve for `margin` more.
pub fn certificates(stack: &Stack, margin: TimeDelta) -> Result<Option<Tls>> {
    if stack.config.docker.profile != Profile::Production {
        return Ok(None);
    }
    let docker = &stack.config.docker;
    let services = tls::with_certificate(docker.gateway.is_configured());
    let (folder, base) = (stack.docker_folder(), &stack.base);
    Tls::prepare(&folder, &docker.tls, base, &services, margin, Utc::now()).map(Some)
}

/// The same with these passwords and certificates.
pub fn plan_with(
    stack: &Stack,
    image: &ServerImage,
    secrets: Option<&Secrets>,
    tls: Option<&Tls>,
) -> Result<Plan> {
    let planned = Deployment::planned(stack, image)?;
    let (folder, settings) = (&planned.folder, &planned.settings);
    let mut config = stack.config.clone();
    config.docker.servers = settings.servers();
    let told = &config.docker.gateway;
    let gateway = settings
        .has_gateway()
        .then(|| GatewayFiles::prepare(folder, told, &stack.base, settings.upstream()))
        .transpose()?;
    let gateway = gateway.as_ref();
    Plan::make(folder, &config, settings, secrets, tls, gateway, image.user)
}

/// The image that a start would use, as far as that is known before the JAR is at hand.
#[must_use]
pub fn expected_image(stack: &Stack) -> ServerImage {
    let sha256 = boot_jar::expected_sha256(&stack.config.server).unwrap_or_default();
    image_of(stack, &sha256)
}

fn image_of(stack: &Stack, sha256: &str) -> ServerImage {
    let user = User::of_process();
    ServerImage::of(&stack.config, sha256, user, &stack.docker_folder())
}

/// A name whose last part counts as a number, for `x-10` to come after `x-9`.
fn natural(name: &str) -> (&str, u64) {
    name.rsplit_once('-')
        .and_then(|(stem, number)| Some((stem, number.parse().ok()?)))
        .unwrap_or((name, 0))
}

fn read_env(folder: &Path) -> Result<Option<Settings>> {
    let text = fs::read_text_if_there(&folder.join(".env"))?;
    Ok(text.map(|text| Settings::parse(&text)))
}

impl Stack {
    /// The same stack as the configuration alone describes it: without tier 1's database, which
    /// [`Stack::open`] puts in where no other is configured.
    #[must_use]
    pub fn without_docker_database(&self) -> Self {
        let mut stack = self.clone();
        if self.has_docker_database() {
            stack.config.database = Database::default();
        }
        stack
    }

    /// Whether its database is that of tier 1, put in where no other is configured.
    #[must_use]
    pub fn has_docker_database(&self) -> bool {
        self.config.database.password_file == Secrets::postgres_file(&self.docker_folder())
    }

    /// The folder of the Compose file (tier 1).
    #[must_use]
    pub fn docker_folder(&self) -> PathBuf {
        self.folder.join("docker")
    }
}
