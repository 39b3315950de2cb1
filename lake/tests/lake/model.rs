//! Any sequence of commits, upkeep, reloads and faults leaves exactly the rows of a plain model.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use proptest::prelude::*;
use tarn_lake::Lake;
use tarn_model::clock::ManualClock;

use crate::faulty::{Fault, Faulty};
use crate::rows::*;

#[derive(Debug, Clone)]
enum Step {
    Append { partition: i32, rows: i64, fault: Option<Fault> },
    Stale { partition: i32 },
    Optimize { fault: Option<Fault> },
    Vacuum,
    Checkpoint,
    CleanLog,
    Reload,
    Restart,
    Wait,
}

fn fault() -> impl Strategy<Value = Option<Fault>> {
    prop_oneof![
        4 => Just(None),
        1 => Just(Some(Fault::Before)),
        1 => Just(Some(Fault::After)),
        1 => Just(Some(Fault::AfterTaken)),
        1 => Just(Some(Fault::AfterAndUnreadable(1))),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..2_i32, 1..9_i64, fault()).prop_map(|(partition, rows, fault)| Step::Append { partition, rows, fault }),
        1 => (0..2_i32).prop_map(|partition| Step::Stale { partition }),
        2 => fault().prop_map(|fault| Step::Optimize { fault }),
        1 => Just(Step::Vacuum),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::CleanLog),
        1 => Just(Step::Reload),
        1 => Just(Step::Restart),
        1 => Just(Step::Wait),
    ]
}

async fn run(steps: Vec<Step>, by: &[&str], inner: Arc<dyn ObjectStore>) {
    let store = Faulty::over(inner);
    let clock = ManualClock::at(tarn_model::clock::Clock::now_us(&tarn_model::clock::SystemClock));
    let lake = || Lake::on_store(Arc::new(store.clone()), "model", options(), clock.clone());
    let mut current = lake();
    let mut table = current.create("t", &new_table(by)).await.unwrap();
    let mut ends: HashMap<i32, i64> = HashMap::new();
    for step in steps {
        match step {
            Step::Append { partition, rows, fault } => {
                let from = ends.get(&partition).copied().unwrap_or(0);
                if let Some(fault) = fault {
                    store.arm("_delta_log", fault);
                }
                // As an owner does it: after an error, the table says where to go on.
                if append(&table, partition, from, from + rows).await.is_err() {
                    let stands =
                        table.reload().await.unwrap().txns.get(&app(partition)).copied().unwrap_or(0);
                    assert!(stands == from || stands == from + rows, "all or nothing");
                    ends.insert(partition, stands);
                } else {
                    ends.insert(partition, from + rows);
                }
            }
            Step::Stale { partition } => {
                let end = ends.get(&partition).copied().unwrap_or(0);
                append(&table, partition, end + 1, end + 2).await.unwrap_err();
            }
            Step::Optimize { fault } => {
                if let Some(fault) = fault {
                    store.arm("_delta_log", fault);
                }
                let _ = table.optimize().await;
            }
            Step::Vacuum => drop(table.vacuum(Duration::from_secs(3600), false).await.unwrap()),
            Step::Checkpoint => table.checkpoint().await.unwrap(),
            Step::CleanLog => drop(table.clean_log().await.unwrap()),
            Step::Reload => drop(table.reload().await.unwrap()),
            Step::Restart => {
                current = lake();
                table = current.load("t", true).await.unwrap().unwrap();
            }
            Step::Wait => clock.advance(Duration::from_secs(20 * 24 * 3600)),
        }
        store.disarm();
        table.reload().await.unwrap();
        let snapshot = table.snapshot();
        for (partition, end) in &ends {
            assert_eq!(snapshot.txns.get(&app(*partition)).copied().unwrap_or(0), *end);
            assert_eq!(snapshot.marks.get(&mark(*partition)).copied().unwrap_or(0), *end);
        }
        let mut all: Vec<_> = ends.iter().flat_map(|(partition, end)| expected(*partition, *end)).collect();
        all.sort();
        assert_eq!(contents(&current, &table).await, all);
        // What is kept in memory is what a reader of the log finds.
        let fresh = lake().load("t", false).await.unwrap().unwrap();
        assert_eq!(fresh.snapshot().version, snapshot.version);
        assert_eq!(fresh.snapshot().marks, snapshot.marks);
        assert_eq!(contents(&current, &fresh).await, all);
        assert_eq!(fresh.snapshot().statistics.rows.len(), snapshot.statistics.rows.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_or_doubled(steps in prop::collection::vec(step(), 1..16), partitioned in any::<bool>()) {
        let by: &[&str] = if partitioned { &["origin"] } else { &[] };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(run(steps, by, Arc::new(InMemory::new())));
    }
}
