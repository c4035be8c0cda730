//! Restores an archive without ever making things worse.
//!
//! Verify the archive; back up what is there; restore *beside* it and compare every row; stop what
//! uses the data; swap by rename; start; requeue stranded workflows; keep the old data for undo.
//! A journal is written before each step ([`journal`]), so that after a death at any point the
//! stack is either as before or is completed by the next run ([`recover()`]).

mod claim;
pub mod crash;
pub mod journal;
pub mod physical;
mod plan;
pub mod postgres;
mod recover;
mod run;
mod server;
mod sqlite;
mod swap;
mod to_folder;
mod undo;

pub use claim::Claim;
pub use plan::{Part, PlannedPart, RestoreOptions, RestorePlan, Safety, ServerPlan, plan};
pub use recover::{Outcome, Recovered, Unfinished, recover, unfinished};
pub use run::{RestoreReport, RestoredPart, execute, run};
pub use server::{StartedAgain, pending_requeue, requeue_pending};
pub use to_folder::{FolderOptions, FolderReport, to_folder};
pub use undo::{Kept, UndoPlan, UndoReport, UndonePart, discard, execute_undo, kept, plan_undo};
