//! The commit protocol: what an error means, who may commit, what is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tarn_lake::{Commit, Lake, LakeTable};
use tarn_model::{Kind, clock};

use crate::faulty::{Fault, Faulty};
use crate::rows::*;

async fn faulty() -> (Faulty, Lake, LakeTable) {
    let store = Faulty::over(Arc::new(InMemory::new()));
    let lake = Lake::on_store(Arc::new(store.clone()), "memory:", options(), clock::system());
    let table = lake.create("t", &new_table(&[])).await.unwrap();
    (store, lake, table)
}

fn commit_file(version: u64) -> Path {
    Path::from(format!("t/_delta_log/{version:020}.json"))
}

#[tokio::test]
async fn an_error_before_the_put_is_not_a_commit() {
    let (store, lake, table) = faulty().await;
    store.arm("_delta_log", Fault::Before);
    assert_eq!(append(&table, 0, 0, 10).await.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(table.reload().await.unwrap().version, 0);
    append(&table, 0, 0, 10).await.unwrap();
    assert_eq!(contents(&lake, &table).await, expected(0, 10));
}

#[tokio::test]
async fn a_lost_response_is_a_commit() {
    for fault in [Fault::After, Fault::AfterTaken] {
        let (store, lake, table) = faulty().await;
        store.arm("_delta_log", fault);
        append(&table, 0, 0, 10).await.unwrap();
        append(&table, 0, 10, 20).await.unwrap();
        assert_eq!(table.snapshot().version, 2, "{fault:?}");
        assert_eq!(contents(&lake, &table).await, expected(0, 20), "{fault:?}");
    }
}

#[tokio::test]
async fn a_commit_whose_fate_is_unknown_is_never_done_twice() {
    let (store, lake, table) = faulty().await;
    store.arm("_delta_log", Fault::AfterAndUnreadable(1));
    assert_eq!(append(&table, 0, 0, 10).await.unwrap_err().kind(), Kind::Unavailable);
    let again = append(&table, 0, 0, 10).await.unwrap_err();
    assert_eq!(again.kind(), Kind::Conflict, "our own lost commit does not fence us: {again:?}");
    assert_eq!(table.snapshot().txns[&app(0)], 10);
    assert_eq!(contents(&lake, &table).await, expected(0, 10));
}

#[tokio::test]
async fn taken_although_nothing_is_there_is_tried_again() {
    let (store, lake, table) = faulty().await;
    store.arm("_delta_log", Fault::Busy);
    append(&table, 0, 0, 10).await.unwrap();
    assert_eq!(contents(&lake, &table).await, expected(0, 10));
}

#[tokio::test]
async fn a_create_whose_answer_was_lost_made_the_table() {
    let store = Faulty::over(Arc::new(InMemory::new()));
    let lake = Lake::on_store(Arc::new(store.clone()), "memory:", options(), clock::system());
    store.arm("_delta_log", Fault::After);
    assert_eq!(lake.create("t", &new_table(&[])).await.unwrap().snapshot().version, 0);
    assert_eq!(lake.create("t", &new_table(&[])).await.unwrap().snapshot().version, 0, "idempotent");
    let other = lake.create("t", &new_table(&["origin"])).await.unwrap_err();
    assert_eq!(other.kind(), Kind::Conflict);
}

#[tokio::test]
async fn stale_progress_commits_nothing() {
    let (_, lake, table) = faulty().await;
    append(&table, 0, 0, 10).await.unwrap();
    for stale in [advance(0, 0, 20), advance(0, 5, 20), advance(0, 15, 20)] {
        let files = table.write(vec![rows(0, 10, 20)]).await.unwrap();
        let error = table.commit(commit_of(files, vec![stale])).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict);
    }
    assert_eq!(table.reload().await.unwrap().version, 1);
    assert_eq!(contents(&lake, &table).await, expected(0, 10));
}

#[tokio::test]
async fn a_writer_that_was_taken_over_is_fenced() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let lake = |_| Lake::on_store(store.clone(), "memory:", options(), clock::system());
    let (old, new) = (lake(0), lake(1));
    let zombie = old.create("t", &new_table(&[])).await.unwrap();
    append(&zombie, 0, 0, 10).await.unwrap();
    let owner = new.load("t", true).await.unwrap().unwrap();
    append(&owner, 0, 10, 20).await.unwrap();

    let error = append(&zombie, 0, 10, 30).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Fenced, "{error:?}");
    assert_eq!(append(&zombie, 0, 10, 30).await.unwrap_err().kind(), Kind::Fenced, "still");
    append(&zombie, 1, 0, 5).await.unwrap();
    assert_eq!(owner.reload().await.unwrap().txns[&app(1)], 5, "other partitions are not concerned");
    assert_eq!(owner.snapshot().txns[&app(0)], 20);
}

