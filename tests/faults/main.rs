//! Faults injected into the real binary on real databases: whatever is killed, cut, filled up or
//! damaged, the old data is there or the new is complete, no archive is good that is not complete,
//! and the next run just works.
//!
//! `scripts/faults --count N --seed N` is the long form; without it 100 faults strike. A seed
//! decides what is done; how far a run was when it was struck depends on the machine as well.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests may stop at the first surprise, and the suite prints what it found"
)]

mod case;
#[path = "../support/cluster.rs"]
mod cluster;
mod container;
mod content;
mod dice;
mod fault;
mod ground;
mod proxy;
mod report;
#[path = "../scratch/mod.rs"]
mod scratch;
#[path = "../support/mod.rs"]
mod support;

use dice::Dice;
use ground::Ground;
use report::Report;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} must be a number"))
    })
}

#[test]
fn nothing_is_lost_and_nothing_is_falsely_good() {
    let wanted = number("K1OPS_FAULTS_COUNT", 100);
    let seed = number("K1OPS_FAULTS_SEED", 20_261_124);
    let workers = number("K1OPS_FAULTS_JOBS", 2).max(1);
    let report = Mutex::new(Report::default());
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| work(&report, &next, seed, wanted));
        }
    });
    let report = report.into_inner().unwrap();
    println!("{}", report.table());
    println!("{}", report.json(seed));
    let stories = report.failures.join("\n\n");
    assert!(report.failures.is_empty(), "{stories}");
    assert!(report.hits() >= wanted, "{} hits", report.hits());
}

/// Plays cases until enough faults have struck.
fn work(report: &Mutex<Report>, next: &AtomicU64, seed: u64, wanted: u64) {
    let mut grounds = vec![Ground::postgres(), Ground::sqlite()];
    let image = container::image();
    grounds.extend(image.as_deref().map(Ground::container));
    while report.lock().unwrap().hits() < wanted {
        let number = next.fetch_add(1, Ordering::SeqCst);
        // What strikes hardly ever must not run for ever.
        assert!(number < wanted * 4 + 100, "too few faults strike");
        let mut dice = Dice::new(seed.wrapping_mul(1_000_003).wrapping_add(number));
        let mut which = usize::from(dice.one_in(3));
        // Asked only where there is one, so that a seed means the same everywhere else.
        if grounds.len() > 2 && dice.one_in(3) {
            which = 2;
        }
        let outcome = case::play(&mut grounds[which], &mut dice);
        let failed = report.lock().unwrap().add(number, &outcome);
        if failed {
            // What is wrong with this ground must not be counted again.
            grounds[which] = match (which, &image) {
                (0, _) => Ground::postgres(),
                (2, Some(image)) => Ground::container(image),
                _ => Ground::sqlite(),
            };
        }
    }
}
