//! Upkeep changes files, never rows.

use std::time::Duration;

use object_store::ObjectStoreExt;
use object_store::path::Path;
use tarn_model::Kind;
use tarn_model::clock::ManualClock;

use crate::rows::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn merged_files_hold_the_same_rows_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let lake = local(folder.path()).await;
    for by in [&[][..], &["origin"]] {
        let name = format!("t{}", by.len());
        let table = lake.create(&name, &new_table(by)).await.unwrap();
        for i in 0..6 {
            append(&table, 0, i * 10, i * 10 + 10).await.unwrap();
        }
        let before = table.snapshot();
        let report = table.optimize().await.unwrap();
        let after = table.snapshot();
        assert_eq!(report.removed_files, before.files.len());
        assert_eq!(after.files.len(), if by.is_empty() { 1 } else { 4 });
        assert_eq!(contents(&lake, &table).await, expected(0, 60));
        assert_eq!(after.txns, before.txns);
        assert_eq!(after.foreign_version, None);
        assert_eq!(table.optimize().await.unwrap().removed_files, 0, "nothing is left to do");
        let again = local(folder.path()).await.load(&name, true).await.unwrap().unwrap();
        assert_eq!(contents(&lake, &again).await, expected(0, 60));
    }
}

#[tokio::test]
async fn a_checkpoint_stands_for_all_that_is_below_it() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(tarn_model::clock::Clock::now_us(&tarn_model::clock::SystemClock));
    let lake = local_at(folder.path(), clock.clone()).await;
    let table = lake.create("t", &new_table(&["origin"])).await.unwrap();
    for i in 0..5 {
        append(&table, 0, i * 10, i * 10 + 10).await.unwrap();
    }
    append(&table, 1, 0, 10).await.unwrap();
    table.checkpoint().await.unwrap();
    table.checkpoint().await.unwrap();
    assert_eq!(table.clean_log().await.unwrap(), 0, "younger than the retention");
    clock.advance(Duration::from_secs(31 * 24 * 3600));
    assert_eq!(
        table.clean_log().await.unwrap(),
        7,
        "commits 0 to 6; the marks became a property, the checkpoint is at 7"
    );
    append(&table, 0, 50, 60).await.unwrap();

    let again = local(folder.path()).await.load("t", true).await.unwrap().unwrap();
    let (a, b) = (again.snapshot(), table.snapshot());
    assert_eq!((a.version, &a.txns, &a.properties), (b.version, &b.txns, &b.properties));
    assert_eq!((a.marks[&mark(0)], a.marks[&mark(1)]), (60, 10), "one from a commit, one from the property");
    assert_eq!(a.marks, b.marks);
    let mut all = expected(0, 60);
    all.extend(expected(1, 10));
    assert_eq!(contents(&lake, &again).await, all);
    for column in ["_offset", "origin"] {
        let sorted = |snapshot: &tarn_lake::LakeSnapshot| {
            let text = |i: usize| {
                arrow::util::display::array_value_to_string(&snapshot.statistics.max[column], i).unwrap()
            };
            let mut texts: Vec<String> = (0..snapshot.files.len()).map(text).collect();
            texts.sort();
            texts
        };
        assert_eq!(sorted(&a), sorted(&b), "statistics survive the checkpoint: {column}");
    }
}

#[tokio::test]
async fn a_broken_checkpoint_is_passed_over() {
    let lake = in_memory().await;
    let table = lake.create("t", &new_table(&[])).await.unwrap();
    append(&table, 0, 0, 10).await.unwrap();
    table.checkpoint().await.unwrap();
    let checkpoint = Path::from(format!("t/_delta_log/{:020}.checkpoint.parquet", table.snapshot().version));
    lake.store().put(&checkpoint, "PAR1".into()).await.unwrap();
    let again = lake.load("t", true).await.unwrap().unwrap();
    assert_eq!(contents(&lake, &again).await, expected(0, 10));
    lake.store().delete(&Path::from(format!("t/_delta_log/{:020}.json", 0))).await.unwrap();
    assert_eq!(lake.load("t", true).await.unwrap_err().kind(), Kind::Corrupt);
}