#[tokio::test]
async fn torn_commits_at_the_end_are_refused_by_name() {
    let (store, lake, table) = faulty().await;
    append(&table, 0, 0, 10).await.unwrap();
    let whole = store.get(&commit_file(1)).await.unwrap().bytes().await.unwrap();
    let line_end = whole.iter().position(|byte| *byte == b'\n').unwrap();
    for (what, torn) in [
        ("empty", whole.slice(..0)),
        ("cut", whole.slice(..whole.len() - 9)),
        ("cut at a line", whole.slice(..=line_end)),
    ] {
        store.put(&commit_file(2), torn.into()).await.unwrap();
        for error in [
            lake.load("t", true).await.unwrap_err(),
            table.reload().await.unwrap_err(),
            append(&table, 0, 10, 20).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), Kind::Corrupt, "{what}: {error:?}");
            assert!(error.to_string().contains(commit_file(2).as_ref()), "{what}: {error}");
            assert!(error.hint().is_some_and(|hint| hint.contains("move")), "{what}");
        }
    }
    store.delete(&commit_file(2)).await.unwrap();
    append(&lake.load("t", true).await.unwrap().unwrap(), 0, 10, 20).await.unwrap();
    // In the middle nothing can be moved away.
    store.put(&commit_file(1), "".into()).await.unwrap();
    let error = lake.load("t", true).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.hint().is_some_and(|hint| hint.contains("backup")));
    store.delete(&commit_file(1)).await.unwrap();
    assert_eq!(lake.load("t", true).await.unwrap_err().kind(), Kind::Corrupt, "a gap");
}

#[tokio::test]
async fn txn_actions_never_expire() {
    let (store, lake, table) = faulty().await;
    append(&table, 0, 0, 10).await.unwrap();
    let text = store.get(&commit_file(1)).await.unwrap().bytes().await.unwrap();
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert!(text.contains(r#"{"txn":{"appId":"tarn/t/0","version":10}}"#), "{text}");
    assert!(!text.contains("lastUpdated"));

    let expiring = || {
        BTreeMap::from([("delta.setTransactionRetentionDuration".to_owned(), "interval 1 day".to_owned())])
    };
    let mut new = new_table(&[]);
    new.properties = expiring();
    assert_eq!(lake.create("u", &new).await.unwrap_err().kind(), Kind::Invalid);
    let set = expiring().into_iter().map(|(key, value)| (key, Some(value))).collect();
    let refused = table.commit(Commit { properties: set, ..Commit::default() }).await;
    assert_eq!(refused.unwrap_err().kind(), Kind::Invalid);
}

#[tokio::test]
async fn the_first_commit_asks_for_reader_1_and_writer_2() {
    let (store, _, _) = faulty().await;
    let text = store.get(&commit_file(0)).await.unwrap().bytes().await.unwrap();
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert!(text.contains(r#"{"protocol":{"minReaderVersion":1,"minWriterVersion":2}}"#), "{text}");
    assert!(text.contains(r#"\"type\":\"timestamp\""#) && !text.contains("timestamp_ntz"), "{text}");
}

#[tokio::test]
async fn a_table_that_became_too_new_is_refused() {
    let (store, lake, table) = faulty().await;
    let newer = r#"{"protocol":{"minReaderVersion":3,"minWriterVersion":7,"readerFeatures":["deletionVectors"],"writerFeatures":["deletionVectors"]}}"#;
    store.put(&commit_file(1), newer.into()).await.unwrap();
    assert_eq!(table.reload().await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(lake.load("t", false).await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(append(&table, 0, 0, 10).await.unwrap_err().kind(), Kind::Invalid);
}

#[tokio::test]
async fn what_others_commit_is_taken_over_and_marked() {
    let (store, lake, table) = faulty().await;
    append(&table, 0, 0, 10).await.unwrap();
    let file = table.snapshot().files[0].path.to_string();
    let file = file.strip_prefix("t/").unwrap();
    let foreign = format!(
        "{{\"commitInfo\":{{\"engineInfo\":\"Apache-Spark/4.0\",\"operation\":\"DELETE\"}}}}\n{{\"remove\":{{\"path\":\"{file}\",\"deletionTimestamp\":1,\"dataChange\":true}}}}"
    );
    store.put(&commit_file(2), foreign.into()).await.unwrap();
    append(&table, 0, 10, 20).await.unwrap();
    let snapshot = table.snapshot();
    assert_eq!((snapshot.version, snapshot.foreign_version, snapshot.files.len()), (3, Some(2), 1));
    assert_eq!(contents(&lake, &table).await, expected(0, 20)[10..]);
    table.checkpoint().await.unwrap();
    let again = lake.load("t", true).await.unwrap().unwrap();
    assert_eq!(again.snapshot().foreign_version, Some(2), "outlives the checkpoint");
    assert_eq!(contents(&lake, &again).await, expected(0, 20)[10..]);
}

#[tokio::test]
async fn columns_can_be_added_and_only_that() {
    let (_, lake, table) = faulty().await;
    append(&table, 0, 0, 10).await.unwrap();
    let mut fields: Vec<Arc<Field>> = schema().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new("carrier", DataType::Utf8, true)));
    let wider = Arc::new(Schema::new(fields.clone()));
    let changed = table.commit(Commit { schema: Some(wider.clone()), ..Commit::default() }).await.unwrap();
    assert_eq!(changed.schema, wider);
    assert!(changed.statistics.min["carrier"].is_null(0), "not known for older files");
    append(&table, 0, 10, 20).await.unwrap();
    assert_eq!(contents(&lake, &table).await, expected(0, 20));
    assert_eq!(table.optimize().await.unwrap().removed_files, 2);
    assert_eq!(contents(&lake, &table).await, expected(0, 20));
    fields[1] = Arc::new(Field::new("_offset", DataType::Int32, false));
    let refused =
        table.commit(Commit { schema: Some(Arc::new(Schema::new(fields))), ..Commit::default() }).await;
    assert_eq!(refused.unwrap_err().kind(), Kind::Invalid);
}
