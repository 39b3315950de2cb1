use arrow::array::{AsArray, Int32Array, Int64Array, TimestampMicrosecondArray};
use arrow::datatypes::Int64Type;
use datafusion::logical_expr::{col, lit};
use datafusion::object_store::ObjectStoreExt;
use tarn_lake::{Advance, Commit};
use tarn_model::columns::Columns;
use tarn_table::scan::sql_schema;

use super::*;
use crate::definition::Way;
use crate::oracle::{TOPIC_ID, commit, create, memory_lake};
use crate::versions::Versions;

const GROUPS: i64 = 1_000_000;

/// Rows that come out of all scans of files below `plan`, once it has run.
fn rows_from_files(plan: &Arc<dyn ExecutionPlan>) -> usize {
    let own = if plan.name() == "DataSourceExec" {
        plan.metrics().and_then(|metrics| metrics.output_rows()).unwrap_or(0)
    } else {
        0
    };
    own + plan.children().into_iter().map(rows_from_files).sum::<usize>()
}

#[tokio::test]
async fn a_point_of_a_million_groups_reads_few_of_them() {
    let lake = memory_lake().await;
    let planner = Planner::new(lake.store(), 1 << 30).expect("a planner");
    let schema = Columns::parse("i BIGINT").expect("columns").table_schema(false);
    let sql = "SELECT i, count(*) AS n FROM t GROUP BY i";
    let definition =
        Definition::plan(&planner, "v", sql, &|_| Some(sql_schema(&schema))).await.expect("a plan");
    let Way::States(split) = &definition.way else { panic!("{:?}", definition.way) };
    let stamp = Stamp::now(&definition.plan_hash, None);

    // Group i has come i % 5 + 1 times; they come in no order.
    let keys = (0..GROUPS).map(|at| at * 7919 % GROUPS);
    let keys = Int64Array::from_iter_values(keys);
    let counts = Int64Array::from_iter_values(keys.values().iter().map(|key| key % 5 + 1));
    let states =
        RecordBatch::try_new(Arc::clone(split.state_schema()), vec![Arc::new(keys), Arc::new(counts)]);
    let states = Arc::new(State::sorted(vec![states.expect("states")], 1).await.expect("sorted"));

    let boundary = Boundary::from_iter([(0, 3 * GROUPS)]);
    let mut versions = Versions::find(&lake, "v").await.expect("builds");
    let build = versions.create(&definition, split, &stamp, TOPIC_ID).await.expect("a build");
    let stored = states.batches.iter().map(|states| split.stored().store(states).expect("stored")).collect();
    let files = build.table.write(stored).await.expect("files");
    let app_id = format!("tarn/{TOPIC_ID}/0");
    let advances = vec![Advance { app_id, expected: None, to: 3 * GROUPS }];
    build.table.commit(Commit { files, advances, ..Commit::default() }).await.expect("a commit");

    let table = Arc::new(CutTable {
        name: "t".into(),
        schema,
        dead_letters: false,
        lake: None,
        boundary: boundary.clone(),
        tail: Vec::new(),
        tail_bytes: 0,
    });
    for cached in [Some(vec![states]), None] {
        let in_memory = cached.is_some();
        let batch = Some(Arc::new(build.states(&stamp, cached)));
        let moment = ViewMoment { batch, ..ViewMoment::default() };
        let inputs = Inputs::at(split, &moment, &stamp, &table, &boundary);
        for (only, first, groups) in [
            (col("g0").eq(lit(777_777_i64)), 777_777, 1),
            (col("g0").in_list(vec![lit(3_i64), lit(4_i64)], false), 3, 2),
            (col("g0").gt(lit(GROUPS - 4)).and(col("g0").lt(lit(GROUPS))), GROUPS - 3, 3),
            (col("g0").gt(lit(GROUPS)), 0, 0),
        ] {
            let read = Read::default();
            let plan = inputs.plan(planner.state(), Some(&only), &read).await.expect("a plan");
            let answer = split.finish(Arc::clone(&plan), 1).expect("an answer");
            let answer = planner.run(answer).await.expect("an answer");
            let rows = answer.iter().map(RecordBatch::num_rows).sum::<usize>();
            assert_eq!(rows, groups, "{only}");
            if groups > 0 {
                let values = |at: usize| answer[0].column(at).as_primitive::<Int64Type>();
                assert_eq!(values(0).values().iter().min(), Some(&first), "{only}");
                let is_right = |(key, n): (&i64, &i64)| *n == key % 5 + 1;
                assert!(values(0).values().iter().zip(values(1).values()).all(is_right), "{only}");
            }
            let (in_batches, in_files) = (read.rows.into_inner(), rows_from_files(&plan));
            let few = if in_memory { in_batches } else { in_files };
            assert!(few <= 25_000, "{only} reads {few} of {GROUPS} states, in memory: {in_memory}");
            assert_eq!(if in_memory { in_files } else { in_batches }, 0);
        }
        // Without a predicate all of them are read: the counts above mean something.
        let read = Read::default();
        let plan = inputs.plan(planner.state(), None, &read).await.expect("a plan");
        let all = planner.run(Arc::clone(&plan)).await.expect("all states");
        assert_eq!(all.iter().map(RecordBatch::num_rows).sum::<usize>(), 1_000_000);
        assert_eq!(read.rows.into_inner() + rows_from_files(&plan), 1_000_000);
    }
}

