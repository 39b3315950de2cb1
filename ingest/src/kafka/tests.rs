use std::time::Duration;

use tarn_kafka::{KafkaOptions, KafkaServer};
use tarn_log::{Append, Log, LogOptions, RecordRef, TopicOptions};
use tarn_model::Boundary;
use tarn_model::clock;
use tarn_model::config::{Compression, LogConfig, SyncMode};
use tokio::net::TcpListener;

use super::BEGAN;
use crate::RunMode;
use crate::fixture::Fixture;

mod secured;

/// Another log behind its Kafka listener: the other cluster.
struct Other {
    log: Log,
    server: KafkaServer,
    _folder: tempfile::TempDir,
}

/// All of a record but its offset.
type Whole = (i32, i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>);

impl Other {
    fn new(fixture: &Fixture, compression: Compression) -> Other {
        let folder = tempfile::tempdir().unwrap();
        let config = LogConfig { sync: SyncMode::None, compression, ..LogConfig::default() };
        let log = Log::open(folder.path(), LogOptions::from(&config), clock::system()).unwrap();
        let options = KafkaOptions {
            auto_create_topics: false,
            default_partitions: 1,
            offsets_retention: Duration::from_secs(3600),
        };
        let _in_runtime = fixture.runtime.enter();
        let listener = fixture.runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let server = KafkaServer::start(listener, log.clone(), options, clock::system()).unwrap();
        Other { log, server, _folder: folder }
    }

    fn topic(&self, name: &str, partitions: i32) {
        let options = TopicOptions { partitions, retention_time: None, retention_bytes: None };
        self.log.create_topic(name, &options).unwrap();
    }

    /// Records `from..to` in each partition.
    fn write(&self, fixture: &Fixture, topic: &str, from: i64, to: i64) {
        let info = self.log.topic(topic).unwrap();
        for partition in 0..info.partitions {
            let mut append = Append::new();
            for n in from..to {
                let (key, value) = (format!("k{n}"), format!("{{\"n\":{n},\"p\":{partition}}}"));
                let headers: [(&str, &[u8]); 2] = [("trace", b"\xff\x00"), ("trace", b"")];
                let record = RecordRef {
                    timestamp_ms: 1_700_000_000_000 + n,
                    key: (n % 3 != 0).then_some(key.as_bytes()),
                    value: (n % 7 != 6).then_some(value.as_bytes()),
                    headers: if n % 2 == 0 { &headers } else { &[] },
                };
                append.push_to(&info, partition, &record).unwrap();
            }
            fixture.runtime.block_on(self.log.append(append)).unwrap();
        }
    }

    fn source(&self, rest: &str) -> String {
        format!(
            "[[source]]\nname = \"mirror\"\ntype = \"kafka\"\nbrokers = \"{}\"\nlook_every = \"50ms\"\n{rest}\n",
            self.server.address()
        )
    }
}

fn mirror(other: &Other) -> String {
    other.source("topics = \"shop.*\"\ntopic = \"{topic}\"")
}

/// A drain that is slow enough for something to happen meanwhile: four megabytes, a quarter of one a second.
fn slow_drain(fixture: &Fixture, other: &Other, rest: &str) -> crate::Collectors {
    other.topic("shop.a", 1);
    let info = other.log.topic("shop.a").unwrap();
    let value = vec![b'x'; 100 << 10];
    for n in 0..40 {
        let mut append = Append::new();
        let record = RecordRef { timestamp_ms: n, key: None, value: Some(&value), headers: &[] };
        append.push_to(&info, 0, &record).unwrap();
        fixture.runtime.block_on(other.log.append(append)).unwrap();
    }
    let config = format!("{}\n{rest}\nrate_limit = {{ bytes_per_second = \"256KiB\" }}\n", mirror(other));
    let collectors = fixture.start(&config, RunMode::Drain);
    fixture.wait_for("the topic", || fixture.log().topic("shop.a").is_some());
    fixture.wait_for_count("shop.a", 1);
    collectors
}

