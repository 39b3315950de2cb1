use std::sync::Arc;

use ::parquet::arrow::ArrowWriter;
use ::parquet::basic::Compression;
use ::parquet::file::properties::WriterProperties;
use arrow::array::*;
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::datatypes::*;
use arrow_avro::writer::AvroWriter;

use super::cells::Cells;
use super::*;

/// The JSON of each row of one column `a`.
fn written(array: ArrayRef) -> Vec<Result<String, String>> {
    written_as(Field::new("a", array.data_type().clone(), true), array)
}

fn written_as(field: Field, array: ArrayRef) -> Vec<Result<String, String>> {
    let schema = Arc::new(Schema::new(vec![field]));
    let batch = RecordBatch::try_new(schema.clone(), vec![array]).unwrap();
    let cells = Cells::new(&batch, &schema).unwrap();
    let mut out = Vec::new();
    let row = |row| {
        let wrong = cells.write(row, &mut out);
        let text = String::from_utf8(out.clone()).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).expect(&text);
        wrong.map(|()| text[5..text.len() - 1].to_owned())
    };
    (0..batch.num_rows()).map(row).collect()
}

#[track_caller]
fn says(array: impl Array + 'static, texts: &[&str]) {
    let written: Vec<_> = written(Arc::new(array)).into_iter().map(Result::unwrap).collect();
    assert_eq!(written, texts);
}

