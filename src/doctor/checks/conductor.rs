//! Conductor answers from its database, whatever it claims; and a server that ought to run does.

use super::{quoted, word};
use crate::conductor::health::{self, Health};
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient};
use crate::error::{ErrorKind, Result};
use crate::stack::Remembered;
use std::sync::Arc;
use std::time::Duration;

/// How long the server may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// The endpoint that says healthy even without a database.
const CLAIM: &str = "/health";

pub(super) struct Conductor;

impl Check for Conductor {
    fn name(&self) -> &'static str {
        "conductor"
    }

    fn group(&self) -> Group {
        Group::Conductor
    }

    /// Two honest questions and a claim, each with its own time.
    fn limit(&self) -> Duration {
        ANSWER * 4
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        Box::pin(async move { look(&patient).await })
    }
}

async fn look(patient: &Patient) -> Result<Examined> {
    let remembered = patient.server()?;
    if let Remembered::Stale(state) = &remembered {
        let log = patient.stack.server_log();
        return Ok(Finding::problem(
            ErrorKind::Failed,
            format!(
                "the server that was started at {} ended without `k1ops stop`",
                state.started_at.format("%Y-%m-%d %H:%M:%S UTC")
            ),
        )
        .seen(format!("its PID was {}", state.process.pid))
        .because("it was killed, it died, or the host went down")
        .advise("Its log says more; a start recovers what it left.")
        .remedy(format!("tail -n 50 {}", word(&log)))
        .remedy("k1ops start")
        .into());
    }
    let Some(client) = patient.conductor().await else {
        return Ok(Examined::skipped("no server of this stack runs"));
    };
    let claims = async {
        let claim = client.probe(CLAIM, ANSWER).await.ok()?;
        Some(claim.0 == 200 && claim.1.contains("true"))
    };
    let (health, claims) = tokio::join!(health::check(&client, ANSWER), claims);
    let reason = match health {
        Health::Up => {
            return Ok(Examined::well(format!(
                "answers from its database at {}",
                client.base()
            )));
        }
        Health::Silent { reason } | Health::Down { reason } => reason,
    };
    let title = if claims == Some(true) {
        format!(
            "Conductor at {} claims to be healthy and is not",
            client.base()
        )
    } else {
        format!("Conductor at {} is not healthy", client.base())
    };
    let mut finding = Finding::problem(ErrorKind::Failed, title).seen(reason.clone());
    if claims == Some(true) {
        finding = finding.seen(format!("{CLAIM} answers healthy: true"));
    }
    // One that claims to be well while its honest answers do not come waits for its database.
    let about_database =
        claims == Some(true) || reason.contains("db is") || reason.contains("taskdefs");
    finding = if about_database {
        finding.because("it does not reach its database; see Database in this report")
    } else {
        finding.because("the server runs, but does not do its work")
    };
    let url = quoted(&format!("{}/actuator/health", client.base()));
    Ok(finding
        .remedy(format!("curl -sS {url}"))
        .remedy("k1ops logs -n 50 && k1ops stop && k1ops start")
        .into())
}
