//! The listener as a client sees it, byte for byte, with `kafka-protocol` as the client's side.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use tarn_kafka::{KafkaOptions, KafkaServer};
use tarn_log::{Append, Log, LogOptions, RecordRef, TopicInfo, TopicOptions};
use tarn_model::clock;
use tarn_model::config::{Compression, LogConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

mod groups;
mod overview;
mod polls;
mod produced;

struct Bench {
    log: Log,
    server: KafkaServer,
    dir: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Bench {
        Bench::with_retention(std::time::Duration::from_secs(3600)).await
    }

    /// One that keeps offsets of groups without members so long.
    async fn with_retention(offsets_retention: std::time::Duration) -> Bench {
        Bench::on(tempfile::tempdir().expect("a folder"), offsets_retention).await
    }

    /// A new process on the same folder; the one before was killed.
    async fn restarted(self) -> Bench {
        let Bench { log, server, dir } = self;
        server.stop().await;
        drop(log);
        Bench::on(dir, std::time::Duration::from_secs(3600)).await
    }

    async fn on(dir: tempfile::TempDir, offsets_retention: std::time::Duration) -> Bench {
        let mut options = LogOptions::from(&LogConfig::default());
        options.compression = Compression::None;
        let path = dir.path().to_owned();
        let opened = tokio::task::spawn_blocking(move || {
            let until = std::time::Instant::now() + Duration::from_secs(20);
            loop {
                match Log::open(&path, options.clone(), clock::system()) {
                    // What the process before was about may take a moment to end.
                    Err(error) if error.to_string().contains("lock") && std::time::Instant::now() < until => {
                        std::thread::yield_now();
                    }
                    opened => return opened,
                }
            }
        });
        let log = opened.await.expect("a thread").expect("open");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let options = KafkaOptions { auto_create_topics: true, default_partitions: 1, offsets_retention };
        let server = KafkaServer::start(listener, log.clone(), options, clock::system()).expect("start");
        Bench { log, server, dir }
    }

    async fn topic(&self, name: &str, partitions: i32) -> Arc<TopicInfo> {
        let (log, name) = (self.log.clone(), name.to_owned());
        let options = TopicOptions { partitions, retention_time: None, retention_bytes: None };
        let created = tokio::task::spawn_blocking(move || log.create_topic(&name, &options));
        created.await.expect("a thread").expect("create")
    }

    async fn connect(&self) -> Wire {
        Wire { stream: TcpStream::connect(self.server.address()).await.expect("connect"), correlation: 0 }
    }

    /// A batch as a client sends it: made by the log, with this producer.
    async fn batch(&self, texts: &[&str], producer: i64, sequence: i32) -> Bytes {
        let scratch = self.topic("scratch", 1).await;
        let mut append = Append::new();
        for text in texts {
            let record = RecordRef {
                timestamp_ms: 1000,
                key: Some(b"k"),
                value: Some(text.as_bytes()),
                headers: &[("h", b"v")],
            };
            append.push(&scratch, &record).expect("push");
        }
        let range = self.log.append(append).await.expect("append").ranges[0].2;
        let mut bytes = self.log.fetch("scratch", 0, range.from, 1).expect("fetch").batches[0].to_vec();
        bytes[..8].fill(0);
        if producer >= 0 {
            bytes[43..51].copy_from_slice(&producer.to_be_bytes());
            bytes[51..53].copy_from_slice(&0_i16.to_be_bytes());
            bytes[53..57].copy_from_slice(&sequence.to_be_bytes());
            let crc = crc32c::crc32c(&bytes[21..]);
            bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        }
        bytes.into()
    }
}

struct Wire {
    stream: TcpStream,
    correlation: i32,
}

impl Wire {
    async fn send<R: Request>(&mut self, request: &R, version: i16) -> i32 {
        let mut frame = BytesMut::new();
        self.correlation += 1;
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(StrBytes::from_static_str("wire")));
        header.encode(&mut frame, R::header_version(version)).expect("a header");
        request.encode(&mut frame, version).expect("a request");
        self.send_raw(&frame).await;
        self.correlation
    }

    async fn send_raw(&mut self, frame: &[u8]) {
        let length = i32::try_from(frame.len()).expect("short");
        self.stream.write_all(&length.to_be_bytes()).await.expect("write");
        self.stream.write_all(frame).await.expect("write");
    }

    /// The next frame; `None` when the server has hung up.
    async fn frame(&mut self) -> Option<Bytes> {
        let length = tokio::time::timeout(Duration::from_secs(20), self.stream.read_i32()).await;
        let length = length.expect("an answer in time").ok()?;
        let mut bytes = vec![0; usize::try_from(length).expect("a length")];
        self.stream.read_exact(&mut bytes).await.expect("a whole frame");
        Some(bytes.into())
    }

    async fn receive<T: Decodable + HeaderVersion>(&mut self, version: i16) -> (i32, T) {
        let mut bytes = self.frame().await.expect("an answer");
        let header = ResponseHeader::decode(&mut bytes, T::header_version(version)).expect("a header");
        let body = T::decode(&mut bytes, version).expect("an answer");
        assert!(bytes.is_empty(), "bytes behind an answer");
        (header.correlation_id, body)
    }

    async fn ask<R: Request>(&mut self, request: &R, version: i16) -> R::Response {
        let correlation = self.send(request, version).await;
        let (answered, body) = self.receive::<R::Response>(version).await;
        assert_eq!(answered, correlation);
        body
    }
}

