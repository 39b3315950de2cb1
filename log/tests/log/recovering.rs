//! What a crash, a power failure, a flipped bit or a second process leads to.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::FileExt;

use serde_json::json;
use tarn_log::{Idempotency, Log};
use tarn_model::config::{Compression, SyncMode};
use tarn_model::{Boundary, Kind};

use crate::support::{BOOT, Bench, of, put, topic, values, values_from};

fn append_bytes(path: &std::path::Path, bytes: &[u8]) {
    OpenOptions::new().append(true).open(path).expect("open").write_all(bytes).expect("write");
}

#[tokio::test]
async fn torn_tail_is_truncated_on_open() {
    let bench = Bench::new();
    let log = bench.open();
    let t = topic(&log, "t", 1);
    put(&log, &t, 0, &["a", "b"]).await;
    drop(log);
    let segment = bench.segments().remove(0);
    let committed = std::fs::read(&segment).expect("read");
    for tail in [&committed[..30], &committed[..], &[0; 5000]] {
        append_bytes(&segment, tail);
        let log = bench.open();
        assert_eq!(std::fs::read(&segment).expect("read"), committed);
        assert_eq!(values(&log, "t", 0), ["a", "b"]);
    }
    let log = bench.open();
    put(&log, &t, 0, &["c"]).await;
    assert_eq!(values(&log, "t", 0), ["a", "b", "c"]);
}

#[tokio::test]
async fn a_segment_that_was_begun_but_not_committed_is_removed_on_open() {
    let bench = Bench::new();
    let log = bench.open();
    let t = topic(&log, "t", 1);
    put(&log, &t, 0, &["a"]).await;
    drop(log);
    let stranger = bench.segments()[0].with_file_name("00000000000000000001.log");
    append_bytes_new(&stranger);
    let log = bench.open();
    assert!(!stranger.exists());
    assert_eq!(values(&log, "t", 0), ["a"]);
}

fn append_bytes_new(path: &std::path::Path) {
    std::fs::write(path, b"begun").expect("write");
}

/// A log of several segments with four batches in each, uncompressed so that every byte matters.
async fn several_segments() -> (Bench, Vec<String>) {
    let bench =
        Bench::with(|options| (options.segment_bytes, options.compression) = (4096, Compression::None));
    let log = bench.open();
    let t = topic(&log, "t", 1);
    let expected: Vec<String> = (0..40).map(|n| format!("{n:03}{}", "v".repeat(800))).collect();
    for value in &expected {
        put(&log, &t, 0, &[value]).await;
    }
    assert!(bench.segments().len() >= 8, "{:?}", bench.segments());
    log.close().await.expect("close");
    (bench, expected)
}

/// Opens and reads everything; an error must be `Corrupt`, and name the segment and an offset in it.
fn read_all(bench: &Bench) -> tarn_model::Result<Vec<String>> {
    let log = bench.try_open()?;
    let (mut from, mut read) = (0, Vec::new());
    loop {
        let mut fetch = log.fetch("t", 0, from, 1)?;
        if fetch.batches.is_empty() {
            return Ok(read);
        }
        for record in fetch.records()?.iter() {
            assert_eq!(record.offset, from);
            from += 1;
            read.push(String::from_utf8(record.value.expect("a value").to_vec()).expect("text"));
        }
    }
}

