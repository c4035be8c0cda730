//! Taking backups: decide what, hold it still, stream it into one archive, read that back.
//!
//! Knows how each kind of source is read; does not know how anything is restored.

mod config_file;
mod parts;
pub mod physical;
mod plan;
pub mod postgres;
mod restore_txt;
mod room;
mod run;
pub mod sqlite;
pub mod standby;
mod volume;

pub use plan::{BackupOptions, BackupPlan, PlannedSource, has_data, jobs, plan, sqlite_files};
pub use run::{BackedUp, BackupReport, run, take};
