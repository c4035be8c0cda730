//! A Conductor server: its REST API, its properties and its honest health. It knows nothing of
//! tiers, processes or containers.

mod client;
pub mod health;
pub mod properties;

pub use client::Client;
