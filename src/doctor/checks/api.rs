//! Conductor has no login. In production that is said plainly, and tried: whoever reaches its port can
//! do everything.

use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient};
use crate::error::Result;
use std::sync::Arc;
use std::time::Duration;

/// How long Conductor may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

pub(super) struct Api;

impl Check for Api {
    fn name(&self) -> &'static str {
        "api"
    }

    fn group(&self) -> Group {
        Group::Security
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        Box::pin(async move { look(&patient).await })
    }
}

async fn look(patient: &Patient) -> Result<Examined> {
    if let Some(why) = patient.not_in_production().await {
        return Ok(Examined::skipped(why));
    }
    let Some(client) = patient.conductor().await else {
        return Ok(Examined::skipped("Conductor does not run"));
    };
    let (status, _) = client.probe("/api/metadata/taskdefs", ANSWER).await?;
    Ok(if status == 401 || status == 403 {
        Examined::well(format!("Conductor answers {status} without a login"))
    } else {
        Finding::warning("Conductor answers whoever reaches its port, without a login")
            .seen(format!(
                "GET {}/api/metadata/taskdefs without a token was answered with {status}",
                client.base()
            ))
            .because("Conductor has no login of its own; only that its port is on 127.0.0.1 keeps others out")
            .advise(
                "Let nobody else log in to this host, and put a gateway with a login before any \
                 way that leads here from elsewhere.",
            )
            .remedy("k1ops doctor -v    # `exposure` says whether others reach it")
            .into()
    })
}
