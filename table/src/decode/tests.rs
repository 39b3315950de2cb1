use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use proptest::prelude::*;
use tarn_model::columns::TIMESTAMP;

use super::*;

/// A record that a test makes up.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample {
    offset: Offset,
    timestamp_ms: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
}

impl Record for Sample {
    fn offset(&self) -> Offset {
        self.offset
    }

    fn timestamp_ms(&self) -> i64 {
        self.timestamp_ms
    }

    fn key(&self) -> Option<&[u8]> {
        self.key.as_deref()
    }

    fn value(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }

    fn headers(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), Some(value.as_slice())))
    }
}

pub(super) fn record(offset: usize, value: &[u8]) -> Sample {
    let offset = Offset::try_from(offset).expect("a small number");
    Sample { offset, timestamp_ms: 1_000, value: Some(value.to_vec()), ..Sample::default() }
}

fn format_of(columns: &str) -> TableFormat {
    let columns = Columns::parse(columns).expect("columns");
    TableFormat { columns, unknown_fields: UnknownFields::Keep, timezone: None, record: Default::default() }
}

fn decode(format: &TableFormat, records: Vec<Sample>) -> Decoded {
    let mut decoder = Decoder::new(format).expect("decoder");
    decoder.decode_each(3, records.into_iter(), &|_| false).expect("decoded")
}

fn decode_values(format: &TableFormat, values: &[&str]) -> Decoded {
    decode(format, values.iter().enumerate().map(|(at, value)| record(at, value.as_bytes())).collect())
}

/// Column `name` as text, NULL as `NULL`; a timestamp in UTC.
fn shown(batch: &RecordBatch, name: &str) -> Vec<String> {
    let column = batch.column_by_name(name).unwrap_or_else(|| panic!("a column `{name}`"));
    let options = arrow::util::display::FormatOptions::default().with_null("NULL");
    let formatter = arrow::util::display::ArrayFormatter::try_new(column, &options).expect("formatter");
    (0..column.len()).map(|row| formatter.value(row).to_string()).collect()
}

/// What `TYPE` makes of a JSON value: the cell, or the reason of its dead letter.
fn cell(column_type: &str, json: &str) -> String {
    cell_in(&format_of(&format!("a {column_type}")), json)
}

fn cell_in(format: &TableFormat, json: &str) -> String {
    let decoded = decode_values(format, &[&format!("{{\"a\":{json}}}")]);
    match decoded.dead {
        None => shown(&decoded.rows, "a").remove(0),
        Some(dead) => {
            assert_eq!(shown(&dead, "field"), ["a"]);
            shown(&dead, "reason").remove(0)
        }
    }
}

