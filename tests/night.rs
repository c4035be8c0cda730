//! The short form of `scripts/night`: a schedule while the repository goes away, its disk fills up and
//! runs are killed. The long form does the same by the clock, with a real cron and a daemon.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::path::Path;
use std::process::Command;

#[test]
fn a_quick_night_is_a_good_one() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/night");
    let output = Command::new(script)
        .arg("--quick")
        .env("K1OPS_NIGHT_BINARY", env!("CARGO_BIN_EXE_k1ops"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complained}");
    assert!(said.contains("a good night"), "{said}");
}
