//! The columns of an answer, as pages and other clients are told of them.

use arrow::datatypes::{DataType, Schema};
use serde::Serialize;

/// One column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Column {
    /// Its name.
    pub(crate) name: String,
    /// What its values are to somebody who draws or aligns them.
    pub(crate) kind: ColumnKind,
    /// Its SQL type.
    #[serde(rename = "type")]
    pub(crate) sql_type: String,
}

/// What values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ColumnKind {
    /// Numbers, decimals among them.
    Number,
    /// Moments: ISO 8601.
    Time,
    /// Days: `2026-05-01`.
    Date,
    /// `true` and `false`.
    Boolean,
    /// Strings.
    Text,
    /// Lists, structs, bytes.
    Other,
}

/// The columns of `schema`.
pub(crate) fn columns_of(schema: &Schema) -> Vec<Column> {
    let column = |field: &std::sync::Arc<arrow::datatypes::Field>| Column {
        name: field.name().clone(),
        kind: kind_of(field.data_type()),
        sql_type: crate::error::sql_types(&field.data_type().to_string()),
    };
    schema.fields().iter().map(column).collect()
}

fn kind_of(data_type: &DataType) -> ColumnKind {
    match data_type {
        DataType::Timestamp(..) => ColumnKind::Time,
        DataType::Date32 | DataType::Date64 => ColumnKind::Date,
        DataType::Boolean => ColumnKind::Boolean,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => ColumnKind::Text,
        DataType::Dictionary(_, values) => kind_of(values),
        numeric if numeric.is_numeric() => ColumnKind::Number,
        _ => ColumnKind::Other,
    }
}
