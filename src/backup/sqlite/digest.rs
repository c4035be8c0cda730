//! The digests of a database's tables.
//!
//! A row's canonical form is the sequence of its columns in the table's order, each as a tag and a
//! content: `0` NULL; `1` integer, eight bytes, big-endian; `2` real, eight bytes of IEEE 754,
//! big-endian; `3` text and `4` blob, a length of eight bytes, big-endian, then the bytes. Two rows
//! are therefore equal exactly if they hold the same values of the same types.

use crate::adapters::sqlite::because;
use crate::archive::{RowDigest, SqliteTable};
use crate::error::Result;
use crate::interrupt::Interrupt;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

/// Rows between two looks at the interrupt.
const LOOK_EVERY: u64 = 4096;

/// The digest of every table that stores rows: ordinary ones and those beneath virtual tables.
pub fn digest_tables(connection: &Connection, interrupt: &Interrupt) -> Result<Vec<SqliteTable>> {
    let mut tables = Vec::new();
    for name in table_names(connection)? {
        let digest = digest_table(connection, &name, interrupt)?;
        tables.push(SqliteTable { name, digest });
    }
    Ok(tables)
}

fn table_names(connection: &Connection) -> Result<Vec<String>> {
    let cannot = || "the list of tables cannot be read";
    let mut statement = connection
        .prepare(
            "SELECT name FROM pragma_table_list \
             WHERE schema = 'main' AND type IN ('table', 'shadow') \
               AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name",
        )
        .map_err(because(cannot))?;
    let names = statement
        .query_map([], |row| row.get(0))
        .map_err(because(cannot))?;
    names.collect::<Result<_, _>>().map_err(because(cannot))
}

fn digest_table(connection: &Connection, name: &str, interrupt: &Interrupt) -> Result<RowDigest> {
    let cannot = || format!("table {name} cannot be read");
    let quoted = name.replace('"', "\"\"");
    let mut statement = connection
        .prepare(&format!("SELECT * FROM \"{quoted}\""))
        .map_err(because(cannot))?;
    let columns = statement.column_count();
    let mut rows = statement.query([]).map_err(because(cannot))?;
    let mut digest = RowDigest::default();
    let mut encoded = Vec::new();
    while let Some(row) = rows.next().map_err(because(cannot))? {
        if digest.rows.is_multiple_of(LOOK_EVERY) {
            interrupt.check()?;
        }
        encoded.clear();
        encode_row(row, columns, &mut encoded).map_err(because(cannot))?;
        digest.add(&encoded);
    }
    Ok(digest)
}

/// Appends a row's canonical form.
pub fn encode_row(row: &Row<'_>, columns: usize, to: &mut Vec<u8>) -> rusqlite::Result<()> {
    for column in 0..columns {
        match row.get_ref(column)? {
            ValueRef::Null => to.push(0),
            ValueRef::Integer(value) => {
                to.push(1);
                to.extend_from_slice(&value.to_be_bytes());
            }
            ValueRef::Real(value) => {
                to.push(2);
                to.extend_from_slice(&value.to_bits().to_be_bytes());
            }
            ValueRef::Text(bytes) => encode_bytes(3, bytes, to),
            ValueRef::Blob(bytes) => encode_bytes(4, bytes, to),
        }
    }
    Ok(())
}

fn encode_bytes(tag: u8, bytes: &[u8], to: &mut Vec<u8>) {
    to.push(tag);
    to.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
    to.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest_of(value: &str) -> RowDigest {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch(&format!(
                "CREATE TABLE t(a, b); INSERT INTO t VALUES ({value})"
            ))
            .unwrap();
        let tables = digest_tables(&connection, &Interrupt::default()).unwrap();
        assert_eq!(tables[0].name, "t");
        tables[0].digest
    }

    #[test]
    fn values_of_different_types_differ() {
        let rows = [
            "NULL, 1", "1, NULL", "1, 1", "'1', 1", "x'31', 1", "1.0, 1", "'', 1", "x'', 1",
            "'a', 'b'", "'ab', ''", "'1', '1'",
        ];
        for (i, a) in rows.iter().enumerate() {
            assert_eq!(digest_of(a), digest_of(a));
            for b in &rows[i + 1..] {
                assert_ne!(digest_of(a), digest_of(b), "{a} / {b}");
            }
        }
    }

    #[test]
    fn tables_beneath_virtual_ones_count_and_the_librarys_own_do_not() {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch(
                "CREATE TABLE \"odd \"\"name\"(id INTEGER PRIMARY KEY AUTOINCREMENT, b BLOB);
                 INSERT INTO \"odd \"\"name\"(b) VALUES (x'00'), (NULL);
                 CREATE TABLE kv(k TEXT PRIMARY KEY, v) WITHOUT ROWID;
                 CREATE VIEW seen AS SELECT * FROM kv;",
            )
            .unwrap();
        let tables = digest_tables(&connection, &Interrupt::default()).unwrap();
        let names: Vec<_> = tables
            .iter()
            .map(|t| (t.name.as_str(), t.digest.rows))
            .collect();
        assert_eq!(names, [("kv", 0), ("odd \"name", 2)]);
    }
}
