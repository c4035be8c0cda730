//! The checks, one file each. They read what the domain knows and ask the host through adapters.

mod api;
mod backups;
mod bloat;
mod certificates;
mod clock;
mod compose;
mod conductor;
mod configuration;
mod containers;
mod digests;
mod disk;
mod docker;
mod drill;
mod exposure;
mod images;
mod jar;
mod java;
mod kernel;
mod logins;
mod memory;
mod network;
mod passwords;
mod permissions;
mod pg_dump;
mod plaintext;
mod ports;
mod postgres;
mod redis;
mod replication;
mod repository;
mod restore;
mod roles;
mod schedule;
mod schema;
mod sqlite;
mod stranded;
mod tls;
mod volume;
mod wal;
mod wraparound;

use super::{Check, Examined, Looking, Patient};
use crate::adapters::postgres::quote_identifier;
use crate::error::{Context, Result};
use crate::stack::docker::Secrets;
use crate::stack::docker::roles::have_passwords;
use chrono::TimeDelta;
use std::path::Path;
use std::sync::Arc;

/// All of them.
pub(super) fn all() -> Vec<Box<dyn Check>> {
    vec![
        Box::new(configuration::Configuration),
        Box::new(ports::Ports),
        Box::new(docker::Docker),
        Box::new(compose::ComposeInstalled),
        Box::new(containers::Containers),
        Box::new(images::Images),
        Box::new(java::JavaFound),
        Box::new(jar::Jar),
        Box::new(conductor::Conductor),
        Box::new(stranded::Stranded),
        Box::new(postgres::Postgres),
        Box::new(volume::Volume),
        Box::new(wraparound::Wraparound),
        Box::new(bloat::Bloat),
        Box::new(replication::Replication),
        Box::new(sqlite::Sqlite),
        Box::new(schema::Schema),
        Box::new(redis::Redis),
        Box::new(memory::Memory),
        Box::new(disk::Disk),
        Box::new(kernel::Kernel),
        Box::new(clock::Clock),
        Box::new(permissions::Permissions),
        Box::new(passwords::Passwords),
        Box::new(exposure::Exposure),
        Box::new(tls::Tls),
        Box::new(plaintext::Plaintext),
        Box::new(logins::Logins),
        Box::new(roles::Roles),
        Box::new(certificates::Certificates),
        Box::new(digests::Digests),
        Box::new(api::Api),
        Box::new(backups::Backups),
        Box::new(wal::Wal),
        Box::new(drill::Drill),
        Box::new(schedule::Schedule),
        Box::new(repository::RepositoryReachable),
        Box::new(pg_dump::PgDumpFound),
        Box::new(restore::Restore),
        Box::new(network::Network),
    ]
}

/// Looks at files on a thread of its own: a file system that hangs holds up nothing else.
fn at_files(
    patient: Arc<Patient>,
    look: impl FnOnce(&Patient) -> Result<Examined> + Send + 'static,
) -> Looking {
    Box::pin(async move {
        tokio::task::spawn_blocking(move || look(&patient))
            .await
            .context(|| "the check broke off")?
    })
}

/// The passwords of tier 1, if all of them are there: those that are missing are made by a start,
/// never by a look.
fn secrets_in(folder: &Path) -> Result<Option<Secrets>> {
    let all = Secrets::exist(folder) && folder.join("secrets/redis.conf").is_file();
    all.then(|| Secrets::planned(folder, have_passwords(folder)))
        .transpose()
}

/// A path as a word of a shell command.
fn word(path: &Path) -> String {
    quoted(&path.display().to_string())
}

/// Any text as a word of a shell command.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else if text.contains('\'') && !text.contains(['"', '$', '`', '\\', '!']) {
        format!("\"{text}\"")
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// A database's URL as a word of a command: without its password, which `psql` asks for or finds in
/// the user's own file.
fn target(shown: &str) -> String {
    quoted(&shown.replacen(":***@", "@", 1))
}

/// A name in SQL, in quotes only where it needs them.
fn name_in_sql(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c == '_';
    let begins_well = name.starts_with(plain);
    if begins_well && name.chars().all(|c| plain(c) || c.is_ascii_digit()) {
        name.to_owned()
    } else {
        quote_identifier(name)
    }
}

/// A size as people read it.
fn size_of(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    if bytes >= GIB {
        format!("{}.{} GiB", bytes / GIB, bytes % GIB * 10 / GIB)
    } else if bytes >= MIB {
        format!("{} MiB", bytes / MIB)
    } else if bytes >= 1024 {
        format!("{} KiB", bytes / 1024)
    } else {
        format!("{bytes} bytes")
    }
}

/// A span of time as people read it.
fn span(time: TimeDelta) -> String {
    let minutes = time.num_minutes().max(0);
    match minutes {
        0..60 => format!("{minutes} min"),
        60..2880 => format!("{} h", minutes / 60),
        _ => format!("{} days", minutes / 1440),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_as_a_shell_needs_it() {
        assert_eq!(quoted("/a/b-1.tar"), "/a/b-1.tar");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("SET x = 'y'"), "\"SET x = 'y'\"");
        assert_eq!(quoted("it's $5"), "'it'\\''s $5'");
        assert_eq!(quoted(""), "''");
        assert_eq!(name_in_sql("queue_message"), "queue_message");
        assert_eq!(name_in_sql("My db"), "\"My db\"");
    }
}
