//! Uploads that are killed at random: nobody ever sees an archive that is not whole, and what is
//! left in the store goes with the next backup.
//!
//! `K1OPS_TEST_KILLS` says how often; `scripts/kills` does it a hundred times.

use crate::commands::filled;
use crate::scratch::Scratch;
use crate::servers::{MAKES, Server};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub fn times() -> u32 {
    let wanted = std::env::var("K1OPS_TEST_KILLS").ok();
    wanted.and_then(|text| text.parse().ok()).unwrap_or(10)
}

/// Runs a command, and kills it after some time unless it has ended; answers whether it was killed.
pub fn killed_after(scratch: &Scratch, arguments: &[&str], after: Duration) -> bool {
    let mut child = Command::new(env!("CARGO_BIN_EXE_k1ops"))
        .current_dir(scratch.path())
        .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while begun.elapsed() < after {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap().code().is_none()
}

/// Runs a command that takes `usual` again and again, each time to a random moment, until it was killed as
/// often as it is to be; `around` is told before and after each run.
pub fn kill_at_random(
    scratch: &Scratch,
    arguments: &[&str],
    mut usual: Duration,
    mut around: impl FnMut(Moment),
) {
    let (mut killed, mut runs) = (0, 0);
    while killed < times() {
        assert!(runs < times() * 10, "it is not killed: {killed} of {runs}");
        around(Moment::Before);
        let after = usual.mul_f64(fastrand::f64() * 1.1);
        let begun = Instant::now();
        if killed_after(scratch, arguments, after) {
            killed += 1;
        } else {
            // A host that was busy when this was measured need not be so any more.
            usual = begun.elapsed();
        }
        runs += 1;
        around(Moment::After);
    }
    println!("{killed} of {runs} runs were killed");
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    Before,
    After,
}

#[test]
fn nobody_sees_an_archive_that_is_not_whole() {
    for make in MAKES {
        let server = Server::start(make);
        let scratch = server.stack();
        filled(&scratch);
        let begun = Instant::now();
        scratch.run(&["backup"]).done();
        let usual = begun.elapsed();
        let mut leftovers = 0;
        kill_at_random(&scratch, &["backup"], usual, |moment| {
            if moment == Moment::Before {
                return;
            }
            leftovers += server.uploads().len();
            let listed = scratch.run(&["list", "--json"]).done().json();
            let archives = listed["archives"].as_array().unwrap();
            let good = |state: &str| archives.iter().filter(|a| a["state"] == state).count();
            assert_eq!(
                good("good") + good("incomplete"),
                archives.len(),
                "{listed}"
            );
            assert!(
                good("incomplete") <= 1,
                "the next backup removes it: {listed}"
            );
        });
        println!("{make:?}: {leftovers} uploads were left");
        scratch.run(&["backup"]).done();
        assert_eq!(server.uploads(), [""; 0]);
        let objects = server.objects();
        assert!(
            !objects.iter().any(|name| has_end(name, "lock")),
            "{objects:?}"
        );
        for name in objects.iter().filter(|name| has_end(name, "tar")) {
            let name = name.rsplit_once('/').unwrap().1;
            scratch.run(&["verify", name]).done();
        }
    }
}

fn has_end(name: &str, end: &str) -> bool {
    std::path::Path::new(name)
        .extension()
        .is_some_and(|found| found == end)
}
