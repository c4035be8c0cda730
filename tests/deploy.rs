//! What is handed to other programs to run a stack: the Helm chart, judged by Helm and by the types of Kubernetes, and
//! Grafana's dashboards, judged by those of Grafana. No cluster is here to run the chart.
//!
//! `scripts/test` builds the judges: see `scripts/lib/cluster_tools.sh`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

mod said;

use said::{assert_code, text};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const VALUES: [&str; 3] = ["values.yaml", "ci/small.yaml", "ci/external.yaml"];

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy")
        .join(name)
}

/// A program that `scripts/test` has built.
fn judge(name: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let cache = std::env::var("XDG_CACHE_HOME").map_or_else(
        |_| PathBuf::from(std::env::var("HOME").unwrap()).join(".cache"),
        PathBuf::from,
    );
    let built = cache.join("k1ops/tools/bin");
    let mut command = Command::new(name);
    command.env("PATH", format!("{}:{path}", built.display()));
    command
}

fn helm(arguments: &[&str]) -> Output {
    let run = judge("helm").args(arguments).output();
    run.unwrap_or_else(|error| panic!("helm: {error}; scripts/test builds it"))
}

fn template(values: &str, set: &[&str]) -> Output {
    let (chart, values) = (deploy("helm/k1"), deploy("helm/k1").join(values));
    let (chart, values) = (chart.display().to_string(), values.display().to_string());
    let words = [
        "template",
        "r",
        &chart,
        "--kube-version",
        "1.34",
        "-f",
        &values,
    ];
    let set = set.iter().flat_map(|one| ["--set", one]);
    helm(&words.into_iter().chain(set).collect::<Vec<_>>())
}

fn rendered(values: &str, set: &[&str]) -> String {
    let output = template(values, set);
    assert_code(&output, 0);
    String::from_utf8(output.stdout).unwrap()
}

fn decoded(manifests: &str) -> Output {
    let mut child = judge("k1ops-manifests")
        .arg("kubernetes")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("k1ops-manifests: {error}; scripts/test builds it"));
    let mut input = child.stdin.take().unwrap();
    input.write_all(manifests.as_bytes()).unwrap();
    drop(input);
    child.wait_with_output().unwrap()
}

#[test]
fn helm_and_the_types_of_kubernetes_take_the_chart() {
    let chart = deploy("helm/k1").display().to_string();
    for values in VALUES {
        let file = deploy("helm/k1").join(values).display().to_string();
        let words = ["lint", "--strict", &chart, "-f", &file];
        let linted = helm(&words);
        assert_code(&linted, 0);
        let found = decoded(&rendered(values, &[]));
        assert_code(&found, 0);
        let found = text(&found);
        let has = |what: &str| found.lines().any(|line| line == what);
        let is_external = values == "ci/external.yaml";
        assert!(has("Deployment/r-k1-conductor"), "{found}");
        assert_eq!(has("StatefulSet/r-k1-postgresql"), !is_external, "{found}");
        assert_eq!(has("Secret/r-k1-database"), !is_external, "{found}");
        assert_eq!(has("Ingress/r-k1"), is_external, "{found}");
        assert_eq!(
            has("CronJob/r-k1-backup"),
            values != "values.yaml",
            "{found}"
        );
        assert_eq!(
            has("NetworkPolicy/r-k1-conductor"),
            values != "ci/small.yaml",
            "{found}"
        );
    }
    // The judge does judge.
    let wrong = rendered("values.yaml", &[]).replace("replicas: 2", "replicaz: 2");
    let refused = decoded(&wrong);
    assert_code(&refused, 1);
    assert!(
        text(&refused).contains("spec.replicaz"),
        "{}",
        text(&refused)
    );
}

