//! The certificates of a stack in production serve their names, and do not end soon.

use crate::adapters::certificates;
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient};
use crate::error::{Context, ErrorKind, Result};
use crate::stack::docker::{Service, tls};
use chrono::Utc;
use std::path::Path;
use std::sync::Arc;

pub(super) struct Certificates;

impl Check for Certificates {
    fn name(&self) -> &'static str {
        "certificates"
    }

    fn group(&self) -> Group {
        Group::Security
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        super::at_files(patient, look)
    }
}

fn look(patient: &Patient) -> Result<Examined> {
    let deployment = patient.deployment()?;
    if !deployment.settings.is_production() {
        return Ok(Examined::skipped("this stack has no certificates"));
    }
    let folder = &deployment.folder;
    let own = patient.stack.config.docker.tls == crate::config::GivenTls::default();
    let mut examined = Examined::default();
    look_at(
        "the authority",
        &tls::authority_file(folder),
        own,
        &mut examined,
    )?;
    for service in tls::with_certificate(deployment.settings.has_gateway()) {
        let name = match service {
            Service::Postgres => "PostgreSQL",
            Service::Gateway => "the gateway",
            _ => "Redis",
        };
        let file = tls::certificate_file(folder, service);
        look_at(name, &file, own, &mut examined)?;
    }
    Ok(examined)
}

fn look_at(whose: &str, file: &Path, own: bool, examined: &mut Examined) -> Result<()> {
    let text = std::fs::read_to_string(file).context_kind(ErrorKind::Missing, || {
        format!("{} cannot be read", file.display())
    })?;
    let end = certificates::end_of(&text)?;
    let days = (end - Utc::now()).num_days();
    let date = end.format("%Y-%m-%d");
    if days > tls::RENEW_DAYS {
        examined.say(format!("{whose}: until {date}"));
        return Ok(());
    }
    let finding = if end <= Utc::now() {
        Finding::problem(
            ErrorKind::Failed,
            format!("the certificate of {whose} has ended on {date}"),
        )
        .because("who verifies it refuses to connect: Conductor and k1ops do")
    } else {
        Finding::warning(format!(
            "the certificate of {whose} ends in {days} days, on {date}"
        ))
        .because("from then on Conductor and k1ops refuse to connect")
    };
    let finding = finding.seen(file.display().to_string());
    examined.find(if own {
        finding.remedy("k1ops harden")
    } else {
        finding
            .advise("Put a new one in place of the files that docker.tls names.")
            .remedy("k1ops harden    # once it is there")
    });
    Ok(())
}
