//! A small lake with a topic and its tail, for tests.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::SchemaRef;
use datafusion::common::ScalarValue;
use futures::TryStreamExt;
use parking_lot::Mutex;
use tarn_lake::{Advance, Commit, Lake, LakeOptions, LakeTable, NewTable};
use tarn_model::columns::Columns;
use tarn_model::{Boundary, OffsetRange, OffsetVector, PartitionId, Result, clock};
use tarn_table::{Catalog, CutTable, Fragment, TopicHub};
use tarn_view::{Planner, Views};

use crate::{Engine, EngineOptions};

pub(crate) const TOPIC: &str = "clicks";
const TOPIC_ID: &str = "00000000-0000-0000-0000-000000000001";

/// Table `clicks` on topic `clicks`: `word VARCHAR, n BIGINT, day VARCHAR`, the lake's files apart by `day`.
pub(crate) struct Shop {
    pub(crate) engine: Engine,
    pub(crate) catalog: Catalog,
    pub(crate) hub: Arc<TopicHub>,
    pub(crate) table: LakeTable,
    pub(crate) folder: tempfile::TempDir,
    schema: SchemaRef,
    next: Mutex<HashMap<PartitionId, i64>>,
}

pub(crate) fn options() -> EngineOptions {
    EngineOptions {
        statement_memory_bytes: 256 << 20,
        statement_timeout: Duration::from_secs(60),
        statement_rows: None,
        sql_memory_bytes: 1 << 30,
    }
}

pub(crate) async fn open_lake(folder: &std::path::Path) -> Lake {
    let options = LakeOptions {
        target_file_bytes: 1 << 20,
        optimize_after_files: 2,
        checkpoint_after_commits: 1000,
        vacuum_retention: Duration::from_secs(3600),
        log_retention: Duration::from_secs(3600),
    };
    let url = format!("file:{}", folder.display());
    Lake::open(&url, &BTreeMap::new(), options, clock::system()).await.expect("a lake")
}

/// Views on `clicks`: one that is kept as states, one that is not, and one whose table is not there.
pub(crate) fn views_over(catalog: &Catalog) -> Views {
    let planner = Planner::new(catalog.lake().store(), 64 << 20).expect("a planner");
    let views = [
        (
            "by_day",
            "SELECT day, count(*) AS clicks, sum(n) AS total, max(word) AS word FROM clicks GROUP BY day",
        ),
        ("middle", "SELECT day, median(n) AS middle FROM clicks GROUP BY day"),
        ("nowhere", "SELECT count(*) FROM gone"),
    ];
    Views::new(planner, views.map(|(name, query)| (name.to_owned(), query.to_owned())))
}

impl Shop {
    pub(crate) async fn open() -> Shop {
        Shop::open_with(options()).await
    }

    pub(crate) async fn open_with(options: EngineOptions) -> Shop {
        let folder = tempfile::tempdir().expect("a folder");
        let lake = open_lake(folder.path()).await;
        let schema =
            Columns::parse("word VARCHAR, n BIGINT, day VARCHAR").expect("columns").table_schema(false);
        let properties = [("tarn.topic_uuid", TOPIC_ID), ("tarn.topic", TOPIC), ("tarn.kind", "table")];
        let new = NewTable {
            schema: schema.clone(),
            partition_by: vec!["day".to_owned()],
            properties: properties.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        };
        let table = lake.create("clicks", &new).await.expect("a table");
        let catalog = Catalog::new(lake);
        let hub = catalog.hub(TOPIC);
        hub.add_table(CutTable {
            name: "clicks".into(),
            schema: table.snapshot().schema.clone(),
            dead_letters: false,
            lake: Some(table.snapshot()),
            boundary: Boundary::new(),
            tail: Vec::new(),
            tail_bytes: 0,
        })
        .expect("a table");
        catalog.set_ready();
        let engine = Engine::new(catalog.clone(), options).expect("an engine");
        Shop { engine, catalog, hub, table, folder, schema, next: Mutex::default() }
    }

    /// The same with an engine that knows [`views_over`] its table.
    pub(crate) fn with_views(mut self) -> Shop {
        let views = views_over(&self.catalog);
        self.engine = Engine::with_views(self.catalog.clone(), views, options()).expect("an engine");
        self
    }

    /// Decodes `rows` more rows of `partition`: `word` is `w<offset>`, `n` the offset, `day` one of three or NULL.
    pub(crate) fn publish(&self, partition: PartitionId, rows: i64) {
        let from = *self.next.lock().get(&partition).unwrap_or(&0);
        let day = |offset: i64| match offset % 4 {
            0 => None,
            day => Some(format!("2026-01-0{day}")),
        };
        self.publish_days(partition, (from..from + rows).map(day).collect());
    }