#[tokio::test]
async fn a_flipped_byte_is_corrupt_and_never_a_wrong_record() {
    let (bench, expected) = several_segments().await;
    let segments = bench.segments();
    let base = |path: &std::path::Path| {
        path.file_stem().and_then(|s| s.to_str()?.parse::<i64>().ok()).expect("base")
    };
    for (at, segment) in segments.iter().enumerate() {
        let length = std::fs::metadata(segment).expect("metadata").len();
        // The fields before the CRC, the CRC, the header, and bytes of the records of each batch.
        for position in (0..21).chain((21..length).step_by(397)) {
            let file = OpenOptions::new().read(true).write(true).open(segment).expect("open");
            let mut byte = [0];
            file.read_exact_at(&mut byte, position).expect("read");
            file.write_all_at(&[byte[0] ^ 0x10], position).expect("write");
            match read_all(&bench) {
                // The leader epoch (bytes 12 to 15) is no part of a record and is not under the CRC.
                Ok(read) => {
                    assert!(read == expected && (12..16).contains(&position), "byte {position} was not seen")
                }
                Err(error) => {
                    assert_eq!(error.kind(), Kind::Corrupt, "{error:?}");
                    let message = error.to_string();
                    assert!(message.contains(segment.to_str().expect("text")), "{message}");
                    let upto = segments.get(at + 1).map_or(40, |next| base(next));
                    let named = (base(segment)..upto).any(|o| message.contains(&format!("at offset {o} ")));
                    assert!(named, "{message}");
                    assert!(error.hint().is_some());
                }
            }
            file.write_all_at(&byte, position).expect("write");
        }
    }
    assert_eq!(read_all(&bench).expect("mended"), expected);
}

#[tokio::test]
async fn a_segment_that_is_missing_or_short_is_corrupt_on_open() {
    let (bench, expected) = several_segments().await;
    for segment in bench.segments() {
        let bytes = std::fs::read(&segment).expect("read");
        std::fs::write(&segment, &bytes[..bytes.len() - 1]).expect("write");
        let error = bench.try_open().expect_err("short");
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.to_string().contains(segment.to_str().expect("text")), "{error}");
        std::fs::remove_file(&segment).expect("remove");
        let error = bench.try_open().expect_err("missing");
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.to_string().contains("missing"), "{error}");
        std::fs::write(&segment, &bytes).expect("write");
    }
    assert_eq!(read_all(&bench).expect("mended"), expected);
}

#[tokio::test]
async fn a_missing_or_wrong_index_is_built_anew() {
    let bench =
        Bench::with(|options| (options.segment_bytes, options.compression) = (100 << 10, Compression::None));
    let log = bench.open();
    let t = topic(&log, "t", 1);
    let expected: Vec<String> = (0..300).map(|n| format!("{n:03}{}", "v".repeat(1000))).collect();
    for value in &expected {
        put(&log, &t, 0, &[value]).await;
    }
    log.close().await.expect("close");
    let segments = bench.segments();
    assert_eq!(segments.len(), 4);
    for extension in ["index", "timeindex"] {
        for damage in ["remove", "empty", "shift", "garbage"] {
            for segment in &segments {
                let file = segment.with_extension(extension);
                let good = std::fs::read(&file).expect("an index");
                match damage {
                    "remove" => std::fs::remove_file(&file).expect("remove"),
                    "empty" => std::fs::write(&file, b"").expect("write"),
                    "shift" => {
                        let mut bytes = good.clone();
                        bytes.iter_mut().skip(3).step_by(8).for_each(|byte| *byte = byte.wrapping_add(1));
                        std::fs::write(&file, bytes).expect("write");
                    }
                    _ => std::fs::write(&file, [0x5a; 33]).expect("write"),
                }
            }
            let log = bench.open();
            for from in [299, 0, 57, 150] {
                assert_eq!(
                    values_from(&log, "t", 0, i64::from(from)),
                    expected[from as usize..],
                    "{extension} {damage}"
                );
            }
            log.close().await.expect("close");
        }
    }
}

#[tokio::test]
async fn a_second_process_is_refused_and_told_the_folder() {
    let bench = Bench::new();
    let log = bench.open();
    let error = bench.try_open().expect_err("locked");
    assert_eq!(error.kind(), Kind::Unavailable);
    let folder = bench.path().to_str().expect("text");
    assert!(error.to_string().contains("in use by another process"), "{error}");
    assert!(error.hint().expect("a hint").contains(folder), "{error:?}");
    let other_handle = log.clone();
    log.close().await.expect("close");
    bench.try_open().expect("free again, though a handle is left");
    drop(other_handle);
}

#[test]
fn another_format_version_is_refused() {
    let bench = Bench::new();
    drop(bench.open());
    std::fs::write(bench.path().join("version"), "tarn 99\n").expect("write");
    let error = bench.try_open().expect_err("refused");
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("tarn 99"), "{error}");
}

