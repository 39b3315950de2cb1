//! A process without a free file descriptor. The limit is the whole process's, so this test has one of its own.

#[path = "log/support.rs"]
#[allow(dead_code, reason = "the other tests need more of it")]
mod support;

use std::fs::File;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{Bench, put, topic, values};
use tarn_model::Kind;
use tarn_model::config::Compression;

#[tokio::test]
async fn too_many_open_files_are_waited_out_without_a_restart() {
    let bench = Bench::with(|o| (o.segment_bytes, o.compression) = (4096, Compression::None));
    let log = bench.open();
    let (t, many) = (topic(&log, "t", 2), topic(&log, "many", 200));
    let open_files = || std::fs::read_dir("/proc/self/fd").expect("a list").count();
    assert!(open_files() < 100, "a partition that is not written to has no open file: {}", open_files());
    let long = "v".repeat(1500);
    put(&log, &t, 0, &[&long, &long]).await;

    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(256), ..before }).expect("a lower limit");
    let others: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(!others.is_empty());
    // Both need a file: the first a new segment, the second one that was closed.
    for (topic, partition) in [(&t, 0), (&many, 7)] {
        let error = log.append(support::of(topic, partition, &[&long])).await.expect_err("no file is free");
        assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
        assert!(log.failure().is_none(), "the log goes on: {:?}", log.failure());
    }
    drop(others);
    put(&log, &t, 0, &[&long]).await;
    put(&log, &many, 7, &[&long]).await;
    assert_eq!((values(&log, "t", 0).len(), values(&log, "many", 7).len()), (3, 1));
    drop(log);
    let log = bench.open();
    assert_eq!((values(&log, "t", 0).len(), values(&log, "many", 7).len()), (3, 1));

    tarn_log::raise_file_limit();
    let raised = getrlimit(Resource::Nofile);
    assert!(raised.current.is_none_or(|now| now > 256 || Some(now) == raised.maximum), "{raised:?}");
}
