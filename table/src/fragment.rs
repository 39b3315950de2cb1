//! Records of one partition, offsets `[from, to)`, decoded.
//!
//! *Invariants*: rows and dead letters stand in offset order and lie in the range, so a fragment is cut at an offset by
//! two binary searches. A fragment never changes; merging and cutting make new ones.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, UInt64Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::Int64Type;
use tarn_model::columns::OFFSET;
use tarn_model::{Error, Offset, OffsetRange, PartitionId, Result};

/// What one decode of one range gave to one table. Rows and dead letters together are the records of the range.
#[derive(Debug, Clone)]
pub struct Fragment {
    /// The partition.
    pub partition: PartitionId,
    /// The offsets, half-open.
    pub range: OffsetRange,
    /// Rows in offset order, in the table's schema (system columns first).
    pub rows: RecordBatch,
    /// Dead letters in offset order, in [`crate::decode::dead_letter_schema`]; `None` when there are none.
    pub dead: Option<RecordBatch>,
    /// Memory of both, bytes.
    pub bytes: usize,
}

/// Fragments are shared by tail, live views and batch layer.
pub type SharedFragment = Arc<Fragment>;

impl Fragment {
    /// A fragment, with its memory counted.
    pub fn new(
        partition: PartitionId,
        range: OffsetRange,
        rows: RecordBatch,
        dead: Option<RecordBatch>,
    ) -> Fragment {
        let dead = dead.filter(|dead| dead.num_rows() > 0);
        let bytes =
            rows.get_array_memory_size() + dead.as_ref().map_or(0, RecordBatch::get_array_memory_size);
        Fragment { partition, range, rows, dead, bytes }
    }

    /// Number of dead letters at or above `from` and below `to`.
    pub fn dead_letters_in(&self, from: Offset, to: Offset) -> usize {
        self.dead.as_ref().map_or(0, |dead| slice_rows(dead, from, to).num_rows())
    }

    /// The part at or above `from` and below `to`; it shares this fragment's buffers, and counts them in full.
    #[must_use]
    pub fn slice(&self, from: Offset, to: Offset) -> Fragment {
        let to = to.clamp(self.range.from, self.range.to);
        let from = from.clamp(self.range.from, to);
        Fragment {
            partition: self.partition,
            range: OffsetRange::new(from, to),
            rows: slice_rows(&self.rows, from, to),
            dead: self
                .dead
                .as_ref()
                .map(|dead| slice_rows(dead, from, to))
                .filter(|dead| dead.num_rows() > 0),
            bytes: self.bytes,
        }
    }

    /// The part at or above `from` in buffers of its own, so that what lies below is freed.
    pub fn split_off(&self, from: Offset) -> Result<Fragment> {
        let part = self.slice(from, self.range.to);
        let rows = copy_rows(&part.rows)?;
        let dead = part.dead.as_ref().map(copy_rows).transpose()?;
        Ok(Fragment::new(part.partition, part.range, rows, dead))
    }

    /// Neighbouring fragments of one partition and one schema as one.
    pub fn merge(parts: &[SharedFragment]) -> Result<Fragment> {
        let (Some(first), Some(last)) = (parts.first(), parts.last()) else {
            return Err(Error::internal("there is no fragment to merge"));
        };
        let neighbours = parts.windows(2).all(|pair| pair[0].range.to == pair[1].range.from);
        if !neighbours || parts.iter().any(|part| part.partition != first.partition) {
            return Err(Error::internal("fragments that are merged must be neighbours"));
        }
        let concat = |batches: Vec<&RecordBatch>| match batches.first() {
            Some(batch) => {
                concat_batches(&batch.schema(), batches.iter().copied()).map(Some).map_err(arrow_error)
            }
            None => Ok(None),
        };
        let rows = concat(parts.iter().map(|part| &part.rows).collect())?.expect("there is a first fragment");
        let dead = concat(parts.iter().filter_map(|part| part.dead.as_ref()).collect())?;
        Ok(Fragment::new(first.partition, OffsetRange::new(first.range.from, last.range.to), rows, dead))
    }
}

/// The rows whose offset is at or above `from` and below `to`, of rows in offset order; no copy.
pub fn slice_rows(rows: &RecordBatch, from: Offset, to: Offset) -> RecordBatch {
    let Some(offsets) = rows.column_by_name(OFFSET).and_then(|column| column.as_primitive_opt::<Int64Type>())
    else {
        return rows.slice(0, 0);
    };
    let offsets = offsets.values();
    let start = offsets.partition_point(|offset| *offset < from);
    let end = offsets.partition_point(|offset| *offset < to).max(start);
    rows.slice(start, end - start)
}

fn copy_rows(rows: &RecordBatch) -> Result<RecordBatch> {
    let all = UInt64Array::from_iter_values(0..u64::try_from(rows.num_rows()).unwrap_or(u64::MAX));
    take_record_batch(rows, &all).map_err(arrow_error)
}

fn arrow_error(error: arrow::error::ArrowError) -> Error {
    Error::internal("a fragment could not be merged or cut").with_source(error)
}
