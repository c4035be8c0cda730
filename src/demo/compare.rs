//! The demo's own proof that data came back: every row of every table, read before the loss and
//! after the restore by other means than backup and restore use themselves.

use crate::adapters::postgres::{Address, Session, quote_identifier};
use crate::adapters::sqlite;
use crate::error::{Context, Error, Result};
use rusqlite::types::ValueRef;
use std::collections::BTreeMap;
use std::path::Path;
use xxhash_rust::xxh3::Xxh3;

/// What one table holds: how many rows, and a digest that does not depend on their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Contents {
    rows: u64,
    digest: u128,
}

/// What all tables hold at one moment, by table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Picture(BTreeMap<String, Contents>);

/// Two pictures that are the same, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Compared {
    /// Tables in both.
    pub tables: u64,
    /// Rows in both.
    pub rows: u64,
}

impl Picture {
    /// Takes in every table of the `SQLite` database `path`, under the name `label`.
    pub(super) fn add_sqlite(&mut self, label: &str, path: &Path) -> Result<()> {
        let cannot = || format!("the tables of {} cannot be read", path.display());
        let mut db = sqlite::open_read_only(path)?;
        // One transaction: one moment for all tables.
        let db = db.transaction().context(cannot)?;
        let mut tables = db
            .prepare("SELECT name FROM sqlite_master WHERE type = 'table'")
            .context(cannot)?;
        let names = tables
            .query_map([], |row| row.get::<_, String>(0))
            .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>)
            .context(cannot)?;
        for name in names {
            let contents = sqlite_table(&db, &name).context(cannot)?;
            self.0.insert(format!("{label}.{name}"), contents);
        }
        Ok(())
    }

    /// Takes in every table of the database at `address`, of every schema.
    pub(super) async fn add_postgres(&mut self, address: &Address) -> Result<()> {
        let cannot = || format!("the tables at {} cannot be read", address.shown());
        let mut session = Session::open(address).await?;
        let session = session
            .build_transaction()
            .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await
            .context(cannot)?;
        let tables = session
            .query(
                "SELECT schemaname, tablename FROM pg_tables \
                 WHERE schemaname NOT LIKE 'pg\\_%' AND schemaname <> 'information_schema'",
                &[],
            )
            .await
            .context(cannot)?;
        for table in tables {
            let (schema, name): (String, String) = (table.get(0), table.get(1));
            let sql = format!(
                "SELECT count(*), coalesce(sum(('x' || substr(md5(t::text), 1, 15))::bit(60)\
                 ::bigint::numeric), 0)::text FROM {}.{} t",
                quote_identifier(&schema),
                quote_identifier(&name)
            );
            let row = session.query_one(&sql, &[]).await.context(cannot)?;
            let contents = Contents {
                rows: u64::try_from(row.get::<_, i64>(0)).context(cannot)?,
                digest: row.get::<_, &str>(1).parse().context(cannot)?,
            };
            self.0.insert(format!("{schema}.{name}"), contents);
        }
        Ok(())
    }

    /// The tables that do not hold the same in `other`, or are missing from one of the two.
    pub(super) fn differences(&self, other: &Self) -> Vec<String> {
        let names = self.0.keys().chain(other.0.keys());
        let mut names: Vec<String> = names
            .filter(|name| self.0.get(*name) != other.0.get(*name))
            .cloned()
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Leaves out tables that moved by themselves.
    pub(super) fn forget(&mut self, tables: &[String]) {
        for table in tables {
            self.0.remove(table);
        }
    }

    /// Fails unless `restored` holds what this picture holds, table by table.
    pub(super) fn require_same(&self, restored: &Self) -> Result<Compared> {
        if self.0.is_empty() {
            return Err(Error::bad_data("there is no table to compare"));
        }
        let differences = self.differences(restored);
        if let Some(first) = differences.first() {
            let rows = |picture: &Self| {
                let contents = picture.0.get(first);
                contents.map_or_else(|| "no table".to_owned(), |c| format!("{} rows", c.rows))
            };
            return Err(Error::bad_data(format!(
                "restored data differs from what was backed up in {} tables: {first} had {} and \
                 has {}",
                differences.len(),
                rows(self),
                rows(restored)
            ))
            .hint("Run the demo again with --keep and report this with the folder it names."));
        }
        Ok(Compared {
            tables: self.0.len() as u64,
            rows: self.0.values().map(|c| c.rows).sum(),
        })
    }
}

/// Reads the whole table. Rows are hashed one by one and the hashes added up, since the order in
/// which a restored table gives its rows may be another one.
fn sqlite_table(db: &rusqlite::Connection, name: &str) -> rusqlite::Result<Contents> {
    let mut statement = db.prepare(&format!("SELECT * FROM {}", quote_identifier(name)))?;
    let columns: Vec<String> = statement
        .column_names()
        .into_iter()
        .map(str::to_owned)
        .collect();
    let mut contents = Contents { rows: 0, digest: 0 };
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let mut hash = Xxh3::new();
        for (position, column) in columns.iter().enumerate() {
            hash.update(column.as_bytes());
            hash_value(&mut hash, row.get_ref(position)?);
        }
        contents.rows += 1;
        contents.digest = contents.digest.wrapping_add(hash.digest128());
    }
    Ok(contents)
}

/// The kind and the length go in as well, so that no two different rows look alike.
fn hash_value(hash: &mut Xxh3, value: ValueRef<'_>) {
    let mut add = |kind: u8, bytes: &[u8]| {
        hash.update(&[kind]);
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    match value {
        ValueRef::Null => add(0, &[]),
        ValueRef::Integer(n) => add(1, &n.to_le_bytes()),
        ValueRef::Real(x) => add(2, &x.to_bits().to_le_bytes()),
        ValueRef::Text(text) => add(3, text),
        ValueRef::Blob(bytes) => add(4, bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(sql: &str) -> Picture {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        sqlite::open_or_create(&path)
            .unwrap()
            .execute_batch(sql)
            .unwrap();
        let mut picture = Picture::default();
        picture.add_sqlite("a", &path).unwrap();
        picture
    }

    #[test]
    fn the_order_of_rows_does_not_matter_and_everything_else_does() {
        let base = "CREATE TABLE t (x, y); CREATE TABLE e (z);";
        let one = picture(&format!("{base} INSERT INTO t VALUES (1, 'a'), (2, NULL)"));
        let same = picture(&format!("{base} INSERT INTO t VALUES (2, NULL), (1, 'a')"));
        let compared = one.require_same(&same).unwrap();
        assert_eq!((compared.tables, compared.rows), (2, 2));
        for other in [
            "INSERT INTO t VALUES (1, 'a'), (2, '')",
            "INSERT INTO t VALUES ('1', 'a'), (2, NULL)",
            "INSERT INTO t VALUES ('a', 1), (2, NULL)",
            "INSERT INTO t VALUES (1, 'a')",
            "INSERT INTO t VALUES (1, 'a'), (2, NULL), (2, NULL)",
            "INSERT INTO t VALUES (1, 'a'), (2, NULL); DROP TABLE e",
        ] {
            let other = picture(&format!("{base} {other}"));
            let error = one.require_same(&other).unwrap_err();
            assert_eq!(error.kind(), crate::error::ErrorKind::BadData);
        }
        assert!(Picture::default().require_same(&one).is_err());
    }
}
