//! Rows of all kinds, and the dice that everything is thrown with.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    StringViewArray, TimestampMicrosecondArray,
};
use arrow::datatypes::SchemaRef;

pub(super) const COLUMNS: &str =
    "k VARCHAR, n INT, i BIGINT, x DOUBLE, y DOUBLE, b BOOLEAN, ts TIMESTAMP, d DECIMAL(12,2)";

/// A die that falls the same way for the same seed.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(below.max(1)).expect("small")).expect("small")
    }

    pub(super) fn chance(&mut self, percent: usize) -> bool {
        self.roll(100) < percent
    }

    pub(super) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.roll(of.len())]
    }

    pub(super) fn int(&mut self, below: usize) -> i64 {
        i64::try_from(self.roll(below)).expect("small")
    }
}

/// Rows `[from, to)` of one partition: NULLs, NaN, infinities, extreme numbers, Unicode; times in no order, so that most come
/// late.
pub(super) fn rows(
    dice: &mut Dice,
    schema: &SchemaRef,
    partition: i32,
    from: i64,
    to: i64,
    keys: usize,
) -> RecordBatch {
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

/// A table to join with: keys that are there twice or not at all, NULLs, and rows that no row of `t` meets.
pub(super) fn dimension(dice: &mut Dice) -> RecordBatch {
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
