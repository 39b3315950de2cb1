//! Rows as JSON, NDJSON, CSV, an Arrow stream or Parquet, batch by batch.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use arrow::json::LineDelimitedWriter;
use arrow::json::writer::{LineDelimited, WriterBuilder};
use axum::http::{HeaderMap, header};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::{Compression, ZstdLevel};
use datafusion::parquet::file::properties::WriterProperties;

/// Rows of a row group in a Parquet file that is sent: what an answer holds in memory.
const PARQUET_GROUP_ROWS: usize = 256 << 10;
/// And their size, bytes.
const PARQUET_GROUP_BYTES: usize = 32 << 20;

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// An array of objects.
    Json,
    /// One object a line.
    Ndjson,
    /// With a header line; NULL is empty.
    Csv,
    /// Arrow IPC, streaming.
    Arrow,
    /// A Parquet file, which is written as it is sent.
    Parquet,
}

impl Format {
    /// The first format that `Accept` names and that is known; JSON where it names none.
    pub(super) fn accepted(headers: &HeaderMap) -> Option<Format> {
        let mut named = false;
        for value in headers.get_all(header::ACCEPT) {
            for part in value.to_str().unwrap_or("").split(',') {
                named = true;
                let media_type = part.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
                match media_type.as_str() {
                    "application/json" | "application/*" | "*/*" => return Some(Format::Json),
                    "application/x-ndjson" | "application/ndjson" | "application/jsonl" => {
                        return Some(Format::Ndjson);
                    }
                    "text/csv" | "text/*" => return Some(Format::Csv),
                    "application/vnd.apache.arrow.stream" => return Some(Format::Arrow),
                    "application/vnd.apache.parquet" => return Some(Format::Parquet),
                    _ => {}
                }
            }
        }
        (!named).then_some(Format::Json)
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Ndjson => "application/x-ndjson",
            Format::Csv => "text/csv; charset=utf-8",
            Format::Arrow => "application/vnd.apache.arrow.stream",
            Format::Parquet => "application/vnd.apache.parquet",
        }
    }
}

/// Writes one answer: `begin`, then `rows` for each batch, then `end`.
pub(super) enum Encoder {
    Json { some: bool },
    Ndjson,
    Csv { schema: SchemaRef },
    Arrow { schema: SchemaRef, writer: Box<StreamWriter<Vec<u8>>> },
    Parquet { schema: SchemaRef, writer: Box<ArrowWriter<Vec<u8>>> },
}

impl Encoder {
    pub(super) fn new(format: Format, schema: &SchemaRef) -> Result<Encoder, ArrowError> {
        Ok(match format {
            Format::Json => Encoder::Json { some: false },
            Format::Ndjson => Encoder::Ndjson,
            Format::Csv => Encoder::Csv { schema: schema.clone() },
            Format::Arrow => {
                let schema = without_views(schema);
                let writer = Box::new(StreamWriter::try_new(Vec::new(), &schema)?);
                Encoder::Arrow { schema, writer }
            }
            Format::Parquet => {
                let schema = without_views(schema);
                let properties = WriterProperties::builder()
                    .set_compression(Compression::ZSTD(ZstdLevel::default()))
                    .set_max_row_group_row_count(Some(PARQUET_GROUP_ROWS))
                    .set_max_row_group_bytes(Some(PARQUET_GROUP_BYTES))
                    .build();
                let writer = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties))?;
                Encoder::Parquet { schema, writer: Box::new(writer) }
            }
        })
    }

    pub(super) fn begin(&mut self) -> Result<Vec<u8>, ArrowError> {
        match self {
            Encoder::Json { .. } => Ok(b"[".to_vec()),
            Encoder::Ndjson => Ok(Vec::new()),
            Encoder::Csv { schema } => csv(&RecordBatch::new_empty(schema.clone()), true),
            Encoder::Arrow { writer, .. } => Ok(std::mem::take(writer.get_mut())),
            Encoder::Parquet { writer, .. } => Ok(std::mem::take(writer.inner_mut())),
        }
    }

    pub(super) fn rows(&mut self, rows: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
        if rows.num_rows() == 0 {
            return Ok(Vec::new());
        }
        match self {
            Encoder::Json { some } => {
                let lines = lines(rows)?;
                let mut array = Vec::with_capacity(lines.len() + lines.len() / 16);
                for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                    array.extend_from_slice(if *some { b",\n" } else { b"\n" });
                    array.extend_from_slice(line);
                    *some = true;
                }
                Ok(array)
            }
            Encoder::Ndjson => lines(rows),
            Encoder::Csv { .. } => csv(rows, false),
            Encoder::Arrow { schema, writer } => {
                writer.write(&of_schema(rows, schema)?)?;
                Ok(std::mem::take(writer.get_mut()))
            }
            Encoder::Parquet { schema, writer } => {
                writer.write(&of_schema(rows, schema)?)?;
                Ok(std::mem::take(writer.inner_mut()))
            }
        }
    }

    pub(super) fn end(&mut self) -> Result<Vec<u8>, ArrowError> {
        match self {
            Encoder::Json { some } => Ok(if *some { b"\n]\n".to_vec() } else { b"]\n".to_vec() }),
            Encoder::Ndjson | Encoder::Csv { .. } => Ok(Vec::new()),
            Encoder::Arrow { writer, .. } => {
                writer.finish()?;
                Ok(std::mem::take(writer.get_mut()))
            }
            Encoder::Parquet { writer, .. } => {
                writer.finish()?;
                Ok(std::mem::take(writer.inner_mut()))
            }
        }
    }
}

/// `rows` with the types of `schema`.
fn of_schema(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = rows.columns().iter().zip(schema.fields()).map(|(column, field)| {
        if column.data_type() == field.data_type() {
            Ok(column.clone())
        } else {
            cast(column, field.data_type())
        }
    });
    RecordBatch::try_new(schema.clone(), columns.collect::<Result<_, _>>()?)
}

/// One JSON object a line.
pub(crate) fn lines(rows: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let mut writer: LineDelimitedWriter<Vec<u8>> =
        WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
    writer.write(rows)?;
    writer.finish()?;
    Ok(writer.into_inner())
}

fn csv(rows: &RecordBatch, with_header: bool) -> Result<Vec<u8>, ArrowError> {
    let mut bytes = Vec::new();
    let mut writer = arrow::csv::WriterBuilder::new().with_header(with_header).build(&mut bytes);
    writer.write(rows)?;
    drop(writer);
    Ok(bytes)
}

/// Views as plain strings and binaries, which every reader of Arrow knows.
fn without_views(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| {
        let data_type = match field.data_type() {
            DataType::Utf8View => DataType::Utf8,
            DataType::BinaryView => DataType::Binary,
            other => other.clone(),
        };
        Field::new(field.name(), data_type, field.is_nullable())
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}
