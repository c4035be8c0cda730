//! What only PostgreSQL has: stores of the original init-db.sql, logins, extensions.

use crate::bed::{Bed, INDEXED, TABLES, all, at, ids, notes, runtime};
use crate::support::{self, scratch_database};
use k1ops::error::ErrorKind;
use k1ops::event::Events;
use k1ops::store::{Place, Store};

/// Every row of every K1 table of a PostgreSQL database.
fn rows(bed: &Bed) -> Vec<String> {
    TABLES
        .iter()
        .flat_map(|table| bed.column(&format!("SELECT t::text FROM {table} t ORDER BY 1")))
        .collect()
}

fn original() -> Bed {
    let database = scratch_database();
    database.run(include_str!("../fixtures/original-init-db.sql"));
    Bed::Postgres(database)
}

#[test]
fn the_original_store_is_taken_over_without_loss() {
    let bed = original();
    // What others have built on the view, and may do with it, stays.
    bed.run(
        "CREATE VIEW built_on_it AS SELECT conductor_execution_id, total_tasks
            FROM k1_workflow_summary;
        GRANT SELECT ON k1_workflow_summary TO PUBLIC",
    );
    let total = "SELECT total_tasks FROM built_on_it WHERE conductor_execution_id = 'exec-1'";
    assert_eq!(bed.column(total), ["6"], "the original view multiplies");
    let (before, indexed) = (rows(&bed), bed.indexed());
    assert_eq!(before.len(), 8);

    let (events, notes) = notes();
    let summaries = runtime().block_on(async {
        let error = Store::open_read_only(&bed.place()).await.unwrap_err();
        assert!(error.to_string().contains("schema version 0"), "{error}");
        let store = Store::open_for_reading(&bed.place(), &events)
            .await
            .unwrap();
        all(&store).await
    });

    assert!(notes.lock().unwrap()[0].contains("took over"));
    assert_eq!(rows(&bed), before, "every row is as it was");
    let mut indexed_now = bed.indexed();
    // But for the two that begin with the metric's name.
    indexed_now.dedup();
    assert_eq!(indexed_now, indexed, "no column is indexed twice");
    assert_eq!(bed.column(total), ["2"]);
    assert_eq!(
        bed.column("SELECT relacl::text FROM pg_class WHERE relname = 'k1_workflow_summary'")
            .concat()
            .matches("=r/")
            .count(),
        1
    );
    assert_eq!(ids(&summaries), ["INIT", "exec-1"]);
    let exec = &summaries[1];
    assert_eq!(exec.created_at, Some(at("2025-11-01T10:00:00.123456Z")));
    assert_eq!(
        (exec.total_tasks, exec.completed_tasks, exec.failed_tasks),
        (2, 1, 1)
    );
    assert_eq!(
        (exec.total_quality_gates, exec.passed_quality_gates),
        (3, 2)
    );
    assert_eq!(exec.critical_failures, 1);
    assert_eq!(exec.duration_seconds, Some(61.5));
}

#[test]
fn an_original_store_that_lacks_parts_gets_them() {
    let bed = original();
    bed.run(
        "DROP VIEW k1_workflow_summary;
        -- A view with fewer columns cannot be replaced in place.
        CREATE VIEW k1_workflow_summary AS SELECT source, workflow_id FROM k1_workflow_metadata;
        ALTER TABLE k1_workflow_metadata DROP COLUMN custom_metadata;
        ALTER TABLE k1_quality_gates DROP COLUMN critical, DROP COLUMN details;
        DROP INDEX idx_agents_status",
    );
    let gates = bed.column("SELECT gate_id FROM k1_quality_gates ORDER BY 1");
    let summaries = runtime().block_on(async { all(&bed.open().await).await });
    assert_eq!(ids(&summaries), ["INIT", "exec-1"]);
    assert_eq!(bed.indexed(), INDEXED);
    assert_eq!(
        bed.column("SELECT gate_id FROM k1_quality_gates ORDER BY 1"),
        gates
    );
    assert_eq!(
        bed.columns_of("k1_quality_gates")[8..].join(" "),
        "critical details"
    );
}

#[test]
fn a_takeover_that_cannot_be_done_leaves_everything_as_it_was() {
    let bed = original();
    bed.run("ALTER TABLE k1_quality_gates DROP COLUMN passed CASCADE");
    let before = rows(&bed);
    let error = runtime()
        .block_on(Store::open(&bed.place(), &Events::silent()))
        .unwrap_err();
    let causes = error.causes().concat();
    assert!(
        error.to_string().contains("migration 1 (tables)"),
        "{error}"
    );
    assert!(causes.contains("passed"), "{causes}");
    assert_eq!(rows(&bed), before);
    assert_eq!(
        bed.column("SELECT to_regclass('k1_schema_migrations')::text"),
        ["NULL"]
    );
}

#[test]
fn a_login_that_may_not_create_extensions_gets_ids_from_the_server() {
    let database = scratch_database();
    let role = format!("{}_plain", database.name);
    support::on_server(&format!(
        "DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN PASSWORD 'plain'"
    ));
    database.run(&format!("GRANT CREATE ON SCHEMA public TO {role}"));
    let server = support::address(&database.url);
    let url = format!(
        "postgres://{role}:plain@{}:{}/{}",
        server.host(),
        server.port(),
        database.name
    );
    let place = Place::Postgres(Box::new(support::address(&url)));
    let counts = runtime().block_on(async {
        let store = Store::open(&place, &Events::silent()).await.unwrap();
        database.run("INSERT INTO k1_workflow_metadata (conductor_execution_id) VALUES ('a')");
        store.counts().await.unwrap()
    });
    assert_eq!(counts.workflows, 1);
    database.run(&format!("DROP OWNED BY {role}"));
    support::on_server(&format!("DROP ROLE {role}"));
}

#[test]
fn a_new_store_makes_its_ids_with_the_extension_as_the_original_does() {
    let bed = Bed::postgres();
    runtime().block_on(bed.open());
    let defaults = bed.column(
        "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef
        WHERE pg_get_expr(adbin, adrelid) LIKE '%uuid%'",
    );
    assert_eq!(defaults, ["uuid_generate_v4()"; 4]);
}

#[test]
fn a_database_that_is_not_there_is_missing() {
    let database = scratch_database();
    let address = database.address().with_database("k1ops_test_nosuch");
    let place = Place::Postgres(Box::new(address));
    let error = runtime()
        .block_on(Store::open(&place, &Events::silent()))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing);
}
