//! `k1ops validate` on tier 1: all seven tests on a real Docker engine.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise, in its helpers as well"
)]

mod bench;

use bench::{Bench, lines_of};

#[test]
fn a_stack_in_containers_is_green_and_nothing_is_left() {
    let bench = Bench::new();
    let report = bench.json(&["validate", "--tier", "docker"], 0);
    let tier = &report["tiers"][0];
    assert_eq!(report["passed"], 7);
    assert_eq!(tier["tier"], "docker");
    let mut tests = tier["tests"].as_array().unwrap().iter();
    let parallel = tests.find(|test| test["name"] == "parallel").unwrap();
    let speedup = parallel["figures"]["speedup"].as_f64().unwrap();
    assert!(speedup >= 3.0, "{speedup}");
    assert!(tier["samples"].as_array().unwrap().len() > 20);
    let format = ["--format".to_owned(), "{{.Names}}".to_owned()];
    let mut left = lines_of(&["ps", "-a"], &format);
    let format = ["--format".to_owned(), "{{.Repository}}".to_owned()];
    left.extend(lines_of(&["images"], &format));
    let is_left = left.iter().any(|name| name.contains("validate"));
    assert!(!is_left, "{left:?}");
}
