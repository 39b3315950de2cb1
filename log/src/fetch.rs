//! Reading: whole record batches, and the records in them without a copy.

use bytes::Bytes;
use tarn_model::{Offset, PartitionId, Result};

/// Record batches of one partition, as stored.
#[derive(Debug, Clone)]
pub struct Fetch {
    /// The partition.
    pub partition: PartitionId,
    /// Whole record batches; the first may begin below the offset that was asked for.
    pub batches: Vec<Bytes>,
    /// The offset that was asked for.
    pub from: Offset,
    /// The offset after the last record of `batches` (`from` when there are none).
    pub next: Offset,
    /// Committed end of the partition at the time of the read.
    pub end: Offset,
}

impl Fetch {
    /// Unpacks the batches: verifies their CRCs and decompresses them, within limits.
    pub fn records(&self) -> Result<Records> {
        unimplemented!()
    }
}

/// Unpacked records of a fetch, at or above the offset that was asked for.
#[derive(Debug)]
pub struct Records {}

impl Records {
    /// The records in offset order, borrowed from the unpacked batches.
    pub fn iter(&self) -> impl Iterator<Item = RecordView<'_>> {
        std::iter::empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        unimplemented!()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A record, borrowed.
#[derive(Debug, Clone, Copy)]
pub struct RecordView<'a> {
    /// Its offset.
    pub offset: Offset,
    /// Milliseconds since 1970 UTC.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
    raw_headers: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// Names and values of its headers, decoded as they are asked for.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> {
        let _ = self.raw_headers;
        std::iter::empty()
    }
}
