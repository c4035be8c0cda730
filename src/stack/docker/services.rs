//! Single services of the stack brought up, and the database made to let k1ops in. In what order, and
//! what becomes of it all if it fails, is not decided here.

use super::image::ensure_pulled;
use super::secrets::open_to_mapped_users;
use super::wait::{Patience, until_healthy};
use super::{
    Deployment, Service, carried, diagnose, expected_image, home, monitoring, plan, preflight,
    roles,
};
use crate::adapters::compose::Compose;
use crate::adapters::docker::{Engine, is_elsewhere};
use crate::adapters::postgres::Session;
use crate::error::{Error, Result};
use crate::event::Events;
use crate::interrupt::Interrupt;
use crate::stack::Stack;
use std::path::Path;
use std::time::Duration;

/// How long Compose may take to make and start containers whose images are there.
const UP: Duration = Duration::from_secs(180);
/// How long the database may take to come up alone: it may have to recover, or to be made.
const DATABASE: Duration = Duration::from_secs(300);
/// How long a statement inside the database's container may take.
const STATEMENT: Duration = Duration::from_secs(45);

/// What is needed to bring services up.
#[derive(Clone, Copy)]
pub(super) struct Services<'a> {
    pub(super) engine: &'a Engine,
    pub(super) compose: &'a Compose,
    pub(super) deployment: &'a Deployment,
    pub(super) events: &'a Events,
}

impl Services<'_> {
    /// Starts containers, making them anew where their description has changed.
    pub(super) async fn up(&self, services: &[Service]) -> Result<()> {
        let names: Vec<&str> = services.iter().map(|service| service.key()).collect();
        self.compose_up(&names, &[], &names.join(", ")).await
    }

    /// Starts as many servers as are missing, and leaves those alone that are there.
    pub(super) async fn up_servers(&self, count: u8) -> Result<()> {
        let server = Service::Server.key();
        let scale = format!("{server}={count}");
        let options = ["--no-recreate", "--scale", &scale];
        let what = format!("{server}, {count} in all");
        self.compose_up(&[server], &options, &what).await
    }

    async fn compose_up(&self, services: &[&str], options: &[&str], what: &str) -> Result<()> {
        let up = ["up", "-d", "--no-build", "--no-deps"];
        let args = [&up, options, services].concat();
        let step = format!("starting {what}");
        self.events.started(&step);
        let project = if is_elsewhere() {
            carried::project(self.engine, self.compose, self.deployment, services).await?
        } else {
            self.deployment.project()
        };
        self.compose
            .run(&project, &args, UP, |_| {})
            .await
            .map_err(diagnose::compose)?;
        self.events.finished(&step, "");
        Ok(())
    }

    /// Waits until a service is well, in every container that it has.
    pub(super) async fn wait(&self, service: Service, patience: Patience) -> Result<()> {
        let mut names: Vec<String> = self
            .deployment
            .containers(self.engine, service)
            .await?
            .into_iter()
            .map(|container| container.name)
            .collect();
        if names.is_empty() {
            names.push(self.deployment.names.container(service));
        }
        for name in names {
            let which = (service, name.as_str());
            until_healthy(self.engine, self.deployment, which, patience, self.events).await?;
        }
        Ok(())
    }

    /// Makes the database let k1ops in, for its rows and for a copy of the whole cluster, and Conductor
    /// as far as it needs to be.
    pub(super) async fn open_database(&self) -> Result<()> {
        let database = Database {
            engine: self.engine,
            deployment: self.deployment,
            events: self.events,
        };
        database.open().await
    }
}

/// A database that runs.
#[derive(Clone, Copy)]
struct Database<'a> {
    engine: &'a Engine,
    deployment: &'a Deployment,
    events: &'a Events,
}

