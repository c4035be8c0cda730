//! The only place that touches the outside: files, processes, databases, the network. Nothing here
//! knows what a stack, an archive or a command is.

pub mod fs;
pub mod http;
pub mod log_file;
pub mod port;
pub mod postgres;
pub mod process;
pub mod sqlite;
