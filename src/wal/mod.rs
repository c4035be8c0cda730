//! The write-ahead log of a `PostgreSQL` server in the repository: received as it is written
//! ([`stream()`]), archived and fetched by the server's own commands, looked through for gaps and for
//! the moments that it reaches.
//!
//! A server's log lies in `wal/SYSTEM/`, by the identifier that `initdb` gave its cluster. Complete
//! segments never change; the one that is being received is `NAME.partial` and grows. It does not
//! know what an archive holds or how anything is restored.

pub mod chain;
mod history;
mod name;
pub mod note;
mod receiving;
mod scan;
mod store;
mod stream;
mod writer;

pub use chain::{Base, Chain, Gap, Reach, Reached};
pub use history::History;
pub use name::{Segment, parse_lsn, show_lsn};
pub use note::Note;
pub use scan::Scanner;
pub use store::{Listing, Put, Store, push, system_of};
pub use stream::{StreamOptions, slot_name, stream};

/// The folder of a repository that the write-ahead log is in.
pub const FOLDER: &str = "wal";
