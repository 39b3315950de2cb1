//! Appends, positions and idempotency.

use std::time::Duration;

use serde_json::json;
use tarn_log::{Append, Idempotency, RecordRef};
use tarn_model::config::{Compression, SyncMode};
use tarn_model::{Kind, OffsetRange};

use crate::support::{Bench, of, put, record, topic, values, values_from};

#[tokio::test]
async fn what_was_appended_is_read_before_and_after_a_restart() {
    for sync in [SyncMode::Group, SyncMode::Interval, SyncMode::None] {
        for compression in
            [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd]
        {
            let bench = Bench::with(|options| (options.sync, options.compression) = (sync, compression));
            let expected: Vec<String> =
                (0..500).map(|n| format!("value {n} {}", "x".repeat(n % 50))).collect();
            let log = bench.open();
            let orders = topic(&log, "orders", 3);
            for chunk in expected.chunks(70) {
                put(&log, &orders, 1, chunk).await;
            }
            assert_eq!(values(&log, "orders", 1), expected);
            assert_eq!(values_from(&log, "orders", 1, 123), expected[123..]);
            assert_eq!(log.ends("orders").expect("ends").to_string(), "0=0,1=500,2=0");
            log.close().await.expect("close");
            assert_eq!(
                log.append(of(&orders, 0, &["late"])).await.expect_err("closed").kind(),
                Kind::Unavailable
            );
            let log = bench.open();
            assert_eq!(values(&log, "orders", 1), expected, "{sync:?} {compression:?}");
            drop(log);
            assert_eq!(values(&bench.open(), "orders", 1), expected, "after an end without close: {sync:?}");
        }
    }
}

#[tokio::test]
async fn an_append_spans_topics_and_partitions_and_its_answer_tells_where() {
    let bench = Bench::new();
    let log = bench.open();
    let (a, b) = (topic(&log, "a", 2), topic(&log, "b", 1));
    put(&log, &a, 1, &["first"]).await;
    let mut append = of(&a, 1, &["second", "third"]);
    append.push_to(&b, 0, &record(b"other")).expect("push");
    assert_eq!(append.records(), 3);
    let appended = log.append(append).await.expect("append");
    let range = OffsetRange::new;
    assert_eq!(appended.ranges, [("a".to_owned(), 1, range(1, 3)), ("b".to_owned(), 0, range(0, 1))]);
    assert_eq!((appended.records, appended.repeated), (3, false));
}

#[tokio::test]
async fn keys_choose_partitions_and_keyless_appends_take_turns() {
    let bench = Bench::new();
    let log = bench.open();
    let clicks = topic(&log, "clicks", 4);
    for n in 0..8 {
        let mut append = Append::new();
        append.push(&clicks, &record(b"a")).expect("push");
        append.push(&clicks, &record(b"b")).expect("push");
        let keyed = RecordRef { key: Some(b"21"), ..record(b"keyed") };
        append.push(&clicks, &keyed).expect("push");
        let ranges = log.append(append).await.expect("append").ranges;
        assert!(ranges.len() <= 2, "keyless records of one append stay together: {n}: {ranges:?}");
    }
    // murmur2("21") = -973932308, and (-973932308 & 0x7fffffff) % 4 = 0.
    assert_eq!(values(&log, "clicks", 0).iter().filter(|value| *value == "keyed").count(), 8);
    for partition in 0..4 {
        assert!(log.ends("clicks").expect("ends").next(partition) >= 2, "every partition had its turn");
    }
}

