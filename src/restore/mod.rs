//! Putting backups back, beside the live data, and undoing that.

pub mod physical;
pub mod postgres;
