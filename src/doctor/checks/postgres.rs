//! The stack's `PostgreSQL` can be reached, lets this login in, has the database, and is no version
//! that this k1ops was never run on.

use super::{quoted, target};
use crate::adapters::port;
use crate::adapters::postgres::{Address, server_message};
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient};
use crate::error::{Error, ErrorKind, Result};
use std::path::Path;
use std::sync::Arc;

/// The oldest version that Conductor's drivers and this k1ops were run on.
const OLDEST: u32 = 12;
/// Percent of the connections in use that is worth a look.
const CROWDED: i64 = 85;

pub(super) struct Postgres;

impl Check for Postgres {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn group(&self) -> Group {
        Group::Database
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        Box::pin(async move { look(&patient).await })
    }
}

async fn look(patient: &Patient) -> Result<Examined> {
    if !patient.stack.uses_database_url() {
        return Ok(Examined::skipped(
            "this stack keeps its data in SQLite, or was never started",
        ));
    }
    if !patient.has_running_postgres().await {
        return Ok(Examined::skipped(
            "tier 1 is stopped, and its PostgreSQL with it",
        ));
    }
    let address = match patient.database() {
        Ok(address) => address,
        Err(error) => {
            return Ok(Finding::of(&error)
                .remedy("k1ops doctor --config | grep database")
                .into());
        }
    };
    let session = match patient.session().await {
        Ok(session) => session,
        Err(error) => return Ok(explained(patient, &address, &error).into()),
    };
    let row = session
        .query_one(
            "SELECT current_setting('server_version'), current_setting('server_version_num')::int \
             / 10000, pg_is_in_recovery(), (SELECT sum(numbackends)::bigint \
             FROM pg_stat_database), current_setting('max_connections')::bigint",
            &[],
        )
        .await
        .map_err(|error| {
            Error::failed(format!(
                "PostgreSQL says nothing of itself: {}",
                server_message(&error)
            ))
        })?;
    let (version, major): (String, i32) = (row.get(0), row.get(1));
    let (standby, used, most): (bool, i64, i64) = (row.get(2), row.get(3), row.get(4));
    let mut examined = Examined::default();
    if standby {
        examined.find(
            Finding::problem(
                ErrorKind::Missing,
                "PostgreSQL is a standby, which takes no writes",
            )
            .seen(address.shown())
            .because("Conductor needs the primary")
            .advise("Let database.url name the primary, and database.standby this server, which backups then read; or promote it.")
            .remedy(format!(
                "psql {} -c 'SELECT pg_promote()'",
                target(address.shown())
            )),
        );
    }
    if u32::try_from(major).unwrap_or(0) < OLDEST {
        examined.find(
            Finding::warning(format!("PostgreSQL {version} is older than {OLDEST}"))
                .because("its own support has ended, and Conductor is not tested on it"),
        );
    }
    if used * 100 >= most * CROWDED {
        examined.find(
            Finding::warning(format!(
                "{used} of PostgreSQL's {most} connections are in use"
            ))
            .because("each Conductor takes ten, and a backup a few; further ones are refused")
            .remedy(format!(
                "psql {} -c 'SELECT usename, application_name, count(*) FROM pg_stat_activity \
                     GROUP BY 1, 2 ORDER BY 3 DESC'",
                target(address.shown())
            )),
        );
    }
    if examined.findings.is_empty() {
        examined.say(format!(
            "PostgreSQL {version} at {}:{}, {used} of {most} connections in use",
            address.host(),
            address.port()
        ));
    }
    Ok(examined)
}

/// Why it cannot be used, with the remedy that fits the reason.
fn explained(patient: &Patient, address: &Address, error: &Error) -> Finding {
    let said = error.to_string();
    let (host, port, user) = (address.host(), address.port(), address.user().to_owned());
    let database = address.database().to_owned();
    let server = format!("-h {} -p {port}", quoted(&host));
    let finding = Finding::of(error);
    if said.contains("does not exist at") {
        return finding
            .because("the server runs and lets this login in, but has no database of this name")
            .remedy(format!(
                "createdb {server} -U {} {}",
                quoted(&user),
                quoted(&database)
            ));
    }
    if said.contains("refused the login") {
        let file = &patient.stack.config.database.password_file;
        let place = if address.password().is_none() {
            "no password is configured".to_owned()
        } else if file.as_os_str().is_empty() {
            "the password is the one in database.url".to_owned()
        } else {
            format!(
                "the password was read from {}",
                patient.stack.base.join(file).display()
            )
        };
        return finding
            .seen(place)
            .because("the server has another password for this user, or does not know it")
            .remedy(format!("psql {server} -U postgres -c '\\password {user}'"));
    }
    if said.contains("does not answer") {
        let is_here = host == "127.0.0.1" || host == "localhost" || Path::new(&host).is_absolute();
        let listening = port::listening_on(&[port]);
        let finding = match listening.first() {
            Some(other) if is_here => finding.seen(format!(
                "something listens on {}: {}",
                other.place(),
                other
                    .holder
                    .as_ref()
                    .map_or("unseen", |h| h.command.as_str())
            )),
            None if is_here => finding.seen(format!("nothing listens on port {port} of this host")),
            _ => finding,
        };
        let finding = finding.because("the server does not run, or listens elsewhere");
        let ask = format!("pg_isready {server}");
        return if patient.stack.is_in_docker().unwrap_or(false) {
            finding.remedy("k1ops start").remedy(ask)
        } else if is_here {
            finding
                .remedy("sudo systemctl start postgresql")
                .remedy(ask)
        } else {
            finding.remedy(ask)
        };
    }
    finding
        .because("the server runs, but does not take this connection now")
        .remedy(format!("pg_isready {server}"))
}
