//! Which queries are kept as states, which as rows, and which are refused.

use tarn_model::columns::Columns;
use tarn_table::scan::sql_schema;

use super::data::COLUMNS;
use super::memory_lake;
use crate::definition::{Definition, Way};
use crate::planner::Planner;

#[tokio::test]
async fn what_changes_from_call_to_call_is_refused() {
    let lake = memory_lake().await;
    let planner = Planner::new(lake.store(), 1 << 30).expect("a planner");
    let schema = sql_schema(&Columns::parse(COLUMNS).expect("columns").table_schema(false));
    for (sql, function) in [
        ("SELECT k, count(*) FROM t WHERE ts > now() GROUP BY k", "now()"),
        ("SELECT k, sum(random()) FROM t GROUP BY k", "random()"),
        ("SELECT k, count(*) FROM t GROUP BY k HAVING max(ts) < current_timestamp", "now()"),
        ("SELECT k FROM t WHERE n IN (SELECT n FROM t WHERE ts > now())", "now()"),
    ] {
        let refused = Definition::plan(&planner, "v", sql, &|_| Some(schema.clone())).await;
        let error = refused.expect_err(sql);
        assert!(error.to_string().contains(function), "{sql}: {error}");
    }
}

#[tokio::test]
async fn what_does_not_merge_is_kept_as_rows_and_says_why() {
    let lake = memory_lake().await;
    let planner = Planner::new(lake.store(), 1 << 30).expect("a planner");
    let schema = sql_schema(&Columns::parse(COLUMNS).expect("columns").table_schema(false));
    for (sql, why) in [
        ("SELECT k, median(y) FROM t GROUP BY k", "median"),
        ("SELECT k, array_agg(i ORDER BY ts) FROM t GROUP BY k", "array_agg"),
        ("SELECT k, sum(DISTINCT i) FROM t GROUP BY k", "DISTINCT"),
        ("SELECT k, i FROM t", "no aggregate"),
        (
            "SELECT b.k, sum(b.y + a.y) FROM t AS a JOIN u AS b ON a.i = b.i GROUP BY 1",
            "of more than one table",
        ),
        ("SELECT a.k, sum(b.y) FROM t AS a LEFT JOIN u AS b ON a.i = b.i GROUP BY 1", "have no match"),
        ("SELECT b.k, count(*) FROM t AS a FULL JOIN u AS b ON a.i = b.i GROUP BY 1", "have no match"),
        ("SELECT b.k, count(*) FROM t AS a JOIN u AS b ON a.y = b.y GROUP BY 1", "floating-point column `y`"),
        ("SELECT b.k, count(*) FROM t AS a CROSS JOIN u AS b GROUP BY 1", "no column of `t` joins it"),
        (
            "SELECT b.k, last_value(a.i ORDER BY a.n) FROM t AS a JOIN u AS b ON a.i = b.i GROUP BY 1",
            "identity",
        ),
        (
            "SELECT b.k, count(a.i) FROM t AS a JOIN u AS b ON a.i = b.i WHERE a.n IN (SELECT n FROM u) GROUP BY 1",
            "a subquery",
        ),
        ("SELECT b.k, median(a.y) FROM t AS a JOIN u AS b ON a.i = b.i GROUP BY 1", "median"),
        ("SELECT k, n, count(*) FROM t GROUP BY ROLLUP (k, n)", "several sets of keys"),
        ("SELECT n, count(*) FROM (SELECT DISTINCT k, n FROM t) AS q GROUP BY n", "DISTINCT"),
        ("SELECT k, count(*) FROM t WHERE i > (SELECT avg(i) FROM u) GROUP BY k", "a subquery"),
        ("SELECT k, first_value(i) FROM (SELECT k, i FROM t) AS q GROUP BY k", "identity"),
    ] {
        let planned = Definition::plan(&planner, "v", sql, &|_| Some(schema.clone())).await;
        match planned.unwrap_or_else(|error| panic!("{sql}: {error:?}")).way {
            Way::Rows { reason } => assert!(reason.contains(why), "{sql}: {reason}"),
            Way::States(_) => panic!("{sql} is kept as states"),
        }
    }
    // The inner aggregate is kept, the outer one runs over its answer; a dimension is joined above it, wherever it was written.
    for sql in [
        "SELECT a.k, count(*) FROM t AS a JOIN u AS b ON a.i = b.i GROUP BY a.k",
        "SELECT b.k, sum(a.y) FROM u AS b RIGHT JOIN t AS a USING (i) WHERE a.b AND b.n > 1 GROUP BY b.k",
        "SELECT c.k, count(a.y) FROM t AS a JOIN u AS b ON a.i = b.i LEFT JOIN u AS c ON b.n = c.n GROUP BY 1",
        "SELECT hop(a.ts, INTERVAL '1 hour', INTERVAL '2 hours'), b.k, max(a.y) FROM t AS a JOIN u AS b ON a.i = b.i GROUP BY 1, 2",
        "SELECT max(n) FROM (SELECT k, count(*) AS n FROM t GROUP BY k) AS q",
        "SELECT u.k, q.n FROM (SELECT n AS key, count(*) AS n FROM t GROUP BY n) AS q JOIN u ON u.n = q.key",
    ] {
        let planned = Definition::plan(&planner, "v", sql, &|_| Some(schema.clone())).await.expect(sql);
        assert!(matches!(planned.way, Way::States(_)), "{sql}: {:?}", planned.way);
    }
}
