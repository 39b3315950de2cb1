//! Reads a checkpoint: a Parquet file of actions, one a row.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, MapArray, RecordBatch, StringArray, StructArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tarn_model::{Error, Result};

use crate::action::{Add, Format, Metadata, Protocol, Remove, Txn};
use crate::snapshot::Actions;

const ACTIONS: [&str; 5] = ["add", "remove", "txn", "metaData", "protocol"];

/// Takes the actions of a checkpoint's part into `actions`.
pub(crate) fn read(bytes: Bytes, actions: &mut Actions) -> Result<()> {
    let unreadable = |e: Box<dyn std::error::Error + Send + Sync>| {
        Error::corrupt("a checkpoint cannot be read").with_source(e)
    };
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|e| unreadable(e.into()))?;
    let wanted = builder.schema().fields().iter().enumerate();
    let roots: Vec<usize> =
        wanted.filter(|(_, field)| ACTIONS.contains(&field.name().as_str())).map(|(i, _)| i).collect();
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
    let reader = builder.with_projection(mask).build().map_err(|e| unreadable(e.into()))?;
    for batch in reader {
        read_batch(&batch.map_err(|e| unreadable(e.into()))?, actions)?;
    }
    Ok(())
}

fn read_batch(batch: &RecordBatch, actions: &mut Actions) -> Result<()> {
    if let Some(rows) = Rows::of(batch, "add") {
        let (path, stats) = (rows.text("path")?, rows.optional_text("stats")?);
        let (size, modified) = (rows.number("size")?, rows.number("modificationTime")?);
        let (values, vector) = (rows.map("partitionValues")?, rows.array("deletionVector"));
        for i in rows.present().filter(|i| path.is_valid(*i)) {
            actions.adds.push(Add {
                path: path.value(i).to_owned(),
                partition_values: values.as_ref().map(|map| entries(map, i)).unwrap_or_default(),
                size: size.value(i),
                modification_time: modified.value(i),
                // What a checkpoint holds changes nothing.
                data_change: false,
                stats: stats
                    .as_ref()
                    .filter(|stats| stats.is_valid(i))
                    .map(|stats| stats.value(i).to_owned()),
                deletion_vector: vector.filter(|vector| vector.is_valid(i)).map(|_| serde::de::IgnoredAny),
            });
        }
    }
    if let Some(rows) = Rows::of(batch, "remove") {
        let (path, deleted) = (rows.text("path")?, rows.optional_number("deletionTimestamp")?);
        for i in rows.present().filter(|i| path.is_valid(*i)) {
            actions.removes.push(Remove {
                path: path.value(i).to_owned(),
                deletion_timestamp: deleted
                    .as_ref()
                    .filter(|deleted| deleted.is_valid(i))
                    .map(|deleted| deleted.value(i)),
                data_change: false,
                extended_file_metadata: None,
                partition_values: None,
                size: None,
            });
        }
    }
    if let Some(rows) = Rows::of(batch, "txn") {
        let (app_id, version) = (rows.text("appId")?, rows.number("version")?);
        for i in rows.present().filter(|i| app_id.is_valid(*i)) {
            actions.txns.push(Txn { app_id: app_id.value(i).to_owned(), version: version.value(i) });
        }
    }
    if let Some(rows) = Rows::of(batch, "protocol") {
        let (reader, writer) = (rows.number("minReaderVersion")?, rows.number("minWriterVersion")?);
        for i in rows.present().filter(|i| reader.is_valid(*i)) {
            let version = |numbers: &Int64Array| i32::try_from(numbers.value(i)).unwrap_or(i32::MAX);
            actions.protocol = Some(Protocol {
                min_reader_version: version(&reader),
                min_writer_version: version(&writer),
                reader_features: None,
                writer_features: None,
            });
        }
    }
    if let Some(rows) = Rows::of(batch, "metaData") {
        read_metadata(&rows, actions)?;
    }
    Ok(())
}

