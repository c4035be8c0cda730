//! One contract for both K1 stores: the same tests over a real PostgreSQL and over SQLite, and the
//! same generated data compared row by row.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may stop at the first surprise, their helpers too"
)]

/// Runs every contract over both kinds of store.
macro_rules! contracts {
    ($($contract:ident),+ $(,)?) => {
        mod postgres {
            use crate::bed::{Bed, runtime};
            $(#[test] fn $contract() {
                runtime().block_on(super::$contract(Bed::postgres()));
            })+
        }
        mod sqlite {
            use crate::bed::{Bed, runtime};
            $(#[test] fn $contract() {
                runtime().block_on(super::$contract(Bed::sqlite()));
            })+
        }
    };
}
pub(crate) use contracts;

mod bed;
mod generated;
mod opening;
mod questions;
mod recording;
mod sqlite;
#[path = "../support/mod.rs"]
mod support;
mod takeover;