#[tokio::test]
async fn vacuum_keeps_what_may_be_needed() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(tarn_model::clock::Clock::now_us(&tarn_model::clock::SystemClock));
    let lake = local_at(folder.path(), clock.clone()).await;
    let table = lake.create("t", &new_table(&["_partition"])).await.unwrap();
    for i in 0..3 {
        append(&table, 0, i * 10, i * 10 + 10).await.unwrap();
    }
    table.optimize().await.unwrap();
    let day = Duration::from_secs(24 * 3600);
    assert!(table.vacuum(day, false).await.unwrap().files.is_empty(), "removed just now");
    let pending = table.write(vec![rows(0, 30, 40)]).await.unwrap();
    let other = local(folder.path()).await.load("t", false).await.unwrap().unwrap();
    let orphan = other.write(vec![rows(0, 30, 40)]).await.unwrap();

    clock.advance(Duration::from_secs(600));
    let removed = table.vacuum(Duration::ZERO, true).await.unwrap();
    assert_eq!(removed.files.len(), 3, "orphans are kept for an hour at least");
    clock.advance(2 * day);
    let report = table.vacuum(day, false).await.unwrap();
    assert_eq!(report.files.len(), 4);
    assert!(report.files.contains(&orphan[0].path) && !report.files.contains(&pending[0].path));
    assert!(table.vacuum(day, false).await.unwrap().files.is_empty());
    table.commit(commit_of(pending, vec![advance(0, 30, 40)])).await.unwrap();
    assert_eq!(contents(&lake, &table).await, expected(0, 40));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upkeep_does_what_is_due() {
    let folder = tempfile::tempdir().unwrap();
    let lake = local(folder.path()).await;
    let table = lake.create("t", &new_table(&[])).await.unwrap();
    for i in 0..12 {
        append(&table, 0, i * 10, i * 10 + 10).await.unwrap();
        table.upkeep().await.unwrap();
    }
    assert!(table.snapshot().files.len() < 4 + 1, "small files are merged");
    assert_eq!(contents(&lake, &table).await, expected(0, 120));
    let log = std::fs::read_dir(folder.path().join("t/_delta_log")).unwrap();
    let checkpoints =
        log.filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains("checkpoint.parquet"));
    assert_eq!(checkpoints.count(), 1);
}

#[tokio::test]
async fn staging_files_of_a_killed_writer_are_swept() {
    let folder = tempfile::tempdir().unwrap();
    let lake = local(folder.path()).await;
    let table = lake.create("t", &new_table(&["origin"])).await.unwrap();
    append(&table, 0, 0, 10).await.unwrap();
    let left = ["t/_delta_log/00000000000000000002.json#17", "t/origin=EWR/part.parquet#3"]
        .map(|path| folder.path().join(path));
    for path in &left {
        std::fs::write(path, "half").unwrap();
    }
    lake.load("t", false).await.unwrap();
    assert!(left.iter().all(|path| path.exists()), "a reader changes nothing");
    lake.load("t", true).await.unwrap();
    assert!(!left.iter().any(|path| path.exists()));
    assert_eq!(contents(&lake, &table).await, expected(0, 10));
}

#[tokio::test]
async fn a_row_is_rewritten_once_a_tier_and_not_with_each_merge() {
    const COMMITS: i64 = 64;
    const ROWS: i64 = 4_000;
    let folder = tempfile::tempdir().unwrap();
    let lake = local(folder.path()).await;
    let table = lake.create("t", &new_table(&[])).await.unwrap();
    let mut rewritten = 0;
    for i in 0..COMMITS {
        append(&table, 0, i * ROWS, (i + 1) * ROWS).await.unwrap();
        let before = table.snapshot();
        table.upkeep().await.unwrap();
        let live: Vec<_> = table.snapshot().files.iter().map(|file| file.path.clone()).collect();
        let gone = before.files.iter().enumerate().filter(|(_, file)| !live.contains(&file.path));
        rewritten += gone.map(|(file, _)| before.statistics.rows.value(file)).sum::<i64>();
    }
    let files = table.snapshot().files.len();
    assert_eq!(contents(&lake, &table).await, expected(0, COMMITS * ROWS));
    // Four files make one, so 64 commits are three tiers; each round may take its tier's rows along once.
    assert!(rewritten >= COMMITS * ROWS, "nothing was merged: {rewritten} rows");
    assert!(rewritten <= 3 * COMMITS * ROWS, "{rewritten} rows were rewritten for {}", COMMITS * ROWS);
    assert!(files < 12, "{files} files are left");
}
