//! Measures the log: `cargo run --release -p tarn-log --example throughput -- [FOLDER]`.
//!
//! Large appends of NDJSON lines from one and from two appenders, many small appends at once, reading it all back, and
//! opening the log again. Each figure is the median of five runs; sync mode and compression are named. Beside the rate by
//! the wall clock stands the rate per second of processor time, which other processes disturb less.

#![allow(clippy::print_stdout, reason = "it reports")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tarn_log::{Append, Log, LogOptions, RecordRef, TopicInfo, TopicOptions};
use tarn_model::clock;
use tarn_model::config::{Compression, SyncMode};

const RUNS: usize = 5;
const INPUT_BYTES: usize = 256 << 20;
const APPEND_BYTES: usize = 4 << 20;
const SMALL_APPENDS: usize = 20_000;
const SMALL_CLIENTS: usize = 256;

fn main() {
    let parent = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let lines = Arc::new(ndjson(INPUT_BYTES));
    for (sync, compression) in [
        (SyncMode::Group, Compression::Lz4),
        (SyncMode::Group, Compression::Zstd),
        (SyncMode::Group, Compression::None),
        (SyncMode::None, Compression::Lz4),
    ] {
        for appenders in [1, 2] {
            let run = || runtime.block_on(large(Path::new(&parent), sync, compression, appenders, &lines));
            let runs: Vec<[f64; 5]> = (0..RUNS).map(|_| run()).collect();
            let [write, write_cpu, read, read_cpu, open] =
                [0, 1, 2, 3, 4].map(|at| median(runs.iter().map(|run| run[at]).collect()));
            println!(
                "{sync:?} {compression:?}, {appenders} appender(s): append {write:.0} MB/s ({write_cpu:.0} per CPU second), \
                 fetch and unpack {read:.0} MB/s ({read_cpu:.0}), open {open:.1} ms"
            );
        }
        let run = || runtime.block_on(small(Path::new(&parent), sync, compression, &lines));
        let rate = median((0..RUNS).map(|_| run()).collect());
        println!("{sync:?} {compression:?}, {SMALL_CLIENTS} clients: {rate:.0} appends/s of one record each");
    }
}

/// Lines like web events, nine fields, about 215 bytes each.
fn ndjson(bytes: usize) -> Vec<String> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let (mut lines, mut total) = (Vec::new(), 0);
    while total < bytes {
        let line = format!(
            "{{\"ts\":\"2026-03-{:02}T{:02}:{:02}:{:02}.{:03}Z\",\"user_id\":{},\"session\":\"{:016x}\",\"event\":\"{}\",\
             \"path\":\"/products/{}\",\"status\":{},\"latency_ms\":{}.{},\"country\":\"{}\",\"agent\":\"Mozilla/5.0 (X11)\"}}",
            random(28) + 1,
            random(24),
            random(60),
            random(60),
            random(1000),
            random(1_000_000),
            random(u64::MAX),
            ["view", "click", "cart", "purchase"][usize::try_from(random(4)).unwrap_or(0)],
            random(50_000),
            [200, 301, 404, 500][usize::try_from(random(4)).unwrap_or(0)],
            random(900),
            random(1000),
            ["DE", "FR", "US", "BR", "JP"][usize::try_from(random(5)).unwrap_or(0)],
        );
        total += line.len();
        lines.push(line);
    }
    lines
}

fn open(dir: &Path, sync: SyncMode, compression: Compression) -> Log {
    let options = LogOptions {
        sync,
        sync_interval: Duration::from_secs(1),
        segment_bytes: 128 << 20,
        retention_time: Duration::from_secs(3600),
        retention_bytes: None,
        compression,
        max_record_bytes: 1 << 20,
        idempotency_window: Duration::from_secs(3600),
    };
    Log::open(dir, options, clock::system()).expect("open")
}

fn topic(log: &Log) -> Arc<TopicInfo> {
    let options = TopicOptions { partitions: 4, retention_time: None, retention_bytes: None };
    log.create_topic("events", &options).expect("create")
}

