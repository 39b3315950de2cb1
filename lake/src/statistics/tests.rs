use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, Decimal128Array, Float64Array, Int32Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{Int32Type, TimestampMicrosecondType};
use parquet::arrow::ArrowWriter;
use proptest::prelude::*;

use super::*;

fn stats_of(columns: Vec<(&str, ArrayRef)>) -> (Schema, String) {
    let rows = RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, array)| (name, array, true)),
    )
    .unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), None).unwrap();
    writer.write(&rows).unwrap();
    let metadata = writer.finish().unwrap();
    let unbounded: Vec<bool> = rows.columns().iter().map(|c| crate::writer::has_nan(c)).collect();
    (rows.schema().as_ref().clone(), of_file(&rows.schema(), &metadata, &unbounded).unwrap())
}

fn read(schema: &Schema, stats: &str) -> FileStatistics {
    let add = Add {
        path: "p".into(),
        partition_values: Default::default(),
        size: 1,
        modification_time: 0,
        data_change: true,
        stats: Some(stats.into()),
        deletion_vector: None,
    };
    FileStatistics::of_adds(schema, &[], &[add])
}

#[test]
fn floats_with_nan_or_infinity_are_not_bounded_wrongly() {
    let array = |values: Vec<f64>| Arc::new(Float64Array::from(values)) as ArrayRef;
    let (schema, stats) = stats_of(vec![
        ("plain", array(vec![1.5, -2.0])),
        ("nan", array(vec![1.0, f64::NAN])),
        ("infinite", array(vec![1.0, f64::INFINITY])),
    ]);
    let read = read(&schema, &stats);
    let known = |values: &HashMap<String, ArrayRef>, name: &str| values[name].is_valid(0);
    assert!(known(&read.min, "plain") && known(&read.max, "plain"));
    assert!(!known(&read.min, "nan") && !known(&read.max, "nan"));
    assert!(known(&read.min, "infinite") && !known(&read.max, "infinite"));
    assert_eq!(read.nulls["nan"].value(0), 0);
}

#[test]
fn statistics_keep_microseconds_decimals_and_nulls() {
    let us = 1_709_208_000_000_001;
    let (schema, stats) = stats_of(vec![
        ("t", Arc::new(TimestampMicrosecondArray::from(vec![us, us + 1]).with_timezone("UTC"))),
        (
            "d",
            Arc::new(Decimal128Array::from(vec![Some(-1230), None]).with_precision_and_scale(30, 2).unwrap()),
        ),
        ("none", Arc::new(Int32Array::from(vec![None, None]))),
    ]);
    assert!(stats.contains("\"2024-02-29T12:00:00.000001Z\"") && stats.contains("-12.30"), "{stats}");
    let read = read(&schema, &stats);
    assert_eq!(read.max["t"].as_primitive::<TimestampMicrosecondType>().value(0), us + 1);
    assert!(read.min["none"].is_null(0));
    assert_eq!((read.nulls["none"].value(0), read.nulls["d"].value(0), read.rows.value(0)), (2, 1, 2));
}

#[test]
fn statistics_that_cannot_be_read_are_not_known() {
    let schema = Schema::new(vec![Field::new("n", DataType::Int32, true)]);
    for stats in
        ["", "{", r#"{"numRecords":"x"}"#, r#"{"minValues":{"n":{"deep":1}},"maxValues":{"n":99999999999}}"#]
    {
        let read = read(&schema, stats);
        assert!(read.rows.is_null(0) && read.min["n"].is_null(0) && read.max["n"].is_null(0), "{stats}");
    }
    let read = read(&schema, r#"{"numRecords":3,"minValues":{"n":-7}}"#);
    assert_eq!((read.rows.value(0), read.min["n"].as_primitive::<Int32Type>().value(0)), (3, -7));
}

#[test]
fn only_the_first_32_columns_are_indexed() {
    let names: Vec<String> = (0..40).map(|i| format!("c{i}")).collect();
    let column = || Arc::new(Int32Array::from(vec![1])) as ArrayRef;
    let (schema, stats) = stats_of(names.iter().map(|name| (name.as_str(), column())).collect());
    let read = read(&schema, &stats);
    assert_eq!(read.min.values().filter(|min| min.is_valid(0)).count(), 32);
    assert!(read.min["c31"].is_valid(0) && read.min["c32"].is_null(0));
}

proptest! {
    #[test]
    fn cut_texts_still_bound_their_values(texts in prop::collection::vec("(?s).{0,40}|\u{10ffff}{30,80}", 1..6)) {
        let (schema, stats) = stats_of(vec![("s", Arc::new(StringArray::from(texts.clone())))]);
        let read = read(&schema, &stats);
        let (min, max) = (read.min["s"].as_string::<i32>(), read.max["s"].as_string::<i32>());
        for text in &texts {
            prop_assert!(min.is_null(0) || min.value(0) <= text.as_str());
            prop_assert!(max.is_null(0) || max.value(0) >= text.as_str());
        }
        for bound in [min, max] {
            prop_assert!(bound.is_null(0) || bound.value(0).chars().count() <= TEXT_CHARS);
        }
    }
}
