//! Conductor has no login. In production a gateway stands before it, and is tried by attack; where there
//! is none, that is said plainly: whoever reaches Conductor's port can do everything.

use crate::adapters::{http, port};
use crate::conductor::Client;
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient};
use crate::error::{ErrorKind, Result};
use crate::stack::docker::{Deployment, Service};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::sync::Arc;
use std::time::Duration;

/// How long Conductor may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// What nobody may read without a login.
const API: &str = "/api/metadata/taskdefs";

pub(super) struct Api;

impl Check for Api {
    fn name(&self) -> &'static str {
        "api"
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
    if deployment.settings.has_gateway() {
        return gateway(patient, &deployment).await;
    }
    if patient.stack.config.docker.gateway.is_configured() {
        return Ok(told_but_not_there().into());
    }
    let Some(client) = patient.conductor().await else {
        return Ok(Examined::skipped("Conductor does not run"));
    };
    let (status, _) = client.probe(API, ANSWER).await?;
    Ok(if status == 401 || status == 403 {
        Examined::well(format!("Conductor answers {status} without a login"))
    } else {
        open(&client, status).into()
    })
}

fn open(client: &Client, status: u16) -> Finding {
    Finding::warning("Conductor answers whoever reaches its port, without a login")
        .seen(format!(
            "GET {}{API} without a token was answered with {status}",
            client.base()
        ))
        .because(
            "Conductor has no login of its own; only that its port is on 127.0.0.1 keeps others out",
        )
        .advise(
            "Set docker.gateway in k1ops.toml to an issuer of OpenID Connect, and let nobody else log \
             in to this host until then.",
        )
        .remedy("k1ops harden    # once docker.gateway is set")
}

fn told_but_not_there() -> Finding {
    Finding::problem(
        ErrorKind::Failed,
        "docker.gateway is set, and Conductor runs without a gateway",
    )
    .because("what runs was started before, or in another profile")
    .remedy("k1ops harden")
}

/// Everything that ought to be refused is tried, and that k1ops itself is let in.
async fn gateway(patient: &Patient, deployment: &Deployment) -> Result<Examined> {
    if !patient.service_runs(Service::Gateway).await {
        return Ok(
            Finding::problem(ErrorKind::Failed, "the gateway does not run")
                .because("nobody reaches Conductor, k1ops neither")
                .remedy("k1ops start")
                .into(),
        );
    }
    let mut examined = Examined::default();
    published(patient, &mut examined).await;
    plain(deployment, &mut examined).await?;
    let client = deployment.client()?;
    let tokens = deployment.tokens()?;
    attack(
        &client,
        &[
            ("no token", None),
            ("any text for a token", Some("k1ops".to_owned())),
        ],
        &mut examined,
    )
    .await?;
    match tokens.token().await {
        Ok(token) => {
            attack(&client, &forged(token.expose()), &mut examined).await?;
            own(&client, token.expose(), &mut examined).await?;
        }
        Err(error) => examined.find(
            Finding::problem(
                ErrorKind::Failed,
                "k1ops gets no token to pass the gateway with",
            )
            .seen(error.to_string())
            .because("without one neither k1ops nor its workers reach Conductor")
            .advise(error.hint_text().unwrap_or_default()),
        ),
    }
    Ok(examined)
}

/// The right token opens, and nothing else does.
async fn own(client: &Client, token: &str, examined: &mut Examined) -> Result<()> {
    let status = client.status_for(API, Some(token), ANSWER).await?;
    if status == 200 {
        examined.say("k1ops is let in with its token");
        return Ok(());
    }
    let title = format!("the gateway answers k1ops with {status}");
    let finding = Finding::problem(ErrorKind::Failed, title);
    examined.find(if status == 401 || status == 403 {
        finding
            .because("the issuer's token for docker.gateway.client_id is not for this gateway")
            .advise("Have the issuer put docker.gateway.audience into the tokens of this client.")
            .remedy("k1ops logs gateway")
    } else {
        finding
            .because("Conductor does not answer behind it")
            .remedy("k1ops status")
    });
    Ok(())
}

/// Who reaches Conductor past the gateway needs no login.
async fn published(patient: &Patient, examined: &mut Examined) {
    let docker = patient.docker().await;
    let behind: Vec<&str> = docker
        .iter()
        .flat_map(|docker| &docker.services)
        .filter(|s| [Service::Server.key(), Service::Balancer.key()].contains(&s.service))
        .map(|s| s.container.name.as_str())
        .collect();
    let published = patient.published().await;
    match published
        .iter()
        .find(|one| behind.contains(&one.container.as_str()))
    {
        None => examined.say("Conductor has no port on this host but the gateway's"),
        Some(one) => examined.find(
            Finding::problem(
                ErrorKind::Failed,
                format!(
                    "Conductor is reached past its gateway, at port {}",
                    one.port
                ),
            )
            .because("whoever goes that way is asked for nothing")
            .advise("Remove the ports of conductor-server and balancer from the Compose files.")
            .remedy("k1ops start"),
        ),
    }
}

async fn plain(deployment: &Deployment, examined: &mut Examined) -> Result<()> {
    let Some(port) = deployment.settings.port(Service::Gateway) else {
        return Ok(());
    };
    let client = http::local_client(ANSWER)?;
    let url = format!("http://127.0.0.1:{port}{API}");
    let answer = client.get(&url).send().await;
    match answer.map(|answer| answer.status().as_u16()) {
        Ok(status) if status != 400 => examined.find(
            Finding::problem(
                ErrorKind::Failed,
                format!("port {port} answers plain HTTP with {status}"),
            )
            .because("tokens that are shown to it can be read on their way")
            .remedy("k1ops harden"),
        ),
        _ if port::is_free(port) => {
            examined.find(Finding::problem(
                ErrorKind::Failed,
                format!("nothing listens on port {port}, which is the gateway's"),
            ));
        }
        _ => examined.say(format!("port {port} refuses plain HTTP")),
    }
    Ok(())
}

async fn attack(
    client: &Client,
    shown: &[(&str, Option<String>)],
    examined: &mut Examined,
) -> Result<()> {
    for (what, token) in shown {
        let status = client.status_for(API, token.as_deref(), ANSWER).await?;
        if status == 401 || status == 403 {
            examined.say(format!("{what}: {status}"));
            continue;
        }
        examined.find(
            Finding::problem(
                ErrorKind::Failed,
                format!("the gateway answers {status} to {what}"),
            )
            .because("whoever reaches its port can use Conductor's API")
            .advise("If secrets/gateway.cfg was edited, let k1ops write it anew.")
            .remedy("k1ops init && k1ops start"),
        );
    }
    Ok(())
}

/// What can be made of a good token without the issuer's key.
fn forged(token: &str) -> Vec<(&'static str, Option<String>)> {
    let mut parts = token.split('.');
    let (Some(header), Some(claims), Some(signature)) = (parts.next(), parts.next(), parts.next())
    else {
        return Vec::new();
    };
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
    let changed = URL_SAFE_NO_PAD
        .decode(claims)
        .ok()
        .and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok())
        .map(|mut claims| {
            claims["sub"] = "somebody else".into();
            URL_SAFE_NO_PAD.encode(claims.to_string())
        })
        .unwrap_or_default();
    vec![
        (
            "a token without a signature",
            Some(format!("{none}.{claims}.")),
        ),
        (
            "a token whose signature was cut off",
            Some(format!("{header}.{claims}.")),
        ),
        (
            "a token that was changed",
            Some(format!("{header}.{changed}.{signature}")),
        ),
    ]
}
