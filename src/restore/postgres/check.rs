//! Compares a restored database with the manifest: every table's rows are read back and digested.

use super::failed;
use crate::adapters::postgres::{Session, quote_identifier};
use crate::archive::{LargeObjects, PostgresTable, RowDigest};
use crate::backup::postgres::Roots;
use crate::backup::postgres::large_objects::for_each_chunk;
use crate::error::{Error, Result};
use futures_util::{StreamExt, pin_mut};
use std::collections::BTreeMap;

/// The tables as they are compared: those whose rows are loaded through one root together.
pub(super) fn groups(tables: &[PostgresTable], roots: &Roots) -> Vec<Vec<PostgresTable>> {
    let mut groups = Vec::new();
    let mut rooted: BTreeMap<&[String], Vec<PostgresTable>> = BTreeMap::new();
    for table in tables {
        match roots.of(&table.schema, &table.name) {
            Some(root) => rooted.entry(&root.members).or_default().push(table.clone()),
            None => groups.push(vec![table.clone()]),
        }
    }
    groups.extend(rooted.into_values());
    groups
}

/// Reads the rows of tables back and compares all of them together with what was backed up.
pub(super) async fn compare(session: &Session, tables: &[PostgresTable]) -> Result<()> {
    let (mut found, mut expected) = (RowDigest::default(), RowDigest::default());
    // An extension may have put rows of its own into a table of which only some were copied.
    for table in tables.iter().filter(|table| table.condition.is_none()) {
        let name = format!("{}.{}", table.schema, table.name);
        let read = digest(session, table)
            .await
            .map_err(|e| failed(&format!("reading back table {name}"), &e))?;
        found = found.merge(read);
        expected = expected.merge(table.digest);
    }
    if found == expected {
        return Ok(());
    }
    let names: Vec<String> = tables
        .iter()
        .map(|table| format!("{}.{}", table.schema, table.name))
        .collect();
    Err(Error::bad_data(format!(
        "table {} was restored with other rows than were backed up: {} rows instead of {}{}",
        names.join(" and "),
        found.rows,
        expected.rows,
        if found.rows == expected.rows {
            ", with other content"
        } else {
            ""
        }
    ))
    .hint("Nothing was changed; restore another archive, and look into the server's log."))
}

async fn digest(
    session: &Session,
    table: &PostgresTable,
) -> Result<RowDigest, tokio_postgres::Error> {
    let name = format!(
        "{}.{}",
        quote_identifier(&table.schema),
        quote_identifier(&table.name)
    );
    let columns = if table.columns.is_empty() {
        String::new()
    } else {
        format!("({})", table.columns.join(", "))
    };
    let stream = session
        .copy_out(&format!("COPY {name} {columns} TO STDOUT"))
        .await?;
    pin_mut!(stream);
    let mut digest = RowDigest::default();
    while let Some(rows) = stream.next().await {
        digest.add_lines(&rows?);
    }
    Ok(digest)
}

/// Reads the large objects back and compares them with what was backed up.
pub(super) async fn compare_large_objects(session: &Session, expected: LargeObjects) -> Result<()> {
    let oids = session
        .query(
            "SELECT oid FROM pg_catalog.pg_largeobject_metadata ORDER BY oid",
            &[],
        )
        .await
        .map_err(|e| failed("reading back the large objects", &e))?;
    let mut digest = RowDigest::default();
    for row in &oids {
        for_each_chunk(session, row.get(0), async |line| {
            digest.add(line.as_bytes());
            Ok(())
        })
        .await?;
    }
    if oids.len() as u64 != expected.count || digest != expected.digest {
        return Err(Error::bad_data(
            "large objects were restored with other content than was backed up",
        )
        .hint("Nothing was changed; restore another archive, and look into the server's log."));
    }
    Ok(())
}
