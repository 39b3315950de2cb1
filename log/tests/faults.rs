//! Every durable step fails, or succeeds and is reported as failed: nothing acknowledged is lost, nothing is doubled.
//!
//! Fault points are global, so these tests have a process of their own, and take turns in it.

#[path = "log/support.rs"]
mod support;

use fail::FailScenario;
use serde_json::json;
use support::{Bench, of, put, record, topic, values};
use tarn_log::{Append, Log};
use tarn_model::config::{Compression, SyncMode};
use tarn_model::{Boundary, Kind};

fn arm(point: &str, action: &str) {
    fail::cfg(point, action).expect("a fault point");
}

/// Appends a record and the position behind it.
async fn step(log: &Log, n: i64) -> tarn_model::Result<()> {
    let t = log.topic("t").expect("topic");
    let mut append = of(&t, 0, &[format!("{n} {}", "v".repeat(900))]);
    append.push_to(&t, 1, &record(n.to_string().as_bytes())).expect("push");
    append.position("files", "x", Some(json!(n)));
    log.append(append).await.map(|_| ())
}

fn assert_all(log: &Log, upto: i64) {
    let numbers: Vec<String> = (0..=upto).map(|n| n.to_string()).collect();
    assert_eq!(values(log, "t", 1), numbers);
    assert_eq!(values(log, "t", 0).len(), numbers.len());
    assert_eq!(log.position("files", "x").expect("position"), Some(json!(upto)));
}

#[tokio::test]
async fn a_full_disk_is_waited_out_without_a_restart() {
    for point in
        ["log.append.before", "log.append.after", "log.roll.before", "log.roll.after", "log.commit.before"]
    {
        let scenario = FailScenario::setup();
        let bench = Bench::with(|o| (o.segment_bytes, o.compression) = (4096, Compression::None));
        let log = bench.open();
        topic(&log, "t", 2);
        for n in 0..30 {
            if n % 5 == 4 {
                arm(point, "1*return(error)");
            }
            while let Err(error) = step(&log, n).await {
                assert_eq!(error.kind(), Kind::Unavailable, "{point}: {error:?}");
                assert!(log.failure().is_none(), "{point}: the log goes on");
                assert_eq!(log.ends("t").expect("ends").next(1), n, "{point}: nothing of it is visible");
            }
        }
        assert_all(&log, 29);
        drop(log);
        assert_all(&bench.open(), 29);
        scenario.teardown();
    }
}

#[tokio::test]
async fn a_commit_that_was_made_but_reported_as_failed_counts_once() {
    for sync in [SyncMode::Group, SyncMode::Interval] {
        let scenario = FailScenario::setup();
        let bench = Bench::with(|options| options.sync = sync);
        let log = bench.open();
        topic(&log, "t", 2);
        for n in 0..5 {
            arm("log.commit.after", "1*return(error)");
            step(&log, n).await.expect("the ledger says that it was made");
            step_reads(&log, n);
        }
        drop(log);
        assert_all(&bench.open(), 4);
        scenario.teardown();
    }
}

fn step_reads(log: &Log, n: i64) {
    assert_all(log, n);
}

#[tokio::test]
async fn a_failed_sync_stops_the_log_until_it_is_opened_again() {
    for point in ["log.sync.before", "log.sync.after"] {
        let scenario = FailScenario::setup();
        let bench = Bench::new();
        let log = bench.open();
        topic(&log, "t", 2);
        step(&log, 0).await.expect("append");
        let mut commits = log.commits();
        commits.mark_unchanged();
        arm(point, "1*return(error)");
        assert_eq!(step(&log, 1).await.expect_err("the sync failed").kind(), Kind::Unavailable);
        assert!(commits.has_changed().expect("open"), "whoever waits is woken");
        let failure = log.failure().expect("stopped");
        assert!(failure.to_string().contains("stopped") && failure.hint().is_some(), "{failure:?}");
        assert_eq!(step(&log, 1).await.expect_err("no second try").kind(), Kind::Unavailable);
        assert_all(&log, 0);
        drop(log);
        let log = bench.open();
        assert_all(&log, 0);
        step(&log, 1).await.expect("append");
        assert_all(&log, 1);
        scenario.teardown();
    }
}

#[tokio::test]
async fn a_failed_sync_in_the_background_stops_the_log_too() {
    let scenario = FailScenario::setup();
    let bench = Bench::with(|options| options.sync = SyncMode::None);
    let log = bench.open();
    topic(&log, "t", 2);
    step(&log, 0).await.expect("append");
    arm("log.sync.before", "1*return(error)");
    let upto = Boundary::from_iter([(0, 1)]);
    assert_eq!(log.sync_to("t", &upto).await.expect_err("failed").kind(), Kind::Unavailable);
    assert!(log.failure().is_some());
    assert_eq!(log.sync_to("t", &upto).await.expect_err("still").kind(), Kind::Unavailable);
    scenario.teardown();
}

