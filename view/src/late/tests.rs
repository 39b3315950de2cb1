use arrow::array::{ArrayRef, Int32Array, Int64Array, TimestampMicrosecondArray};
use proptest::prelude::*;
use tarn_model::OffsetRange;
use tarn_model::columns::Columns;
use tarn_table::Fragment;

use super::*;
use crate::oracle::memory_lake;

fn rule(window_us: i64, grace_us: i64) -> LateRule {
    let time = EventTime { column: "ts".to_owned(), allowed_lateness_us: 5, idle_after_us: 0, partitions: 2 };
    LateRule { time: Arc::new(time), window_us, grace_us }
}

/// A table that has decoded `[boundary, decoded)` of these event times.
fn table(times: &[&[Option<i64>]], boundary: &Boundary, decoded: &Boundary) -> Arc<CutTable> {
    let schema = Columns::parse("ts TIMESTAMP").expect("columns").table_schema(false);
    let mut tail = Vec::new();
    for (partition, times) in (0..).zip(times) {
        let (from, to) = (boundary.next(partition), decoded.next(partition));
        let at = |offset: i64| times[usize::try_from(offset).expect("small")];
        let utc = |times: Vec<Option<i64>>| TimestampMicrosecondArray::from(times).with_timezone("UTC");
        let n = usize::try_from(to - from).expect("small");
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int32Array::from(vec![partition; n])),
            Arc::new(Int64Array::from_iter_values(from..to)),
            Arc::new(utc(vec![Some(0); n])),
            Arc::new(utc((from..to).map(at).collect())),
        ];
        let rows = RecordBatch::try_new(Arc::clone(&schema), columns).expect("rows");
        tail.push(Arc::new(Fragment::new(partition, OffsetRange::new(from, to), rows, None)));
    }
    let (name, boundary) = ("t".into(), boundary.clone());
    Arc::new(CutTable { name, schema, dead_letters: false, lake: None, boundary, tail, tail_bytes: 0 })
}

fn ends(times: &[&[Option<i64>]]) -> Boundary {
    (0..).zip(times.iter().map(|times| i64::try_from(times.len()).expect("small"))).collect()
}

// The watermark is 120 after the first row: [100, 110) and what lies before has ended; with a grace of 10 what ended at 110 is closed,
// and what ended at 115 would not be.
const FIRST: [Option<i64>; 7] = [Some(125), Some(109), Some(110), None, Some(99), Some(131), Some(119)];
const SECOND: [Option<i64>; 3] = [Some(0), Some(5), Some(3)];

#[test]
fn a_row_is_late_when_its_partition_had_passed_its_window_and_the_grace() {
    let rows: [&[Option<i64>]; 2] = [&FIRST, &SECOND];
    let table = table(&rows, &Boundary::new(), &ends(&rows));
    for (window, grace, wanted) in [(10, 0, 4), (10, 10, 2), (10, 20, 1), (1_000, 0, 0)] {
        let mut late = LateRows::new(rule(window, grace));
        late.look(&table, None);
        late.look(&table, None);
        assert_eq!(late.above(&Boundary::new()), wanted, "nothing is counted twice");
    }
}

#[tokio::test]
async fn reading_rows_finds_what_looking_at_them_finds() {
    let lake = memory_lake().await;
    let planner = Planner::new(lake.store(), 64 << 20).expect("a planner");
    let rows: [&[Option<i64>]; 2] = [&FIRST, &SECOND];
    let (all, rule) = (ends(&rows), rule(10, 0));
    let whole = table(&rows, &Boundary::new(), &all);
    for first in 0..=7 {
        let middle = Boundary::from_iter([(0, first), (1, first.min(3))]);
        let mut newest = Newest::new();
        for (partition, rows) in table(&rows, &Boundary::new(), &middle).tail_batches() {
            rule.time.count_late(&mut newest, partition, rows, |at| at);
        }
        let mut looked = LateRows::new(rule.clone());
        looked.look(&whole, None);
        let looked = looked.between(&middle, &all).expect("all of it was looked at");
        let read = rule.read(&planner, &whole, newest, &middle, &all).await.expect("rows");
        let some = |late: Late| late.into_iter().filter(|(_, late)| *late > 0).collect::<Late>();
        assert_eq!(some(read), some(looked), "from {middle}");
    }
}