#[test]
fn each_type_takes_what_it_holds_exactly() {
    for (column_type, json, expected) in [
        ("INT", "7", "7"),
        ("INT", "-2147483648", "-2147483648"),
        ("INT", "\" 7 \"", "7"),
        ("INT", "\"+7\"", "7"),
        ("INT", "3.0", "3"),
        ("INT", "1.2e3", "1200"),
        ("INT", "1000e-3", "1"),
        ("INT", "0e999999999999", "0"),
        ("BIGINT", "9223372036854775807", "9223372036854775807"),
        ("BIGINT", "9007199254740993.0", "9007199254740993"),
        ("BIGINT", "-9223372036854775808", "-9223372036854775808"),
        ("TINYINT", "-128", "-128"),
        ("SMALLINT", "32767", "32767"),
        ("DECIMAL(38,0)", "99999999999999999999999999999999999999", "99999999999999999999999999999999999999"),
        ("DECIMAL(10,2)", "12.3", "12.30"),
        ("DECIMAL(10,2)", "\"-0.10\"", "-0.10"),
        ("DECIMAL(10,2)", "1.230000000000000000000000000000000000000000000000000", "1.23"),
        ("DECIMAL(10,2)", "123e-2", "1.23"),
        ("DECIMAL(3,2)", "9.99", "9.99"),
        ("DOUBLE", "0.1", "0.1"),
        ("DOUBLE", "\"NaN\"", "NaN"),
        ("DOUBLE", "\"-Infinity\"", "-inf"),
        ("DOUBLE", "1e-400", "0.0"),
        ("REAL", "0.5", "0.5"),
        ("BOOLEAN", "true", "true"),
        ("BOOLEAN", "\"F\"", "false"),
        ("BOOLEAN", "\"True\"", "true"),
        ("BOOLEAN", "1", "true"),
        ("BOOLEAN", "\"0\"", "false"),
        ("DATE", "\"2024-02-29\"", "2024-02-29"),
        ("DATE", "\"0001-01-01\"", "0001-01-01"),
        ("TIMESTAMP", "\"2013-01-01T05:00:00Z\"", "2013-01-01T05:00:00Z"),
        ("TIMESTAMP", "\"2013-01-01 05:00\"", "2013-01-01T05:00:00Z"),
        ("TIMESTAMP", "\"2013-01-01\"", "2013-01-01T00:00:00Z"),
        ("TIMESTAMP", "\"2013-01-01t05:00:00.123456000+0530\"", "2012-12-31T23:30:00.123456Z"),
        ("TIMESTAMP", "\"2013-01-01 05:00:00,5 -02\"", "2013-01-01T07:00:00.500Z"),
        ("TIMESTAMP", "\"2013-01-01 05:00:00 UTC\"", "2013-01-01T05:00:00Z"),
        ("TIMESTAMP", "\"9999-12-31T23:59:59.999999Z\"", "9999-12-31T23:59:59.999999Z"),
        ("VARCHAR", "\"a\\u00e4\\ud83d\\ude00\\n\\/\"", "aä😀\n/"),
        ("VARCHAR", "1.50", "1.50"),
        ("VARCHAR", "true", "true"),
        ("VARCHAR", "{\"b\": [1, 2]}", "{\"b\": [1, 2]}"),
        ("VARCHAR", "\"\"", ""),
        ("BINARY", "\"AP8=\"", "00ff"),
        ("BINARY", "\"AP8\"", "00ff"),
        ("BINARY", "\"\"", ""),
        ("INT", "null", "NULL"),
        ("VARCHAR", "null", "NULL"),
    ] {
        assert_eq!(cell(column_type, json), expected, "{column_type} of {json}");
    }
}

#[test]
fn what_a_type_does_not_hold_exactly_is_a_dead_letter_with_the_reason() {
    for (column_type, json, why) in [
        ("INT", "2147483648", "2147483648`: it is out of range"),
        ("INT", "3.5", "3.5`: it has a fraction"),
        ("INT", "1e100", "1e100`: it is out of range"),
        ("INT", "1e-1000000000000", "1e-1000000000000`: it has a fraction"),
        ("INT", "\"\"", "`"),
        ("INT", "\"1,000\"", "1,000`"),
        ("INT", "\"0x10\"", "0x10`"),
        ("INT", "true", "true`"),
        ("BIGINT", "9223372036854775808", "9223372036854775808`: it is out of range"),
        ("DOUBLE", "\"late\"", "late`"),
        ("DOUBLE", "1e400", "1e400`: it is out of range"),
        ("REAL", "1e39", "1e39`: it is out of range"),
        ("DOUBLE", "[1]", "[1]`"),
        ("DECIMAL(10,2)", "0.005", "0.005`: it has more digits after the point than the type keeps"),
        ("DECIMAL(3,2)", "10.00", "10.00`: it has more digits than the type keeps"),
        (
            "DECIMAL(38,0)",
            "170141183460469231731687303715884105728",
            "170141183460469231731687303715884105728`: it has more digits than the type keeps",
        ),
        ("BOOLEAN", "2", "2`"),
        ("BOOLEAN", "\"yes\"", "yes`"),
        ("DATE", "\"2023-02-29\"", "2023-02-29`"),
        ("DATE", "\"0000-01-01\"", "0000-01-01`: it is out of range"),
        ("DATE", "19000", "19000`: a number has no unit; send text like `2026-01-31T12:00:00Z`"),
        ("DATE", "\"2023-02-01T00:00:00\"", "2023-02-01T00:00:00`"),
        (
            "TIMESTAMP",
            "1700000000",
            "1700000000`: a number has no unit; send text like `2026-01-31T12:00:00Z`",
        ),
        (
            "TIMESTAMP",
            "\"2013-01-01T05:00:00.1234567Z\"",
            "2013-01-01T05:00:00.1234567Z`: it is finer than microseconds",
        ),
        ("TIMESTAMP", "\"2016-12-31T23:59:60Z\"", "2016-12-31T23:59:60Z`: it is a leap second"),
        ("TIMESTAMP", "\"9999-12-31T23:59:59-01:00\"", "9999-12-31T23:59:59-01:00`: it is out of range"),
        ("TIMESTAMP", "\"2013-01-01T24:00:00Z\"", "2013-01-01T24:00:00Z`"),
        ("TIMESTAMP", "\"2013-01-01T05:00:00 CET\"", "2013-01-01T05:00:00 CET`"),
        ("VARCHAR", "\"\\ud800\"", "\\ud800`: it has half of a surrogate pair"),
        ("BINARY", "\"A-8=\"", "A-8=`: it is not base64"),
        ("BINARY", "7", "7`: it is not base64"),
    ] {
        let column = Columns::parse(&format!("a {column_type}")).expect("a column").to_string();
        let expected = format!("column `a` takes {}, not `{why}", &column[2..]);
        assert_eq!(cell(column_type, json), expected, "{column_type} of {json}");
    }
}

