//! The roles of tier 1's `PostgreSQL` in production: one for Conductor, one for backups, one for
//! questions, each with the rights that it needs. They are made and mended here, and taken back where
//! the profile is another. What is missing the database itself answers, as statements; so a run that
//! was killed is gone on with by the next, and one that finds nothing to do changes nothing.

use super::Deployment;
use super::secrets::FOLDER;
use super::services::said;
use crate::adapters::postgres::{Session, quote_identifier, server_message, verifier};
use crate::error::{Error, Result};
use crate::event::Events;
use crate::stack::Stack;
use std::path::{Path, PathBuf};
use tokio_postgres::error::SqlState;

/// What makes the roles.
const LOGINS: &str = include_str!("logins.sql");
/// What gives them their rights in the database.
const RIGHTS: &str = include_str!("rights.sql");
/// Nothing that somebody has put into a schema of the database is called by a name of the server's,
/// and nobody who waits for one table holds up another for long.
const SESSION: &str = "SET search_path = pg_catalog; SET lock_timeout = '10s'";
/// Held while roles are changed, in every k1ops alike; the bytes are `k1ops` and a 2.
const ADVISORY_LOCK: i64 = 0x6b31_6f70_7302;
/// What is made may be wanted by what comes next, and a table may be locked or dropped meanwhile.
const ROUNDS: usize = 6;
/// The roles that k1ops has made, and that can still log in.
const MADE: &str = "SELECT rolname::text FROM pg_catalog.pg_roles
    WHERE rolname IN ('k1_server', 'k1_backup', 'k1_query') AND rolcanlogin
      AND pg_catalog.shobj_description(oid, 'pg_authid') LIKE '%Kept by k1ops.'";

/// Whom somebody is to the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The superuser that the image has made: restores, and the other roles.
    Administrator,
    /// Conductor.
    Server,
    /// Backups and the write-ahead log.
    Backup,
    /// `k1ops query`.
    Query,
}

impl Role {
    /// Those that are no superuser.
    pub const LIMITED: [Self; 3] = [Self::Server, Self::Backup, Self::Query];

    /// Its name in the database.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Administrator => "conductor",
            Self::Server => "k1_server",
            Self::Backup => "k1_backup",
            Self::Query => "k1_query",
        }
    }

    /// The file that holds its password, below the folder of the Compose file.
    #[must_use]
    pub fn password_file(self, folder: &Path) -> PathBuf {
        folder.join(FOLDER).join(match self {
            Self::Administrator => "postgres_password",
            Self::Server => "postgres_server_password",
            Self::Backup => "postgres_backup_password",
            Self::Query => "postgres_query_password",
        })
    }
}

/// Whether each limited role has a password in `folder`, that of the Compose file.
#[must_use]
pub fn have_passwords(folder: &Path) -> bool {
    let has_one = |role: Role| role.password_file(folder).is_file();
    Role::LIMITED.into_iter().all(has_one)
}

/// Whether a database that runs needs [`mend`].
pub async fn need_mending(stack: &Stack) -> Result<bool> {
    let deployment = Deployment::of(stack)?;
    Ok(deployment.has_roles() && !fit(&deployment).await?)
}

/// Makes the roles of a database that runs what they have to be.
pub async fn mend(stack: &Stack, events: &Events) -> Result<()> {
    settle(&Deployment::of(stack)?, events).await
}

/// Makes the roles fit the profile. The database runs and lets the administrator in.
pub(super) async fn settle(deployment: &Deployment, events: &Events) -> Result<()> {
    if deployment.has_roles() {
        if make(deployment).await? {
            events.note(
                "the roles of Conductor, of backups and of queries were given their rights in \
                 PostgreSQL",
            );
        }
    } else if !deployment.settings.is_production() {
        for role in take_back(deployment).await? {
            events.note(format!("the role {role} was taken out of PostgreSQL"));
        }
    }
    Ok(())
}

