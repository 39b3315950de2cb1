//! From a database's values to rows, without JSON in between: what an import writes.
//!
//! *Invariants*: a value becomes what it would become as a record of a topic (docs/databases.md, docs/types.md), exactly or not at
//! all. The two ways differ in one thing: here a value that does not fit is an error, for an import has no dead letters.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema, SchemaRef};
use tarn_model::columns::{Column, ColumnType, Columns};
use tarn_model::{Error, Result, Value};

use super::cells::Cells;
use super::show;
use super::values::{Misfit, Zone};

/// Rows at which a batch is full.
const BATCH_ROWS: usize = 16 * 1024;
/// Bytes of text at which a batch is full.
const BATCH_BYTES: usize = 4 << 20;

/// Columns of an import table, without system columns.
pub fn import_schema(columns: &Columns) -> SchemaRef {
    let fields = columns.iter().map(|c| Field::new(&c.name, c.column_type.to_arrow(), c.nullable));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Builds batches of rows from values.
pub struct RowBuilder {
    schema: SchemaRef,
    columns: Vec<Column>,
    cells: Vec<Cells>,
    zone: Zone,
    rows: usize,
    bytes: usize,
}

impl std::fmt::Debug for RowBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowBuilder").field("columns", &self.columns).finish_non_exhaustive()
    }
}

impl RowBuilder {
    /// A builder of rows with these columns; `timezone` is that of timestamps that name none.
    pub fn new(columns: &Columns, timezone: Option<&str>) -> Result<RowBuilder> {
        let schema = import_schema(columns);
        let columns: Vec<Column> = columns.iter().cloned().collect();
        let cells = columns.iter().map(|column| Cells::new(column.column_type)).collect();
        Ok(RowBuilder { schema, columns, cells, zone: Zone::named(timezone)?, rows: 0, bytes: 0 })
    }

    /// Takes a row, a value for each column.
    pub fn push(&mut self, row: &[Value<'_>]) -> Result<()> {
        if row.len() != self.columns.len() {
            return Err(Error::internal(format!(
                "a row has {} values for {} columns",
                row.len(),
                self.columns.len()
            )));
        }
        for ((cells, column), value) in self.cells.iter_mut().zip(&self.columns).zip(row) {
            if let Value::Text(text) | Value::Bytes(text) = value {
                self.bytes += text.len();
            }
            cells.push_value(*value, &self.zone).map_err(|misfit| refused(column, *value, misfit))?;
        }
        self.rows += 1;
        Ok(())
    }

    /// Whether a batch should be finished now.
    pub fn is_full(&self) -> bool {
        self.rows >= BATCH_ROWS || self.bytes >= BATCH_BYTES
    }

    /// The rows so far; the next batch starts empty. `None` when there are none.
    pub fn finish(&mut self) -> Result<Option<RecordBatch>> {
        if self.rows == 0 {
            return Ok(None);
        }
        let arrays = self.cells.iter_mut().map(Cells::finish).collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        (self.rows, self.bytes) = (0, 0);
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)
            .map(Some)
            .map_err(|e| Error::internal("built columns do not form a record batch").with_source(e))
    }
}