#[test]
fn every_value_is_said_exactly() {
    says(BooleanArray::from(vec![Some(true), None, Some(false)]), &["true", "null", "false"]);
    says(Int8Array::from(vec![i8::MIN]), &["-128"]);
    says(Int64Array::from(vec![i64::MIN, i64::MAX]), &["-9223372036854775808", "9223372036854775807"]);
    says(UInt64Array::from(vec![u64::MAX]), &["18446744073709551615"]);
    says(Float32Array::from(vec![0.1, f32::MAX, -0.0]), &["0.1", "3.4028235e38", "-0.0"]);
    says(
        Float64Array::from(vec![0.1, 1e300, f64::NAN, f64::INFINITY, f64::NEG_INFINITY]),
        &["0.1", "1e300", "\"NaN\"", "\"Infinity\"", "\"-Infinity\""],
    );
    says(
        Decimal128Array::from(vec![1230, -5, 0]).with_precision_and_scale(10, 2).unwrap(),
        &["\"12.30\"", "\"-0.05\"", "\"0.00\""],
    );
    says(
        Decimal256Array::from(vec![i256::from_i128(12_345)]).with_precision_and_scale(60, 3).unwrap(),
        &["\"12.345\""],
    );
    says(StringArray::from(vec!["tab\t\"quoted\"", "grün"]), &[r#""tab\t\"quoted\"""#, "\"grün\""]);
    says(
        StringViewArray::from(vec!["a view that is longer than what lies inside"]),
        &["\"a view that is longer than what lies inside\""],
    );
    says(BinaryArray::from(vec![&[0, 255][..], b""]), &["\"AP8=\"", "\"\""]);
    says(Date32Array::from(vec![19_782, -1]), &["\"2024-02-29\"", "\"1969-12-31\""]);
    says(Date64Array::from(vec![19_782 * 86_400_000]), &["\"2024-02-29\""]);
    says(Time32SecondArray::from(vec![45_296]), &["\"12:34:56\""]);
    says(Time32MillisecondArray::from(vec![45_296_007]), &["\"12:34:56.007\""]);
    says(Time64NanosecondArray::from(vec![1]), &["\"00:00:00.000000001\""]);
    says(TimestampSecondArray::from(vec![0]), &["\"1970-01-01T00:00:00\""]);
    says(TimestampMillisecondArray::from(vec![-1]), &["\"1969-12-31T23:59:59.999\""]);
    says(
        TimestampMicrosecondArray::from(vec![1_709_208_000_000_250]).with_timezone("UTC"),
        &["\"2024-02-29T12:00:00.000250Z\""],
    );
    says(
        // The zone says how it was shown; the instant is counted in UTC.
        TimestampNanosecondArray::from(vec![1_709_208_000_000_000_001]).with_timezone("Europe/Berlin"),
        &["\"2024-02-29T12:00:00.000000001Z\""],
    );
    says(DurationMillisecondArray::from(vec![1500, -1, 0]), &["\"PT1.5S\"", "\"-PT0.001S\"", "\"PT0S\""]);
    says(
        IntervalMonthDayNanoArray::from(vec![IntervalMonthDayNano::new(1, -2, 500_000_000)]),
        &["\"P1M-2DT0.5S\""],
    );
    says(NullArray::new(1), &["null"]);
    let dictionary: DictionaryArray<Int32Type> =
        vec![Some("x"), None, Some("y"), Some("x")].into_iter().collect();
    says(dictionary, &["\"x\"", "null", "\"y\"", "\"x\""]);
}

#[test]
fn nested_values_are_lists_and_objects() {
    let lists = vec![Some(vec![Some(1), None]), None, Some(vec![])];
    says(ListArray::from_iter_primitive::<Int32Type, _, _>(lists.clone()), &["[1,null]", "null", "[]"]);
    says(LargeListArray::from_iter_primitive::<Int32Type, _, _>(lists).slice(1, 2), &["null", "[]"]);
    let pairs = FixedSizeListArray::from_iter_primitive::<Int32Type, _, _>(
        (0..3).map(|n| Some(vec![Some(n), Some(n + 10)])),
        2,
    );
    says(pairs.slice(1, 2), &["[1,11]", "[2,12]"]);
    let fields =
        Fields::from(vec![Field::new("x", DataType::Int32, true), Field::new("y \"", DataType::Utf8, true)]);
    let columns: Vec<ArrayRef> =
        vec![Arc::new(Int32Array::from(vec![1, 2])), Arc::new(StringArray::from(vec![Some("a"), None]))];
    let nulls = Some(NullBuffer::from(vec![true, true]));
    says(StructArray::new(fields, columns, nulls), &[r#"{"x":1,"y \"":"a"}"#, r#"{"x":2,"y \"":null}"#]);
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    map.keys().append_value("k");
    map.values().append_value(1);
    map.keys().append_value("l");
    map.values().append_null();
    map.append(true).unwrap();
    map.append(false).unwrap();
    says(map.finish(), &[r#"{"k":1,"l":null}"#, "null"]);
    let mut map = MapBuilder::new(None, Int32Builder::new(), StringBuilder::new());
    map.keys().append_value(7);
    map.values().append_value("seven");
    map.append(true).unwrap();
    says(map.finish(), &[r#"[{"key":7,"value":"seven"}]"#]);
    let union = UnionFields::try_new(
        vec![0, 5],
        vec![Field::new("int", DataType::Int32, true), Field::new("string", DataType::Utf8, true)],
    );
    let children: Vec<ArrayRef> =
        vec![Arc::new(Int32Array::from(vec![Some(1), None])), Arc::new(StringArray::from(vec!["two"]))];
    let ids = ScalarBuffer::from(vec![0_i8, 5, 0]);
    let offsets = Some(ScalarBuffer::from(vec![0, 0, 1]));
    says(UnionArray::try_new(union.unwrap(), ids, offsets, children).unwrap(), &["1", "\"two\"", "null"]);
}

#[test]
fn a_uuid_is_text_and_a_time_that_no_calendar_has_is_its_number_and_an_error() {
    let bytes = FixedSizeBinaryArray::try_from_iter(vec![[0x11_u8; 16]].into_iter()).unwrap();
    let plain = Field::new("a", DataType::FixedSizeBinary(16), true);
    let said = |field: Field| written_as(field, Arc::new(bytes.clone()))[0].clone().unwrap();
    assert_eq!(said(cells::as_uuid(plain.clone())), "\"11111111-1111-1111-1111-111111111111\"");
    assert_eq!(said(plain), format!("\"{}EQ==\"", "ERER".repeat(5)));
    let lost = written(Arc::new(TimestampSecondArray::from(vec![i64::MAX])));
    assert_eq!(lost, [Err(format!("the column `a` has a time that no calendar has: `{}`", i64::MAX))]);
}

/// Rows that tell their number.
fn batch(from: i64, count: i64) -> RecordBatch {
    let schema = Schema::new(vec![
        Field::new("n", DataType::Int64, false),
        Field::new("text", DataType::Utf8, true),
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())), false),
    ]);
    let numbers = Int64Array::from_iter_values(from..from + count);
    let texts: StringArray = (from..from + count)
        .map(|n| (n % 7 > 0).then(|| format!("row {n} of many, {}", n * 7919 % 1_000_003)))
        .collect();
    let times = TimestampMicrosecondArray::from_iter_values((from..from + count).map(|n| n * 1_000_001));
    let columns: Vec<ArrayRef> =
        vec![Arc::new(numbers), Arc::new(texts), Arc::new(times.with_timezone("+00:00"))];
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

/// A file of row groups, or blocks, of so many rows each.
fn file_of(format: FileFormat, groups: i64, rows: i64) -> Vec<u8> {
    let schema = batch(0, 1).schema();
    if format == FileFormat::Avro {
        let mut writer = AvroWriter::new(Vec::new(), (*schema).clone()).unwrap();
        (0..groups).for_each(|group| writer.write(&batch(group * rows, rows)).unwrap());
        writer.finish().unwrap();
        return writer.into_inner();
    }
    parquet_of(Compression::UNCOMPRESSED, groups, rows)
}

fn parquet_of(packing: Compression, groups: i64, rows: i64) -> Vec<u8> {
    let schema = batch(0, 1).schema();
    let properties = WriterProperties::builder()
        .set_compression(packing)
        .set_dictionary_enabled(false)
        .set_data_page_row_count_limit(50)
        .set_write_batch_size(50)
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties)).unwrap();
    for group in 0..groups {
        writer.write(&batch(group * rows, rows)).unwrap();
        writer.flush().unwrap();
    }
    writer.into_inner().unwrap()
}

/// The numbers of the rows behind the first `rows`, and how it ended.
fn read(format: FileFormat, bytes: &[u8], rows: u64) -> (Vec<i64>, Option<String>) {
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, bytes).unwrap();
    let bytes = FileBytes::new(file, None).unwrap();
    let mut numbers = Vec::new();
    let told = |trouble| match trouble {
        Trouble::Damage(what) => Some(what),
        Trouble::Disk(error) => panic!("{error}"),
    };
    let mut file = match open(format, bytes, rows) {
        Ok(file) => file,
        Err(trouble) => return (numbers, told(trouble)),
    };
    let schema = file.schema();
    let mut out = Vec::new();
    loop {
        match file.next() {
            Ok(Some(batch)) => {
                let cells = Cells::new(&batch, &schema).unwrap();
                for row in 0..batch.num_rows() {
                    cells.write(row, &mut out).unwrap();
                    let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
                    numbers.push(value["n"].as_i64().unwrap());
                }
            }
            Ok(None) => return (numbers, None),
            Err(trouble) => return (numbers, told(trouble)),
        }
    }
}

#[test]
fn a_file_is_read_on_at_any_row() {
    for format in [FileFormat::Avro, FileFormat::Parquet] {
        let file = file_of(format, 4, 300);
        for from in [0, 1, 299, 300, 301, 777, 1199, 1200, 5000] {
            let (numbers, damage) = read(format, &file, from);
            let wanted: Vec<i64> = (i64::try_from(from).unwrap()..1200).collect();
            assert!(numbers == wanted && damage.is_none(), "{format:?} from {from}: {damage:?}");
        }
    }
}

#[test]
fn pages_are_unpacked_whatever_they_are_packed_with() {
    let packings = [
        Compression::SNAPPY,
        Compression::ZSTD(Default::default()),
        Compression::GZIP(Default::default()),
        Compression::BROTLI(Default::default()),
        Compression::LZ4,
        Compression::LZ4_RAW,
    ];
    let plain = parquet_of(Compression::UNCOMPRESSED, 2, 3000).len();
    for packing in packings {
        let file = parquet_of(packing, 2, 3000);
        assert!(file.len() < plain, "{packing:?} packs nothing");
        let (numbers, damage) = read(FileFormat::Parquet, &file, 2500);
        assert!(numbers == (2500..6000).collect::<Vec<_>>() && damage.is_none(), "{packing:?}: {damage:?}");
    }
}

#[test]
fn what_is_no_such_file_or_breaks_off_says_so() {
    for format in [FileFormat::Avro, FileFormat::Parquet] {
        for bytes in [&b""[..], b"no", b"a text that is somewhat longer than a header"] {
            let (numbers, damage) = read(format, bytes, 0);
            assert!(numbers.is_empty() && damage.is_some(), "{format:?} {bytes:?}");
        }
    }
    let whole = file_of(FileFormat::Avro, 4, 300);
    for cut in [1, 17, 1000, whole.len() / 2] {
        let (numbers, damage) = read(FileFormat::Avro, &whole[..whole.len() - cut], 0);
        assert!(numbers.len() % 300 == 0 && numbers.len() < 1200, "{}", numbers.len());
        assert!(damage.unwrap().ends_with("breaks off"));
    }
}

#[test]
fn all_rows_before_a_damaged_place_are_given_and_the_place_is_told() {
    let avro = file_of(FileFormat::Avro, 4, 300);
    // In the middle of the third block a length that cannot be; at its end another marker.
    let text = b"row 701 of many";
    let at = avro.windows(text.len()).position(|part| part == text).unwrap();
    let mut damaged = avro.clone();
    damaged[at - 2..at].copy_from_slice(&[0xff, 0xff]);
    let (numbers, damage) = read(FileFormat::Avro, &damaged, 0);
    assert_eq!((numbers.len(), damage.is_some()), (701, true), "{damage:?}");
    assert_eq!(
        read(FileFormat::Avro, &damaged, 650),
        ((650..701).collect(), damage),
        "the same after a restart"
    );
    let sync = &avro[avro.len() - 16..];
    let ends: Vec<usize> = (0..avro.len() - 15).filter(|at| &avro[*at..at + 16] == sync).collect();
    assert_eq!(ends.len(), 5, "one behind the header, one behind each block");
    let mut damaged = avro.clone();
    damaged[ends[3]] ^= 1;
    let (numbers, damage) = read(FileFormat::Avro, &damaged, 0);
    assert_eq!(numbers.len(), 600);
    let place = format!("the block at byte {} does not end with the file's sync marker", ends[2] + 16);
    assert_eq!(damage, Some(place));

    let parquet = file_of(FileFormat::Parquet, 4, 300);
    // A page of the texts of rows 700 to 749, packed: its bytes are no packed ones any more.
    let text = b"row 701 of many";
    let at = parquet.windows(text.len()).position(|part| part == text).unwrap();
    let mut damaged = parquet.clone();
    damaged[at - 40..at + 400].fill(0xff);
    let (numbers, damage) = read(FileFormat::Parquet, &damaged, 0);
    let damage = damage.unwrap();
    assert!(damage.starts_with("row group 2 is damaged ("), "{damage}");
    assert!((650..=700).contains(&numbers.len()), "{}", numbers.len());
    assert_eq!(numbers, (0..i64::try_from(numbers.len()).unwrap()).collect::<Vec<_>>());
    let again = read(FileFormat::Parquet, &damaged, 620);
    assert_eq!((again.0.len() + 620, again.1), (numbers.len(), Some(damage)));
}

/// Whatever byte is wrong: it ends, nothing panics. The same bytes each time, for one that hurts is to be found here.
#[test]
fn a_file_with_a_wrong_byte_ends() {
    for format in [FileFormat::Avro, FileFormat::Parquet] {
        let file = file_of(format, 3, 60);
        for at in (0..file.len()).step_by(file.len() / 130) {
            for wrong in [!file[at], 0] {
                let mut file = file.clone();
                file[at] = wrong;
                let (rows, damage) = read_any(format, &file);
                assert!(rows <= 180 || damage.is_some(), "{format:?}, {wrong} at {at}: {rows} rows");
            }
        }
    }
}

/// How many rows a file of any content gives.
fn read_any(format: FileFormat, bytes: &[u8]) -> (usize, Option<String>) {
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, bytes).unwrap();
    let mut rows = 0;
    let mut file = match open(format, FileBytes::new(file, None).unwrap(), 0) {
        Ok(file) => file,
        Err(trouble) => return (rows, Some(format!("{trouble:?}"))),
    };
    let schema = file.schema();
    let mut out = Vec::new();
    while rows < 1_000_000 {
        match file.next() {
            Ok(Some(batch)) => match Cells::new(&batch, &schema) {
                Ok(cells) => {
                    (0..batch.num_rows()).for_each(|row| drop(cells.write(row, &mut out)));
                    rows += batch.num_rows();
                }
                Err(what) => return (rows, Some(what)),
            },
            Ok(None) => return (rows, None),
            Err(trouble) => return (rows, Some(format!("{trouble:?}"))),
        }
    }
    (rows, None)
}

#[test]
fn a_table_has_the_types_of_the_file() {
    let columns = columns_of(&batch(0, 1).schema()).unwrap();
    assert_eq!(columns.to_string(), "n BIGINT, text VARCHAR, at TIMESTAMP");
    let fields = [
        ("a", DataType::UInt64, "a DECIMAL(20,0)"),
        ("b", DataType::Decimal128(12, 2), "b DECIMAL(12,2)"),
        ("c", DataType::Decimal256(50, 2), "c VARCHAR"),
        ("d", DataType::new_list(DataType::Int32, true), "d VARCHAR"),
        ("e", DataType::UInt8, "e SMALLINT"),
        ("f", DataType::Time64(TimeUnit::Microsecond), "f VARCHAR"),
        ("g", DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)), "g VARCHAR"),
        ("h", DataType::FixedSizeBinary(3), "h BINARY"),
    ];
    for (name, data_type, text) in fields {
        let schema = Arc::new(Schema::new(vec![Field::new(name, data_type, false)]));
        assert_eq!(columns_of(&schema).unwrap().to_string(), text);
    }
    let odd = Arc::new(Schema::new(vec![Field::new("_offset", DataType::Int64, false)]));
    assert!(columns_of(&odd).is_none(), "a system column's name");
}
