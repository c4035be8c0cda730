//! Large objects: each becomes lines of `lo_put`, a line a chunk. That they exist, whose they are
//! and who may use them is in `pg_dump`'s pre-data section up to version 16. A later one has it among the
//! data, which is not asked of it; then it is written down here.

use super::failed;
use crate::adapters::postgres::Session;
use crate::archive::{Effort, LargeObjects, NewMember, RowDigest, Writer};
use crate::error::Result;

/// Bytes of a large object in one statement.
pub const CHUNK: i32 = 512 << 10;

/// The folder of their parts.
pub const FOLDER: &str = "postgres/large-objects";

/// The folder of the statements that make them, where `pg_dump`'s pre-data section does not.
pub const DEFINITIONS: &str = "postgres/large-object-definitions";

/// Objects in one part of [`DEFINITIONS`].
const DEFINED_AT_ONCE: usize = 10_000;

/// What makes the large objects of these numbers, one after the other.
const DEFINE: &str = "
    WITH o AS (
        SELECT m.oid, lomowner, lomacl, pg_get_userbyid(lomowner) AS owner,
               (SELECT count(*) FROM aclexplode(lomacl) a WHERE a.grantee = lomowner) = 2 AS owners_all
        FROM pg_catalog.pg_largeobject_metadata m WHERE m.oid = ANY ($1))
    SELECT line FROM (
        SELECT oid, 1, format('SELECT pg_catalog.lo_create(%s) WHERE NOT EXISTS
            (SELECT FROM pg_catalog.pg_largeobject_metadata WHERE oid = %s);', oid, oid) FROM o
        UNION ALL
        SELECT oid, 2, format('ALTER LARGE OBJECT %s OWNER TO %I;', oid, owner) FROM o
        UNION ALL
        SELECT oid, 3, format('REVOKE ALL ON LARGE OBJECT %s FROM %I;', oid, owner) FROM o
        WHERE lomacl IS NOT NULL AND NOT owners_all
        UNION ALL
        SELECT oid, 4, format('GRANT %s ON LARGE OBJECT %s TO %s%s;', a.privilege_type, oid,
            CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
            CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
        FROM o CROSS JOIN aclexplode(lomacl) a WHERE a.grantee <> lomowner OR NOT owners_all
        UNION ALL
        SELECT oid, 5, format('COMMENT ON LARGE OBJECT %s IS %L;', oid, t)
        FROM o CROSS JOIN obj_description(oid, 'pg_largeobject') t WHERE t IS NOT NULL
        UNION ALL
        SELECT objoid, 6, format('SECURITY LABEL FOR %I ON LARGE OBJECT %s IS %L;', provider, objoid, label)
        FROM pg_catalog.pg_seclabels
        WHERE classoid = 'pg_catalog.pg_largeobject'::pg_catalog.regclass AND objoid = ANY ($1)
    ) lines(oid, step, line) ORDER BY oid, step, line";

/// Writes down what makes the large objects, unless `pre_data` does.
pub(super) async fn define(
    writer: &Writer,
    session: &Session,
    oids: &[u32],
    pre_data: &str,
) -> Result<()> {
    let made = |oid: &u32| {
        let statement = format!("SELECT pg_catalog.lo_create('{oid}');");
        pre_data.lines().any(|line| line == statement)
    };
    if oids.first().is_none_or(made) {
        return Ok(());
    }
    for (part, oids) in oids.chunks(DEFINED_AT_ONCE).enumerate() {
        let rows = session
            .query(DEFINE, &[&oids])
            .await
            .map_err(|e| failed("reading whose the large objects are", &e))?;
        let mut raw = writer.buffer();
        for row in &rows {
            raw.extend_from_slice(row.get::<_, &str>(0).as_bytes());
            raw.push(b'\n');
        }
        let path = format!("{DEFINITIONS}/{part:06}.sql");
        let (rows, effort) = (None, Effort::Usual);
        let member = NewMember {
            path,
            raw,
            rows,
            effort,
        };
        writer.add(member).await?;
    }
    Ok(())
}

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
