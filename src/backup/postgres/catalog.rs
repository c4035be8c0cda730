//! What a database holds: tables with their sizes, large objects, and what a logical
//! backup leaves out.

use super::failed;
use super::pieces::Piece;
use super::properties::{self, Facts};
use super::roles;
use crate::adapters::postgres::{Session, quote_identifier};
use crate::archive::{LeftOut, Role};
use crate::error::Result;

/// Everything that is read before the copying begins.
#[derive(Debug)]
pub(super) struct Catalog {
    pub(super) facts: Facts,
    pub(super) roles: Vec<Role>,
    pub(super) tables: Vec<Table>,
    pub(super) large_objects: Vec<u32>,
    pub(super) left_out: Vec<LeftOut>,
}

/// A table whose rows are copied.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) folder: String,
    pub(super) columns: Vec<String>,
    pub(super) condition: Option<String>,
    pub(super) heap_bytes: u64,
    pub(super) total_bytes: u64,
    pub(super) server_major: u32,
}

impl Table {
    /// The name as SQL takes it.
    pub(super) fn sql_name(&self) -> String {
        format!(
            "{}.{}",
            quote_identifier(&self.schema),
            quote_identifier(&self.name)
        )
    }

    /// The name as people read it.
    pub(super) fn shown(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// The statement that sends a piece of the table.
    pub(super) fn copy_out(&self, piece: &Piece) -> String {
        let name = self.sql_name();
        let columns = self.columns.join(", ");
        let mut conditions: Vec<String> = Vec::new();
        if let Some((begin, end)) = piece.blocks {
            conditions.push(format!("ctid >= '({begin},0)'::pg_catalog.tid"));
            conditions.extend(end.map(|end| format!("ctid < '({end},0)'::pg_catalog.tid")));
        }
        if let Some(condition) = &self.condition {
            let condition = condition.trim();
            let stripped = condition
                .get(..5)
                .filter(|w| w.eq_ignore_ascii_case("where"));
            let condition = stripped.map_or(condition, |_| &condition[5..]);
            conditions.push(format!("({condition})"));
        }
        match (conditions.is_empty(), self.columns.is_empty()) {
            (true, true) => format!("COPY {name} TO STDOUT"),
            (true, false) => format!("COPY {name} ({columns}) TO STDOUT"),
            (false, _) => {
                let conditions = conditions.join(" AND ");
                format!("COPY (SELECT {columns} FROM ONLY {name} WHERE {conditions}) TO STDOUT")
            }
        }
    }
}

pub(super) async fn read(session: &Session, major: u32) -> Result<Catalog> {
    let mut left_out = read_left_out(session).await?;
    left_out.extend(roles::read_left_out(session).await?);
    Ok(Catalog {
        facts: properties::read(session, major).await?,
        roles: roles::read(session, major).await?,
        tables: read_tables(session, major).await?,
        large_objects: read_large_objects(session).await?,
        left_out,
    })
}

/// Keeps the tables as they are while they are copied: no other session may alter or drop them.
pub(super) async fn lock(session: &Session, tables: &[Table]) -> Result<()> {
    for batch in tables.chunks(500) {
        let names = batch
            .iter()
            .map(Table::sql_name)
            .collect::<Vec<_>>()
            .join(", ");
        let sql = format!("LOCK TABLE {names} IN ACCESS SHARE MODE");
        session
            .batch_execute(&sql)
            .await
            .map_err(|e| failed("locking the tables", &e))?;
    }
    Ok(())
}

/// What all columns of these tables are, in one value that is equal if they are.
pub(super) async fn columns(session: &Session, tables: &[Table]) -> Result<String> {
    let sql = "SELECT coalesce(md5(string_agg(concat_ws(' ', a.attrelid, a.attnum, a.attname,
                   a.atttypid, a.atttypmod, a.attgenerated), ',' ORDER BY a.attrelid, a.attnum)), '')
               FROM pg_catalog.pg_attribute a
               JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               WHERE a.attnum > 0 AND NOT a.attisdropped
                 AND (n.nspname::text, c.relname::text) IN
                     (SELECT * FROM unnest($1::text[], $2::text[]))";
    let schemas: Vec<&str> = tables.iter().map(|t| t.schema.as_str()).collect();
    let names: Vec<&str> = tables.iter().map(|t| t.name.as_str()).collect();
    let row = session
        .query_one(sql, &[&schemas, &names])
        .await
        .map_err(|e| failed("reading the columns", &e))?;
    Ok(row.get(0))
}

