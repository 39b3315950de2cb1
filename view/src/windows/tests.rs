use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use proptest::prelude::*;

use super::*;
use crate::error::from_datafusion;
use crate::functions::with_functions;

/// Timestamps before and after 1970, on and beside the edges of windows, and NULL.
const ROWS: &str = "WITH t AS (SELECT arrow_cast(column1, 'Timestamp(Microsecond, Some(\"UTC\"))') AS ts, column2 AS n \
    FROM (VALUES ('2026-01-01T00:00:00Z', 1), ('2026-01-01T00:04:59.999999Z', 2), ('2026-01-01T00:05:00Z', 3), \
    ('1969-12-31T23:59:59Z', 4), ('1970-01-01T00:00:00Z', 5), ('2026-01-01T00:17:00Z', 6), (NULL, 7)) AS v) ";

fn session() -> SessionContext {
    let mut config = SessionConfig::new();
    config.options_mut().execution.time_zone = Some("UTC".to_owned());
    let builder = SessionStateBuilder::new().with_default_features().with_config(config);
    SessionContext::new_with_state(with_functions(builder).build())
}

async fn ask(sql: &str) -> Result<Vec<String>, Error> {
    let sql = format!("{ROWS} {sql}");
    let batches: Vec<RecordBatch> =
        async { session().sql(&sql).await?.collect().await }.await.map_err(from_datafusion)?;
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches {
        let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options));
        let columns: Vec<_> = columns.collect::<Result<_, _>>().expect("columns that can be shown");
        for at in 0..batch.num_rows() {
            let row: Vec<String> = columns.iter().map(|column| column.value(at).to_string()).collect();
            rows.push(row.join(" "));
        }
    }
    rows.sort();
    Ok(rows)
}