/// Appends before and after a sync; returns the log's segments as they were synced.
async fn synced_and_not(bench: &Bench) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let log = bench.open();
    let t = topic(&log, "t", 2);
    let mut append = of(&t, 0, &["a", "b"]);
    append.position("files", "x", Some(json!(2)));
    append.position("files", "gone", Some(json!(1)));
    append.dropped("files", 5);
    log.append(append).await.expect("append");
    log.sync_to("t", &Boundary::from_iter([(0, 2)])).await.expect("sync");
    let synced =
        bench.segments().into_iter().map(|path| (path.clone(), std::fs::read(path).expect("read"))).collect();
    for n in 0..20_i64 {
        let mut append = of(&t, 0, &["c".repeat(1000)]);
        append.push_to(&t, 1, &crate::support::record(b"d")).expect("push");
        append.position("files", "x", Some(json!(3 + n)));
        append.position("files", "new", Some(json!(n)));
        append.position("files", "gone", None);
        append.dropped("files", 1);
        let key = format!("key {n}");
        append.idempotency(Idempotency { topic: "t".to_owned(), key, body_hash: 1 });
        log.append(append).await.expect("append");
    }
    synced
}

fn assert_synced_only(bench: &Bench, log: &Log) {
    assert_eq!(values(log, "t", 0), ["a", "b"]);
    assert_eq!(log.ends("t").expect("ends").to_string(), "0=2,1=0");
    let positions = log.positions("files").expect("positions");
    assert_eq!(positions, [("gone".to_owned(), json!(1)), ("x".to_owned(), json!(2))]);
    assert_eq!(log.dropped().expect("dropped"), [("files".to_owned(), 5)]);
    assert_eq!(bench.segments().len(), 2);
}

#[tokio::test]
async fn a_power_failure_takes_back_what_was_not_synced() {
    for sync in [SyncMode::Interval, SyncMode::None] {
        let bench =
            Bench::with(|o| (o.sync, o.segment_bytes, o.compression) = (sync, 4096, Compression::None));
        let synced = synced_and_not(&bench).await;
        // The power takes the bytes; the ledger came through.
        for path in bench.segments() {
            std::fs::remove_file(path).expect("remove");
        }
        for (path, bytes) in synced {
            std::fs::write(path, bytes).expect("write");
        }
        let log = bench.open_on("second boot").expect("open");
        assert_synced_only(&bench, &log);
        let mut again = of(&log.topic("t").expect("topic"), 0, &["e"]);
        again.idempotency(Idempotency { topic: "t".to_owned(), key: "key 3".to_owned(), body_hash: 2 });
        assert!(!log.append(again).await.expect("the key is forgotten").repeated);
        assert_eq!(values(&log, "t", 0), ["a", "b", "e"]);
        let fetch = log.fetch("t", 0, 2, 1).expect("fetch");
        assert_eq!(fetch.batches[0][12..16], [0, 0, 0, 1], "a new leader epoch");
        drop(log);
        let log = bench.open_on("second boot").expect("open");
        assert_eq!(values(&log, "t", 0), ["a", "b", "e"], "the same boot keeps it");
    }
}

#[tokio::test]
async fn the_power_may_also_spare_the_bytes() {
    let bench =
        Bench::with(|o| (o.sync, o.segment_bytes, o.compression) = (SyncMode::None, 4096, Compression::None));
    synced_and_not(&bench).await;
    let log = bench.open_on("second boot").expect("open");
    assert_synced_only(&bench, &log);
}

#[tokio::test]
async fn a_process_that_dies_keeps_what_was_not_synced() {
    let bench = Bench::with(|o| (o.sync, o.segment_bytes) = (SyncMode::None, 4096));
    synced_and_not(&bench).await;
    drop(bench.open_on(BOOT).expect("open"));
    // Opening synced it.
    let log = bench.open_on("second boot").expect("open");
    assert_eq!(log.ends("t").expect("ends").to_string(), "0=22,1=20");
    assert_eq!(log.position("files", "x").expect("position"), Some(json!(22)));
    assert_eq!(values(&log, "t", 1).len(), 20);
}

