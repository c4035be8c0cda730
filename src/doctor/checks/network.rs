//! Where the JAR comes from can be reached, as long as it still has to come.

use crate::adapters::host;
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient, Severity};
use crate::error::{Context, ErrorKind, Result};
use crate::stack::Tier;
use crate::stack::jar::Sources;
use crate::stack::jar::boot_jar::Wanted;
use crate::stack::jar::cache::Cache;
use std::sync::Arc;
use std::time::Duration;

/// How long a name or a proxy may take.
const ANSWER: Duration = Duration::from_millis(1500);

pub(super) struct Network;

impl Check for Network {
    fn name(&self) -> &'static str {
        "network"
    }

    fn group(&self) -> Group {
        Group::Network
    }

    /// It waits until it is known whether the JAR is here, which may take reading it.
    fn limit(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        Box::pin(async move { look(patient).await })
    }
}

async fn look(patient: Arc<Patient>) -> Result<Examined> {
    if patient.tier().await == Tier::Direct {
        return Ok(Examined::skipped("tier 3 fetches nothing"));
    }
    let here = patient.clone();
    let is_here = tokio::task::spawn_blocking(move || jar_is_here(&here))
        .await
        .context(|| "the check broke off")??;
    if is_here {
        return Ok(Examined::skipped(
            "the JAR is here, nothing has to be fetched",
        ));
    }
    let mut examined = Examined::default();
    if let Some((variable, proxy)) = host::https_proxy() {
        through_proxy(variable, &proxy, &mut examined).await;
        return Ok(examined);
    }
    let sources = Sources::configured(&patient.stack.config.server.mirrors);
    let mut reached = false;
    let mut failed = Vec::new();
    for source in sources.mirrors.iter().chain(&sources.official) {
        let Ok(url) = reqwest::Url::parse(source) else {
            examined.find(
                Finding::problem(
                    ErrorKind::Usage,
                    format!("{source:?} in server.mirrors is no URL"),
                )
                .remedy("k1ops doctor --config | grep mirrors"),
            );
            continue;
        };
        let Some(name) = url.host_str() else { continue };
        let port = url.port_or_known_default().unwrap_or(443);
        let answer = match host::resolve(name, port, ANSWER).await {
            Ok(addresses) => host::connects(&addresses, ANSWER).await.map_err(|why| {
                (
                    format!("{name} does not take connections on port {port}: {why}"),
                    format!("curl -sSI {url}"),
                )
            }),
            Err(why) => Err((
                format!("the name {name} is not known here: {why}"),
                format!("getent hosts {name}"),
            )),
        };
        match answer {
            Ok(()) => {
                reached = true;
                examined.say(format!("{name} can be reached"));
            }
            Err(failure) => failed.push(failure),
        }
    }
    for (title, remedy) in failed {
        let severity = if reached {
            Severity::Warning
        } else {
            Severity::Problem
        };
        examined.find(
            Finding::problem(ErrorKind::Missing, title)
                .as_severe_as(severity)
                .seen("the JAR is not on this host, so a start has to fetch it")
                .because("there is no way out of this host, its DNS is wrong, or a proxy is needed")
                .advise(
                    "Set https_proxy, name a mirror in server.mirrors, or a file in server.jar.",
                )
                .remedy(remedy),
        );
    }
    Ok(examined)
}

fn jar_is_here(patient: &Patient) -> Result<bool> {
    let server = &patient.stack.config.server;
    if !server.jar.as_os_str().is_empty() {
        // If it is wrong, no other is fetched in its place.
        return Ok(true);
    }
    let cache = Cache::open()?;
    let wanted = Wanted {
        server,
        base: &patient.stack.base,
        cache: &cache,
    };
    Ok(wanted.candidates().iter().any(|(_, jar)| jar.is_ok()))
}

async fn through_proxy(variable: &str, proxy: &str, examined: &mut Examined) {
    let with_scheme = if proxy.contains("://") {
        proxy.to_owned()
    } else {
        format!("http://{proxy}")
    };
    let parsed = reqwest::Url::parse(&with_scheme).ok();
    let place = parsed.as_ref().and_then(|url| {
        let port = url.port_or_known_default()?;
        Some((url.host_str()?.to_owned(), port))
    });
    let Some((name, port)) = place else {
        examined.find(
            Finding::problem(ErrorKind::Usage, format!("{variable} names no proxy"))
                .because("downloads go through it, and fail")
                .remedy(format!("unset {variable}")),
        );
        return;
    };
    let answer = match host::resolve(&name, port, ANSWER).await {
        Ok(addresses) => host::connects(&addresses, ANSWER).await,
        Err(why) => Err(why),
    };
    match answer {
        Ok(()) => examined.say(format!("the proxy {name}:{port} takes connections")),
        Err(why) => examined.find(
            Finding::problem(
                ErrorKind::Missing,
                format!("the proxy {name}:{port} of {variable} cannot be reached: {why}"),
            )
            .seen("the JAR is not on this host, so a start has to fetch it")
            .because("downloads go through the proxy")
            .advise("Correct the variable, or unset it if no proxy is needed.")
            .remedy(format!("unset {variable}")),
        ),
    }
}