/// Whether every role has its rights, no other ones, and its password.
pub(super) async fn fit(deployment: &Deployment) -> Result<bool> {
    let session = open(deployment).await?;
    // The second asks about roles that the first has found.
    if !needed(&session, LOGINS).await?.is_empty() || !needed(&session, RIGHTS).await?.is_empty() {
        return Ok(false);
    }
    for role in Role::LIMITED {
        if !is_let_in(deployment, role).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Answers whether anything had to be changed.
async fn make(deployment: &Deployment) -> Result<bool> {
    let session = open(deployment).await?;
    let lock = format!("SELECT pg_advisory_lock({ADVISORY_LOCK})");
    execute(&session, &lock).await.map_err(|e| failed(&e))?;
    let mut changed = repeat(&session, LOGINS).await?;
    changed |= repeat(&session, RIGHTS).await?;
    for role in Role::LIMITED {
        if is_let_in(deployment, role).await? {
            continue;
        }
        let password = deployment.database_as(role)?.password().unwrap_or_default();
        // What the server stores of it: the password itself would be in the log of a server that
        // logs its statements.
        let verifier = verifier(&password);
        let sql = format!("ALTER ROLE {} PASSWORD '{verifier}'", role.name());
        execute(&session, &sql).await.map_err(|e| failed(&e))?;
        Session::open(&deployment.database_as(role)?).await?;
        changed = true;
    }
    Ok(changed)
}

/// Whether its password is the one that the database has. Anything else in the way is an error.
async fn is_let_in(deployment: &Deployment, role: Role) -> Result<bool> {
    match Session::open(&deployment.database_as(role)?).await {
        Ok(_) => Ok(true),
        Err(error) if said(&error).contains("password authentication failed") => Ok(false),
        Err(error) => Err(error),
    }
}

/// Executes what `question` answers until it answers nothing. Each statement stands alone, so that one
/// table is locked at a time and Conductor is in nobody's way for longer than that.
async fn repeat(session: &Session, question: &str) -> Result<bool> {
    let mut changed = false;
    for round in 1..=ROUNDS {
        let statements = needed(session, question).await?;
        if statements.is_empty() {
            return Ok(changed);
        }
        for sql in &statements {
            match execute(session, sql).await {
                Ok(()) => changed = true,
                Err(error) if round == ROUNDS => return Err(failed(&error)),
                Err(error) => tracing::debug!(sql, %error, "tried again"),
            }
        }
    }
    match needed(session, question).await?.first() {
        None => Ok(changed),
        Some(sql) => Err(Error::failed(format!(
            "the roles in PostgreSQL do not become what they have to be: {sql} changes nothing"
        ))
        .hint("Somebody else may be changing them; `k1ops start` tries again.")),
    }
}

/// Takes the roles out that k1ops has made, and answers which; what they own the administrator gets.
async fn take_back(deployment: &Deployment) -> Result<Vec<String>> {
    let session = open(deployment).await?;
    let made = needed(&session, MADE).await?;
    for role in &made {
        let name = quote_identifier(role);
        let give = format!("REASSIGN OWNED BY {name} TO CURRENT_USER; DROP OWNED BY {name}");
        execute(&session, &give).await.map_err(|e| failed(&e))?;
        match execute(&session, &format!("DROP ROLE {name}")).await {
            Ok(()) => {}
            // A database that a restore has kept has things of its own by this role.
            Err(error) if error.code() == Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST) => {
                let shut = format!("ALTER ROLE {name} NOLOGIN PASSWORD NULL");
                execute(&session, &shut).await.map_err(|e| failed(&e))?;
            }
            Err(error) => return Err(failed(&error)),
        }
    }
    if !made.is_empty() {
        let usual = "GRANT TEMPORARY ON DATABASE conductor TO PUBLIC";
        execute(&session, usual).await.map_err(|e| failed(&e))?;
    }
    Ok(made)
}

async fn open(deployment: &Deployment) -> Result<Session> {
    let session = Session::open(&deployment.database()?).await?;
    execute(&session, SESSION).await.map_err(|e| failed(&e))?;
    Ok(session)
}

async fn needed(session: &Session, question: &str) -> Result<Vec<String>> {
    let rows = session.query(question, &[]).await.map_err(|e| failed(&e))?;
    rows.iter()
        .map(|row| row.try_get(0).map_err(|e| failed(&e)))
        .collect()
}

async fn execute(session: &Session, sql: &str) -> Result<(), tokio_postgres::Error> {
    session.batch_execute(sql).await
}

fn failed(error: &tokio_postgres::Error) -> Error {
    Error::failed(format!(
        "the roles in PostgreSQL cannot be set up: {}",
        server_message(error)
    ))
    .hint("`k1ops start` tries again; `k1ops logs postgres` has what the server says.")
}
