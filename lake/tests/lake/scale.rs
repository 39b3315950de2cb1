//! How long things take with many files, commits and rows. Ignored: run with
//! `cargo test -p tarn-lake --release -- --ignored --nocapture scale`.

use std::time::{Duration, Instant};

use crate::rows::*;

/// 10,000 commits of one file each, written straight into the log; a checkpoint every 100, as upkeep writes them, is
/// stood for by one at 9,900.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn scale_of_10_000_files_and_commits() {
    let folder = tempfile::tempdir().unwrap();
    let lake = local(folder.path()).await;
    let table = lake.create("t", &new_table(&[])).await.unwrap();
    append(&table, 0, 0, 100).await.unwrap();
    let log = folder.path().join("t/_delta_log");
    let first = std::fs::read_to_string(log.join(format!("{:020}.json", 1))).unwrap();
    let (mut from, name) = (100, table.snapshot().files[0].path.filename().unwrap().to_owned());
    let count: u64 = std::env::var("SCALE_COMMITS").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000);
    for version in 2..count {
        let text = first
            .replace(&name, &format!("part-{version}.parquet"))
            .replace(r#""version":100}"#, &format!(r#""version":{}}}"#, from + 100));
        std::fs::write(log.join(format!("{version:020}.json")), text).unwrap();
        from += 100;
    }
    let started = Instant::now();
    let table = local(folder.path()).await.load("t", true).await.unwrap().unwrap();
    assert_eq!(table.snapshot().files.len() as u64, count - 1);
    println!("load, no checkpoint: {:?}", started.elapsed());
    let started = Instant::now();
    table.checkpoint().await.unwrap();
    println!("checkpoint of 9,999 files: {:?}", started.elapsed());
    for i in 0..20 {
        append(&table, 1, i * 100, i * 100 + 100).await.unwrap();
    }
    let started = Instant::now();
    let again = local(folder.path()).await.load("t", true).await.unwrap().unwrap();
    let took = started.elapsed();
    println!("load, checkpoint + 20 commits: {took:?}");
    let mut commits: Vec<Duration> = Vec::new();
    for i in 20..40 {
        let files = again.write(vec![rows(1, i * 100, i * 100 + 100)]).await.unwrap();
        let started = Instant::now();
        again.commit(commit_of(files, vec![advance(1, i * 100, i * 100 + 100)])).await.unwrap();
        commits.push(started.elapsed());
    }
    commits.sort();
    println!("commit with 10,000 live files: median {:?}, most {:?}", commits[10], commits[19]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn scale_of_writing() {
    let folder = tempfile::tempdir().unwrap();
    let lake = local(folder.path()).await;
    for by in [&[][..], &["origin"]] {
        let table = lake.create(&format!("t{}", by.len()), &new_table(by)).await.unwrap();
        let batches: Vec<_> = (0..250).map(|i| rows(0, i * 8192, i * 8192 + 8192)).collect();
        for _ in 0..3 {
            let started = Instant::now();
            let files = table.write(batches.clone()).await.unwrap();
            let bytes: u64 = files.iter().map(|file| file.size).sum();
            let rate = 250.0 * 8192.0 / started.elapsed().as_secs_f64() / 1e6;
            println!("partition_by {by:?}: {rate:.2} M rows/s, {} files, {bytes} bytes", files.len());
        }
    }
}
