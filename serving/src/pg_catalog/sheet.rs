//! Small tables from a line of columns and rows that name only what differs from the default.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_empty_array};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::catalog::MemTable;
use datafusion::common::ScalarValue;
use datafusion::error::Result as DfResult;

/// A table that is being filled.
///
/// Its columns are told as `name:kind` or `name:kind=default`, with spaces between them. Kinds: `o` and `i` (int4), `s` (int2),
/// `l` (int8), `b` (boolean), `f` (real), `t` (text), `T` (text[]), `S` (int2[]), `O` (int4[]).
pub(super) struct Sheet {
    columns: Vec<(String, DataType, ScalarValue)>,
    rows: Vec<HashMap<&'static str, ScalarValue>>,
}

impl Sheet {
    pub(super) fn new(columns: &str) -> Sheet {
        let column = |told: &str| {
            let (name, kind) = told.split_once(':').unwrap_or((told, "t"));
            let (kind, default) =
                kind.split_once('=').map_or((kind, None), |(kind, value)| (kind, Some(value)));
            let data_type = kind_of(kind);
            let default =
                default.and_then(|text| ScalarValue::try_from_string(text.to_owned(), &data_type).ok());
            let null = || ScalarValue::try_new_null(&data_type).unwrap_or(ScalarValue::Null);
            (name.to_owned(), data_type.clone(), default.unwrap_or_else(null))
        };
        Sheet { columns: columns.split_whitespace().map(column).collect(), rows: Vec::new() }
    }

    /// One more row.
    pub(super) fn row<const N: usize>(&mut self, values: [(&'static str, ScalarValue); N]) {
        self.rows.push(values.into());
    }

    pub(super) fn table(self) -> DfResult<MemTable> {
        let fields =
            self.columns.iter().map(|(name, data_type, _)| Field::new(name, data_type.clone(), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let array = |(name, data_type, default): &(String, DataType, ScalarValue)| -> DfResult<ArrayRef> {
            if self.rows.is_empty() {
                return Ok(new_empty_array(data_type));
            }
            let value =
                |row: &HashMap<&'static str, ScalarValue>| row.get(name.as_str()).unwrap_or(default).clone();
            ScalarValue::iter_to_array(self.rows.iter().map(value))
        };
        let arrays = self.columns.iter().map(array).collect::<DfResult<Vec<_>>>()?;
        let batch = RecordBatch::try_new(Arc::clone(&schema), arrays)?;
        MemTable::try_new(schema, vec![vec![batch]])
    }
}

fn kind_of(kind: &str) -> DataType {
    match kind {
        "o" | "i" => DataType::Int32,
        "s" => DataType::Int16,
        "l" => DataType::Int64,
        "b" => DataType::Boolean,
        "f" => DataType::Float32,
        "T" => DataType::new_list(DataType::Utf8, true),
        "S" => DataType::new_list(DataType::Int16, true),
        "O" => DataType::new_list(DataType::Int32, true),
        _ => DataType::Utf8,
    }
}
