//! Records of one partition, offsets `[from, to)`, decoded.

use std::sync::Arc;

use arrow::array::RecordBatch;
use tarn_model::{OffsetRange, PartitionId};

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
