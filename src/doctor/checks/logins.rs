//! In production PostgreSQL and Redis let nobody in without the right password. It is tried with none,
//! with a wrong one and with those that everybody tries first.

use crate::adapters::postgres::Session;
use crate::adapters::redis;
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient};
use crate::error::{Error, ErrorKind, Result};
use crate::stack::docker::{Deployment, Service};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// How long a server may take to refuse.
const ANSWER: Duration = Duration::from_secs(4);
/// A few are enough: each leaves a line in the server's log.
const USUAL: [&str; 3] = ["", "conductor", "postgres"];

pub(super) struct Logins;

impl Check for Logins {
    fn name(&self) -> &'static str {
        "logins"
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
    let wrong = Uuid::new_v4().simple().to_string();
    let mut passwords = USUAL.to_vec();
    passwords.push(&wrong);
    let mut examined = Examined::default();
    if patient.service_runs(Service::Postgres).await {
        postgres(&deployment, &passwords, &mut examined).await?;
    }
    if patient.service_runs(Service::Redis).await {
        redis(&deployment, &passwords, &mut examined).await?;
    }
    Ok(examined)
}

async fn postgres(
    deployment: &Deployment,
    passwords: &[&str],
    examined: &mut Examined,
) -> Result<()> {
    let right = deployment.database()?;
    for &password in passwords {
        let address = right.with_password(password);
        match tokio::time::timeout(ANSWER, Session::open(&address)).await {
            Ok(Ok(_)) => {
                examined.find(told("PostgreSQL", right.port()));
                return Ok(());
            }
            Ok(Err(error)) if error.kind() == ErrorKind::Usage => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(silent("PostgreSQL")),
        }
    }
    let tried = passwords.len();
    examined.say(format!("PostgreSQL refuses {tried} wrong passwords"));
    Ok(())
}

async fn redis(deployment: &Deployment, passwords: &[&str], examined: &mut Examined) -> Result<()> {
    let port = deployment.settings.port(Service::Redis).unwrap_or(6379);
    let authority = deployment.authority();
    for &password in passwords {
        let password = Some(password).filter(|password| !password.is_empty());
        match redis::ask(port, password, authority.as_deref(), ANSWER).await {
            Ok(_) => {
                examined.find(told("Redis", port));
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::Usage => {}
            Err(error) => return Err(error),
        }
    }
    let tried = passwords.len();
    examined.say(format!("Redis refuses {tried} wrong passwords"));
    Ok(())
}

fn silent(who: &str) -> Error {
    Error::missing(format!(
        "{who} does not answer within {} s",
        ANSWER.as_secs()
    ))
}

fn told(who: &str, port: u16) -> Finding {
    Finding::problem(
        ErrorKind::Failed,
        format!("{who} at port {port} lets in who does not know its password"),
    )
    .seen("a wrong, an empty or a usual password was taken")
    .because("its settings trust whoever comes, or its password is one that everybody tries first")
    .remedy("k1ops harden --rotate-passwords")
}
