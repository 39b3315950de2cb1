//! Records: where partitions begin and end, sending and reading.

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::{
    BrokerId, FetchRequest, ListOffsetsRequest, ProduceRequest, fetch_request, list_offsets_request,
    produce_request,
};
use tarn_log::Records;
use tarn_model::{Error, Offset, PartitionId, Result};

use super::{Cluster, check, topic_name};

const EARLIEST: i64 = -2;
const LATEST: i64 = -1;
const READ_COMMITTED: i8 = 1;
const PRODUCE_WITHIN_MS: i32 = 20_000;
const FETCH_BYTES: i32 = 4 << 20;

/// A place in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// Its first record that is still there.
    Earliest,
    /// Behind its last record.
    Latest,
    /// The first record with this timestamp or a later one, ms since 1970 UTC; behind the last when there is none.
    Time(i64),
}

/// What a fetch gave.
#[derive(Debug)]
pub struct Fetched {
    /// Records at or above the offset that was asked for, of transactions that were committed or none.
    pub records: Records,
    /// Where to go on.
    pub next: Offset,
    /// Where the partition ended for readers of committed records.
    pub end: Offset,
}

impl Cluster {
    /// The offset of a place in a partition.
    pub async fn offset_at(&mut self, topic: &str, partition: PartitionId, at: At) -> Result<Offset> {
        let timestamp = match at {
            At::Earliest => EARLIEST,
            At::Latest => LATEST,
            At::Time(ms) => ms,
        };
        let mut found = self.list_offset(topic, partition, timestamp).await?;
        if found < 0 && matches!(at, At::Time(_)) {
            // No record is so new.
            found = self.list_offset(topic, partition, LATEST).await?;
        }
        if found < 0 {
            let place = place(topic, partition);
            return Err(Error::unavailable(format!("the broker tells no offset of {place}")));
        }
        Ok(found)
    }

    async fn list_offset(&mut self, topic: &str, partition: PartitionId, timestamp: i64) -> Result<Offset> {
        let of = list_offsets_request::ListOffsetsPartition::default()
            .with_partition_index(partition)
            .with_current_leader_epoch(-1)
            .with_timestamp(timestamp);
        let of = list_offsets_request::ListOffsetsTopic::default()
            .with_name(topic_name(topic))
            .with_partitions(vec![of]);
        let request = ListOffsetsRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_isolation_level(READ_COMMITTED)
            .with_topics(vec![of]);
        let answer = self.leader(topic, partition).await?.ask(&request, 6).await?;
        let of_topic = answer.topics.iter().filter(|told| told.name.as_str() == topic);
        let told = of_topic.flat_map(|told| &told.partitions).find(|told| told.partition_index == partition);
        let Some(told) = told else {
            let place = place(topic, partition);
            return Err(Error::unavailable(format!("the broker says nothing of {place}")));
        };
        check(told.error_code, None, || place(topic, partition))?;
        Ok(told.offset)
    }

    /// Sends one record batch, and waits until it is as durable as the broker makes it; its first offset.
    pub async fn produce(&mut self, topic: &str, partition: PartitionId, batch: Bytes) -> Result<Offset> {
        let of =
            produce_request::PartitionProduceData::default().with_index(partition).with_records(Some(batch));
        let of = produce_request::TopicProduceData::default()
            .with_name(topic_name(topic))
            .with_partition_data(vec![of]);
        let request = ProduceRequest::default()
            .with_acks(-1)
            .with_timeout_ms(PRODUCE_WITHIN_MS)
            .with_topic_data(vec![of]);
        let answer = self.leader(topic, partition).await?.ask(&request, 9).await?;
        let mut first = -1;
        for partition in answer.responses.iter().flat_map(|topic| &topic.partition_responses) {
            check(partition.error_code, partition.error_message.as_ref(), || place(topic, partition.index))?;
            first = partition.base_offset;
        }
        Ok(first)
    }

    /// Reads on from an offset; waits up to `wait` for a record.
    pub async fn fetch(
        &mut self,
        topic: &str,
        partition: PartitionId,
        from: Offset,
        wait: Duration,
    ) -> Result<Fetched> {
        let of = fetch_request::FetchPartition::default()
            .with_partition(partition)
            .with_current_leader_epoch(-1)
            .with_fetch_offset(from)
            .with_log_start_offset(-1)
            .with_partition_max_bytes(FETCH_BYTES);
        let of = fetch_request::FetchTopic::default().with_topic(topic_name(topic)).with_partitions(vec![of]);
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(i32::try_from(wait.as_millis()).unwrap_or(i32::MAX))
            .with_min_bytes(1)
            .with_max_bytes(FETCH_BYTES)
            .with_isolation_level(READ_COMMITTED)
            .with_session_epoch(-1)
            .with_topics(vec![of]);
        let answer = self.leader(topic, partition).await?.ask_and_wait(&request, 11, wait).await?;
        check(answer.error_code, None, || place(topic, partition))?;
        let mut fetched =
            Fetched { records: Records::of_answer(&Bytes::new(), from, &[])?.0, next: from, end: from };
        for found in answer.responses.into_iter().flat_map(|topic| topic.partitions) {
            check(found.error_code, None, || place(topic, found.partition_index))?;
            let aborted: Vec<(i64, Offset)> = found
                .aborted_transactions
                .iter()
                .flatten()
                .map(|aborted| (aborted.producer_id.0, aborted.first_offset))
                .collect();
            let bytes = found.records.unwrap_or_default();
            let (records, next) = Records::of_answer(&bytes, from, &aborted)?;
            let end = found.last_stable_offset.max(0).min(found.high_watermark);
            fetched = Fetched { records, next, end };
        }
        Ok(fetched)
    }
}

fn place(topic: &str, partition: PartitionId) -> String {
    format!("topic `{topic}` partition {partition}")
}
