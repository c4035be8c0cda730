//! What is in the databases, read without k1ops: every table's rows, digested as
//! docs/archive-format.md says.

use k1ops::archive::{Archive, RowDigest, Source};
use rusqlite::types::ValueRef;
use std::collections::BTreeMap;
use std::path::Path;

/// Every table's digest, by database and table.
pub type Content = BTreeMap<String, RowDigest>;

/// What an archive's manifest says is in it.
pub fn of_archive(path: &Path) -> Content {
    let archive = Archive::open(path).unwrap();
    let mut content = Content::new();
    for source in &archive.manifest().sources {
        match source {
            Source::Postgres(postgres) => content.extend(postgres.tables.iter().map(|table| {
                let name = format!("{}.{}", table.schema, table.name);
                (name, table.digest)
            })),
            Source::Sqlite(sqlite) => content.extend(sqlite.tables.iter().map(|table| {
                let name = format!("{}.{}", sqlite.name, table.name);
                (name, table.digest)
            })),
            Source::Physical(_) | Source::Config(_) => {}
        }
    }
    content
}

/// The tables of an `SQLite` file.
pub fn of_sqlite(name: &str, path: &Path) -> Content {
    let connection = k1ops::adapters::sqlite::open_read_only(path).unwrap();
    let said: String = connection
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(said, "ok", "{}", path.display());
    let mut content = Content::new();
    for table in ["workflow", "pair"] {
        let mut statement = connection
            .prepare(&format!("SELECT * FROM {table}"))
            .unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        let mut digest = RowDigest::default();
        while let Some(row) = rows.next().unwrap() {
            let mut bytes = Vec::new();
            for column in 0..columns {
                encode(row.get_ref(column).unwrap(), &mut bytes);
            }
            digest.add(&bytes);
        }
        content.insert(format!("{name}.{table}"), digest);
    }
    content
}

fn encode(value: ValueRef<'_>, into: &mut Vec<u8>) {
    let mut long = |tag: u8, bytes: &[u8]| {
        into.push(tag);
        into.extend((bytes.len() as u64).to_be_bytes());
        into.extend(bytes);
    };
    match value {
        ValueRef::Text(text) => long(3, text),
        ValueRef::Blob(blob) => long(4, blob),
        ValueRef::Null => into.push(0),
        ValueRef::Integer(number) => {
            into.push(1);
            into.extend(number.to_be_bytes());
        }
        ValueRef::Real(number) => {
            into.push(2);
            into.extend(number.to_bits().to_be_bytes());
        }
    }
}

/// What `psql` answered to [`postgres_script`].
pub fn of_psql(output: &str) -> Content {
    let mut content = Content::new();
    let mut table = String::new();
    for line in output.lines() {
        if let Some(name) = line.strip_prefix("@table ") {
            name.clone_into(&mut table);
            content.insert(table.clone(), RowDigest::default());
        } else {
            content.get_mut(&table).unwrap().add(line.as_bytes());
        }
    }
    content
}

/// Writes out these tables for [`of_psql`].
pub fn postgres_script(tables: &[&str]) -> String {
    let script = |table: &&str| format!("\\echo @table {table}\nCOPY {table} TO STDOUT;\n");
    tables.iter().map(script).collect::<Vec<_>>().concat()
}
