//! Partitions whose rows another server may put elsewhere: a hash says where a row belongs, and that of an
//! enum's value, say, is made of a number that the next database gives anew. Such rows are loaded through the
//! root, as `pg_dump` does, and compared over all of its partitions.

use super::failed;
use crate::adapters::postgres::{Session, quote_identifier};
use crate::archive::PostgresTable;
use crate::error::Result;
use std::collections::HashMap;

/// Such partitions, by schema and name.
#[derive(Debug, Default)]
pub struct Roots(HashMap<(String, String), Root>);

/// The partitioned table that a partition's rows are loaded through.
#[derive(Debug)]
pub struct Root {
    schema: String,
    name: String,
    /// Its columns as `COPY` takes them: its partitions may have them in another order.
    pub(super) columns: Vec<String>,
    /// It and all that is beneath it, as `SCHEMA.TABLE`.
    pub members: Vec<String>,
}

/// A foreign table beneath the root would be written to, so then rows stay in their partitions. Arrays, rows and
/// ranges may be of enums. A collation that takes different texts as equal hashes by its version's rules.
const READ: &str = "
    SELECT n.nspname::text, c.relname::text, rn.nspname::text, r.relname::text,
           ARRAY(SELECT quote_ident(a.attname) FROM pg_catalog.pg_attribute a
                 WHERE a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
                   AND a.attgenerated = '' ORDER BY a.attnum),
           ARRAY(SELECT mn.nspname || '.' || m.relname FROM pg_partition_tree(r.oid) t
                 JOIN pg_catalog.pg_class m ON m.oid = t.relid
                 JOIN pg_catalog.pg_namespace mn ON mn.oid = m.relnamespace ORDER BY 1)
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_class r ON r.oid = pg_partition_root(c.oid)
    JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace
    WHERE c.relispartition AND c.relkind = 'r'
      AND EXISTS (
          SELECT FROM pg_partition_ancestors(c.oid) a
          JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = a.relid
          WHERE p.partstrat = 'h' AND (
              EXISTS (SELECT FROM pg_catalog.pg_opclass o
                      WHERE o.oid = ANY (p.partclass)
                        AND (o.opcnamespace <> 'pg_catalog'::pg_catalog.regnamespace
                             OR o.opcname IN ('enum_ops', 'array_ops', 'record_ops', 'range_ops',
                                              'multirange_ops')))
              OR EXISTS (SELECT FROM pg_catalog.pg_collation k
                         WHERE k.oid = ANY (p.partcollation) AND NOT k.collisdeterministic)))
      AND NOT EXISTS (SELECT FROM pg_partition_tree(r.oid) t
                      JOIN pg_catalog.pg_class f ON f.oid = t.relid WHERE f.relkind = 'f')";

impl Roots {
    /// Those of the session's database.
    pub async fn read(session: &Session) -> Result<Self> {
        let rows = session
            .query(READ, &[])
            .await
            .map_err(|e| failed("reading the partitions", &e))?;
        let root = |row: &tokio_postgres::Row| Root {
            schema: row.get(2),
            name: row.get(3),
            columns: row.get(4),
            members: row.get(5),
        };
        let of = |row| (tokio_postgres::Row::get(row, 0), row.get(1));
        Ok(Self(rows.iter().map(|row| (of(row), root(row))).collect()))
    }

    /// What the rows of this table are loaded through; `None` if they go where they came from.
    #[must_use]
    pub fn of(&self, schema: &str, name: &str) -> Option<&Root> {
        self.0.get(&(schema.to_owned(), name.to_owned()))
    }

    /// The statement that takes a part of the table's rows in.
    #[must_use]
    pub fn copy_in(&self, table: &PostgresTable) -> String {
        let root = self.of(&table.schema, &table.name);
        let (schema, name) = root.map_or((&table.schema, &table.name), |r| (&r.schema, &r.name));
        let name = format!("{}.{}", quote_identifier(schema), quote_identifier(name));
        if table.columns.is_empty() {
            return format!("COPY {name} FROM STDIN");
        }
        format!("COPY {name} ({}) FROM STDIN", table.columns.join(", "))
    }
}
