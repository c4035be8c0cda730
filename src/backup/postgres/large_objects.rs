//! Large objects: each becomes lines of `lo_put`, a line a chunk. That they exist, whose they are
//! and who may use them is in `pg_dump`'s pre-data section.

use super::failed;
use crate::adapters::postgres::Session;
use crate::archive::{Effort, LargeObjects, NewMember, RowDigest, Writer};
use crate::error::Result;

/// Bytes of a large object in one statement.
pub const CHUNK: i32 = 512 << 10;

/// The folder of their parts.
pub const FOLDER: &str = "postgres/large-objects";

/// Copies all large objects of the session's snapshot.
pub(super) async fn copy(writer: &Writer, session: &Session, oids: &[u32]) -> Result<LargeObjects> {
    let mut parts = Parts {
        writer,
        raw: writer.buffer(),
        digest: RowDigest::default(),
        total: LargeObjects::default(),
    };
    for &oid in oids {
        for_each_chunk(session, oid, async |line| parts.add(line).await).await?;
    }
    parts.flush().await?;
    parts.total.count = oids.len() as u64;
    Ok(parts.total)
}

/// Calls `take` with the statement of each chunk of a large object.
pub async fn for_each_chunk(
    session: &Session,
    oid: u32,
    mut take: impl AsyncFnMut(String) -> Result<()>,
) -> Result<()> {
    let mut offset = 0_i64;
    loop {
        let row = session
            .query_one(
                "SELECT pg_catalog.lo_get($1, $2, $3)",
                &[&oid, &offset, &CHUNK],
            )
            .await
            .map_err(|e| failed(&format!("reading large object {oid}"), &e))?;
        let bytes: &[u8] = row.get(0);
        if bytes.is_empty() {
            return Ok(());
        }
        let hex = hex::encode(bytes);
        take(format!(
            "SELECT pg_catalog.lo_put({oid}, {offset}, '\\x{hex}');"
        ))
        .await?;
        offset += i64::from(CHUNK);
        if bytes.len() < usize::try_from(CHUNK).unwrap_or(usize::MAX) {
            return Ok(());
        }
    }
}

struct Parts<'a> {
    writer: &'a Writer,
    raw: Vec<u8>,
    digest: RowDigest,
    total: LargeObjects,
}

impl Parts<'_> {
    async fn add(&mut self, line: String) -> Result<()> {
        if !self.raw.is_empty() && self.raw.len() + line.len() > self.writer.part_size() {
            self.flush().await?;
        }
        self.digest.add(line.as_bytes());
        self.raw.extend_from_slice(line.as_bytes());
        self.raw.push(b'\n');
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        if self.raw.is_empty() {
            return Ok(());
        }
        let path = format!("{FOLDER}/{:06}.sql", self.total.parts);
        let digest = std::mem::take(&mut self.digest);
        let raw = std::mem::replace(&mut self.raw, self.writer.buffer());
        self.total.parts += 1;
        self.total.digest = self.total.digest.merge(digest);
        self.writer
            .add(NewMember {
                path,
                raw,
                rows: Some(digest),
                effort: Effort::Usual,
            })
            .await
    }
}
