//! From log records to rows and dead letters, once.
//!
//! *Why.* Decoding JSON is the dearest step of the way, so it is done once per table, straight into Arrow's buffers: a
//! value is parsed where it will stay, and a record that does not fit takes its half row back. There is no tree of
//! values, and no allocation per row.
//!
//! *Layout.* [`json`] walks an object and yields (name, raw JSON text). [`cells`] holds one column under construction and
//! takes raw JSON text. [`values`] turns text into exact values. [`dead`] keeps what did not fit. [`infer`] guesses
//! columns from samples. [`native`] takes a database's values instead of records. What each type accepts is docs/types.md.
//!
//! *Invariants.* Each record becomes one row or one dead letter, or is settled as dead already: nothing else, never both.
//! A value is stored exactly or not at all; only REAL and DOUBLE take the nearest value that they can hold.

mod cells;
mod dead;
mod infer;
mod json;
mod native;
mod values;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int32Array, Int64Array, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray,
};
use arrow::datatypes::SchemaRef;
use tarn_log::{RecordRef, RecordView, Records};
use tarn_model::columns::{Column, ColumnType, Columns};
use tarn_model::config::UnknownFields;
use tarn_model::{Error, Offset, PartitionId, RecordColumns, RecordPart, Result};

use cells::Cells;
use dead::DeadLetters;
pub use dead::dead_letter_schema;
pub use infer::infer;
pub use native::{RowBuilder, import_schema};
use values::{Misfit, Zone};

/// How records become rows of one table.
#[derive(Debug, Clone)]
pub struct TableFormat {
    /// The columns. `line VARCHAR` alone takes each record's value as it is, whatever it holds.
    pub columns: Columns,
    /// What happens to other fields.
    pub unknown_fields: UnknownFields,
    /// Zone of timestamps that name none (IANA name); `None` is UTC.
    pub timezone: Option<String>,
    /// Those of the columns that hold parts of the record, not fields of its value.
    pub record: RecordColumns,
}

impl TableFormat {
    /// The table's schema: system columns, columns, `_rest` when unknown fields are kept.
    pub fn schema(&self) -> SchemaRef {
        self.columns.table_schema(self.unknown_fields == UnknownFields::Keep)
    }
}

/// What a decode gave.
#[derive(Debug)]
pub struct Decoded {
    /// Rows in offset order, in the table's schema.
    pub rows: RecordBatch,
    /// Dead letters in offset order, in [`dead_letter_schema`].
    pub dead: Option<RecordBatch>,
}

/// Decodes records for one table.
pub struct Decoder {
    schema: SchemaRef,
    columns: Vec<Column>,
    unknown_fields: UnknownFields,
    takes_lines: bool,
    zone: Zone,
    names: Names,
    /// Columns that take parts of the record.
    record: Vec<(RecordPart, usize)>,
    cells: Vec<Cells>,
    rest: Cells,
    offsets: Vec<i64>,
    timestamps: Vec<i64>,
    dead: DeadLetters,
    scratch: Vec<u8>,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("columns", &self.columns).finish_non_exhaustive()
    }
}

/// Column of the text when it is the only one.
pub(crate) const LINE: &str = "line";

/// Header by which a collector says that it could not read a record; its value is the reason.
const ERROR_HEADER: &str = "tarn.error";
/// Header of a record that was above the size limit; its value is the size.
const OVERSIZE_HEADER: &str = "tarn.oversize";

/// 0001-01-01 and 10000-01-01, µs since 1970: what every reader of the lake can show.
const TIMESTAMPS_US: std::ops::Range<i64> = -62_135_596_800_000_000..253_402_300_800_000_000;
/// The same, in days since 1970.
const DATES: std::ops::Range<i32> = -719_162..2_932_897;

impl Decoder {
    /// A decoder of this format.
    pub fn new(format: &TableFormat) -> Result<Decoder> {
        let columns: Vec<Column> = format.columns.iter().cloned().collect();
        let at = |name: &str| columns.iter().position(|column| column.name == name);
        let record: Vec<_> =
            format.record.iter().filter_map(|(part, name)| Some((part, at(name)?))).collect();
        let fields: Vec<(usize, &Column)> =
            columns.iter().enumerate().filter(|(at, _)| !record.iter().any(|(_, of)| of == at)).collect();
        let takes_lines = matches!(
            fields.as_slice(),
            [(0, only)] if only.name == LINE && only.column_type == ColumnType::Varchar
        );
        Ok(Decoder {
            schema: format.schema(),
            unknown_fields: format.unknown_fields,
            takes_lines,
            zone: Zone::named(format.timezone.as_deref())?,
            names: Names::new(&fields),
            record,
            cells: columns.iter().map(|column| Cells::new(column.column_type)).collect(),
            columns,
            rest: Cells::new(ColumnType::Varchar),
            offsets: Vec::new(),
            timestamps: Vec::new(),
            dead: DeadLetters::default(),
            scratch: Vec::new(),
        })
    }