/// The tables' own page: each JSON value in backticks that a type is said to take is taken, each that it is said not to
/// take is a dead letter.
#[test]
fn the_page_of_types_says_what_is_true() {
    let page = include_str!("../../../docs/types.md");
    let mut checked = 0;
    for line in page.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [types, takes, refuses] = cells.as_slice() else { panic!("three cells: {line}") };
        let first = types.split([',', ' ', '(']).next().expect("a type");
        let usual = match first {
            "type" => continue,
            "TINYINT" => "INT",
            "REAL" => "DOUBLE",
            "DECIMAL" => "DECIMAL(10,2)",
            other => other,
        };
        for (text, is_taken) in [(takes, true), (refuses, false)] {
            let parts: Vec<&str> = text.split('`').collect();
            for (value, after) in parts.iter().skip(1).step_by(2).zip(parts.iter().skip(2).step_by(2)) {
                if serde_json::from_str::<&serde_json::value::RawValue>(value).is_err() {
                    continue;
                }
                let named = after.strip_prefix(" for ").map(|name| name.trim_end_matches([',', ' ']));
                let column_type = named.filter(|name| !name.contains('=')).unwrap_or(usual);
                let decoded =
                    decode_values(&format_of(&format!("a {column_type}")), &[&format!("{{\"a\":{value}}}")]);
                assert_eq!(decoded.dead.is_none(), is_taken, "{column_type} of {value}");
                checked += 1;
            }
        }
    }
    assert!(checked > 40, "only {checked} values were found");
}

#[test]
fn times_without_a_zone_are_of_the_tables_zone_and_never_guessed() {
    let mut format = format_of("a TIMESTAMP");
    format.timezone = Some("Europe/Berlin".to_owned());
    assert_eq!(cell_in(&format, "\"2026-07-01 12:00:00\""), "2026-07-01T10:00:00Z");
    assert_eq!(cell_in(&format, "\"2026-07-01\""), "2026-06-30T22:00:00Z");
    assert_eq!(cell_in(&format, "\"2026-07-01 12:00:00Z\""), "2026-07-01T12:00:00Z");
    assert!(cell_in(&format, "\"2026-03-29 02:30:00\"").contains("skips this time"));
    assert!(cell_in(&format, "\"2026-10-25 02:30:00\"").contains("has this time twice"));
    format.timezone = Some("Mars/Olympus".to_owned());
    assert!(Decoder::new(&format).expect_err("no such zone").to_string().contains("Mars/Olympus"));
}

#[test]
fn system_columns_stand_first_and_rows_keep_their_order() {
    let decoded = decode_values(&format_of("a INT"), &["{\"a\":1}", "{\"a\":\"x\"}", "{\"a\":3}"]);
    assert_eq!(decoded.rows.schema(), format_of("a INT").schema());
    assert_eq!(shown(&decoded.rows, "_partition"), ["3", "3"]);
    assert_eq!(shown(&decoded.rows, "_offset"), ["0", "2"]);
    assert_eq!(shown(&decoded.rows, "_timestamp"), ["1970-01-01T00:00:01Z", "1970-01-01T00:00:01Z"]);
    assert_eq!(shown(&decoded.rows, "a"), ["1", "3"]);
    assert_eq!(shown(&decoded.dead.expect("one"), "_offset"), ["1"]);
}