fn read_metadata(rows: &Rows<'_>, actions: &mut Actions) -> Result<()> {
    let (id, schema) = (rows.text("id")?, rows.text("schemaString")?);
    let (name, description) = (rows.optional_text("name")?, rows.optional_text("description")?);
    let (created, configuration) = (rows.optional_number("createdTime")?, rows.map("configuration")?);
    let partition_columns = rows.array("partitionColumns").and_then(|columns| columns.as_list_opt::<i32>());
    for i in rows.present().filter(|i| schema.is_valid(*i)) {
        let text = |column: &Option<StringArray>| {
            column.as_ref().filter(|column| column.is_valid(i)).map(|column| column.value(i).to_owned())
        };
        let columns = match partition_columns {
            Some(columns) if columns.is_valid(i) => texts(&columns.value(i))?,
            _ => StringArray::new_null(0),
        };
        let configuration = configuration.as_ref().map(|map| entries(map, i)).unwrap_or_default();
        actions.metadata = Some(Metadata {
            id: id.value(i).to_owned(),
            name: text(&name),
            description: text(&description),
            format: Format::default(),
            schema_string: schema.value(i).to_owned(),
            partition_columns: columns.iter().flatten().map(str::to_owned).collect(),
            configuration: configuration.into_iter().filter_map(|(key, value)| Some((key, value?))).collect(),
            created_time: created
                .as_ref()
                .filter(|created| created.is_valid(i))
                .map(|created| created.value(i)),
        });
    }
    Ok(())
}

/// The rows of one kind of action: a struct column, whose fields are found by name.
struct Rows<'a> {
    action: &'static str,
    rows: &'a StructArray,
}

impl<'a> Rows<'a> {
    fn of(batch: &'a RecordBatch, action: &'static str) -> Option<Rows<'a>> {
        let rows = batch.column_by_name(action)?.as_struct_opt()?;
        Some(Rows { action, rows })
    }

    /// Rows that hold this action.
    fn present(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.rows.len()).filter(|i| self.rows.is_valid(*i))
    }

    fn array(&self, field: &str) -> Option<&'a ArrayRef> {
        self.rows.column_by_name(field)
    }

    fn required(&self, field: &str) -> Result<&'a ArrayRef> {
        self.array(field).ok_or_else(|| {
            Error::corrupt(format!("a checkpoint lacks a field: field=`{}.{field}`", self.action))
        })
    }

    fn text(&self, field: &str) -> Result<StringArray> {
        texts(self.required(field)?)
    }

    fn optional_text(&self, field: &str) -> Result<Option<StringArray>> {
        self.array(field).map(texts).transpose()
    }

    fn number(&self, field: &str) -> Result<Int64Array> {
        numbers(self.required(field)?)
    }

    fn optional_number(&self, field: &str) -> Result<Option<Int64Array>> {
        self.array(field).map(numbers).transpose()
    }

    /// A map from text to text.
    fn map(&self, field: &str) -> Result<Option<(MapArray, StringArray, StringArray)>> {
        let Some(map) = self.array(field).and_then(|array| array.as_map_opt()) else { return Ok(None) };
        Ok(Some((map.clone(), texts(map.keys())?, texts(map.values())?)))
    }
}

fn texts(array: &ArrayRef) -> Result<StringArray> {
    let array = cast(array, &DataType::Utf8)
        .map_err(|e| Error::corrupt("a checkpoint holds another type than text").with_source(e))?;
    Ok(array.as_string::<i32>().clone())
}

fn numbers(array: &ArrayRef) -> Result<Int64Array> {
    let array = cast(array, &DataType::Int64)
        .map_err(|e| Error::corrupt("a checkpoint holds another type than numbers").with_source(e))?;
    Ok(array.as_primitive::<Int64Type>().clone())
}

fn entries(
    (map, keys, values): &(MapArray, StringArray, StringArray),
    row: usize,
) -> BTreeMap<String, Option<String>> {
    if map.is_null(row) {
        return BTreeMap::new();
    }
    let place = |i: usize| usize::try_from(map.value_offsets()[i]).unwrap_or(0);
    let entry = |i: usize| (keys.value(i).to_owned(), values.is_valid(i).then(|| values.value(i).to_owned()));
    (place(row)..place(row + 1)).map(entry).collect()
}
