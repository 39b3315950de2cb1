//! The oracle: a view equals its `SELECT` over the raw rows at the same vector, whatever was cut, merged and stored before.
//!
//! Each case makes rows (NULLs, NaN, infinities, extreme numbers, Unicode, few and many keys), a definition from the grammar
//! of what is kept as states, a lake part, states in the lake (stored and restored), a chain of live states that was merged
//! here and there, and a vector; then it asks both ways. `TARN_VIEW_CASES` sets how many cases, `TARN_SEED` begins at one of
//! them: the seed of a failure is printed. A million: `TARN_VIEW_CASES=1000000 cargo test --release -p tarn-view oracle`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    StringViewArray, TimestampMicrosecondArray,
};
use arrow::datatypes::SchemaRef;
use datafusion::catalog::{MemTable, TableProvider};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder, col, lit};
use tarn_lake::{Advance, Commit, Lake, LakeOptions, LakeTable, NewTable};
use tarn_model::columns::Columns;
use tarn_model::{Boundary, OffsetRange, clock};
use tarn_table::scan::{Part, TableScan, sql_schema};
use tarn_table::{CutTable, Fragment};

use crate::definition::{Definition, Way};
use crate::hub::{BatchStates, ViewMoment};
use crate::live::{LiveStates, State};
use crate::planner::Planner;
use crate::scan::{Inputs, StatesScan};
use crate::split::Split;
use crate::stamp::Stamp;

const TOPIC_ID: &str = "00000000-0000-0000-0000-000000000001";
const COLUMNS: &str =
    "k VARCHAR, n INT, i BIGINT, x DOUBLE, y DOUBLE, b BOOLEAN, ts TIMESTAMP, d DECIMAL(12,2)";

struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(below.max(1)).expect("small")).expect("small")
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.roll(100) < percent
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.roll(of.len())]
    }

    fn int(&mut self, below: usize) -> i64 {
        i64::try_from(self.roll(below)).expect("small")
    }
}

fn rows(dice: &mut Dice, schema: &SchemaRef, partition: i32, from: i64, to: i64, keys: usize) -> RecordBatch {
    let n = usize::try_from(to - from).expect("small");
    let texts = ["", "a", "Ä", "日本", "a'b", "🦆", "z", "null"];
    let maybe = |dice: &mut Dice| dice.chance(85);
    let floats = [0.0, -0.0, 1.5, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e-300, 1e300, -7.25];
    let ints = [0, 1, -1, i64::MAX, i64::MIN, 42];
    let text = |dice: &mut Dice| {
        let base = *dice.pick(&texts);
        if keys > texts.len() { format!("{base}{}", dice.roll(keys)) } else { base.to_owned() }
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from(vec![partition; n])),
        Arc::new(Int64Array::from_iter_values(from..to)),
        Arc::new(TimestampMicrosecondArray::from_iter_values(from..to).with_timezone("UTC")),
        Arc::new((0..n).map(|_| maybe(dice).then(|| text(dice))).collect::<StringArray>()),
        Arc::new(
            (0..n)
                .map(|_| maybe(dice).then(|| i32::try_from(dice.roll(5)).expect("small")))
                .collect::<Int32Array>(),
        ),
        Arc::new(
            (0..n)
                .map(|_| {
                    maybe(dice).then(|| if dice.chance(10) { *dice.pick(&ints) } else { dice.int(200) - 100 })
                })
                .collect::<Int64Array>(),
        ),
        Arc::new((0..n).map(|_| maybe(dice).then(|| *dice.pick(&floats))).collect::<Float64Array>()),
        Arc::new(
            (0..n)
                .map(|_| maybe(dice).then(|| dice.int(20_000) as f64 / 16.0 - 300.0))
                .collect::<Float64Array>(),
        ),
        Arc::new((0..n).map(|_| maybe(dice).then(|| dice.chance(50))).collect::<BooleanArray>()),
        Arc::new(
            (0..n)
                .map(|_| maybe(dice).then(|| 1_700_000_000_000_000 + dice.int(40) * 600_000_000))
                .collect::<TimestampMicrosecondArray>()
                .with_timezone("UTC"),
        ),
        Arc::new(
            (0..n)
                .map(|_| maybe(dice).then(|| i128::from(dice.int(2_000_000) - 1_000_000)))
                .collect::<Decimal128Array>()
                .with_precision_and_scale(12, 2)
                .expect("a decimal"),
        ),
    ];
    RecordBatch::try_new(Arc::clone(schema), columns).expect("rows")
}