#[tokio::test]
async fn headers_keys_and_timestamps_come_back() {
    let bench = Bench::new();
    let log = bench.open();
    let t = topic(&log, "t", 1);
    let mut append = Append::new();
    let headers: &[(&str, &[u8])] = &[("file", b"a.csv"), ("line", b"7")];
    append.push(&t, &RecordRef { timestamp_ms: 99, key: Some(b"k"), value: None, headers }).expect("push");
    append
        .push(&t, &RecordRef { timestamp_ms: -5, key: None, value: Some(b""), headers: &[] })
        .expect("push");
    log.append(append).await.expect("append");
    let records = log.fetch("t", 0, 0, 1 << 20).expect("fetch").records().expect("records");
    let seen: Vec<_> =
        records.iter().map(|r| (r.timestamp_ms, r.key, r.value, r.headers().count())).collect();
    assert_eq!(seen, [(99, Some(&b"k"[..]), None, 2), (-5, None, Some(&b""[..]), 0)]);
    let first = records.iter().next().expect("one");
    assert_eq!(first.header("line"), Some(&b"7"[..]));
    assert_eq!(first.headers().map(|(name, _)| name).collect::<Vec<_>>(), ["file", "line"]);
}

#[tokio::test]
async fn a_record_beyond_the_limit_leaves_its_head_size_and_hash() {
    let bench = Bench::with(|options| options.max_record_bytes = 10_000);
    let log = bench.open();
    let t = topic(&log, "t", 1);
    let big = vec![b'x'; 20_000];
    put(&log, &t, 0, &[big.as_slice(), b"small"]).await;
    let records = log.fetch("t", 0, 0, 1 << 20).expect("fetch").records().expect("records");
    let first = records.iter().next().expect("one");
    assert_eq!(first.value, Some(&big[..4096]));
    assert_eq!(first.header("tarn.oversize"), Some(&b"20000"[..]));
    let hash = format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&big));
    assert_eq!(first.header("tarn.xxh3"), Some(hash.as_bytes()));
    assert_eq!(records.len(), 2);
}

#[tokio::test]
async fn positions_are_committed_with_their_records() {
    let bench = Bench::new();
    let log = bench.open();
    let t = topic(&log, "t", 1);
    let mut append = of(&t, 0, &["a"]);
    append.position("files", "x.log", Some(json!({"at": 1})));
    append.position("files", "y.log", Some(json!(7)));
    log.append(append).await.expect("append");
    let mut append = Append::new();
    append.position("files", "x.log", Some(json!({"at": 2})));
    append.position("files", "y.log", None);
    append.dropped("files", 3);
    assert!(!append.is_empty());
    log.append(append).await.expect("append");
    drop(log);
    let log = bench.open();
    assert_eq!(log.position("files", "x.log").expect("position"), Some(json!({"at": 2})));
    assert_eq!(log.positions("files").expect("positions"), [("x.log".to_owned(), json!({"at": 2}))]);
    assert_eq!(log.position("other", "x.log").expect("position"), None);
    assert_eq!(log.dropped().expect("dropped"), [("files".to_owned(), 3)]);
}

fn keyed(t: &std::sync::Arc<tarn_log::TopicInfo>, key: &str, body: &str, body_hash: u128) -> Append {
    let mut append = of(t, 0, &[body]);
    append.idempotency(Idempotency { topic: "t".to_owned(), key: key.to_owned(), body_hash });
    append
}

