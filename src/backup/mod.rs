//! Taking backups.

pub mod postgres;
