use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::datatypes::{DataType, Field, Schema};

use datafusion::common::ScalarValue;

use super::Key;
use crate::engine::Request;
use crate::fixture::{Shop, rows_of};

/// Statements so far that were begun with a plan that was made before.
fn before(shop: &Shop) -> u64 {
    shop.engine.statements().planned_before
}

const ASKED: [&str; 7] = [
    "SELECT count(*), sum(n), max(word) FROM clicks WHERE day = '2026-01-02' AND n > 3",
    "SELECT * FROM by_day WHERE day >= '2026-01-02' ORDER BY clicks DESC, day LIMIT 2",
    "SELECT day, total / clicks AS each FROM by_day ORDER BY day NULLS FIRST",
    "SELECT * FROM middle ORDER BY 1",
    "SELECT (SELECT sum(clicks) FROM by_day) AS a, (SELECT count(*) FROM clicks) AS b, (SELECT count(*) FROM lake.clicks) AS c",
    "SELECT c.word, v.clicks FROM live.clicks AS c JOIN by_day AS v ON v.day = c.day ORDER BY c.n DESC LIMIT 3",
    "SELECT count(*) FROM by_day WHERE clicks > (SELECT avg(clicks) FROM by_day)",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_made_before_answers_at_the_vector_of_its_own_statement() {
    let shop = Shop::open().await.with_views();
    for round in 0..6 {
        shop.publish(round % 2, 5 + i64::from(round));
        match round {
            2 => shop.commit(|| shop.publish(1, 3)).await,
            4 => {
                shop.commit(|| ()).await;
                shop.optimize().await;
            }
            _ => {}
        }
        for sql in ASKED {
            let known = before(&shop);
            let (vector, again) = rows_of(&shop.engine, sql, None).await.expect("an answer");
            assert_eq!(before(&shop), known + u64::from(round > 0), "{sql}, round {round}");
            // The same in words that nobody has used yet.
            let (same_vector, anew) =
                rows_of(&shop.engine, &format!("{sql} -- {round}"), None).await.expect("an answer");
            assert_eq!(before(&shop), known + u64::from(round > 0), "{sql} is new in round {round}");
            assert_eq!((vector, again), (same_vector, anew), "{sql}, round {round}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_reads_little_of_views_is_planned_briefly_until_it_reads_much() {
    let shop = Shop::open().await.with_views();
    shop.publish(0, 10);
    let is_brief = |sql: &str| {
        let request = Request { sql: sql.to_owned(), ..Request::default() };
        let plans = &shop.engine.shared.plans;
        let known = Key::of(&request).and_then(|key| plans.get(&key)).expect("it was asked before");
        known.reads_little.load(Ordering::Relaxed)
    };
    let of_states = "SELECT day, clicks FROM by_day WHERE day > '2026-01-01' ORDER BY 2 DESC, 1 LIMIT 3";
    for sql in ASKED.into_iter().chain([of_states]) {
        let mut answers = Vec::new();
        for _ in 0..3 {
            answers.push(rows_of(&shop.engine, sql, None).await.expect("an answer"));
        }
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{sql}: {answers:?}");
        assert_eq!(
            is_brief(sql),
            !["clicks WHERE day", ".clicks", "middle"].iter().any(|rows| sql.contains(rows)),
            "{sql}"
        );
    }
    // More rows than one stream is for.
    shop.publish(1, 200_000);
    let again = rows_of(&shop.engine, of_states, None).await.expect("an answer");
    let anew = rows_of(&shop.engine, &format!("{of_states} --"), None).await.expect("an answer");
    assert_eq!(again, anew);
    assert!(!is_brief(of_states));
}

/// Whether the way in which `sql` runs is kept.
fn runs_as_before(shop: &Shop, sql: &str) -> bool {
    let request = Request { sql: sql.to_owned(), ..Request::default() };
    let plans = &shop.engine.shared.plans;
    let known = Key::of(&request).and_then(|key| plans.get(&key)).expect("it was asked before");
    known.runs.get().is_some_and(Option::is_some)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_as_before_answers_as_if_it_were_planned_anew() {
    let shop = Shop::open().await.with_views();
    shop.publish(0, 10);
    let asked = [
        "SELECT day, clicks FROM by_day WHERE day > '2026-01-01' ORDER BY 2 DESC, 1 LIMIT 2 OFFSET 1",
        "SELECT clicks > 3 AS many, count(*), max(total) FROM by_day GROUP BY 1 ORDER BY 1",
        "SELECT sum(clicks) FROM (SELECT * FROM by_day WHERE day >= '2026-01-02')",
        "SELECT day, max(clicks) OVER (ORDER BY day) FROM by_day",
        "SELECT a.day, b.clicks FROM by_day AS a JOIN by_day AS b ON a.day = b.day",
        "SELECT day FROM by_day WHERE clicks = (SELECT max(clicks) FROM by_day)",
        "SELECT day FROM by_day WHERE day < CAST(now() AS VARCHAR)",
    ];
    for round in 0..8 {
        shop.publish(round % 2, 3 + 7 * i64::from(round % 3));
        match round {
            3 => shop.commit(|| shop.publish(1, 4)).await,
            // Much to read, so that all are planned as others are, and then little again.
            5 => shop.publish(0, 100_000),
            6 => shop.commit(|| ()).await,
            _ => {}
        }
        for sql in asked {
            let one = shop.rows(sql, None);
            // Two at a time have nothing of each other.
            let (one, other) = tokio::join!(one, shop.rows(sql, None));
            let anew = rows_of(&shop.engine, &format!("{sql} -- {round}"), None).await.expect("an answer");
            let sorted = |rows: Vec<Vec<ScalarValue>>| {
                let mut rows: Vec<String> = rows.iter().map(|row| format!("{row:?}")).collect();
                rows.sort();
                rows
            };
            let (one, other) = (sorted(one.expect("an answer").1), sorted(other.expect("an answer").1));
            assert_eq!(one, sorted(anew.1), "{sql}, round {round}");
            assert_eq!(one, other, "{sql}, round {round}");
        }
    }
    let kept: Vec<bool> = asked.iter().map(|sql| runs_as_before(&shop, sql)).collect();
    assert_eq!(
        kept,
        [true, true, true, false, false, false, false],
        "joins and windows may go on with what they began"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_part_of_what_was_asked() {
    let shop = Shop::open().await.with_views();
    shop.publish(0, 10);
    let sql = "SELECT count(*) FROM clicks WHERE n < $1";
    for (limit, count) in [(3, 3), (7, 7), (3, 3), (100, 10)] {
        let answer = shop.engine.query(sql, &[serde_json::json!(limit)], None).await.expect("an answer");
        let rows: Vec<_> = futures::TryStreamExt::try_collect(answer.rows).await.expect("rows");
        let counts = arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(rows[0].column(0));
        assert_eq!(counts.value(0), count);
    }
    assert_eq!(before(&shop), 1, "3 was asked twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_depends_on_more_than_its_tables_is_planned_each_time() {
    let shop = Shop::open().await.with_views();
    shop.publish(0, 10);
    for sql in [
        "SELECT count(*) FROM clicks WHERE n > random()",
        "SELECT count(*) FROM clicks VERSION AS OF 'clicks:0=4'",
        "EXPLAIN SELECT count(*) FROM clicks",
        "SHOW VIEWS",
        "SHOW TABLES",
        "SELECT table_name FROM information_schema.tables",
        "SELECT count(*) FROM generate_series(1, 10)",
    ] {
        for _ in 0..3 {
            rows_of(&shop.engine, sql, None).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        }
        assert_eq!(before(&shop), 0, "{sql}");
    }
    let vector = "clicks:0=4".parse().expect("a vector");
    for _ in 0..2 {
        assert_eq!(shop.numbers("SELECT count(*) FROM clicks", None).await, [10]);
        assert_eq!(shop.numbers("SELECT count(*) FROM clicks", Some(&vector)).await, [4]);
    }
    assert_eq!(before(&shop), 1);
    shop.rows("SELECT count(*) FROM clcks", None).await.expect_err("no such table");
    shop.rows("SELECT count(*) FROM clcks", None).await.expect_err("nor now");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_is_that_of_each_statement() {
    let shop = Shop::open().await.with_views();
    let asked = [
        "SELECT count(*) FROM clicks WHERE day < CAST(current_date AS VARCHAR) AND to_timestamp(n) < now() - INTERVAL '5 minutes'",
        "SELECT day, clicks FROM by_day WHERE day < CAST(now() AS VARCHAR) ORDER BY 1",
        "SELECT count(*) FROM clicks WHERE now() < TIMESTAMP '2020-01-01'",
        "SELECT count(*) FROM clicks WHERE n > (SELECT count(*) FROM by_day WHERE now() > TIMESTAMP '2020-01-01')",
        "SELECT current_timestamp > TIMESTAMP '2020-01-01' AS later, today() > DATE '2020-01-01' AS today, sum(n) FROM clicks GROUP BY 1, 2",
    ];
    for round in 0..4 {
        shop.publish(round % 2, 5 + i64::from(round));
        if round == 2 {
            shop.commit(|| shop.publish(1, 3)).await;
        }
        for sql in asked {
            let known = before(&shop);
            let again = rows_of(&shop.engine, sql, None).await.expect("an answer");
            assert_eq!(before(&shop), known + u64::from(round > 0), "{sql}, round {round}");
            let anew = rows_of(&shop.engine, &format!("{sql} -- {round}"), None).await.expect("an answer");
            assert_eq!(again, anew, "{sql}, round {round}");
        }
    }
    let sql = "SELECT CAST(now() AS BIGINT) FROM clicks LIMIT 1";
    let mut last = 0;
    for _ in 0..3 {
        let at = shop.numbers(sql, None).await[0];
        assert!(at > last, "the time stands still");
        last = at;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_other_columns_is_another_table() {
    let shop = Shop::open().await.with_views();
    shop.publish(0, 4);
    let sql = "SELECT * FROM clicks ORDER BY n";
    let (_, narrow) = shop.rows(sql, None).await.expect("rows");
    let mut fields = shop.hub.cut().tables["clicks"].schema.fields().to_vec();
    fields.push(Arc::new(Field::new("more", DataType::Int64, true)));
    shop.hub.set_schema("clicks", Arc::new(Schema::new(fields))).expect("a wider table");
    let (_, wide) = shop.rows(sql, None).await.expect("rows");
    assert_eq!((before(&shop), wide[0].len()), (0, narrow[0].len() + 1));
    shop.rows(sql, None).await.expect("rows");
    assert_eq!(before(&shop), 1, "and then it is known again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_is_kept_holds_on_to_no_rows() {
    let shop = Shop::open().await.with_views();
    shop.publish(0, 10);
    let tail = Arc::downgrade(&shop.hub.cut().tables["clicks"].tail[0]);
    for _ in 0..4 {
        for sql in ASKED {
            shop.rows(sql, None).await.expect("rows");
        }
    }
    assert!(runs_as_before(&shop, ASKED[1]));
    assert!(tail.upgrade().is_some());
    shop.commit(|| ()).await;
    assert!(tail.upgrade().is_none(), "rows that are in the lake are still in memory");
}
