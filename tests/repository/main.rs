//! Repositories: one contract over a folder, two S3 servers of different make and the other stores, the
//! commands on both servers, uploads that are killed, and copies.
//!
//! The servers are moto (Python) and the Versity S3 gateway (Go); `scripts/test` installs them and the others. What
//! the servers hold is asked with boto3, which knows nothing of k1ops.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests may stop at the first surprise, their helpers too, and say what they saw"
)]

mod azure;
#[path = "../support/cluster.rs"]
mod cluster;
mod commands;
mod contract;
mod copies;
mod dav;
mod journey;
mod killed;
mod locked;
mod log;
#[path = "../support/logged_stack.rs"]
mod logged_stack;
#[path = "../scratch/mod.rs"]
mod scratch;
mod servers;
mod sftp;
#[path = "../ssh/mod.rs"]
mod ssh;
#[path = "../support/mod.rs"]
mod support;
