//! Compares a restored database with the manifest: every table's rows are read back and digested.
//! Afterwards every table is analysed, so that the first queries are planned well.

use super::{Options, failed, open};
use crate::adapters::postgres::{Address, Session, quote_identifier};
use crate::archive::{LargeObjects, PostgresSource, PostgresTable, RowDigest};
use crate::backup::postgres::Roots;
use crate::backup::postgres::large_objects::for_each_chunk;
use crate::error::{Context, Error, Result};
use futures_util::{StreamExt, pin_mut};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::JoinSet;

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

/// Analyses all tables, several at the same time, the largest first.
pub(super) async fn analyze(
    source: &PostgresSource,
    address: &Address,
    options: &Options,
) -> Result<()> {
    let by_expression = indexed_by_expression(&open(address).await?).await?;
    let mut tables = source.tables.clone();
    tables.sort_by_key(|table| std::cmp::Reverse(table.digest.rows));
    let queue = Arc::new(Mutex::new(VecDeque::from(tables)));
    let by_expression = Arc::new(by_expression);
    let mut running = JoinSet::new();
    for _ in 0..options.jobs.clamp(1, source.tables.len().max(1)) {
        let (queue, address) = (queue.clone(), address.clone());
        let by_expression = by_expression.clone();
        running.spawn(async move {
            let session = open(&address).await?;
            let next = || {
                queue
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .pop_front()
            };
            while let Some(table) = next() {
                let name = (table.schema.clone(), table.name.clone());
                analyze_table(&session, &table, by_expression.get(&name)).await?;
            }
            Ok::<_, Error>(())
        });
    }
    while let Some(result) = running.join_next().await {
        result.context(|| "an analysing task died")??;
    }
    Ok(())
}

/// An index over an expression has statistics of its own, for which the expression is worked out
/// for every row of the sample: for a text search that takes as long as building the index. Its table
/// gets those of its columns, after which the server's autovacuum still takes it as not analysed
/// and adds the rest in the background.
async fn analyze_table(
    session: &Session,
    table: &PostgresTable,
    columns: Option<&String>,
) -> Result<()> {
    let name = format!(
        "{}.{}",
        quote_identifier(&table.schema),
        quote_identifier(&table.name)
    );
    let sql = match columns {
        None => format!("ANALYZE {name}"),
        Some(columns) => format!("ANALYZE {name} ({columns})"),
    };
    session.batch_execute(&sql).await.map_err(|e| {
        let doing = format!("analysing table {}.{}", table.schema, table.name);
        failed(&doing, &e)
    })
}

/// Tables with an index over an expression, with all their columns as SQL lists them.
async fn indexed_by_expression(session: &Session) -> Result<HashMap<(String, String), String>> {
    let rows = session
        .query(
            "SELECT n.nspname::text, c.relname::text, string_agg(quote_ident(a.attname), ', ')
             FROM pg_catalog.pg_class c
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
             WHERE a.attnum > 0 AND NOT a.attisdropped
               AND EXISTS (SELECT FROM pg_catalog.pg_index i
                           WHERE i.indrelid = c.oid AND i.indexprs IS NOT NULL)
             GROUP BY c.oid, n.nspname, c.relname",
            &[],
        )
        .await
        .map_err(|e| failed("reading which indexes have expressions", &e))?;
    Ok(rows
        .iter()
        .map(|row| ((row.get(0), row.get(1)), row.get(2)))
        .collect())
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