/// A definition, and which of its columns are sketches.
fn query(dice: &mut Dice) -> (String, Vec<bool>) {
    let joins = dice.chance(25);
    let mut keys = vec![
        "k",
        "n",
        "date_bin(INTERVAL '1 hour', ts)",
        "b",
        "upper(k)",
        "i % 3",
        "d",
        "CAST(ts AS DATE)",
        "_partition",
        "tumble(ts, INTERVAL '1 hour')",
        "tumble_end(ts, INTERVAL '25 minutes')",
        "hop(ts, INTERVAL '10 minutes', INTERVAL '1 hour')",
    ];
    if joins {
        keys.extend(["label", "label", "w % 2", "coalesce(label, k)", "n + w"]);
    }
    let aggregates = [
        "count(*)",
        "count(x)",
        "count(DISTINCT i)",
        "count(DISTINCT k)",
        "sum(i)",
        "sum(y)",
        "sum(d)",
        "sum(x)",
        "sum(n)",
        "avg(i)",
        "avg(y)",
        "avg(d)",
        "avg(n)",
        "min(i)",
        "max(i)",
        "max(k)",
        "min(k)",
        "min(ts)",
        "max(y)",
        "min(x)",
        "max(x)",
        "min(d)",
        "min(b)",
        "stddev(y)",
        "stddev_pop(y)",
        "var(y)",
        "var_pop(y)",
        "bool_and(b)",
        "bool_or(b)",
        "bit_and(i)",
        "bit_or(i)",
        "bit_xor(i)",
        "first_value(k ORDER BY ts)",
        "last_value(i ORDER BY y DESC)",
        "first_value(k)",
        "last_value(ts)",
        "last_value(k ORDER BY n, ts DESC)",
        "approx_distinct(k)",
        "approx_distinct(i)",
        "avg(y) * 2 + 1",
        "sum(y) / nullif(count(y), 0)",
        "coalesce(max(k), 'none')",
        "CASE WHEN count(*) > 3 THEN sum(n) ELSE min(n) END",
    ];
    let sketches = ["approx_percentile_cont(0.9) WITHIN GROUP (ORDER BY y)", "approx_median(y)"];
    let filters = ["b", "i > 0", "y < 10", "k IS NOT NULL", "n IN (1, 2)"];
    let joined_filters = ["label <> 'x'", "w IS NULL OR w < n", "b AND label IS NOT NULL", "i > 0"];
    let mut chosen: Vec<&str> = Vec::new();
    for _ in 0..dice.roll(4) {
        let key = *dice.pick(&keys);
        if !chosen.contains(&key) {
            chosen.push(key);
        }
    }
    let mut columns: Vec<String> =
        chosen.iter().enumerate().map(|(at, key)| format!("{key} AS c{at}")).collect();
    let mut sketch = vec![false; chosen.len()];
    for at in 0..1 + dice.roll(5) {
        let is_sketch = dice.chance(8);
        let plain = *dice.pick(if is_sketch { &sketches[..] } else { &aggregates[..] });
        let is_call = plain.ends_with(')') && !plain.starts_with("coalesce");
        let filter = if is_call && dice.chance(25) {
            format!(" FILTER (WHERE {})", dice.pick(&filters))
        } else {
            String::new()
        };
        columns.push(format!("{plain}{filter} AS c{}", chosen.len() + at));
        sketch.push(is_sketch);
    }
    let mut sql = format!("SELECT {} FROM t", columns.join(", "));
    if dice.chance(30) {
        sql += &format!(
            " WHERE {}",
            if joins { dice.pick(&joined_filters[..]) } else { dice.pick(&filters[..]) }
        );
    }
    if !chosen.is_empty() {
        sql += &format!(" GROUP BY {}", chosen.join(", "));
        if dice.chance(25) {
            sql += *dice.pick(&[" HAVING count(*) > 1", " HAVING min(y) < 0 OR max(n) > 2"]);
        }
        if dice.chance(20) {
            let order: Vec<String> = (0..chosen.len()).map(|at| format!("c{at}")).collect();
            sql += &format!(" ORDER BY {} LIMIT {}", order.join(", "), 1 + dice.roll(6));
        }
    }
    if joins {
        let kind = *dice.pick(&["JOIN", "JOIN", "LEFT JOIN"]);
        let on =
            *dice.pick(&["k = dk", "n = dn", "k = dk AND n = dn", "k = dk AND w > 2", "n = dn AND i < w"]);
        sql = sql.replacen(" FROM t", &format!(" FROM t {kind} d ON {on}"), 1);
    } else if dice.chance(15) {
        let inner = "SELECT k, n, i, x, y, b, ts, d, _partition, _offset FROM t WHERE n IS NOT NULL";
        sql = sql.replacen(" FROM t", &format!(" FROM ({inner}) AS t"), 1);
    }
    (sql, sketch)
}