#[test]
fn unknown_fields_are_kept_dropped_or_refused_as_configured() {
    let mut format = format_of("a INT");
    let values = [
        "{\"b\":1.50,\"a\":1,\"\\u0063\\\"\":[1, \"x\"]}",
        "{\"a\":2}",
        "{\"A\":3,\"_offset\":9}",
        "{\"z\":0,\"a\":\"x\"}",
        "{\"a\":5,\"y\":null}",
    ];
    let decoded = decode_values(&format, &values);
    let rest = ["{\"b\":1.50,\"c\\\"\":[1, \"x\"]}", "NULL", "{\"A\":3,\"_offset\":9}", "{\"y\":null}"];
    assert_eq!(shown(&decoded.rows, "_rest"), rest);
    assert_eq!(shown(&decoded.rows, "a"), ["1", "2", "NULL", "5"]);
    format.unknown_fields = UnknownFields::Drop;
    let decoded = decode_values(&format, &values);
    assert_eq!(decoded.rows.num_columns(), 4);
    assert_eq!(decoded.rows.num_rows(), 4);
    format.unknown_fields = UnknownFields::DeadLetter;
    let decoded = decode_values(&format, &values);
    assert_eq!(shown(&decoded.rows, "_offset"), ["1"]);
    let dead = decoded.dead.expect("four");
    assert_eq!(shown(&dead, "reason")[0], "field `b` is not a column of the table");
    assert_eq!(shown(&dead, "field"), ["b", "A", "z", "y"]);
}

#[test]
fn fields_may_come_in_any_order_and_be_left_out() {
    let values = [
        "{\"a\":1,\"b\":\"x\"}",
        "{\"b\":\"y\",\"a\":2}",
        "{}",
        "{\"b\":\"z\"}",
        "{\"c\":1,\"a\":4,\"b\":\"w\"}",
    ];
    let decoded = decode_values(&format_of("a INT, b VARCHAR"), &values);
    assert_eq!(shown(&decoded.rows, "a"), ["1", "2", "NULL", "NULL", "4"]);
    assert_eq!(shown(&decoded.rows, "b"), ["x", "y", "NULL", "z", "w"]);
}

#[test]
fn a_null_where_none_may_be_and_a_field_that_stands_twice_are_dead_letters() {
    let values = ["{\"a\":null}", "{}", "{\"a\":1,\"a\":2}", "{\"a\":1}"];
    let decoded = decode_values(&format_of("a INT NOT NULL"), &values);
    assert_eq!(shown(&decoded.rows, "_offset"), ["3"]);
    assert_eq!(
        shown(&decoded.dead.expect("three"), "reason"),
        [
            "column `a` is NOT NULL, and its value is null",
            "column `a` is NOT NULL, and its value is missing",
            "field `a` stands twice"
        ]
    );
}

#[test]
fn what_is_no_json_object_is_a_dead_letter_that_says_where() {
    let values = ["[1]", "{\"a\":1", "{\"a\":1}{", "{\"a\":01}", "", "{\"a\":tru}", "late", "\"x\""];
    let decoded = decode_values(&format_of("a INT"), &values);
    assert_eq!(decoded.rows.num_rows(), 0);
    let reasons = shown(&decoded.dead.expect("all"), "reason");
    assert_eq!(
        reasons[0],
        "the record is not a JSON object: invalid type: sequence, expected an object at byte 0"
    );
    assert_eq!(reasons[1], "the record is not valid JSON: EOF while parsing an object at byte 6");
    assert_eq!(reasons[2], "the record is not valid JSON: trailing characters at byte 8");
    assert_eq!(reasons[3], "the record is not valid JSON: invalid number at byte 7");
    assert_eq!(reasons[4], "the record is not a JSON object: EOF while parsing a value at byte 0");
    assert!(reasons[5].starts_with("the record is not valid JSON"), "{}", reasons[5]);
    assert!(reasons[6].starts_with("the record is not a JSON object"), "{}", reasons[6]);
}

