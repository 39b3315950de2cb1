//! From log records to rows and dead letters, once.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use tarn_log::Records;
use tarn_model::columns::Columns;
use tarn_model::config::UnknownFields;
use tarn_model::{OffsetRange, PartitionId, Result};

/// How records become rows of one table.
#[derive(Debug, Clone)]
pub struct TableFormat {
    /// The columns.
    pub columns: Columns,
    /// What happens to other fields.
    pub unknown_fields: UnknownFields,
    /// Zone of timestamps that name none (IANA name); `None` is UTC.
    pub timezone: Option<String>,
}

impl TableFormat {
    /// The table's schema: system columns, columns, `_rest` when unknown fields are kept.
    pub fn schema(&self) -> SchemaRef {
        self.columns.table_schema(self.unknown_fields == UnknownFields::Keep)
    }
}

/// Decodes records for one table.
#[derive(Debug)]
pub struct Decoder {}

/// What a decode gave.
#[derive(Debug)]
pub struct Decoded {
    /// Rows in offset order, in the table's schema.
    pub rows: RecordBatch,
    /// Dead letters in offset order, in [`dead_letter_schema`].
    pub dead: Option<RecordBatch>,
}

#[expect(unused_variables, reason = "skeleton")]
impl Decoder {
    /// A decoder of this format.
    pub fn new(format: &TableFormat) -> Result<Decoder> {
        unimplemented!()
    }

    /// Decodes the records of `partition`. Offsets for which `verdict` answers are settled already: `Some(true)` is dead
    /// (it yields neither row nor dead letter, for it lies in the dead-letter table).
    pub fn decode(
        &mut self,
        partition: PartitionId,
        records: &Records,
        verdict: &dyn Fn(i64) -> bool,
    ) -> Result<Decoded> {
        unimplemented!()
    }
}

/// `_partition`, `_offset`, `_timestamp`, `reason VARCHAR`, `field VARCHAR`, `key BINARY`, `value BINARY`, `headers
/// VARCHAR` (JSON).
pub fn dead_letter_schema() -> SchemaRef {
    unimplemented!()
}

/// Columns for records of which nothing is declared: the narrowest of BOOLEAN, BIGINT, DOUBLE, TIMESTAMP, VARCHAR that
/// takes every value seen; nested values are VARCHAR holding JSON; raw lines are the one column `line`.
#[expect(unused_variables, reason = "skeleton")]
pub fn infer<'a>(samples: impl Iterator<Item = &'a Records>) -> Columns {
    unimplemented!()
}

/// What a decoder makes of a range, for counting.
#[derive(Debug, Clone, Copy)]
pub struct Settled {
    /// The range.
    pub range: OffsetRange,
}
