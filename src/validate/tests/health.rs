//! Test 7: every endpoint answers while all is well; and when the database is not there, health says
//! so. It breaks the database, so it comes last.

use super::super::Finding;
use super::super::rig::Rig;
use crate::adapters::sqlite;
use crate::conductor::health::{self, Health};
use crate::error::{Context, Error, Result};
use crate::stack::{Tier, docker};
use std::time::{Duration, Instant};

/// What a server must answer with 200 while it is well.
const ENDPOINTS: [&str; 6] = [
    "/health",
    "/actuator/health",
    "/actuator/prometheus",
    "/api/metadata/taskdefs",
    "/api/metadata/workflow/names-and-versions",
    "/api/workflow/search?start=0&size=1&freeText=*",
];
/// One answer.
const ANSWER: Duration = Duration::from_secs(10);
/// One answer about a database that is gone: the server tries to connect for half a minute.
const ANSWER_WITHOUT: Duration = Duration::from_secs(40);
/// How long the server may believe in it.
const UNTIL_TOLD: Duration = Duration::from_secs(30);

pub(super) async fn run(rig: &mut Rig) -> Result<Finding> {
    if rig.tier == Tier::Direct {
        return Err(Error::missing(
            "tier 3 has no server whose health could be asked",
        ));
    }
    let mut finding = Finding::default();
    let client = rig.client()?;
    for endpoint in ENDPOINTS {
        let answer = client.probe(endpoint, ANSWER).await;
        let status = answer.map_or_else(|error| error.to_string(), |(code, _)| code.to_string());
        finding.expect(status == "200", || format!("{endpoint} answers {status}"));
    }
    let said = rig.k1ops(&["status"]).await?;
    finding.expect(said.code == Some(0), || {
        format!("k1ops status ends with {:?} while all is well", said.code)
    });
    rig.stop_worker().await?;
    break_database(rig).await?;
    let begun = Instant::now();
    let told = loop {
        let health = health::check(&client, ANSWER_WITHOUT).await;
        if matches!(health, Health::Down { .. }) || begun.elapsed() > UNTIL_TOLD {
            break health;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    finding.figure("seconds_until_told", begun.elapsed().as_secs_f64());
    finding.expect(matches!(told, Health::Down { .. }), || {
        "the database is not there, and health does not say so".to_owned()
    });
    let said = rig.k1ops(&["status"]).await?;
    finding.expect(said.code == Some(1), || {
        format!(
            "the database is not there, and k1ops status ends with {:?}",
            said.code
        )
    });
    Ok(finding)
}

/// Tier 1: the database is stopped. Tier 2: a file cannot be stopped, so its tables are taken away,
/// which for the server is the same: no query can be answered.
async fn break_database(rig: &Rig) -> Result<()> {
    if rig.tier == Tier::Docker {
        return rig.kill_containers(&[docker::Service::Postgres]).await;
    }
    let path = rig.stack.conductor_db();
    let taken = sqlite::open_existing(&path)?.execute_batch(
        "PRAGMA foreign_keys = OFF;
         BEGIN IMMEDIATE;
         DROP TABLE meta_task_def;
         DROP TABLE meta_workflow_def;
         DROP TABLE workflow;
         DROP TABLE task;
         COMMIT",
    );
    taken.context(|| format!("the tables of {} cannot be taken away", path.display()))
}
