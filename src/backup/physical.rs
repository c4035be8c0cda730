//! A whole `PostgreSQL` cluster, while it runs, into an archive: the server's own base backup with
//! the write-ahead log that makes it consistent, streamed straight into compressed parts.
//!
//! Nothing is copied to disk in between, and memory is bounded by the archive writer. The server
//! keeps its write-ahead log until the backup has ended, so that none of it is recycled too early.

use super::parts::Parts;
use crate::adapters::postgres::Address;
use crate::adapters::postgres::replication::{Piece, Position, Replication};
use crate::archive::backup_manifest::{self, BackupManifest};
use crate::archive::{Effort, NewMember, PhysicalArchive, PhysicalSource, Writer};
use crate::error::{Error, Result};
use crate::event::{Events, Unit};
use crate::interrupt::Interrupt;

/// The oldest server whose form of the stream is understood.
const OLDEST_MAJOR: u32 = 15;

/// A member's name has 100 bytes; what follows the volume's name takes up to 40 of them.
const LONGEST_VOLUME: usize = 50;

/// Copies the cluster at `address`, whose data directory is in the volume `volume`, into `writer`.
pub async fn take(
    writer: &Writer,
    address: &Address,
    volume: &str,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<PhysicalSource> {
    interrupt
        .guard(take_all(writer, address, volume, events))
        .await
}

async fn take_all(
    writer: &Writer,
    address: &Address,
    volume: &str,
    events: &Events,
) -> Result<PhysicalSource> {
    check_volume(volume)?;
    let step = format!("copying volume {volume}");
    events.started(&step);
    let mut server = Replication::open(address, events).await?;
    let server_version = server.server_version().to_owned();
    let server_major = server.major_version()?;
    check_major(&server_version, server_major)?;
    let system = server.identify().await?;
    let wal_segment_size = server.wal_segment_size().await?;
    reserve_wal(&mut server, events).await;
    let mut taking = Taking {
        writer,
        events,
        step: &step,
        folder: format!("volumes/{volume}"),
        archives: Vec::new(),
        parts: None,
        manifest: None,
        total: 0,
    };
    let end = taking
        .all(&mut server, writer.header().stack.as_str())
        .await?;
    let Taking {
        folder,
        archives,
        manifest,
        ..
    } = taking;
    let manifest = manifest.unwrap_or_default();
    let (start_lsn, files) = check_manifest(&manifest, &end)?;
    let source = PhysicalSource {
        volume: volume.to_owned(),
        folder,
        server_version,
        server_major,
        system_identifier: system.identifier,
        timeline: end.timeline,
        start_lsn,
        end_lsn: end.lsn,
        wal_segment_size,
        archives,
        files,
        standby: None,
    };
    writer
        .add(NewMember {
            path: source.manifest_path(),
            raw: manifest,
            rows: None,
            effort: Effort::Usual,
        })
        .await?;
    events.finished(step, format!("{files} files, {} bytes", source.size()));
    Ok(source)
}

/// A volume's name becomes part of a path.
fn check_volume(name: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let first = name
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    if first && name.len() <= LONGEST_VOLUME && name.bytes().all(plain) {
        return Ok(());
    }
    Err(Error::usage(format!("{name:?} is no name for a volume in an archive")).hint(format!(
        "Use up to {LONGEST_VOLUME} letters, digits, dots, dashes and underscores, a letter or digit first."
    )))
}

fn check_major(version: &str, major: u32) -> Result<()> {
    if major >= OLDEST_MAJOR {
        return Ok(());
    }
    Err(Error::missing(format!(
        "the server has version {version}; a physical backup needs PostgreSQL {OLDEST_MAJOR} or later"
    ))
    .hint("Take a logical backup of its databases instead, which works with older servers."))
}

/// Without a free slot the backup may still succeed: the server itself refuses to end one whose
/// write-ahead log is gone.
async fn reserve_wal(server: &mut Replication, events: &Events) {
    if let Err(error) = server.reserve_wal().await {
        events.warning_with_hint(
            format!("the write-ahead log cannot be reserved during the backup: {error}"),
            "Set max_replication_slots to 2 or more, or the backup fails when the server is busy enough to recycle its log.",
        );
    }
}

/// The server's manifest must be whole and end where the server said. Answers where its
/// write-ahead log begins, and the number of files.
fn check_manifest(json: &[u8], end: &Position) -> Result<(String, u64)> {
    let again = |e: Error| e.hint("Run the backup again.");
    let manifest = BackupManifest::parse(json).map_err(again)?;
    let ends = manifest.wal.iter().map(|range| range.end).max();
    if ends.is_none() || ends != backup_manifest::parse_lsn(&end.lsn) {
        let what = "the server's backup_manifest does not end where the backup ended";
        return Err(again(Error::failed(what)));
    }
    let start = manifest.wal.iter().map(|range| range.start).min();
    let start = start.unwrap_or_default();
    let start = format!("{:X}/{:X}", start >> 32, start & 0xFFFF_FFFF);
    Ok((start, manifest.files.len() as u64))
}

/// A backup that is under way.
struct Taking<'a> {
    writer: &'a Writer,
    events: &'a Events,
    step: &'a str,
    folder: String,
    archives: Vec<PhysicalArchive>,
    /// The archive that is coming.
    parts: Option<Parts<'a>>,
    /// The server's manifest, once it has begun.
    manifest: Option<Vec<u8>>,
    total: u64,
}

