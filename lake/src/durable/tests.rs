use object_store::ObjectStoreExt;

use super::*;

fn open() -> (tempfile::TempDir, DurableLocal) {
    let folder = tempfile::tempdir().unwrap();
    let store = DurableLocal::open(&folder.path().join("lake")).unwrap();
    store.disk.trace.lock().clear();
    (folder, store)
}

fn steps(store: &DurableLocal) -> Vec<String> {
    std::mem::take(&mut *store.disk.trace.lock())
}

fn create() -> PutOptions {
    PutOptions::from(PutMode::Create)
}

#[tokio::test]
async fn a_write_is_synced_before_its_name_and_its_name_before_it_returns() {
    let (_folder, store) = open();
    store.put_opts(&Path::from("t/_delta_log/0.json"), "x".into(), create()).await.unwrap();
    let expected = [
        "create dir t",
        "sync dir lake",
        "create dir _delta_log",
        "sync dir t",
        "sync file 0.json",
        "link 0.json",
        "sync dir _delta_log",
    ];
    assert_eq!(steps(&store), expected);
    store.put(&Path::from("t/_delta_log/1.json"), "x".into()).await.unwrap();
    assert_eq!(steps(&store), ["sync file 1.json", "rename 1.json", "sync dir _delta_log"]);
    let mut upload = store.put_multipart(&Path::from("t/a.parquet")).await.unwrap();
    upload.put_part("ab".into()).await.unwrap();
    upload.put_part("cd".into()).await.unwrap();
    assert!(store.get(&Path::from("t/a.parquet")).await.is_err(), "no name before it is whole");
    upload.complete().await.unwrap();
    assert_eq!(steps(&store), ["sync file a.parquet", "rename a.parquet", "sync dir t"]);
    let read = store.get(&Path::from("t/a.parquet")).await.unwrap().bytes().await.unwrap();
    assert_eq!(read.as_ref(), b"abcd");
}

#[tokio::test]
async fn of_two_creates_one_wins() {
    let (_folder, store) = open();
    let path = Path::from("t/0.json");
    let puts = (0..8).map(|i| store.put_opts(&path, format!("{i}").into(), create()));
    let won = futures::future::join_all(puts).await;
    assert_eq!(won.iter().filter(|put| put.is_ok()).count(), 1);
    let taken = |e: &object_store::Error| matches!(e, object_store::Error::AlreadyExists { .. });
    assert!(won.iter().filter_map(|put| put.as_ref().err()).all(taken));
    let left = fs::read_dir(store.file_path(&Path::from("t")).unwrap()).unwrap().count();
    assert_eq!(left, 1, "losers leave nothing");
}

#[tokio::test]
async fn an_aborted_upload_leaves_nothing() {
    let (_folder, store) = open();
    let mut upload = store.put_multipart(&Path::from("t/a")).await.unwrap();
    upload.put_part("ab".into()).await.unwrap();
    upload.abort().await.unwrap();
    assert!(upload.complete().await.is_err());
    drop(store.put_multipart(&Path::from("t/b")).await.unwrap());
    assert_eq!(fs::read_dir(store.file_path(&Path::from("t")).unwrap()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_sweep_spares_running_writes() {
    let (_folder, store) = open();
    let mut upload = store.put_multipart(&Path::from("t/k=1/a")).await.unwrap();
    let dir = store.file_path(&Path::from("t/k=1")).unwrap();
    fs::write(dir.join("b#1"), "half").unwrap();
    fs::write(dir.join("b#x"), "a name of its own").unwrap();
    assert_eq!(store.sweep(&Path::from("t")).await.unwrap(), 1);
    upload.complete().await.unwrap();
    assert!(dir.join("a").exists() && dir.join("b#x").exists() && !dir.join("b#1").exists());
    assert_eq!(store.sweep(&Path::from("absent")).await.unwrap(), 0);
}

#[tokio::test]
async fn listings_from_an_offset_are_in_order() {
    let (_folder, store) = open();
    for i in (0..30).rev() {
        store.put(&Path::from(format!("l/{i:02}")), "".into()).await.unwrap();
    }
    let listed: Vec<ObjectMeta> =
        store.list_with_offset(Some(&Path::from("l")), &Path::from("l/09")).try_collect().await.unwrap();
    let names: Vec<_> = listed.iter().map(|meta| meta.location.filename().unwrap().to_owned()).collect();
    assert_eq!(names, (10..30).map(|i| format!("{i:02}")).collect::<Vec<_>>());
}