#[test]
fn a_drain_does_not_wait_for_a_topic_that_was_deleted_meanwhile() {
    let drained = |fixture: &Fixture, collectors: &crate::Collectors| {
        fixture.runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(120), collectors.drained())
                .await
                .expect("the drain ends")
        })
    };
    let fixture = Fixture::new();
    let other = Other::new(&fixture, Compression::None);
    let collectors = slow_drain(&fixture, &other, "");
    fixture.runtime.block_on(other.log.delete_topic("shop.a")).unwrap();
    let error = drained(&fixture, &collectors).unwrap_err().to_string();
    assert!(error.contains("records of topic `shop.a` partition 0 are gone"), "{error}");
    assert!(error.contains("has deleted the topic before they were read"), "{error}");
    fixture.stop(&collectors);
    let count = fixture.count("shop.a");
    assert!((1..40).contains(&count), "{count} were read before");

    let fixture = Fixture::new();
    let other = Other::new(&fixture, Compression::None);
    let collectors = slow_drain(&fixture, &other, "out_of_range = \"earliest\"");
    fixture.runtime.block_on(other.log.delete_topic("shop.a")).unwrap();
    drained(&fixture, &collectors).unwrap();
    fixture.stop(&collectors);
    let position = fixture.log().position("mirror", "shop.a/0").unwrap().unwrap();
    let read = i64::try_from(fixture.count("shop.a")).unwrap();
    let is_moved = "should the same topic come back, nothing of it was passed over";
    assert_eq!(
        (position["next"].as_i64(), position["missing"].as_u64()),
        (Some(read), Some(0)),
        "{is_moved}"
    );
}

#[test]
fn values_are_looked_at_where_the_source_says_so_and_the_rest_of_a_record_stays() {
    let mut fixture = Fixture::new();
    let other = Other::new(&fixture, Compression::Zstd);
    other.topic("shop.a", 2);
    other.write(&fixture, "shop.a", 0, 100);
    let config = format!(
        "[[topic]]\nname = \"odd\"\n{}\n\
         [[source.interceptor]]\ntype = \"filter\"\nfield = \"n\"\nregex = '^1'\ndrop = true\n\
         [[source.interceptor]]\ntype = \"header\"\nheader = \"topic\"\nfield = \"of\"\n\
         [[source.interceptor]]\ntype = \"uuid\"\nfield = \"id\"\n\
         [[source.route]]\ntopic = \"odd\"\nfield = \"n\"\nregex = '[13579]$'\n",
        mirror(&other)
    );
    fixture.drain(&config).unwrap();
    other.write(&fixture, "shop.a", 100, 120);
    fixture.reopen();
    fixture.drain(&config).unwrap();
    let (there, here) = (whole(&other.log, "shop.a"), whole(fixture.log(), "shop.a"));
    let number = |value: &Option<Vec<u8>>| -> Option<i64> {
        let value: serde_json::Value = serde_json::from_slice(value.as_deref()?).unwrap();
        value["n"].as_i64()
    };
    let starts_with_1 = |n: i64| n.to_string().starts_with('1');
    // Tombstones have no field to go by: they stay, in their place.
    let wanted: Vec<_> = there
        .iter()
        .filter(|whole| number(&whole.3).is_none_or(|n| !starts_with_1(n) && n % 2 == 0))
        .map(|whole| (whole.0, whole.1, whole.2.clone(), number(&whole.3)))
        .collect();
    let found: Vec<_> =
        here.iter().map(|whole| (whole.0, whole.1, whole.2.clone(), number(&whole.3))).collect();
    assert_eq!(found, wanted, "partition, time, key and number");
    let odd = whole(fixture.log(), "odd");
    let values = there.iter().filter_map(|whole| number(&whole.3));
    assert_eq!(odd.len(), values.filter(|n| !starts_with_1(*n) && n % 2 == 1).count());
    let mut ids = std::collections::HashSet::new();
    for (_, at, _, value, headers) in here.iter().chain(&odd).filter(|whole| whole.3.is_some()) {
        let value: serde_json::Value = serde_json::from_slice(value.as_deref().unwrap()).unwrap();
        assert_eq!(value["of"], "shop.a");
        assert!(ids.insert(value["id"].as_str().unwrap().to_owned()), "the same identity twice: {value}");
        let traces = headers.iter().filter(|(name, _)| name == "trace").count();
        assert_eq!(traces, if at % 2 == 0 { 2 } else { 0 }, "a record keeps its headers");
        assert!(headers.contains(&("topic".to_owned(), Some(b"shop.a".to_vec()))));
    }
    let dropped = there.iter().filter_map(|whole| number(&whole.3)).filter(|n| starts_with_1(*n)).count();
    assert_eq!(fixture.log().dropped().unwrap(), [("mirror".to_owned(), dropped as u64)]);
}

