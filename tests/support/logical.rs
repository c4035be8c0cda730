//! A database taken into an archive and restored beside itself, without the program around it.

#![allow(dead_code, reason = "each test file uses its own part of this module")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may stop at the first surprise, their helpers too"
)]

use crate::support::ScratchDatabase;
use k1ops::adapters::postgres::Address;
use k1ops::archive::{
    Archive, CodecSettings, FORMAT, Header, Manifest, PostgresSource, Source, Writer,
};
use k1ops::backup::postgres as backup;
use k1ops::config::Compression;
use k1ops::event::Events;
use k1ops::interrupt::Interrupt;
use k1ops::restore::postgres as restoring;
use std::path::{Path, PathBuf};

/// A database that a restore makes, dropped together with this value.
pub struct Beside(pub ScratchDatabase);

impl Beside {
    /// It is not there yet.
    pub fn of(live: &ScratchDatabase, suffix: &str) -> Self {
        let name = format!("{}_{suffix}", live.name);
        let url = live.url.replace(&live.name, &name);
        Self(ScratchDatabase { name, url })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its address.
    pub fn address(&self) -> Address {
        self.0.address()
    }
}

/// Takes the database at `address` into an archive at `place`.
pub async fn take(address: &Address, place: &Path) -> Manifest {
    take_as(address, place, |_| ()).await
}

/// The same, by another `pg_dump`.
pub async fn take_with(address: &Address, place: &Path, pg_dump: PathBuf) -> Manifest {
    take_by(address, place, pg_dump, |_| ()).await
}

/// The same, with another account in the manifest of what was taken.
pub async fn take_as(
    address: &Address,
    place: &Path,
    change: impl FnOnce(&mut PostgresSource),
) -> Manifest {
    take_by(address, place, PathBuf::new(), change).await
}

async fn take_by(
    address: &Address,
    place: &Path,
    pg_dump: PathBuf,
    change: impl FnOnce(&mut PostgresSource),
) -> Manifest {
    let header = Header {
        format: FORMAT,
        tool: "test".into(),
        stack: "k1".into(),
        started_at: chrono::Utc::now(),
    };
    let writer = Writer::create(place, header, CodecSettings::of(Compression::Zstd, 0), 2).unwrap();
    let options = backup::Options {
        jobs: 3,
        pg_dump,
        inside: None,
    };
    let (events, interrupt) = (Events::silent(), Interrupt::default());
    let mut taken = backup::take(&writer, address, &options, &events, &interrupt)
        .await
        .unwrap();
    change(&mut taken.source);
    let manifest = Manifest {
        header: writer.header().clone(),
        finished_at: chrono::Utc::now(),
        tier: None,
        conductor_version: "3.32.1".into(),
        images: std::collections::BTreeMap::new(),
        sources: vec![Source::Postgres(Box::new(taken.source))],
        left_out: taken.left_out,
        members: vec![],
    };
    writer.finish(manifest).await.unwrap()
}

/// Restores the archive at `place` under a name of its own.
pub async fn restore(
    place: &Path,
    address: &Address,
    name: &str,
) -> k1ops::error::Result<restoring::Restored> {
    let archive = Archive::open(place).unwrap();
    let options = restoring::Options { jobs: 3 };
    let (events, interrupt) = (Events::silent(), Interrupt::default());
    restoring::restore_beside(&archive, address, name, &options, &events, &interrupt).await
}

/// The whole database with what belongs to it, as `pg_dump` sees it.
pub fn pg_dump(address: &Address) -> String {
    let output = std::process::Command::new("/usr/lib/postgresql/15/bin/pg_dump")
        .args(["--no-password", "--create"])
        .envs(address.libpq_environment())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let name = address.database();
    text.replace(name, "DATABASE")
        .lines()
        .filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Fails with the first lines that differ.
#[track_caller]
pub fn assert_same_text(before: &str, after: &str) {
    for (number, (a, b)) in before.lines().zip(after.lines()).enumerate() {
        assert_eq!(a, b, "line {number}");
    }
    assert_eq!(before.lines().count(), after.lines().count());
}
