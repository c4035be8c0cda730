//! A configuration that somebody made on purpose: names of hosts, images and stacks that are options,
//! commands, lines of another file or ways out of a folder. Each is refused with exit code 2, says which
//! value it is, and no other program is run before.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise, in its helpers as well"
)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// What k1ops would run, or might.
const PROGRAMS: [&str; 10] = [
    "docker",
    "docker-compose",
    "ssh",
    "sftp",
    "pg_dump",
    "psql",
    "java",
    "sh",
    "rm",
    "touch",
];

/// Names that are none.
const NAMES: [&str; 9] = [
    "-oProxyCommand=touch evil",
    "--help",
    "x;touch evil",
    "x\nK1_SERVER_IMAGE=evil",
    "$(touch evil)",
    "`touch evil`",
    "../../evil",
    "a/../../evil",
    "x y",
];

/// Hosts that are none.
const HOSTS: [&str; 6] = [
    "-oProxyCommand=touch evil",
    "-oProxyCommand=touch",
    "x;touch",
    "x\nHost",
    "$(touch)",
    "`touch`",
];

fn trap(folder: &Path) -> String {
    let bin = folder.join("bin");
    std::fs::create_dir(&bin).unwrap();
    for name in PROGRAMS {
        let file = bin.join(name);
        let ran = folder.join("ran");
        let text = format!("#!/bin/dash\necho {name} >> {}\nexit 1\n", ran.display());
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    bin.display().to_string()
}

#[track_caller]
fn refused(key: &str, value: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = trap(folder.path());
    let home = folder.path().join("home");
    std::fs::create_dir(&home).unwrap();
    let (table, last) = key.rsplit_once('.').unwrap_or(("", key));
    let heading = if table.is_empty() {
        String::new()
    } else {
        format!("[{table}]\n")
    };
    let told = format!("{heading}{last} = {}\n", toml::Value::from(value));
    std::fs::write(home.join("k1ops.toml"), &told).unwrap();
    for arguments in [
        &["init"][..],
        &["start"],
        &["backup"],
        &["status"],
        &["harden", "--yes"],
        &["worker"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_k1ops"))
            .args(arguments)
            .current_dir(&home)
            .env("PATH", &path)
            .env("K1OPS_CACHE", folder.path().join("cache"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            output.status.code(),
            Some(2),
            "{told} {arguments:?}: {said}"
        );
        let named = said.contains(key) || (key == "stack" && said.contains("stack name"));
        assert!(named, "{told} {arguments:?}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
    let ran = std::fs::read_to_string(folder.path().join("ran")).unwrap_or_default();
    assert_eq!(ran, "", "{told} had a program run");
    let left: Vec<_> = std::fs::read_dir(&home).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{told} left {left:?}");
}

#[test]
fn names_that_are_something_else_are_refused() {
    for key in [
        "stack",
        "docker.prefix",
        "docker.postgres_image",
        "docker.redis_image",
        "docker.elasticsearch_image",
        "docker.java_image",
        "docker.gateway.image",
        "docker.monitoring.prometheus_image",
        "docker.monitoring.grafana_image",
        "server.version",
        "server.heap",
    ] {
        for name in NAMES {
            // Images have folders of their own.
            refused(key, name);
        }
    }
}

#[test]
fn hosts_that_are_something_else_are_refused() {
    for host in HOSTS {
        refused("database.url", &format!("postgres://u@{host}/d"));
        refused("database.url", &format!("postgres://u:p@h,{host}/d"));
        refused("repository.url", &format!("sftp://{host}/folder"));
        refused("repository.url", &format!("sftp://me@{host}/folder"));
        refused("repository.url", &format!("s3://{host}/folder"));
        refused(
            "docker.gateway.issuer",
            &format!("https://{host}/realms/k1"),
        );
    }
    refused("repository.url", "sftp://-oProxyCommand=touch@host/folder");
    refused("database.url", "postgres://u@h/d\nsslmode=disable");
    refused(
        "docker.gateway.issuer",
        "https://id.example.org/\"\nupstreams = [",
    );
    refused("docker.gateway.issuer", "https://id.example.org/../x");
    refused("docker.gateway.issuer", "http://id.example.org/");
}

/// What is usual is not.
#[test]
fn a_plain_configuration_is_not_refused() {
    let home = tempfile::tempdir().unwrap();
    let told = "stack = 'a-1'\n[docker]\nprefix = 'a_1'\npostgres_image = 'r.example.org:5000/p/q:15@sha256:00'\n\
                [repository]\nurl = 'sftp://me@host.example.org:22/a folder'\n\
                [database]\nurl = 'postgres://u:p@h1:1,h2/d?sslmode=disable'\n";
    std::fs::write(home.path().join("k1ops.toml"), told).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_k1ops"))
        .args(["doctor", "--config"])
        .current_dir(home.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
}
