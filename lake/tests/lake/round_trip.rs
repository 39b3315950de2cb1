//! What is committed is what is read, here and after a restart.

use crate::rows::*;

#[tokio::test]
async fn committed_rows_are_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    for by in [&[][..], &["origin"], &["_partition", "origin"]] {
        let root = folder.path().join(by.len().to_string());
        let lake = local(&root).await;
        let table = lake.create("flights", &new_table(by)).await.unwrap();
        append(&table, 0, 0, 100).await.unwrap();
        append(&table, 0, 100, 150).await.unwrap();
        let before = contents(&lake, &table).await;
        assert_eq!(before, expected(0, 150), "{by:?}");

        let again = local(&root).await;
        assert_eq!(again.table_names().await.unwrap(), ["flights"]);
        let table = again.load("flights", true).await.unwrap().unwrap();
        assert_eq!(contents(&again, &table).await, before, "{by:?}");
        let snapshot = table.snapshot();
        assert_eq!(snapshot.version, 2);
        assert_eq!(snapshot.txns[&app(0)], 150);
        assert_eq!(snapshot.schema, schema());
        assert_eq!(snapshot.properties["tarn.topic_uuid"], "t");
        assert_eq!(snapshot.foreign_version, None);
    }
}
