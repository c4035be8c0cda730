//! The stack and the host that are looked at. What several checks need is asked for once, by
//! whichever needs it first.

use crate::adapters::compose::Compose;
use crate::adapters::docker::Engine;
use crate::adapters::postgres::{Address, Session};
use crate::adapters::published::{self, Published};
use crate::conductor::Client;
use crate::config::{Loaded, Profile, TierChoice};
use crate::error::{Error, Result};
use crate::repository::{Entry, Repository};
use crate::stack::docker::{self, Deployment, DockerStatus, Service};
use crate::stack::jar::java::{self, Java, Places};
use crate::stack::{Remembered, ServerState, Stack, Tier};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How long checks that are not about Docker wait for an engine.
const SOON: Duration = Duration::from_millis(1500);
/// How long a database may take to take a connection.
const CONNECT: Duration = Duration::from_secs(3);

/// Something that is asked for once.
type Asked<T> = Shared<BoxFuture<'static, std::result::Result<T, Arc<Error>>>>;

/// What is looked at.
#[derive(Debug)]
pub struct Patient {
    /// The stack.
    pub stack: Stack,
    /// Its configuration, with where each value came from.
    pub loaded: Loaded,
    /// What it is held to.
    pub profile: Profile,
    /// What is wrong with the configuration; then `loaded` holds the defaults.
    pub unreadable: Option<Arc<Error>>,
    engine: Asked<Engine>,
    compose: Asked<Compose>,
    published: Asked<Arc<Vec<Published>>>,
    docker: Asked<Arc<DockerStatus>>,
    java: Asked<Java>,
    session: Asked<Arc<Session>>,
    archives: OnceLock<Vec<Entry>>,
}

impl Patient {
    /// The stack that a configuration describes, on this host.
    pub fn new(loaded: Loaded, unreadable: Option<Arc<Error>>) -> Result<Self> {
        let stack = Stack::open(&loaded)?;
        let engine = asked(Engine::find());
        Ok(Self {
            profile: stack.config.docker.profile,
            compose: asked(find_compose(
                engine.clone(),
                stack.config.docker.compose.clone(),
            )),
            published: asked(list_published(engine.clone())),
            docker: asked(look_at_containers(engine.clone(), stack.clone())),
            java: asked(find_java(stack.clone())),
            session: asked(open_session(stack.clone())),
            archives: OnceLock::new(),
            engine,
            stack,
            loaded,
            unreadable,
        })
    }

    /// The Docker engine, or why there is none.
    pub async fn engine(&self) -> Result<Engine, Arc<Error>> {
        self.engine.clone().await
    }

    /// The engine, if there is one and it answers soon.
    pub async fn engine_soon(&self) -> Option<Engine> {
        tokio::time::timeout(SOON, self.engine()).await.ok()?.ok()
    }

    /// Compose, or why there is none.
    pub async fn compose(&self) -> Result<Compose, Arc<Error>> {
        self.compose.clone().await
    }

    /// The ports that containers hold; none where there is no engine.
    pub async fn published(&self) -> Arc<Vec<Published>> {
        let asked = tokio::time::timeout(SOON, self.published.clone()).await;
        asked.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// How the containers of this stack are, if that can be told.
    pub async fn docker(&self) -> Option<Arc<DockerStatus>> {
        let asked = tokio::time::timeout(SOON * 2, self.docker.clone()).await;
        asked.ok()?.ok()
    }

    /// The Java that a start would use, or why there is none.
    pub async fn java(&self) -> Result<Java, Arc<Error>> {
        self.java.clone().await
    }

    /// A session in the stack's `PostgreSQL`, or why there is none.
    pub async fn session(&self) -> Result<Arc<Session>, Arc<Error>> {
        self.session.clone().await
    }

    /// A session, unless the stack has no `PostgreSQL` or it cannot be reached, which is another
    /// check's finding.
    pub async fn session_if_any(&self) -> Option<Arc<Session>> {
        if !self.has_running_postgres().await {
            return None;
        }
        self.session().await.ok()
    }

    /// Whether the stack has a `PostgreSQL` that ought to answer now.
    pub async fn has_running_postgres(&self) -> bool {
        if !self.stack.uses_database_url() {
            return false;
        }
        if !self.stack.is_in_docker().unwrap_or(false) {
            return true;
        }
        self.service_runs(Service::Postgres).await
    }

    /// Whether the container of a service runs.
    pub async fn service_runs(&self, service: Service) -> bool {
        self.docker().await.is_some_and(|docker| {
            docker
                .services
                .iter()
                .any(|s| s.service == service.key() && s.container.is_running())
        })
    }

    /// The address of the stack's `PostgreSQL`.
    pub fn database(&self) -> Result<Address> {
        self.stack.database_address()
    }

    /// What is remembered of the server of tier 2.
    pub fn server(&self) -> Result<Remembered> {
        ServerState::read(&self.stack)
    }

    /// The same, held to another profile than its own.
    #[must_use]
    pub fn held_to(mut self, profile: Option<Profile>) -> Self {
        self.profile = profile.unwrap_or(self.profile);
        self
    }

    /// Why checks of production have nothing to look at, if they have not.
    pub async fn not_in_production(&self) -> Option<&'static str> {
        if self.profile != Profile::Production {
            return Some("only production is held to this; --profile production asks for it");
        }
        if self.tier().await != Tier::Docker {
            return Some("only tier 1 can be hardened");
        }
        let docker = self.docker().await;
        let runs = docker.is_some_and(|docker| docker.is_running());
        (!runs).then_some("tier 1 is stopped, and nothing can be tried")
    }

