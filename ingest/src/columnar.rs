//! Files that are made of columns: Avro's container files and Parquet, row by row.
//!
//! *Why* through Arrow: it is what both formats are read into exactly, and from there [`cells`] writes each value as the JSON that
//! the tables take back exactly.
//!
//! *Layout*: a [`RowFile`] begins at any row, and gives batches of some MiB. A row's number in its file is its position.
//!
//! *Invariant*: every row before a damaged place is given before the damage is told. A batch that cannot be decoded is decoded
//! once more, one row at a time, up to the row that cannot.
//!
//! *Failure*: damage ends a file, for nothing tells how many rows it took with it. Decoders that panic at bytes that they did not
//! expect have found damage, too. An error of the disk is none: the file is tried again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use parking_lot::Mutex;
use tarn_model::columns::{Column, ColumnType, Columns};
use tarn_model::config::FileFormat;

use crate::monitor::Monitor;

mod avro;
pub(crate) mod cells;
mod parquet;
#[cfg(test)]
mod tests;

/// A batch has about so many bytes, as far as the file tells.
const BATCH_BYTES: u64 = 2 << 20;

/// Why no more rows come.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// What is wrong with the file.
    Damage(String),
    /// The disk failed.
    Disk(io::Error),
}

/// The rows of one file, from some row on.
pub(crate) trait RowFile {
    /// Columns.
    fn schema(&self) -> SchemaRef;

    /// The next rows; `None` at the end.
    fn next(&mut self) -> Result<Option<RecordBatch>, Trouble>;
}

/// Opens `file` at the row after `rows` rows.
pub(crate) fn open(format: FileFormat, bytes: FileBytes, rows: u64) -> Result<Box<dyn RowFile>, Trouble> {
    Ok(match format {
        FileFormat::Avro => Box::new(avro::Avro::open(bytes, rows)?),
        _ => Box::new(parquet::Parquet::open(bytes, rows)?),
    })
}

/// A file's bytes at any place. Clones are the same file.
#[derive(Debug, Clone)]
pub(crate) struct FileBytes {
    file: Arc<File>,
    size: u64,
    monitor: Option<Arc<Monitor>>,
    /// What the disk said last, for decoders make a text of it.
    failed: Arc<Mutex<Option<io::Error>>>,
}

impl FileBytes {
    pub(crate) fn new(file: File, monitor: Option<Arc<Monitor>>) -> io::Result<FileBytes> {
        let size = file.metadata()?.len();
        Ok(FileBytes { file: Arc::new(file), size, monitor, failed: Arc::default() })
    }

    fn size(&self) -> u64 {
        self.size
    }

    /// Some of the bytes at `offset`; none at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match self.file.read_at(buffer, offset) {
                Ok(count) => {
                    if let Some(monitor) = &self.monitor {
                        monitor.read(count as u64);
                    }
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    *self.failed.lock() = Some(io::Error::new(error.kind(), error.to_string()));
                    return Err(error);
                }
            }
        }
    }

    /// `count` bytes at `offset`, which must be there.
    fn exactly(&self, offset: u64, count: usize) -> io::Result<Vec<u8>> {
        if offset.checked_add(count as u64).is_none_or(|end| end > self.size) {
            let what = format!("{count} bytes at {offset} lie beyond the file's end");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
        }
        let mut bytes = vec![0; count];
        let mut filled = 0;
        while filled < count {
            match self.read_at(&mut bytes[filled..], offset + filled as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                more => filled += more,
            }
        }
        Ok(bytes)
    }

    /// What went wrong while a decoder said `what`.
    fn trouble(&self, what: impl Into<String>) -> Trouble {
        match self.failed.lock().take() {
            Some(error) => Trouble::Disk(error),
            None => Trouble::Damage(what.into()),
        }
    }
}

/// Writes the one row of `row` as a JSON object in place of what is in `out`, as rows of files are written. The error says which
/// value cannot be said.
pub fn write_row(row: &RecordBatch, out: &mut Vec<u8>) -> Result<(), String> {
    let schema = row.schema();
    cells::Cells::new(row, &schema)?.write(0, out)
}

/// What a decoder gives; a panic is an error as well.
fn guarded<T>(decode: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|_| Err("the bytes make no sense".to_owned()))
}

/// The columns that a table has for these, if it can have them all; what is nested is text of JSON.
pub(crate) fn columns_of(schema: &SchemaRef) -> Option<Columns> {
    let known = |field: &arrow::datatypes::FieldRef| Column {
        name: field.name().clone(),
        column_type: if cells::is_uuid(field) { ColumnType::Varchar } else { column_type(field.data_type()) },
        nullable: true,
    };
    let columns = Columns::new(schema.fields().iter().map(known).collect()).ok()?;
    // A name that no config could write is left to be inferred.
    Columns::parse(&columns.to_string()).ok().filter(|read| *read == columns)
}

fn column_type(arrow: &DataType) -> ColumnType {
    match arrow {
        DataType::Boolean => ColumnType::Boolean,
        DataType::Int8 => ColumnType::TinyInt,
        DataType::Int16 | DataType::UInt8 => ColumnType::SmallInt,
        DataType::Int32 | DataType::UInt16 => ColumnType::Int,
        DataType::Int64 | DataType::UInt32 => ColumnType::BigInt,
        DataType::UInt64 => ColumnType::Decimal(20, 0),
        DataType::Float16 | DataType::Float32 => ColumnType::Real,
        DataType::Float64 => ColumnType::Double,
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale)
            if *precision <= 38 && *scale >= 0 && scale.unsigned_abs() <= *precision =>
        {
            ColumnType::Decimal(*precision, *scale)
        }
        DataType::Date32 | DataType::Date64 => ColumnType::Date,
        DataType::Timestamp(
            TimeUnit::Second | TimeUnit::Millisecond | TimeUnit::Microsecond | TimeUnit::Nanosecond,
            _,
        ) => ColumnType::Timestamp,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            ColumnType::Binary
        }
        DataType::Dictionary(_, value) => column_type(value),
        _ => ColumnType::Varchar,
    }
}
