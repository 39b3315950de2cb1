use datafusion::common::ScalarValue;

use crate::fixture::{Shop, rows_of};

const RAW: &str =
    "SELECT day, count(*) AS clicks, sum(n) AS total, max(word) AS word FROM clicks GROUP BY day";

fn texts(rows: Vec<Vec<ScalarValue>>) -> Vec<String> {
    let mut rows: Vec<String> = rows.iter().map(|row| format!("{row:?}")).collect();
    rows.sort();
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_is_a_table_of_its_schema_at_the_statements_vector() {
    let shop = Shop::open().await.with_views();
    shop.publish(0, 10);
    shop.publish(1, 5);
    shop.commit(|| shop.publish(0, 4)).await;
    let seen = &shop;
    let rows = |sql: String| async move { texts(seen.rows(&sql, None).await.expect("an answer").1) };
    assert_eq!(rows("SELECT * FROM by_day".into()).await, rows(RAW.into()).await);
    assert_eq!(
        rows("SELECT * FROM BY_DAY WHERE day = '2026-01-02'".into()).await,
        rows(format!("SELECT * FROM ({RAW}) AS q WHERE day = '2026-01-02'")).await
    );
    let lake = RAW.replace("FROM clicks", "FROM lake.clicks");
    assert_eq!(rows("SELECT * FROM lake.by_day".into()).await, rows(lake).await);
    let live = RAW.replace("FROM clicks", "FROM live.clicks");
    assert_eq!(rows("SELECT * FROM live.by_day".into()).await, rows(live).await);
    let middle = "SELECT day, median(n) AS middle FROM clicks GROUP BY day";
    assert_eq!(rows("SELECT * FROM middle".into()).await, rows(middle.into()).await);
    let both = "SELECT (SELECT sum(clicks) FROM by_day), (SELECT count(*) FROM clicks)";
    assert_eq!(shop.numbers(both, None).await, [19, 19]);
    let as_of = "SELECT sum(clicks) FROM by_day VERSION AS OF 'clicks:0=3'";
    assert_eq!(shop.numbers(as_of, None).await, [3]);
    let vector = "clicks:0=12,1=1".parse().expect("a vector");
    assert_eq!(shop.numbers("SELECT sum(clicks) FROM by_day", Some(&vector)).await, [13]);
    rows_of(&shop.engine, "SELECT * FROM by_day VERSION AS OF 'clicks:0=99'", None)
        .await
        .expect_err("too far");
}

#[tokio::test(flavor = "multi_thread")]
async fn show_and_explain_say_how_a_view_is_kept() {
    let shop = Shop::open().await.with_views();
    shop.publish(0, 10);
    let (_, rows) = shop.rows("SHOW VIEWS", None).await.expect("an answer");
    let rows = texts(rows);
    assert_eq!(rows.len(), 3);
    assert!(rows[0].contains("by_day") && rows[0].contains("states"), "{}", rows[0]);
    assert!(rows[1].contains("middle") && rows[1].contains("rows"), "{}", rows[1]);
    assert!(rows[2].contains("nowhere") && rows[2].contains("`gone`"), "{}", rows[2]);
    let seen = &shop;
    let explain = |name: &'static str| async move {
        texts(seen.rows(&format!("EXPLAIN VIEW {name}"), None).await.expect("an answer").1).join("\n")
    };
    let by_day = explain("by_day").await;
    assert!(
        by_day.contains("states, in the lake and in memory") && by_day.contains("rows=[0, 0=10)"),
        "{by_day}"
    );
    let middle = explain("Middle;").await;
    assert!(middle.contains("states of `median` do not merge exactly"), "{middle}");
    let (_, tables) = shop.rows("SHOW TABLES", None).await.expect("an answer");
    let tables = texts(tables).join("\n");
    assert!(tables.contains("by_day") && !tables.contains("nowhere"), "{tables}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_cannot_be_planned_says_so_and_disturbs_nobody() {
    let shop = Shop::open().await.with_views();
    shop.publish(0, 3);
    let error =
        rows_of(&shop.engine, "SELECT * FROM nowhere", None).await.expect_err("its table is not there");
    assert!(error.to_string().contains("`gone`"), "{error}");
    let error = rows_of(&shop.engine, "EXPLAIN VIEW by_dya", None).await.expect_err("no such view");
    assert_eq!(error.hint(), Some("did you mean `by_day`?"));
    let error = rows_of(&shop.engine, "SELECT * FROM by_dya", None).await.expect_err("no such table");
    assert_eq!(error.hint(), Some("did you mean `by_day`?"));
    assert_eq!(shop.numbers("SELECT count(*) FROM clicks", None).await, [3]);
}
