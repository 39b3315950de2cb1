//! An append whose batches only lack their place in the log.
//!
//! Records are not copied on their way to the segment: a batch that a client sent is still in the buffer that it came in. Only
//! its header, which the log changes, lies apart.

use std::sync::Arc;

use bytes::Bytes;
use tarn_model::Offset;
use tarn_model::PartitionId;

use crate::append::Idempotency;
use crate::batch::{self, HEADER_BYTES};
use crate::offsets::GroupChanges;
use crate::options::TopicInfo;
use crate::producers::Stamp;
use crate::transactions::Request;

/// Where a source is.
#[derive(Debug)]
pub(crate) struct Position {
    pub(crate) source: String,
    pub(crate) key: String,
    /// JSON; `None` forgets the position.
    pub(crate) value: Option<String>,
}

/// All of an append.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) parts: Vec<SealedPart>,
    pub(crate) positions: Vec<Position>,
    pub(crate) dropped: Vec<(String, u64)>,
    pub(crate) idempotency: Option<Idempotency>,
    pub(crate) groups: GroupChanges,
    pub(crate) stamp: Option<Stamp>,
    pub(crate) enlists: bool,
    pub(crate) transactional_id: Option<String>,
    pub(crate) request: Option<Box<Request>>,
    pub(crate) records: u64,
}

impl Sealed {
    /// Whether there is nothing to commit.
    pub(crate) fn is_empty(&self) -> bool {
        let nothing = self.parts.is_empty() && self.positions.is_empty() && self.dropped.is_empty();
        nothing && self.groups.is_empty() && self.idempotency.is_none() && self.request.is_none()
    }
}

/// The batches of one partition.
#[derive(Debug)]
pub(crate) struct SealedPart {
    pub(crate) topic: Arc<TopicInfo>,
    pub(crate) partition: PartitionId,
    pub(crate) batches: Vec<SealedBatch>,
}

/// A whole batch.
#[derive(Debug)]
pub(crate) struct SealedBatch {
    /// The header as it is written.
    head: [u8; HEADER_BYTES],
    /// The batch as it came, whose own header is not written.
    whole: Bytes,
    /// Offsets that it takes.
    pub(crate) records: i32,
    /// Of a record; a marker has none.
    pub(crate) max_timestamp: Option<i64>,
    pub(crate) is_marker: bool,
}

impl SealedBatch {
    /// A batch with a whole header.
    pub(crate) fn new(whole: Bytes, records: i32, max_timestamp: Option<i64>) -> SealedBatch {
        let head = *whole.first_chunk().expect("a sealed batch has a header");
        SealedBatch { head, whole, records, max_timestamp, is_marker: false }
    }

    /// A batch of a client, whose header may be wrong about its newest record.
    pub(crate) fn of_client(whole: Bytes, records: i32, max_timestamp: i64) -> SealedBatch {
        let mut sealed = SealedBatch::new(whole, records, Some(max_timestamp));
        if sealed.head[35..43] != max_timestamp.to_be_bytes() {
            batch::set_max_timestamp(&mut sealed.head, &sealed.whole[HEADER_BYTES..], max_timestamp);
        }
        sealed
    }

    /// A control batch.
    pub(crate) fn marker(whole: Vec<u8>) -> SealedBatch {
        SealedBatch { is_marker: true, ..SealedBatch::new(whole.into(), 1, None) }
    }

    /// Bytes of header and records.
    pub(crate) fn len(&self) -> usize {
        self.whole.len()
    }

    /// The header as it is written.
    pub(crate) fn head(&self) -> &[u8] {
        &self.head
    }

    /// What is written behind the header.
    pub(crate) fn body(&self) -> &[u8] {
        &self.whole[HEADER_BYTES..]
    }

    /// All of a batch that the log has not changed.
    pub(crate) fn into_bytes(self) -> Bytes {
        self.whole
    }

    /// Gives it its place in the log.
    pub(crate) fn place(&mut self, base_offset: Offset, leader_epoch: i32) {
        batch::place(&mut self.head, base_offset, leader_epoch);
    }

    /// Gives all its records this time.
    pub(crate) fn set_append_time(&mut self, now_ms: i64) {
        if !self.is_marker {
            batch::set_append_time(&mut self.head, &self.whole[HEADER_BYTES..], now_ms);
            self.max_timestamp = Some(now_ms);
        }
    }
}