#[test]
fn values_that_cannot_work_are_refused_before_anything_is_installed() {
    for (set, named) in [
        ("conductor.replicas=0", "replicas"),
        ("conductor.heap=lots", "heap"),
        ("conductor.image.tag=a b", "tag"),
        ("postgresql.enabled=false", "host"),
        ("redis.enabled=false", "url"),
        ("backup.enabled=true", "url"),
        ("ingress.enabled=true", "host"),
        ("backup.recipients[0]=age1$(x)", "recipients"),
        ("database.user=a\" b", "user"),
        ("unknown=1", "unknown"),
    ] {
        let refused = template("values.yaml", &[set]);
        assert_code(&refused, 1);
        assert!(text(&refused).contains(named), "{set}: {}", text(&refused));
    }
}

#[test]
fn every_container_is_shut_and_no_password_is_in_the_open() {
    for values in VALUES {
        let all = rendered(values, &[]);
        let containers = all.matches("imagePullPolicy:").count();
        for line in [
            "readOnlyRootFilesystem: true",
            "allowPrivilegeEscalation: false",
            "capabilities: {drop: [ALL]}",
        ] {
            assert_eq!(all.matches(line).count(), containers, "{values}: {line}");
        }
        assert_eq!(all.matches("memory: ").count(), containers * 2, "{values}");
        let pods = all.matches("runAsNonRoot: true").count();
        assert_eq!(
            all.matches("automountServiceAccountToken: false").count(),
            pods
        );
        assert!(
            !all.contains("secretKeyRef"),
            "a password would be in a variable"
        );
    }
    let own = rendered("values.yaml", &["database.existingSecret=mine"]);
    assert!(own.contains("name: mine") && !own.contains("postgres-password: "));
}

/// The chart and the Swarm stack tell Conductor what k1ops tells several servers, but for what is secret.
#[test]
fn conductor_is_told_what_k1ops_tells_it() {
    let folder = tempfile::tempdir().unwrap();
    let settings = "tier = 'docker'\n[docker]\nservers = 2\n";
    std::fs::write(folder.path().join("k1ops.toml"), settings).unwrap();
    let init = Command::new(env!("CARGO_BIN_EXE_k1ops"))
        .arg("init")
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert_code(&init, 0);
    let secrets = folder.path().join(".conductor/docker/secrets");
    let told = std::fs::read_to_string(secrets.join("conductor.properties")).unwrap();
    let mut told = properties(&told);
    for secret in [
        "spring.datasource.password",
        "conductor.redis-lock.serverPassword",
    ] {
        assert!(told.remove(secret).is_some(), "{secret}");
    }
    let swarm = std::fs::read_to_string(deploy("swarm/conductor.properties")).unwrap();
    assert_eq!(properties(&swarm), told);
    let chart = rendered("values.yaml", &[]);
    let begin = "conductor.properties: |\n";
    let chart = &chart[chart.find(begin).unwrap() + begin.len()..];
    let lines = chart.lines().take_while(|line| line.starts_with("    "));
    let chart = lines.collect::<Vec<_>>().join("\n");
    let chart = chart
        .replace("r-k1-postgresql:", "postgres:")
        .replace("r-k1-redis:", "redis:");
    assert_eq!(properties(&chart), told);
}

fn properties(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.trim().split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn grafanas_own_types_take_every_dashboard() {
    let folder = deploy("monitoring/dashboards");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    let shown = judge("k1ops-manifests")
        .arg("dashboard")
        .args(&files)
        .output()
        .unwrap();
    assert_code(&shown, 0);
    let titles = "K1 backups\nK1 Conductor\nK1 PostgreSQL\nK1 Redis\n";
    assert_eq!(text(&shown), titles);
    let wrong = tempfile::NamedTempFile::new().unwrap();
    let dashboard = std::fs::read_to_string(&files[0]).unwrap();
    std::fs::write(&wrong, dashboard.replacen("\"gridPos\"", "\"gridPoz\"", 1)).unwrap();
    let refused = judge("k1ops-manifests")
        .arg("dashboard")
        .arg(wrong.path())
        .output()
        .unwrap();
    assert_code(&refused, 1);
    assert!(text(&refused).contains("gridPoz"), "{}", text(&refused));
}
