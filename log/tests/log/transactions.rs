//! What a transactional producer and its readers rely on: all of a transaction counts, or nothing of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tarn_log::{
    Append, CommittedOffset, GroupOffset, Log, ProducerEpoch, Refused, TopicInfo, TransactionState,
};
use tarn_model::Result;
use tarn_model::config::{Compression, SyncMode};

use crate::support::{BOOT, Bench, put, topic};

const TIMEOUT: Duration = Duration::from_secs(60);

fn bench(sync: SyncMode) -> Bench {
    Bench::with(|options| {
        options.sync = sync;
        options.compression = Compression::None;
    })
}

/// A producer with a transactional id, and the next sequence of each partition.
struct Producer {
    log: Log,
    id: &'static str,
    by: ProducerEpoch,
    next: [i32; 4],
}

impl Producer {
    async fn begin(log: &Log, id: &'static str) -> Producer {
        let by = log.begin_producer(id, TIMEOUT, None).await.expect("begun");
        Producer { log: log.clone(), id, by, next: [0; 4] }
    }

    async fn batch(&mut self, partition: usize, texts: &[&str]) -> Bytes {
        let scratch = topic(&self.log, "scratch", 1);
        let range = put(&self.log, &scratch, 0, texts).await.ranges[0].2;
        let mut bytes = self.log.fetch("scratch", 0, range.from, 1).expect("fetch").batches[0].to_vec();
        bytes[..8].fill(0);
        bytes[22] |= 0x10;
        bytes[43..51].copy_from_slice(&self.by.producer.to_be_bytes());
        bytes[51..53].copy_from_slice(&self.by.epoch.to_be_bytes());
        bytes[53..57].copy_from_slice(&self.next[partition].to_be_bytes());
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        self.next[partition] += i32::try_from(texts.len()).expect("few");
        bytes.into()
    }

    async fn send(&mut self, topic: &Arc<TopicInfo>, partition: usize, texts: &[&str]) -> Result<i64> {
        let batch = self.batch(partition, texts).await;
        send(&self.log, topic, partition, &batch).await
    }

    async fn enlist(&self, partitions: &[i32]) -> Result<()> {
        let partitions: Vec<_> = partitions.iter().map(|partition| ("t".to_owned(), *partition)).collect();
        self.log.enlist(self.id, self.by, &partitions, &["g".to_owned()]).await
    }

    async fn end(&self, commit: bool) -> Result<ProducerEpoch> {
        self.log.end_transaction(self.id, self.by, commit, false).await
    }
}

async fn send(log: &Log, topic: &Arc<TopicInfo>, partition: usize, batch: &Bytes) -> Result<i64> {
    let mut append = Append::new();
    append.push_batch(topic, i32::try_from(partition).expect("few"), batch)?;
    Ok(log.append(append).await?.ranges[0].2.from)
}

/// What a reader of committed records sees from `from` on, and where it stops.
fn seen(log: &Log, partition: i32, from: i64) -> (Vec<String>, i64) {
    read(from, |next| log.fetch("t", partition, next, 1).expect("fetch"))
}

/// What a reader of everything sees.
fn all(log: &Log, partition: i32) -> Vec<String> {
    read(0, |next| {
        let mut fetch = log.fetch_undecided("t", partition, next, 1).expect("fetch");
        fetch.aborted.clear();
        fetch
    })
    .0
}

fn read(from: i64, fetch: impl Fn(i64) -> tarn_log::Fetch) -> (Vec<String>, i64) {
    let (mut values, mut next) = (Vec::new(), from);
    loop {
        let mut fetch = fetch(next);
        for record in fetch.records().expect("records").iter() {
            values.push(String::from_utf8(record.value.expect("a value").to_vec()).expect("text"));
        }
        if fetch.next == next {
            return (values, next);
        }
        next = fetch.next;
    }
}

fn offset(offset: i64) -> GroupOffset {
    let committed = CommittedOffset { offset, leader_epoch: -1, metadata: None, at_ms: 1 };
    let (group, topic) = ("g".to_owned(), "t".to_owned());
    GroupOffset { group, topic, topic_id: None, partition: 3, committed: Some(committed) }
}

fn stored(log: &Log) -> Vec<i64> {
    log.group_offsets("g").expect("read").into_iter().map(|(_, _, committed)| committed.offset).collect()
}