fn push(append: &mut Append, topic: &Arc<TopicInfo>, line: &str) {
    let record = RecordRef { timestamp_ms: 1, key: None, value: Some(line.as_bytes()), headers: &[] };
    append.push(topic, &record).expect("push");
}

/// MB/s appended, per second and per CPU second; the same for read back and unpacked; ms to open.
async fn large(
    parent: &Path,
    sync: SyncMode,
    compression: Compression,
    appenders: usize,
    lines: &Arc<Vec<String>>,
) -> [f64; 5] {
    let dir = tempfile::tempdir_in(parent).expect("a folder");
    let log = open(dir.path(), sync, compression);
    let topic = topic(&log);
    let (started, cpu) = (Instant::now(), cpu_time());
    let tasks: Vec<_> = (0..appenders)
        .map(|appender| {
            let (log, topic, lines) = (log.clone(), topic.clone(), lines.clone());
            tokio::spawn(async move {
                // The next append is built while the last is committed.
                let mut under_way: Option<tokio::task::JoinHandle<_>> = None;
                let share = lines.len() / appenders;
                let mut append = Append::new();
                let share = &lines[appender * share..(appender + 1) * share];
                for (at, line) in share.iter().enumerate() {
                    push(&mut append, &topic, line);
                    if append.bytes() >= APPEND_BYTES || at + 1 == share.len() {
                        if let Some(before) = under_way.take() {
                            before.await.expect("no panic");
                        }
                        let (log, full) = (log.clone(), std::mem::take(&mut append));
                        under_way = Some(tokio::spawn(async move {
                            log.append(full).await.expect("append");
                        }));
                    }
                }
                if let Some(last) = under_way {
                    last.await.expect("no panic");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    let bytes = lines.iter().map(String::len).sum::<usize>();
    let (write, write_cpu) = (mega(bytes, started.elapsed()), mega(bytes, cpu_time() - cpu));

    let (started, cpu) = (Instant::now(), cpu_time());
    let mut read = 0;
    for partition in 0..topic.partitions {
        let mut from = 0;
        loop {
            let mut fetch = log.fetch("events", partition, from, 4 << 20).expect("fetch");
            if fetch.batches.is_empty() {
                break;
            }
            let records = fetch.records().expect("records");
            read += records.iter().map(|record| record.value.map_or(0, <[u8]>::len)).sum::<usize>();
            from = fetch.next;
        }
    }
    assert!(read > bytes - 1000, "{read} of {bytes} bytes came back");
    let (read, read_cpu) = (mega(read, started.elapsed()), mega(read, cpu_time() - cpu));

    drop(log);
    let started = Instant::now();
    let log = open(dir.path(), sync, compression);
    let opened = started.elapsed().as_secs_f64() * 1000.0;
    drop(log);
    [write, write_cpu, read, read_cpu, opened]
}

/// Appends of one record per second.
async fn small(parent: &Path, sync: SyncMode, compression: Compression, lines: &Arc<Vec<String>>) -> f64 {
    let dir = tempfile::tempdir_in(parent).expect("a folder");
    let log = open(dir.path(), sync, compression);
    let topic = topic(&log);
    let started = Instant::now();
    let clients: Vec<_> = (0..SMALL_CLIENTS)
        .map(|client| {
            let (log, topic, lines) = (log.clone(), topic.clone(), lines.clone());
            tokio::spawn(async move {
                for at in 0..SMALL_APPENDS / SMALL_CLIENTS {
                    let mut append = Append::new();
                    push(&mut append, &topic, &lines[client * 1000 + at]);
                    log.append(append).await.expect("append");
                }
            })
        })
        .collect();
    for client in clients {
        client.await.expect("no panic");
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let appends = (SMALL_APPENDS / SMALL_CLIENTS * SMALL_CLIENTS) as f64;
    appends / started.elapsed().as_secs_f64()
}

/// Processor time of this process, user and system, from Linux's `/proc`: in hundredths of a second.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn mega(bytes: usize, elapsed: Duration) -> f64 {
    bytes as f64 / 1e6 / elapsed.as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
