//! How far sketches may be from what they sketch.
//!
//! | sketch | bound |
//! |---|---|
//! | `approx_distinct` | HyperLogLog of 2^14 registers: merged states are the very registers of one pass, so the two answers are equal; both are within five standard errors of 0.81 % of the truth |
//! | `approx_percentile_cont`, `approx_median` | t-digest of 100 centroids: at the quantile q one covers at most 4 √(min(q, 1 - q) / 2) / 100 of the values; one pass and merged states are each within so many centroids of the rank |

use arrow::array::AsArray;
use arrow::datatypes::Float64Type;
use datafusion::common::ScalarValue;

/// What one column of a query is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sketch {
    /// A value of this rank, 0 to 1.
    Quantile(f64),
    /// A number of different values.
    Distinct,
}

/// The calls that sketch, and what gives the truth.
const CALLS: [(&str, &str, Sketch); 3] = [
    ("approx_percentile_cont(0.9) WITHIN GROUP (ORDER BY y)", "array_agg(y)", Sketch::Quantile(0.9)),
    ("approx_median(y)", "array_agg(y)", Sketch::Quantile(0.5)),
    ("approx_distinct(", "count(DISTINCT ", Sketch::Distinct),
];
const CENTROIDS: f64 = 100.0;
/// Centroids by which an answer may miss its rank: the one that it lies in, and one that was merged across it.
const MISSED_CENTROIDS: f64 = 2.0;
/// Ranks by which interpolation between two values may miss.
const MISSED_RANKS: f64 = 1.0;

/// Which columns of a query are sketches, and the same query with the truth in their place.
#[derive(Debug)]
pub(super) struct Sketches {
    columns: Vec<Option<Sketch>>,
    exact: Option<String>,
}

impl Sketches {
    /// Of the query `sql` with these columns.
    pub(super) fn of_query(sql: &str, columns: &[String]) -> Sketches {
        let sketch = |column: &String| {
            CALLS.iter().find(|(call, _, _)| column.starts_with(call)).map(|(_, _, sketch)| *sketch)
        };
        let columns: Vec<Option<Sketch>> = columns.iter().map(sketch).collect();
        let exact = CALLS.iter().fold(sql.to_owned(), |sql, (call, exact, _)| sql.replace(call, exact));
        Sketches { exact: (exact != sql).then_some(exact), columns }
    }

    /// What the column is.
    pub(super) fn of(&self, column: usize) -> Option<Sketch> {
        self.columns.get(column).copied().flatten()
    }

    /// The query of the truth, if there is a sketch.
    pub(super) fn exact(&self) -> Option<&str> {
        self.exact.as_deref()
    }
}

impl Sketch {
    /// Whether `a` and `b`, by states and by rows, may be answers where the truth is `exact`.
    pub(super) fn is_right(self, a: &ScalarValue, b: &ScalarValue, exact: &ScalarValue) -> bool {
        match (self, exact) {
            (Sketch::Distinct, ScalarValue::Int64(Some(exact))) => {
                let exact = *exact as f64;
                let close = |found: f64| (found - exact).abs() <= (5.0 * 0.0081 * exact).max(1.0);
                matches!(a, ScalarValue::UInt64(Some(found)) if a == b && close(*found as f64))
            }
            (Sketch::Quantile(q), ScalarValue::List(values)) => {
                let values = values.value(0);
                let values = values.as_primitive::<Float64Type>();
                let mut sorted: Vec<f64> = values.iter().flatten().collect();
                sorted.sort_by(f64::total_cmp);
                [a, b].into_iter().all(|found| match found {
                    ScalarValue::Float64(Some(found)) => is_near(*found, q, &sorted),
                    other => other.is_null() && sorted.is_empty(),
                })
            }
            (Sketch::Quantile(_), exact) => exact.is_null() && a.is_null() && b.is_null(),
            _ => false,
        }
    }
}

/// Whether `found` lies between values whose ranks are near enough to `q`.
fn is_near(found: f64, q: f64, sorted: &[f64]) -> bool {
    let n = sorted.len() as f64;
    let centroid = 4.0 * (q.min(1.0 - q) / 2.0).sqrt() / CENTROIDS;
    let missed = MISSED_CENTROIDS * centroid * n + MISSED_RANKS;
    let rank = q * (n - 1.0);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank is clamped to the values there are"
    )]
    let value = |rank: f64| sorted.get(rank.clamp(0.0, n - 1.0) as usize).copied();
    let (low, high) = (value((rank - missed).floor()), value((rank + missed).ceil()));
    low.is_some_and(|low| low - 1e-9 <= found) && high.is_some_and(|high| found <= high + 1e-9)
}
