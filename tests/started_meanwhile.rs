//! A backup of a stopped stack that somebody starts meanwhile: neither is spoilt by the other.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise, in its helpers as well"
)]

mod bench;
mod patience;

use bench::{Bench, assert_code, assert_says, docker_out, testbed};
use k1ops::adapters::fs::Lock;
use patience::until;
use std::process::Stdio;

fn runs(bench: &Bench, service: &str) -> bool {
    let name = format!("name=^{}$", bench.container(service));
    !docker_out(&["ps", "-q", "--filter", &name]).is_empty()
}

#[test]
fn the_database_goes_on_for_who_starts_the_stack() {
    let bench = Bench::new();
    bench.json(&["start", "--wait=false"], 0);
    bench.json(&["stop"], 0);
    // As a start holds it, from before it looks at the database until its server is up.
    let place = bench.folder.path().join(".conductor/run/server.lock");
    let starting = Lock::exclusive(&place, "a start").unwrap();
    bench.json(&["backup"], 0);
    assert!(runs(&bench, "postgres"));
    drop(starting);
    // Nobody starts it now, and nobody uses it.
    bench.json(&["stop"], 0);
    bench.json(&["backup"], 0);
    assert!(!runs(&bench, "postgres"));
}

#[test]
fn a_volume_that_is_written_to_while_it_is_copied_as_files_is_no_backup() {
    let bench = Bench::with("[repository]\nbandwidth = '20 MB/s'");
    bench.json(&["start", "--wait=false"], 0);
    bench.json(&["stop"], 0);
    let volume = format!("{}_redis_data", bench.prefix);
    let mount = format!("{volume}:/data");
    let image = testbed("POSTGRES_IMAGE");
    let run = ["run", "--rm", "--network=none", "--entrypoint", "sh", "-v"];
    let much = ["-c", "head -c 300M /dev/urandom > /data/much"];
    docker_out(&[&run[..], &[&mount, &image], &much].concat());

    let said = bench.folder.path().join("said.txt");
    let mut backup = bench.command(&["backup"]);
    backup.stderr(std::fs::File::create(&said).unwrap());
    let mut backup = backup.stdout(Stdio::null()).spawn().unwrap();
    let at_it = format!("copying volume {volume}: ");
    until("the volume is copied", || {
        std::fs::read_to_string(&said).unwrap().contains(&at_it)
    });
    docker_out(&["start", &bench.container("redis")]);
    assert_eq!(backup.wait().unwrap().code(), Some(1));
    let said = std::fs::read_to_string(&said).unwrap();
    assert!(said.contains("which was started meanwhile"), "{said}");
    assert_eq!(
        bench.json(&["list"], 0)["archives"]
            .as_array()
            .unwrap()
            .len(),
        0
    );

    // Of what runs, a snapshot is taken.
    docker_out(&["exec", &bench.container("redis"), "rm", "/data/much"]);
    let output = bench.run(&["backup"]);
    assert_code(&output, 0);
    assert_says(&output, "redis");
    bench.json(&["stop"], 0);
}