    /// Decodes one more row of `partition` for each of `days`.
    pub(crate) fn publish_days(&self, partition: PartitionId, days: Vec<Option<String>>) {
        let mut next = self.next.lock();
        let from = *next.get(&partition).unwrap_or(&0);
        let to = from + i64::try_from(days.len()).expect("few");
        let offsets: Vec<i64> = (from..to).collect();
        let at = offsets.iter().map(|offset| 1_700_000_000_000_000 + offset * 1001);
        let batch = RecordBatch::try_new(
            self.schema.clone(),
            vec![
                Arc::new(Int32Array::from(vec![partition; offsets.len()])),
                Arc::new(Int64Array::from(offsets.clone())),
                Arc::new(TimestampMicrosecondArray::from_iter_values(at).with_timezone("UTC")),
                Arc::new(StringArray::from_iter_values(offsets.iter().map(|offset| format!("w{offset}")))),
                Arc::new(Int64Array::from(offsets)),
                Arc::new(StringArray::from(days)),
            ],
        );
        let fragment = Fragment::new(partition, OffsetRange::new(from, to), batch.expect("a batch"), None);
        self.hub
            .publish(partition, vec![("clicks".to_owned(), Arc::new(fragment))])
            .expect("the next offsets");
        next.insert(partition, to);
    }

    /// Writes the tail of the newest cut to the lake, and publishes more in between.
    pub(crate) async fn commit(&self, in_between: impl FnOnce()) {
        let cut = self.hub.cut();
        let tail = cut.tables["clicks"].clone();
        let rows: Vec<RecordBatch> = tail.tail_batches().map(|(_, rows)| rows.clone()).collect();
        let files = self.table.write(rows).await.expect("files");
        in_between();
        let known = self.table.snapshot();
        let to = tail.decoded();
        let advances = to
            .iter()
            .filter_map(|(partition, next)| {
                let app_id = format!("tarn/{TOPIC_ID}/{partition}");
                let expected = known.txns.get(&app_id).copied();
                (expected.unwrap_or(0) < next).then_some(Advance { app_id, expected, to: next })
            })
            .collect();
        let commit = Commit { files, advances, operation: "WRITE".to_owned(), ..Commit::default() };
        let snapshot = self.table.commit(commit).await.expect("a commit");
        self.hub.committed("clicks", snapshot, to).expect("the cut moves on");
    }

    /// Merges the lake's files.
    pub(crate) async fn optimize(&self) {
        self.table.optimize().await.expect("optimize");
        let boundary = self.hub.cut().tables["clicks"].boundary.clone();
        self.hub.committed("clicks", self.table.snapshot(), boundary).expect("the same rows");
    }

    pub(crate) async fn rows(
        &self,
        sql: &str,
        as_of: Option<&OffsetVector>,
    ) -> Result<(OffsetVector, Vec<Vec<ScalarValue>>)> {
        rows_of(&self.engine, sql, as_of).await
    }

    /// The one row of an answer, as integers.
    pub(crate) async fn numbers(&self, sql: &str, as_of: Option<&OffsetVector>) -> Vec<i64> {
        let (_, rows) = self.rows(sql, as_of).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        assert_eq!(rows.len(), 1, "{sql}");
        rows[0]
            .iter()
            .map(|value| match value.cast_to(&arrow::datatypes::DataType::Int64).expect("a number") {
                ScalarValue::Int64(value) => value.unwrap_or(-1),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    /// The physical plan, with all its files.
    pub(crate) async fn explain(&self, sql: &str) -> String {
        let (_, rows) = self.rows(&format!("EXPLAIN VERBOSE {sql}"), None).await.expect("a plan");
        let plan = rows.iter().rfind(|row| row[0].to_string() == "physical_plan").expect("a physical plan");
        plan[1].to_string()
    }
}

pub(crate) async fn rows_of(
    engine: &Engine,
    sql: &str,
    as_of: Option<&OffsetVector>,
) -> Result<(OffsetVector, Vec<Vec<ScalarValue>>)> {
    let answer = engine.query(sql, &[], as_of).await?;
    let batches: Vec<RecordBatch> = answer.rows.try_collect().await.map_err(crate::from_datafusion)?;
    let mut rows = Vec::new();
    for batch in batches {
        for at in 0..batch.num_rows() {
            rows.push(
                batch
                    .columns()
                    .iter()
                    .map(|c| ScalarValue::try_from_array(c, at).expect("a value"))
                    .collect(),
            );
        }
    }
    Ok((answer.vector, rows))
}
