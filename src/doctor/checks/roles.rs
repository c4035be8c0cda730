//! In production Conductor, backups and questions each have a role of PostgreSQL that can do no more
//! than they need. It is tried as each of them, in a transaction that is taken back.

use crate::adapters::postgres::{Session, server_message};
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient};
use crate::error::{Error, ErrorKind, Result};
use crate::stack::docker::{Deployment, Role, Service};
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::error::SqlState;

/// How long the server may take to refuse.
const ANSWER: Duration = Duration::from_secs(4);

/// It changes no row, and needs the right to.
const WRITE: &str = "DELETE FROM public.k1_workflow_metadata WHERE false";
const READ_PASSWORDS: &str = "SELECT rolpassword FROM pg_catalog.pg_authid";
const MAKE_TABLE: &str = "CREATE TABLE public.k1_doctor_probe ()";
const MAKE_ROLE: &str = "CREATE ROLE k1_doctor_probe";
// One that ended before it was given anything would be an error of another kind.
const RUN_PROGRAM: &str = "COPY (SELECT 1) TO PROGRAM 'cat > /dev/null'";
/// Whoever may only read by default says that it writes.
const TURNED_OFF: &str = "SET TRANSACTION READ WRITE";
const AS_IT_IS: &str = "";

/// Whom it is tried as, what, after which setting, and by which statement.
const ATTACKS: [(Role, &str, &str, &str); 11] = [
    (Role::Server, "read passwords", TURNED_OFF, READ_PASSWORDS),
    (Role::Server, "make a role", TURNED_OFF, MAKE_ROLE),
    (Role::Server, "run a program", TURNED_OFF, RUN_PROGRAM),
    (Role::Server, "write into the K1 tables", TURNED_OFF, WRITE),
    (Role::Backup, "write a row", TURNED_OFF, WRITE),
    (Role::Backup, "make a table", TURNED_OFF, MAKE_TABLE),
    (Role::Backup, "make a role", TURNED_OFF, MAKE_ROLE),
    (Role::Query, "write a row", AS_IT_IS, WRITE),
    (
        Role::Query,
        "write a row, read-only turned off",
        TURNED_OFF,
        WRITE,
    ),
    (Role::Query, "make a table", TURNED_OFF, MAKE_TABLE),
    (Role::Query, "read passwords", TURNED_OFF, READ_PASSWORDS),
];

pub(super) struct Roles;

impl Check for Roles {
    fn name(&self) -> &'static str {
        "roles"
    }

    fn group(&self) -> Group {
        Group::Security
    }

    fn limit(&self) -> Duration {
        ANSWER * 8
    }

    fn only_in_production(&self) -> bool {
        true
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        Box::pin(async move { look(&patient).await })
    }
}

async fn look(patient: &Patient) -> Result<Examined> {
    let deployment = patient.deployment()?;
    if !patient.service_runs(Service::Postgres).await {
        return Ok(Examined::skipped("PostgreSQL is stopped"));
    }
    if !deployment.has_roles() {
        return Ok(one_for_all().into());
    }
    let mut examined = Examined::default();
    for role in Role::LIMITED {
        match within(attack(&deployment, role)).await {
            Ok(allowed) if allowed.is_empty() => {
                let name = role.name();
                examined.say(format!("{name} is refused what it does not need"));
            }
            Ok(allowed) => examined.find(told(role, &allowed)),
            Err(error) if error.kind() == ErrorKind::Usage => {
                examined.find(shut_out(role, &error));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(examined)
}

/// What was let through.
async fn attack(deployment: &Deployment, role: Role) -> Result<Vec<&'static str>> {
    let address = deployment.database_as(role)?;
    let session = Session::open(&address).await?;
    let mut allowed = Vec::new();
    for (_, what, setting, sql) in ATTACKS.iter().filter(|(by, ..)| *by == role) {
        if !is_refused(&session, setting, sql).await? {
            allowed.push(*what);
        }
    }
    // The server's other databases, among them those that a restore has kept.
    if Session::open(&address.with_database("postgres"))
        .await
        .is_ok()
    {
        allowed.push("open another database");
    }
    Ok(allowed)
}

async fn is_refused(session: &Session, setting: &str, sql: &str) -> Result<bool> {
    let cannot = |error: &tokio_postgres::Error| {
        Error::failed(format!("it cannot be tried: {}", server_message(error)))
    };
    let begin = format!("BEGIN; {setting}");
    session
        .batch_execute(&begin)
        .await
        .map_err(|e| cannot(&e))?;
    let tried = session.batch_execute(sql).await;
    let ended = session.batch_execute("ROLLBACK").await;
    ended.map_err(|e| cannot(&e))?;
    let Err(error) = tried else {
        return Ok(false);
    };
    match error.code() {
        Some(code)
            if *code == SqlState::INSUFFICIENT_PRIVILEGE
                || *code == SqlState::READ_ONLY_SQL_TRANSACTION =>
        {
            Ok(true)
        }
        _ => Err(cannot(&error)),
    }
}

async fn within<T>(asking: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(ANSWER * 2, asking).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::missing(format!(
            "PostgreSQL does not answer within {} s",
            (ANSWER * 2).as_secs()
        ))),
    }
}

fn one_for_all() -> Finding {
    Finding::problem(
        ErrorKind::Failed,
        "Conductor, backups and queries log in as a superuser of PostgreSQL",
    )
    .seen("they share the role conductor, which the image has made")
    .because("whoever gets into one of them has all of the server, and programs on it")
    .remedy("k1ops harden")
}

fn told(role: Role, allowed: &[&str]) -> Finding {
    Finding::problem(
        ErrorKind::Failed,
        format!(
            "the role {} of PostgreSQL can do more than it needs",
            role.name()
        ),
    )
    .seen(format!("it was let through: {}", allowed.join("; ")))
    .because("somebody has granted it, or made it own what is not its own")
    .remedy("k1ops harden")
}

fn shut_out(role: Role, error: &Error) -> Finding {
    Finding::problem(
        ErrorKind::Failed,
        format!("the role {} of PostgreSQL is not let in", role.name()),
    )
    .seen(error.to_string())
    .because("its password in docker/secrets is not the one that the database has")
    .remedy("k1ops harden")
}