    /// Decodes the records of `partition`. An offset for which `verdict` answers `true` is settled as dead: it yields
    /// neither row nor dead letter, for it lies in the dead-letter table already.
    pub fn decode(
        &mut self,
        partition: PartitionId,
        records: &Records,
        verdict: &dyn Fn(Offset) -> bool,
    ) -> Result<Decoded> {
        self.reserve(records.len());
        self.decode_each(partition, records.iter(), verdict)
    }

    /// [`Decoder::decode`] over anything that looks like records.
    pub(crate) fn decode_each<R: Record>(
        &mut self,
        partition: PartitionId,
        records: impl Iterator<Item = R>,
        verdict: &dyn Fn(Offset) -> bool,
    ) -> Result<Decoded> {
        let (mut seen, mut settled) = (0_usize, 0_usize);
        for record in records {
            seen += 1;
            if verdict(record.offset()) {
                settled += 1;
                continue;
            }
            match self.row(&record) {
                Ok(timestamp_us) => {
                    self.offsets.push(record.offset());
                    self.timestamps.push(timestamp_us);
                }
                Err(misfit) => {
                    self.take_back();
                    self.dead.push(&record, &misfit);
                }
            }
        }
        debug_assert_eq!(
            seen,
            self.offsets.len() + self.dead.len() + settled,
            "a record is a row, dead, or settled"
        );
        self.finish(partition)
    }

    /// Why `record` would be no row; `None` when it would be one. Nothing is kept of it.
    pub fn misfit(&mut self, record: &RecordRef<'_>) -> Option<String> {
        let failure = self.row(record).err();
        self.take_back();
        failure.map(|failure| failure.reason)
    }

    fn reserve(&mut self, records: usize) {
        self.offsets.reserve(records);
        self.timestamps.reserve(records);
        for cells in &mut self.cells {
            cells.reserve(records);
        }
    }

    /// Appends one row to every column; after an error some columns have it and some do not.
    fn row(&mut self, record: &impl Record) -> std::result::Result<i64, Failure> {
        for (name, value) in record.headers() {
            refuse_marked(name, value)?;
        }
        let timestamp_us = record.timestamp_ms().checked_mul(1000).filter(|us| TIMESTAMPS_US.contains(us));
        let timestamp_us = timestamp_us.ok_or_else(|| {
            Failure::record(format!(
                "the record's timestamp {} ms lies beyond the years 1 to 9999",
                record.timestamp_ms()
            ))
        })?;
        let value = record.value().ok_or_else(|| Failure::record("the record has no value (a tombstone)"))?;
        let text = std::str::from_utf8(value).map_err(|e| {
            Failure::record(format!("the record is not UTF-8: byte {} is wrong", e.valid_up_to() + 1))
        })?;
        self.parts(record, timestamp_us)?;
        if self.takes_lines {
            self.cells[0].push_text(text);
        } else {
            self.fields(text)?;
        }
        self.close_row()?;
        Ok(timestamp_us)
    }

    /// Gives the columns of the record's own parts their values.
    fn parts(&mut self, record: &impl Record, timestamp_us: i64) -> std::result::Result<(), Failure> {
        for (part, at) in &self.record {
            let cells = &mut self.cells[*at];
            match part {
                RecordPart::Timestamp => cells.push_timestamp(timestamp_us),
                RecordPart::Headers => match dead::headers_json(record, &mut self.scratch) {
                    Some(json) => cells.push_text(json),
                    None => cells.push_null(),
                },
                RecordPart::Key => match record.key() {
                    Some(key) if cells.push_bytes(key) => {}
                    Some(_) => {
                        let name = &self.columns[*at].name;
                        let reason = format!(
                            "the key is not UTF-8, so column `{name}` cannot hold it: declare it as BINARY"
                        );
                        return Err(Failure::field(name, reason));
                    }
                    None => cells.push_null(),
                },
            }
        }
        Ok(())
    }

