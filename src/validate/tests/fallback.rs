//! Test 2: what `k1ops start` falls back to. It has a stack of its own beside the one under test.

use super::super::Finding;
use super::super::rig::Rig;
use crate::conductor::{Client, health};
use crate::error::{Context, Result};
use std::time::Duration;

/// An engine that is not there.
const NO_DOCKER: (&str, &str) = ("DOCKER_HOST", "unix:///nowhere/docker.sock");

pub(super) async fn run(rig: &mut Rig) -> Result<Finding> {
    let mut finding = Finding::default();
    let port = crate::stack::free_ports()?.conductor.to_string();
    let own = [
        NO_DOCKER,
        ("K1OPS_STACK", "fallback"),
        ("K1OPS_PORTS_CONDUCTOR", &port),
    ];
    let tried = without_docker(rig, &own, &mut finding).await;
    let stopped = rig.k1ops_with(&["stop"], &own).await;
    tried?;
    stopped?.done("stop")?;
    without_java(rig, &own, &mut finding).await?;
    Ok(finding)
}

async fn without_docker(rig: &Rig, own: &[(&str, &str)], finding: &mut Finding) -> Result<()> {
    let said = rig.k1ops_with(&["start", "--tier", "auto"], own).await?;
    finding.expect(said.code == Some(0) && said.json["tier"] == "jar", || {
        format!(
            "without Docker, k1ops start ended with {:?} on tier {} instead of 0 on tier 2",
            said.code, said.json["tier"]
        )
    });
    let passed_over = said.json["passed_over"][0]["tier"] == "docker";
    finding.expect(passed_over, || "tier 1 was not passed over".to_owned());
    let Some(url) = said.json["server"]["url"].as_str() else {
        finding
            .faults
            .push("no server was started without Docker".to_owned());
        return Ok(());
    };
    let health = health::check(&Client::new(url)?, Duration::from_secs(10)).await;
    finding.expect(health.is_up(), || {
        let why = health.reason().unwrap_or_default();
        format!("tier 2 was started and does not answer: {why}")
    });
    let seconds = said.json["seconds"].clone();
    finding.figure("tier_2_seconds", seconds);
    Ok(())
}

/// Java is hidden by naming one that is too old: a stand-in whose release file says so, which is all
/// that is looked at.
async fn without_java(rig: &Rig, own: &[(&str, &str)], finding: &mut Finding) -> Result<()> {
    let home = rig.folder.join("old-java");
    std::fs::create_dir_all(home.join("bin"))
        .and_then(|()| std::fs::write(home.join("bin/java"), ""))
        .and_then(|()| std::fs::write(home.join("release"), "JAVA_VERSION=\"17.0.1\"\n"))
        .context(|| format!("{} cannot be written", home.display()))?;
    let home = home.display().to_string();
    let variables = [own, &[("K1OPS_SERVER_JAVA", home.as_str())]].concat();
    let said = rig
        .k1ops_with(&["start", "--tier", "auto"], &variables)
        .await?;
    finding.expect(
        said.code == Some(1) && said.json["tier"] == "direct",
        || {
            format!(
                "without Java, k1ops start ended with {:?} on tier {} instead of 1 on tier 3",
                said.code, said.json["tier"]
            )
        },
    );
    let how = said.json["instructions"].to_string();
    finding.expect(how.contains("k1ops"), || {
        "tier 3 does not say how to go on".to_owned()
    });
    Ok(())
}
