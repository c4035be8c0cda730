//! The only place that touches the outside: files, processes, databases, the network. Nothing here
//! knows what a stack, an archive or a command is.

pub mod bandwidth;
pub mod bucket;
pub mod certificates;
pub mod compose;
pub mod crontab;
pub mod disk;
pub mod docker;
pub mod download;
pub mod fs;
pub mod host;
pub mod http;
pub mod http_server;
pub mod last_words;
pub mod log_file;
#[cfg(test)]
pub(crate) mod lying_server;
pub mod mail;
pub mod oauth;
pub mod port;
pub mod postgres;
pub mod process;
pub mod published;
pub mod redis;
pub mod sqlite;
pub mod storage;
pub mod supervised;
pub mod systemd;
pub mod tar_program;
pub mod time_zone;