fn name(text: &str) -> TopicName {
    TopicName(StrBytes::from_string(text.to_owned()))
}

fn produce(topic: &TopicInfo, version: i16, acks: i16, batch: &Bytes) -> ProduceRequest {
    let partition =
        produce_request::PartitionProduceData::default().with_index(0).with_records(Some(batch.clone()));
    let data = produce_request::TopicProduceData::default().with_partition_data(vec![partition]);
    let data = if version >= 13 { data.with_topic_id(topic.id) } else { data.with_name(name(&topic.name)) };
    ProduceRequest::default().with_acks(acks).with_timeout_ms(1000).with_topic_data(vec![data])
}

fn fetch(topic: &TopicInfo, version: i16, offset: i64, wait_ms: i32) -> FetchRequest {
    let partition = fetch_request::FetchPartition::default()
        .with_partition(0)
        .with_fetch_offset(offset)
        .with_partition_max_bytes(1 << 20);
    let asked = fetch_request::FetchTopic::default().with_partitions(vec![partition]);
    let asked =
        if version >= 13 { asked.with_topic_id(topic.id) } else { asked.with_topic(name(&topic.name)) };
    FetchRequest::default()
        .with_replica_id((-1).into())
        .with_max_wait_ms(wait_ms)
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_topics(vec![asked])
}