#[tokio::test]
async fn nothing_of_a_transaction_is_seen_before_its_end_and_all_of_it_after() {
    let bench = bench(SyncMode::Group);
    let log = bench.open();
    let t = topic(&log, "t", 4);
    put(&log, &t, 0, &["before"]).await;
    let mut producer = Producer::begin(&log, "one").await;
    producer.enlist(&[0, 1]).await.expect("enlisted");
    producer.send(&t, 0, &["a", "b"]).await.expect("sent");
    producer.send(&t, 1, &["c"]).await.expect("sent");
    put(&log, &t, 0, &["beside"]).await;
    log.transaction_offsets("one", producer.by, vec![offset(7)], false).await.expect("taken");
    assert_eq!(seen(&log, 0, 0), (vec!["before".to_owned()], 1));
    assert_eq!(
        (seen(&log, 1, 0).1, log.ends("t").expect("ends").to_string().as_str()),
        (0, "0=1,1=0,2=0,3=0")
    );
    assert_eq!(all(&log, 0), ["before", "a", "b", "beside"]);
    assert_eq!(log.span("t", 0).expect("span").to, 4);
    assert!(stored(&log).is_empty());
    assert!(log.undecided_offsets("g").contains(&("t".to_owned(), 3)));

    producer.end(true).await.expect("ended");
    assert_eq!(seen(&log, 0, 0), (["before", "a", "b", "beside"].map(str::to_owned).to_vec(), 5));
    assert_eq!(seen(&log, 1, 0), (vec!["c".to_owned()], 2));
    assert_eq!(log.span("t", 3).expect("span").to, 0, "no record, no marker");
    assert_eq!(stored(&log), [7]);
    assert!(log.undecided_offsets("g").is_empty());
    let mut marker = log.fetch("t", 1, 1, 1).expect("fetch");
    assert_eq!(marker.records().expect("records").passed(), [tarn_model::OffsetRange::new(1, 2)]);
    assert_eq!(marker.batches[0][22] & 0x30, 0x30, "transactional, control");
}

#[tokio::test]
async fn what_was_aborted_is_never_seen_and_what_stands_beside_it_is() {
    let bench = bench(SyncMode::Group);
    let log = bench.open();
    let t = topic(&log, "t", 4);
    let mut one = Producer::begin(&log, "one").await;
    let mut two = Producer::begin(&log, "two").await;
    for producer in [&one, &two] {
        producer.enlist(&[0]).await.expect("enlisted");
    }
    one.send(&t, 0, &["1a"]).await.expect("sent");
    two.send(&t, 0, &["2a"]).await.expect("sent");
    one.send(&t, 0, &["1b"]).await.expect("sent");
    log.transaction_offsets("one", one.by, vec![offset(7)], false).await.expect("taken");
    one.end(false).await.expect("aborted");
    assert_eq!(seen(&log, 0, 0).1, 1, "the second is open and begins at 1");
    two.send(&t, 0, &["2b"]).await.expect("sent");
    two.end(true).await.expect("committed");
    assert!(stored(&log).is_empty());
    // The same producer goes on, in the same epoch.
    one.enlist(&[0]).await.expect("enlisted");
    one.send(&t, 0, &["1c"]).await.expect("sent");
    one.end(true).await.expect("committed");
    drop((one, two));
    let check = |log: &Log| {
        let expected = ["2a", "2b", "1c"].map(str::to_owned).to_vec();
        assert_eq!(seen(log, 0, 0), (expected.clone(), 8));
        assert_eq!(seen(log, 0, 2).0, expected[1..]);
        assert_eq!(all(log, 0), ["1a", "2a", "1b", "2b", "1c"]);
        let raw = log.fetch("t", 0, 0, 1 << 20).expect("fetch");
        assert_eq!(raw.aborted.iter().map(|a| (a.first, a.last)).collect::<Vec<_>>(), [(0, 3)]);
        assert!(log.fetch("t", 0, 4, 1 << 20).expect("fetch").aborted.is_empty());
    };
    check(&log);
    drop(log);
    check(&bench.open());
}

#[tokio::test]
async fn an_open_transaction_outlives_the_process_and_ends_in_the_next() {
    for sync in [SyncMode::Group, SyncMode::None] {
        let bench = bench(sync);
        let log = bench.open();
        let t = topic(&log, "t", 4);
        let mut producer = Producer::begin(&log, "one").await;
        producer.enlist(&[0]).await.expect("enlisted");
        producer.send(&t, 0, &["a"]).await.expect("sent");
        log.transaction_offsets("one", producer.by, vec![offset(7)], false).await.expect("taken");
        let (by, next) = (producer.by, producer.next);
        drop((log, producer));
        let log = bench.open();
        assert_eq!(seen(&log, 0, 0).1, 0);
        assert_eq!(log.transactions()[0].state, TransactionState::Ongoing);
        let mut producer = Producer { log: log.clone(), id: "one", by, next };
        producer.send(&t, 0, &["b"]).await.expect("sent");
        producer.end(true).await.expect("ended");
        producer.end(true).await.expect("asked again");
        assert_eq!(seen(&log, 0, 0), (vec!["a".to_owned(), "b".to_owned()], 3));
        assert_eq!(stored(&log), [7]);
    }
}