fn refused(column: &Column, value: Value<'_>, misfit: Misfit) -> Error {
    let text = match value {
        Value::Null => "NULL".to_owned(),
        Value::Bool(is) => is.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Unsigned(number) => number.to_string(),
        Value::Real(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Decimal(..) | Value::Date(_) | Value::Timestamp(..) => {
            let mut text = Vec::new();
            value.write_text(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        }
        Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
        Value::Bytes(bytes) => format!("{} bytes", bytes.len()),
    };
    let why = if misfit.0.is_empty() { String::new() } else { format!(": {}", misfit.0) };
    let message =
        format!("column `{}` takes {}, not `{}`{why}", column.name, column.column_type, show(&text));
    let hint = match column.column_type {
        ColumnType::Varchar => "cast the column in a `query`, or leave it or the row out",
        _ => {
            "give the column another type with `types`, such as VARCHAR; or cast it in a `query`; or leave the row out with `where`"
        }
    };
    Error::invalid(message).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray as _;
    use arrow::datatypes::TimestampMicrosecondType;
    use arrow::util::display::{ArrayFormatter, FormatOptions};

    use super::*;

    fn built(column_type: &str, value: Value<'_>) -> std::result::Result<String, String> {
        let columns = Columns::parse(&format!("a {column_type}")).unwrap();
        let mut builder = RowBuilder::new(&columns, None).unwrap();
        builder.push(&[value]).map_err(|error| error.to_string())?;
        let batch = builder.finish().unwrap().unwrap();
        let options = FormatOptions::default().with_null("NULL");
        let column = ArrayFormatter::try_new(batch.column(0).as_ref(), &options).unwrap();
        Ok(column.value(0).to_string())
    }

    #[test]
    fn values_become_what_they_would_as_records() {
        for (column_type, value, want) in [
            ("BIGINT", Value::Int(i64::MIN), "-9223372036854775808"),
            ("SMALLINT", Value::Int(-7), "-7"),
            ("INT", Value::Text(b" 12 "), "12"),
            ("BOOLEAN", Value::Bool(true), "true"),
            ("BOOLEAN", Value::Int(0), "false"),
            ("DECIMAL(10,2)", Value::Text(b"-0.10"), "-0.10"),
            ("DECIMAL(10,2)", Value::Int(5), "5.00"),
            ("DECIMAL(10,2)", Value::Float(0.99), "0.99"),
            ("DECIMAL(20,0)", Value::Unsigned(u64::MAX), "18446744073709551615"),
            ("REAL", Value::Real(0.1), "0.1"),
            ("DOUBLE", Value::Float(f64::NEG_INFINITY), "-inf"),
            ("DOUBLE", Value::Int(3), "3.0"),
            ("DATE", Value::Text(b"2026-01-02"), "2026-01-02"),
            ("TIMESTAMP", Value::Text(b"2026-01-02 03:04:05.678+00"), "2026-01-02T03:04:05.678Z"),
            ("DECIMAL(10,2)", Value::Decimal(-10, 2), "-0.10"),
            (
                "DECIMAL(38,0)",
                Value::Decimal(10_i128.pow(38) - 1, 0),
                "99999999999999999999999999999999999999",
            ),
            ("DECIMAL(10,4)", Value::Decimal(125, 2), "1.2500"),
            ("DECIMAL(10,1)", Value::Decimal(150, 2), "1.5"),
            ("DOUBLE", Value::Decimal(150, 2), "1.5"),
            ("VARCHAR", Value::Decimal(150, 2), "1.50"),
            ("DATE", Value::Date(-719_162), "0001-01-01"),
            ("DATE", Value::Date(2_932_896), "9999-12-31"),
            ("VARCHAR", Value::Date(2_932_897), "10000-01-01"),
            ("TIMESTAMP", Value::Date(1), "1970-01-02T00:00:00Z"),
            ("TIMESTAMP", Value::Timestamp(1_000, true), "1970-01-01T00:00:00.001Z"),
            ("TIMESTAMP", Value::Timestamp(-1, false), "1969-12-31T23:59:59.999999Z"),
            ("VARCHAR", Value::Timestamp(0, false), "1970-01-01 00:00:00"),
            ("VARCHAR", Value::Text("ü\"\n".as_bytes()), "ü\"\n"),
            ("VARCHAR", Value::Int(7), "7"),
            ("VARCHAR", Value::Bytes(&[0, 255]), "AP8="),
            ("BINARY", Value::Bytes(&[0, 255]), "00ff"),
            ("INT", Value::Null, "NULL"),
        ] {
            assert_eq!(built(column_type, value), Ok(want.to_owned()), "{column_type} {value:?}");
        }
    }

    #[test]
    fn a_time_that_names_no_zone_is_one_of_the_imports() {
        let columns = Columns::parse("a TIMESTAMP, b TIMESTAMP").unwrap();
        let mut builder = RowBuilder::new(&columns, Some("Europe/Berlin")).unwrap();
        builder.push(&[Value::Timestamp(3_600_000_000, false), Value::Timestamp(0, true)]).unwrap();
        let batch = builder.finish().unwrap().unwrap();
        let micros = |column: usize| batch.column(column).as_primitive::<TimestampMicrosecondType>().value(0);
        assert_eq!((micros(0), micros(1)), (0, 0));
    }

    #[test]
    fn what_does_not_fit_is_told_with_its_column() {
        for (column_type, value, says) in [
            ("INT", Value::Int(1 << 40), "column `a` takes INT, not `1099511627776`: it is out of range"),
            ("BOOLEAN", Value::Int(2), "takes BOOLEAN, not `2`"),
            ("DATE", Value::Text(b"infinity"), "takes DATE, not `infinity`"),
            ("TIMESTAMP", Value::Int(1), "a number has no unit"),
            ("DECIMAL(4,2)", Value::Text(b"100"), "more digits than the type keeps"),
            (
                "DECIMAL(4,2)",
                Value::Decimal(10_000, 2),
                "takes DECIMAL(4,2), not `100.00`: it has more digits",
            ),
            (
                "DECIMAL(4,1)",
                Value::Decimal(15, 2),
                "takes DECIMAL(4,1), not `0.15`: it has more digits after",
            ),
            ("DATE", Value::Date(2_932_897), "takes DATE, not `10000-01-01`"),
            ("DATE", Value::Date(-719_163), "takes DATE, not `0001-12-31 BC`"),
            ("TIMESTAMP", Value::Timestamp(253_402_300_800_000_000, true), "not `10000-01-01 00:00:00+00`"),
            ("INT", Value::Date(1), "takes INT, not `1970-01-02`"),
            ("VARCHAR", Value::Text(b"x\xff"), "it is not valid UTF-8"),
            ("BIGINT", Value::Unsigned(u64::MAX), "it is out of range"),
            ("REAL", Value::Float(1e300), "it is out of range"),
            ("BINARY", Value::Int(1), "takes BINARY"),
        ] {
            let error = built(column_type, value).expect_err(says);
            assert!(error.contains(says), "{column_type} {value:?}: {error}");
        }
    }
}