/// A table to join with: keys that are there twice or not at all, NULLs, and rows that no row of `t` meets.
fn dimension(dice: &mut Dice) -> RecordBatch {
    let n = dice.roll(12);
    let texts = ["", "a", "Ä", "日本", "z", "nowhere"];
    let labels = ["x", "y", "z"];
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "dk",
            Arc::new(
                (0..n).map(|_| dice.chance(85).then(|| *dice.pick(&texts))).collect::<StringViewArray>(),
            ),
        ),
        (
            "dn",
            Arc::new(
                (0..n)
                    .map(|_| dice.chance(85).then(|| i32::try_from(dice.roll(7)).expect("small")))
                    .collect::<Int32Array>(),
            ),
        ),
        (
            "label",
            Arc::new(
                (0..n).map(|_| dice.chance(85).then(|| *dice.pick(&labels))).collect::<StringViewArray>(),
            ),
        ),
        ("w", Arc::new((0..n).map(|_| dice.chance(85).then(|| dice.int(6))).collect::<Int64Array>())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
        .expect("rows")
}

async fn memory_lake() -> Lake {
    let options = LakeOptions {
        target_file_bytes: 1 << 20,
        optimize_after_files: 100,
        checkpoint_after_commits: 1000,
        vacuum_retention: Duration::from_secs(3600),
        log_retention: Duration::from_secs(3600),
    };
    Lake::open("memory:", &BTreeMap::new(), options, clock::system()).await.expect("a lake")
}

async fn create(lake: &Lake, name: &str, schema: &SchemaRef) -> LakeTable {
    let properties = BTreeMap::from([("tarn.topic_uuid".to_owned(), TOPIC_ID.to_owned())]);
    let table = NewTable { schema: Arc::clone(schema), partition_by: Vec::new(), properties };
    lake.create(name, &table).await.expect("a table")
}

async fn commit(table: &LakeTable, rows: Vec<RecordBatch>, to: &Boundary) {
    let files = table.write(rows).await.expect("files");
    let known = table.snapshot();
    let advances = to.iter().filter_map(|(partition, next)| {
        let app_id = format!("tarn/{TOPIC_ID}/{partition}");
        let expected = known.txns.get(&app_id).copied();
        (expected.unwrap_or(0) < next).then_some(Advance { app_id, expected, to: next })
    });
    let commit = Commit { advances: advances.collect(), files, ..Commit::default() };
    table.commit(commit).await.expect("a commit");
}

/// A moment at or above `from` and at or below `upto`.
fn between(dice: &mut Dice, from: &Boundary, upto: &Boundary) -> Boundary {
    let span = |p: i32| usize::try_from(upto.next(p) - from.next(p)).expect("small") + 1;
    upto.iter().map(|(p, _)| (p, from.next(p) + dice.int(span(p)))).collect()
}