#[test]
fn a_value_that_does_not_fit_its_format_is_a_dead_letter_and_a_field_may_be_the_key() {
    let fixture = Fixture::new();
    let other = Other::new(&fixture, Compression::None);
    other.topic("lines", 1);
    let info = other.log.topic("lines").unwrap();
    let mut append = Append::new();
    for line in ["level=warn user=ada", "=", "level=info user=bob"] {
        let record =
            RecordRef { timestamp_ms: 7, key: Some(b"old"), value: Some(line.as_bytes()), headers: &[] };
        append.push_to(&info, 0, &record).unwrap();
    }
    fixture.runtime.block_on(other.log.append(append)).unwrap();
    let config = other.source("topics = \"lines\"\ntopic = \"users\"\nformat = \"logfmt\"\nkey = \"user\"");
    fixture.drain(&config).unwrap();
    let records = fixture.records("users");
    assert_eq!(records.len(), 3);
    assert_eq!((records[0].key.as_deref(), records[2].key.as_deref()), (Some("ada"), Some("bob")));
    assert_eq!(records[0].text(), r#"{"level":"warn","user":"ada"}"#);
    assert_eq!(records[1].text(), "=");
    assert!(!records[1].header("tarn.error").is_empty());
}

/// The records of a topic, partition by partition, in their order.
fn whole(log: &Log, topic: &str) -> Vec<Whole> {
    let mut all = Vec::new();
    for partition in 0..log.topic(topic).unwrap().partitions {
        let mut from = log.starts(topic).unwrap().next(partition);
        loop {
            let mut fetch = log.fetch(topic, partition, from, 8 << 20).unwrap();
            if fetch.next == from {
                break;
            }
            let read = fetch.records().unwrap();
            from = fetch.next;
            for record in read.iter() {
                let headers = record.headers().map(|(name, value)| (name.to_owned(), value.map(Vec::from)));
                all.push((
                    partition,
                    record.timestamp_ms,
                    record.key.map(Vec::from),
                    record.value.map(Vec::from),
                    headers.collect(),
                ));
            }
        }
    }
    all
}

#[test]
fn a_mirror_has_every_record_as_it_is_in_its_partition_whatever_the_compression() {
    for compression in
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd]
    {
        let fixture = Fixture::new();
        let other = Other::new(&fixture, compression);
        other.topic("shop.orders", 3);
        other.topic("shop.clicks", 1);
        other.topic("stock", 1);
        other.write(&fixture, "shop.orders", 0, 500);
        other.write(&fixture, "shop.clicks", 0, 20);
        other.write(&fixture, "stock", 0, 1);
        fixture.drain(&mirror(&other)).unwrap();
        for topic in ["shop.orders", "shop.clicks"] {
            assert_eq!(whole(fixture.log(), topic), whole(&other.log, topic), "{compression:?} {topic}");
        }
        assert_eq!(whole(fixture.log(), "shop.orders").len(), 1500);
        assert!(fixture.log().topic("stock").is_none(), "this one does not fit");
    }
}

#[test]
fn a_mirror_goes_on_where_it_was_and_finds_topics_and_partitions_that_come_later() {
    let mut fixture = Fixture::new();
    let other = Other::new(&fixture, Compression::Lz4);
    other.topic("shop.a", 1);
    other.write(&fixture, "shop.a", 0, 100);
    let collectors = fixture.start(&mirror(&other), RunMode::Continuous);
    fixture.wait_for("the first", || fixture.log().topic("shop.a").is_some());
    fixture.wait_for_count("shop.a", 100);
    other.topic("shop.b", 2);
    other.write(&fixture, "shop.b", 0, 10);
    fixture.wait_for("the new topic", || fixture.log().topic("shop.b").is_some_and(|b| b.partitions == 2));
    fixture.wait_for_count("shop.b", 20);
    other.topic("shop.a", 3);
    other.write(&fixture, "shop.a", 100, 200);
    fixture.wait_for("the new partitions", || fixture.log().topic("shop.a").unwrap().partitions == 3);
    fixture.wait_for_count("shop.a", 400);
    fixture.stop(&collectors);
    drop(collectors);
    fixture.reopen();
    other.write(&fixture, "shop.a", 200, 250);
    fixture.drain(&mirror(&other)).unwrap();
    for topic in ["shop.a", "shop.b"] {
        assert_eq!(whole(fixture.log(), topic), whole(&other.log, topic), "{topic}");
    }
}