#[test]
fn bad_utf8_tombstones_and_marked_records_are_dead_letters_with_all_that_came() {
    let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
    let mut marked = record(2, b"1,2");
    marked.key = Some(b"k".to_vec());
    marked.headers = vec![
        header("file", "flights.csv"),
        header("line", "17"),
        header("tarn.error", "line 17 has 2 fields, the header has 19"),
    ];
    let mut oversize = record(3, b"{\"a\":1}");
    oversize.headers = vec![header("tarn.oversize", "100000000")];
    let mut late = record(4, b"{\"a\":1}");
    late.timestamp_ms = i64::MAX;
    let mut cell = record(5, b"{\"a\":\"late\"}");
    cell.headers = vec![header("line", "18")];
    let records = vec![
        record(0, b"{\"a\":\xff}"),
        Sample { offset: 1, ..Sample::default() },
        marked,
        oversize,
        late,
        cell,
    ];
    let decoded = decode(&format_of("a INT"), records);
    assert_eq!(decoded.rows.num_rows(), 0);
    let dead = decoded.dead.expect("all");
    assert_eq!(dead.schema(), dead_letter_schema());
    assert_eq!(
        shown(&dead, "reason"),
        [
            "the record is not UTF-8: byte 6 is wrong",
            "the record has no value (a tombstone)",
            "flights.csv: line 17 has 2 fields, the header has 19",
            "the record has 100000000 bytes, more than `max_record_size`: only its head is kept",
            "the record's timestamp 9223372036854775807 ms lies beyond the years 1 to 9999",
            "line 18: column `a` takes INT, not `late`",
        ]
    );
    assert_eq!(dead.column_by_name("value").expect("values").as_binary::<i32>().value(0), b"{\"a\":\xff}");
    assert!(dead.column_by_name("value").expect("values").is_null(1));
    assert_eq!(dead.column_by_name("key").expect("keys").as_binary::<i32>().value(2), b"k");
    let headers = shown(&dead, "headers");
    assert_eq!(headers[1], "NULL");
    let second: serde_json::Value = serde_json::from_str(&headers[2]).expect("JSON");
    assert_eq!(second["line"], "17");
    assert_eq!(shown(&dead, "_timestamp")[4], "9999-12-31T23:59:59.999999Z");
}

#[test]
fn the_column_line_takes_the_text_as_it_is() {
    let decoded = decode_values(&format_of("line VARCHAR"), &["GET /", "{\"line\":1}", ""]);
    assert_eq!(shown(&decoded.rows, "line"), ["GET /", "{\"line\":1}", ""]);
    assert_eq!(shown(&decoded.rows, "_rest"), ["NULL", "NULL", "NULL"]);
    let decoded = decode(&format_of("line VARCHAR"), vec![record(0, b"\xff")]);
    assert_eq!(decoded.dead.expect("one").num_rows(), 1);
}

#[test]
fn offsets_settled_as_dead_yield_nothing() {
    let mut decoder = Decoder::new(&format_of("a INT")).expect("decoder");
    let records = vec![record(0, b"{\"a\":1}"), record(1, b"{\"a\":2}"), record(2, b"x")];
    let decoded = decoder.decode_each(0, records.into_iter(), &|offset| offset != 1).expect("decoded");
    assert_eq!(shown(&decoded.rows, "_offset"), ["1"]);
    assert!(decoded.dead.is_none());
}

#[test]
fn a_decode_leaves_nothing_for_the_next() {
    let mut decoder = Decoder::new(&format_of("a INT, b VARCHAR")).expect("decoder");
    let first =
        vec![record(0, b"{\"a\":1,\"b\":\"x\",\"c\":1}"), record(1, b"{\"b\":\"half\",\"c\":2,\"a\":\"x\"}")];
    decoder.decode_each(0, first.into_iter(), &|_| false).expect("decoded");
    let second =
        decoder.decode_each(1, vec![record(7, b"{\"b\":\"y\"}")].into_iter(), &|_| false).expect("decoded");
    assert_eq!(shown(&second.rows, "b"), ["y"]);
    assert_eq!(shown(&second.rows, "_rest"), ["NULL"]);
    assert!(second.dead.is_none());
    let none = decoder.decode_each(1, std::iter::empty::<Sample>(), &|_| false).expect("decoded");
    assert_eq!(none.rows.num_rows(), 0);
    assert_eq!(none.rows.schema(), format_of("a INT, b VARCHAR").schema());
}

