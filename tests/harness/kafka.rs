//! A Kafka client with nothing between a test and the wire: one request, one answer, record batches made by hand.

use std::io::{Read, Write};
use std::net::TcpStream;

use bytes::{Bytes, BytesMut};
use tarn_kafka::kafka_protocol::messages::*;
use tarn_kafka::kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};

use super::wait::seconds;

/// A connection. Every call fails when the other side is gone.
pub(crate) struct Kafka {
    stream: TcpStream,
    correlation: i32,
}

/// A producer with its epoch.
pub(crate) type Producer = (i64, i16);

/// Text in a request.
pub(crate) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn transactional_id(id: &str) -> TransactionalId {
    TransactionalId(text(id))
}

fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

impl Kafka {
    pub(crate) fn connect(address: &str) -> Option<Kafka> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(seconds(180))).ok()?;
        stream.set_nodelay(true).ok()?;
        Some(Kafka { stream, correlation: 0 })
    }

    /// Asks, and waits for the answer; `None` when the connection is gone.
    pub(crate) fn ask<R: Request>(&mut self, request: &R, version: i16) -> Option<R::Response> {
        self.correlation += 1;
        let mut body = BytesMut::new();
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(text("test")));
        header.encode(&mut body, R::header_version(version)).expect("a header");
        request.encode(&mut body, version).expect("a request");
        let length = i32::try_from(body.len()).expect("small");
        self.stream.write_all(&[&length.to_be_bytes()[..], &body].concat()).ok()?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).ok()?;
        let mut answer = vec![0; usize::try_from(i32::from_be_bytes(length)).expect("a length")];
        self.stream.read_exact(&mut answer).ok()?;
        let mut answer = Bytes::from(answer);
        let version_of_header = R::Response::header_version(version);
        let header = ResponseHeader::decode(&mut answer, version_of_header).expect("a header");
        assert_eq!(header.correlation_id, self.correlation);
        Some(R::Response::decode(&mut answer, version).expect("an answer"))
    }

    /// Begins under a transactional id.
    pub(crate) fn begin_producer(&mut self, id: &str) -> Option<Result<Producer, i16>> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(transactional_id(id)))
            .with_transaction_timeout_ms(60_000)
            .with_producer_id((-1).into())
            .with_producer_epoch(-1);
        let answer = self.ask(&request, 4)?;
        Some(coded(answer.error_code, (answer.producer_id.0, answer.producer_epoch)))
    }

    /// A producer that is idempotent and has no transactions.
    pub(crate) fn idempotent_producer(&mut self) -> Option<Producer> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(60_000)
            .with_producer_id((-1).into())
            .with_producer_epoch(-1);
        let answer = self.ask(&request, 4)?;
        assert_eq!(answer.error_code, 0, "a producer's id");
        Some((answer.producer_id.0, answer.producer_epoch))
    }

    /// Names partitions of a topic, and a group.
    pub(crate) fn enlist(
        &mut self,
        id: &str,
        by: Producer,
        topic: &str,
        partitions: &[i32],
        group: &str,
    ) -> Option<Result<(), i16>> {
        let of = add_partitions_to_txn_request::AddPartitionsToTxnTopic::default()
            .with_name(topic_name(topic))
            .with_partitions(partitions.to_vec());
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(transactional_id(id))
            .with_v3_and_below_producer_id(by.0.into())
            .with_v3_and_below_producer_epoch(by.1)
            .with_v3_and_below_topics(vec![of]);
        let answer = self.ask(&request, 3)?;
        let partitions = &answer.results_by_topic_v3_and_below[0].results_by_partition;
        if let Some(refused) = partitions.iter().find(|partition| partition.partition_error_code != 0) {
            return Some(Err(refused.partition_error_code));
        }
        let request = AddOffsetsToTxnRequest::default()
            .with_transactional_id(transactional_id(id))
            .with_producer_id(by.0.into())
            .with_producer_epoch(by.1)
            .with_group_id(GroupId(text(group)));
        Some(coded(self.ask(&request, 3)?.error_code, ()))
    }

    /// Sends a batch to a partition.
    pub(crate) fn produce(
        &mut self,
        topic: &str,
        partition: i32,
        batch: Vec<u8>,
    ) -> Option<Result<i64, i16>> {
        self.produce_for(None, topic, partition, batch)
    }

    /// Sends a batch to a partition, for a transactional id.
    pub(crate) fn produce_for(
        &mut self,
        id: Option<&str>,
        topic: &str,
        partition: i32,
        batch: Vec<u8>,
    ) -> Option<Result<i64, i16>> {
        let of = produce_request::PartitionProduceData::default()
            .with_index(partition)
            .with_records(Some(batch.into()));
        let of = produce_request::TopicProduceData::default()
            .with_name(topic_name(topic))
            .with_partition_data(vec![of]);
        let request = ProduceRequest::default()
            .with_transactional_id(id.map(transactional_id))
            .with_acks(-1)
            .with_timeout_ms(10_000)
            .with_topic_data(vec![of]);
        let answer = self.ask(&request, 9)?;
        let answer = &answer.responses[0].partition_responses[0];
        Some(coded(answer.error_code, answer.base_offset))
    }

    /// An offset of a group, in the transaction.
    pub(crate) fn transaction_offset(
        &mut self,
        id: &str,
        by: Producer,
        group: &str,
        topic: &str,
        offset: i64,
    ) -> Option<Result<(), i16>> {
        let of = txn_offset_commit_request::TxnOffsetCommitRequestPartition::default()
            .with_committed_offset(offset)
            .with_committed_metadata(Some(text("")));
        let of = txn_offset_commit_request::TxnOffsetCommitRequestTopic::default()
            .with_name(topic_name(topic))
            .with_partitions(vec![of]);
        let request = TxnOffsetCommitRequest::default()
            .with_transactional_id(transactional_id(id))
            .with_group_id(GroupId(text(group)))
            .with_producer_id(by.0.into())
            .with_producer_epoch(by.1)
            .with_topics(vec![of]);
        Some(coded(self.ask(&request, 2)?.topics[0].partitions[0].error_code, ()))
    }

    /// Ends the transaction.
    pub(crate) fn end_transaction(
        &mut self,
        id: &str,
        by: Producer,
        commit: bool,
    ) -> Option<Result<(), i16>> {
        let request = EndTxnRequest::default()
            .with_transactional_id(transactional_id(id))
            .with_producer_id(by.0.into())
            .with_producer_epoch(by.1)
            .with_committed(commit);
        Some(coded(self.ask(&request, 3)?.error_code, ()))
    }

    /// What a group has committed in partition 0 of a topic; -1 for nothing.
    pub(crate) fn committed(&mut self, group: &str, topic: &str) -> Option<i64> {
        let of = offset_fetch_request::OffsetFetchRequestTopic::default()
            .with_name(topic_name(topic))
            .with_partition_indexes(vec![0]);
        let request = OffsetFetchRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_topics(Some(vec![of]))
            .with_require_stable(true);
        let answer = self.ask(&request, 7)?;
        let partition = &answer.topics[0].partitions[0];
        assert_eq!(partition.error_code, 0, "offsets are decided");
        Some(partition.committed_offset)
    }

    /// Joins a group, as its member `id` (empty: a new one): the id and the generation; refused with 79, the id to come with.
    pub(crate) fn join_group(
        &mut self,
        group: &str,
        id: &StrBytes,
    ) -> Option<Result<(StrBytes, i32), (i16, StrBytes)>> {
        let protocol = join_group_request::JoinGroupRequestProtocol::default().with_name(text("range"));
        let request = JoinGroupRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_session_timeout_ms(60_000)
            .with_rebalance_timeout_ms(60_000)
            .with_member_id(id.clone())
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        let answer = self.ask(&request, 9)?;
        Some(match answer.error_code {
            0 => Ok((answer.member_id, answer.generation_id)),
            code => Err((code, answer.member_id)),
        })
    }

    /// The leader of a group of one brings its assignment; what it is told to have.
    pub(crate) fn sync_group(
        &mut self,
        group: &str,
        id: &StrBytes,
        generation: i32,
        assignment: &str,
    ) -> Option<Result<Bytes, i16>> {
        let mine = sync_group_request::SyncGroupRequestAssignment::default()
            .with_member_id(id.clone())
            .with_assignment(Bytes::copy_from_slice(assignment.as_bytes()));
        let request = SyncGroupRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_generation_id(generation)
            .with_member_id(id.clone())
            .with_assignments(vec![mine]);
        let answer = self.ask(&request, 5)?;
        Some(coded(answer.error_code, answer.assignment))
    }

    /// A member is alive.
    pub(crate) fn heartbeat(&mut self, group: &str, id: &StrBytes, generation: i32) -> Option<i16> {
        let request = HeartbeatRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_generation_id(generation)
            .with_member_id(id.clone());
        Some(self.ask(&request, 4)?.error_code)
    }

    /// A member commits an offset of partition 0 of a topic.
    pub(crate) fn commit(
        &mut self,
        group: &str,
        (id, generation): (&StrBytes, i32),
        topic: &str,
        offset: i64,
    ) -> Option<Result<(), i16>> {
        let of = offset_commit_request::OffsetCommitRequestPartition::default()
            .with_committed_offset(offset)
            .with_committed_metadata(Some(text("")));
        let of = offset_commit_request::OffsetCommitRequestTopic::default()
            .with_name(topic_name(topic))
            .with_partitions(vec![of]);
        let request = OffsetCommitRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_generation_id_or_member_epoch(generation)
            .with_member_id(id.clone())
            .with_topics(vec![of]);
        Some(coded(self.ask(&request, 8)?.topics[0].partitions[0].error_code, ()))
    }

    /// Creates a topic of one partition.
    pub(crate) fn create_topic(&mut self, name: &str) -> Option<i16> {
        let topic = create_topics_request::CreatableTopic::default()
            .with_name(topic_name(name))
            .with_num_partitions(1)
            .with_replication_factor(1);
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000);
        Some(self.ask(&request, 5)?.topics[0].error_code)
    }

    /// Deletes a topic.
    pub(crate) fn delete_topic(&mut self, name: &str) -> Option<i16> {
        let request =
            DeleteTopicsRequest::default().with_topic_names(vec![topic_name(name)]).with_timeout_ms(10_000);
        Some(self.ask(&request, 4)?.responses[0].error_code)
    }

    /// Names of all topics.
    pub(crate) fn topics(&mut self) -> Option<Vec<String>> {
        let answer = self.ask(&MetadataRequest::default().with_topics(None), 8)?;
        Some(answer.topics.iter().filter_map(|topic| Some(topic.name.as_ref()?.to_string())).collect())
    }
}