    /// Conductor, if a server of this stack runs.
    pub async fn conductor(&self) -> Option<Client> {
        let url = match self.server() {
            Ok(Remembered::Running(state)) => Some(state.url()),
            _ => self.docker().await.and_then(|docker| docker.url.clone()),
        };
        self.stack.conductor_at(&url?).ok()
    }

    /// The tier that runs, or else the one that would be started.
    pub async fn tier(&self) -> Tier {
        if let Ok(Remembered::Running(state)) = self.server() {
            return state.tier;
        }
        if self
            .docker()
            .await
            .is_some_and(|docker| docker.is_running())
        {
            return Tier::Docker;
        }
        match self.stack.config.tier {
            TierChoice::Docker => Tier::Docker,
            TierChoice::Jar => Tier::Jar,
            TierChoice::Direct => Tier::Direct,
            TierChoice::Auto => self.best_tier().await,
        }
    }

    async fn best_tier(&self) -> Tier {
        if let Ok(Some(last)) = self.stack.last_tier() {
            return last;
        }
        let own_database = self.stack.without_docker_database().uses_database_url();
        let docker = tokio::time::timeout(SOON * 2, self.compose()).await;
        if !own_database && matches!(docker, Ok(Ok(_))) {
            return Tier::Docker;
        }
        match self.java().await {
            Ok(_) => Tier::Jar,
            Err(_) => Tier::Direct,
        }
    }

    /// For people: `tier 2 (jar), running`.
    pub async fn tier_in_words(&self) -> String {
        let tier = self.tier().await;
        let runs = self.conductor().await.is_some();
        let state = if runs { "running" } else { "not running" };
        format!("tier {} ({}), {state}", tier.number(), tier.name())
    }

    /// The deployment of tier 1, as its files or the configuration describe it.
    pub fn deployment(&self) -> Result<Deployment> {
        Deployment::of(&self.stack)
    }

    /// The archives of this stack, newest first. Reading them may take a moment.
    pub fn archives(&self) -> Result<&[Entry]> {
        if let Some(known) = self.archives.get() {
            return Ok(known);
        }
        let mut found = Repository::of(&self.stack)?.list()?;
        found.retain(|entry| entry.stack.as_ref().is_none_or(|s| *s == self.stack.name));
        Ok(self.archives.get_or_init(|| found))
    }

    /// The configuration file that is used, or that would be made.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.loaded.place()
    }

    #[cfg(test)]
    pub(super) fn for_tests() -> Self {
        let nowhere = std::path::Path::new("/nowhere/at/all");
        let loaded = Loaded::defaults(
            &crate::config::Overrides::default(),
            &std::collections::BTreeMap::new(),
            nowhere,
        )
        .unwrap();
        Self::new(loaded, None).unwrap()
    }
}

fn asked<T: Clone + Send + 'static>(
    question: impl Future<Output = Result<T>> + Send + 'static,
) -> Asked<T> {
    question
        .map(|answer| answer.map_err(Arc::new))
        .boxed()
        .shared()
}

/// The reason of another question, as an error of this one.
fn passed_on(error: &Error) -> Error {
    let again = Error::new(error.kind(), error.to_string());
    match error.hint_text() {
        Some(hint) => again.hint(hint),
        None => again,
    }
}

async fn find_compose(engine: Asked<Engine>, wanted: String) -> Result<Compose> {
    let engine = engine.await.map_err(|error| passed_on(&error))?;
    Compose::find(&wanted, engine.host()).await
}

async fn list_published(engine: Asked<Engine>) -> Result<Arc<Vec<Published>>> {
    let engine = engine.await.map_err(|error| passed_on(&error))?;
    Ok(Arc::new(published::all(engine.host()).await?))
}

async fn look_at_containers(engine: Asked<Engine>, stack: Stack) -> Result<Arc<DockerStatus>> {
    let engine = engine.await.map_err(|error| passed_on(&error))?;
    Ok(Arc::new(docker::status(&stack, &engine, false).await?))
}

async fn find_java(stack: Stack) -> Result<Java> {
    let server = &stack.config.server;
    let configured = if server.java.as_os_str().is_empty() {
        PathBuf::new()
    } else {
        stack.base.join(&server.java)
    };
    let needed = java::needed_by(&server.version);
    java::find(&configured, &Places::usual(), needed).await
}

async fn open_session(stack: Stack) -> Result<Arc<Session>> {
    let address = stack.database_address()?;
    match tokio::time::timeout(CONNECT, Session::open(&address)).await {
        Ok(session) => Ok(Arc::new(session?)),
        Err(_) => Err(Error::missing(format!(
            "PostgreSQL at {} does not answer within {} s",
            address.shown(),
            CONNECT.as_secs()
        ))
        .hint("Check that the server runs and that no firewall swallows the packets.")),
    }
}