/// A value of a type, as JSON and as it should be shown.
fn exact_value() -> impl Strategy<Value = (&'static str, String, String)> {
    let quoted = |text: &str| serde_json::to_string(text).expect("a JSON string");
    prop_oneof![
        any::<i64>().prop_map(|v| ("BIGINT", v.to_string(), v.to_string())),
        any::<i64>().prop_map(move |v| ("BIGINT", quoted(&v.to_string()), v.to_string())),
        any::<i32>().prop_map(|v| ("INT", format!("{v}.000"), v.to_string())),
        any::<i16>().prop_map(|v| ("SMALLINT", v.to_string(), v.to_string())),
        any::<i8>().prop_map(|v| ("TINYINT", v.to_string(), v.to_string())),
        any::<bool>().prop_map(|v| ("BOOLEAN", v.to_string(), v.to_string())),
        (-10_i128.pow(38) + 1..10_i128.pow(38)).prop_map(|v| {
            let text = format!(
                "{}{}.{:010}",
                if v < 0 { "-" } else { "" },
                v.abs() / 10_i128.pow(10),
                v.abs() % 10_i128.pow(10)
            );
            ("DECIMAL(38,10)", text.clone(), text)
        }),
        any::<String>().prop_map(move |v| ("VARCHAR", quoted(&v), v)),
    ]
}

proptest! {
    #[test]
    fn rows_through_json_are_the_same_rows(rows in prop::collection::vec(prop::option::of(exact_value()), 0..20)) {
        for row in rows.into_iter().flatten() {
            prop_assert_eq!(cell(row.0, &row.1), row.2);
        }
    }

    #[test]
    fn doubles_survive_json_bit_by_bit(v in any::<f64>(), small in any::<f32>()) {
        let text = |v: f64| if v.is_finite() { format!("{v:e}") } else { format!("\"{v}\"") };
        let decoded = decode_values(
            &format_of("a DOUBLE, b REAL"),
            &[&format!("{{\"a\":{},\"b\":{}}}", text(v), text(f64::from(small)))],
        );
        prop_assert_eq!(decoded.rows.num_rows(), 1);
        let a = decoded.rows.column(3).as_primitive::<arrow::datatypes::Float64Type>().value(0);
        let b = decoded.rows.column(4).as_primitive::<arrow::datatypes::Float32Type>().value(0);
        prop_assert!(a.to_bits() == v.to_bits() || a.is_nan() && v.is_nan());
        prop_assert!(b.to_bits() == small.to_bits() || b.is_nan() && small.is_nan());
    }

    #[test]
    fn timestamps_survive_rfc_3339(us in TIMESTAMPS_US) {
        let at = chrono::DateTime::from_timestamp_micros(us).expect("in range");
        let decoded = decode_values(&format_of("a TIMESTAMP"), &[&format!("{{\"a\":\"{}\"}}", at.to_rfc3339())]);
        prop_assert_eq!(decoded.rows.num_rows(), 1);
        prop_assert_eq!(decoded.rows.column(3).as_primitive::<TimestampMicrosecondType>().value(0), us);
    }

    #[test]
    fn escapes_are_undone_as_serde_json_does(inner in "([a-zä😀]|\\\\[\"\\\\/bfnrtux]|\\\\u[dD][89abcdABCD][0-9a-f]{2}|\\\\u[0-9a-f]{4}){0,8}") {
        let text = format!("\"{inner}\"");
        let expected = serde_json::from_str::<String>(&text).ok();
        prop_assert_eq!(values::unescaped(&inner).ok().map(|c| c.into_owned()), expected);
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_records_are_conserved(
        values in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            any::<String>().prop_map(String::into_bytes),
            "[{}\\[\\]\":,ab0-9.eE+ \\\\u-]{0,30}".prop_map(String::into_bytes),
            "\\{\"a\":(1|2.5|\"x\"|null|\\[\\]|\"\\\\u00e4\"),\"[a-d]\":(1|\"y\"|true|\\{\\})\\}".prop_map(String::into_bytes),
        ], 0..30),
        settled in any::<u64>(),
    ) {
        for columns in ["a INT, b VARCHAR NOT NULL, c DECIMAL(5,2)", "a TIMESTAMP, b BINARY, c BOOLEAN, d DOUBLE", "line VARCHAR"] {
            let format = format_of(columns);
            let mut decoder = Decoder::new(&format).expect("decoder");
            let records: Vec<Sample> = values.iter().enumerate().map(|(at, value)| record(at, value)).collect();
            let is_settled = |offset: Offset| settled >> offset & 1 == 1;
            let decoded = decoder.decode_each(0, records.into_iter(), &is_settled).expect("decoded");
            let offsets = |batch: &RecordBatch| batch.column_by_name("_offset").expect("offsets").as_primitive::<Int64Type>().values().to_vec();
            let mut all = offsets(&decoded.rows);
            all.extend(decoded.dead.iter().flat_map(offsets));
            all.extend((0..values.len()).map(|at| Offset::try_from(at).expect("small")).filter(|at| is_settled(*at)));
            all.sort_unstable();
            prop_assert_eq!(all, (0..values.len()).map(|at| Offset::try_from(at).expect("small")).collect::<Vec<_>>());
            prop_assert!(decoded.rows.column_by_name(TIMESTAMP).expect("timestamps").null_count() == 0);
        }
    }

    #[test]
    fn inference_takes_whatever_comes(values in prop::collection::vec("[{}\\[\\]\":,ab0-9.eE+ \\\\-]{0,30}", 0..20)) {
        let mut inference = infer::Inference::default();
        for (at, value) in values.iter().enumerate() {
            inference.see(&record(at, value.as_bytes()));
        }
        inference.columns();
    }
}