#[tokio::test]
async fn a_producer_that_was_replaced_can_do_nothing() {
    let bench = bench(SyncMode::Group);
    let log = bench.open();
    let t = topic(&log, "t", 4);
    let mut old = Producer::begin(&log, "one").await;
    old.enlist(&[0]).await.expect("enlisted");
    old.send(&t, 0, &["old"]).await.expect("sent");
    let mut new = Producer::begin(&log, "one").await;
    assert_eq!((new.by.producer, new.by.epoch), (old.by.producer, 1));
    assert_eq!(seen(&log, 0, 0), (vec![], 2), "what it left open is aborted");
    for refused in [
        old.send(&t, 0, &["late"]).await.map(|_| ()),
        old.enlist(&[0]).await,
        old.end(true).await.map(|_| ()),
        log.transaction_offsets("one", old.by, vec![offset(7)], false).await,
    ] {
        assert_eq!(Refused::of(&refused.expect_err("refused")), Some(Refused::StaleEpoch));
    }
    new.enlist(&[0]).await.expect("enlisted");
    new.send(&t, 0, &["new"]).await.expect("sent");
    new.end(true).await.expect("ended");
    assert_eq!(seen(&log, 0, 0).0, ["new"]);
}

#[tokio::test]
async fn a_batch_outside_a_transaction_is_refused_and_a_repeated_one_is_not() {
    let bench = bench(SyncMode::Group);
    let log = bench.open();
    let t = topic(&log, "t", 4);
    let mut producer = Producer::begin(&log, "one").await;
    let refused = producer.send(&t, 0, &["early"]).await.expect_err("none is open");
    assert_eq!(Refused::of(&refused), Some(Refused::NotInTransaction));
    producer.next = [0; 4];
    producer.enlist(&[0]).await.expect("enlisted");
    let refused = producer.send(&t, 1, &["elsewhere"]).await.expect_err("another partition");
    assert_eq!(Refused::of(&refused), Some(Refused::NotInTransaction));
    let batch = producer.batch(0, &["a"]).await;
    assert_eq!(send(&log, &t, 0, &batch).await.expect("sent"), 0);
    producer.end(true).await.expect("ended");
    assert_eq!(send(&log, &t, 0, &batch).await.expect("known"), 0, "it was lost on its way back");
    assert_eq!(log.span("t", 0).expect("span").to, 2);
    let mut stranger = Producer { by: ProducerEpoch { producer: 99, epoch: 0 }, ..producer };
    let refused = stranger.send(&t, 0, &["x"]).await.expect_err("it has no id");
    assert_eq!(Refused::of(&refused), Some(Refused::UnknownProducer));
}

#[tokio::test]
async fn a_transaction_whose_time_is_up_is_aborted_with_the_next_retention() {
    let bench = bench(SyncMode::Group);
    let log = bench.open();
    let t = topic(&log, "t", 4);
    let mut producer = Producer::begin(&log, "one").await;
    producer.enlist(&[0]).await.expect("enlisted");
    producer.send(&t, 0, &["a"]).await.expect("sent");
    log.apply_retention().await.expect("retention");
    assert_eq!(log.ends("t").expect("ends").next(0), 0);
    bench.clock.advance(TIMEOUT);
    log.apply_retention().await.expect("retention");
    assert_eq!(seen(&log, 0, 0), (vec![], 2));
    let refused = producer.end(true).await.expect_err("too late");
    assert_eq!(Refused::of(&refused), Some(Refused::StaleEpoch));
    bench.clock.advance(Duration::from_secs(8 * 24 * 3600));
    log.apply_retention().await.expect("retention");
    assert!(log.transactions().is_empty(), "an id that nobody uses is forgotten");
}

