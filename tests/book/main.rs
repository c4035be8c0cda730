//! The book in `docs/`: what its pages show is run on real parts and compared, and every link in it leads
//! somewhere.
//!
//! A page whose output has changed on purpose is brought up to date with
//! `SNAPSHOTS=overwrite cargo test --test book PAGE`; read the difference before committing it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may stop at the first surprise, their helpers too"
)]

mod alike;
#[path = "../support/cluster.rs"]
mod cluster;
mod links;
mod page;
mod pages;
mod session;
#[path = "../support/mod.rs"]
mod support;
