//! The only place that touches the outside: files, processes, databases, the network. Nothing here
//! knows what a stack, an archive or a command is.

pub mod fs;
pub mod postgres;
pub mod sqlite;
