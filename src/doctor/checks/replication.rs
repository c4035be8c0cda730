//! No replication slot is left behind that makes the server keep its log for nobody, and the standby that backups
//! read can be read.

use super::{quoted, size_of, target};
use crate::adapters::postgres::standby::{Position, position};
use crate::adapters::postgres::{Address, Session, quote_literal};
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient, Severity};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::wal::slot_name;
use std::sync::Arc;
use std::time::Duration;

/// A slot that holds more than this fills disks.
const MUCH: i64 = 10 << 30;
/// How long the standby may take to take a connection.
const CONNECT: Duration = Duration::from_secs(3);

pub(super) struct Replication;

impl Check for Replication {
    fn name(&self) -> &'static str {
        "replication"
    }

    fn group(&self) -> Group {
        Group::Database
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        Box::pin(async move { look(&patient).await })
    }
}

async fn look(patient: &Patient) -> Result<Examined> {
    let Some(session) = patient.session_if_any().await else {
        return Ok(Examined::skipped("there is no PostgreSQL to ask"));
    };
    let rows = session
        .query(
            "SELECT slot_name::text, slot_type::text, CASE WHEN pg_is_in_recovery() THEN 0 ELSE \
             coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0) END::bigint \
             FROM pg_replication_slots WHERE NOT active AND NOT temporary",
            &[],
        )
        .await
        .context(|| "the replication slots cannot be read")?;
    let mut examined = Examined::default();
    if let Some(standby) = patient.stack.standby_address()? {
        look_at_standby(&standby, &position(&session).await?, &mut examined).await;
    }
    if rows.is_empty() {
        examined.say("no unused replication slot");
        return Ok(examined);
    }
    let shown = patient.database()?.shown().to_owned();
    for row in rows {
        let (slot, kind, held): (String, String, i64) = (row.get(0), row.get(1), row.get(2));
        let severity = if held > MUCH {
            Severity::Problem
        } else {
            Severity::Warning
        };
        let finding = Finding::problem(
            ErrorKind::Failed,
            format!("replication slot {slot} is not used by anybody"),
        )
        .as_severe_as(severity)
        .seen(format!(
            "a {kind} slot; {} of log are kept for it",
            size_of(u64::try_from(held).unwrap_or(0))
        ))
        .because("the server keeps its log for it until the disk is full");
        if slot == slot_name(&patient.stack.name) {
            let advice = "Receive the log again, or say that it is not to be received any more.";
            let finding = finding.advise(advice).remedy("k1ops wal stream");
            examined.find(finding.remedy("k1ops wal drop-slot"));
            continue;
        }
        let drop = format!("SELECT pg_drop_replication_slot({})", quote_literal(&slot));
        examined.find(
            finding
                .advise("Drop it, unless a replica that is switched off will come back for it.")
                .remedy(format!("psql {} -c {}", target(&shown), quoted(&drop))),
        );
    }
    Ok(examined)
}

async fn look_at_standby(address: &Address, primary: &Position, examined: &mut Examined) {
    let shown = address.shown();
    let asked = tokio::time::timeout(CONNECT, ask(address)).await;
    let standby = match asked {
        Ok(Ok(standby)) => standby,
        Ok(Err(error)) => return examined.find(unread(Finding::of(&error))),
        Err(_) => {
            let seconds = CONNECT.as_secs();
            let what = format!("the standby {shown} does not answer within {seconds} s");
            return examined.find(unread(Finding::problem(ErrorKind::Missing, what)));
        }
    };
    if let Some(why) = standby.is_no_standby_of(Some(primary)) {
        let finding = Finding::problem(ErrorKind::BadData, format!("{shown} {why}"));
        return examined.find(unread(finding).advise(
            "Let database.url name the primary and database.standby a standby of it. Two servers of one cluster that both take writes have parted: settle which one holds.",
        ));
    }
    let behind = standby.behind(primary);
    if !primary.full_pages {
        examined.find(
            Finding::warning(format!(
                "full_page_writes is off, and no physical backup can be taken of the standby {shown}"
            ))
            .because("such backups read the primary instead")
            .remedy("psql -c 'ALTER SYSTEM SET full_page_writes = on' -c 'SELECT pg_reload_conf()' -c CHECKPOINT"),
        );
    }
    match weakness(&standby, shown) {
        Some(finding) => examined.find(finding.seen(format!("{behind} bytes behind"))),
        None => examined.say(format!("the standby {shown} is {behind} bytes behind")),
    }
}

async fn ask(address: &Address) -> Result<Position, Error> {
    position(&Session::open(address).await?).await
}

fn unread(finding: Finding) -> Finding {
    finding
        .as_severe_as(Severity::Warning)
        .because("backups read the primary instead")
}

/// What will get into a backup's way.
fn weakness(standby: &Position, shown: &str) -> Option<Finding> {
    if standby.paused {
        return Some(
            unread(Finding::warning(format!(
                "the standby {shown} replays nothing: it is paused"
            )))
            .remedy(format!(
                "psql {} -c 'SELECT pg_wal_replay_resume()'",
                target(shown)
            )),
        );
    }
    let patience = standby.patience.filter(|_| !standby.feedback)?;
    Some(
        Finding::warning(format!(
            "the standby {shown} cancels what reads it for more than {patience} ms in the way of the replay"
        ))
        .because("hot_standby_feedback is off, so that the primary removes rows which a backup still reads")
        .remedy(format!(
            "psql {} -c 'ALTER SYSTEM SET hot_standby_feedback = on' -c 'SELECT pg_reload_conf()'",
            target(shown)
        )),
    )
}
