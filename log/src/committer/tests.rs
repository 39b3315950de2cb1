use tarn_model::clock;
use tarn_model::config::Compression;

use super::*;
use crate::{Append, Log, LogOptions, RecordRef, TopicOptions};

#[tokio::test]
async fn without_syncs_of_its_own_the_ledger_does_not_grow_with_every_commit() {
    let dir = tempfile::tempdir().expect("a folder");
    let options = LogOptions {
        sync: SyncMode::None,
        sync_interval: Duration::from_secs(3600),
        segment_bytes: 1 << 20,
        retention_time: Duration::from_secs(3600),
        retention_bytes: None,
        compression: Compression::None,
        max_record_bytes: 1 << 20,
        idempotency_window: Duration::from_secs(600),
    };
    let log = Log::open(dir.path(), options, clock::system()).expect("open");
    let one = TopicOptions { partitions: 1, retention_time: None, retention_bytes: None };
    let topic = log.create_topic("t", &one).expect("a topic");
    for n in 0..=MOST_UNSYNCED {
        let mut append = Append::new();
        let record = RecordRef { timestamp_ms: n, key: None, value: Some(b"a"), headers: &[] };
        append.push(&topic, &record).expect("a record");
        log.append(append).await.expect("committed");
    }
    let ledger = rusqlite::Connection::open(dir.path().join("log/ledger.sqlite")).expect("open");
    let replaced = || ledger.query_row("SELECT count(*) FROM undo_segments", [], |row| row.get::<_, i64>(0));
    while replaced().expect("count") >= MOST_UNSYNCED {
        tokio::task::yield_now().await;
    }
    log.close().await.expect("close");
}
