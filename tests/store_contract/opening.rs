//! Opening: what a new store has, what an old one gets, and who is refused.

use crate::bed::{Bed, INDEXED, TABLES, all, ids, notes, runtime};
use k1ops::error::ErrorKind;
use k1ops::event::Events;
use k1ops::store::{Counts, NewWorkflow, Place, Store, latest_version};
use std::sync::{Arc, Barrier};

crate::contracts! {
    a_new_store_has_the_columns_and_indexes_of_the_original,
    opening_again_changes_nothing_and_says_nothing,
    a_store_that_is_behind_is_brought_up_to_date_and_says_so,
    eight_opens_at_once_make_one_store,
    a_newer_store_is_refused_and_left_alone,
    a_migration_with_another_text_is_refused,
    a_place_without_a_store_is_missing_and_stays_so,
    reading_only_cannot_write,
}

async fn a_new_store_has_the_columns_and_indexes_of_the_original(bed: Bed) {
    bed.open().await;
    let expected = [
        "workflow_id conductor_execution_id created_at updated_at user_id source tags \
        custom_metadata",
        "metric_id workflow_id task_id metric_name metric_value metric_unit recorded_at tags",
        "gate_id workflow_id task_id gate_name gate_threshold actual_value passed critical \
        checked_at details",
        "execution_id workflow_id task_id agent_type started_at completed_at status exit_code \
        stdout_log stderr_log result_file_path metrics",
    ];
    for (table, expected) in TABLES.iter().zip(expected) {
        assert_eq!(bed.columns_of(table).join(" "), expected, "{table}");
    }
    assert_eq!(
        bed.columns_of("k1_workflow_summary").join(" "),
        "workflow_id conductor_execution_id created_at source total_tasks completed_tasks \
        failed_tasks total_quality_gates passed_quality_gates critical_failures workflow_started \
        workflow_completed duration_seconds"
    );
    assert_eq!(
        bed.columns_of("k1_schema_migrations").join(" "),
        "version name checksum applied_at"
    );
    assert_eq!(bed.indexed(), INDEXED);
}

const MIGRATIONS: &str = "SELECT version || name || checksum || applied_at \
    FROM k1_schema_migrations ORDER BY version";

async fn opening_again_changes_nothing_and_says_nothing(bed: Bed) {
    let (events, notes) = notes();
    let store = Store::open(&bed.place(), &events).await.unwrap();
    store.record_workflow(NewWorkflow::new("a")).await.unwrap();
    let before = bed.column(MIGRATIONS);
    for _ in 0..2 {
        Store::open(&bed.place(), &events).await.unwrap();
    }
    assert_eq!(bed.column(MIGRATIONS), before);
    assert_eq!(before.len(), usize::try_from(latest_version()).unwrap());
    assert_eq!(ids(&all(&store).await), ["a"]);
    assert_eq!(*notes.lock().unwrap(), Vec::<String>::new());
}

async fn a_store_that_is_behind_is_brought_up_to_date_and_says_so(bed: Bed) {
    let store = bed.open().await;
    store.record_workflow(NewWorkflow::new("a")).await.unwrap();
    drop(store);
    bed.run("DROP VIEW k1_workflow_summary; DELETE FROM k1_schema_migrations WHERE version > 1");

    let error = Store::open_read_only(&bed.place()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing);
    assert!(error.to_string().contains("schema version 1"), "{error}");

    let (events, notes) = notes();
    let store = Store::open_for_reading(&bed.place(), &events)
        .await
        .unwrap();
    assert_eq!(ids(&all(&store).await), ["a"]);
    assert_eq!(bed.indexed(), INDEXED, "no index is made twice");
    let notes = notes.lock().unwrap();
    assert_eq!(notes.len(), 1);
    assert!(notes[0].contains("from schema version 1 to 4"), "{notes:?}");
}

async fn eight_opens_at_once_make_one_store(bed: Bed) {
    let barrier = Arc::new(Barrier::new(8));
    let threads: Vec<_> = (0..8)
        .map(|n| {
            let (place, barrier) = (bed.place(), barrier.clone());
            // A runtime each, so that nothing is shared but the database, as among processes.
            std::thread::spawn(move || {
                runtime().block_on(async {
                    barrier.wait();
                    let store = Store::open(&place, &Events::silent()).await?;
                    store
                        .record_workflow(NewWorkflow::new(format!("w{n}")))
                        .await
                })
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap().unwrap();
    }
    let store = Store::open_read_only(&bed.place()).await.unwrap();
    assert_eq!(store.counts().await.unwrap().workflows, 8);
    assert_eq!(
        bed.column("SELECT version FROM k1_schema_migrations ORDER BY version"),
        ["1", "2", "3", "4"]
    );
    assert_eq!(bed.indexed(), INDEXED);
}

async fn a_newer_store_is_refused_and_left_alone(bed: Bed) {
    bed.open().await;
    bed.run("INSERT INTO k1_schema_migrations (version, name, checksum) VALUES (99, 'x', 'y')");
    let before = bed.column(MIGRATIONS);
    let events = Events::silent();
    for error in [
        Store::open(&bed.place(), &events).await.unwrap_err(),
        Store::open_read_only(&bed.place()).await.unwrap_err(),
        Store::open_for_reading(&bed.place(), &events)
            .await
            .unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Missing);
        let text = error.to_string();
        assert!(text.contains("schema version 99"), "{text}");
        assert!(
            text.contains(&format!("version {}", latest_version())),
            "{text}"
        );
        assert!(error.hint_text().unwrap().contains("Upgrade k1ops"));
    }
    assert_eq!(bed.column(MIGRATIONS), before);
}

async fn a_migration_with_another_text_is_refused(bed: Bed) {
    bed.open().await;
    bed.run("UPDATE k1_schema_migrations SET checksum = 'other' WHERE version = 2");
    let error = Store::open(&bed.place(), &Events::silent())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadData);
    assert!(
        error.to_string().contains("migration 2 (indexes)"),
        "{error}"
    );
}

async fn a_place_without_a_store_is_missing_and_stays_so(bed: Bed) {
    let events = Events::silent();
    for error in [
        Store::open_read_only(&bed.place()).await.unwrap_err(),
        Store::open_for_reading(&bed.place(), &events)
            .await
            .unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
        assert!(error.hint_text().is_some());
    }
    match bed.place() {
        Place::Sqlite(path) => assert!(!path.exists()),
        Place::Postgres(_) => assert_eq!(
            bed.column("SELECT relname FROM pg_class WHERE relname LIKE 'k1%'"),
            Vec::<String>::new()
        ),
    }
}

async fn reading_only_cannot_write(bed: Bed) {
    bed.open().await;
    let store = Store::open_read_only(&bed.place()).await.unwrap();
    store
        .record_workflow(NewWorkflow::new("a"))
        .await
        .unwrap_err();
    assert_eq!(store.counts().await.unwrap(), Counts::default());
}
