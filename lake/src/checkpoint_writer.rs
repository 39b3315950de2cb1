//! Writes a checkpoint: a Parquet file of actions, one a row.
//!
//! Source of the format: the Delta transaction log protocol, "Checkpoints" (classic, one part) and "Checkpoint Schema". All
//! fields may be null, so that a row holds one action.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::json::ReaderBuilder;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use tarn_model::Result;

use crate::action::{Add, Line, Remove, Txn, encode_path};
use crate::error::internal;
use crate::snapshot::Replay;

/// Actions that are turned into columns at a time.
const ROWS_AT_ONCE: usize = 8192;

/// What was written.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) parquet: Vec<u8>,
    /// Rows.
    pub(crate) actions: usize,
}

/// The state that `replay` leads to, as a checkpoint. Files that were removed before `removed_since_ms` are forgotten.
pub(crate) fn write(replay: Replay, removed_since_ms: i64) -> Result<Written> {
    const DOING: &str = "writing a checkpoint";
    let schema = schema();
    // Snappy is what every reader of checkpoints knows.
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut writer =
        ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties)).map_err(|e| internal(DOING, e))?;
    let mut decoder = ReaderBuilder::new(schema).build_decoder().map_err(|e| internal(DOING, e))?;
    let mut actions = 0;
    let mut lines = lines(replay, removed_since_ms).peekable();
    while lines.peek().is_some() {
        let some: Vec<Line> = lines.by_ref().take(ROWS_AT_ONCE).collect();
        decoder.serialize(&some).map_err(|e| internal(DOING, e))?;
        let rows: Option<RecordBatch> = decoder.flush().map_err(|e| internal(DOING, e))?;
        if let Some(rows) = rows {
            writer.write(&rows).map_err(|e| internal(DOING, e))?;
        }
        actions += some.len();
    }
    Ok(Written { parquet: writer.into_inner().map_err(|e| internal(DOING, e))?, actions })
}

/// What it is, how far it is, what it holds, what it held.
fn lines(replay: Replay, removed_since_ms: i64) -> impl Iterator<Item = Line> {
    let of_protocol = |protocol| Line { protocol: Some(protocol), ..Line::default() };
    let of_metadata = |metadata| Line { meta_data: Some(metadata), ..Line::default() };
    let of_txn = |(app_id, version)| Line { txn: Some(Txn { app_id, version }), ..Line::default() };
    let of_add = |(_, add)| Line { add: Some(Add { data_change: false, ..add }), ..Line::default() };
    let of_remove = |(path, deleted): (String, i64)| {
        let remove = Remove {
            path: encode_path(&path),
            deletion_timestamp: Some(deleted),
            data_change: false,
            extended_file_metadata: Some(false),
            partition_values: None,
            size: None,
        };
        Line { remove: Some(remove), ..Line::default() }
    };
    let removed = replay.tombstones.into_iter().filter(move |(_, deleted)| *deleted >= removed_since_ms);
    (replay.protocol.into_iter().map(of_protocol))
        .chain(replay.metadata.into_iter().map(of_metadata))
        .chain(replay.txns.into_iter().map(of_txn))
        .chain(replay.live.into_iter().flatten().map(of_add))
        .chain(removed.map(of_remove))
}

fn schema() -> SchemaRef {
    let field = |name: &str, data_type: DataType| Field::new(name, data_type, true);
    let text = |name: &str| field(name, DataType::Utf8);
    let long = |name: &str| field(name, DataType::Int64);
    let boolean = |name: &str| field(name, DataType::Boolean);
    let texts = |name: &str| field(name, DataType::List(Arc::new(text("element"))));
    let map = |name: &str| {
        let entry = Fields::from(vec![Field::new("key", DataType::Utf8, false), text("value")]);
        field(name, DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entry), false)), false))
    };
    let action = |name: &str, fields: Vec<Field>| field(name, DataType::Struct(fields.into()));
    Arc::new(Schema::new(vec![
        action("txn", vec![text("appId"), long("version"), long("lastUpdated")]),
        action(
            "add",
            vec![
                text("path"),
                map("partitionValues"),
                long("size"),
                long("modificationTime"),
                boolean("dataChange"),
                map("tags"),
                text("stats"),
            ],
        ),
        action(
            "remove",
            vec![
                text("path"),
                long("deletionTimestamp"),
                boolean("dataChange"),
                boolean("extendedFileMetadata"),
                map("partitionValues"),
                long("size"),
            ],
        ),
        action(
            "metaData",
            vec![
                text("id"),
                text("name"),
                text("description"),
                action("format", vec![text("provider"), map("options")]),
                text("schemaString"),
                texts("partitionColumns"),
                map("configuration"),
                long("createdTime"),
            ],
        ),
        action(
            "protocol",
            vec![field("minReaderVersion", DataType::Int32), field("minWriterVersion", DataType::Int32)],
        ),
    ]))
}
