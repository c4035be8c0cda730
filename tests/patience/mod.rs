//! How tests wait: for what is to become so, never for a time.

use std::time::{Duration, Instant};

/// As long as the start of two servers takes on a host that others use as well.
const PATIENCE: Duration = Duration::from_secs(600);

/// Asks again until it is so.
#[track_caller]
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(
            begun.elapsed() < PATIENCE,
            "it does not come to that: {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