fn coded<T>(code: i16, value: T) -> Result<T, i16> {
    if code == 0 { Ok(value) } else { Err(code) }
}

/// A record as it is sent.
#[derive(Clone, Copy, Default)]
pub(crate) struct Keyed<'a> {
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: &'a [(&'a str, &'a [u8])],
}

/// A record batch with these values, of a producer and its sequence; part of a transaction if there is a producer.
pub(crate) fn batch(by: Option<Producer>, sequence: i32, values: &[String]) -> Vec<u8> {
    let records: Vec<Keyed<'_>> =
        values.iter().map(|value| Keyed { value: Some(value.as_bytes()), ..Keyed::default() }).collect();
    record_batch(if by.is_some() { 0x10 } else { 0 }, by.unwrap_or((-1, -1)), sequence, &records)
}

/// A record batch of an idempotent producer.
pub(crate) fn keyed_batch(by: Producer, sequence: i32, records: &[Keyed<'_>]) -> Vec<u8> {
    record_batch(0, by, sequence, records)
}

fn record_batch(attributes: i16, by: Producer, sequence: i32, all: &[Keyed<'_>]) -> Vec<u8> {
    let count = i32::try_from(all.len()).expect("few");
    let mut records = Vec::new();
    for (delta, one) in (0..).zip(all) {
        let mut record = vec![0];
        put_varint(&mut record, 0);
        put_varint(&mut record, delta);
        put_bytes(&mut record, one.key);
        put_bytes(&mut record, one.value);
        put_varint(&mut record, i64::try_from(one.headers.len()).expect("few"));
        for (name, value) in one.headers {
            put_bytes(&mut record, Some(name.as_bytes()));
            put_bytes(&mut record, Some(value));
        }
        put_varint(&mut records, i64::try_from(record.len()).expect("short"));
        records.extend(record);
    }
    let mut checked = Vec::new();
    checked.extend(attributes.to_be_bytes());
    checked.extend((count - 1).to_be_bytes());
    checked.extend([1_700_000_000_000_i64.to_be_bytes(); 2].concat());
    checked.extend(by.0.to_be_bytes());
    checked.extend(by.1.to_be_bytes());
    checked.extend(if by.0 >= 0 { sequence } else { -1 }.to_be_bytes());
    checked.extend(count.to_be_bytes());
    checked.extend(records);
    let mut batch = Vec::new();
    batch.extend(0_i64.to_be_bytes());
    batch.extend(i32::try_from(checked.len() + 9).expect("small").to_be_bytes());
    batch.extend([0, 0, 0, 0, 2]);
    batch.extend(crc32c(&checked).to_be_bytes());
    batch.extend(checked);
    batch
}

/// Bytes with their length before them; -1 for none.
fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    put_varint(out, bytes.map_or(-1, |bytes| i64::try_from(bytes.len()).expect("short")));
    out.extend(bytes.unwrap_or_default());
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |crc: u32| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| bit(crc)))
}

/// A zigzag varint.
fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut left = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while left >= 0x80 {
        out.push(u8::try_from(left & 0x7f).expect("seven bits") | 0x80);
        left >>= 7;
    }
    out.push(u8::try_from(left).expect("seven bits"));
}
