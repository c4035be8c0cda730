//! Compares a restored database with the manifest: every table's rows are read back and digested,
//! and every table is analysed, so that the first queries are planned well.

use super::{Options, failed, open};
use crate::adapters::postgres::{Address, Session, quote_identifier};
use crate::archive::{LargeObjects, PostgresSource, PostgresTable, RowDigest};
use crate::backup::postgres::large_objects::for_each_chunk;
use crate::error::{Context, Error, Result};
use crate::event::{Events, Unit};
use futures_util::{StreamExt, pin_mut};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::JoinSet;

/// Checks all tables and answers how many rows they have.
pub(super) async fn all(
    source: &PostgresSource,
    address: &Address,
    options: &Options,
    events: &Events,
) -> Result<u64> {
    let step = "comparing every row with the manifest".to_owned();
    events.started(&step);
    let mut tables = source.tables.clone();
    tables.sort_by_key(|table| std::cmp::Reverse(table.digest.rows));
    let total = tables.iter().map(|t| t.digest.rows).sum();
    let queue = Arc::new(Mutex::new(VecDeque::from(tables)));
    let mut running = JoinSet::new();
    for _ in 0..options.jobs.clamp(1, source.tables.len().max(1)) {
        let (queue, address) = (queue.clone(), address.clone());
        let (events, step) = (events.clone(), step.clone());
        running.spawn(async move {
            let session = open(&address).await?;
            let next = || {
                queue
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .pop_front()
            };
            while let Some(table) = next() {
                check(&session, &table).await?;
                let left: u64 = {
                    let queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
                    queue.iter().map(|t| t.digest.rows).sum()
                };
                events.progress(&step, total - left, Some(total), Unit::Items);
            }
            Ok::<_, Error>(())
        });
    }
    while let Some(result) = running.join_next().await {
        result.context(|| "a comparing task died")??;
    }
    check_large_objects(&open(address).await?, source.large_objects).await?;
    events.finished(step, format!("{total} rows are equal"));
    Ok(total)
}

async fn check(session: &Session, table: &PostgresTable) -> Result<()> {
    let name = format!(
        "{}.{}",
        quote_identifier(&table.schema),
        quote_identifier(&table.name)
    );
    let doing = || format!("reading back table {}.{}", table.schema, table.name);
    // An extension may have put rows of its own into a table of which only some were copied.
    if table.condition.is_none() {
        let found = digest(session, &name, table)
            .await
            .map_err(|e| failed(&doing(), &e))?;
        if found != table.digest {
            return Err(Error::bad_data(format!(
                "table {}.{} was restored with other rows than were backed up: {} rows instead of {}{}",
                table.schema,
                table.name,
                found.rows,
                table.digest.rows,
                if found.rows == table.digest.rows { ", with other content" } else { "" }
            ))
            .hint("Nothing was changed; restore another archive, and look into the server's log."));
        }
    }
    let analyze = format!("ANALYZE {name}");
    session
        .batch_execute(&analyze)
        .await
        .map_err(|e| failed(&doing(), &e))
}

async fn digest(
    session: &Session,
    name: &str,
    table: &PostgresTable,
) -> Result<RowDigest, tokio_postgres::Error> {
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

async fn check_large_objects(session: &Session, expected: LargeObjects) -> Result<()> {
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
