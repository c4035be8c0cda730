//! In production PostgreSQL and Redis answer nobody who does not speak TLS. It is tried, with the right
//! password: that nothing else keeps a listener out.

use super::secrets_in;
use crate::adapters::postgres::{Address, Session};
use crate::adapters::redis;
use crate::config::Secret;
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient};
use crate::error::{Error, ErrorKind, Result};
use crate::stack::docker::{Deployment, Secrets, Service};
use std::sync::Arc;
use std::time::Duration;

/// How long a server may take to refuse.
const ANSWER: Duration = Duration::from_secs(4);

pub(super) struct Plaintext;

impl Check for Plaintext {
    fn name(&self) -> &'static str {
        "plaintext"
    }

    fn group(&self) -> Group {
        Group::Security
    }

    fn limit(&self) -> Duration {
        ANSWER * 5
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
    let mut examined = Examined::default();
    if patient.service_runs(Service::Postgres).await {
        postgres(&deployment, &mut examined).await?;
    }
    if patient.service_runs(Service::Redis).await {
        redis(&deployment, &mut examined).await?;
    }
    Ok(examined)
}

async fn postgres(deployment: &Deployment, examined: &mut Examined) -> Result<()> {
    let port = deployment.settings.port(Service::Postgres).unwrap_or(5432);
    let url = format!("postgres://conductor@127.0.0.1:{port}/conductor?sslmode=disable");
    let file = Secrets::postgres_file(&deployment.folder);
    let address = Address::parse(&Secret::new(url), Some(&file))?;
    match within(Session::open(&address)).await {
        Ok(_) => examined.find(told("PostgreSQL", port)),
        Err(error) if error.to_string().contains("refused") => {
            examined.say(format!("PostgreSQL at port {port} refuses plain text"));
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// A server that speaks TLS only closes the connection; so does one that is broken. That it answers
/// over TLS tells the two apart.
async fn redis(deployment: &Deployment, examined: &mut Examined) -> Result<()> {
    let port = deployment.settings.port(Service::Redis).unwrap_or(6379);
    let secrets = secrets_in(&deployment.folder)?;
    let password = secrets.as_ref().map(|secrets| secrets.redis.expose());
    if redis::ask(port, password, None, ANSWER).await.is_ok() {
        examined.find(told("Redis", port));
        return Ok(());
    }
    let authority = deployment.authority();
    redis::ask(port, password, authority.as_deref(), ANSWER).await?;
    examined.say(format!("Redis at port {port} refuses plain text"));
    Ok(())
}

async fn within<T>(asking: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(ANSWER, asking).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::missing(format!(
            "PostgreSQL does not answer within {} s",
            ANSWER.as_secs()
        ))),
    }
}

fn told(who: &str, port: u16) -> Finding {
    Finding::problem(
        ErrorKind::Failed,
        format!("{who} at port {port} can be spoken to in plain text"),
    )
    .seen("a connection without TLS was let in with the stack's password")
    .because("whoever can listen to the line reads every row and every lock that passes")
    .remedy("k1ops harden")
}