async fn case(seed: u64) {
    let mut dice = Dice(seed);
    let schema = Columns::parse(COLUMNS).expect("columns").table_schema(false);
    let (sql, sketch) = query(&mut dice);
    let keys = *dice.pick(&[1, 8, 8, 300]);
    let partitions = 1 + dice.int(3);
    let ends: Boundary = (0..partitions)
        .map(|p| (i32::try_from(p).expect("small"), *dice.pick(&[0, 1, 7, 60, 200]) + dice.int(3)))
        .collect();
    let all: BTreeMap<i32, RecordBatch> =
        ends.iter().map(|(p, end)| (p, rows(&mut dice, &schema, p, 0, end, keys))).collect();
    let slice = |from: &Boundary, to: &Boundary| -> Vec<RecordBatch> {
        all.iter()
            .map(|(p, rows)| tarn_table::fragment::slice_rows(rows, from.next(*p), to.next(*p)))
            .filter(|rows| rows.num_rows() > 0)
            .collect()
    };

    // The table: the lake up to `boundary` in one or two commits, fragments above it.
    let zero = Boundary::new();
    let lake = memory_lake().await;
    let table = create(&lake, "t", &schema).await;
    let boundary = between(&mut dice, &zero, &ends);
    let middle = between(&mut dice, &zero, &boundary);
    commit(&table, slice(&zero, &middle), &middle).await;
    commit(&table, slice(&middle, &boundary), &boundary).await;
    let mut tail = Vec::new();
    for (p, rows) in &all {
        let mut from = boundary.next(*p);
        while from < ends.next(*p) {
            let to = (from + 1 + dice.int(90)).min(ends.next(*p));
            let rows = tarn_table::fragment::slice_rows(rows, from, to);
            tail.push(Arc::new(Fragment::new(*p, OffsetRange::new(from, to), rows, None)));
            from = to;
        }
    }
    let cut = Arc::new(CutTable {
        name: "t".into(),
        schema: Arc::clone(&schema),
        dead_letters: false,
        lake: Some(table.snapshot()),
        boundary: boundary.clone(),
        tail,
        tail_bytes: 0,
    });

    let planner = Planner::new(lake.store(), 1 << 30).expect("a planner");
    let dimension = dimension(&mut dice);
    let columns = |name: &str| match name {
        "t" => Some(sql_schema(&schema)),
        _ => Some(dimension.schema()),
    };
    let definition = Definition::plan(&planner, "v", &sql, &columns).await;
    let definition = definition.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let split = match &definition.way {
        Way::States(split) => split,
        Way::Rows { reason } if reason.contains("by the keys of a join") => return,
        Way::Rows { reason } => panic!("{sql}: {reason}"),
    };
    let stamp = Stamp::now(&definition.plan_hash, None);
    let upto = between(&mut dice, &zero, &ends);

    // States in the lake, made in two steps and stored.
    let mut moment = ViewMoment::default();
    let batch_end = between(&mut dice, &zero, &boundary);
    if dice.chance(80) {
        let states = create(&lake, "v@v1", split.stored().schema()).await;
        let half = between(&mut dice, &zero, &batch_end);
        for (from, to) in [(&zero, &half), (&half, &batch_end)] {
            let made = make(&planner, split, &moment, &stamp, &cut, from, to).await;
            let stored = made.iter().map(|batch| split.stored().store(batch).expect("stored"));
            commit(&states, stored.collect(), to).await;
        }
        let mut batch = BatchStates {
            table: "v@v1".to_owned(),
            version: 1,
            snapshot: states.snapshot(),
            boundary: batch_end.clone(),
            stamp: stamp.clone(),
            cached: None,
        };
        if dice.chance(50) {
            let only = Inputs::states_only(split, Some(Arc::new(copy(&batch))), Vec::new());
            batch.cached = Some(only.reduced(&planner).await.expect("reduced"));
        }
        moment.batch = Some(Arc::new(batch));
    }
    // Live states from there on, or from somewhere else, in which case they may not be used.
    let mut live = LiveStates::new(stamp.clone());
    let mut from = if moment.batch.is_some() { batch_end.clone() } else { zero.clone() };
    if dice.chance(10) {
        from = between(&mut dice, &zero, &ends);
    }
    for _ in 0..dice.roll(14) {
        let to = between(&mut dice, &from, &ends);
        let step = if dice.chance(80) { nearer(&from, &to) } else { to };
        let made = make(&planner, split, &moment, &stamp, &cut, &from, &step).await;
        live.add(Arc::new(State::new(from, step.clone(), made))).expect("neighbours");
        from = step;
        if let Some(parts) = live.mergeable() {
            let merged =
                Inputs::states_only(split, None, parts.clone()).reduced(&planner).await.expect("merged");
            assert!(live.replace(&parts, merged));
        }
    }
    moment.live = Some(live);

    let inputs = Inputs::at(split, &moment, &stamp, &cut, &upto);
    let says = inputs.to_string();
    let rows = |name: &str| -> Option<Arc<dyn TableProvider>> {
        match name {
            "t" => Some(Arc::new(TableScan::new(Arc::clone(&cut), Part::Both, upto.clone())) as _),
            "d" => MemTable::try_new(dimension.schema(), vec![vec![dimension.clone()]])
                .ok()
                .map(|table| Arc::new(table) as _),
            _ => None,
        }
    };
    let inputs = inputs.joined_with(&rows).expect("a join over its tables");
    let by_states =
        definition.over_states(split, Arc::new(StatesScan::new(inputs)), &rows).expect("a plan over states");
    let by_rows = definition.over_rows(&rows).expect("a plan over rows");
    // A statement's own predicate on the first column, which may be a key.
    let predicate = match dice.roll(4) {
        0 => Some(col("c0").is_not_null()),
        1 => Some(col("c0").eq(lit(ScalarValue::Int64(Some(1))))),
        _ => None,
    };
    let predicate = predicate.filter(|_| {
        use arrow::datatypes::DataType;
        !matches!(
            definition.schema().field(0).data_type(),
            DataType::Utf8
                | DataType::Utf8View
                | DataType::Boolean
                | DataType::Date32
                | DataType::Timestamp(..)
        )
    });
    let context = format!("seed {seed}: {sql}\n  at {upto} over {says}, lake below {boundary}");
    let found = answer(&planner, by_states, predicate.clone(), &context).await;
    let wanted = answer(&planner, by_rows, predicate, &context).await;
    assert_eq!(found.len(), wanted.len(), "{context}\nfound  {found:?}\nwanted {wanted:?}");
    for (a, b) in found.iter().zip(&wanted) {
        for (at, (a, b)) in a.iter().zip(b).enumerate() {
            assert!(alike(a, b, sketch[at]), "{context}\n  c{at}: found {a:?}, wanted {b:?}");
        }
    }
}