#[tokio::test]
async fn a_trim_that_is_interrupted_is_made_or_not() {
    for (point, start) in [("log.trim.before", 0), ("log.trim.after", 9)] {
        let scenario = FailScenario::setup();
        let bench = Bench::with(|o| (o.segment_bytes, o.compression) = (4096, Compression::None));
        let log = bench.open();
        topic(&log, "t", 2);
        for n in 0..10 {
            step(&log, n).await.expect("append");
        }
        arm(point, "1*return(error)");
        log.trim("t", &Boundary::from_iter([(0, 9)]), false).await.expect_err("interrupted");
        assert_eq!(log.starts("t").expect("starts").next(0), start, "{point}");
        drop(log);
        let log = bench.open();
        assert_eq!(log.starts("t").expect("starts").next(0), start, "{point}");
        log.trim("t", &Boundary::from_iter([(0, 9)]), false).await.expect("now");
        assert_eq!(values(&log, "t", 0).len(), 1);
        drop(log);
        bench.open();
        assert_eq!(bench.segments().len(), 2, "{point}: {:?}", bench.segments());
        scenario.teardown();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_sync_serves_all_appends_that_wait() {
    let scenario = FailScenario::setup();
    let bench = Bench::new();
    let log = bench.open();
    let t = topic(&log, "t", 2);
    put(&log, &t, 0, &["first"]).await;
    let before = *log.commits().borrow();
    // The first of them waits in its sync until all others are in the queue.
    arm("log.sync.before", "1*pause");
    let appends: Vec<_> = (0..200)
        .map(|n| {
            let (log, append) = (log.clone(), of(&t, n % 2, &[n.to_string()]));
            tokio::spawn(async move { log.append(append).await.map(|_| ()) })
        })
        .collect();
    while log.waiting() < 200 {
        tokio::task::yield_now().await;
    }
    arm("log.sync.before", "off");
    for append in appends {
        append.await.expect("no panic").expect("append");
    }
    let commits = *log.commits().borrow() - before;
    assert!(commits <= 4, "200 appends took {commits} commits");
    assert_eq!(log.append(Append::new()).await.expect("empty").records, 0);
    scenario.teardown();
}

/// `mount -t tmpfs -o size=4m tmpfs FOLDER`, then `TARN_SMALL_DISK=FOLDER cargo test -p tarn-log -- --ignored`.
#[tokio::test]
#[ignore = "needs a small file system"]
async fn a_disk_that_is_really_full_is_waited_out_without_a_restart() {
    let scenario = FailScenario::setup();
    let folder =
        std::env::var("TARN_SMALL_DISK").expect("TARN_SMALL_DISK names a folder on a small file system");
    for room in [0, 4096, 20_000, 40_000, 100_000] {
        let mut bench = Bench::with(|o| (o.segment_bytes, o.compression) = (16 << 10, Compression::None));
        bench.dir = tempfile::tempdir_in(&folder).expect("a folder");
        let log = bench.open();
        topic(&log, "t", 2);
        let filler = std::path::Path::new(&folder).join("filler");
        let (mut n, mut refused) = (0, 0);
        while n < 60 {
            if n % 20 == 10 && !filler.exists() && refused % 3 == 0 {
                fill(&filler, room);
            }
            match step(&log, n).await {
                Ok(()) => n += 1,
                Err(error) => {
                    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
                    assert!(error.hint().is_some_and(|hint| hint.contains("free space")), "{error:?}");
                    refused += 1;
                    if refused % 3 == 0 {
                        std::fs::remove_file(&filler).expect("free space");
                        step(&log, n).await.expect("there is room again");
                        n += 1;
                    }
                }
            }
        }
        assert!(refused >= 3, "the disk was full: {refused}");
        let _ = std::fs::remove_file(&filler);
        assert_all(&log, 59);
        drop(log);
        assert_all(&bench.open(), 59);
    }
    scenario.teardown();
}

/// Fills the file system but for about `room` bytes.
fn fill(path: &std::path::Path, room: u64) {
    use std::io::Write;
    let mut file = std::fs::File::create(path).expect("create");
    while file.write_all(&[1; 4096]).is_ok() {}
    let length = file.metadata().expect("metadata").len();
    file.set_len(length.saturating_sub(room)).expect("make room");
}
