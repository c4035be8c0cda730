//! Analyses every table of a restored database, so that the first queries are planned well. A partitioned table
//! has statistics of its own, of all its rows, which the server's autovacuum never gathers.

use super::{Options, failed, open};
use crate::adapters::postgres::{Address, Session, quote_identifier};
use crate::archive::{PostgresSource, PostgresTable};
use crate::error::{Context, Error, Result};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::JoinSet;

/// A table that is analysed, with all that is partitioned off it.
struct Analyzed {
    schema: String,
    name: String,
    /// Only these columns, as SQL lists them.
    ///
    /// An index over an expression has statistics of its own, for which the expression is worked out for every row
    /// of the sample: for a text search that takes as long as building the index. Its table gets those of its
    /// columns, after which the server's autovacuum still takes it as not analysed and adds the rest in the
    /// background.
    columns: Option<String>,
    rows: u64,
}

/// Analyses all tables, several at the same time, the largest first.
pub(super) async fn all(
    source: &PostgresSource,
    address: &Address,
    options: &Options,
) -> Result<()> {
    let tables = tables(&open(address).await?, source).await?;
    let workers = options.jobs.clamp(1, tables.len().max(1));
    let queue = Arc::new(Mutex::new(VecDeque::from(tables)));
    let mut running = JoinSet::new();
    for _ in 0..workers {
        let (queue, address) = (queue.clone(), address.clone());
        running.spawn(async move {
            let session = open(&address).await?;
            let next = || {
                queue
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .pop_front()
            };
            while let Some(table) = next() {
                table.analyze(&session).await?;
            }
            Ok::<_, Error>(())
        });
    }
    while let Some(result) = running.join_next().await {
        result.context(|| "an analysing task died")??;
    }
    Ok(())
}

impl Analyzed {
    async fn analyze(&self, session: &Session) -> Result<()> {
        let name = format!(
            "{}.{}",
            quote_identifier(&self.schema),
            quote_identifier(&self.name)
        );
        let sql = match &self.columns {
            None => format!("ANALYZE {name}"),
            Some(columns) => format!("ANALYZE {name} ({columns})"),
        };
        session.batch_execute(&sql).await.map_err(|e| {
            let doing = format!("analysing table {}.{}", self.schema, self.name);
            failed(&doing, &e)
        })
    }
}

/// What is to be analysed: partitions go with the partitioned table.
async fn tables(session: &Session, source: &PostgresSource) -> Result<Vec<Analyzed>> {
    let by_expression = indexed_by_expression(session).await?;
    let key = |table: &PostgresTable| (table.schema.clone(), table.name.clone());
    let sizes: HashMap<_, u64> = source
        .tables
        .iter()
        .map(|table| (key(table), table.digest.rows))
        .collect();
    let mut partitions = HashSet::new();
    let mut tables = Vec::new();
    for (root, columns, members) in partitioned(session).await? {
        let rows = members.iter().filter_map(|member| sizes.get(member)).sum();
        let expression = members.iter().any(|m| by_expression.contains_key(m));
        partitions.extend(members);
        tables.push(Analyzed {
            schema: root.0,
            name: root.1,
            columns: Some(columns).filter(|_| expression),
            rows,
        });
    }
    let alone = source
        .tables
        .iter()
        .filter(|table| !partitions.contains(&key(table)));
    tables.extend(alone.map(|table| Analyzed {
        schema: table.schema.clone(),
        name: table.name.clone(),
        columns: by_expression.get(&key(table)).cloned(),
        rows: table.digest.rows,
    }));
    tables.sort_by_key(|table| std::cmp::Reverse(table.rows));
    Ok(tables)
}

/// Schema and name.
type Name = (String, String);

/// Tables with an index over an expression, with all their columns as SQL lists them.
async fn indexed_by_expression(session: &Session) -> Result<HashMap<Name, String>> {
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

/// Partitioned tables that are no partitions, with their columns, themselves and all beneath them. A foreign table
/// would be read from its server, which may not answer: then the partitions are analysed one by one.
async fn partitioned(session: &Session) -> Result<Vec<(Name, String, Vec<Name>)>> {
    let rows = session
        .query(
            "SELECT n.nspname::text, c.relname::text,
                    coalesce((SELECT string_agg(quote_ident(a.attname), ', ') FROM pg_catalog.pg_attribute a
                              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), ''),
                    array_agg(mn.nspname::text), array_agg(m.relname::text)
             FROM pg_catalog.pg_class c
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             CROSS JOIN pg_partition_tree(c.oid) t
             JOIN pg_catalog.pg_class m ON m.oid = t.relid
             JOIN pg_catalog.pg_namespace mn ON mn.oid = m.relnamespace
             WHERE c.relkind = 'p' AND NOT c.relispartition
             GROUP BY c.oid, n.nspname, c.relname
             HAVING bool_and(m.relkind <> 'f')",
            &[],
        )
        .await
        .map_err(|e| failed("reading which tables are partitioned", &e))?;
    let members = |row: &tokio_postgres::Row| {
        let (schemas, names): (Vec<String>, Vec<String>) = (row.get(3), row.get(4));
        schemas.into_iter().zip(names).collect()
    };
    Ok(rows
        .iter()
        .map(|row| ((row.get(0), row.get(1)), row.get(2), members(row)))
        .collect())
}
