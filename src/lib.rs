//! k1ops starts a K1 Conductor stack on the best thing a host has, backs it up, proves that the
//! backup restores, and puts everything back after any failure.
//!
//! # Crate map
//!
//! | layer | modules | may use |
//! |---|---|---|
//! | edge | [`cli`], [`commands`] | everything below |
//! | output | [`ui`] | the foundation |
//! | domain | [`demo`], [`doctor`], [`schedule`], [`drill`], [`metrics`], [`validate`], [`notify`], [`audit`], [`harden`], [`upgrade`], [`plan`], [`worker`], [`agent`], [`stack`], [`backup`], [`restore`], [`repository`], [`wal`], [`archive`], [`store`], [`conductor`] | adapters, the foundation |
//! | outside | [`adapters`] | the foundation |
//! | foundation | [`config`], [`event`], [`error`], [`exit_code`], [`interrupt`] | each other |
//!
//! A command parses, opens, plans, shows and executes; the work lives in the domain, which returns
//! values and emits events. Only [`ui`] prints, and only [`adapters`] touch the outside. The test
//! `tests/layers.rs` fails on an import that points upward.

pub mod adapters;
pub mod agent;
pub mod archive;
pub mod audit;
pub mod backup;
pub mod cli;
pub mod commands;
pub mod conductor;
pub mod config;
pub mod demo;
pub mod doctor;
pub mod drill;
pub mod error;
pub mod event;
pub mod exit_code;
pub mod harden;
pub mod interrupt;
pub mod metrics;
pub mod notify;
pub mod plan;
pub mod repository;
pub mod restore;
pub mod schedule;
pub mod stack;
pub mod store;
pub mod ui;
pub mod upgrade;
pub mod validate;
pub mod wal;
pub mod worker;

pub use cli::run;
