use arrow::array::{Float64Array, Int64Array, StructArray, builder::ListBuilder, builder::StringBuilder};
use arrow::datatypes::Schema;

use super::*;

fn text(values: ArrayRef) -> Vec<Option<String>> {
    let schema = Schema::new(vec![Field::new("a", values.data_type().clone(), true)]);
    let batch = RecordBatch::try_new(Arc::new(schema), vec![values]).expect("a batch");
    let rows = Rows::new(&batch).expect("rows");
    let mut out = BytesMut::new();
    let value = |row| {
        rows.text(0, row, &mut out).expect("a text").map(|text| String::from_utf8_lossy(text).into_owned())
    };
    (0..batch.num_rows()).map(value).collect()
}

fn binary(values: ArrayRef) -> Vec<u8> {
    let rows = Values::new(&Field::new("a", values.data_type().clone(), true), &values).expect("values");
    let mut out = BytesMut::new();
    rows.write_binary(0, &mut out).expect("a value");
    out.to_vec()
}

#[test]
fn floats_are_the_shortest_text_with_postgres_exponents() {
    let values =
        Float64Array::from(vec![1.0, 0.1, 1e15, 123_456.5, 1e-5, 0.0001, f64::NAN, f64::NEG_INFINITY]);
    let expected = ["1", "0.1", "1e+15", "123456.5", "1e-05", "0.0001", "NaN", "-Infinity"];
    assert_eq!(text(Arc::new(values)), expected.map(|text| Some(text.to_owned())));
}

#[test]
fn times_are_written_as_postgres_does() {
    let us = |us: Vec<i64>| Arc::new(arrow::array::TimestampMicrosecondArray::from(us).with_timezone("UTC"));
    let expected = ["1970-01-01 00:00:00+00", "2024-02-29 12:34:56.7+00", "1969-12-31 23:59:59.999999+00"];
    let times = text(us(vec![0, 1_709_210_096_700_000, -1]));
    assert_eq!(times, expected.map(|text| Some(text.to_owned())));
    assert_eq!(binary(us(vec![EPOCH_US + 5])), 5_i64.to_be_bytes());
    let years = arrow::array::Date32Array::from(vec![-719_162, -719_163, 2_932_896]);
    let expected = ["0001-01-01", "0001-12-31 BC", "9999-12-31"];
    assert_eq!(text(Arc::new(years)), expected.map(|text| Some(text.to_owned())));
}

#[test]
fn intervals_name_their_units() {
    let of = |months, days, nanoseconds| IntervalMonthDayNano { months, days, nanoseconds };
    let values = vec![of(14, -3, 14_706_700_000_000), of(0, 0, 0), of(0, 1, 0), of(0, 0, -1_000_000_000)];
    let expected = ["1 year 2 mons -3 days 04:05:06.7", "00:00:00", "1 day", "-00:00:01"];
    let values = arrow::array::IntervalMonthDayNanoArray::from(values);
    assert_eq!(text(Arc::new(values)), expected.map(|text| Some(text.to_owned())));
}

#[test]
fn numbers_go_in_groups_of_four_digits() {
    let of = |value: i128, scale| {
        Arc::new(Decimal128Array::from(vec![value]).with_precision_and_scale(38, scale).expect("a decimal"))
    };
    assert_eq!(binary(of(123_456_789, 4)), [0, 3, 0, 1, 0, 0, 0, 4, 0, 1, 0x09, 0x29, 0x1a, 0x85]);
    assert_eq!(binary(of(-5, 1)), [0, 1, 0xff, 0xff, 0x40, 0, 0, 1, 0x13, 0x88]);
    assert_eq!(binary(of(0, 2)), [0, 0, 0, 0, 0, 0, 0, 2]);
    assert_eq!(binary(of(10_000, 0)), [0, 1, 0, 1, 0, 0, 0, 0, 0, 1]);
    assert_eq!(text(of(-5, 2)), [Some("-0.05".to_owned())]);
}

#[test]
fn arrays_quote_what_would_be_read_otherwise() {
    let mut list = ListBuilder::new(StringBuilder::new());
    for item in [Some("a"), Some("b c"), None, Some("null"), Some("x\"y\\"), Some("")] {
        list.values().append_option(item);
    }
    list.append(true);
    list.append(false);
    let values: ArrayRef = Arc::new(list.finish());
    assert_eq!(text(values), [Some(r#"{a,"b c",NULL,"null","x\"y\\",""}"#.to_owned()), None]);
}

#[test]
fn what_has_no_type_there_is_json() {
    let field = |name: &str| Arc::new(Field::new(name, DataType::Int64, true));
    let one: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let values: ArrayRef = Arc::new(StructArray::from(vec![(field("a"), one.clone()), (field("b"), one)]));
    assert_eq!(text(values), [Some(r#"{"a":1,"b":1}"#.to_owned())]);
}
