//! What only SQLite has: a file, its mode, and checks instead of types.

use crate::bed::{Bed, runtime};
use k1ops::error::ErrorKind;
use k1ops::event::Events;
use k1ops::store::{Place, Store};
use std::os::unix::fs::PermissionsExt;

#[test]
fn an_sqlite_store_is_private_and_in_wal_mode() {
    let bed = Bed::sqlite();
    let store = runtime().block_on(bed.open());
    let Place::Sqlite(path) = bed.place() else {
        unreachable!("an SQLite bed")
    };
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(bed.column("PRAGMA journal_mode"), ["wal"]);
    drop(store);
}

#[test]
fn a_file_that_is_no_database_is_bad_data_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("k1.db");
    let garbage = b"not a database at all, but long enough to be looked at".repeat(40);
    std::fs::write(&path, &garbage).unwrap();
    let place = Place::Sqlite(path.clone());
    for error in [
        runtime()
            .block_on(Store::open(&place, &Events::silent()))
            .unwrap_err(),
        runtime()
            .block_on(Store::open_read_only(&place))
            .unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::BadData, "{error}");
    }
    assert_eq!(std::fs::read(&path).unwrap(), garbage);
}

#[test]
fn sqlite_refuses_what_other_programs_write_wrongly() {
    let bed = Bed::sqlite();
    runtime().block_on(bed.open());
    let Place::Sqlite(path) = bed.place() else {
        unreachable!("an SQLite bed")
    };
    let db = rusqlite::Connection::open(path).unwrap();
    let insert = "INSERT INTO k1_workflow_metadata (workflow_id, conductor_execution_id, ";
    let id = "'0a7b9c9e-3f57-4a52-9a3c-0d5f3f9e1b11', 'a', ";
    db.execute_batch(&format!(
        "{insert}created_at) VALUES ({id}'2026-01-01T00:00:00.000000Z')"
    ))
    .unwrap();
    for (column, wrong) in [
        ("created_at", "'2026-01-01 00:00:00'"),
        ("created_at", "'2026-01-01T00:00:00Z'"),
        ("tags", "'{not json'"),
        ("user_id", "x'00'"),
    ] {
        let other = id.replace("'0a7", "'1a7").replace("'a'", "'b'");
        let sql = format!("{insert}{column}) VALUES ({other}{wrong})");
        assert!(db.execute_batch(&sql).is_err(), "{sql}");
    }
}