/// At most 20 offsets further in each partition.
fn nearer(from: &Boundary, to: &Boundary) -> Boundary {
    to.iter().map(|(p, next)| (p, next.min(from.next(p) + 20))).collect()
}

fn copy(batch: &BatchStates) -> BatchStates {
    BatchStates {
        table: batch.table.clone(),
        version: batch.version,
        snapshot: Arc::clone(&batch.snapshot),
        boundary: batch.boundary.clone(),
        stamp: batch.stamp.clone(),
        cached: batch.cached.clone(),
    }
}

async fn make(
    planner: &Planner,
    split: &Arc<Split>,
    moment: &ViewMoment,
    stamp: &Stamp,
    cut: &Arc<CutTable>,
    from: &Boundary,
    to: &Boundary,
) -> Vec<RecordBatch> {
    Inputs::between(split, moment, stamp, cut, from, to).reduced(planner).await.expect("states")
}

/// Rows in the order of their text, without the digits in which floats may differ.
async fn answer(
    planner: &Planner,
    plan: LogicalPlan,
    predicate: Option<datafusion::logical_expr::Expr>,
    context: &str,
) -> Vec<Vec<ScalarValue>> {
    let mut plan = LogicalPlanBuilder::from(plan);
    if let Some(predicate) = predicate {
        plan = plan.filter(predicate).unwrap_or_else(|error| panic!("{context}: {error}"));
    }
    let plan = plan.build().expect("a plan");
    let physical = datafusion::catalog::Session::create_physical_plan(planner.state(), &plan).await;
    let physical = physical.unwrap_or_else(|error| panic!("{context}: {error}"));
    let batches = planner.run(physical).await.unwrap_or_else(|error| panic!("{context}: {error:?}"));
    let mut rows = Vec::new();
    for batch in batches {
        for at in 0..batch.num_rows() {
            let row: Vec<ScalarValue> = batch
                .columns()
                .iter()
                .map(|c| ScalarValue::try_from_array(c, at).expect("a value"))
                .collect();
            rows.push(row);
        }
    }
    rows.sort_by_key(|row| row.iter().map(sortable).collect::<Vec<_>>());
    rows
}

fn sortable(value: &ScalarValue) -> String {
    match value {
        ScalarValue::Float64(_) => String::new(),
        ScalarValue::Decimal128(value, _, _) => format!("{value:?}"),
        other => format!("{other:?}"),
    }
}

fn alike(a: &ScalarValue, b: &ScalarValue, is_sketch: bool) -> bool {
    match (a, b) {
        (ScalarValue::Float64(Some(a)), ScalarValue::Float64(Some(b))) => {
            let tolerance = if is_sketch { 150.0 } else { 1e-9 * a.abs().max(b.abs()).max(1.0) };
            a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance
        }
        // DataFusion's rewrite of one DISTINCT beside sums gives a decimal more digits than it declares.
        (ScalarValue::Decimal128(a, _, a_scale), ScalarValue::Decimal128(b, _, b_scale)) => {
            (a, a_scale) == (b, b_scale)
        }
        _ => a == b,
    }
}

#[tokio::test]
async fn a_view_is_its_query_over_the_rows_at_the_same_vector() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("TARN_SEED").unwrap_or(1);
    for seed in first..first + number("TARN_VIEW_CASES").unwrap_or(300) {
        case(seed).await;
    }
}

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
