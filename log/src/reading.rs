//! Reading a partition: whole batches from an offset on, and where a time begins.

use std::sync::Arc;

use tarn_model::{Error, Offset, PartitionId, Result};

use crate::Log;
use crate::batch::Header;
use crate::error::LogError;
use crate::fetch::Fetch;
use crate::visible::{Placed, aborted_within};

/// Most bytes that one fetch reads, whatever it was asked for.
const LARGEST_FETCH_BYTES: usize = 64 << 20;

impl Log {
    /// Records of one partition from `from` on that are decided: whole batches, at least one if there is any, about
    /// `max_bytes` of them (64 MiB at most); none of an open transaction or behind its first record. `from` below the start
    /// is an [`tarn_model::Kind::Invalid`] error that names the start. Their CRCs are verified: a byte that is not what was
    /// written is a [`tarn_model::Kind::Corrupt`] error that names segment and offset. Blocking (reads files).
    pub fn fetch(
        &self,
        topic: &str,
        partition: PartitionId,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Fetch> {
        self.fetch_where(topic, partition, from, max_bytes, true)
    }

    /// [`Log::fetch`] up to the committed end, open and aborted transactions included.
    pub fn fetch_undecided(
        &self,
        topic: &str,
        partition: PartitionId,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Fetch> {
        self.fetch_where(topic, partition, from, max_bytes, false)
    }

    fn fetch_where(
        &self,
        topic: &str,
        partition: PartitionId,
        from: Offset,
        max_bytes: usize,
        decided: bool,
    ) -> Result<Fetch> {
        let max_bytes = max_bytes.min(LARGEST_FETCH_BYTES);
        let (segments, end, stable, aborted) = {
            let visible = self.shared().visible.read();
            let state = visible.topic(topic)?.partition(partition)?;
            check_offset(topic, partition, from, state.start, state.end())?;
            // More segments than the bytes wanted are never read.
            let mut bytes = 0;
            let wanted = state.segments_from(from).iter().take_while(|placed| {
                let needed = bytes <= max_bytes as u64;
                bytes += placed.extent.bytes;
                needed
            });
            // The list is shared: it is searched when it is known how far the fetch goes.
            let aborted = decided.then(|| state.aborted.clone());
            (wanted.cloned().collect::<Vec<_>>(), state.end(), state.stable(), aborted)
        };
        let limit = if decided { stable } else { end };
        let (mut batches, mut next, mut left) = (Vec::new(), from, max_bytes);
        for placed in segments {
            if !batches.is_empty() && left == 0 || next >= limit {
                break;
            }
            let mut read = match placed.segment.read(&placed.extent, next, left) {
                // Compaction has put another file in its place.
                Err(_) if self.is_replaced(topic, partition, &placed) => {
                    return self.fetch_where(topic, partition, from, max_bytes, decided);
                }
                Err(cause) => return Err(self.explain(cause, topic, partition, from)),
                Ok(read) => read,
            };
            while let Some(last) = read.last() {
                let header = Header::parse(last).map_err(Error::internal)?;
                if header.next_offset() <= limit {
                    next = header.next_offset();
                    break;
                }
                read.pop();
            }
            if read.is_empty() {
                break;
            }
            left = left.saturating_sub(read.iter().map(bytes::Bytes::len).sum());
            batches.extend(read);
            if next < placed.extent.end {
                break;
            }
        }
        let aborted = aborted.map_or_else(Vec::new, |aborted| aborted_within(&aborted, from, next));
        Ok(Fetch { partition, batches, from, next, end, stable, aborted })
    }

    /// Whether another segment begins where this one did.
    fn is_replaced(&self, topic: &str, partition: PartitionId, placed: &Placed) -> bool {
        let visible = self.shared().visible.read();
        let state = visible.topic(topic).and_then(|topic| topic.partition(partition));
        state.is_ok_and(|state| {
            state.segments.iter().any(|now| {
                now.extent.base == placed.extent.base && !Arc::ptr_eq(&now.segment, &placed.segment)
            })
        })
    }

    /// A segment may have been trimmed away under a reader.
    fn explain(&self, cause: LogError, topic: &str, partition: PartitionId, from: Offset) -> Error {
        let visible = self.shared().visible.read();
        let state = visible.topic(topic).and_then(|topic| topic.partition(partition));
        match state.and_then(|state| check_offset(topic, partition, from, state.start, state.end())) {
            Ok(()) => cause.into(),
            Err(error) => error,
        }
    }

    /// An offset at or below the first record of a partition whose timestamp is `timestamp_ms` or later: where to fetch
    /// from to find it. The committed end when every record is older.
    pub fn seek_time(&self, topic: &str, partition: PartitionId, timestamp_ms: i64) -> Result<Offset> {
        let (segments, start, end) = {
            let visible = self.shared().visible.read();
            let state = visible.topic(topic)?.partition(partition)?;
            (state.segments.clone(), state.start, state.end())
        };
        let newer = segments
            .iter()
            .find(|placed| placed.extent.max_timestamp_ms.is_some_and(|max| max >= timestamp_ms));
        let Some(placed) = newer else { return Ok(end) };
        match placed.segment.seek_time(&placed.extent, timestamp_ms) {
            Ok(offset) => Ok(offset.max(start)),
            Err(_) if self.is_replaced(topic, partition, placed) => {
                self.seek_time(topic, partition, timestamp_ms)
            }
            Err(cause) => Err(cause.into()),
        }
    }
}

fn check_offset(topic: &str, partition: PartitionId, from: Offset, start: Offset, end: Offset) -> Result<()> {
    if from < start {
        return Err(Error::invalid(format!(
            "partition {partition} of topic `{topic}` starts at offset {start}, above {from}"
        ))
        .with_hint("older records were let go by retention or a trim"));
    }
    if from > end {
        return Err(Error::invalid(format!(
            "partition {partition} of topic `{topic}` ends at offset {end}, below {from}"
        )));
    }
    Ok(())
}