impl Database<'_> {
    async fn open(&self) -> Result<()> {
        self.make_password_fit().await?;
        roles::settle(self.deployment, self.events).await?;
        self.allow_replication().await?;
        self.let_monitoring_in().await
    }

    async fn let_monitoring_in(&self) -> Result<()> {
        if !self.deployment.settings.has_monitoring() {
            return Ok(());
        }
        let session = Session::open(&self.deployment.database()?).await?;
        monitoring::let_in(self.deployment, &session).await
    }

    /// A volume that came from a backup, or from before the secrets were lost, has another
    /// password. Inside its container the database trusts its own host, so it can be told ours.
    async fn make_password_fit(&self) -> Result<()> {
        let address = self.deployment.database()?;
        let Err(error) = Session::open(&address).await else {
            return Ok(());
        };
        let refused = said(&error).contains("password authentication failed");
        if !refused {
            return Err(error);
        }
        let name = self.deployment.names.container(Service::Postgres);
        // What the server stores of it: the password itself would be in the log of a server that
        // logs its statements.
        let verifier = crate::adapters::postgres::verifier(&address.password().unwrap_or_default());
        let sql = format!("ALTER ROLE conductor PASSWORD '{verifier}';\n");
        let command = [
            "psql",
            "-X",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "conductor",
            "-d",
            "conductor",
        ];
        let patience = Duration::from_secs(45);
        let said = self
            .engine
            .run_inside(&name, "postgres", &command, sql.as_bytes(), patience)
            .await?;
        if said.code != 0 {
            return Err(error);
        }
        self.events.note(
            "the database had another password than docker/secrets; it was given the one that is \
             there",
        );
        Session::open(&address).await.map(drop)
    }

    /// The images' own `pg_hba.conf` lets nobody outside of the container copy the cluster. The line
    /// asks for the password that everything else asks for.
    async fn allow_replication(&self) -> Result<()> {
        // There the rules are a file of this stack, not the volume's.
        if self.deployment.has_roles() {
            return Ok(());
        }
        let session = Session::open(&self.deployment.database()?).await?;
        let rules = "SELECT count(*) FROM pg_catalog.pg_hba_file_rules WHERE error IS NULL \
             AND database @> ARRAY['replication'] AND type LIKE 'host%' AND address = 'all' \
             AND user_name && ARRAY['all', 'conductor']";
        let failed = |error: &tokio_postgres::Error| {
            let said = crate::adapters::postgres::server_message(error);
            Error::failed(format!("pg_hba.conf cannot be looked at: {said}"))
        };
        let row = session
            .query_one(rules, &[])
            .await
            .map_err(|e| failed(&e))?;
        if row.get::<_, i64>(0) > 0 {
            return Ok(());
        }
        let name = self.deployment.names.container(Service::Postgres);
        let command = [
            "sh",
            "-c",
            "printf '\\n# For backups of the whole cluster, added by k1ops.\\n\
             host replication conductor all scram-sha-256\\n' >> \"$PGDATA/pg_hba.conf\" && sync",
        ];
        let said = self
            .engine
            .run_inside(&name, "postgres", &command, b"", STATEMENT)
            .await?;
        if said.code != 0 {
            return Err(Error::failed(format!(
                "pg_hba.conf of {name} cannot be added to: {}",
                said.stderr.trim()
            )));
        }
        let reload = "SELECT pg_catalog.pg_reload_conf()";
        session.execute(reload, &[]).await.map_err(|e| failed(&e))?;
        Ok(())
    }
}

pub(super) fn said(error: &Error) -> String {
    format!("{error}\n{}", error.causes().join("\n"))
}

/// A database that was started for a while.
#[derive(Debug)]
pub struct Lent {
    engine: Engine,
    container: Option<String>,
}

impl Lent {
    /// Stops it again, if it was started for this.
    pub async fn give_back(self) -> Result<()> {
        match &self.container {
            Some(name) => {
                self.engine
                    .stop_container(name, Duration::from_secs(120))
                    .await
            }
            None => Ok(()),
        }
    }
}

/// Makes sure that the database of tier 1 runs and lets k1ops in, starting it alone if it has to be.
pub async fn lend_database(stack: &Stack, events: &Events, interrupt: &Interrupt) -> Result<Lent> {
    interrupt.guard(Box::pin(lend(stack, events))).await
}

async fn lend(stack: &Stack, events: &Events) -> Result<Lent> {
    let engine = Engine::find().await?;
    let deployment = Deployment::of(stack)?;
    let container = deployment.container(&engine, Service::Postgres).await?;
    let runs = container.is_some_and(|container| container.is_running());
    let deployment = if runs {
        deployment
    } else {
        written(stack, &engine)?
    };
    if runs {
        let database = Database {
            engine: &engine,
            deployment: &deployment,
            events,
        };
        database.open().await?;
        return Ok(Lent {
            engine,
            container: None,
        });
    }
    let compose = Compose::find(&stack.config.docker.compose, engine.host()).await?;
    let services = Services {
        engine: &engine,
        compose: &compose,
        deployment: &deployment,
        events,
    };
    home::check(stack, &engine, &deployment).await?;
    preflight::check_elsewhere(&compose, &deployment.settings)?;
    preflight::check_names(&engine, &deployment).await?;
    let image = deployment.settings.image(Service::Postgres);
    ensure_pulled(&engine, image.unwrap_or_default(), false, events).await?;
    preflight::check_postgres_version(&engine, &deployment).await?;
    home::note(stack, &engine)?;
    services.up(&[Service::Postgres]).await?;
    let patience = Patience {
        limit: DATABASE,
        at_most: DATABASE * 4,
    };
    services.wait(Service::Postgres, patience).await?;
    services.open_database().await?;
    Ok(Lent {
        container: Some(deployment.names.container(Service::Postgres)),
        engine,
    })
}

/// The files that Compose reads, for a database that is started without its server.
fn written(stack: &Stack, engine: &Engine) -> Result<Deployment> {
    let plan = plan(stack, &expected_image(stack), true)?;
    plan.apply(&[])?;
    open_files(engine, &plan.folder)?;
    Deployment::of(stack)
}

/// Lets an engine's containers read the files that they mount from this host.
pub(super) fn open_files(engine: &Engine, folder: &Path) -> Result<()> {
    if engine.maps_users() && !is_elsewhere() {
        open_to_mapped_users(folder)?;
    }
    Ok(())
}
