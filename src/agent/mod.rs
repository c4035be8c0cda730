//! Agents: commands of the user's that do tasks, run one at a time here and recorded in the K1
//! tables. It does not know who hands tasks out: Conductor's worker, a local plan, or a person.

mod definition;
mod gate;
mod log;
mod queue;
mod record;
mod report;
mod run;
mod template;

pub use definition::{Agent, Agents, Listed};
pub use gate::{Threshold, Verdict};
pub use record::{Begun, BrokenOff, Recorder, Source, broken_off};
pub use report::{Measured, Report};
pub use run::{Assignment, Line, Outcome, Runner, Stream};
