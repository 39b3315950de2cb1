//! ListOffsets: where a partition begins and ends, and which record is the first of a time.

use std::sync::Arc;

use kafka_protocol::error::ResponseError as Code;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse};
use tarn_log::Log;
use tarn_model::{Error, Offset, PartitionId, Result};

use crate::broker::{Broker, blocking, code_of};
use crate::epochs::{NO_EPOCH, check_current};

/// The isolation level that sees only what is decided.
pub(crate) const READ_COMMITTED: i8 = 1;
/// The end.
const LATEST: i64 = -1;
/// The first record that is still there.
const EARLIEST: i64 = -2;
/// The record with the newest timestamp.
const NEWEST: i64 = -3;
/// The first record on a local disk; there are no others.
const EARLIEST_LOCAL: i64 = -4;
/// From this version on, an answer tells epochs.
const EPOCHS_FIRST_VERSION: i16 = 4;
/// Bytes that are read at once on the way to a timestamp.
const STEP_BYTES: usize = 256 << 10;
/// Requests that look for a time at once: each unpacks batches, of which a few KiB may become 64 MiB.
pub(crate) const SEEKING_AT_ONCE: usize = 3;

impl Broker {
    pub(crate) async fn list_offsets(
        &self,
        request: ListOffsetsRequest,
        version: i16,
    ) -> ListOffsetsResponse {
        let (log, decided) = (self.log.clone(), request.isolation_level == READ_COMMITTED);
        let mut asked = request.topics.iter().flat_map(|topic| &topic.partitions);
        let place = if asked.any(|partition| partition.timestamp >= 0 || partition.timestamp == NEWEST) {
            Arc::clone(&self.seeking).acquire_owned().await.ok()
        } else {
            None
        };
        let topics = blocking(move || {
            let _place = place;
            let topics = request.topics.into_iter().map(|topic| {
                let partitions = topic.partitions.iter().map(|partition| {
                    let (index, at) = (partition.partition_index, partition.timestamp);
                    let answer = ListOffsetsPartitionResponse::default()
                        .with_partition_index(index)
                        .with_timestamp(-1)
                        .with_offset(-1)
                        .with_leader_epoch(NO_EPOCH);
                    if let Err(code) = check_current(&log, partition.current_leader_epoch) {
                        return answer.with_error_code(code.code());
                    }
                    match find(&log, &topic.name, index, at, decided) {
                        Ok(Some((offset, timestamp))) => {
                            // Older versions have no room for it.
                            let told = version >= EPOCHS_FIRST_VERSION;
                            let epoch = told
                                .then(|| log.epoch_at(&topic.name, index, offset).ok().flatten())
                                .flatten();
                            answer
                                .with_offset(offset)
                                .with_timestamp(timestamp)
                                .with_leader_epoch(epoch.unwrap_or(NO_EPOCH))
                        }
                        Ok(None) => answer,
                        Err(error) => {
                            let unknown = log.span(&topic.name, index).is_err();
                            let code = if unknown { Code::UnknownTopicOrPartition } else { code_of(&error) };
                            answer.with_error_code(code.code())
                        }
                    }
                });
                ListOffsetsTopicResponse::default()
                    .with_partitions(partitions.collect())
                    .with_name(topic.name)
            });
            Ok(topics.collect())
        });
        ListOffsetsResponse::default().with_topics(topics.await.unwrap_or_default())
    }
}

/// Offset and timestamp of what `at` asks for; the timestamp is -1 where none was asked for.
fn find(
    log: &Log,
    topic: &str,
    partition: PartitionId,
    at: i64,
    decided: bool,
) -> Result<Option<(Offset, i64)>> {
    let span = log.span(topic, partition)?;
    match at {
        LATEST if decided => Ok(Some((log.stable_end(topic, partition)?, -1))),
        LATEST => Ok(Some((span.to, -1))),
        EARLIEST | EARLIEST_LOCAL => Ok(Some((span.from, -1))),
        NEWEST => match log.newest_timestamp(topic, partition)? {
            Some(newest) => first_at(log, topic, partition, newest, decided),
            None => Ok(None),
        },
        at if at >= 0 => first_at(log, topic, partition, at, decided),
        _ => Ok(None),
    }
}

/// The first record whose timestamp is `timestamp_ms` or later.
pub(crate) fn first_at(
    log: &Log,
    topic: &str,
    partition: PartitionId,
    timestamp_ms: i64,
    decided: bool,
) -> Result<Option<(Offset, i64)>> {
    let mut from = log.seek_time(topic, partition, timestamp_ms)?;
    loop {
        let mut fetch = if decided {
            log.fetch(topic, partition, from, STEP_BYTES)?
        } else {
            log.fetch_undecided(topic, partition, from, STEP_BYTES)?
        };
        let records = fetch.records()?;
        if let Some(record) = records.iter().find(|record| record.timestamp_ms >= timestamp_ms) {
            return Ok(Some((record.offset, record.timestamp_ms)));
        }
        if fetch.next >= if decided { fetch.stable } else { fetch.end } {
            return Ok(None);
        }
        if fetch.next <= from {
            return Err(Error::internal("a fetch below the end brought nothing"));
        }
        from = fetch.next;
    }
}
