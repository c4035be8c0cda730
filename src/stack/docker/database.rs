//! Where the stack's database is, on the way and by the role that somebody needs. Whether the roles
//! are what they ought to be is not known here.

use super::roles::{Role, have_passwords};
use super::{Deployment, Secrets, Service, tls};
use crate::adapters::docker::{Engine, is_elsewhere, port_here};
use crate::adapters::postgres::{Address, Session, url_encoded};
use crate::config::{Database, Secret};
use crate::error::Result;
use crate::stack::Stack;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a login may take on a way that perhaps does not exist.
const PATIENCE: Duration = Duration::from_secs(1);

impl Deployment {
    /// The database, as a configuration would name it.
    #[must_use]
    pub fn database_config(&self) -> Database {
        Database {
            url: Secret::new(self.database_url()),
            password_file: Secrets::postgres_file(&self.folder),
            ..Database::default()
        }
    }

    /// The database's address on this host, with the administrator's password.
    pub fn database(&self) -> Result<Address> {
        self.database_as(Role::Administrator)
    }

    /// The same as another role. Where there are no roles yet, the administrator does everything.
    pub fn database_as(&self, role: Role) -> Result<Address> {
        let role = self.role(role);
        let file = role.password_file(&self.folder);
        self.reached(&Secret::new(self.url_as(role)), Some(&file))
    }

    /// The database's URL on the engine's host, without the password.
    #[must_use]
    pub fn database_url(&self) -> String {
        self.url_as(Role::Administrator)
    }

    /// The address that such a URL names, for a process on this host.
    pub(in crate::stack) fn reached(
        &self,
        url: &Secret,
        password_file: Option<&Path>,
    ) -> Result<Address> {
        let published = self.published_port();
        let here = port_here(published);
        if here == published {
            return Address::parse(url, password_file);
        }
        let [there, here] = [published, here].map(|port| format!("@127.0.0.1:{port}/"));
        let url = Secret::new(url.expose().replacen(&there, &here, 1));
        Ok(Address::parse(&url, password_file)?.known_by_port(published))
    }

    fn published_port(&self) -> u16 {
        self.settings.port(Service::Postgres).unwrap_or(5432)
    }

    fn url_as(&self, role: Role) -> String {
        let port = self.published_port();
        let mut url = format!("postgres://{}@127.0.0.1:{port}/conductor", role.name());
        if let Some(verified) = self.verified() {
            url = format!("{url}?{verified}");
        }
        url
    }

    fn address(&self, url: &str, role: Role) -> Result<Address> {
        let file = role.password_file(&self.folder);
        Address::parse(&Secret::new(url), Some(&file))
    }

    /// The database at its container's own address, if this host gets there: on the way through the
    /// published port the engine's proxy copies every byte once more, which takes a tenth of the time
    /// of a backup. Not every engine's networks can be reached from here (rootless, a virtual
    /// machine), so a login is tried.
    pub async fn database_without_proxy(&self, engine: &Engine, role: Role) -> Result<Address> {
        let role = self.role(role);
        if is_elsewhere() {
            // An address of a network over there may be somebody else's here.
            return self.database_as(role);
        }
        let container = engine
            .container(&self.names.container(Service::Postgres))
            .await?;
        let (name, service) = (role.name(), Service::Postgres.key());
        for numeric in container.map(|found| found.addresses).unwrap_or_default() {
            let mut url = format!("postgres://{name}@{service}/conductor?hostaddr={numeric}");
            if let Some(verified) = self.verified() {
                url = format!("{url}&{verified}");
            }
            let address = self.address(&url, role)?;
            let tried = tokio::time::timeout(PATIENCE, Session::open(&address)).await;
            if matches!(tried, Ok(Ok(_))) {
                return Ok(address);
            }
        }
        self.database_as(role)
    }

    /// Whether the roles with few rights have passwords, and the profile asks for them.
    #[must_use]
    pub fn has_roles(&self) -> bool {
        self.settings.is_production() && have_passwords(&self.folder)
    }

    fn role(&self, role: Role) -> Role {
        if self.has_roles() {
            role
        } else {
            Role::Administrator
        }
    }

    /// How a client verifies the database, as parameters of a URL; in production.
    fn verified(&self) -> Option<String> {
        let file = self.authority()?;
        let file = url_encoded(&file.to_string_lossy());
        Some(format!("sslmode=verify-full&sslrootcert={file}"))
    }

    /// The certificate authority that `PostgreSQL` and Redis are verified with, in production.
    #[must_use]
    pub fn authority(&self) -> Option<PathBuf> {
        let production = self.settings.is_production();
        production.then(|| tls::authority_file(&self.folder))
    }
}

impl Stack {
    /// The address of the stack's `PostgreSQL` for what `role` is for. Only tier 1 has more than one
    /// role; a database by URL has the login that its configuration names.
    pub fn database_as(&self, role: Role) -> Result<Address> {
        if role != Role::Administrator && self.is_in_docker()? {
            return Deployment::of(self)?.database_as(role);
        }
        self.database_address()
    }
}
