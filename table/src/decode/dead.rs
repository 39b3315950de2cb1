//! Dead letters: what did not become a row, with the reason, and all that came.

use std::sync::{Arc, LazyLock};

use arrow::array::{
    BinaryBuilder, Int32Array, Int64Array, RecordBatch, StringBuilder, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tarn_model::columns::system_fields;
use tarn_model::{Error, PartitionId, Result};

use super::cells::push_json_text;
use super::{Failure, Record, TIMESTAMPS_US};

/// `_partition INT`, `_offset BIGINT`, `_timestamp TIMESTAMP`, `reason VARCHAR` (none of these four is NULL), `field
/// VARCHAR`, `key BINARY`, `value BINARY`, `headers VARCHAR`.
///
/// The reason starts with file and line where the headers tell them. The field is the one at fault, if one is. Key and
/// value are the record's bytes. The headers are a JSON object of strings (a byte that is not UTF-8 shows as U+FFFD), NULL
/// when there are none.
pub fn dead_letter_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let mut fields = system_fields();
        fields.push(Field::new("reason", DataType::Utf8, false));
        fields.push(Field::new("field", DataType::Utf8, true));
        fields.push(Field::new("key", DataType::Binary, true));
        fields.push(Field::new("value", DataType::Binary, true));
        fields.push(Field::new("headers", DataType::Utf8, true));
        Arc::new(Schema::new(fields))
    });
    Arc::clone(&SCHEMA)
}

/// Dead letters of one decode, as they are found.
#[derive(Default)]
pub(super) struct DeadLetters {
    offsets: Vec<i64>,
    timestamps: Vec<i64>,
    reasons: StringBuilder,
    fields: StringBuilder,
    keys: BinaryBuilder,
    values: BinaryBuilder,
    headers: StringBuilder,
    scratch: Vec<u8>,
}

impl DeadLetters {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Keeps `record`, which is no row because of `failure`.
    pub(super) fn push(&mut self, record: &impl Record, failure: &Failure) {
        self.offsets.push(record.offset());
        let timestamp_us = record.timestamp_ms().saturating_mul(1000);
        self.timestamps.push(timestamp_us.clamp(TIMESTAMPS_US.start, TIMESTAMPS_US.end - 1));
        self.reasons.append_value(format!("{}{}", place(record, &failure.reason), failure.reason));
        self.fields.append_option(failure.field.as_deref());
        self.keys.append_option(record.key());
        self.values.append_option(record.value());
        self.headers.append_option(headers_json(record, &mut self.scratch));
    }

    /// The dead letters so far; the next ones start empty.
    pub(super) fn finish(&mut self, partition: PartitionId) -> Result<Option<RecordBatch>> {
        let rows = self.offsets.len();
        if rows == 0 {
            return Ok(None);
        }
        let timestamps = TimestampMicrosecondArray::from(std::mem::take(&mut self.timestamps));
        let batch = RecordBatch::try_new(
            dead_letter_schema(),
            vec![
                Arc::new(Int32Array::from(vec![partition; rows])),
                Arc::new(Int64Array::from(std::mem::take(&mut self.offsets))),
                Arc::new(timestamps.with_timezone("UTC")),
                Arc::new(self.reasons.finish()),
                Arc::new(self.fields.finish()),
                Arc::new(self.keys.finish()),
                Arc::new(self.values.finish()),
                Arc::new(self.headers.finish()),
            ],
        );
        batch.map(Some).map_err(|e| Error::internal("dead letters do not form a record batch").with_source(e))
    }
}

/// `line 17 of flights.csv: `, as far as the headers tell. A collector's own reason may start with the line.
fn place(record: &impl Record, reason: &str) -> String {
    let (mut file, mut line) = (None, None);
    for (name, value) in record.headers() {
        match name {
            "file" => file = value.map(String::from_utf8_lossy),
            "line" => line = value.map(String::from_utf8_lossy),
            _ => {}
        }
    }
    match (line.filter(|_| !reason.starts_with("line ")), file) {
        (Some(line), Some(file)) => format!("line {line} of {file}: "),
        (Some(line), None) => format!("line {line}: "),
        (None, Some(file)) => format!("{file}: "),
        (None, None) => String::new(),
    }
}

/// The headers as a JSON object.
pub(super) fn headers_json<'s>(record: &impl Record, scratch: &'s mut Vec<u8>) -> Option<&'s str> {
    scratch.clear();
    for (name, value) in record.headers() {
        scratch.push(if scratch.is_empty() { b'{' } else { b',' });
        push_json_text(name, scratch);
        scratch.push(b':');
        match value {
            Some(value) => push_json_text(&String::from_utf8_lossy(value), scratch),
            None => scratch.extend_from_slice(b"null"),
        }
    }
    if scratch.is_empty() {
        return None;
    }
    scratch.push(b'}');
    // Only whole strs were written.
    std::str::from_utf8(scratch).ok()
}