proptest! {
    #[test]
    fn a_count_is_the_same_wherever_it_is_cut(
        first in proptest::collection::vec(proptest::option::of(0_i64..200), 0..40),
        second in proptest::collection::vec(proptest::option::of(0_i64..200), 0..40),
        cuts in proptest::collection::vec((0_i64..=40, 0_i64..=40), 0..6),
    ) {
        let rows: [&[Option<i64>]; 2] = [&first, &second];
        let (all, zero) = (ends(&rows), Boundary::new());
        let mut whole = LateRows::new(rule(10, 3));
        whole.look(&table(&rows, &zero, &all), None);
        let mut late = LateRows::new(rule(10, 3));
        let (mut decoded, mut boundary, mut counted) = (zero.clone(), zero.clone(), 0);
        for (a, b) in cuts {
            decoded = decoded.join(&Boundary::from_iter([(0, a), (1, b)]).meet(&all));
            late.look(&table(&rows, &boundary, &decoded), Some(&boundary));
            // A commit somewhere in what was decoded.
            let to = boundary.join(&Boundary::from_iter([(0, b), (1, a)]).meet(&decoded));
            let more = late.between(&boundary, &to).expect("all of it was looked at");
            counted += more.values().sum::<u64>();
            boundary = to;
        }
        late.look(&table(&rows, &boundary, &all), Some(&boundary));
        prop_assert_eq!(counted + late.above(&boundary), whole.above(&zero));
        prop_assert_eq!(late.between(&zero, &all).is_some(), boundary.is_empty(), "what was forgotten is not told");
    }
}

#[tokio::test]
async fn a_window_counts_where_it_is_a_key_and_nowhere_else() {
    let lake = memory_lake().await;
    let planner = Planner::new(lake.store(), 64 << 20).expect("a planner");
    let schema = Columns::parse("ts TIMESTAMP, other TIMESTAMP, city VARCHAR").expect("columns");
    let schema = tarn_table::scan::sql_schema(&schema.table_schema(false));
    let minute = "INTERVAL '1 minute'";
    let since = "TIMESTAMP '2026-01-01 00:00:00'";
    for (sql, wanted) in [
        (format!("SELECT tumble(ts, {minute}) AS w, count(*) FROM t GROUP BY 1"), Some(60)),
        (format!("SELECT city, tumble_end(ts, {minute}) AS w, count(*) FROM t GROUP BY 1, 2"), Some(60)),
        (
            format!("SELECT hop(ts, {minute}, INTERVAL '3 minutes') AS w, count(*) FROM t GROUP BY 1"),
            Some(60),
        ),
        (format!("SELECT date_bin({minute}, ts) AS w, count(*) FROM t GROUP BY 1"), Some(60)),
        (
            format!(
                "SELECT w, count(*) FROM (SELECT tumble(ts, {minute}) AS w, city FROM t) AS s GROUP BY 1"
            ),
            Some(60),
        ),
        (
            format!(
                "SELECT w, count(*) FROM (SELECT hop(ts, {minute}, {minute}) AS w, city AS ts FROM t) AS s WHERE ts = 'a' GROUP BY 1"
            ),
            Some(60),
        ),
        // None of these is a window of the event time by which rows are grouped.
        (format!("SELECT city, count(*) FROM t WHERE tumble(ts, {minute}) >= {since} GROUP BY 1"), None),
        (format!("SELECT city, max(tumble(ts, {minute})) FROM t GROUP BY 1"), None),
        (
            format!(
                "SELECT city, max(w) FROM (SELECT tumble(ts, {minute}) AS w, city FROM t) AS s GROUP BY 1"
            ),
            None,
        ),
        (format!("SELECT tumble(other, {minute}) AS w, count(*) FROM t GROUP BY 1"), None),
        (
            format!(
                "SELECT tumble(ts, {minute}) AS w, count(*) FROM (SELECT other AS ts FROM t) AS s GROUP BY 1"
            ),
            None,
        ),
        // Its windows begin elsewhere.
        (format!("SELECT date_bin({minute}, ts, {since}) AS w, count(*) FROM t GROUP BY 1"), None),
    ] {
        let planned = crate::Definition::plan(&planner, "v", &sql, &|_| Some(Arc::clone(&schema))).await;
        let definition = planned.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let split = crate::View::split(&definition).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        assert_eq!(split.window_us("ts"), wanted.map(|seconds: i64| seconds * 1_000_000), "{sql}");
    }
}
