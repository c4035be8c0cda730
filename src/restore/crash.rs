//! A hook for tests: dies on the spot, as by `kill -9`, at a named step.
//!
//! `K1OPS_TEST_CRASH_AT=STEP` aborts the process when it comes to STEP, and `STEP:2` when it comes
//! there for the second time. Without the variable nothing happens.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The variable.
pub const VARIABLE: &str = "K1OPS_TEST_CRASH_AT";

/// Every step, in the order in which a restore comes to them.
pub const STEPS: [&str; 13] = [
    "restoring-noted",
    "restored-beside",
    "checked",
    "stop-noted",
    "stopped",
    "swapping-noted",
    "old-moved",
    "sidecars-moved",
    "old-noted",
    "new-moved",
    "swapped-noted",
    "done-noted",
    "abandoned-half",
];

/// Dies here if it is told to.
pub(super) fn point(step: &str) {
    debug_assert!(STEPS.contains(&step), "{step} is not in the list");
    die_if_told(step);
}

/// The same for whoever works around a restore, and has steps of its own.
pub fn die_if_told(step: &str) {
    static VISITS: AtomicUsize = AtomicUsize::new(0);
    let Ok(wanted) = std::env::var(VARIABLE) else {
        return;
    };
    let (name, visit) = wanted.split_once(':').unwrap_or((&wanted, "1"));
    if name == step && VISITS.fetch_add(1, Ordering::SeqCst) + 1 == visit.parse().unwrap_or(1) {
        std::process::abort();
    }
}