#[tokio::test]
async fn a_clean_close_or_group_mode_leaves_nothing_to_take_back() {
    for sync in [SyncMode::Group, SyncMode::Interval, SyncMode::None] {
        let bench = Bench::with(|options| options.sync = sync);
        let log = bench.open();
        let t = topic(&log, "t", 1);
        put(&log, &t, 0, &["a"]).await;
        if sync == SyncMode::Group {
            drop(log);
        } else {
            log.close().await.expect("close");
        }
        assert_eq!(values(&bench.open_on("second boot").expect("open"), "t", 0), ["a"], "{sync:?}");
    }
}

#[tokio::test]
async fn a_change_of_sync_mode_keeps_everything() {
    let mut bench = Bench::with(|options| options.sync = SyncMode::None);
    let log = bench.open();
    let t = topic(&log, "t", 1);
    put(&log, &t, 0, &["a"]).await;
    drop(log);
    bench.options.sync = SyncMode::Group;
    let log = bench.open();
    put(&log, &t, 0, &["b"]).await;
    drop(log);
    assert_eq!(values(&bench.open_on("second boot").expect("open"), "t", 0), ["a", "b"]);
}

#[tokio::test]
async fn the_timer_syncs_by_itself() {
    let bench = Bench::with(|options| {
        options.sync = SyncMode::Interval;
        options.sync_interval = std::time::Duration::from_millis(5);
    });
    let log = bench.open();
    let t = topic(&log, "t", 1);
    put(&log, &t, 0, &["a"]).await;
    // The ledger's undo rows go once the bytes are synced.
    let ledger = rusqlite::Connection::open(bench.path().join("log/ledger.sqlite")).expect("open");
    let unsynced = || ledger.query_row("SELECT count(*) FROM undo_segments", [], |row| row.get::<_, i64>(0));
    while unsynced().expect("count") > 0 {
        tokio::task::yield_now().await;
    }
    drop(log);
    assert_eq!(values(&bench.open_on("second boot").expect("open"), "t", 0), ["a"]);
}

#[tokio::test]
async fn a_reader_is_told_from_where_on_records_were_taken_back() {
    let bench = Bench::with(|options| options.sync = SyncMode::None);
    let log = bench.open();
    let t = topic(&log, "t", 2);
    put(&log, &t, 0, &["a", "b"]).await;
    log.close().await.expect("close");
    let log = bench.open();
    assert_eq!(log.leader_epoch(), 0, "a start alone takes nothing back");
    put(&log, &t, 0, &["c", "d"]).await;
    assert_eq!(log.epoch_end("t", 0, 0).expect("known"), Some((0, 4)));
    drop(log);
    let log = bench.open_on("second boot").expect("open");
    assert_eq!(log.leader_epoch(), 1);
    put(&log, &t, 0, &["x", "y", "z"]).await;
    assert_eq!(
        log.epoch_end("t", 0, 0).expect("known"),
        Some((0, 2)),
        "c and d are gone, though their offsets are not"
    );
    assert_eq!(log.epoch_end("t", 0, 1).expect("known"), Some((1, 5)));
    assert_eq!(log.epoch_end("t", 0, 2).expect("known"), None);
    let epochs: Vec<_> = (0..4).map(|offset| log.epoch_at("t", 0, offset).expect("known")).collect();
    assert_eq!(epochs, [Some(0), Some(0), Some(1), Some(1)]);
    let new = topic(&log, "new", 1);
    put(&log, &new, 0, &["n"]).await;
    assert_eq!(
        log.epoch_end("new", 0, 0).expect("known"),
        Some((0, 0)),
        "the topic has nothing of that epoch"
    );
    log.close().await.expect("close");
    // Once more, and further back than the second epoch began.
    let log = bench.open_on("second boot").expect("open");
    put(&log, &t, 1, &["p"]).await;
    drop(log);
    let log = bench.open_on("third boot").expect("open");
    assert_eq!(log.leader_epoch(), 2);
    assert_eq!(log.epoch_end("t", 0, 1).expect("known"), Some((1, 5)));
    assert_eq!(log.epoch_end("t", 1, 0).expect("known"), Some((0, 0)));
    assert_eq!(log.epoch_end("t", 1, 1).expect("known"), Some((1, 0)));
}
