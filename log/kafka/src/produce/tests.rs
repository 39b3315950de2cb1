use std::time::Duration;

use bytes::BytesMut;
use futures::FutureExt;
use kafka_protocol::protocol::{Decodable, Encodable};
use tarn_log::{LogOptions, RecordRef, TopicOptions, record_batch};
use tarn_model::clock;
use tarn_model::config::{Compression, LogConfig};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::*;
use crate::KafkaOptions;
use crate::coordinator::Coordinator;

/// By name, and by id.
const BY_NAME: i16 = 9;
const BY_ID: i16 = 13;

struct Bench {
    broker: Arc<Broker>,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().expect("a folder");
        let log = Log::open(dir.path(), LogOptions::from(&LogConfig::default()), clock::system());
        let broker = Broker {
            log: log.expect("a log"),
            options: KafkaOptions {
                auto_create_topics: false,
                default_partitions: 1,
                offsets_retention: Duration::from_secs(3600),
            },
            clock: clock::system(),
            coordinator: Arc::new(Coordinator::new(clock::system())),
            unpacking: Arc::new(Semaphore::new(UNPACKING_AT_ONCE)),
            seeking: Arc::new(Semaphore::new(1)),
            answers: crate::fetch::Answers::new(),
            admin: tokio::sync::Mutex::new(()),
        };
        Bench { broker: Arc::new(broker), _dir: dir }
    }

    fn topic(&self) -> Arc<TopicInfo> {
        let options = TopicOptions { partitions: 3, retention_time: None, retention_bytes: None };
        self.broker.log.create_topic("t", &options).expect("a topic")
    }

    /// All places for requests whose batches must be unpacked.
    async fn all_places(&self) -> OwnedSemaphorePermit {
        let places = u32::try_from(UNPACKING_AT_ONCE).expect("few");
        Arc::clone(&self.broker.unpacking).acquire_many_owned(places).await.expect("free")
    }

    /// Begins and ends a request: the codes of its partitions.
    async fn codes(&self, request: Incoming) -> Vec<i16> {
        let version = request.header.version;
        let answered = self.broker.produce(request).await.expect("no broken request").expect("an answer");
        let mut bytes = BytesMut::new();
        answered.parts.iter().for_each(|part| bytes.extend_from_slice(part));
        // Its length and correlation id, and from version 9 on tagged fields.
        let mut bytes = bytes.freeze().slice(9..);
        let answer = ProduceResponse::decode(&mut bytes, version).expect("an answer");
        answer.responses[0].partition_responses.iter().map(|partition| partition.error_code).collect()
    }
}

fn batch(compression: Compression, value: &[u8], records: usize) -> Bytes {
    let record = RecordRef { timestamp_ms: 1, key: None, value: Some(value), headers: &[] };
    record_batch(&vec![record; records], compression).expect("a batch")
}

/// These batches, one to each partition.
fn request(topic: &TopicInfo, version: i16, batches: &[Bytes]) -> Incoming {
    let partitions = (0..).zip(batches).map(|(index, batch)| {
        PartitionProduceData::default().with_index(index).with_records(Some(batch.clone()))
    });
    let data = TopicProduceData::default().with_partition_data(partitions.collect());
    let data = if version >= BY_ID {
        data.with_topic_id(topic.id)
    } else {
        data.with_name(TopicName(text(topic.name.clone())))
    };
    let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(1000).with_topic_data(vec![data]);
    let mut body = BytesMut::new();
    request.encode(&mut body, version).expect("a request");
    let header = Header { key: ApiKey::Produce as i16, version, correlation: 1, client_id: None };
    Incoming { header, body: body.freeze() }
}

#[tokio::test]
async fn what_is_compressed_is_unpacked_in_few_places_and_what_is_not_waits_for_none() {
    let bench = Bench::new();
    let t = bench.topic();
    let small = batch(Compression::Zstd, &[b'x'; 1000], 1);
    assert!(small.len() < 300 && is_packed(&small));
    let places = bench.all_places().await;
    let mut waits = std::pin::pin!(bench.codes(request(&t, BY_NAME, std::slice::from_ref(&small))));
    assert!(futures::poll!(&mut waits).is_pending());
    // It is in the log's queue after one step of the async thread.
    let plain = request(&t, BY_NAME, &[batch(Compression::None, b"x", 2)]);
    let begun = bench.broker.begin_produce(plain).now_or_never().expect("no wait").expect("begun");
    assert!(begun.await.is_ok());
    assert_eq!(bench.broker.log.span("t", 0).expect("a span").to, 2);
    assert!(futures::poll!(&mut waits).is_pending(), "there is no place for it");
    drop(places);
    assert_eq!(waits.await, [0]);
    assert_eq!(bench.broker.unpacking.available_permits(), UNPACKING_AT_ONCE);
}

#[tokio::test]
async fn a_request_of_batches_that_unpack_to_much_is_handed_on_bit_by_bit() {
    let bench = Bench::new();
    let t = bench.topic();
    let uncompressed =
        tarn_log::TopicConfigs { compression: Some(Compression::None), ..tarn_log::TopicConfigs::default() };
    let options = TopicOptions { partitions: 3, retention_time: None, retention_bytes: None };
    bench.broker.log.configure_topic("t", &options, &uncompressed).expect("configured");
    let bomb = batch(Compression::Zstd, &[0; 1_000_000], 30);
    let mut topics = take_apart(
        &bench.broker.log,
        request(&t, BY_NAME, &[bomb.clone(), bomb.clone(), bomb.clone()])
            .decode(ApiKey::Produce)
            .expect("read"),
        false,
    );
    let valid = |topics: &[BegunTopic]| {
        topics[0].partitions.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Valid(_))).count()
    };
    assert!(!validate(&mut topics));
    assert_eq!(valid(&topics), 1, "one of 30 MB at a time");
    drop(topics);
    assert_eq!(bench.codes(request(&t, BY_NAME, &[bomb.clone(), bomb.clone(), bomb])).await, [0; 3]);
    assert_eq!(
        bench.broker.log.ends("t").expect("ends").iter().map(|(_, end)| end).collect::<Vec<_>>(),
        [30; 3]
    );
}

#[tokio::test]
async fn a_topic_that_goes_while_a_batch_is_under_way_is_unknown_by_its_name_and_by_its_id() {
    for (version, code) in [(BY_NAME, Code::UnknownTopicOrPartition), (BY_ID, Code::UnknownTopicId)] {
        for comes_again in [false, true] {
            let bench = Bench::new();
            let t = bench.topic();
            let places = bench.all_places().await;
            let packed = batch(Compression::Zstd, &[b'x'; 1000], 1);
            let mut waits = std::pin::pin!(bench.codes(request(&t, version, &[packed])));
            // The topic was looked up.
            assert!(futures::poll!(&mut waits).is_pending());
            bench.broker.log.delete_topic("t").await.expect("deleted");
            if comes_again {
                bench.topic();
            }
            drop(places);
            assert_eq!(waits.await, [code.code()], "version {version}, comes again: {comes_again}");
        }
    }
}