async fn rows(sql: &str) -> Vec<String> {
    ask(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"))
}

proptest! {
    #[test]
    fn a_row_falls_into_exactly_the_windows_that_hold_it(
        at in prop_oneof![any::<i32>().prop_map(i64::from), -5_000_000_000_000_000_i64..5_000_000_000_000_000],
        slide in 1_i64..10_000,
        each in 1_i64..20,
    ) {
        let ticks = Ticks { slide, size: slide * each };
        let edge = DataType::Int64;
        let found = hops(&Int64Array::from(vec![at]), ticks, &edge).expect("windows");
        let found = found.as_list::<i32>().value(0);
        let found = found.as_primitive::<Int64Type>().values().to_vec();
        // Every aligned start near the row, asked one by one.
        let near = (at.div_euclid(slide) - each - 2)..=(at.div_euclid(slide) + 2);
        let wanted: Vec<i64> = near.map(|n| n * slide).filter(|start| *start <= at && at < start + slide * each).collect();
        prop_assert_eq!(&found, &wanted);
        prop_assert_eq!(found.last().copied(), Some(ticks.last(at)));
    }
}

#[test]
fn the_ends_of_time_are_edges() {
    let ticks = Ticks { slide: 1_000, size: 3_000 };
    assert_eq!(ticks.last(i64::MIN), i64::MIN);
    assert_eq!(ticks.last(i64::MAX) % 1_000, 0);
    hops(&Int64Array::from(vec![i64::MIN, i64::MAX]), ticks, &DataType::Int64).expect("no overflow");
}

#[tokio::test]
async fn tumble_is_date_bin_from_the_epoch_and_ends_where_the_next_begins() {
    for size in ["5 minutes", "1 hour", "7 days", "1 day 30 minutes", "1 millisecond"] {
        let bin = format!("date_bin(INTERVAL '{size}', ts)");
        let sql = format!(
            "SELECT count(*) FROM t WHERE (tumble(ts, INTERVAL '{size}') IS DISTINCT FROM {bin}) \
             OR tumble_end(ts, INTERVAL '{size}') IS DISTINCT FROM ({bin} + INTERVAL '{size}')"
        );
        assert_eq!(rows(&sql).await, ["0"], "{size}");
    }
    assert_eq!(
        rows("SELECT tumble_end(DATE '2026-01-01', INTERVAL '12 hours')").await,
        ["2026-01-01T12:00:00Z"]
    );
}

#[tokio::test]
async fn hop_as_a_key_counts_a_row_in_each_of_its_windows() {
    for (slide, size) in [(5, 15), (5, 5), (1, 60), (20, 40)] {
        let hop = format!("hop(ts, INTERVAL '{slide} minutes', INTERVAL '{size} minutes')");
        let found = rows(&format!(
            "SELECT {hop} AS w, count(*), sum(n) FROM t WHERE ts > '2000-01-01' GROUP BY {hop}"
        ))
        .await;
        // By comparing each row with each window of that day.
        let wanted = rows(&format!(
            "SELECT w, count(*), sum(n) FROM t JOIN (SELECT arrow_cast(value, 'Timestamp(Microsecond, Some(\"UTC\"))') AS w \
             FROM generate_series(TIMESTAMP '2025-12-31T00:00:00', TIMESTAMP '2026-01-02T00:00:00', INTERVAL '{slide} minutes')) AS s \
             ON ts >= w AND ts < w + INTERVAL '{size} minutes' GROUP BY w"
        ))
        .await;
        assert_eq!(found, wanted, "{slide}, {size}");
    }
    // NULL is in one window, NULL; by position, with HAVING, ORDER BY and an expression over the key.
    let hop = "hop(ts, INTERVAL '5 minutes', INTERVAL '10 minutes')";
    let counted = rows(&format!(
        "SELECT {hop}, {hop} + INTERVAL '10 minutes' AS until, count(*) FROM t GROUP BY 1, 2 \
         HAVING count(*) > 1 OR {hop} IS NULL ORDER BY {hop} LIMIT 9"
    ))
    .await;
    assert_eq!(
        counted,
        [
            "1969-12-31T23:55:00Z 1970-01-01T00:05:00Z 2",
            "2025-12-31T23:55:00Z 2026-01-01T00:05:00Z 2",
            "2026-01-01T00:00:00Z 2026-01-01T00:10:00Z 3",
            "NULL NULL 1"
        ]
    );
}

#[tokio::test]
async fn hop_in_a_select_list_makes_a_row_for_each_window() {
    let hop = "hop(ts, INTERVAL '5 minutes', INTERVAL '15 minutes')";
    assert_eq!(rows(&format!("SELECT count(*) FROM (SELECT {hop} AS w FROM t) AS q")).await, ["19"]);
    assert_eq!(
        rows(&format!("SELECT w, n FROM (SELECT n, {hop} AS w FROM t) AS q WHERE n = 3")).await,
        ["2025-12-31T23:55:00Z 3", "2026-01-01T00:00:00Z 3", "2026-01-01T00:05:00Z 3"]
    );
}

#[tokio::test]
async fn a_comparison_with_the_start_of_a_window_becomes_one_of_the_timestamp() {
    let plan = async |condition: &str| {
        let sql = format!("SELECT n FROM t WHERE tumble(ts, INTERVAL '1 hour') {condition}");
        let frame = session().sql(&format!("{ROWS} {sql}")).await.expect("a plan");
        format!("{}", frame.into_optimized_plan().expect("optimized").display_indent())
    };
    let pruned = plan("= '2026-01-01T00:00:00Z'").await;
    assert!(!pruned.contains("tumble("), "{pruned}");
    let not_an_edge = plan(">= '2026-01-01T00:00:01Z'").await;
    assert!(not_an_edge.contains("tumble("), "{not_an_edge}");
    for condition in ["=", "<>", "<", "<=", ">", ">="] {
        for start in ["2026-01-01T00:00:00Z", "1969-12-31T23:00:00Z", "2026-01-01T00:00:01Z"] {
            let asked = |side: &str| format!("SELECT n FROM t WHERE {side} {condition} '{start}'");
            let tumbled = rows(&asked("tumble(ts, INTERVAL '1 hour')")).await;
            assert_eq!(tumbled, rows(&asked("date_bin(INTERVAL '1 hour', ts)")).await, "{condition} {start}");
        }
    }
}

#[tokio::test]
async fn wrong_use_is_refused_with_what_to_do() {
    let cases = BTreeMap::from([
        (
            "tumble(ts, CASE WHEN n > 2 THEN INTERVAL '1 hour' ELSE INTERVAL '2 hours' END)",
            "must be a constant interval",
        ),
        ("tumble(ts, '1 hour')", "must be a constant interval"),
        ("tumble(ts, INTERVAL '1 month')", "must be fixed, and months are not"),
        ("tumble(ts, INTERVAL '-1 hour')", "must be longer than zero"),
        ("tumble(ts, INTERVAL '0 hours')", "must be longer than zero"),
        ("tumble(ts, INTERVAL '1 nanosecond')", "is finer than its timestamps"),
        ("tumble(n, INTERVAL '1 hour')", "takes a TIMESTAMP or a DATE"),
        ("hop(ts, INTERVAL '2 minutes', INTERVAL '5 minutes')", "must be a multiple of its slide"),
        ("hop(ts, INTERVAL '10 minutes', INTERVAL '5 minutes')", "must be a multiple of its slide"),
        ("hop(ts, INTERVAL '1 second', INTERVAL '1 hour')", "at most 512 windows"),
        ("hop(ts, INTERVAL '1 minute', INTERVAL '1 year')", "months are not"),
        ("hop(ts, INTERVAL '1 minute')", "takes 3 arguments"),
    ]);
    for (call, message) in cases {
        let error = ask(&format!("SELECT {call}, count(*) FROM t GROUP BY 1")).await.expect_err(call);
        assert!(error.to_string().contains(message), "{call}: {error}");
    }
    let hop = "hop(ts, INTERVAL '5 minutes', INTERVAL '15 minutes')";
    let other = "hop(ts, INTERVAL '5 minutes', INTERVAL '10 minutes')";
    for (sql, message) in [
        (format!("SELECT n FROM t WHERE {hop} > '2026-01-01'"), "in WHERE"),
        (format!("SELECT count(DISTINCT {hop}) FROM t"), "in an aggregate function"),
        (format!("SELECT a.n FROM t AS a JOIN t AS b ON {} = b.ts", hop.replace("ts", "a.ts")), "join"),
        (format!("SELECT {hop}, {other}, count(*) FROM t GROUP BY 1, 2"), "more than one `hop`"),
    ] {
        let error = ask(&sql).await.expect_err(&sql);
        assert!(error.to_string().contains(message), "{sql}: {error}");
        assert!(error.hint().is_some(), "{sql}");
    }
}