#[tokio::test]
async fn states_that_cannot_be_read_are_told_and_the_rows_are_read_instead() {
    let lake = memory_lake().await;
    let planner = Planner::new(lake.store(), 1 << 30).expect("a planner");
    let schema = Columns::parse("i BIGINT").expect("columns").table_schema(false);
    let offsets: Vec<i64> = (0..1000).collect();
    let rows = RecordBatch::try_new(
        Arc::clone(&schema),
        vec![
            Arc::new(Int32Array::from(vec![0; 1000])),
            Arc::new(Int64Array::from(offsets.clone())),
            Arc::new(TimestampMicrosecondArray::from(offsets.clone()).with_timezone("UTC")),
            Arc::new(Int64Array::from_iter_values(offsets.iter().map(|offset| offset % 10))),
        ],
    );
    let boundary = Boundary::from_iter([(0, 1000)]);
    let stored = create(&lake, "t", &schema).await;
    commit(&stored, vec![rows.expect("rows")], &boundary).await;
    let table = Arc::new(CutTable {
        name: "t".into(),
        schema: Arc::clone(&schema),
        dead_letters: false,
        lake: Some(stored.snapshot()),
        boundary: boundary.clone(),
        tail: Vec::new(),
        tail_bytes: 0,
    });
    let sql = "SELECT i, count(*) AS n FROM t GROUP BY i";
    let definition =
        Definition::plan(&planner, "v", sql, &|_| Some(sql_schema(&schema))).await.expect("a plan");
    let Way::States(split) = &definition.way else { panic!("{:?}", definition.way) };
    let stamp = Stamp::now(&definition.plan_hash, None);
    let (nothing, zero) = (ViewMoment::default(), Boundary::new());
    let made = Inputs::between(split, &nothing, &stamp, &table, &zero, &boundary);
    let made = made.reduced(&planner).await.expect("states");
    let mut versions = Versions::find(&lake, "v").await.expect("builds");
    let build = versions.create(&definition, split, &stamp, TOPIC_ID).await.expect("a build");
    let states = made.iter().map(|states| split.stored().store(states).expect("stored")).collect();
    commit(&build.table, states, &boundary).await;

    for damage in ["torn", "gone"] {
        let file = build.table.snapshot().files[0].clone();
        match damage {
            "torn" => {
                let zeros = vec![0_u8; usize::try_from(file.size).expect("small")];
                lake.store().put(&file.path, zeros.into()).await.expect("overwritten");
            }
            _ => lake.store().delete(&file.path).await.expect("deleted"),
        }
        let batch = Arc::new(build.states(&stamp, None));
        let moment = ViewMoment { batch: Some(Arc::clone(&batch)), ..ViewMoment::default() };
        let inputs = Inputs::at(split, &moment, &stamp, &table, &boundary);
        let answer = inputs.answer(&planner, &definition, &|_| None).await.expect("an answer");
        let counts: Vec<i64> = answer
            .iter()
            .flat_map(|rows| rows.column(1).as_primitive::<Int64Type>().values().to_vec())
            .collect();
        assert_eq!(counts, [100; 10], "{damage}");
        assert!(batch.is_damaged(), "{damage}");
    }
}
