//! A Conductor server: its REST API and its honest health. It knows nothing of tiers, processes or
//! containers.

mod client;

pub use client::Client;