#[tokio::test]
async fn a_repeat_gets_the_first_answer_and_another_body_is_refused() {
    let bench = Bench::new();
    let log = bench.open();
    let t = topic(&log, "t", 1);
    put(&log, &t, 0, &["before"]).await;
    let first = log.append(keyed(&t, "k", "body", 1)).await.expect("append");
    assert!(!first.repeated);
    let check = async |log: &tarn_log::Log| {
        let again = log.append(keyed(&t, "k", "body", 1)).await.expect("append");
        assert!(again.repeated);
        assert_eq!((again.ranges, again.records), (first.ranges.clone(), 1));
        let error = log.append(keyed(&t, "k", "other", 2)).await.expect_err("another body");
        assert_eq!(error.kind(), Kind::Conflict);
        assert_eq!(values(log, "t", 0), ["before", "body"]);
    };
    check(&log).await;
    drop(log);
    let log = bench.open();
    check(&log).await;
    bench.clock.advance(Duration::from_secs(601));
    let later = log.append(keyed(&t, "k", "later", 3)).await.expect("the window is over");
    assert!(!later.repeated);
    assert_eq!(values(&log, "t", 0), ["before", "body", "later"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_repeats_append_once() {
    let bench = Bench::new();
    let log = bench.open();
    let t = topic(&log, "t", 1);
    let repeats = (0..50).map(|_| {
        let (log, append) = (log.clone(), keyed(&t, "k", "body", 1));
        tokio::spawn(async move { log.append(append).await.expect("append") })
    });
    let answers = futures::future::join_all(repeats).await;
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.expect("no panic")).collect();
    assert_eq!(answers.iter().filter(|answer| !answer.repeated).count(), 1);
    assert!(answers.iter().all(|answer| answer.ranges == answers[0].ranges));
    assert_eq!(values(&log, "t", 0), ["body"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_that_wait_share_a_commit() {
    let bench = Bench::new();
    let log = bench.open();
    let t = topic(&log, "t", 2);
    let before = *log.commits().borrow();
    let appends = (0..400).map(|n| {
        let (log, append) = (log.clone(), of(&t, n % 2, &[n.to_string()]));
        tokio::spawn(async move { log.append(append).await.expect("append") })
    });
    futures::future::join_all(appends).await;
    let commits = *log.commits().borrow() - before;
    assert!(commits < 200, "400 appends took {commits} commits");
    assert_eq!(log.ends("t").expect("ends").to_string(), "0=200,1=200");
}

#[tokio::test]
async fn commits_tick_after_what_they_published_is_visible() {
    let bench = Bench::new();
    let log = bench.open();
    let t = topic(&log, "t", 1);
    let mut commits = log.commits();
    commits.mark_unchanged();
    let waiting = tokio::spawn({
        let log = log.clone();
        async move {
            commits.changed().await.expect("a tick");
            log.ends("t").expect("ends").next(0)
        }
    });
    put(&log, &t, 0, &["a"]).await;
    assert_eq!(waiting.await.expect("no panic"), 1);
}

#[tokio::test]
async fn an_empty_append_is_answered_at_once() {
    let bench = Bench::new();
    let log = bench.open();
    let before = *log.commits().borrow();
    let appended = log.append(Append::new()).await.expect("append");
    assert_eq!((appended.records, appended.ranges.len()), (0, 0));
    assert_eq!(*log.commits().borrow(), before);
}

#[tokio::test]
async fn a_commit_wakes_those_who_wait_for_its_partitions_and_nobody_else() {
    use futures::FutureExt;

    let bench = Bench::new();
    let log = bench.open();
    let (t, idle) = (topic(&log, "t", 2), topic(&log, "idle", 1));
    let elsewhere: Vec<_> = (0..500).map(|_| log.news([(idle.id, 0), (t.id, 1)])).collect();
    let here = [log.news([(idle.id, 0), (t.id, 0)]), log.news([(t.id, 0)])];
    let woken = |news: &tarn_log::News| news.changed().now_or_never().is_some();
    put(&log, &t, 0, &["a"]).await;
    put(&log, &t, 0, &["b"]).await;
    assert!(here.iter().all(woken), "also when it came before the wait");
    assert!(!here.iter().any(woken), "once");
    assert_eq!(elsewhere.iter().filter(|news| woken(news)).count(), 0);
    log.delete_topic("t").await.expect("deleted");
    assert!(here.iter().chain(&elsewhere).all(woken));
    topic(&log, "t", 2);
    put(&log, &topic(&log, "t", 2), 0, &["a"]).await;
    assert!(!here.iter().any(woken), "it is another topic");
    log.close().await.expect("closed");
    assert!(here.iter().chain(&elsewhere).all(woken), "the log has stopped");
}

#[test]
fn a_topic_that_many_create_at_once_is_one_and_leaves_no_other_files() {
    let bench = Bench::new();
    let log = bench.open();
    let created: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| topic(&log, "t", 3).id)).collect();
        threads.into_iter().map(|thread| thread.join().expect("created")).collect()
    });
    assert!(created.iter().all(|id| *id == created[0]), "{created:?}");
    assert_eq!(bench.segments().len(), 3);
    let folders = std::fs::read_dir(bench.path().join("log")).expect("a list");
    assert_eq!(folders.filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().is_dir())).count(), 1);
}
