//! Host, containers and database agree on the time, and on the zone in which times without one are
//! written.

use super::{name_in_sql, quoted, target};
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient};
use crate::error::{Context, ErrorKind, Result};
use crate::stack::docker::Service;
use chrono::{DateTime, TimeDelta, Utc};
use std::sync::Arc;
use std::time::Duration;

/// Clocks that are further apart than this tell the order of things wrongly.
const APART: TimeDelta = TimeDelta::seconds(2);
const UTC: [&str; 6] = ["UTC", "Etc/UTC", "GMT", "Etc/GMT", "Zulu", "Etc/UCT"];

pub(super) struct Clock;

impl Check for Clock {
    fn name(&self) -> &'static str {
        "clock"
    }

    fn group(&self) -> Group {
        Group::Host
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        Box::pin(async move { look(&patient).await })
    }
}

async fn look(patient: &Patient) -> Result<Examined> {
    let mut examined = Examined::default();
    went_back(patient, &mut examined)?;
    of_database(patient, &mut examined).await?;
    of_container(patient, &mut examined).await?;
    if examined.findings.is_empty() && examined.well.is_empty() {
        examined.say("nothing here was made in the future");
    }
    Ok(examined)
}

/// Archives and servers of the future mean that the host's clock was set back, or is behind.
fn went_back(patient: &Patient, examined: &mut Examined) -> Result<()> {
    let newest = patient
        .archives()?
        .iter()
        .filter(|e| e.state.is_good())
        .find_map(|e| e.time);
    let Some(newest) = newest.filter(|newest| *newest > Utc::now() + APART) else {
        return Ok(());
    };
    examined.find(
        Finding::warning("the newest archive is from the future")
            .seen(format!("archive: {newest}; host: {}", Utc::now()))
            .because("the host's clock is behind, or was set back; `latest` may not be the latest")
            .remedy("timedatectl status"),
    );
    Ok(())
}

async fn of_database(patient: &Patient, examined: &mut Examined) -> Result<()> {
    let Some(session) = patient.session_if_any().await else {
        return Ok(());
    };
    let row = session
        .query_one("SELECT clock_timestamp(), current_setting('TimeZone')", &[])
        .await
        .context(|| "the database does not tell the time")?;
    let (theirs, zone): (DateTime<Utc>, String) = (row.get(0), row.get(1));
    differ("the database's clock", theirs, examined);
    let address = patient.database()?;
    if !UTC.contains(&zone.as_str()) {
        let database = address.database().to_owned();
        let set = format!(
            "ALTER DATABASE {} SET timezone = 'UTC'",
            name_in_sql(&database)
        );
        examined.find(
            Finding::warning(format!(
                "database {database} writes times in the zone {zone}"
            ))
            .because(
                "Conductor's and K1's times have no zone and are meant in UTC; rows that other \
                     programs write are off by the difference",
            )
            .remedy(format!(
                "psql {} -c {}",
                target(address.shown()),
                quoted(&set)
            )),
        );
    }
    if examined.findings.is_empty() {
        examined.say(format!("the database's clock agrees, its zone is {zone}"));
    }
    Ok(())
}

async fn of_container(patient: &Patient, examined: &mut Examined) -> Result<()> {
    if !patient.service_runs(Service::Server).await {
        return Ok(());
    }
    let Some(engine) = patient.engine_soon().await else {
        return Ok(());
    };
    let deployment = patient.deployment()?;
    let Some(container) = deployment.container(&engine, Service::Server).await? else {
        return Ok(());
    };
    let name = container.name;
    let patience = Duration::from_secs(2);
    let said = engine
        .run_inside(&name, "", &["date", "+%s %z"], b"", patience)
        .await?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let Some((seconds, zone)) = said.trim().split_once(' ') else {
        return Ok(());
    };
    let theirs = seconds
        .parse()
        .ok()
        .and_then(|s| DateTime::from_timestamp(s, 0));
    if let Some(theirs) = theirs {
        differ(&format!("the clock of container {name}"), theirs, examined);
    }
    if zone != "+0000" {
        examined.find(
            Finding::warning(format!("container {name} runs in the zone {zone}"))
                .because("its log tells other times than those of the host and the database")
                .advise("Remove TZ and mounts of /etc/localtime from docker-compose.yaml."),
        );
    }
    Ok(())
}

fn differ(whose: &str, theirs: DateTime<Utc>, examined: &mut Examined) {
    let apart = theirs - Utc::now();
    if apart.abs() <= APART {
        return;
    }
    examined.find(
        Finding::problem(
            ErrorKind::Failed,
            format!("{whose} is {} s off the host's", apart.num_seconds()),
        )
        .because("timeouts, schedules and the order of archives go by the clock")
        .remedy("timedatectl status"),
    );
}