    fn fields(&mut self, text: &str) -> std::result::Result<(), Failure> {
        let Decoder { columns, unknown_fields, zone, names, cells, rest, offsets, .. } = self;
        let (columns, unknown_fields, zone, rows) =
            (columns.as_slice(), *unknown_fields, zone, offsets.len());
        json::walk(text, &mut Row { columns, unknown_fields, zone, names, cells, rest, rows })
    }

    /// Gives NULL to columns without a value, and refuses NULL where the column does.
    fn close_row(&mut self) -> std::result::Result<(), Failure> {
        let rows = self.offsets.len();
        for (cells, column) in self.cells.iter_mut().zip(&self.columns) {
            let missing = cells.len() == rows;
            if missing {
                cells.push_null();
            }
            if !column.nullable && cells.last_is_null() {
                let what = if missing { "is missing" } else { "is null" };
                return Err(Failure::field(
                    &column.name,
                    format!("column `{}` is NOT NULL, and its value {what}", column.name),
                ));
            }
        }
        self.rest.close_object();
        Ok(())
    }

    /// Undoes a row that was begun.
    fn take_back(&mut self) {
        let rows = self.offsets.len();
        for cells in &mut self.cells {
            cells.truncate(rows);
        }
        self.rest.truncate(rows);
    }

    fn finish(&mut self, partition: PartitionId) -> Result<Decoded> {
        let rows = self.offsets.len();
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        arrays.push(Arc::new(Int32Array::from(vec![partition; rows])));
        arrays.push(Arc::new(Int64Array::from(std::mem::take(&mut self.offsets))));
        let timestamps = TimestampMicrosecondArray::from(std::mem::take(&mut self.timestamps));
        arrays.push(Arc::new(timestamps.with_timezone("UTC")));
        for cells in &mut self.cells {
            arrays.push(cells.finish()?);
        }
        let rest = self.rest.finish()?;
        if self.unknown_fields == UnknownFields::Keep {
            arrays.push(rest);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)
            .map_err(|e| Error::internal("decoded columns do not form a record batch").with_source(e))?;
        Ok(Decoded { rows, dead: self.dead.finish(partition)? })
    }
}

/// `records` as dead letters, whatever they hold, without a reason; `None` when there are none.
pub(crate) fn as_dead_letters<R: Record>(
    partition: PartitionId,
    records: impl Iterator<Item = R>,
) -> Result<Option<RecordBatch>> {
    let (mut dead, none) = (DeadLetters::default(), Failure::record(""));
    for record in records {
        dead.push(&record, &none);
    }
    dead.finish(partition)
}

/// Why a record is no row.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Field that is at fault, if one is.
    pub(crate) field: Option<String>,
    /// What is wrong.
    pub(crate) reason: String,
}

impl Failure {
    fn record(reason: impl Into<String>) -> Failure {
        Failure { field: None, reason: reason.into() }
    }

    fn field(name: &str, reason: String) -> Failure {
        Failure { field: Some(name.to_owned()), reason }
    }
}

/// Says why a column does not take a value.
trait Refuses {
    fn refuses(&self, raw: &str, misfit: Misfit) -> Failure;
}

impl Refuses for Column {
    fn refuses(&self, raw: &str, misfit: Misfit) -> Failure {
        let shown = raw.strip_prefix('"').and_then(|inner| inner.strip_suffix('"')).unwrap_or(raw);
        let why = if misfit.0.is_empty() { String::new() } else { format!(": {}", misfit.0) };
        let reason = format!("column `{}` takes {}, not `{}`{why}", self.name, self.column_type, show(shown));
        Failure::field(&self.name, reason)
    }
}

/// Text as it stands in a reason: not longer than a line.
fn show(text: &str) -> Cow<'_, str> {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]).into(),
        None => text.into(),
    }
}

fn refuse_marked(name: &str, value: Option<&[u8]>) -> std::result::Result<(), Failure> {
    if !name.starts_with("tarn.") {
        return Ok(());
    }
    let text = String::from_utf8_lossy(value.unwrap_or_default());
    match name {
        ERROR_HEADER => Err(Failure::record(text)),
        OVERSIZE_HEADER => Err(Failure::record(format!(
            "the record has {text} bytes, more than `max_record_size`: only its head is kept"
        ))),
        _ => Ok(()),
    }
}

/// The row under construction, as the fields of its record come.
struct Row<'d> {
    columns: &'d [Column],
    unknown_fields: UnknownFields,
    zone: &'d Zone,
    names: &'d mut Names,
    cells: &'d mut [Cells],
    rest: &'d mut Cells,
    /// Rows that are complete.
    rows: usize,
}

