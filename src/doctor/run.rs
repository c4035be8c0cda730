//! Runs all checks at once. One that hangs costs no more than its own time, and one that fails
//! hides none of the others.

use super::finding::{Examined, Finding};
use super::report::{Examination, Report, State};
use super::{Check, Looking, Patient, registry};
use crate::error::Error;
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Runs every check on the patient.
pub async fn run(patient: Arc<Patient>) -> Report {
    let begun = Instant::now();
    let examined = join_all(
        registry()
            .into_iter()
            .map(|check| examine(check, patient.clone())),
    )
    .await;
    let mut checks = Vec::new();
    let mut findings = Vec::new();
    for (check, found) in examined {
        checks.push(check);
        findings.extend(found);
    }
    let tier = patient.tier_in_words().await;
    let seconds = begun.elapsed().as_secs_f64();
    Report::new(patient.stack.name.clone(), tier, seconds, checks, findings)
}

async fn examine(check: Box<dyn Check>, patient: Arc<Patient>) -> (Examination, Vec<Finding>) {
    let begun = Instant::now();
    let limit = check.limit();
    // A task of its own: what a check does without waiting would hold up the others.
    let mut task = tokio::spawn(looking(check.as_ref(), patient));
    let result = match tokio::time::timeout(limit, &mut task).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(Error::failed("the check broke off").because(error)),
        Err(_) => {
            task.abort();
            Ok(late(limit))
        }
    };
    let seconds = begun.elapsed().as_secs_f64();
    let mut examined = result.unwrap_or_else(|error| blind(&error));
    for finding in &mut examined.findings {
        finding.check = check.name();
        finding.group = check.group();
    }
    let state = match (&examined.findings[..], &examined.skipped) {
        ([], Some(_)) => State::Skipped,
        ([], None) => State::Well,
        _ => State::Found,
    };
    let mut said = examined.well;
    said.extend(examined.skipped);
    let examination = Examination {
        check: check.name(),
        group: check.group(),
        state,
        said,
        seconds,
    };
    (examination, examined.findings)
}

/// The check, unless it is of production and there is none.
fn looking(check: &dyn Check, patient: Arc<Patient>) -> Looking {
    let look = check.examine(patient.clone());
    if !check.only_in_production() {
        return look;
    }
    Box::pin(async move {
        match patient.not_in_production().await {
            Some(why) => Ok(Examined::skipped(why)),
            None => look.await,
        }
    })
}

fn late(limit: Duration) -> Examined {
    Finding::warning(format!(
        "this check was given up after {:.0} s",
        limit.as_secs_f64()
    ))
    .because("what it looks at does not answer, or the host is very busy")
    .remedy("k1ops doctor -vv")
    .into()
}

fn blind(error: &Error) -> Examined {
    Finding::of(error)
        .as_severe_as(super::Severity::Warning)
        .because("this check could not look; that alone says nothing of the stack")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{Group, Severity};

    struct Stuck;

    impl Check for Stuck {
        fn name(&self) -> &'static str {
            "stuck"
        }

        fn group(&self) -> Group {
            Group::Host
        }

        fn limit(&self) -> Duration {
            Duration::from_millis(20)
        }

        fn examine(&self, _: Arc<Patient>) -> Looking {
            Box::pin(std::future::pending())
        }
    }

    struct Blind;

    impl Check for Blind {
        fn name(&self) -> &'static str {
            "blind"
        }

        fn group(&self) -> Group {
            Group::Host
        }

        fn examine(&self, _: Arc<Patient>) -> Looking {
            Box::pin(async { Err(Error::missing("no such file").because("cause")) })
        }
    }

    #[tokio::test]
    async fn a_check_that_hangs_or_fails_is_a_finding_of_its_own() {
        let patient = Arc::new(Patient::for_tests());
        let (check, found) = examine(Box::new(Stuck), patient.clone()).await;
        assert_eq!(check.state, State::Found);
        assert_eq!(found[0].check, "stuck");
        assert!(found[0].title.contains("given up"));
        let (_, found) = examine(Box::new(Blind), patient).await;
        assert_eq!(found[0].severity, Severity::Warning);
        assert_eq!(found[0].title, "no such file");
        assert_eq!(found[0].evidence, ["cause"]);
    }
}