#[tokio::test]
async fn batches_come_back_byte_for_byte_in_every_version() {
    let bench = Bench::new().await;
    let topic = bench.topic("t", 1).await;
    let mut wire = bench.connect().await;
    let batch = bench.batch(&["one", "two"], -1, 0).await;
    for (n, version) in (3..=13).enumerate() {
        let answer = wire.ask(&produce(&topic, version, -1, &batch), version).await;
        let partition = &answer.responses[0].partition_responses[0];
        let base = i64::try_from(n).expect("few") * 2;
        assert_eq!((partition.error_code, partition.base_offset), (0, base), "produce {version}");
    }
    for version in 4..=18 {
        // From the middle of the second batch: it comes whole.
        let answer = wire.ask(&fetch(&topic, version, 3, 0), version).await;
        let partition = &answer.responses[0].partitions[0];
        assert_eq!((partition.error_code, partition.high_watermark), (0, 22), "fetch {version}");
        let records = partition.records.as_ref().expect("records");
        assert_eq!(records.len(), batch.len() * 10, "fetch {version}");
        assert_eq!(records[..8], 2_i64.to_be_bytes(), "its base offset");
        assert_eq!(records[16..batch.len()], batch[16..], "everything from the magic on");
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let bench = Bench::new().await;
    let topic = bench.topic("t", 1).await;
    let mut wire = bench.connect().await;
    let mut sent = Vec::new();
    for n in 0..30 {
        let batch = bench.batch(&[&n.to_string()], 5, n).await;
        sent.push((wire.send(&produce(&topic, 9, -1, &batch), 9).await, 'p'));
        if n % 10 == 0 {
            sent.push((wire.send(&fetch(&topic, 12, 0, 100), 12).await, 'f'));
        }
    }
    let mut next = 0;
    for (correlation, kind) in sent {
        if kind == 'p' {
            let (answered, body) = wire.receive::<ProduceResponse>(9).await;
            assert_eq!(answered, correlation);
            let partition = &body.responses[0].partition_responses[0];
            assert_eq!((partition.error_code, partition.base_offset), (0, next));
            next += 1;
        } else {
            let (answered, body) = wire.receive::<FetchResponse>(12).await;
            assert_eq!(answered, correlation);
            assert!(
                body.responses[0].partitions[0].high_watermark >= next,
                "it sees what was answered before"
            );
        }
    }
}

#[tokio::test]
async fn a_batch_sent_again_has_its_first_offset_and_a_gap_is_refused() {
    let bench = Bench::new().await;
    let topic = bench.topic("t", 1).await;
    let mut wire = bench.connect().await;
    let init = InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(1);
    let id = wire.ask(&init, 4).await.producer_id.0;
    assert!(id > 0);
    let (first, second, fourth) = (
        bench.batch(&["a"], id, 0).await,
        bench.batch(&["b"], id, 1).await,
        bench.batch(&["d"], id, 3).await,
    );
    let mut outcomes = Vec::new();
    for batch in [&first, &second, &first, &fourth, &second] {
        let answer = wire.ask(&produce(&topic, 9, -1, batch), 9).await;
        let partition = &answer.responses[0].partition_responses[0];
        outcomes.push((partition.error_code, partition.base_offset));
    }
    assert_eq!(outcomes, [(0, 0), (0, 1), (0, 0), (45, -1), (0, 1)]);
    assert_eq!(bench.log.span("t", 0).expect("span").to, 2);
}

/// A batch of a transaction, made of one without.
fn transactional(batch: &Bytes, epoch: i16) -> Bytes {
    let mut bytes = batch.to_vec();
    bytes[22] |= 0x10;
    bytes[51..53].copy_from_slice(&epoch.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

/// [`produce`] in a transaction.
fn written(topic: &TopicInfo, version: i16, batch: &Bytes) -> ProduceRequest {
    produce(topic, version, -1, batch).with_transactional_id(Some(transactional_id()))
}

fn read_committed(topic: &TopicInfo, offset: i64) -> FetchRequest {
    fetch(topic, 12, offset, 0).with_isolation_level(1)
}

fn end(by: (ProducerId, i16), committed: bool) -> EndTxnRequest {
    EndTxnRequest::default()
        .with_transactional_id(transactional_id())
        .with_producer_id(by.0)
        .with_producer_epoch(by.1)
        .with_committed(committed)
}

fn transactional_id() -> TransactionalId {
    TransactionalId(StrBytes::from_static_str("tx"))
}

async fn begin_producer(wire: &mut Wire) -> (ProducerId, i16) {
    let init = InitProducerIdRequest::default()
        .with_transactional_id(Some(transactional_id()))
        .with_transaction_timeout_ms(60_000)
        .with_producer_id((-1).into())
        .with_producer_epoch(-1);
    let begun = wire.ask(&init, 4).await;
    assert_eq!(begun.error_code, 0);
    (begun.producer_id, begun.producer_epoch)
}

#[tokio::test]
async fn a_transaction_is_seen_when_it_is_committed_and_its_aborted_ones_are_named() {
    let bench = Bench::new().await;
    let topic = bench.topic("t", 1).await;
    let mut wire = bench.connect().await;
    let by = begin_producer(&mut wire).await;
    let add = |by: (ProducerId, i16)| {
        let of = add_partitions_to_txn_request::AddPartitionsToTxnTopic::default()
            .with_name(name("t"))
            .with_partitions(vec![0]);
        AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(transactional_id())
            .with_v3_and_below_producer_id(by.0)
            .with_v3_and_below_producer_epoch(by.1)
            .with_v3_and_below_topics(vec![of])
    };
    let batch = transactional(&bench.batch(&["a", "b"], by.0.0, 0).await, by.1);
    let answer = wire.ask(&written(&topic, 9, &batch), 9).await;
    assert_eq!(answer.responses[0].partition_responses[0].error_code, 48, "no transaction is open");
    let nobodys = produce(&topic, 9, -1, &batch);
    let others =
        nobodys.clone().with_transactional_id(Some(TransactionalId(StrBytes::from_static_str("ty"))));
    for (request, code) in [(nobodys, 53), (others, 49)] {
        let answer = wire.ask(&request, 9).await;
        assert_eq!(answer.responses[0].partition_responses[0].error_code, code, "{request:?}");
    }
    for (sequence, committed) in [(0, false), (2, true)] {
        let added = wire.ask(&add(by), 3).await;
        let added = &added.results_by_topic_v3_and_below[0].results_by_partition[0];
        assert_eq!(added.partition_error_code, 0);
        let batch = transactional(&bench.batch(&["a", "b"], by.0.0, sequence).await, by.1);
        let answer = wire.ask(&written(&topic, 9, &batch), 9).await;
        assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
        let open = wire.ask(&read_committed(&topic, if committed { 3 } else { 0 }), 12).await;
        let open = &open.responses[0].partitions[0];
        assert!(
            open.records.as_ref().is_none_or(Bytes::is_empty)
                && open.last_stable_offset < open.high_watermark
        );
        assert_eq!(wire.ask(&end(by, committed), 3).await.error_code, 0);
    }
    let answer = wire.ask(&read_committed(&topic, 0), 12).await;
    let partition = &answer.responses[0].partitions[0];
    assert_eq!((partition.last_stable_offset, partition.high_watermark), (6, 6));
    let aborted = partition.aborted_transactions.as_ref().expect("a list");
    assert_eq!(aborted.len(), 1);
    assert_eq!((aborted[0].producer_id, aborted[0].first_offset), (by.0, 0));
    let everything = wire.ask(&fetch(&topic, 12, 0, 0), 12).await;
    let everything = &everything.responses[0].partitions[0];
    assert!(everything.aborted_transactions.is_none());
    assert_eq!(everything.records, partition.records);
    // Another producer takes the id over.
    let next = begin_producer(&mut wire).await;
    assert_eq!((next.0, next.1), (by.0, by.1 + 1));
    assert_eq!(wire.ask(&end(by, true), 3).await.error_code, 90, "fenced");
    assert_eq!(wire.ask(&end(by, true), 1).await.error_code, 47, "in the words of older clients");
}

#[tokio::test]
async fn a_producer_of_the_newer_protocol_names_a_partition_by_writing_and_is_renewed_by_each_end() {
    let bench = Bench::new().await;
    let topic = bench.topic("t", 1).await;
    let mut wire = bench.connect().await;
    let versions = wire
        .ask(
            &ApiVersionsRequest::default()
                .with_client_software_name(StrBytes::from_static_str("w"))
                .with_client_software_version(StrBytes::from_static_str("1")),
            4,
        )
        .await;
    assert_eq!(versions.finalized_features[0].max_version_level, 2);
    let mut by = begin_producer(&mut wire).await;
    for (n, committed) in [true, false, true].into_iter().enumerate() {
        let batch = transactional(&bench.batch(&[&n.to_string()], by.0.0, 0).await, by.1);
        let answer = wire.ask(&written(&topic, 12, &batch), 12).await;
        assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
        let ended = wire.ask(&end(by, committed), 5).await;
        assert_eq!((ended.error_code, ended.producer_id, ended.producer_epoch), (0, by.0, by.1 + 1));
        let again = wire.ask(&end(by, committed), 5).await;
        assert_eq!((again.error_code, again.producer_epoch), (0, by.1 + 1), "asked again");
        let late = wire.ask(&written(&topic, 12, &batch), 12).await;
        assert_eq!(late.responses[0].partition_responses[0].error_code, 47, "what comes late opens nothing");
        by.1 = ended.producer_epoch;
    }
    let values = |mut fetch: tarn_log::Fetch| fetch.records().expect("records").len();
    assert_eq!(values(bench.log.fetch("t", 0, 0, 1 << 20).expect("fetch")), 2);
    let timeout = InitProducerIdRequest::default().with_transactional_id(Some(transactional_id()));
    assert_eq!(wire.ask(&timeout.with_transaction_timeout_ms(i32::MAX), 4).await.error_code, 50);
}

#[tokio::test]
async fn offsets_of_a_transaction_count_when_it_is_committed() {
    let bench = Bench::new().await;
    bench.topic("t", 1).await;
    let mut wire = bench.connect().await;
    let by = begin_producer(&mut wire).await;
    let group = || GroupId(StrBytes::from_static_str("g"));
    let offsets = || {
        let partition =
            txn_offset_commit_request::TxnOffsetCommitRequestPartition::default().with_committed_offset(5);
        let of = txn_offset_commit_request::TxnOffsetCommitRequestTopic::default()
            .with_name(name("t"))
            .with_partitions(vec![partition]);
        TxnOffsetCommitRequest::default()
            .with_transactional_id(transactional_id())
            .with_group_id(group())
            .with_producer_id(by.0)
            .with_producer_epoch(by.1)
            .with_topics(vec![of])
    };
    let code = |answer: TxnOffsetCommitResponse| answer.topics[0].partitions[0].error_code;
    assert_eq!(code(wire.ask(&offsets(), 3).await), 48, "the group was not named");
    let add = AddOffsetsToTxnRequest::default()
        .with_transactional_id(transactional_id())
        .with_producer_id(by.0)
        .with_producer_epoch(by.1)
        .with_group_id(group());
    assert_eq!(wire.ask(&add, 3).await.error_code, 0);
    assert_eq!(code(wire.ask(&offsets(), 3).await), 0);
    let member = offsets().with_member_id(StrBytes::from_static_str("nobody")).with_generation_id(3);
    assert_eq!(code(wire.ask(&member, 3).await), 25, "of no member");
    let asked = |stable: bool| {
        let of = offset_fetch_request::OffsetFetchRequestTopic::default()
            .with_name(name("t"))
            .with_partition_indexes(vec![0]);
        OffsetFetchRequest::default()
            .with_group_id(group())
            .with_topics(Some(vec![of]))
            .with_require_stable(stable)
    };
    let stored = |answer: OffsetFetchResponse| {
        let partition = &answer.topics[0].partitions[0];
        (partition.error_code, partition.committed_offset)
    };
    assert_eq!(stored(wire.ask(&asked(true), 7).await), (88, -1));
    assert_eq!(stored(wire.ask(&asked(false), 7).await), (0, -1));
    assert_eq!(wire.ask(&end(by, true), 3).await.error_code, 0);
    assert_eq!(stored(wire.ask(&asked(true), 7).await), (0, 5));
}

#[tokio::test]
async fn configs_of_a_topic_are_set_by_either_request_and_count_at_once() {
    let bench = Bench::new().await;
    let topic = bench.topic("t", 1).await;
    let mut wire = bench.connect().await;
    let fixed = StrBytes::from_static_str;
    let alter = |configs: &[(&'static str, &'static str)]| {
        let configs = configs.iter().map(|(name, value)| {
            incremental_alter_configs_request::AlterableConfig::default()
                .with_name(fixed(name))
                .with_value(Some(fixed(value)))
        });
        let of = incremental_alter_configs_request::AlterConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(fixed("t"))
            .with_configs(configs.collect());
        IncrementalAlterConfigsRequest::default().with_resources(vec![of])
    };
    for (wrong, value) in [
        ("max.message.bytes", "9999999999"),
        ("message.timestamp.type", "Tomorrow"),
        ("cleanup.policy", "compost"),
        ("min.cleanable.dirty.ratio", "1.5"),
        ("segment.bytes", "5"),
    ] {
        assert_eq!(wire.ask(&alter(&[(wrong, value)]), 1).await.responses[0].error_code, 40, "{wrong}");
    }
    let both = alter(&[("max.message.bytes", "200"), ("message.timestamp.type", "LogAppendTime")]);
    assert_eq!(wire.ask(&both, 1).await.responses[0].error_code, 0);
    let large = bench.batch(&["x".repeat(300).as_str()], -1, 0).await;
    let code = |answer: &ProduceResponse| answer.responses[0].partition_responses[0].error_code;
    assert_eq!(code(&wire.ask(&produce(&topic, 9, -1, &large), 9).await), 10);
    let small = bench.batch(&["x"], -1, 0).await;
    let answer = wire.ask(&produce(&topic, 9, -1, &small), 9).await;
    let appended_at = answer.responses[0].partition_responses[0].log_append_time_ms;
    assert!(code(&answer) == 0 && appended_at > 1000, "the batch says 1000");
    let fetched = bench.log.fetch("t", 0, 0, 1).expect("fetch").records().expect("records");
    assert_eq!(fetched.iter().next().expect("a record").timestamp_ms, appended_at);

    // The older request takes back what it does not name.
    let retention = alter_configs_request::AlterableConfig::default()
        .with_name(fixed("retention.ms"))
        .with_value(Some(fixed("60000")));
    let of = alter_configs_request::AlterConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(fixed("t"))
        .with_configs(vec![retention]);
    let replace = AlterConfigsRequest::default().with_resources(vec![of]);
    assert_eq!(wire.ask(&replace, 2).await.responses[0].error_code, 0);
    assert_eq!(code(&wire.ask(&produce(&topic, 9, -1, &large), 9).await), 0);
    let resource = describe_configs_request::DescribeConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(fixed("t"))
        .with_configuration_keys(None);
    let described = wire.ask(&DescribeConfigsRequest::default().with_resources(vec![resource]), 4).await;
    let value = |name: &str| {
        let config = described.results[0].configs.iter().find(|config| config.name.as_str() == name);
        config.and_then(|config| config.value.as_ref()).map(ToString::to_string)
    };
    assert_eq!(value("retention.ms").as_deref(), Some("60000"));
    assert_eq!(value("message.timestamp.type").as_deref(), Some("CreateTime"));
}

#[tokio::test]
async fn what_is_not_served_is_answered_and_what_is_no_request_ends_the_connection() {
    let bench = Bench::new().await;
    let mut wire = bench.connect().await;
    // ApiVersions 99: the oldest form, with the list.
    let mut frame = BytesMut::new();
    frame.put_slice(&[0, 18, 0, 99, 0, 0, 0, 7, 0, 1, b'x', 0, 0]);
    wire.send_raw(&frame).await;
    let (correlation, versions) = wire.receive::<ApiVersionsResponse>(0).await;
    assert_eq!((correlation, versions.error_code), (7, 35));
    assert!(versions.api_keys.iter().any(|key| key.api_key == 0 && key.min_version == 0));
    // An unknown API, and a known one that is not served.
    for key in [999_i16, 29] {
        let mut frame = BytesMut::new();
        frame.put_i16(key);
        frame.put_slice(&[0, 0, 0, 0, 0, 8, 255, 255]);
        wire.send_raw(&frame).await;
        let mut answer = wire.frame().await.expect("an answer");
        assert_eq!((answer.get_i32(), answer.get_i16()), (8, 35));
    }
    // A count beyond the frame.
    let mut frame = BytesMut::new();
    frame.put_slice(&[0, 3, 0, 1, 0, 0, 0, 9, 255, 255, 0x7f, 255, 255, 255]);
    wire.send_raw(&frame).await;
    assert!(wire.frame().await.is_none(), "the connection is closed");
    // A frame of 2 GiB.
    let mut wire = bench.connect().await;
    wire.stream.write_all(&i32::MAX.to_be_bytes()).await.expect("write");
    assert!(wire.frame().await.is_none(), "the connection is closed");
    // Others go on.
    let answer = bench.connect().await.ask(&MetadataRequest::default().with_topics(None), 12).await;
    assert_eq!(answer.brokers.len(), 1);
}

#[tokio::test]
async fn a_group_of_two_shares_and_its_offsets_are_kept() {
    let bench = Bench::new().await;
    bench.topic("t", 2).await;
    let (mut one, mut two) = (bench.connect().await, bench.connect().await);
    let group = || GroupId(StrBytes::from_static_str("g"));
    let join = |member: StrBytes| {
        let protocol = join_group_request::JoinGroupRequestProtocol::default()
            .with_name(StrBytes::from_static_str("range"))
            .with_metadata(Bytes::from_static(b"meta"));
        JoinGroupRequest::default()
            .with_group_id(group())
            .with_session_timeout_ms(10_000)
            .with_rebalance_timeout_ms(10_000)
            .with_member_id(member)
            .with_protocol_type(StrBytes::from_static_str("consumer"))
            .with_protocols(vec![protocol])
    };
    let mut ids = Vec::new();
    for wire in [&mut one, &mut two] {
        let refused = wire.ask(&join(StrBytes::new()), 9).await;
        assert_eq!(refused.error_code, 79);
        ids.push(refused.member_id);
    }
    // The first generation waits for both, because both have their ids.
    for (wire, id) in [&mut one, &mut two].into_iter().zip(&ids) {
        wire.send(&join(id.clone()), 9).await;
    }
    let (_, mut first) = one.receive::<JoinGroupResponse>(9).await;
    let (_, mut second) = two.receive::<JoinGroupResponse>(9).await;
    if first.leader == ids[1] {
        // The requests raced; the leader is called the first from here on.
        std::mem::swap(&mut one, &mut two);
        std::mem::swap(&mut first, &mut second);
        ids.swap(0, 1);
    }
    assert_eq!((first.error_code, second.error_code, first.generation_id), (0, 0, 1));
    assert_eq!((first.leader.clone(), first.members.len(), second.members.len()), (ids[0].clone(), 2, 0));
    let sync = |member: &StrBytes, assigned: &[&StrBytes]| {
        let assignment = |id: &&StrBytes| {
            sync_group_request::SyncGroupRequestAssignment::default()
                .with_member_id((*id).clone())
                .with_assignment(Bytes::copy_from_slice(id.as_bytes()))
        };
        SyncGroupRequest::default()
            .with_group_id(group())
            .with_generation_id(1)
            .with_member_id(member.clone())
            .with_assignments(assigned.iter().map(assignment).collect())
    };
    two.send(&sync(&ids[1], &[]), 4).await;
    let synced = one.ask(&sync(&ids[0], &[&ids[0], &ids[1]]), 4).await;
    assert_eq!(synced.assignment, ids[0].as_bytes());
    assert_eq!(two.receive::<SyncGroupResponse>(4).await.1.assignment, ids[1].as_bytes());

    let partition = |index: i32| {
        offset_commit_request::OffsetCommitRequestPartition::default()
            .with_partition_index(index)
            .with_committed_offset(41 + i64::from(index))
            .with_committed_metadata(Some(StrBytes::from_static_str("note")))
    };
    let of = offset_commit_request::OffsetCommitRequestTopic::default()
        .with_name(name("t"))
        .with_partitions(vec![partition(1), partition(5)]);
    let commit = OffsetCommitRequest::default()
        .with_group_id(group())
        .with_generation_id_or_member_epoch(1)
        .with_member_id(ids[0].clone())
        .with_topics(vec![of]);
    let codes = |answer: OffsetCommitResponse| {
        answer.topics[0].partitions.iter().map(|p| p.error_code).collect::<Vec<_>>()
    };
    assert_eq!(codes(one.ask(&commit, 8).await), [0, 3]);
    let stale = commit.clone().with_generation_id_or_member_epoch(7);
    assert_eq!(codes(one.ask(&stale, 8).await), [22, 22]);
    for version in 2..=7 {
        let asked = OffsetFetchRequest::default().with_group_id(group()).with_topics(None);
        let found = two.ask(&asked, version).await;
        let partition = &found.topics[0].partitions[0];
        assert_eq!((partition.partition_index, partition.committed_offset), (1, 42));
        assert_eq!(partition.metadata.as_ref().map(|text| text.as_str()), Some("note"));
    }
    let leave = leave_group_request::MemberIdentity::default().with_member_id(ids[0].clone());
    let left =
        one.ask(&LeaveGroupRequest::default().with_group_id(group()).with_members(vec![leave]), 4).await;
    assert_eq!((left.error_code, left.members[0].error_code), (0, 0));
    let beat = HeartbeatRequest::default()
        .with_group_id(group())
        .with_generation_id(1)
        .with_member_id(ids[1].clone());
    assert_eq!(two.ask(&beat, 4).await.error_code, 27, "a rebalance is under way");
}

#[tokio::test]
async fn a_stop_ends_long_polls_and_a_topic_that_goes_tells_its_readers() {
    let bench = Bench::new().await;
    let topic = bench.topic("t", 1).await;
    let mut wire = bench.connect().await;
    wire.send(&fetch(&topic, 13, 0, 60_000), 13).await;
    let delete = DeleteTopicsRequest::default()
        .with_topics(vec![delete_topics_request::DeleteTopicState::default().with_name(Some(name("t")))]);
    let answer = bench.connect().await.ask(&delete, 6).await;
    assert_eq!(answer.responses[0].error_code, 0);
    let (_, answer) = wire.receive::<FetchResponse>(13).await;
    assert_eq!(answer.responses[0].partitions[0].error_code, 3);
    assert_eq!(wire.ask(&fetch(&topic, 13, 0, 0), 13).await.responses[0].partitions[0].error_code, 100);
    let other = bench.topic("u", 1).await;
    wire.send(&fetch(&other, 13, 0, 60_000), 13).await;
    tokio::time::timeout(Duration::from_secs(10), bench.server.stop()).await.expect("it stops");
}
