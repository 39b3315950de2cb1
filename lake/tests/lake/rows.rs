//! Lakes and rows to test with.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use tarn_lake::{Advance, Commit, Lake, LakeOptions, LakeTable, NewFile, NewTable};
use tarn_model::clock::{self, Clock};

pub(crate) fn options() -> LakeOptions {
    LakeOptions {
        target_file_bytes: 16 * 1024 * 1024,
        optimize_after_files: 4,
        checkpoint_after_commits: 10,
        vacuum_retention: Duration::from_secs(7 * 24 * 3600),
        log_retention: Duration::from_secs(30 * 24 * 3600),
    }
}

pub(crate) async fn local(folder: &std::path::Path) -> Lake {
    local_at(folder, clock::system()).await
}

pub(crate) async fn local_at(folder: &std::path::Path, clock: Arc<dyn Clock>) -> Lake {
    let url = format!("file:{}", folder.display());
    Lake::open(&url, &BTreeMap::new(), options(), clock).await.unwrap()
}

pub(crate) async fn in_memory() -> Lake {
    Lake::open("memory:", &BTreeMap::new(), options(), clock::system()).await.unwrap()
}

/// `_partition, _offset, _timestamp, origin, delay`.
pub(crate) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("_partition", DataType::Int32, false),
        Field::new("_offset", DataType::Int64, false),
        Field::new("_timestamp", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false),
        Field::new("origin", DataType::Utf8, true),
        Field::new("delay", DataType::Float64, true),
    ]))
}

pub(crate) fn new_table(partition_by: &[&str]) -> NewTable {
    NewTable {
        schema: schema(),
        partition_by: partition_by.iter().map(|name| (*name).to_owned()).collect(),
        properties: BTreeMap::from([("tarn.topic_uuid".to_owned(), "t".to_owned())]),
    }
}

const ORIGINS: [Option<&str>; 4] = [Some("EWR"), Some("J F/K: 100%"), None, Some("LGA")];

/// Rows of `partition` at offsets `[from, to)`.
pub(crate) fn rows(partition: i32, from: i64, to: i64) -> RecordBatch {
    let n = usize::try_from(to - from).unwrap();
    let origin = |offset: i64| ORIGINS[usize::try_from(offset % 4).unwrap()];
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from(vec![partition; n])),
        Arc::new(Int64Array::from_iter_values(from..to)),
        Arc::new(
            TimestampMicrosecondArray::from_iter_values((from..to).map(|o| 1_700_000_000_000_000 + o))
                .with_timezone("UTC"),
        ),
        Arc::new((from..to).map(origin).collect::<StringArray>()),
        Arc::new((from..to).map(|o| (o % 3 != 0).then_some(o as f64 / 2.0)).collect::<Float64Array>()),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

pub(crate) fn app(partition: i32) -> String {
    format!("tarn/t/{partition}")
}

pub(crate) fn mark(partition: i32) -> String {
    format!("end/{partition}")
}

pub(crate) fn advance(partition: i32, from: i64, to: i64) -> Advance {
    Advance { app_id: app(partition), expected: (from > 0).then_some(from), to }
}

pub(crate) fn commit_of(files: Vec<NewFile>, advances: Vec<Advance>) -> Commit {
    Commit { files, advances, operation: "WRITE".into(), ..Commit::default() }
}

/// Writes and commits offsets `[from, to)` of `partition`, with a mark of how far they go.
pub(crate) async fn append(table: &LakeTable, partition: i32, from: i64, to: i64) -> tarn_model::Result<()> {
    let files = table.write(vec![rows(partition, from, to)]).await?;
    let marks = BTreeMap::from([(mark(partition), to)]);
    let commit = Commit { marks, ..commit_of(files, vec![advance(partition, from, to)]) };
    table.commit(commit).await.map(|_| ())
}

/// `(_partition, _offset, origin)` of every row that the snapshot has, sorted.
pub(crate) async fn contents(lake: &Lake, table: &LakeTable) -> Vec<(i32, i64, Option<String>)> {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Int32Type, Int64Type};
    use object_store::ObjectStoreExt;
    let snapshot = table.snapshot();
    let mut all = Vec::new();
    for (i, file) in snapshot.files.iter().enumerate() {
        let bytes = lake.store().get(&file.path).await.unwrap().bytes().await.unwrap();
        assert_eq!(bytes.len() as u64, file.size);
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(bytes)
            .unwrap()
            .build()
            .unwrap();
        let mut n = 0;
        for batch in reader {
            let batch = batch.unwrap();
            let partitions =
                batch.column_by_name("_partition").map(|c| c.as_primitive::<Int32Type>().clone());
            let offsets = batch.column_by_name("_offset").unwrap().as_primitive::<Int64Type>().clone();
            let origins = batch.column_by_name("origin").map(|c| c.as_string::<i32>().clone());
            let value = |name: &str| {
                let place = snapshot.partition_by.iter().position(|by| by == name).unwrap();
                file.partition_values[place].clone()
            };
            for row in 0..batch.num_rows() {
                let partition = partitions
                    .as_ref()
                    .map_or_else(|| value("_partition").unwrap().parse().unwrap(), |p| p.value(row));
                let origin = match &origins {
                    Some(origins) => origins.is_valid(row).then(|| origins.value(row).to_owned()),
                    None => value("origin"),
                };
                all.push((partition, offsets.value(row), origin));
                n += 1;
            }
        }
        assert_eq!(snapshot.statistics.rows.value(i), n, "statistics count the rows");
    }
    all.sort();
    all
}

/// What [`contents`] is for offsets `[0, to)` of one partition.
pub(crate) fn expected(partition: i32, to: i64) -> Vec<(i32, i64, Option<String>)> {
    (0..to).map(|o| (partition, o, ORIGINS[usize::try_from(o % 4).unwrap()].map(str::to_owned))).collect()
}