#[test]
fn one_topic_goes_into_another_by_its_keys() {
    let fixture = Fixture::new();
    let other = Other::new(&fixture, Compression::Zstd);
    other.topic("events", 5);
    other.write(&fixture, "events", 0, 100);
    let config = other.source("topics = \"events\"\ntopic = \"copy\"\npartitioning = \"by_key\"");
    let config = format!("[[topic]]\nname = \"copy\"\npartitions = 2\n{config}");
    fixture.drain(&config).unwrap();
    let without_place = |log: &Log, topic: &str| {
        let all = whole(log, topic).into_iter();
        let mut all: Vec<_> = all.map(|(_, at, key, value, headers)| (at, key, value, headers)).collect();
        all.sort();
        all
    };
    assert_eq!(without_place(fixture.log(), "copy"), without_place(&other.log, "events"));
    for record in fixture.records("copy").iter().filter(|record| record.key.is_some()) {
        let key = record.key.as_deref().unwrap_or_default();
        assert_eq!(record.partition, tarn_log::partition_of_key(key.as_bytes(), 2), "{key}");
    }
}

#[test]
fn a_source_may_begin_with_what_comes_and_later_topics_are_read_whole() {
    let fixture = Fixture::new();
    let other = Other::new(&fixture, Compression::None);
    other.topic("shop.a", 1);
    other.write(&fixture, "shop.a", 0, 50);
    let config = format!("{}start = \"latest\"\n", mirror(&other));
    let collectors = fixture.start(&config, RunMode::Continuous);
    fixture.wait_for("the beginning", || fixture.log().position("mirror", BEGAN).unwrap().is_some());
    other.write(&fixture, "shop.a", 50, 60);
    other.topic("shop.b", 1);
    other.write(&fixture, "shop.b", 0, 5);
    fixture.wait_for("the new topic", || fixture.log().topic("shop.b").is_some());
    fixture.wait_for_count("shop.b", 5);
    fixture.wait_for_count("shop.a", 10);
    fixture.stop(&collectors);
    assert_eq!(whole(fixture.log(), "shop.a"), whole(&other.log, "shop.a")[50..]);
    assert_eq!(whole(fixture.log(), "shop.b"), whole(&other.log, "shop.b"));
}

#[test]
fn records_that_are_gone_end_the_source_or_are_counted_and_never_passed_over_in_silence() {
    let fixture = Fixture::new();
    let other = Other::new(&fixture, Compression::None);
    other.topic("shop.a", 1);
    other.write(&fixture, "shop.a", 0, 40);
    fixture.drain(&mirror(&other)).unwrap();
    other.write(&fixture, "shop.a", 40, 100);
    let mut upto = Boundary::new();
    upto.set(0, 70);
    fixture.runtime.block_on(other.log.trim("shop.a", &upto, true)).unwrap();

    let error = fixture.drain(&mirror(&other)).unwrap_err().to_string();
    assert!(error.contains("30 records of topic `shop.a` partition 0 are gone"), "{error}");
    assert_eq!(fixture.count("shop.a"), 40);

    let config = format!("{}out_of_range = \"earliest\"\n", mirror(&other));
    let status = fixture.drain(&config).unwrap();
    let told = status[0].last_error.as_ref().map(|error| error.message.clone()).unwrap_or_default();
    assert!(told.contains("30 records of topic `shop.a` partition 0 were gone"), "{told}");
    assert_eq!(whole(fixture.log(), "shop.a")[40..], whole(&other.log, "shop.a")[..]);
    let position = fixture.log().position("mirror", "shop.a/0").unwrap().unwrap();
    assert_eq!((position["next"].as_i64(), position["missing"].as_u64()), (Some(100), Some(30)));
}

