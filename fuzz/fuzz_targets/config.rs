//! Any text as `k1ops.toml`, and as the address of a database.

#![no_main]

use k1ops::adapters::postgres::Address;
use k1ops::config::{Overrides, Secret, load};
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;

fuzz_target!(|text: &str| {
    let _ = Address::parse(&Secret::new(text), None);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("k1ops.toml"), text).unwrap();
    let overrides = Overrides {
        file: None,
        stack: None,
        tier: None,
        identity: None,
    };
    let _ = load(&overrides, &BTreeMap::new(), folder.path());
});