#[test]
fn key_headers_and_timestamp_are_columns_where_the_format_says_so() {
    let record_columns = tarn_model::RecordColumns {
        key: Some("k".to_owned()),
        headers: Some("h".to_owned()),
        timestamp: Some("at".to_owned()),
    };
    let columns = record_columns.added_to(Columns::parse("n INT").expect("columns")).expect("columns");
    let format = TableFormat { columns, record: record_columns.clone(), ..format_of("n INT") };
    let with = |offset, key: Option<&[u8]>, headers: &[(&str, &str)]| Sample {
        key: key.map(<[u8]>::to_vec),
        headers: headers.iter().map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec())).collect(),
        ..record(offset, b"{\"n\":1,\"k\":\"of the value\"}")
    };
    let samples = vec![
        with(0, Some(b"ada"), &[("a", "1"), ("a", "\"2")]),
        with(1, None, &[]),
        with(2, Some(&[0xff]), &[]),
        with(3, Some(b""), &[]),
    ];
    let decoded = decode(&format, samples.clone());
    assert_eq!(shown(&decoded.rows, "k"), ["ada", "NULL", ""]);
    assert_eq!(shown(&decoded.rows, "h"), [r#"{"a":"1","a":"\"2"}"#, "NULL", "NULL"]);
    assert_eq!(shown(&decoded.rows, "at"), vec!["1970-01-01T00:00:01Z"; 3]);
    assert_eq!(shown(&decoded.rows, "_rest"), vec![r#"{"k":"of the value"}"#; 3]);
    let dead = decoded.dead.expect("a dead letter");
    assert_eq!(
        (shown(&dead, "_offset"), shown(&dead, "field")),
        (vec!["2".to_owned()], vec!["k".to_owned()])
    );
    let columns =
        record_columns.added_to(Columns::parse("n INT, k BINARY").expect("columns")).expect("columns");
    let bytes = TableFormat { columns, record: record_columns, ..format_of("n INT") };
    let decoded = decode(&bytes, samples);
    assert!(decoded.dead.is_none(), "BINARY takes every key");
    assert_eq!(shown(&decoded.rows, "k"), ["616461", "NULL", "ff", ""]);
    let lines = tarn_model::RecordColumns { key: Some("k".to_owned()), ..Default::default() };
    let columns = lines.added_to(Columns::parse("line VARCHAR").expect("columns")).expect("columns");
    let format = TableFormat { columns, record: lines, ..format_of("n INT") };
    let decoded = decode(&format, vec![Sample { key: Some(b"x".to_vec()), ..record(0, b"plain") }]);
    assert_eq!(
        (shown(&decoded.rows, "line"), shown(&decoded.rows, "k")),
        (vec!["plain".to_owned()], vec!["x".to_owned()])
    );
}
