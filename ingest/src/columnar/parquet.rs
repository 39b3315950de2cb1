//! Parquet files, one row group after another.
//!
//! A position is a row: the group it lies in follows from the footer, and within the group its pages are passed over.

use std::io::{self, BufReader, Read};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::LogicalType;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use super::{BATCH_BYTES, FileBytes, RowFile, Trouble, cells, guarded};

const MOST_ROWS: u64 = 8192;
/// One read of a page's header.
const READ_BYTES: usize = 16 << 10;

/// The rows of a Parquet file.
pub(super) struct Parquet {
    bytes: FileBytes,
    metadata: ArrowReaderMetadata,
    schema: SchemaRef,
    /// The row that comes next.
    row: u64,
    reader: Option<Group>,
}

/// The row group that is read.
struct Group {
    number: usize,
    /// The row behind its last one.
    end: u64,
    reader: ParquetRecordBatchReader,
    /// Whether it goes row by row, because there is damage ahead.
    single: bool,
}

impl Parquet {
    pub(super) fn open(bytes: FileBytes, rows: u64) -> Result<Parquet, Trouble> {
        let metadata = guarded(|| {
            ArrowReaderMetadata::load(&bytes, ArrowReaderOptions::new()).map_err(|error| error.to_string())
        });
        let metadata = metadata.map_err(|what| bytes.trouble(what))?;
        let schema = marked(&metadata);
        Ok(Parquet { bytes, metadata, schema, row: rows, reader: None })
    }

    /// Opens the group that the next row lies in; `None` behind the last one.
    fn group(&self, single: bool) -> Result<Option<Group>, Trouble> {
        let mut end = 0_u64;
        for (number, group) in self.metadata.metadata().row_groups().iter().enumerate() {
            let rows = u64::try_from(group.num_rows()).unwrap_or(0);
            let first = end;
            end = end.saturating_add(rows);
            if self.row >= end {
                continue;
            }
            let row_bytes = u64::try_from(group.total_byte_size()).unwrap_or(0) / rows.max(1);
            let batch_rows = if single { 1 } else { (BATCH_BYTES / row_bytes.max(1)).clamp(1, MOST_ROWS) };
            let skipped = usize::try_from(self.row - first).unwrap_or(usize::MAX);
            let reader = guarded(|| {
                let metadata = self.metadata.clone();
                let builder =
                    ParquetRecordBatchReaderBuilder::new_with_metadata(self.bytes.clone(), metadata)
                        .with_row_groups(vec![number])
                        .with_offset(skipped)
                        .with_batch_size(usize::try_from(batch_rows).unwrap_or(1));
                builder.build().map_err(|error| error.to_string())
            });
            let reader = reader.map_err(|what| self.bytes.trouble(what))?;
            return Ok(Some(Group { number, end, reader, single }));
        }
        Ok(None)
    }
}

impl RowFile for Parquet {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn next(&mut self) -> Result<Option<RecordBatch>, Trouble> {
        loop {
            if self.reader.is_none() {
                self.reader = self.group(false)?;
            }
            let Some(group) = &mut self.reader else { return Ok(None) };
            let number = group.number;
            let batch = guarded(|| group.reader.next().transpose().map_err(|error| error.to_string()));
            match batch {
                Ok(Some(batch)) => {
                    self.row += batch.num_rows() as u64;
                    return Ok(Some(batch));
                }
                Ok(None) if self.row >= group.end => self.reader = None,
                Ok(None) => {
                    let what = format!("row group {number} has fewer rows than it says");
                    return Err(self.bytes.trouble(what));
                }
                Err(what) if group.single => {
                    return Err(self.bytes.trouble(format!("row group {number} is damaged ({what})")));
                }
                Err(what) => {
                    if let Trouble::Disk(error) = self.bytes.trouble(what) {
                        return Err(Trouble::Disk(error));
                    }
                    self.reader = self.group(true)?;
                }
            }
        }
    }
}

/// The schema, in which columns that Parquet calls UUIDs say so.
fn marked(metadata: &ArrowReaderMetadata) -> SchemaRef {
    let root = metadata.metadata().file_metadata().schema_descr().root_schema();
    let is_uuid = |name: &str| {
        let column = root.get_fields().iter().find(|column| column.name() == name);
        column.is_some_and(|column| {
            matches!(column.get_basic_info().logical_type_ref(), Some(LogicalType::Uuid))
        })
    };
    let schema = metadata.schema();
    let fields = schema.fields().iter().map(|field| match is_uuid(field.name()) {
        true => Arc::new(cells::as_uuid(Field::clone(field))),
        false => field.clone(),
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

impl Length for FileBytes {
    fn len(&self) -> u64 {
        self.size()
    }
}

impl ChunkReader for FileBytes {
    type T = BufReader<Reading>;

    fn get_read(&self, start: u64) -> Result<BufReader<Reading>, ParquetError> {
        Ok(BufReader::with_capacity(READ_BYTES, Reading { bytes: self.clone(), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        Ok(self.exactly(start, length)?.into())
    }
}

/// The file from a place on.
pub(crate) struct Reading {
    bytes: FileBytes,
    at: u64,
}

impl Read for Reading {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.bytes.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}
