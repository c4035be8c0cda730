//! What goes to a database over the network is encrypted, and it is known to whom it goes.

use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient};
use crate::error::{Context, Result};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

pub(super) struct Tls;

impl Check for Tls {
    fn name(&self) -> &'static str {
        "tls"
    }

    fn group(&self) -> Group {
        Group::Security
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        Box::pin(async move { look(&patient).await })
    }
}

async fn look(patient: &Patient) -> Result<Examined> {
    let Some(session) = patient.session_if_any().await else {
        return Ok(Examined::skipped("there is no PostgreSQL to ask"));
    };
    let row = session
        .query_one(
            "SELECT inet_client_addr() IS NULL OR inet_client_addr() << '127.0.0.0/8' \
             OR inet_client_addr() = '::1', coalesce(host(inet_server_addr()), ''), \
             coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false)",
            &[],
        )
        .await
        .context(|| "the server does not say how it is reached")?;
    let (local, server, encrypted): (bool, String, bool) = (row.get(0), row.get(1), row.get(2));
    if local || patient.stack.is_in_docker()? {
        return Ok(Examined::well("the database is reached within this host"));
    }
    let url = patient.stack.config.database.url.expose();
    let verified = url.contains("sslmode=verify") || url.contains("sslrootcert=");
    let shown = patient.database()?.shown().replacen(":***@", "@", 1);
    let joined = if shown.contains('?') { '&' } else { '?' };
    Ok(if !encrypted {
        Finding::warning(format!("PostgreSQL at {server} is spoken to without encryption"))
            .seen(shown.clone())
            .because("passwords are protected, but all data passes the network as it is")
            .advise("Switch ssl on in the server, and let database.url ask for it.")
            .remedy(format!(
                "export K1OPS_DATABASE_URL='{shown}{joined}sslmode=verify-full&sslrootcert=/path/to/ca.pem'"
            ))
            .into()
    } else if !verified
        && server
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip != Ipv4Addr::LOCALHOST)
    {
        Finding::note(format!("it is not verified that PostgreSQL at {server} is who it says"))
            .because("the connection is encrypted, but any certificate is taken")
            .remedy(format!(
                "export K1OPS_DATABASE_URL='{shown}{joined}sslmode=verify-full&sslrootcert=/path/to/ca.pem'"
            ))
            .into()
    } else {
        Examined::well("the connection to PostgreSQL is encrypted and verified")
    })
}
