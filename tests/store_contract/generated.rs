//! The same generated data in both stores gives the same answers, row by row.

use crate::bed::{Bed, all, runtime};
use chrono::DateTime;
use k1ops::store::{
    AgentFinish, AgentStart, AgentStatus, NewGate, NewWorkflow, Store, SummaryFilter,
};
use proptest::prelude::*;
use uuid::Uuid;

/// What a test records for one workflow.
#[derive(Debug, Clone)]
struct Generated {
    created: i64,
    source: String,
    executions: Vec<(i64, Option<(i64, AgentStatus)>)>,
    gates: Vec<(bool, bool)>,
}

/// Microseconds since 1970, from 1900 to 2100.
fn micros() -> impl Strategy<Value = i64> {
    -2_208_988_800_000_000..4_102_444_800_000_000_i64
}

fn generated() -> impl Strategy<Value = Generated> {
    let status = prop_oneof![
        Just(AgentStatus::Completed),
        Just(AgentStatus::Failed),
        Just(AgentStatus::TimedOut),
        Just(AgentStatus::Canceled),
        Just(AgentStatus::Running),
    ];
    let execution = (micros(), proptest::option::of((micros(), status)));
    (
        // Few enough moments that some workflows share one.
        prop_oneof![micros(), Just(0), Just(1)],
        prop_oneof![Just("MCP".to_owned()), "[^\\x00]{0,12}"],
        proptest::collection::vec(execution, 0..5),
        proptest::collection::vec(any::<(bool, bool)>(), 0..5),
    )
        .prop_map(|(created, source, executions, gates)| Generated {
            created,
            source,
            executions,
            gates,
        })
}

async fn record(store: &Store, n: usize, data: &Generated) {
    let time = |micros| DateTime::from_timestamp_micros(micros).unwrap();
    let mut workflow = NewWorkflow::new(format!("w{n}"));
    // The same ids in both, in an order that is not that of the creation.
    workflow.workflow_id =
        Uuid::from_u128(0x1234_5678_9abc_def1_u128.rotate_left(u32::try_from(7 * n).unwrap()));
    workflow.created_at = time(data.created);
    workflow.source.clone_from(&data.source);
    let id = store.record_workflow(workflow).await.unwrap();
    for (start, end) in &data.executions {
        let mut begin = AgentStart::new(id, "t", "coder");
        begin.started_at = time(*start);
        let execution = store.start_agent_execution(begin).await.unwrap();
        if let Some((at, status)) = end {
            let mut finish = AgentFinish::new(*status);
            finish.completed_at = time(*at);
            store
                .finish_agent_execution(execution, finish)
                .await
                .unwrap();
        }
    }
    for (passed, critical) in &data.gates {
        let mut gate = NewGate::new(id, "t", "g", *passed);
        gate.critical = *critical;
        store.record_gate(gate).await.unwrap();
    }
}

#[test]
fn both_stores_answer_the_same_for_the_same_data() {
    let (runtime, beds) = (runtime(), [Bed::postgres(), Bed::sqlite()]);
    let stores = beds.each_ref().map(|bed| runtime.block_on(bed.open()));
    let config = ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(
        data in proptest::collection::vec(generated(), 1..8),
        limit in proptest::option::of(0..9_u32),
        since in proptest::option::of(micros()),
        source in proptest::option::of(Just("MCP".to_owned())),
    )| {
        let filter = SummaryFilter {
            limit,
            since: since.map(|m| DateTime::from_timestamp_micros(m).unwrap()),
            source,
            workflow: None,
        };
        let mut answers = Vec::new();
        for (bed, store) in beds.iter().zip(&stores) {
            bed.run("DELETE FROM k1_workflow_metadata");
            answers.push(runtime.block_on(async {
                for (n, workflow) in data.iter().enumerate() {
                    record(store, n, workflow).await;
                }
                let everything = all(store).await;
                let filtered = store.workflow_summaries(filter.clone()).await.unwrap();
                (everything, filtered, store.counts().await.unwrap())
            }));
        }
        prop_assert_eq!(answers[0].0.len(), data.len());
        prop_assert_eq!(&answers[0], &answers[1]);
    });
}
