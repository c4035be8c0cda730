//! What is wrong with a stack and its host, why, and what to do about it.
//!
//! Every check is a file below `checks`, looks at one thing, and answers with findings; all run at
//! once, each within its own time. Nothing here changes anything, except a [`Fix`] that the user
//! asked for. The doctor reads everything and nothing stands on it.

mod bundle;
mod checks;
mod finding;
mod fix;
mod patient;
mod report;
mod run;
mod scrub;

pub use bundle::{Bundled, Contents, write as write_bundle};
pub use finding::{Examined, Finding, Group, Severity};
pub use fix::{Fix, with_port};
pub use patient::Patient;
pub use report::{Examination, Report, State, Tally};
pub use run::run;
pub use scrub::Scrubber;

use crate::error::Result;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;

/// How long a check may take unless it says otherwise.
const LIMIT: Duration = Duration::from_secs(8);

/// What a check does while it looks.
pub type Looking = BoxFuture<'static, Result<Examined>>;

/// Looks at one thing.
pub trait Check: Send + Sync {
    /// Its name, as the report and `docs/doctor.md` write it.
    fn name(&self) -> &'static str;

    /// What it is about.
    fn group(&self) -> Group;

    /// How long it may take.
    fn limit(&self) -> Duration {
        LIMIT
    }

    /// Whether only a stack in production is held to it.
    fn only_in_production(&self) -> bool {
        false
    }

    /// Looks. An error means that it could not look, and says nothing of the patient.
    fn examine(&self, patient: Arc<Patient>) -> Looking;
}

/// Every check, in no order that matters.
#[must_use]
pub fn registry() -> Vec<Box<dyn Check>> {
    checks::all()
}