#[test]
fn a_topic_that_was_made_anew_is_not_taken_for_the_old_one() {
    let fixture = Fixture::new();
    let other = Other::new(&fixture, Compression::None);
    other.topic("shop.a", 1);
    other.write(&fixture, "shop.a", 0, 10);
    fixture.drain(&mirror(&other)).unwrap();
    fixture.runtime.block_on(other.log.delete_topic("shop.a")).unwrap();
    other.topic("shop.a", 1);
    other.write(&fixture, "shop.a", 100, 150);
    let error = fixture.drain(&mirror(&other)).unwrap_err().to_string();
    assert!(error.contains("deleted and made anew"), "{error}");
    let config = format!("{}out_of_range = \"earliest\"\n", mirror(&other));
    fixture.drain(&config).unwrap();
    assert_eq!(whole(fixture.log(), "shop.a")[10..], whole(&other.log, "shop.a")[..]);
}

#[test]
fn a_topic_without_room_for_all_partitions_says_so() {
    let fixture = Fixture::new();
    let other = Other::new(&fixture, Compression::None);
    other.topic("shop.a", 3);
    other.write(&fixture, "shop.a", 0, 10);
    let config = format!("[[topic]]\nname = \"shop.a\"\npartitions = 2\n{}", mirror(&other));
    let error = fixture.drain(&config).unwrap_err().to_string();
    assert!(error.contains("2 partitions here and 3 there"), "{error}");
    let config = format!("[[topic]]\nname = \"shop.a\"\npartitions = 4\n{}", mirror(&other));
    fixture.drain(&config).unwrap();
    assert_eq!(whole(fixture.log(), "shop.a"), whole(&other.log, "shop.a"));
}

#[test]
fn an_untold_header_value_stays_untold() {
    // Clients may send a header without a value, which is another thing than an empty one.
    let fixture = Fixture::new();
    let other = Other::new(&fixture, Compression::None);
    other.topic("shop.a", 1);
    let mut body = vec![0, 0, 0, 1, 2, b'v', 2, 2, b'a', 1];
    let length = u8::try_from(body.len()).unwrap();
    body.insert(0, length * 2);
    let mut checked = Vec::new();
    checked.extend(0_i16.to_be_bytes());
    checked.extend(0_i32.to_be_bytes());
    checked.extend([1_700_000_000_000_i64.to_be_bytes(); 2].concat());
    checked.extend([(-1_i64).to_be_bytes().to_vec(), (-1_i16).to_be_bytes().to_vec()].concat());
    checked.extend((-1_i32).to_be_bytes());
    checked.extend(1_i32.to_be_bytes());
    checked.extend(&body);
    let mut batch = 0_i64.to_be_bytes().to_vec();
    batch.extend(i32::try_from(checked.len() + 9).unwrap().to_be_bytes());
    batch.extend([0, 0, 0, 0, 2]);
    batch.extend(crc32c(&checked).to_be_bytes());
    batch.extend(&checked);
    let mut append = Append::new();
    append.push_batch(&other.log.topic("shop.a").unwrap(), 0, &batch.into()).unwrap();
    fixture.runtime.block_on(other.log.append(append)).unwrap();
    fixture.drain(&mirror(&other)).unwrap();
    let all = whole(fixture.log(), "shop.a");
    assert_eq!(all, whole(&other.log, "shop.a"));
    assert_eq!(all[0].4, [("a".to_owned(), None)]);
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |crc: u32| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| bit(crc)))
}

#[test]
fn what_is_wrong_at_a_broker_is_waited_for_and_said() {
    let fixture = Fixture::new();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = closed.local_addr().unwrap();
    // It accepts, and says nothing; then it is gone.
    let config = format!(
        "[[source]]\nname = \"mirror\"\ntype = \"kafka\"\nbrokers = \"{address}\"\ntopics = \"a\"\ntopic = \"a\"\n"
    );
    let collectors = fixture.start(&config, RunMode::Continuous);
    let (connection, _) = closed.accept().unwrap();
    drop((connection, closed));
    fixture.wait_for("the source to wait", || collectors.status()[0].state == "waiting");
    assert!(collectors.status()[0].last_error.is_some());
    fixture.stop(&collectors);
}