impl<'a> json::Visitor<'a> for Row<'_> {
    #[inline]
    fn guess(&self, nth: usize) -> &str {
        self.names.order.get(nth).map_or("", |field| &field.quoted)
    }

    #[inline]
    fn field(
        &mut self,
        nth: usize,
        name: Option<Cow<'a, str>>,
        raw: json::Raw<'a>,
    ) -> std::result::Result<(), Failure> {
        let column = match &name {
            None => self.names.order[nth].column,
            Some(name) => self.names.column(nth, name),
        };
        let Some(at) = column else {
            let name = name.unwrap_or_else(|| self.names.order[nth].name().to_owned().into());
            return self.unknown(&name, raw);
        };
        let (cells, column) = (&mut self.cells[at], &self.columns[at]);
        if cells.len() > self.rows {
            let reason = format!("field `{}` stands twice", show(&column.name));
            return Err(Failure::field(&column.name, reason));
        }
        cells.push(raw, self.zone).map_err(|misfit| column.refuses(raw.text, misfit))
    }
}

impl Row<'_> {
    fn unknown(&mut self, name: &str, raw: json::Raw<'_>) -> std::result::Result<(), Failure> {
        match self.unknown_fields {
            UnknownFields::Keep => {
                self.rest.push_member(name, raw.text);
                Ok(())
            }
            UnknownFields::Drop => Ok(()),
            UnknownFields::DeadLetter => {
                Err(Failure::field(name, format!("field `{}` is not a column of the table", show(name))))
            }
        }
    }
}

/// Finds the column of a field. Records of one topic tend to have their fields in one order, so the name that stood at
/// the same place in the record before is tried first.
struct Names {
    by_name: HashMap<String, usize>,
    order: Vec<Remembered>,
}

/// A field of the record before.
struct Remembered {
    /// Its name and a quote: what stands in a text if it comes again. Empty when the name needs escapes.
    quoted: String,
    column: Option<usize>,
}

impl Remembered {
    fn name(&self) -> &str {
        self.quoted.strip_suffix('"').unwrap_or_default()
    }

    fn set(&mut self, name: &str, column: Option<usize>) {
        self.column = column;
        self.quoted.clear();
        if !name.bytes().any(|byte| byte < b' ' || matches!(byte, b'"' | b'\\')) {
            self.quoted.push_str(name);
            self.quoted.push('"');
        }
    }
}

/// Fields of a record whose order is remembered.
const REMEMBERED_FIELDS: usize = 4096;

impl Names {
    fn new(fields: &[(usize, &Column)]) -> Names {
        let by_name = fields.iter().map(|(at, column)| (column.name.clone(), *at)).collect();
        Names { by_name, order: Vec::new() }
    }

    /// The column of the field `nth`, whose name is another than in the record before.
    fn column(&mut self, nth: usize, name: &str) -> Option<usize> {
        let column = self.by_name.get(name).copied();
        if nth == self.order.len() && nth < REMEMBERED_FIELDS {
            self.order.push(Remembered { quoted: String::new(), column: None });
        }
        if let Some(remembered) = self.order.get_mut(nth) {
            remembered.set(name, column);
        }
        column
    }
}

/// A record as the decoder sees it.
pub(crate) trait Record {
    /// Its offset.
    fn offset(&self) -> Offset;
    /// Milliseconds since 1970 UTC.
    fn timestamp_ms(&self) -> i64;
    /// Its key.
    fn key(&self) -> Option<&[u8]>;
    /// Its value.
    fn value(&self) -> Option<&[u8]>;
    /// Names and values of its headers.
    fn headers(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)>;
}

impl Record for RecordRef<'_> {
    fn offset(&self) -> Offset {
        0
    }

    fn timestamp_ms(&self) -> i64 {
        self.timestamp_ms
    }

    fn key(&self) -> Option<&[u8]> {
        self.key
    }

    fn value(&self) -> Option<&[u8]> {
        self.value
    }

    fn headers(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        self.headers.iter().map(|(name, value)| (*name, Some(*value)))
    }
}

impl Record for RecordView<'_> {
    fn offset(&self) -> Offset {
        self.offset
    }

    fn timestamp_ms(&self) -> i64 {
        self.timestamp_ms
    }

    fn key(&self) -> Option<&[u8]> {
        self.key
    }

    fn value(&self) -> Option<&[u8]> {
        self.value
    }

    fn headers(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        RecordView::headers(self)
    }
}