async fn read_tables(session: &Session, major: u32) -> Result<Vec<Table>> {
    let rows = session
        .query(
            "SELECT n.nspname::text, c.relname::text,
                    pg_relation_size(c.oid), pg_table_size(c.oid),
                    ARRAY(SELECT quote_ident(a.attname) FROM pg_catalog.pg_attribute a
                          WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                            AND a.attgenerated = '' ORDER BY a.attnum),
                    x.condition
             FROM pg_catalog.pg_class c
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             LEFT JOIN (SELECT unnest(extconfig) AS oid, unnest(extcondition) AS condition
                        FROM pg_catalog.pg_extension) x ON x.oid = c.oid
             WHERE c.relkind = 'r' AND c.relpersistence <> 't'
               AND (c.relpersistence <> 'u' OR NOT pg_is_in_recovery())
               AND n.nspname NOT IN ('pg_catalog', 'information_schema')
               AND n.nspname !~ '^pg_(toast|temp)'
               AND (x.oid IS NOT NULL OR NOT EXISTS (
                   SELECT FROM pg_catalog.pg_depend d
                   WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                     AND d.objid = c.oid AND d.deptype = 'e'))
             ORDER BY 1, 2",
            &[],
        )
        .await
        .map_err(|e| failed("reading the tables", &e))?;
    let table = |(index, row): (usize, &tokio_postgres::Row)| {
        let (schema, name): (String, String) = (row.get(0), row.get(1));
        let folder = format!("postgres/data/{:05}-{}", index + 1, plain(&schema, &name));
        let size = |column: usize| u64::try_from(row.get::<_, i64>(column)).unwrap_or_default();
        Table {
            folder,
            schema,
            name,
            heap_bytes: size(2),
            total_bytes: size(3),
            columns: row.get(4),
            condition: row.get::<_, Option<String>>(5).filter(|c| !c.is_empty()),
            server_major: major,
        }
    };
    Ok(rows.iter().enumerate().map(table).collect())
}

/// A table's name for a folder: for people only, so it may be shortened and made plain.
fn plain(schema: &str, name: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || "_-".contains(c) {
            c
        } else {
            '_'
        }
    };
    let text: String = schema
        .chars()
        .map(plain)
        .chain(['.'])
        .chain(name.chars().map(plain))
        .collect();
    text.chars().take(48).collect()
}

async fn read_large_objects(session: &Session) -> Result<Vec<u32>> {
    let rows = session
        .query(
            "SELECT oid FROM pg_catalog.pg_largeobject_metadata ORDER BY oid",
            &[],
        )
        .await
        .map_err(|e| failed("reading the large objects", &e))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn read_left_out(session: &Session) -> Result<Vec<LeftOut>> {
    let rows = session
        .query(
            "SELECT format('rows of foreign table %I.%I', n.nspname, c.relname),
                    'they live on another server'
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind = 'f'
             UNION ALL
             SELECT format('rows of unlogged table %I.%I', n.nspname, c.relname),
                    'a standby does not have them'
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind = 'r' AND c.relpersistence = 'u' AND pg_is_in_recovery()
             UNION ALL
             SELECT format('tablespace %s itself', spcname),
                    'it is a folder of the server; its tables are here'
             FROM pg_catalog.pg_tablespace t
             WHERE EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.reltablespace = t.oid
                           AND NOT c.relisshared)
             UNION ALL
             SELECT format('database default tablespace %s', spcname),
                    'a database is restored into the default one of the server'
             FROM pg_catalog.pg_database d JOIN pg_catalog.pg_tablespace t ON t.oid = d.dattablespace
             WHERE d.datname = current_database() AND t.spcname <> 'pg_default'
             UNION ALL
             SELECT format('replication slot %s', slot_name), 'it belongs to the server'
             FROM pg_catalog.pg_replication_slots WHERE database = current_database()",
            &[],
        )
        .await
        .map_err(|e| failed("reading what is left out", &e))?;
    Ok(rows
        .iter()
        .map(|row| LeftOut {
            what: row.get(0),
            why: row.get(1),
        })
        .collect())
}