impl Taking<'_> {
    async fn all(&mut self, server: &mut Replication, stack: &str) -> Result<Position> {
        let mut stream = server.base_backup(&format!("k1ops {stack}")).await?;
        self.total = stream.tablespaces().iter().map(|t| t.size).sum();
        let expected = stream.tablespaces().len();
        let end = loop {
            match stream.next().await? {
                Piece::Data(bytes) => self.data(&bytes).await?,
                Piece::Archive { name, location } => {
                    self.flush().await?;
                    self.begin(&name, location)?;
                }
                Piece::Manifest => {
                    self.flush().await?;
                    self.manifest = Some(Vec::new());
                }
                // It is an estimate: the write-ahead log at the end is not in it.
                Piece::Progress(done) => {
                    let total = Some(self.total.max(done));
                    self.events.progress(self.step, done, total, Unit::Bytes);
                }
                Piece::End(end) => break end,
            }
        };
        if self.archives.len() != expected {
            let came = self.archives.len();
            let what = format!("the server announced {expected} archives and sent {came}");
            return Err(Error::failed(what).hint("Run the backup again."));
        }
        Ok(end)
    }

    fn begin(&mut self, name: &str, location: Option<String>) -> Result<()> {
        let stem = name.strip_suffix(".tar").unwrap_or_default();
        let tablespace = !stem.is_empty() && stem.bytes().all(|b| b.is_ascii_digit());
        let known = self.archives.iter().any(|a| a.name == stem);
        if known || tablespace != location.is_some() || !tablespace && stem != PhysicalSource::BASE
        {
            let what = format!("the server sent an archive {name:?}, which does not belong");
            return Err(Error::failed(what));
        }
        let folder = format!("{}/{stem}", self.folder);
        self.parts = Some(Parts::begin(self.writer, folder));
        self.archives.push(PhysicalArchive {
            name: stem.to_owned(),
            location,
            parts: 0,
            size: 0,
        });
        Ok(())
    }

    async fn data(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(manifest) = &mut self.manifest {
            if manifest.len() + bytes.len() > backup_manifest::LARGEST {
                return Err(
                    Error::failed("the cluster has too many files for a physical backup")
                        .hint("Take a logical backup of its databases instead."),
                );
            }
            manifest.extend_from_slice(bytes);
            return Ok(());
        }
        let Some(parts) = &mut self.parts else {
            return Err(Error::failed("the server sent data before an archive"));
        };
        parts.add(bytes).await
    }

    /// Ends the archive that has come, if there is one.
    async fn flush(&mut self) -> Result<()> {
        let (Some(mut parts), Some(archive)) = (self.parts.take(), self.archives.last_mut()) else {
            return Ok(());
        };
        parts.flush().await?;
        archive.parts = parts.count;
        archive.size = parts.size;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_name_stays_inside_its_folder() {
        check_volume("conductor_postgres_data").unwrap();
        for name in ["", "..", ".", "a/b", "-x", "ä", &"x".repeat(51)] {
            check_volume(name).unwrap_err();
        }
    }

    #[test]
    fn older_servers_are_refused_with_advice() {
        let error = check_major("14.9", 14).unwrap_err();
        assert!(error.to_string().contains("14.9"), "{error}");
        assert!(error.hint_text().unwrap().contains("logical"));
        check_major("15.1", 15).unwrap();
    }
}
