use crate::fixture::Shop;

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_changes_what_tells_the_parts_apart_and_nothing_else() {
    let shop = Shop::open().await.with_views();
    shop.publish(0, 4);
    let apart = [
        "SELECT count(*) FROM lake.clicks",
        "SELECT count(*) FROM LIVE.Clicks",
        "SELECT * FROM lake.by_day",
        "WITH x AS (SELECT * FROM live.middle) SELECT * FROM clicks, x",
        "SELECT count(*) FROM lake.clicks VERSION AS OF 'clicks:0=2'",
        "SHOW TABLES",
        "SELECT boundary FROM information_schema.tables",
        "SHOW VIEWS",
        "EXPLAIN VIEW by_day",
        "EXPLAIN SELECT * FROM clicks",
    ];
    let whole = [
        "SELECT count(*) FROM clicks",
        "SELECT * FROM public.clicks, by_day, middle",
        "SELECT count(*) FROM clicks VERSION AS OF 'clicks:0=2'",
        "SELECT 1",
    ];
    let mut seen = Vec::new();
    for (sql, is_apart) in apart.iter().map(|sql| (sql, true)).chain(whole.iter().map(|sql| (sql, false))) {
        let reads = shop.engine.reads(sql).await.expect("a query");
        let sight = shop.engine.sight(&reads);
        assert_eq!(sight, shop.engine.sight(&reads), "{sql}: nothing has moved");
        seen.push((sql, is_apart, reads, sight));
    }
    shop.commit(|| ()).await;
    for (sql, is_apart, reads, sight) in &mut seen {
        let now = shop.engine.sight(reads);
        assert_eq!(now != *sight, *is_apart, "{sql}: after a commit");
        *sight = now;
    }
    shop.publish(0, 1);
    for (sql, _, reads, sight) in &seen {
        assert_ne!(shop.engine.sight(reads), *sight, "{sql}: after a record");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_query_of_a_view_changes_what_reads_it_and_nothing_else() {
    let shop = Shop::open().await.with_views();
    let view = shop.engine.views().get("by_day").expect("a view");
    for (sql, reads_it) in [
        ("SELECT * FROM BY_DAY", true),
        ("SELECT * FROM live.by_day", true),
        ("SELECT 1 WHERE EXISTS (SELECT * FROM by_day)", true),
        ("SHOW VIEWS", true),
        ("SELECT * FROM middle", false),
        ("SELECT * FROM clicks", false),
    ] {
        let reads = shop.engine.reads(sql).await.expect("a query");
        let own = shop.engine.sight(&reads);
        view.answer(Some("SELECT day, count(*) AS clicks FROM clicks GROUP BY day"));
        assert_eq!(shop.engine.sight(&reads) != own, reads_it, "{sql}");
        view.answer(None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_name_of_the_time_is_known_and_no_text_is_one() {
    let shop = Shop::open().await;
    for (sql, asks) in [
        ("SELECT now()", true),
        ("SELECT NOW ( ) - TIMESTAMP '2026-01-01' AS since", true),
        ("SELECT today()", true),
        ("SELECT * FROM clicks WHERE day < CAST(current_date AS VARCHAR)", true),
        ("SELECT CURRENT_TIMESTAMP", true),
        ("SELECT current_time()", true),
        ("WITH x AS (SELECT today() AS d) SELECT d FROM x", true),
        ("SHOW TABLES", true),
        ("SELECT 'now()' AS text", false),
        ("SELECT count(*) FROM clicks", false),
    ] {
        let reads = shop.engine.reads(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(reads.by_the_clock(), asks, "{sql}");
    }
}