#[tokio::test]
async fn a_power_failure_takes_back_whole_transactions() {
    let bench = bench(SyncMode::None);
    let log = bench.open();
    let t = topic(&log, "t", 4);
    let mut producer = Producer::begin(&log, "one").await;
    let send_one = async |producer: &mut Producer, text: &str, commit: bool| {
        producer.enlist(&[0, 1]).await.expect("enlisted");
        producer.send(&t, 0, &[text]).await.expect("sent");
        producer.send(&t, 1, &[text]).await.expect("sent");
        log.transaction_offsets("one", producer.by, vec![offset(1)], false).await.expect("taken");
        producer.end(commit).await.expect("ended");
    };
    send_one(&mut producer, "kept", true).await;
    send_one(&mut producer, "dropped", false).await;
    log.sync_to("t", &log.ends("t").expect("ends")).await.expect("synced");
    let next = producer.next;
    send_one(&mut producer, "gone", false).await;
    producer.enlist(&[0]).await.expect("enlisted");
    producer.send(&t, 0, &["gone"]).await.expect("sent");
    let by = producer.by;
    drop((log, producer));
    let log = bench.open_on("second boot").expect("open");
    for partition in [0, 1] {
        assert_eq!(seen(&log, partition, 0), (vec!["kept".to_owned()], 4));
        assert_eq!(log.span("t", partition).expect("span").to, 4);
    }
    assert_eq!(log.transactions()[0].state, TransactionState::Aborted);
    let mut producer = Producer { log: log.clone(), id: "one", by, next };
    producer.enlist(&[0]).await.expect("enlisted");
    producer.send(&t, 0, &["on"]).await.expect("sent");
    producer.end(true).await.expect("ended");
    assert_eq!(seen(&log, 0, 0).0, ["kept", "on"]);
    drop((log, producer));
    drop(bench.open_on(BOOT).expect("open"));
}

#[tokio::test]
async fn retention_says_how_many_offsets_held_no_record() {
    let bench = Bench::with(|options| {
        options.compression = Compression::None;
        options.segment_bytes = 4 << 10;
        options.retention_bytes = Some(1);
    });
    let log = bench.open();
    let t = topic(&log, "t", 4);
    let mut producer = Producer::begin(&log, "one").await;
    let long = "x".repeat(1500);
    for n in 0..6 {
        producer.enlist(&[0]).await.expect("enlisted");
        producer.send(&t, 0, &[&long, &long]).await.expect("sent");
        producer.end(n % 2 == 0).await.expect("ended");
    }
    log.apply_retention().await.expect("retention");
    let start = log.starts("t").expect("starts").next(0);
    assert!(start >= 9, "several segments are gone: {start}");
    // Of each three offsets, of a committed transaction the marker, of an aborted one all.
    let passed: u64 = log.passed_ranges("t").expect("passed").iter().map(|(_, _, offsets)| offsets).sum();
    let expected = (0..start).filter(|offset| (offset / 3) % 2 == 1 || offset % 3 == 2).count() as u64;
    assert_eq!(passed, expected, "start {start}");
    drop((log, producer));
    let log = bench.open();
    assert!(log.fetch("t", 0, start, 1 << 20).expect("fetch").aborted.iter().all(|a| a.last >= start));
}

#[tokio::test]
async fn a_deleted_topic_takes_its_part_of_a_transaction_with_it() {
    let bench = bench(SyncMode::Group);
    let log = bench.open();
    let (t, u) = (topic(&log, "t", 4), topic(&log, "u", 1));
    let mut producer = Producer::begin(&log, "one").await;
    let both = [("t".to_owned(), 0), ("u".to_owned(), 0)];
    log.enlist("one", producer.by, &both, &[]).await.expect("enlisted");
    producer.send(&t, 0, &["a"]).await.expect("sent");
    producer.next[1] = 0;
    let batch = producer.batch(1, &["b"]).await;
    send(&log, &u, 0, &batch).await.expect("sent");
    log.delete_topic("u").await.expect("deleted");
    topic(&log, "u", 1);
    producer.end(true).await.expect("ended");
    assert_eq!(seen(&log, 0, 0).0, ["a"]);
    assert_eq!(log.span("u", 0).expect("span").to, 0, "the new topic has no part in it");
}

#[tokio::test]
async fn an_offset_of_a_transaction_goes_with_the_topic_that_it_is_of() {
    for restarts in [false, true] {
        let bench = bench(SyncMode::Group);
        let mut log = bench.open();
        topic(&log, "t", 4);
        let producer = Producer::begin(&log, "one").await;
        producer.enlist(&[]).await.expect("enlisted");
        log.transaction_offsets("one", producer.by, vec![offset(5)], false).await.expect("taken");
        let by = producer.by;
        drop(producer);
        if restarts {
            drop(log);
            log = bench.open();
        }
        assert_eq!(log.undecided_offsets("g").len(), 1);
        log.delete_topic("t").await.expect("deleted");
        topic(&log, "t", 4);
        assert!(log.undecided_offsets("g").is_empty(), "of the new topic nothing is undecided");
        log.end_transaction("one", by, true, false).await.expect("ended");
        assert!(stored(&log).is_empty(), "nobody has read the new topic");
    }
}
