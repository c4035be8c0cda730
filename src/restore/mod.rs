//! Restores an archive without ever making things worse.
//!
//! Verify the archive; back up what is there; restore *beside* it and compare every row; stop what
//! uses the data; swap by rename; start; requeue stranded workflows; keep the old data for undo.
//! A journal is written before each step ([`journal`]), so that after a death at any point the
//! stack is either as before or is completed by the next run ([`recover()`]).

mod choose;
mod claim;
mod copy;
pub mod crash;
mod foreign;
mod home;
pub mod journal;
mod moment;
pub mod physical;
mod plan;
mod point_in_time;
pub mod postgres;
mod recover;
mod room;
mod run;
mod server;
mod sqlite;
mod swap;
mod to_folder;
mod undo;
mod volume;

pub use claim::Claim;
pub use copy::{
    CopiedDatabase, CopiedFile, CopiedVolume, CopyPlan, CopyReport, DatabaseCopy, FileCopy,
    VolumeCopy, copy, plan_copy,
};
pub use foreign::{ForeignKind, ForeignPlan, execute_foreign, foreign_kind, plan_foreign};
pub use home::{belongs_in_docker, in_docker};
pub use plan::{Part, PlannedPart, RestoreOptions, RestorePlan, Safety, ServerPlan, plan};
pub use point_in_time::{AtTarget, RecoveryPlan, TimeOptions, plan_time};
pub use recover::{Outcome, Recovered, Unfinished, recover, unfinished};
pub use run::{RestoreReport, RestoredPart, execute, run};
pub use server::{StartedAgain, pending_requeue, requeue_pending};
pub use to_folder::{FolderOptions, FolderPlan, FolderReport, execute_folder, plan_folder};
pub use undo::{Kept, UndoPlan, UndoReport, UndonePart, discard, execute_undo, kept, plan_undo};
